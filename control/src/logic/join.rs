//! Whether a node may be a member, and as what.
//!
//! Everything that the map's own checks ask for is asked for here, of the node by its name and setting: one wrong join must not keep
//! the next version from all others.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use tracing::{info, warn};
use trunkline_wire::control::Join;
use trunkline_wire::device::ErrorCode;
use trunkline_wire::handshake::Peer;
use trunkline_wire::id::{NodeId, RegionId};
use trunkline_wire::map::{INSTANCES_MAX, MapId, NODES_MAX, REGIONS_MAX};

use super::{ConnectionId, Logic, Now, Outbox, Role, Waiting, fail};
use crate::config::check_name;
use crate::membership::Lease;
use crate::state::{Change, Key, Node, Orders};

/// Nodes that are remembered: the members, and those that left and may come back under their id.
const NODES_KNOWN_MAX: usize = 4 * NODES_MAX;

/// The highest id that a node may bring along: ids are given one by one, so that only a damaged one is above.
const NODE_ID_MAX: u32 = u32::MAX / 2;

/// The weight of a region that a node names first.
const WEIGHT_DEFAULT: u32 = 1;

/// Why a node is refused, one line for its log.
type Refused = String;

impl Logic {
    pub(super) fn join(&mut self, now: Now, from: ConnectionId, peer: Peer, join: &Join<'_>, out: &mut Outbox) {
        match self.admit(now, peer, join) {
            Err(text) => {
                self.counters.joins_refused += 1;
                warn!(node = %peer.node, name = join.name.as_str(), text, "a join was refused");
                fail(out, from, ErrorCode::NotServed, text);
            }
            Ok((node, held)) => {
                self.leases.renew(now.at, node);
                let connection = self.connections.get_mut(&from).expect("it has sent a frame");
                connection.role = Role::Joining;
                #[cfg(feature = "next-version")]
                {
                    connection.build = join.build.said().map(|build| build.as_str().to_owned());
                }
                match &mut self.staged {
                    Some(staged) if staged.touched.contains(&Key::Node(node)) => staged.waiting.push(Waiting::Join {
                        connection: from,
                        node,
                        held,
                    }),
                    Some(_) | None => self.joined(now.at, from, node, held, out),
                }
            }
        }
    }

    /// Checks everything before anything is changed.
    fn admit(&mut self, now: Now, peer: Peer, join: &Join<'_>) -> Result<(NodeId, MapId), Refused> {
        let held = self.resume(join.map)?;
        let (id, evicted) = self.identify(now, peer, join)?;
        let known = self.state.nodes.get(&id);
        if let Some(known) = known.filter(|known| peer.incarnation < known.incarnation) {
            return Err(format!(
                "node {id} shows incarnation {}, and {} has been seen: its data directory is an old copy; \
                 remove it, so that the node gets a new id",
                peer.incarnation, known.incarnation
            ));
        }
        if known.is_none_or(|known| !known.member) && self.state.members().count() >= NODES_MAX {
            return Err(format!("the cluster has {NODES_MAX} nodes, and more are not possible"));
        }
        let name = match (join.name.as_str(), known) {
            ("", Some(known)) => known.name.clone(),
            ("", None) => format!("node-{id}"),
            (name, _) => name.to_owned(),
        };
        check_addresses(join)?;
        let named = self.check_regions(id, join)?;

        // From here on nothing is refused.
        if let Some(evicted) = evicted {
            self.leases.remove(evicted);
            self.end_turns(now, evicted);
            self.change(now.at, Change::Node(evicted, None));
            // They were said of the node of that name.
            let orders = self.state.orders.get(&evicted).cloned().unwrap_or_default();
            self.set_orders(now, evicted, Orders::default());
            self.set_orders(now, id, orders);
        }
        let (names, orders) = self.regions_ordered(id, &named);
        self.set_orders(now, id, orders);
        let regions = names.into_iter().map(|name| match self.state.region_named(&name) {
            Some(region) => region,
            None => self.add_region(now, name, WEIGHT_DEFAULT),
        });
        let regions: BTreeSet<RegionId> = regions.collect();
        let node = Node {
            name,
            incarnation: peer.incarnation,
            roles: join.roles,
            device_address: join.device_address,
            peer_address: join.peer_address,
            http_address: join.http_address,
            regions: self.regions_at_once(id, &regions),
            member: true,
        };
        self.admitted(now, id, node);
        self.let_come(now, id, &regions);
        Ok((id, held))
    }

    fn admitted(&mut self, now: Now, id: NodeId, node: Node) {
        if self.state.nodes.get(&id) == Some(&node) {
            return;
        }
        info!(node = %id, name = node.name, incarnation = %node.incarnation, "joins");
        self.change(now.at, Change::Node(id, Some(node)));
        if id.0 > self.state.node_highest {
            self.state.node_highest = id.0;
            self.stage(now.at).touched.insert(Key::Meta);
        }
        if self.state.nodes.len() > NODES_KNOWN_MAX {
            let departed = self
                .state
                .nodes
                .iter()
                .find(|(_, node)| !node.member)
                .map(|(id, _)| *id);
            departed
                .into_iter()
                .for_each(|id| self.change(now.at, Change::Node(id, None)));
        }
    }

    /// What the node has, if a difference to it can be made; the empty map's id if not.
    fn resume(&self, map: MapId) -> Result<MapId, Refused> {
        let current = self.publication.id();
        if map.version == 0 {
            return Ok(MapId::default());
        }
        if map.lineage != self.state.lineage {
            return Err(format!(
                "the node's map is of lineage {:016x}, this control plane's of {:016x}: check the address; \
                 if the store was lost, restore its backup, or remove the map from the node's data directory",
                map.lineage, self.state.lineage
            ));
        }
        if map.version > current.version || map.version == current.version && map != current {
            return Err(format!(
                "the node has version {} of the map, which this control plane, at {}, never published: it runs on an \
                 old copy of the store; restore with: trunkline control restore",
                map.version, current.version
            ));
        }
        let useful = map == current || self.history.reaches(map);
        Ok(if useful { map } else { MapId::default() })
    }

    /// The id that the node has, or is to have; and the node that has to be forgotten for it, since the name is taken over.
    fn identify(&self, now: Now, peer: Peer, join: &Join<'_>) -> Result<(NodeId, Option<NodeId>), Refused> {
        if peer.node.0 > NODE_ID_MAX {
            return Err(format!(
                "node id {} was never given; remove the node's data directory",
                peer.node
            ));
        }
        let id = match peer.node {
            NodeId::NONE => NodeId(self.state.node_highest + 1),
            node => node,
        };
        let mut name = join.name.as_str();
        let made = format!("node-{id}");
        if name.is_empty() {
            if self.state.nodes.contains_key(&id) {
                return Ok((id, None));
            }
            name = &made;
        }
        check_name(name).map_err(|reason| format!("the node {reason} (setting `name`)"))?;
        let Some(holder) = self.state.node_named(name).filter(|holder| *holder != id) else {
            return Ok((id, None));
        };
        let record = &self.state.nodes[&holder];
        if !record.member {
            return Ok((id, Some(holder)));
        }
        let same_place = record.device_address == join.device_address && record.peer_address == join.peer_address;
        if peer.node == NodeId::NONE && same_place && !self.online.contains_key(&holder) {
            // It listens where the holder did, so that it replaces it: either the holder's answer to its join was lost, or its
            // data directory. In the latter case its incarnations start again, and must not look older than they are.
            return if peer.incarnation >= record.incarnation {
                Ok((holder, None))
            } else {
                Ok((id, Some(holder)))
            };
        }
        let how = match self.leases.of(now.at, holder) {
            Lease::Live => "is alive: give this node another name (setting `name`)",
            Lease::Lapsed => "is silent: remove it (remove-node), or give this node its data directory",
        };
        Err(format!("the name `{name}` belongs to node {holder}, which {how}"))
    }

    fn check_regions<'a>(&self, id: NodeId, join: &Join<'a>) -> Result<BTreeSet<&'a str>, Refused> {
        let names: BTreeSet<&str> = join.regions.iter().collect();
        if join.roles.region == names.is_empty() {
            let what = if join.roles.region {
                "no region"
            } else {
                "regions, but not the role"
            };
            return Err(format!(
                "the node names {what}: the role `region` goes with the setting `regions`"
            ));
        }
        let mut new = 0;
        for name in &names {
            check_name(name).map_err(|reason| format!("a region {reason} (setting `regions`)"))?;
            match self.state.region_named(name) {
                None => new += 1,
                Some(region) => {
                    let holders = self.state.instances(region).chain(self.state.arriving(region));
                    let others: BTreeSet<NodeId> = holders.filter(|holder| *holder != id).collect();
                    let others = others.len();
                    if others >= INSTANCES_MAX {
                        return Err(format!(
                            "the region `{name}` has {INSTANCES_MAX} instances, and more are not possible"
                        ));
                    }
                }
            }
        }
        if self.state.regions.len() + new > REGIONS_MAX {
            return Err(format!(
                "the cluster has {REGIONS_MAX} regions, and more are not possible"
            ));
        }
        Ok(names)
    }
}

/// As the map asks for them.
fn check_addresses(join: &Join<'_>) -> Result<(), Refused> {
    let roles = join.roles;
    for (setting, address, needed) in [
        (
            "device_address",
            join.device_address,
            roles.connection || roles.messaging,
        ),
        ("peer_address", join.peer_address, roles.connection || roles.region),
        ("http_address", join.http_address, false),
    ] {
        match address {
            None if needed => return Err(format!("the node names no `{setting}`, which its roles need")),
            Some(address) if !can_be_dialled(address) => {
                return Err(format!(
                    "nobody can dial {address}: advertise another (setting `{setting}`)"
                ));
            }
            None | Some(_) => {}
        }
    }
    Ok(())
}

fn can_be_dialled(address: SocketAddr) -> bool {
    address.port() != 0 && !address.ip().is_unspecified()
}
