//! Nodes over real sockets: joining, the map in whole and in parts, refusals.

mod support;

use std::time::{Duration, Instant};

use serde_json::json;
use support::{Heard, Node, Running, one_region, secret};
use trunkline_control::admin::{Admin, AdminError};
use trunkline_wire::auth::Secret;
use trunkline_wire::codec::Tail;
use trunkline_wire::common::Ping;
use trunkline_wire::control::{Admin as AdminFrame, MapAck, MapId};
use trunkline_wire::device::ErrorCode;
use trunkline_wire::frame::Encode;
use trunkline_wire::id::NodeId;
use trunkline_wire::preface::{Preface, Side};

#[test]
fn a_node_joins_and_is_given_the_map() {
    let data = tempfile::tempdir().unwrap();
    let control = Running::on_disk(data.path(), one_region());
    let mut node = Node::join(control.address, "r1", &["eu"]);
    assert_ne!(node.id, NodeId::NONE);
    let offered = node.take();
    assert_eq!((offered.base.version, offered.map.version), (0, 1));
    let (region, _) = node.map.regions().next().unwrap();
    assert_eq!(node.map.instances(region), [node.id]);
    node.renew(5);
    assert!(matches!(node.hear(), Heard::Renewed));
    let counters = control.stop();
    assert_eq!((counters.joins, counters.snapshots_sent, counters.map_acks), (1, 1, 1));
}

#[test]
fn a_change_comes_as_a_delta_to_what_was_acknowledged() {
    let data = tempfile::tempdir().unwrap();
    let control = Running::on_disk(data.path(), one_region());
    let mut first = Node::join(control.address, "r1", &["eu"]);
    let snapshot = first.take();
    let second = Node::join(control.address, "c1", &[]);
    let delta = first.take();
    assert_eq!(delta.base, snapshot.map);
    assert!(delta.bytes.len() < 200, "{} bytes for one node", delta.bytes.len());
    assert_eq!(first.map.node(second.id).unwrap().name, "c1");
}

#[test]
fn what_happens_during_a_transfer_folds_into_the_next_version() {
    let data = tempfile::tempdir().unwrap();
    let control = Running::on_disk(data.path(), one_region());
    let mut first = Node::join(control.address, "r1", &["eu"]);
    let offered = first.offered();
    let mut others: Vec<Node> = Vec::new();
    for name in ["c1", "c2", "c3"] {
        let mut node = Node::join(control.address, name, &[]);
        node.take_until(|map| map.nodes().count() == others.len() + 2);
        others.push(node);
    }
    // Nothing more comes before the answer; then all at once.
    assert!(first.hear_within(Duration::from_millis(300)).is_none());
    first.map = trunkline_wire::map::Map::decode(&offered.bytes, offered.map)
        .unwrap()
        .into();
    first.send(&MapAck { map: offered.map });
    first.take();
    assert_eq!(first.map.nodes().count(), 4);
}

#[test]
fn a_node_that_returns_resumes_from_its_version() {
    let data = tempfile::tempdir().unwrap();
    let control = Running::on_disk(data.path(), one_region());
    let mut keeper = Node::join(control.address, "r1", &["eu"]);
    keeper.take();
    let mut away = Node::join(control.address, "c1", &[]);
    away.take();
    keeper.take_until(|map| map.nodes().count() == 2);
    let mut newcomer = Node::join(control.address, "c2", &[]);
    newcomer.take_until(|map| map.nodes().count() == 3);
    let held = away.map.id();
    let mut back = away.rejoin(control.address, "c1", &[], 2);
    let delta = back.take();
    assert_eq!(delta.base, held);
    assert_eq!(back.id, away.id);
    assert_eq!(back.map.nodes().count(), 3);
    assert_eq!(back.map.node(back.id).unwrap().incarnation.0, 2);
}

#[test]
fn a_node_that_has_everything_is_sent_nothing() {
    let data = tempfile::tempdir().unwrap();
    let control = Running::on_disk(data.path(), one_region());
    let mut node = Node::join(control.address, "r1", &["eu"]);
    node.take();
    let mut back = node.rejoin(control.address, "r1", &["eu"], 1);
    assert!(back.hear_within(Duration::from_millis(300)).is_none());
}

#[test]
fn a_refused_delta_is_followed_by_all_of_the_map_and_a_refused_map_by_nothing() {
    let data = tempfile::tempdir().unwrap();
    let control = Running::on_disk(data.path(), one_region());
    let mut node = Node::join(control.address, "r1", &["eu"]);
    node.take();
    let mut other = Node::join(control.address, "c1", &[]);
    let delta = node.offered();
    assert_ne!(delta.base.version, 0);
    node.nack(delta.map, "the base does not fit");
    let snapshot = node.offered();
    assert_eq!((snapshot.base.version, snapshot.map), (0, delta.map));
    node.nack(snapshot.map, "the disk is full");
    assert!(node.hear_within(Duration::from_millis(300)).is_none());
    // It may change its mind, and gets later versions in any case.
    node.request_map();
    assert_eq!(node.offered().base.version, 0);
    other.take();
    drop(other);
    let counters = control.stop();
    assert_eq!(counters.map_nacks, 2);
}

#[test]
fn two_nodes_join_concurrently_and_see_each_other() {
    let data = tempfile::tempdir().unwrap();
    let control = Running::on_disk(data.path(), one_region());
    let address = control.address;
    let nodes = ["r1", "r2"].map(|name| {
        std::thread::spawn(move || {
            let mut node = Node::join(address, name, &["eu"]);
            node.take_until(|map| map.nodes().count() == 2);
            node
        })
    });
    let [a, b] = nodes.map(|node| node.join().unwrap());
    assert_ne!(a.id, b.id);
    assert_eq!(a.map.id(), b.map.id());
    let (region, _) = a.map.regions().next().unwrap();
    assert_eq!(a.map.instances(region).len(), 2);
}

#[test]
fn another_secret_is_refused_by_name() {
    let data = tempfile::tempdir().unwrap();
    let control = Running::on_disk(data.path(), one_region());
    let wrong = Secret::new(b"quite another secret").unwrap();
    let refused = Node::dial(control.address, &wrong, NodeId::NONE, 1).err().unwrap();
    assert!(refused.contains("the cluster secrets differ"), "{refused}");
    let error = Admin::connect(control.address, &wrong).unwrap_err();
    assert!(error.to_string().contains("the cluster secrets differ"), "{error}");
    assert_eq!(control.stop().secrets_refused, 2);
}

#[test]
fn what_is_not_the_protocol_is_told_so_and_closed_without_a_reset() {
    let data = tempfile::tempdir().unwrap();
    let control = Running::on_disk(data.path(), one_region());
    let preface = |side| Preface::new(side).encode().to_vec();
    let mut strange = Preface::new(Side::Control).encode();
    (strange[5], strange[6]) = (200, 201);
    let mut long = preface(Side::Control);
    long.extend_from_slice(&0x01_00_ff_ff_u32.to_le_bytes());
    let mut early = preface(Side::Control);
    early.extend_from_slice(&[0, 0, 0, 0x55]);
    let mut unknown = preface(Side::Control);
    unknown.extend_from_slice(&[0, 0, 0, 0x7f]);
    for (bytes, code) in [
        (
            b"GET / HTTP/1.1\r\nHost: example\r\n\r\n".to_vec(),
            ErrorCode::BadPreface,
        ),
        (preface(Side::Device), ErrorCode::BadPreface),
        (strange.to_vec(), ErrorCode::UnsupportedVersion),
        (long, ErrorCode::TooLong),
        (early, ErrorCode::OutOfTurn),
        (unknown, ErrorCode::Malformed),
    ] {
        let mut client = Node::raw(control.address, &bytes);
        match client.hear() {
            Heard::Failure(found, text) => assert_eq!(found, code, "{text}"),
            other => panic!("{other:?}"),
        }
        // It goes on talking for a while, as one does that has not read the failure yet.
        for token in 0..5 {
            client.send(&Ping { token });
            std::thread::sleep(Duration::from_millis(100));
        }
        assert!(client.is_closed_within(Duration::from_secs(3)));
    }
    // And it goes on.
    Node::join(control.address, "r1", &["eu"]).take();
}

#[test]
fn a_mute_connection_is_closed_at_the_deadline_of_its_hello() {
    let data = tempfile::tempdir().unwrap();
    let control = Running::on_disk(data.path(), one_region());
    let started = Instant::now();
    let mut mute = Node::raw(control.address, b"TR");
    match mute.hear() {
        Heard::Failure(code, _) => assert_eq!(code, ErrorCode::HelloTimeout),
        other => panic!("{other:?}"),
    }
    assert!((5..7).contains(&started.elapsed().as_secs()));
}

#[test]
fn a_frame_out_of_turn_closes_an_open_connection() {
    let data = tempfile::tempdir().unwrap();
    let control = Running::on_disk(data.path(), one_region());
    let mut node = Node::dial(control.address, &secret(), NodeId::NONE, 1).unwrap();
    node.send(&Ping { token: 9 });
    assert!(matches!(node.hear(), Heard::Pong(9)));
    node.renew(1);
    assert!(matches!(node.hear(), Heard::Failure(ErrorCode::OutOfTurn, _)));
}

#[test]
fn too_many_connections_are_refused_with_the_setting_named() {
    let data = tempfile::tempdir().unwrap();
    let mut config = one_region();
    config.connections_max = 1;
    let control = Running::on_disk(data.path(), config);
    let mut first = Node::join(control.address, "r1", &["eu"]);
    let mut second = Node::raw(control.address, b"");
    match second.hear() {
        Heard::Failure(_, text) => assert!(text.contains("connections_max"), "{text}"),
        other => panic!("{other:?}"),
    }
    first.renew(0);
    first.take();
}

#[test]
fn a_later_connection_of_a_node_takes_over() {
    let data = tempfile::tempdir().unwrap();
    let control = Running::on_disk(data.path(), one_region());
    let mut old = Node::join(control.address, "r1", &["eu"]);
    old.take();
    let _new = old.rejoin(control.address, "r1", &["eu"], 2);
    loop {
        match old.hear() {
            Heard::Failure(_, text) => break assert!(text.contains("another connection"), "{text}"),
            Heard::Offered(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_node_of_another_lineage_is_told_what_to_do() {
    let data = tempfile::tempdir().unwrap();
    let control = Running::on_disk(data.path(), one_region());
    let mut node = Node::dial(control.address, &secret(), NodeId(3), 1).unwrap();
    let foreign = MapId {
        lineage: 5,
        version: 7,
        digest: [1; 16],
    };
    let (code, text) = node.try_join("r1", &["eu"], foreign).unwrap_err();
    assert_eq!(code, ErrorCode::NotServed);
    assert!(
        text.contains("lineage") && text.contains("restore its backup") && text.len() < 255,
        "{text}"
    );
}

#[test]
fn a_restart_keeps_lineage_ids_and_version() {
    let data = tempfile::tempdir().unwrap();
    let control = Running::on_disk(data.path(), one_region());
    let mut region = Node::join(control.address, "r1", &["eu"]);
    region.take();
    let mut other = Node::join(control.address, "c1", &[]);
    other.take_until(|map| map.nodes().count() == 2);
    region.take_until(|map| map.nodes().count() == 2);
    control.stop();

    let control = Running::on_disk(data.path(), one_region());
    // One that has all of it is sent nothing; a new id is not one that was given before.
    let mut back = region.rejoin(control.address, "r1", &["eu"], 1);
    assert_eq!(back.id, region.id);
    assert!(back.hear_within(Duration::from_millis(200)).is_none());
    let mut third = Node::join(control.address, "c2", &[]);
    assert!(third.id > other.id);
    third.take();
    let delta = back.take();
    assert_eq!(delta.base, region.map.id());
    assert_eq!(delta.map.lineage, region.map.id().lineage);
    assert_eq!(delta.map.version, region.map.id().version + 1);
}

#[test]
fn operators_are_answered() {
    let data = tempfile::tempdir().unwrap();
    let control = Running::on_disk(data.path(), one_region());
    let mut admin = Admin::connect(control.address, &secret()).unwrap();
    let early = admin.request(&json!({ "op": "where", "device": "d" })).unwrap_err();
    assert!(matches!(early, AdminError::Refused(_)), "{early}");
    let mut node = Node::join(control.address, "r1", &["eu"]);
    node.take();
    let enrolled = admin.request(&json!({ "op": "enroll", "device": "d" })).unwrap();
    assert_eq!(enrolled["region"], "eu");
    let waited = enrolled["assigned_ms"].as_u64().unwrap() - enrolled["enrolled_ms"].as_u64().unwrap();
    assert!(waited <= 1000);
    // The answer came after the commit, and the node is told.
    let delta = node.take();
    assert_eq!(enrolled["version"], delta.map.version);
    assert_eq!(node.map.overrides(), 1);
    let place = admin.request(&json!({ "op": "where", "device": "d" })).unwrap();
    assert_eq!((&place["by"], &place["region"]), (&json!("enrolment"), &json!("eu")));
    assert_eq!(place["instances"][0]["node"], node.id.0);
    let status = admin.request_all(&json!({ "op": "status" }), "nodes").unwrap();
    assert_eq!(status["nodes"][0]["name"], "r1");
    assert_eq!(status["nodes"][0]["lease"], "live");
    let refused = admin.request(&json!({ "op": "dance" })).unwrap_err().to_string();
    assert!(!refused.contains('\n') && refused.contains("dance"), "{refused}");
}

#[test]
fn long_lists_come_in_pages() {
    let data = tempfile::tempdir().unwrap();
    let control = Running::on_disk(data.path(), one_region());
    let mut node = Node::join(control.address, "r1", &["eu"]);
    node.take();
    // Several tools at once, so that their requests share commits.
    let tools: Vec<_> = (0..16)
        .map(|tool| {
            let address = control.address;
            std::thread::spawn(move || {
                let mut admin = Admin::connect(address, &secret()).unwrap();
                for device in 0..40 {
                    let device = format!("device-{tool}-{device}-{}", "x".repeat(40));
                    admin.request(&json!({ "op": "enroll", "device": device })).unwrap();
                }
            })
        })
        .collect();
    tools.into_iter().for_each(|tool| tool.join().unwrap());
    let mut admin = Admin::connect(control.address, &secret()).unwrap();
    let page = admin.request(&json!({ "op": "map" })).unwrap();
    assert!(page["next"].is_string());
    let all = admin.request_all(&json!({ "op": "map" }), "devices").unwrap();
    assert_eq!(all["devices"].as_array().unwrap().len(), 640);
}

#[test]
fn whatever_a_proven_peer_sends_the_control_plane_goes_on() {
    let seed = 3;
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let data = tempfile::tempdir().unwrap();
    let control = Running::on_disk(data.path(), one_region());
    for _ in 0..150 {
        let mut node = Node::dial(control.address, &secret(), NodeId(random.u32(..4)), random.u64(..3)).unwrap();
        let mut bytes = Vec::new();
        for _ in 0..random.usize(1..6) {
            let body: Vec<u8> = match random.u8(0..3) {
                0 => (0..random.usize(0..80)).map(|_| random.u8(..)).collect(),
                1 => vec![0; random.usize(0..80)],
                _ => {
                    let mut json = 1u32.to_le_bytes().to_vec();
                    json.extend_from_slice(br#"{"op":"remove-node","node":1,"force":true}"#);
                    json
                }
            };
            let header = u32::from(random.u8(0x50..0x58)) << 24 | body.len() as u32;
            bytes.extend_from_slice(&header.to_le_bytes());
            bytes.extend_from_slice(&body);
        }
        node.send_bytes(&bytes);
        node.hear_within(Duration::from_millis(5));
    }
    Node::join(control.address, "r1", &["eu"]).take();
}

#[test]
fn a_tool_that_reads_nothing_is_closed_and_others_are_served() {
    let data = tempfile::tempdir().unwrap();
    let control = Running::on_disk(data.path(), one_region());
    let mut mute = Node::dial(control.address, &secret(), NodeId::NONE, 1).unwrap();
    let json = br#"{"op":"status"}"#;
    let request = AdminFrame {
        request: 1,
        json: Tail(json),
    }
    .to_vec();
    let many = request.repeat(200);
    let flood = std::thread::spawn(move || {
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(20) {
            if !mute.try_send_bytes(&many) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        false
    });
    let mut node = Node::join(control.address, "r1", &["eu"]);
    node.take();
    assert!(flood.join().unwrap(), "answers pile up that nobody reads");
    assert!(control.stop().connections_failed >= 1);
}

#[test]
fn a_drain_is_told_to_its_node_and_status_shows_it() {
    let data = tempfile::tempdir().unwrap();
    let control = Running::on_disk(data.path(), one_region());
    let mut instance = Node::join(control.address, "r1", &["eu"]);
    instance.take();
    let mut edge = Node::join(control.address, "c1", &[]);
    let mut admin = Admin::connect(control.address, &secret()).unwrap();
    let drain = json!({ "op": "drain", "node": "c1", "rate": 50 });
    let refused = |error: trunkline_control::admin::AdminError, says: &str| {
        assert!(error.to_string().contains(says), "{error}");
    };
    refused(admin.request(&drain).unwrap_err(), "the last one that takes devices");
    let _other = Node::join(control.address, "c2", &[]);
    let told = admin.request(&drain).unwrap();
    assert_eq!(told["draining"], true);
    let mut heard = edge.hear();
    while !matches!(heard, Heard::Drain(_)) {
        heard = edge.hear();
    }
    assert!(matches!(heard, Heard::Drain(drain) if drain.on && drain.rate == 50));
    edge.send(&trunkline_wire::control::Draining { on: true });
    let draining = |admin: &mut Admin| {
        let said = admin.request(&json!({ "op": "status" })).unwrap();
        let nodes = said["nodes"].as_array().unwrap().clone();
        nodes.into_iter().find(|node| node["name"] == "c1").unwrap()["draining"] == true
    };
    let end = std::time::Instant::now() + Duration::from_secs(10);
    while !draining(&mut admin) {
        assert!(std::time::Instant::now() < end, "not shown");
    }
    for (body, says) in [
        (json!({ "op": "drain", "node": "nobody" }), "there is no node `nobody`"),
        (json!({ "op": "drain", "node": "r1" }), "has no devices"),
        (json!({ "op": "drain", "node": "c1", "rate": 0 }), "at least 1"),
    ] {
        refused(admin.request(&body).unwrap_err(), says);
    }
    admin
        .request(&json!({ "op": "drain", "node": "c1", "undo": true }))
        .unwrap();
    while !matches!(edge.hear(), Heard::Drain(drain) if !drain.on) {}
}
