//! The decisions of the control plane in virtual time: no sockets, no disk.

mod world;

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use trunkline_control::config::{BATCH, Config, SETTLE};
use trunkline_control::history::History;
use trunkline_control::logic::{Effect, Input, Outbox};
use trunkline_control::membership::{GRACE, LEASE};
use trunkline_control::state::State;
use trunkline_control::store::Store;
use trunkline_wire::codec::{Tail, Text};
use trunkline_wire::control::{Admin, Join, Leave, MapId, Names, NodeFrame, Roles};
use trunkline_wire::id::NodeId;
use world::{World, initially, slots_of};

#[test]
fn the_slots_wait_for_the_first_regions_to_settle() {
    let mut world = World::new(Config::default());
    let first = world.join("r1", &["eu"]);
    world.pass(SETTLE / 2);
    assert_eq!(world.logic.version(), 0);
    world.join("r2", &["us"]);
    world.pass(SETTLE);
    let map = world.map(first);
    assert_eq!((slots_of(map, "eu"), slots_of(map, "us")), (32_768, 32_768));
}

#[test]
fn named_initial_regions_are_waited_for_and_weighed() {
    let mut world = World::new(initially(&[("eu", 1), ("us", 3)]));
    let first = world.join("r1", &["eu"]);
    world.join("r0", &["elsewhere"]);
    world.pass(Duration::from_secs(60));
    assert_eq!(world.logic.version(), 0);
    world.join("r2", &["us"]);
    world.pass(BATCH);
    let map = world.map(first);
    assert_eq!(
        (slots_of(map, "eu"), slots_of(map, "us"), slots_of(map, "elsewhere")),
        (16_384, 49_152, 0)
    );
}

#[test]
fn a_later_region_gets_slots_by_rebalance_only_and_no_others_move() {
    let mut world = World::new(initially(&[("eu", 1)]));
    let first = world.join("r1", &["eu"]);
    world.join("r2", &["us"]);
    world.pass(Duration::from_secs(30));
    assert_eq!(slots_of(world.map(first), "us"), 0);
    world
        .ask(first, json!({ "op": "region", "name": "us", "weight": 3 }))
        .unwrap();
    assert_eq!(slots_of(world.map(first), "us"), 0);
    let done = world.ask(first, json!({ "op": "rebalance" })).unwrap();
    assert_eq!(done["moved"], 49_152);
    assert_eq!(done["version"], world.map(first).id().version);
    world.pass(4 * BATCH);
    assert_eq!(slots_of(world.map(first), "us"), 49_152);
    assert_eq!(world.ask(first, json!({ "op": "rebalance" })).unwrap()["moved"], 0);
}

#[test]
fn a_silent_node_lapses_then_leaves_the_map_and_keeps_its_id() {
    let mut world = World::new(initially(&[("eu", 1)]));
    let (stays, goes) = (world.join("r1", &["eu"]), world.join("c1", &[]));
    let id = world.id(goes);
    world.kill(goes);
    world.pass(LEASE + Duration::from_secs(1));
    let status = world.ask(stays, json!({ "op": "status" })).unwrap();
    assert_eq!(status["nodes"][1]["lease"], "lapsed");
    assert!(
        world.map(stays).node(id).is_some(),
        "a lease alone takes nobody out of the map"
    );
    world.pass(GRACE);
    assert!(world.map(stays).node(id).is_none());
    assert_eq!(world.logic.counters.expiries, 1);
    let back = world.join_as(id, 2, "c1", &[], 2000);
    assert_eq!(world.id(back), id);
    assert!(world.map(stays).node(id).is_some());
}

#[test]
fn a_node_that_renews_is_never_expired() {
    let mut world = World::new(initially(&[("eu", 1)]));
    world.join("r1", &["eu"]);
    world.join("c1", &[]);
    let version = world.logic.version();
    world.pass(Duration::from_secs(3600));
    assert_eq!((world.members(), world.logic.version()), (2, version));
}

#[test]
fn a_leave_takes_effect_at_once() {
    let mut world = World::new(initially(&[("eu", 1)]));
    let (stays, goes) = (world.join("r1", &["eu"]), world.join("c1", &[]));
    let id = world.id(goes);
    world.frame(goes, NodeFrame::Leave(Leave {}));
    world.pass(BATCH);
    assert!(world.map(stays).node(id).is_none());
    let back = world.join_as(id, 2, "c1", &[], 2000);
    assert_eq!(world.id(back), id);
}

#[test]
fn the_last_instance_of_a_region_is_not_removed() {
    let mut world = World::new(initially(&[("eu", 1)]));
    let (first, second) = (world.join("r1", &["eu"]), world.join("r2", &["eu"]));
    let watcher = world.join("c1", &[]);
    let (id1, id2) = (world.id(first), world.id(second));
    world.frame(second, NodeFrame::Leave(Leave {}));
    world.pass(BATCH);
    world.kill(first);
    world.pass(Duration::from_secs(600));
    let region = world.map(watcher).regions().next().unwrap().0;
    assert_eq!(
        world.map(watcher).instances(region),
        [id1],
        "silent for minutes, and still there"
    );
    // Once another is there, it goes.
    world.join_as(id2, 2, "r2", &["eu"], 2000);
    world.pass(Duration::from_secs(2));
    assert_eq!(world.map(watcher).instances(region), [id2]);
}

#[test]
fn of_the_last_instances_that_fall_silent_or_leave_together_one_stays() {
    let mut world = World::new(initially(&[("eu", 1)]));
    let instances = [world.join("r1", &["eu"]), world.join("r2", &["eu"])];
    let others: Vec<_> = (0..18).map(|n| world.join(&format!("c{n}"), &[])).collect();
    let region = world.map(others[0]).regions().next().unwrap().0;
    // Two of twenty may go by themselves, but not both of these.
    instances.into_iter().for_each(|instance| world.kill(instance));
    world.pass(Duration::from_secs(300));
    assert_eq!(world.map(others[0]).instances(region).len(), 1);
    let stayed = world.map(others[0]).instances(region)[0];
    let back = world.join_as(stayed, 2, "r", &["eu"], 5000);
    world.frame(back, NodeFrame::Leave(Leave {}));
    world.pass(BATCH);
    assert_eq!(world.map(others[0]).instances(region), [stayed]);
}

#[test]
fn when_many_nodes_fall_silent_none_is_removed_without_force() {
    let mut world = World::new(initially(&[("eu", 1)]));
    let tool = world.join("r1", &["eu"]);
    let nodes: Vec<_> = (0..9).map(|n| world.join(&format!("c{n}"), &[])).collect();
    for node in &nodes[..3] {
        world.kill(*node);
    }
    world.pass(Duration::from_secs(300));
    assert_eq!(world.members(), 10);
    let status = world.ask(tool, json!({ "op": "status" })).unwrap();
    assert_eq!(status["held"].as_array().unwrap().len(), 3);
    // One of ten may go; the next one needs force, or patience.
    world.ask(tool, json!({ "op": "remove-node", "node": "c0" })).unwrap();
    let refused = world
        .ask(tool, json!({ "op": "remove-node", "node": "c1" }))
        .unwrap_err();
    assert!(refused.contains("10 %") && refused.contains("--force"), "{refused}");
    world
        .ask(tool, json!({ "op": "remove-node", "node": "c1", "force": true }))
        .unwrap();
    world.pass(GRACE + Duration::from_secs(10));
    assert_eq!(world.members(), 7, "the third goes by itself when it is the only one");
}

#[test]
fn a_live_node_and_a_last_instance_are_removed_by_force_only() {
    let mut world = World::new(initially(&[("eu", 1)]));
    let (region, node) = (world.join("r1", &["eu"]), world.join("c1", &[]));
    let refused = world
        .ask(region, json!({ "op": "remove-node", "node": "c1" }))
        .unwrap_err();
    assert!(refused.contains("alive"), "{refused}");
    world.kill(region);
    world.pass(LEASE);
    let refused = world
        .ask(node, json!({ "op": "remove-node", "node": "r1" }))
        .unwrap_err();
    assert!(refused.contains("last instance of region `eu`"), "{refused}");
    let id = world.id(node).0;
    let tool = world.open(NodeId::NONE, 0);
    let by_force = json!({ "op": "remove-node", "node": id, "force": true });
    world.ask(tool, by_force).unwrap();
    let told = world.nodes[&node].failure.as_ref().unwrap();
    assert!(told.contains("removed by an operator"), "{told}");
    assert_eq!(world.members(), 1);
}

#[test]
fn a_restarted_control_plane_expires_nobody_for_its_absence() {
    let mut world = World::new(initially(&[("eu", 1)]));
    world.join("r1", &["eu"]);
    let node = world.join("c1", &[]);
    let id = world.id(node);
    let version = world.logic.version();
    world.at = world.at + Duration::from_secs(3600);
    world.restart();
    assert_eq!(world.logic.version(), version);
    world.pass(LEASE + GRACE - Duration::from_secs(1));
    assert_eq!(world.members(), 2);
    let back = world.join_as(id, 2, "c1", &[], 2000);
    assert_eq!(world.id(back), id);
}

#[test]
fn an_incarnation_never_goes_back() {
    let mut world = World::new(initially(&[("eu", 1)]));
    world.join("r1", &["eu"]);
    let node = world.join_as(NodeId::NONE, 5, "c1", &[], 2000);
    let id = world.id(node);
    let old = world.join_as(id, 4, "c1", &[], 2000);
    assert!(world.nodes[&old].failure.as_ref().unwrap().contains("incarnation 4"));
    assert!(world.nodes[&node].failure.is_none(), "the newer one is not disturbed");
}

#[test]
fn names_are_unique_and_made_where_there_is_none() {
    let mut world = World::new(initially(&[("eu", 1)]));
    let first = world.join("r1", &["eu"]);
    let nameless = world.join("", &[]);
    let id = world.id(nameless);
    assert_eq!(world.map(first).node(id).unwrap().name, format!("node-{id}"));
    let second = world.join("r1", &["eu"]);
    assert!(
        world.nodes[&second]
            .failure
            .as_ref()
            .unwrap()
            .contains("setting `name`")
    );
}

#[test]
fn a_node_whose_answer_was_lost_is_known_by_name_and_place() {
    let mut world = World::new(initially(&[("eu", 1)]));
    world.join("r1", &["eu"]);
    let first = world.join_as(NodeId::NONE, 3, "c1", &[], 2000);
    let id = world.id(first);
    world.kill(first);
    let again = world.join_as(NodeId::NONE, 4, "c1", &[], 2000);
    assert_eq!(world.id(again), id);
    // One that lost its data directory starts to count anew: it's another node at the same place.
    world.kill(again);
    let fresh = world.join_as(NodeId::NONE, 1, "c1", &[], 2000);
    assert!(world.id(fresh) > id);
    assert_eq!(world.members(), 2);
}

#[test]
fn a_wrong_join_is_refused_by_its_setting_and_changes_nothing() {
    let mut world = World::new(initially(&[("eu", 1)]));
    world.join("r1", &["eu"]);
    let version = world.logic.version();
    for (name, regions, address, part) in [
        ("a\nb", &[][..], "127.0.0.1:1", "setting `name`"),
        ("c1", &["b\tad"], "127.0.0.1:1", "setting `regions`"),
        ("c1", &[], "0.0.0.0:1", "setting `device_address`"),
        ("c1", &[], "127.0.0.1:0", "setting `device_address`"),
    ] {
        let connection = world.open(NodeId::NONE, 1);
        let mut space = Vec::new();
        let join = Join {
            name: Text::clipped(name),
            roles: Roles {
                connection: true,
                messaging: false,
                region: !regions.is_empty(),
            },
            device_address: Some(address.parse().unwrap()),
            peer_address: Some("127.0.0.1:2".parse().unwrap()),
            http_address: None,
            map: MapId::default(),
            regions: Names::new(regions.iter().copied(), &mut space).unwrap(),
            #[cfg(feature = "next-version")]
            build: trunkline_wire::codec::Newer::new(trunkline_wire::next::VERSION, Text::clipped("a build")),
        };
        world.frame(connection, NodeFrame::Join(join));
        let text = world.nodes[&connection].failure.clone().unwrap();
        assert!(text.contains(part), "{text}");
    }
    world.pass(Duration::from_secs(1));
    assert_eq!((world.members(), world.logic.version()), (1, version));
}

#[test]
fn a_device_is_assigned_within_the_interval_before_its_first_connect() {
    for (min_ms, max_ms) in [(0, 1000), (2000, 2500), (60_000, 120_000)] {
        let mut config = initially(&[("eu", 1), ("us", 1)]);
        config.initial_interval.min = Duration::from_millis(min_ms);
        config.initial_interval.max = Duration::from_millis(max_ms);
        let mut world = World::new(config);
        let node = world.join("r1", &["eu"]);
        world.join("r2", &["us"]);
        let enrolled_at = world.at;
        let enrolled = world
            .ask(node, json!({ "op": "enroll", "device": "d", "region": "us" }))
            .unwrap();
        assert_eq!(enrolled["region"].is_null(), min_ms > 0, "not before the interval");
        while world.map(node).overrides() == 0 {
            world.pass(Duration::from_millis(10));
        }
        // It's published by then, not only decided.
        let published = (world.at - enrolled_at).as_millis() as u64;
        let dump = world.ask(node, json!({ "op": "map" })).unwrap();
        let device = &dump["devices"][0];
        let waited = device["assigned_ms"].as_u64().unwrap() - device["enrolled_ms"].as_u64().unwrap();
        assert!(
            (min_ms..=max_ms).contains(&waited) && published <= max_ms,
            "{waited} ms, published after {published} ms"
        );
        assert_eq!((&device["device"], &device["region"]), (&json!("d"), &json!("us")));
    }
}

#[test]
fn an_enrolment_survives_a_restart_within_its_interval() {
    let mut config = initially(&[("eu", 1)]);
    config.initial_interval.min = Duration::from_secs(10);
    config.initial_interval.max = Duration::from_secs(11);
    let mut world = World::new(config);
    let node = world.join("r1", &["eu"]);
    world.ask(node, json!({ "op": "enroll", "device": "d" })).unwrap();
    world.pass(Duration::from_secs(4));
    world.restart();
    world.pass(Duration::from_secs(5));
    assert_eq!(world.logic.counters.assignments, 0);
    world.pass(Duration::from_secs(2));
    assert_eq!(
        (world.logic.counters.assignments, world.logic.counters.assignments_late),
        (1, 0)
    );
}

#[test]
fn enrolments_of_one_interval_make_one_version() {
    let mut world = World::new(initially(&[("eu", 1), ("us", 2)]));
    let node = world.join("r1", &["eu"]);
    world.join("r2", &["us"]);
    let version = world.logic.version();
    for number in 0..300 {
        let json = json!({ "op": "enroll", "device": format!("d{number}") }).to_string();
        world.frame(
            node,
            NodeFrame::Admin(Admin {
                request: 1000 + number,
                json: Tail(json.as_bytes()),
            }),
        );
    }
    world.pass(BATCH);
    assert_eq!(world.logic.version(), version + 1);
    assert_eq!(world.map(node).overrides(), 300);
    let status = world.ask(node, json!({ "op": "status" })).unwrap();
    let enrolled: Vec<_> = status["regions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|region| &region["devices_enrolled"])
        .collect();
    assert_eq!(enrolled, [100, 200]);
}

#[test]
fn enrolling_twice_changes_nothing_and_elsewhere_is_refused() {
    let mut world = World::new(initially(&[("eu", 1), ("us", 1)]));
    let node = world.join("r1", &["eu"]);
    world.join("r2", &["us"]);
    let first = world
        .ask(node, json!({ "op": "enroll", "device": "d", "region": "us" }))
        .unwrap();
    assert_eq!(
        world.ask(node, json!({ "op": "enroll", "device": "d" })).unwrap(),
        first
    );
    let refused = world
        .ask(node, json!({ "op": "enroll", "device": "d", "region": "eu" }))
        .unwrap_err();
    assert!(refused.contains("unenroll it first"), "{refused}");
    let refused = world
        .ask(node, json!({ "op": "enroll", "device": "e", "region": "mars" }))
        .unwrap_err();
    assert!(refused.contains("`mars`") && refused.contains("eu, us"), "{refused}");
    world.ask(node, json!({ "op": "unenroll", "device": "d" })).unwrap();
    assert_eq!(world.map(node).overrides(), 0);
    let place = world.ask(node, json!({ "op": "where", "device": "d" })).unwrap();
    assert_eq!(place["by"], "slot");
    assert!(world.ask(node, json!({ "op": "unenroll", "device": "d" })).is_err());
}

#[test]
fn a_device_waits_for_a_region_without_spinning() {
    let mut world = World::new(initially(&[("eu", 1)]));
    let tool = world.open(NodeId::NONE, 0);
    world.ask(tool, json!({ "op": "enroll", "device": "d" })).unwrap();
    world.pass(Duration::from_secs(60));
    let node = world.join("r1", &["eu"]);
    world.pass(BATCH);
    assert_eq!(world.map(node).overrides(), 1);
    assert_eq!(world.logic.counters.assignments_late, 1);
}

#[test]
fn every_version_can_be_resumed_from_until_it_is_too_old() {
    let mut world = World::new(initially(&[("eu", 1)]));
    let keeper = world.join("r1", &["eu"]);
    let mut held = vec![world.map(keeper).id()];
    for number in 0..80 {
        world
            .ask(keeper, json!({ "op": "enroll", "device": format!("d{number}") }))
            .unwrap();
        held.push(world.map(keeper).id());
    }
    // Also after a restart, from what is on disk.
    world.restart();
    let mut deltas = 0;
    for (number, map) in held.iter().enumerate() {
        let mut space = Vec::new();
        let connection = world.open(NodeId::NONE, 1);
        let port = 3000 + 2 * number as u16;
        let join = Join {
            name: Text::clipped(""),
            roles: Roles {
                connection: true,
                messaging: false,
                region: false,
            },
            device_address: Some(SocketAddr::from(([127, 0, 0, 1], port))),
            peer_address: Some(SocketAddr::from(([127, 0, 0, 1], port + 1))),
            http_address: None,
            map: *map,
            regions: Names::new([], &mut space).unwrap(),
            #[cfg(feature = "next-version")]
            build: trunkline_wire::codec::Newer::new(trunkline_wire::next::VERSION, Text::clipped("a build")),
        };
        let mut out = Outbox::new();
        world
            .logic
            .handle(world.now(), connection, Input::Frame(NodeFrame::Join(join)), &mut out);
        // All join in one batch: each is answered with the same new version.
        assert!(out.is_empty(), "told before it was on disk");
    }
    world.at = world.at + BATCH;
    let mut out = Outbox::new();
    let batch = world.logic.take_batch(world.at).unwrap().unwrap();
    world.store.commit(&batch).unwrap();
    let now = world.now();
    world.logic.committed(now, &mut out);
    for effect in out {
        if let Effect::SendMap { transfer, .. } = effect {
            deltas += usize::from(transfer.base.version != 0);
        }
    }
    assert_eq!(deltas, 64);
}

#[test]
fn a_version_that_changed_one_thing_twice_can_be_stepped_back_from() {
    let mut world = World::new(initially(&[("eu", 1)]));
    let keeper = world.join("r1", &["eu"]);
    let tool = world.open(NodeId::NONE, 0);
    world.ask(tool, json!({ "op": "enroll", "device": "d" })).unwrap();
    let held = world.map(keeper).id();
    for (request, json) in [
        json!({ "op": "unenroll", "device": "d" }),
        json!({ "op": "enroll", "device": "d" }),
        json!({ "op": "enroll", "device": "e" }),
    ]
    .into_iter()
    .enumerate()
    {
        let json = json.to_string();
        let request = 100 + request as u32;
        let json = Tail(json.as_bytes());
        world.frame(tool, NodeFrame::Admin(Admin { request, json }));
    }
    world.pass(BATCH);
    assert_eq!(world.map(keeper).id().version, held.version + 1);
    let records = world.store.load().unwrap();
    let state = State::from_records(&records).unwrap();
    let rewound = History::from_records(&records).unwrap().rewind(&state, held).unwrap();
    assert_eq!((rewound.id(), rewound.overrides()), (held, 1));
}

#[test]
fn nothing_is_told_before_it_is_on_disk() {
    let mut world = World::new(initially(&[("eu", 1)]));
    let node = world.join("r1", &["eu"]);
    let version = world.logic.version();
    let json = json!({ "op": "enroll", "device": "d" }).to_string();
    world.frame(
        node,
        NodeFrame::Admin(Admin {
            request: 7,
            json: Tail(json.as_bytes()),
        }),
    );
    world.at = world.at + BATCH;
    assert!(world.logic.take_batch(world.at).unwrap().is_some());
    assert!(!world.nodes[&node].answers.contains_key(&7));
    assert_eq!(
        (world.logic.version(), world.map(node).id().version),
        (version, version)
    );
    // The commit fails: the decisions end here, and start again from what is on disk.
    world.restart();
    assert_eq!(world.logic.version(), version);
    assert!(world.logic.state().devices.is_empty());
}
