//! `/explain?device=ID`: where would a message to this device go, and why?

use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use trunkline_core::link::{LinkStatus, shard_of_node};
use trunkline_core::location::is_supposed;
use trunkline_core::router::Explanation;
use trunkline_wire::id::{Epoch, IdRef, NodeId, RegionId};
use trunkline_wire::map::Map;

use super::{ask, link_json};
use crate::mesh::Order;
use crate::run::{Shared, lock};

#[derive(Deserialize)]
pub(super) struct Question {
    device: String,
}

pub(super) async fn explain(State(shared): State<Arc<Shared>>, Query(question): Query<Question>) -> Response {
    let id = match IdRef::new(&question.device) {
        Ok(id) => id,
        Err(error) => return (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    };
    let device = shared.keys.device_key(id);
    let shards = shared.mailboxes.len() as u16;
    let owner = device.shard(shards);
    let mailbox = &shared.mailboxes[usize::from(owner.0)];
    let Some(found) = ask(mailbox, |reply| Order::Explain { device, reply }).await else {
        let text = format!("shard {} does not answer\n", owner.0);
        return (StatusCode::GATEWAY_TIMEOUT, text).into_response();
    };
    let map = Arc::clone(&lock(&shared.agent.map));
    // The links that matter: to the region's instances, and to where the device is said to be.
    let places = [found.location.map(|(epoch, _)| epoch), found.presence, found.superseded];
    let mut nodes: Vec<NodeId> = found.instances.iter().map(|(node, _)| *node).collect();
    nodes.extend(places.into_iter().flatten().map(|epoch| epoch.node));
    let mut links = Vec::new();
    for (index, mailbox) in shared.mailboxes.iter().enumerate() {
        if !nodes
            .iter()
            .any(|node| usize::from(shard_of_node(*node, shards).0) == index)
        {
            continue;
        }
        let known: Vec<LinkStatus> = ask(mailbox, |reply| Order::Links { reply }).await.unwrap_or_default();
        let wanted = known.iter().filter(|link| nodes.contains(&link.node));
        links.extend(wanted.map(|link| link_json(link, index, &map)));
    }
    Json(answer(&question.device, &shared, owner.0, &found, &map, links)).into_response()
}

fn answer(device: &str, shared: &Shared, shard: u16, found: &Explanation, map: &Map, links: Vec<Value>) -> Value {
    let name = |node: NodeId| map.node(node).map(|node| node.name.clone());
    let instances = found.instances.iter().map(|&(node, ready)| {
        let http = map.node(node).and_then(|node| node.http_address);
        json!({ "node": node.0, "name": name(node), "ready": ready, "this": node == shared.node, "http": http })
    });
    let last_way = found.last_way.as_ref().map(|(way, trail)| {
        let passed: Vec<u32> = trail.nodes().iter().map(|node| node.0).collect();
        json!({ "way": format!("{way:?}").to_lowercase(), "passed": passed })
    });
    let region = |id: RegionId| json!({ "id": id.0, "name": map.region(id).map(|region| region.name.clone()) });
    // Keys, not names: a node doesn't keep the names of those who aren't connected to it.
    let expected = found.expected.iter().map(|partner| {
        let (key, per_mille) = (partner.device.to_string(), partner.worth.to_per_mille());
        json!({ "key": key, "per_mille": per_mille, "from": partner.origin.name() })
    });
    json!({
        "device": device,
        "key": found.key.to_string(),
        "slot": found.key.slot(),
        "shard": shard,
        "node": shared.node.0,
        "map_version": found.map_version,
        "region": region(found.region),
        "region_also": found.region_also.map(region),
        "instances": instances.collect::<Vec<_>>(),
        "session": found.session.map(epoch),
        "superseded": found.superseded.map(epoch),
        "location": found.location.map(|(at, ready)| location(at, name(at.node), ready)),
        "presence": found.presence.map(epoch),
        "in_sync": found.in_sync,
        "remembered": found.kept,
        "last_way": last_way,
        "expected": expected.collect::<Vec<_>>(),
        "links": links,
    })
}

/// One that is only supposed has no epoch: which of the device's sessions is there, nobody has said.
fn location(at: Epoch, name: Option<String>, ready: bool) -> Value {
    let supposed = is_supposed(at);
    let epoch = (!supposed).then(|| epoch(at));
    json!({ "epoch": epoch, "node": at.node.0, "name": name, "ready": ready, "supposed": supposed })
}

fn epoch(epoch: Epoch) -> Value {
    json!({ "clock": epoch.clock, "node": epoch.node.0, "text": epoch.to_string() })
}

#[cfg(test)]
mod tests {
    use trunkline_core::location::Locations;
    use trunkline_wire::id::DeviceKey;

    use super::*;

    #[test]
    fn a_place_that_is_only_supposed_says_so_and_has_no_epoch() {
        let (mut locations, device, node) = (Locations::new(8), DeviceKey(1), NodeId(3));
        locations.suppose(device, node);
        let supposed = location(locations.peek(device).unwrap(), Some("edge-2".into()), true);
        assert_eq!(
            supposed,
            json!({ "epoch": null, "node": 3, "name": "edge-2", "ready": true, "supposed": true })
        );
        let clock = 1 << 16;
        let known = location(locations.learn(device, Epoch { clock, node }), None, false);
        assert_eq!(
            (&known["supposed"], &known["epoch"]["clock"]),
            (&json!(false), &json!(clock))
        );
    }
}
