//! Maps that tests share: a small one by hand, and arbitrary ones.
#![allow(dead_code)] // Each test file uses some of it.

pub mod frames;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;
use trunkline_wire::id::{DeviceKey, Incarnation, NodeId, RegionId};
use trunkline_wire::map::{Contents, INSTANCES_MAX, Map, Node, Region, Roles};

pub const LINEAGE: u64 = 0x1122_3344_5566_7788;

pub fn node(number: u16, roles: Roles) -> Node {
    let at = |port| Some(SocketAddr::from(([10, 0, (number >> 8) as u8, number as u8], port)));
    Node {
        name: format!("node-{number}"),
        incarnation: Incarnation(1),
        roles,
        device_address: (roles.connection || roles.messaging).then_some(at(7400)).flatten(),
        peer_address: at(7401),
        http_address: None,
    }
}

pub const CONNECTION: Roles = Roles {
    connection: true,
    messaging: false,
    region: false,
};
pub const REGION: Roles = Roles {
    connection: false,
    messaging: false,
    region: true,
};

/// Two regions with two instances each (nodes 1 to 4), three connection servers (5 to 7), the slots halved.
pub fn small() -> Contents {
    let mut contents = Contents::default();
    for number in 1..=7 {
        let roles = if number <= 4 { REGION } else { CONNECTION };
        contents.nodes.insert(NodeId(number.into()), node(number, roles));
    }
    for (id, name, instances) in [(1, "north", [1, 2]), (2, "south", [3, 4])] {
        let instances = instances.map(NodeId).to_vec();
        let name = name.to_owned();
        contents.regions.insert(RegionId(id), Region { name, instances });
    }
    contents.slots[..32_768].fill(RegionId(1));
    contents.slots[32_768..].fill(RegionId(2));
    contents
}

pub fn small_map(version: u64) -> Map {
    Map::build(LINEAGE, version, small()).unwrap()
}

pub fn address() -> impl Strategy<Value = SocketAddr> {
    let host = any::<IpAddr>().prop_filter("somebody's", |ip| !ip.is_unspecified());
    (host, 1u16..).prop_map(SocketAddr::from)
}

pub fn roles() -> impl Strategy<Value = Roles> {
    (1u8..8).prop_map(|bits| Roles {
        connection: bits & 1 != 0,
        messaging: bits & 2 != 0,
        region: bits & 4 != 0,
    })
}

fn any_node() -> impl Strategy<Value = Node> {
    let name = "[a-z]{1,8}";
    let addresses = (address(), address(), prop::option::of(address()));
    (name, any::<u64>(), roles(), addresses).prop_map(|(name, incarnation, roles, (device, peer, http))| Node {
        name,
        incarnation: Incarnation(incarnation),
        roles,
        device_address: (roles.connection || roles.messaging).then_some(device),
        peer_address: (roles.connection || roles.region).then_some(peer),
        http_address: http,
    })
}

/// Contents that hold: what is drawn is bent until every reference resolves.
pub fn contents() -> impl Strategy<Value = Contents> {
    let nodes = prop::collection::btree_map((1..50u32).prop_map(NodeId), any_node(), 0..8);
    let regions = prop::collection::btree_map((0..9u16).prop_map(RegionId), ("[a-z]{1,8}", any::<u64>()), 1..6);
    // Where a run starts, and which of the regions it has, by index.
    let runs = prop::collection::vec((any::<u16>(), any::<prop::sample::Index>()), 0..12);
    let key = prop_oneof![any::<u128>(), 0..20u128].prop_map(DeviceKey);
    let overrides =
        prop::collection::btree_map(key, (any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..12);
    let also = prop::collection::btree_map(any::<u16>(), any::<prop::sample::Index>(), 0..4);
    (nodes, regions, runs, overrides, also).prop_map(|(nodes, regions, runs, overrides, also)| {
        let ids: Vec<RegionId> = regions.keys().copied().collect();
        let mut contents = Contents {
            nodes: unique_names(nodes),
            ..Contents::default()
        };
        contents.slots.fill(ids[0]);
        for (start, region) in runs {
            contents.slots[usize::from(start)..].fill(*region.get(&ids));
        }
        contents.regions = with_instances(regions, &contents.nodes);
        for (id, region) in &mut contents.regions {
            // Every other region's last one comes, or goes.
            if id.0 % 2 == 1
                && let Some(standby) = region.instances.pop()
            {
                contents.standbys.insert(*id, vec![standby]);
            }
        }
        for (key, (region, second)) in overrides {
            let (region, second) = (*region.get(&ids), *second.get(&ids));
            contents.overrides.insert(key, region);
            if region != second {
                contents.overrides_also.insert(key, second);
            }
        }
        for (slot, region) in also {
            let region = *region.get(&ids);
            if contents.slots[usize::from(slot)] != region {
                contents.slots_also.insert(slot, region);
            }
        }
        contents
    })
}

fn unique_names(mut nodes: BTreeMap<NodeId, Node>) -> BTreeMap<NodeId, Node> {
    let mut seen = BTreeSet::new();
    for (id, node) in &mut nodes {
        if !seen.insert(node.name.clone()) {
            node.name = format!("again-{id}");
        }
    }
    nodes
}

fn with_instances(
    drawn: BTreeMap<RegionId, (String, u64)>,
    nodes: &BTreeMap<NodeId, Node>,
) -> BTreeMap<RegionId, Region> {
    let able = |mask: u64| {
        let mine = move |(bit, (&id, node)): (usize, (&NodeId, &Node))| {
            (node.roles.region && mask & 1 << bit != 0).then_some(id)
        };
        nodes.iter().enumerate().filter_map(mine).take(INSTANCES_MAX).collect()
    };
    let mut seen = BTreeSet::new();
    let named = |(id, (name, mask)): (RegionId, (String, u64))| {
        let name = if seen.insert(name.clone()) {
            name
        } else {
            format!("again-{id}")
        };
        let instances = able(mask);
        (id, Region { name, instances })
    };
    drawn.into_iter().map(named).collect()
}

/// Maps of any contents, of one lineage.
pub fn map(version: u64) -> impl Strategy<Value = Map> {
    contents().prop_map(move |contents| Map::build(LINEAGE, version, contents).unwrap())
}
