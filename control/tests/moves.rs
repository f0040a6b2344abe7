//! The claims about moves: three versions, each only when all members have settled the one before; whoever dies, it goes on.

mod world;

use std::time::Duration;

use serde_json::{Value, json};
use trunkline_control::config::BATCH;
use trunkline_control::logic::ConnectionId;
use trunkline_control::membership::{GRACE, LEASE};
use trunkline_wire::id::{NodeId, RegionId};
use trunkline_wire::map::Map;
use world::{World, slots_of};

fn share(share: u32) -> Value {
    json!({ "op": "move", "what": { "share": { "from": "eu", "share": share } }, "to": "us" })
}

fn stage(world: &mut World, tool: ConnectionId, id: u64) -> String {
    let state = world.ask(tool, json!({ "op": "move-state", "id": id })).unwrap();
    state["stage"].as_str().unwrap().to_owned()
}

/// How many slots have a second region, and how many are found by `us`.
fn moving(map: &Map) -> (usize, usize) {
    let also = (0..=u16::MAX).filter(|slot| map.slot_also(*slot).is_some()).count();
    (also, slots_of(map, "us"))
}

#[test]
fn a_share_moves_in_three_versions_each_when_all_have_settled_the_one_before() {
    let (mut world, nodes) = World::of_two_regions();
    world.by_hand();
    let asked = world.ask(nodes[2], share(2_500)).unwrap();
    assert_eq!(
        (&asked["stage"], &asked["slots"], &asked["waiting"]),
        (&json!("both"), &json!(8_192), &json!(3))
    );
    let version = world.map(nodes[2]).id().version;
    assert_eq!(moving(world.map(nodes[2])), (8_192, 32_768));

    world.settle_all(&nodes[..2]);
    world.pass(Duration::from_secs(10));
    assert_eq!(world.map(nodes[2]).id().version, version, "one has not settled");
    world.settle_all(&nodes[2..]);
    assert_eq!(moving(world.map(nodes[2])), (8_192, 40_960));
    world.settle_all(&nodes);
    assert_eq!(moving(world.map(nodes[2])), (0, 40_960));
    assert_eq!(stage(&mut world, nodes[2], 1), "end");
    world.settle_all(&nodes);
    assert_eq!(stage(&mut world, nodes[2], 1), "done");
    assert_eq!(world.map(nodes[2]).id().version, version + 2);
}

#[test]
fn a_lapsed_lease_is_no_word_of_a_node_but_leaving_the_map_is() {
    let (mut world, nodes) = World::of_two_regions();
    world.by_hand();
    world.ask(nodes[0], share(10_000)).unwrap();
    world.kill(nodes[2]);
    world.settle_all(&nodes[..2]);
    world.pass(LEASE + Duration::from_secs(1));
    let state = world.ask(nodes[0], json!({ "op": "move-state", "id": 1 })).unwrap();
    assert_eq!(state["stage"], "both");
    assert_eq!(
        state["waiting_for"],
        json!([{ "node": 3, "name": "s1", "lease": "lapsed" }])
    );
    world.pass(GRACE + Duration::from_secs(2));
    assert_eq!(stage(&mut world, nodes[0], 1), "switch");
}

#[test]
fn a_control_plane_that_dies_at_any_step_goes_on_with_it() {
    for deaths in 0..3 {
        let (mut world, nodes) = World::of_two_regions();
        world.by_hand();
        world.ask(nodes[0], share(10_000)).unwrap();
        for _ in 0..deaths {
            world.settle_all(&nodes);
        }
        let before = stage(&mut world, nodes[0], 1);
        world.restart();
        let back = [("r1", &["eu"][..]), ("r2", &["us"]), ("s1", &[])];
        let nodes: Vec<ConnectionId> = (1u32..)
            .zip(back)
            .map(|(id, (name, regions))| world.join_as(NodeId(id), 2, name, regions, 1000 + 2 * id as u16))
            .collect();
        assert!(["both", "switch", "end"].contains(&&before[..]));
        world.pass(10 * BATCH);
        assert_eq!(stage(&mut world, nodes[0], 1), "done", "died in {before}");
        assert_eq!(moving(world.map(nodes[0])), (0, 65_536));
    }
}

#[test]
fn a_move_can_be_given_up_before_it_has_switched_and_not_after() {
    let (mut world, nodes) = World::of_two_regions();
    world.by_hand();
    world.ask(nodes[0], share(10_000)).unwrap();
    let abort = json!({ "op": "abort-move", "id": 1 });
    assert_eq!(world.ask(nodes[0], abort.clone()).unwrap()["stage"], "back");
    assert_eq!(moving(world.map(nodes[0])), (0, 32_768));
    world.settle_all(&nodes);
    assert_eq!(stage(&mut world, nodes[0], 1), "aborted");

    world.ask(nodes[0], share(10_000)).unwrap();
    world.settle_all(&nodes);
    let abort = json!({ "op": "abort-move", "id": 2 });
    let refused = world.ask(nodes[0], abort).unwrap_err();
    assert!(refused.contains("has switched already"), "{refused}");
}

#[test]
fn a_wrong_move_is_refused_with_its_reason_and_changes_nothing() {
    let (mut world, nodes) = World::of_two_regions();
    world
        .ask(nodes[0], json!({ "op": "region", "name": "empty", "weight": 1 }))
        .unwrap();
    let version = world.logic.version();
    let of = |what: Value, to: &str| json!({ "op": "move", "what": what, "to": to });
    let slots = |first: u32, last: u32| json!({ "slots": { "first": first, "last": last } });
    for (request, reason) in [
        (
            of(slots(0, 9), "mars"),
            "there is no region `mars`; there are: empty, eu, us",
        ),
        (of(slots(0, 9), "empty"), "has no instance"),
        (of(slots(0, 9), "eu"), "are in the region `eu` already"),
        (of(slots(9, 0), "us"), "give the lower one first"),
        (of(slots(0, 70_000), "us"), "can't be read"),
        (
            of(json!({ "share": { "from": "eu", "share": 100 } }), "eu"),
            "can't move to itself",
        ),
        (of(json!({ "share": { "from": "eu", "share": 0 } }), "us"), "above 0 %"),
        (
            of(json!({ "share": { "from": "eu", "share": 10_001 } }), "us"),
            "at most 100 %",
        ),
        (
            of(json!({ "share": { "from": "mars", "share": 1 } }), "us"),
            "there is no region `mars`",
        ),
        (
            of(json!({ "share": { "from": "empty", "share": 10_000 } }), "us"),
            "is none",
        ),
        (of(json!({ "device": "" }), "us"), "1 to 64 bytes"),
        (
            of(json!({ "device": "nobody" }), "us"),
            "the device `nobody` is not enrolled",
        ),
        (json!({ "op": "abort-move", "id": 7 }), "there is no move 7"),
        (json!({ "op": "move-state", "id": 7 }), "there is no move 7"),
        (
            json!({ "op": "remove-region", "name": "mars" }),
            "there is no region `mars`",
        ),
    ] {
        let refused = world.ask(nodes[0], request.clone()).unwrap_err();
        assert!(refused.contains(reason), "{request}: {refused}");
        assert!(!refused.contains('\n'));
    }
    world.by_hand();
    world.ask(nodes[0], of(slots(100, 199), "us")).unwrap();
    let refused = world.ask(nodes[0], of(slots(150, 300), "us")).unwrap_err();
    assert!(
        refused.contains("slot 150 is on the way in move 1 already"),
        "{refused}"
    );
    let refused = world.ask(nodes[0], json!({ "op": "rebalance" })).unwrap_err();
    assert!(refused.contains("move 1"), "{refused}");
    assert_eq!(world.logic.version(), version + 1);
}

#[test]
fn a_dry_run_says_what_would_move_and_changes_nothing() {
    let (mut world, nodes) = World::of_two_regions();
    let version = world.logic.version();
    let mut request = share(5_000);
    request["dry_run"] = true.into();
    let told = world.ask(nodes[0], request).unwrap();
    assert_eq!(
        told["pairs"],
        json!([{ "from": "eu", "to": "us", "slots": 16_384, "devices": 0 }])
    );
    world.pass(10 * BATCH);
    assert_eq!(world.logic.version(), version);
    assert_eq!(
        world.ask(nodes[0], json!({ "op": "moves" })).unwrap()["moves"],
        json!([])
    );
}

#[test]
fn a_few_moves_are_under_way_at_a_time_and_the_others_wait_their_turn() {
    let (mut world, nodes) = World::of_two_regions();
    world.by_hand();
    for slot in 0..7 {
        let what = json!({ "slots": { "first": slot, "last": slot } });
        world
            .ask(nodes[0], json!({ "op": "move", "what": what, "to": "us" }))
            .unwrap();
    }
    let count = |world: &mut World, wanted: &str| {
        let all = world.ask(nodes[0], json!({ "op": "moves" })).unwrap();
        all["moves"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|one| one["stage"] == wanted)
            .count()
    };
    assert_eq!((count(&mut world, "both"), count(&mut world, "pending")), (4, 3));
    for _ in 0..8 {
        world.settle_all(&nodes);
    }
    assert_eq!(count(&mut world, "done"), 7);
}

#[test]
fn a_device_that_is_enrolled_elsewhere_is_handed_over_there_and_back() {
    let (mut world, nodes) = World::of_two_regions();
    world.by_hand();
    let device = (0..).map(|n| format!("d{n}")).find(|name| {
        let place = world.ask(nodes[0], json!({ "op": "where", "device": name })).unwrap();
        place["region"] == "eu"
    });
    let device = device.unwrap();
    world
        .ask(nodes[0], json!({ "op": "enroll", "device": device, "region": "us" }))
        .unwrap();
    let (eu, us) = (RegionId(1), RegionId(2));
    let regions = |world: &World| {
        let key = trunkline_wire::id::IdRef::new(&device)
            .map(|id| world::keys().device_key(id))
            .unwrap();
        (world.map(nodes[0]).region_of(key), world.map(nodes[0]).region_also(key))
    };
    assert_eq!(regions(&world), (eu, Some(us)));
    let busy = world
        .ask(nodes[0], json!({ "op": "unenroll", "device": device }))
        .unwrap_err();
    assert!(busy.contains("on its way in move 1"), "{busy}");
    world.settle_all(&nodes);
    assert_eq!(regions(&world), (us, Some(eu)));
    world.settle_all(&nodes);
    assert_eq!(regions(&world), (us, None));
    world.settle_all(&nodes);

    world
        .ask(nodes[0], json!({ "op": "unenroll", "device": device }))
        .unwrap();
    assert_eq!(regions(&world), (us, Some(eu)));
    world.settle_all(&nodes);
    assert_eq!(regions(&world), (eu, Some(us)));
    assert_eq!(world.map(nodes[0]).overrides(), 1);
    world.settle_all(&nodes);
    assert_eq!(regions(&world), (eu, None));
    assert_eq!(world.map(nodes[0]).overrides(), 0);
    world.settle_all(&nodes);
    assert_eq!(world.logic.open_moves(), 0);
}

#[test]
fn a_region_is_removed_when_all_that_it_had_has_moved() {
    let (mut world, nodes) = World::of_two_regions();
    world
        .ask(nodes[0], json!({ "op": "enroll", "device": "d", "region": "eu" }))
        .unwrap();
    world.pass(10 * BATCH);
    world.by_hand();
    let removed = world
        .ask(nodes[2], json!({ "op": "remove-region", "name": "eu" }))
        .unwrap();
    assert_eq!((&removed["slots"], &removed["devices"]), (&json!(32_768), &json!(1)));
    let refused = world
        .ask(nodes[2], json!({ "op": "enroll", "device": "e", "region": "eu" }))
        .unwrap_err();
    assert!(refused.contains("is being removed"), "{refused}");
    for _ in 0..3 {
        assert_eq!(world.map(nodes[2]).regions().count(), 2);
        world.settle_all(&nodes);
    }
    world.pass(BATCH);
    assert_eq!(world.map(nodes[2]).regions().count(), 1);
    assert_eq!(slots_of(world.map(nodes[2]), "us"), 65_536);
    let refused = world
        .ask(nodes[2], json!({ "op": "remove-region", "name": "us" }))
        .unwrap_err();
    assert!(refused.contains("is the last one"), "{refused}");
    // A region that comes later has a number of its own.
    let later = world.join("r3", &["ap"]);
    world.pass(BATCH);
    assert_eq!(
        world.map(later).regions().map(|(id, _)| id.0).collect::<Vec<_>>(),
        [2, 3]
    );
}
