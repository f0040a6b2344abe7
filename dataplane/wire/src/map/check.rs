//! What has to be true of every map but the empty one.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::slots::run_end;
use super::{Contents, MapError, Node, SLOTS};
use crate::id::{NodeId, RegionId};

/// The most nodes. Every connection server holds a link to every instance of its devices' regions, so that more would not work either.
pub const NODES_MAX: usize = 4096;
/// The most regions.
pub const REGIONS_MAX: usize = 4096;
/// The most instances of one region, standbys included. A session is registered at each of them.
pub const INSTANCES_MAX: usize = 16;
/// The most devices with an override: what a node can hold in tens of megabytes and check in a tenth of a second.
pub const OVERRIDES_MAX: usize = 1 << 20;
/// The longest name of a node or a region, in bytes.
pub const NAME_BYTES_MAX: usize = 64;

/// Checks sizes, names, addresses and every reference.
pub(super) fn contents(version: u64, contents: &Contents) -> Result<(), MapError> {
    if version == 0 {
        return Err(MapError::VersionZero);
    }
    if contents.regions.is_empty() {
        return Err(MapError::NoRegion);
    }
    at_most("nodes", contents.nodes.len(), NODES_MAX)?;
    at_most("regions", contents.regions.len(), REGIONS_MAX)?;
    at_most("overrides", contents.overrides.len(), OVERRIDES_MAX)?;
    nodes(contents)?;
    regions(contents)?;
    standbys(contents)?;
    slots(contents)?;
    overrides(contents)
}

fn nodes(contents: &Contents) -> Result<(), MapError> {
    let mut names = BTreeSet::new();
    for (&id, node) in &contents.nodes {
        if id == NodeId::NONE {
            return Err(MapError::NodeZero);
        }
        name("node", id.0, &node.name, &mut names)?;
        addresses(id, node)?;
    }
    Ok(())
}

fn addresses(node: NodeId, of: &Node) -> Result<(), MapError> {
    let roles = of.roles;
    if !(roles.connection || roles.messaging || roles.region) {
        return Err(MapError::NoRole(node));
    }
    for (port, address, needed) in [
        ("device", of.device_address, roles.connection || roles.messaging),
        ("peer", of.peer_address, roles.connection || roles.region),
        ("http", of.http_address, false),
    ] {
        match address {
            None if needed => return Err(MapError::NoAddress { node, port }),
            Some(address) if !can_be_dialled(address) => return Err(MapError::BadAddress { node, port }),
            None | Some(_) => {}
        }
    }
    Ok(())
}

/// Scope and flow have no place in the encoding, and no meaning on another host.
fn can_be_dialled(address: SocketAddr) -> bool {
    let plain = match address {
        SocketAddr::V4(_) => true,
        SocketAddr::V6(address) => address.scope_id() == 0 && address.flowinfo() == 0,
    };
    plain && address.port() != 0 && !address.ip().is_unspecified()
}

fn regions(contents: &Contents) -> Result<(), MapError> {
    let mut names = BTreeSet::new();
    for (&id, region) in &contents.regions {
        name("region", u32::from(id.0), &region.name, &mut names)?;
        at_most("instances in a region", region.instances.len(), INSTANCES_MAX)?;
        instances(contents, id, &region.instances)?;
    }
    Ok(())
}

/// Each is named once, here or among the instances.
fn standbys(contents: &Contents) -> Result<(), MapError> {
    for (&region, standbys) in &contents.standbys {
        let Some(of) = contents.regions.get(&region) else {
            return Err(MapError::StandbyRegion(region));
        };
        let all = of.instances.len() + standbys.len();
        at_most("instances in a region", all, INSTANCES_MAX)?;
        if standbys.is_empty() || standbys.iter().any(|node| of.instances.contains(node)) {
            return Err(MapError::StandbyTwice(region));
        }
        instances(contents, region, standbys)?;
    }
    Ok(())
}

fn instances(contents: &Contents, region: RegionId, nodes: &[NodeId]) -> Result<(), MapError> {
    if !nodes.is_sorted_by(|a, b| a < b) {
        return Err(MapError::InstanceOrder(region));
    }
    for &node in nodes {
        match contents.nodes.get(&node) {
            None => return Err(MapError::InstanceUnknown { region, node }),
            Some(found) if !found.roles.region => return Err(MapError::InstanceRole { region, node }),
            Some(_) => {}
        }
    }
    Ok(())
}

fn slots(contents: &Contents) -> Result<(), MapError> {
    let unknown = |slot, region| Err(MapError::SlotRegion { slot, region });
    // Neighbours mostly share a region: look each run up once.
    let mut start = 0;
    while start < SLOTS {
        let region = contents.slots[start];
        if !contents.regions.contains_key(&region) {
            return unknown(start as u16, region);
        }
        start = run_end(&contents.slots, start);
    }
    for (&slot, &region) in &contents.slots_also {
        if !contents.regions.contains_key(&region) {
            return unknown(slot, region);
        }
        if contents.slots[usize::from(slot)] == region {
            return Err(MapError::SlotAlso(slot));
        }
    }
    Ok(())
}

fn overrides(contents: &Contents) -> Result<(), MapError> {
    for (&device, &region) in contents.overrides.iter().chain(&contents.overrides_also) {
        if !contents.regions.contains_key(&region) {
            return Err(MapError::OverrideRegion { device, region });
        }
    }
    for (device, region) in &contents.overrides_also {
        if contents.overrides.get(device).is_none_or(|first| first == region) {
            return Err(MapError::OverrideAlso(*device));
        }
    }
    Ok(())
}

fn name<'a>(what: &'static str, id: u32, name: &'a str, seen: &mut BTreeSet<&'a str>) -> Result<(), MapError> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
        return Err(MapError::BadName { what, id });
    }
    if !seen.insert(name) {
        return Err(MapError::SameName { what, id });
    }
    Ok(())
}

pub(super) fn at_most(what: &'static str, count: usize, max: usize) -> Result<(), MapError> {
    if count > max {
        return Err(MapError::TooMany { what, count, max });
    }
    Ok(())
}
