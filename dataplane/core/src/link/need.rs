//! Which links a node can't do without, by the map.

use std::collections::BTreeSet;

use trunkline_wire::control::Roles;
use trunkline_wire::id::{NodeId, RegionId};
use trunkline_wire::map::Map;

/// The nodes that `me`, with `roles` and these [`partners`], needs a link to; never itself.
pub(super) fn required(map: &Map, me: NodeId, roles: Roles, partners: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
    let mut nodes = BTreeSet::new();
    for (region, _) in map.regions() {
        if roles.connection || roles.messaging || map.holds(region, me) {
            nodes.extend(map.holders(region));
        }
    }
    nodes.extend(partners);
    nodes.remove(&me);
    nodes
}

/// The holders of regions that devices move to or from, from or to one that `me` serves: what either side knows, the other has to be
/// able to ask for.
pub(crate) fn partners(map: &Map, me: NodeId) -> BTreeSet<NodeId> {
    let serves = |region: RegionId| map.holds(region, me);
    let mut nodes = BTreeSet::new();
    for (a, b) in map.moving_pairs() {
        for (here, there) in [(a, b), (b, a)] {
            if serves(here) {
                nodes.extend(map.holders(there));
            }
        }
    }
    nodes.remove(&me);
    nodes
}

/// Whether `node`, by the map, needs a link to `me`; [`partners`] need one as well.
pub(super) fn requires(map: &Map, node: NodeId, me: NodeId) -> bool {
    let Some(roles) = map.node(node).map(|node| node.roles) else {
        return false;
    };
    map.regions()
        .any(|(region, _)| map.holds(region, me) && (roles.connection || roles.messaging || map.holds(region, node)))
}
