//! The claims about instances that come and go, and about what an operator has said of a node: told first, asked when all have settled.

mod world;

use std::time::Duration;

use serde_json::{Value, json};
use trunkline_control::config::BATCH;
use trunkline_control::logic::ConnectionId;
use trunkline_control::membership::LEASE;
use trunkline_wire::control::{Draining, Leave, NodeFrame};
use trunkline_wire::id::{NodeId, RegionId};
use world::World;

const EU: RegionId = RegionId(1);

/// The instances and the standbys of `eu`, as a node's map has them.
fn eu(world: &World, node: ConnectionId) -> (Vec<u32>, Vec<u32>) {
    let ids = |nodes: &[NodeId]| nodes.iter().map(|node| node.0).collect();
    let map = world.map(node);
    (ids(map.instances(EU)), ids(map.standbys(EU)))
}

fn stage(world: &mut World, tool: ConnectionId, id: u64) -> Value {
    world.ask(tool, json!({ "op": "move-state", "id": id })).unwrap()["stage"].clone()
}

fn latest(world: &mut World, tool: ConnectionId) -> Value {
    world.ask(tool, json!({ "op": "moves" })).unwrap()["moves"][0].clone()
}

fn remove(node: &str) -> Value {
    json!({ "op": "remove-instance", "node": node, "region": "eu" })
}

fn add(node: &str) -> Value {
    json!({ "op": "add-instance", "node": node, "region": "eu" })
}

/// A second instance of `eu`, as node 4.
fn second(world: &mut World) -> ConnectionId {
    let second = world.join("r3", &["eu"]);
    world.pass(4 * BATCH);
    assert_eq!(eu(world, second), (vec![1, 4], vec![]));
    second
}

#[test]
fn an_instance_that_joins_is_told_first_and_asked_when_all_have_settled_that() {
    let (mut world, nodes) = World::of_two_regions();
    world.by_hand();
    let third = world.join("r3", &["eu"]);
    world.nodes.get_mut(&third).unwrap().settles = false;
    world.pass(BATCH);
    assert_eq!(eu(&world, nodes[2]), (vec![1], vec![4]));
    let state = latest(&mut world, nodes[2]);
    assert_eq!(
        state["instances"],
        json!([{ "node": 4, "name": "r3", "region": "eu", "way": "comes" }])
    );
    world.settle_all(&[nodes[0], nodes[1], third]);
    world.pass(Duration::from_secs(5));
    assert_eq!(
        eu(&world, nodes[2]),
        (vec![1], vec![4]),
        "a server has not told it of its sessions"
    );
    world.settle_all(&nodes[2..]);
    assert_eq!(eu(&world, nodes[2]), (vec![1, 4], vec![]));
    world.settle_all(&nodes);
    world.settle_all(&[third]);
    assert_eq!(latest(&mut world, nodes[2])["stage"], "done");
}

#[test]
fn an_instance_that_goes_is_asked_by_nobody_before_it_is_told_no_more() {
    let (mut world, nodes) = World::of_two_regions();
    let second = second(&mut world);
    world.by_hand();
    let asked = world.ask(nodes[2], remove("r1")).unwrap();
    assert_eq!((&asked["stage"], &asked["waiting"]), (&json!("both"), &json!(4)));
    assert_eq!(eu(&world, nodes[2]), (vec![4], vec![1]));
    world.settle_all(&nodes);
    assert_eq!(eu(&world, nodes[2]), (vec![4], vec![1]), "one may still ask it");
    world.settle_all(&[second]);
    assert_eq!(eu(&world, nodes[2]), (vec![4], vec![]));
    assert!(world.map(nodes[2]).node(NodeId(1)).is_some(), "it stays a member");
}

#[test]
fn a_removed_instance_stays_removed_whatever_its_settings_say_until_it_is_added() {
    let (mut world, nodes) = World::of_two_regions();
    second(&mut world);
    world.ask(nodes[2], remove("r3")).unwrap();
    world.pass(4 * BATCH);
    for _ in 0..2 {
        let back = world.join_as(NodeId(4), 2, "r3", &["eu"], 3000);
        world.pass(4 * BATCH);
        assert_eq!(eu(&world, back), (vec![1], vec![]));
        world.restart();
        world.join_as(NodeId(1), 2, "r1", &["eu"], 1002);
    }
    let back = world.join_as(NodeId(4), 3, "r3", &["eu"], 3000);
    world.ask(back, add("r3")).unwrap();
    world.pass(4 * BATCH);
    let [r2, s1] = [(2, "r2", &["us"][..]), (3, "s1", &[])]
        .map(|(id, name, regions)| world.join_as(NodeId(id), 2, name, regions, 1002 + 2 * id as u16));
    world.pass(4 * BATCH);
    assert_eq!(eu(&world, s1), (vec![1, 4], vec![]));
    // Its settings know nothing of this one.
    world
        .ask(s1, json!({ "op": "add-instance", "node": "r2", "region": "eu" }))
        .unwrap();
    world.pass(4 * BATCH);
    assert_eq!(eu(&world, r2), (vec![1, 2, 4], vec![]));
    let again = world.join_as(NodeId(2), 3, "r2", &["us"], 1006);
    world.pass(4 * BATCH);
    assert_eq!(eu(&world, again), (vec![1, 2, 4], vec![]));
}

#[test]
fn a_removed_region_does_not_come_back_with_its_nodes() {
    let (mut world, nodes) = World::of_two_regions();
    world
        .ask(nodes[2], json!({ "op": "remove-region", "name": "us" }))
        .unwrap();
    world.pass(10 * BATCH);
    let back = world.join_as(NodeId(2), 2, "r2", &["us"], 3000);
    world.pass(4 * BATCH);
    assert_eq!(world.map(back).regions().count(), 1);
    // Until an operator makes one of that name.
    world
        .ask(nodes[2], json!({ "op": "region", "name": "us", "weight": 1 }))
        .unwrap();
    world.join_as(NodeId(2), 3, "r2", &["us"], 3000);
    world.pass(4 * BATCH);
    assert_eq!(world.map(nodes[2]).instances(RegionId(3)), [NodeId(2)]);
}

#[test]
fn a_control_plane_that_dies_goes_on_with_a_turn() {
    for settled in 0..2 {
        let (mut world, nodes) = World::of_two_regions();
        let second = second(&mut world);
        world.by_hand();
        world.ask(nodes[2], remove("r1")).unwrap();
        for _ in 0..settled {
            world.settle_all(&nodes);
            world.settle_all(&[second]);
        }
        world.restart();
        let back = [("r1", &["eu"][..]), ("r2", &["us"]), ("s1", &[]), ("r3", &["eu"])];
        let nodes: Vec<ConnectionId> = (1u32..)
            .zip(back)
            .map(|(id, (name, regions))| world.join_as(NodeId(id), 2, name, regions, 1000 + 2 * id as u16))
            .collect();
        world.pass(10 * BATCH);
        assert_eq!(latest(&mut world, nodes[2])["stage"], "done", "{settled} steps before");
        assert_eq!(eu(&world, nodes[2]), (vec![4], vec![]));
    }
}

#[test]
fn a_turn_can_be_given_up_while_the_node_is_a_standby() {
    let (mut world, nodes) = World::of_two_regions();
    let second = second(&mut world);
    world.by_hand();
    let id = world.ask(nodes[2], remove("r1")).unwrap()["move"].as_u64().unwrap();
    world.ask(nodes[2], json!({ "op": "abort-move", "id": id })).unwrap();
    assert_eq!(eu(&world, nodes[2]), (vec![1, 4], vec![]));
    world.settle_all(&nodes);
    world.settle_all(&[second]);
    assert_eq!(stage(&mut world, nodes[2], id), "aborted");
    let back = world.join_as(NodeId(1), 2, "r1", &["eu"], 3000);
    assert_eq!(eu(&world, back), (vec![1, 4], vec![]), "it is an instance as before");
}

#[test]
fn where_nobody_else_can_be_asked_the_next_instance_waits_for_nobody() {
    let (mut world, nodes) = World::of_two_regions();
    world.by_hand();
    world.kill(nodes[0]);
    let third = world.join("r3", &["eu"]);
    assert_eq!(eu(&world, third), (vec![1, 4], vec![]), "the one before it is gone");

    let (mut world, nodes) = World::of_two_regions();
    world.by_hand();
    let third = world.join("r3", &["eu"]);
    assert_eq!(eu(&world, third), (vec![1], vec![4]));
    world.kill(nodes[0]);
    world.pass(LEASE + Duration::from_secs(6));
    assert_eq!(eu(&world, third), (vec![1, 4], vec![]), "the one before it is silent");

    let (mut world, nodes) = World::of_two_regions();
    world.by_hand();
    let third = world.join("r3", &["eu"]);
    world.frame(nodes[0], NodeFrame::Leave(Leave {}));
    world.pass(BATCH);
    assert_eq!(eu(&world, third), (vec![4], vec![]), "the one before it has left");
}

#[test]
fn a_standby_that_leaves_is_none_and_comes_again_when_it_is_back() {
    let (mut world, nodes) = World::of_two_regions();
    world.by_hand();
    let third = world.join("r3", &["eu"]);
    world.frame(third, NodeFrame::Leave(Leave {}));
    world.pass(BATCH);
    assert_eq!(eu(&world, nodes[2]), (vec![1], vec![]));
    assert_eq!(latest(&mut world, nodes[2])["stage"], "aborted");
    let back = world.join_as(NodeId(4), 2, "r3", &["eu"], 3000);
    assert_eq!(eu(&world, back), (vec![1], vec![4]));
}

#[test]
fn who_is_on_the_way_out_stays_if_nobody_else_is_left_to_be_asked() {
    for leaves in [true, false] {
        let (mut world, nodes) = World::of_two_regions();
        let second = second(&mut world);
        world.by_hand();
        let id = world.ask(nodes[2], remove("r1")).unwrap()["move"].as_u64().unwrap();
        assert_eq!(eu(&world, nodes[2]), (vec![4], vec![1]));
        if leaves {
            world.frame(second, NodeFrame::Leave(Leave {}));
            world.pass(BATCH);
            assert_eq!(eu(&world, nodes[2]), (vec![1], vec![]), "the other one has left");
        } else {
            world.kill(second);
            world.pass(LEASE + Duration::from_secs(6));
            assert_eq!(eu(&world, nodes[2]), (vec![1, 4], vec![]), "the other one is silent");
        }
        assert_eq!(stage(&mut world, nodes[2], id), "back");
        let back = world.join_as(NodeId(1), 2, "r1", &["eu"], 3000);
        assert_eq!(eu(&world, back).0[0], 1, "an operator's word stands no longer");
    }
}

#[test]
fn an_instance_that_left_before_all_knew_that_it_had_come_comes_again() {
    let (mut world, nodes) = World::of_two_regions();
    world.by_hand();
    world
        .ask(nodes[2], json!({ "op": "add-instance", "node": "r2", "region": "eu" }))
        .unwrap();
    world.settle_all(&nodes);
    assert_eq!(eu(&world, nodes[2]), (vec![1, 2], vec![]));
    // It stays a member, as the only instance of its other region.
    world.frame(nodes[1], NodeFrame::Leave(Leave {}));
    world.pass(BATCH);
    assert_eq!(eu(&world, nodes[2]), (vec![1], vec![]));
    let back = world.join_as(NodeId(2), 2, "r2", &["us"], 3000);
    assert_eq!(eu(&world, back), (vec![1], vec![2]));
    world.settle_all(&[nodes[0], nodes[2], back]);
    assert_eq!(eu(&world, back), (vec![1, 2], vec![]));
}

#[test]
fn a_wrong_turn_is_refused_with_its_reason_and_changes_nothing() {
    let (mut world, nodes) = World::of_two_regions();
    let version = world.logic.version();
    let mut refused = |request: Value, words: &[&str]| {
        let error = world.ask(nodes[2], request).unwrap_err();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
        assert_eq!(world.logic.version(), version);
    };
    let op = |op: &str, node: &str, region: &str| json!({ "op": op, "node": node, "region": region });
    refused(op("add-instance", "mars", "eu"), &["no node `mars`"]);
    refused(op("add-instance", "r2", "mars"), &["no region `mars`", "eu, us"]);
    refused(op("add-instance", "r1", "eu"), &["already"]);
    refused(op("add-instance", "s1", "eu"), &["no role `region`"]);
    refused(op("remove-instance", "mars", "eu"), &["no node `mars`"]);
    refused(op("remove-instance", "r1", "mars"), &["no region `mars`"]);
    refused(
        op("remove-instance", "r1", "us"),
        &["is no instance of the region `us`"],
    );
    refused(op("remove-instance", "s1", "eu"), &["is no instance"]);
    refused(
        op("remove-instance", "r1", "eu"),
        &["last instance of the region `eu`", "32768 slots", "remove-region"],
    );
    let second = second(&mut world);
    world.by_hand();
    let dry = json!({ "op": "remove-instance", "node": "r3", "dry_run": true });
    assert_eq!(world.ask(second, dry).unwrap()["instances"][0]["way"], "goes");
    assert_eq!(eu(&world, second), (vec![1, 4], vec![]));
    world.ask(second, remove("r3")).unwrap();
    let version = world.logic.version();
    for (request, word) in [
        (remove("r3"), "on its way"),
        (add("r3"), "already"),
        (remove("r1"), "last instance"),
        (json!({ "op": "remove-region", "name": "eu" }), "on the way"),
    ] {
        let error = world.ask(second, request).unwrap_err();
        assert!(error.contains(word), "{error}");
    }
    assert_eq!(world.logic.version(), version);
}

#[test]
fn the_last_instance_of_a_region_without_devices_may_go() {
    let (mut world, nodes) = World::of_two_regions();
    world.join("r3", &["ap"]);
    let region = json!({ "op": "remove-instance", "node": "r3", "region": "ap" });
    world.ask(nodes[2], region).unwrap();
    world.pass(4 * BATCH);
    assert_eq!(world.map(nodes[2]).instances(RegionId(3)), []);
}

#[test]
fn a_drained_node_stays_drained_though_it_and_the_control_plane_start_anew() {
    let (mut world, nodes) = World::of_two_regions();
    let other = world.join("s2", &[]);
    let drain =
        |undo: bool| json!({ "op": "drain", "node": "s1", "rate": if undo { None } else { Some(20) }, "undo": undo });
    world.ask(nodes[2], drain(false)).unwrap();
    assert_eq!(world.nodes[&nodes[2]].drains, [(true, 20)]);
    world.restart();
    let back = world.join_as(NodeId(3), 2, "s1", &[], 3000);
    assert_eq!(world.nodes[&back].drains, [(true, 20)]);
    // Also while it is away; and what it does not know then it is told when it says that it still drains.
    world.kill(back);
    let _ = other;
    let tool = world.join_as(NodeId(4), 2, "s2", &[], 4000);
    world.ask(tool, drain(true)).unwrap();
    let back = world.join_as(NodeId(3), 2, "s1", &[], 3000);
    assert_eq!(world.nodes[&back].drains, []);
    world.frame(back, NodeFrame::Draining(Draining { on: true }));
    assert_eq!(world.nodes[&back].drains, [(false, 0)]);
}

#[test]
fn more_than_a_tenth_of_the_instances_go_by_force_only_and_who_comes_back_counts_no_more() {
    let (mut world, nodes) = World::of_two_regions();
    for name in ["r3", "r4"] {
        world.join(name, &["eu"]);
        world.pass(4 * BATCH);
    }
    let tool = nodes[2];
    let version = world.logic.version();
    let region = |force: bool| json!({ "op": "remove-region", "name": "eu", "force": force, "dry_run": true });
    let error = world.ask(tool, region(false)).unwrap_err();
    assert!(error.contains("3 of 4") && error.contains("--force"), "{error}");
    assert_eq!(world.ask(tool, region(true)).unwrap()["removes_region"], "eu");
    assert_eq!(world.logic.version(), version, "it was but asked about");
    world.ask(tool, remove("r3")).unwrap();
    world.pass(4 * BATCH);
    let version = world.logic.version();
    let error = world.ask(tool, remove("r4")).unwrap_err();
    assert!(error.contains("--force") && error.contains("60 s"), "{error}");
    assert_eq!(world.logic.version(), version);
    world.ask(tool, add("r3")).unwrap();
    world.pass(4 * BATCH);
    world.ask(tool, remove("r4")).unwrap();
    world.pass(4 * BATCH);
    let forced = json!({ "op": "remove-instance", "node": "r3", "region": "eu", "force": true });
    world.ask(tool, forced).unwrap();
}
