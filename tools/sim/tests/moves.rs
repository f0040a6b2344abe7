//! The claims about moves between regions, on whole nodes: traffic goes on, nobody is said to be offline, whoever dies meanwhile.

mod common;

use common::{connected, count, held, is_delivered, ms, secs, talk};
use trunkline_client::Outcome;
use trunkline_control::state::moves::Stage;
use trunkline_net::sim::{Death, Direction};
use trunkline_sim::{Cluster, Host, MessageNo, NodeNo, Start};

fn is_offline(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::Offline { .. })
}

/// All slots of the first region go to the second.
fn move_all(cluster: &mut Cluster) {
    assert!(cluster.move_slots(0, u16::MAX, 1), "control takes the move");
}

/// Users write on until the latest move has this stage.
fn talk_until(cluster: &mut Cluster, stage: Stage) -> Vec<MessageNo> {
    let mut sent = Vec::new();
    for _ in 0..5_000 {
        let here = cluster.move_stage();
        // The last step may be over before anybody looks.
        if here == Some(stage) || stage == Stage::End && here == Some(Stage::Done) {
            return sent;
        }
        sent.extend(talk(cluster, ms(5), 60_000));
    }
    panic!("the move is at {:?}, and not at {stage:?}", cluster.move_stage());
}

#[track_caller]
fn all_delivered(cluster: &mut Cluster, sent: &[MessageNo], seed: u64) {
    held(cluster.settle(secs(30)));
    // What a whole region's absence has delayed waits for the budget of retries.
    held(cluster.run_for(secs(45)));
    assert_eq!(count(cluster, sent, is_offline), 0, "seed {seed}");
    assert_eq!(count(cluster, sent, is_delivered), sent.len(), "seed {seed}");
    assert_eq!(cluster.moves_open(), 0, "seed {seed}");
    for device in cluster.devices() {
        assert_eq!(cluster.region_of(device), Some(1), "seed {seed}");
    }
}

#[test]
fn while_slots_move_every_message_is_delivered_and_none_late() {
    for seed in 1..=6 {
        let mut cluster = connected(seed, 12, &Start::default());
        let mut sent = talk(&mut cluster, ms(200), 1_000);
        move_all(&mut cluster);
        sent.extend(talk(&mut cluster, secs(3), 1_000));
        assert_eq!(cluster.move_stage(), Some(Stage::Done), "seed {seed}");
        // With a second to live, none has waited for a time-out.
        all_delivered(&mut cluster, &sent, seed);
    }
}

#[test]
fn a_device_that_is_moved_by_itself_misses_nothing() {
    let mut cluster = connected(1, 12, &Start::default());
    let device = cluster
        .devices()
        .find(|device| cluster.region_of(*device) == Some(0))
        .unwrap();
    assert!(cluster.move_device(device, 1));
    let sent = talk(&mut cluster, secs(3), 1_000);
    held(cluster.settle(secs(10)));
    assert_eq!(count(&cluster, &sent, is_delivered), sent.len());
    assert_eq!(cluster.region_of(device), Some(1));
}

#[test]
fn a_move_goes_on_where_it_was_when_control_was_killed_at_any_stage() {
    for (seed, stage) in [(1, Stage::Both), (2, Stage::Switch), (3, Stage::End)] {
        for death in [Death::Visible, Death::Silent] {
            let mut cluster = connected(seed, 12, &Start::default());
            move_all(&mut cluster);
            let mut sent = talk_until(&mut cluster, stage);
            cluster.kill_control(death);
            sent.extend(talk(&mut cluster, secs(2), 60_000));
            cluster.revive_control();
            sent.extend(talk_until(&mut cluster, Stage::Done));
            all_delivered(&mut cluster, &sent, seed);
        }
    }
}

#[test]
fn any_node_may_die_at_any_stage_of_a_move() {
    for (seed, stage) in [(1, Stage::Both), (2, Stage::Switch), (3, Stage::End)] {
        for region in 0..2 {
            let mut cluster = connected(seed, 12, &Start::default());
            let instance = cluster.instances(region)[seed as usize % 2];
            move_all(&mut cluster);
            let mut sent = talk_until(&mut cluster, stage);
            cluster.kill_node(instance, Death::Visible);
            sent.extend(talk(&mut cluster, secs(2), 60_000));
            cluster.revive_node(instance);
            sent.extend(talk_until(&mut cluster, Stage::Done));
            all_delivered(&mut cluster, &sent, seed);
        }
    }
}

#[test]
fn all_instances_of_either_region_may_die_at_any_stage_and_nobody_is_said_to_be_offline() {
    for (seed, stage) in [(1, Stage::Both), (2, Stage::Switch), (3, Stage::End)] {
        for region in 0..2 {
            let mut cluster = connected(seed, 12, &Start::default());
            let instances = cluster.instances(region);
            move_all(&mut cluster);
            let mut sent = talk_until(&mut cluster, stage);
            instances
                .iter()
                .for_each(|instance| cluster.kill_node(*instance, Death::Visible));
            sent.extend(talk(&mut cluster, secs(2), 60_000));
            instances.iter().for_each(|instance| cluster.revive_node(*instance));
            sent.extend(talk_until(&mut cluster, Stage::Done));
            all_delivered(&mut cluster, &sent, seed);
        }
    }
}

#[test]
fn a_server_that_control_cannot_reach_is_waited_for_and_loses_nothing() {
    for seed in 1..=3 {
        let mut cluster = connected(seed, 12, &Start::default());
        let server = cluster.servers()[seed as usize % 3];
        cluster.cut(Host::Node(server), Host::Control, Direction::Both);
        move_all(&mut cluster);
        // Longer than its lease: its silence is no word that it has the map.
        let mut sent = talk(&mut cluster, secs(25), 30_000);
        assert_eq!(cluster.move_stage(), Some(Stage::Both), "seed {seed}");
        cluster.heal(Host::Node(server), Host::Control);
        sent.extend(talk_until(&mut cluster, Stage::Done));
        all_delivered(&mut cluster, &sent, seed);
    }
}

#[test]
fn a_server_that_has_left_the_map_for_its_silence_is_still_served() {
    // With many members one may leave by itself; here the operator's patience is not needed.
    let mut cluster = connected(4, 12, &Start::default());
    let server = cluster.servers()[0];
    cluster.cut(Host::Node(server), Host::Control, Direction::Both);
    held(cluster.run_for(secs(80)));
    move_all(&mut cluster);
    let mut sent = talk_until(&mut cluster, Stage::Done);
    sent.extend(talk(&mut cluster, secs(2), 60_000));
    held(cluster.run_for(secs(5)));
    assert_eq!(count(&cluster, &sent, is_offline), 0);
    assert_eq!(count(&cluster, &sent, is_delivered), sent.len());
    cluster.heal(Host::Node(server), Host::Control);
    all_delivered(&mut cluster, &sent, 4);
}

#[test]
fn a_move_that_is_given_up_leaves_all_as_it_was() {
    for seed in 1..=3 {
        let mut cluster = connected(seed, 12, &Start::default());
        let before: Vec<_> = cluster.devices().map(|device| cluster.region_of(device)).collect();
        move_all(&mut cluster);
        let mut sent = talk_until(&mut cluster, Stage::Both);
        cluster.abort_move();
        sent.extend(talk_until(&mut cluster, Stage::Aborted));
        held(cluster.settle(secs(10)));
        assert_eq!(count(&cluster, &sent, is_delivered), sent.len());
        let after: Vec<_> = cluster.devices().map(|device| cluster.region_of(device)).collect();
        assert_eq!(before, after);
        for instance in cluster.instances(1) {
            let region_1 = cluster
                .devices()
                .filter(|device| before[device.0 as usize] == Some(1))
                .count();
            let known = cluster
                .devices()
                .filter(|device| cluster.presence_at(instance, *device).is_some())
                .count();
            assert_eq!(known, region_1, "{}", NodeNo(instance.0).0);
        }
    }
}

/// Users write on until no move is open.
fn talk_until_over(cluster: &mut Cluster) -> Vec<MessageNo> {
    let mut sent = Vec::new();
    for _ in 0..5_000 {
        if cluster.control_version() > 0 && cluster.moves_open() == 0 {
            return sent;
        }
        sent.extend(talk(cluster, ms(5), 60_000));
    }
    panic!("the move is at {:?}", cluster.move_stage());
}

#[test]
fn an_instance_goes_and_comes_under_traffic_and_every_message_is_delivered_in_time() {
    for seed in 1..=4 {
        let mut cluster = connected(seed, 12, &Start::default());
        let node = cluster.instances(0)[seed as usize % 2];
        let mut sent = talk(&mut cluster, ms(200), 1_000);
        assert!(cluster.remove_instance(node, 0));
        sent.extend(talk(&mut cluster, secs(2), 1_000));
        assert_eq!(cluster.move_stage(), Some(Stage::Done), "seed {seed}");
        assert!(!cluster.remove_instance(cluster.instances(0)[(seed as usize + 1) % 2], 0));
        assert!(cluster.add_instance(node, 0));
        sent.extend(talk(&mut cluster, secs(2), 1_000));
        assert_eq!(cluster.move_stage(), Some(Stage::Done), "seed {seed}");
        // It is the only one to ask now.
        let other = cluster.instances(0)[(seed as usize + 1) % 2];
        cluster.kill_node(other, Death::Visible);
        sent.extend(talk(&mut cluster, secs(2), 60_000));
        cluster.revive_node(other);
        held(cluster.settle(secs(30)));
        held(cluster.run_for(secs(15)));
        assert_eq!(count(&cluster, &sent, is_delivered), sent.len(), "seed {seed}");
    }
}

#[test]
fn any_node_or_control_may_die_while_an_instance_comes_or_goes() {
    for seed in 1..=6u64 {
        let mut cluster = connected(seed, 12, &Start::default());
        let [one, other] = cluster.instances(0)[..] else {
            unreachable!("two instances")
        };
        let victim = [one, other, cluster.servers()[0]][seed as usize % 3];
        let mut sent = Vec::new();
        for comes in [false, true] {
            let begun = match comes {
                false => cluster.remove_instance(one, 0),
                true => cluster.add_instance(one, 0),
            };
            assert!(begun, "seed {seed}: {:?}", cluster.ledger().story().collect::<Vec<_>>());
            // Else it may not be on control's disk yet.
            sent.extend(talk(&mut cluster, ms(60 + 20 * seed), 60_000));
            if seed % 2 == 0 {
                cluster.kill_control(Death::Visible);
            }
            cluster.kill_node(victim, Death::Visible);
            sent.extend(talk(&mut cluster, secs(1), 60_000));
            cluster.revive_node(victim);
            if seed % 2 == 0 {
                cluster.revive_control();
            }
            sent.extend(talk_until_over(&mut cluster));
            sent.extend(talk(&mut cluster, secs(6), 60_000));
        }
        held(cluster.settle(secs(30)));
        held(cluster.run_for(secs(45)));
        assert_eq!(count(&cluster, &sent, is_offline), 0, "seed {seed}");
        assert_eq!(count(&cluster, &sent, is_delivered), sent.len(), "seed {seed}");
    }
}
