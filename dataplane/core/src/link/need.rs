//! Which links a node can't do without, by the map.

use std::collections::BTreeSet;

use trunkline_wire::control::Roles;
use trunkline_wire::id::NodeId;
use trunkline_wire::map::Map;

/// The nodes that `me`, with `roles`, needs a link to; never itself.
pub(super) fn required(map: &Map, me: NodeId, roles: Roles) -> BTreeSet<NodeId> {
    let mut nodes = BTreeSet::new();
    for (_, region) in map.regions() {
        if roles.connection || roles.messaging || region.instances.contains(&me) {
            nodes.extend(region.instances.iter().copied());
        }
    }
    nodes.remove(&me);
    nodes
}

/// Whether `node`, by the map, needs a link to `me`.
pub(super) fn requires(map: &Map, node: NodeId, me: NodeId) -> bool {
    let Some(roles) = map.node(node).map(|node| node.roles) else {
        return false;
    };
    map.regions().any(|(_, region)| {
        region.instances.contains(&me) && (roles.connection || roles.messaging || region.instances.contains(&node))
    })
}
