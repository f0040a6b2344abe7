//! The claims about session epochs: which session of a device wins, who is told, and what is removed.

mod cluster;

use cluster::{CONNECTION, Cluster, INSTANCE, Told, node};
use trunkline_wire::id::{Epoch, RegionId};
use trunkline_wire::peer::{Register, SyncBegin, SyncEnd, Unregister};

const B: usize = 0;
const C: usize = 1;
const R1: usize = 2;
const R2: usize = 3;
const OTHER: usize = 4;

/// Two connection servers, a region with two instances, and one of another region.
fn two_servers() -> Cluster {
    Cluster::new(
        &[CONNECTION, CONNECTION, INSTANCE, INSTANCE, INSTANCE],
        &[&[R1, R2], &[OTHER]],
    )
}

fn known(cluster: &mut Cluster, instance: usize, device: &str) -> Option<Epoch> {
    let key = cluster.key(device);
    cluster.router(instance).explain(key).presence
}

#[test]
fn a_connection_server_tells_all_instances_of_the_region_and_nobody_else() {
    let mut cluster = two_servers();
    let device = cluster.device_in(0, "d");
    cluster.carried.clear();
    let conn = cluster.welcome(B, &device);
    let epoch = cluster.epoch(conn);
    assert_eq!(known(&mut cluster, R1, &device), epoch);
    assert_eq!(known(&mut cluster, R2, &device), epoch);
    assert_eq!(known(&mut cluster, OTHER, &device), None);
    let mut told: Vec<_> = cluster
        .carried
        .iter()
        .filter(|(_, _, ty)| *ty == 0x30)
        .map(|(_, to, _)| *to)
        .collect();
    told.sort_unstable();
    assert_eq!(
        told,
        [node(R1), node(R2)],
        "updates per connect are the region's number of instances"
    );
}

#[test]
fn the_owner_mints_above_its_clock_and_above_what_was_presented() {
    let mut cluster = two_servers();
    let device = cluster.device_in(0, "d");
    cluster.set_wall_ahead(B, 3_600_000);
    let first = cluster.welcome(B, &device);
    let first = cluster.epoch(first).unwrap();
    let second = cluster.connect_presenting(C, &device, first, 1);
    cluster.run_ms(300);
    let second = cluster.epoch(second).unwrap();
    assert!(
        second > first,
        "{second} is above {first}, although its server's clock is an hour behind"
    );
    assert_eq!(second.node, node(C));
    let raised = cluster.router(C).counters().sessions_raised;
    assert_eq!(raised, 0, "what was presented was enough, without asking the region");
}

#[test]
fn the_first_registration_of_a_session_not_yet_welcomed_is_raised_above_a_higher_answer() {
    let mut cluster = two_servers();
    let device = cluster.device_in(0, "d");
    cluster.set_wall_ahead(B, 3_600_000);
    let old = cluster.welcome(B, &device);
    // Presents nothing, at a server whose clock is an hour behind.
    let new = cluster.welcome(C, &device);
    assert!(cluster.epoch(new) > cluster.epoch(old));
    assert_eq!(cluster.router(C).counters().sessions_raised, 1);
    assert!(!cluster.is_open(old));
    assert!(
        matches!(cluster.told(old), [.., Told::Superseded(_), Told::Closed]),
        "{:?}",
        cluster.told(old)
    );
    assert!(cluster.is_open(new));
}

#[test]
fn a_server_mints_above_the_newer_session_that_it_knows_without_asking_the_region() {
    let mut cluster = two_servers();
    let device = cluster.device_in(0, "d");
    cluster.set_wall_ahead(B, 3_600_000);
    cluster.welcome(C, &device);
    let elsewhere = cluster.welcome(B, &device);
    let elsewhere = cluster.epoch(elsewhere).unwrap();
    // Presents nothing, at a server whose clock is an hour behind, and that was told of the session at the other one.
    let back = cluster.welcome(C, &device);
    let back = cluster.epoch(back).unwrap();
    assert!(back > elsewhere, "{back} is above {elsewhere}");
    let raised = cluster.router(C).counters().sessions_raised;
    assert_eq!(raised, 0, "what the server knew was enough");
}

#[test]
fn after_the_welcome_a_higher_answer_means_lost() {
    let mut cluster = two_servers();
    let device = cluster.device_in(0, "d");
    let key = cluster.key(&device);
    // B's session is welcomed while the region can't hear of it.
    cluster.cut_off(B);
    let old = cluster.connect(B, &device);
    cluster.run_ms(WELCOMED_ALONE_MS);
    let new = cluster.connect_presenting(C, &device, cluster.epoch(old).unwrap(), 1);
    cluster.run_ms(300);
    assert!(cluster.is_open(old), "nobody could tell B");
    cluster.join_again(B);
    cluster.run_ms(50);
    assert!(!cluster.is_open(old));
    assert_eq!(
        cluster.told(old)[1..],
        [Told::Superseded(cluster.epoch(new).unwrap()), Told::Closed]
    );
    assert!(cluster.is_open(new));
    assert_eq!(cluster.router(R1).explain(key).presence, cluster.epoch(new));
}

#[test]
fn a_partition_that_heals_never_lets_an_older_session_win() {
    let mut cluster = two_servers();
    let device = cluster.device_in(0, "d");
    let sender = cluster.welcome(C, "sender");
    let old = cluster.welcome(B, &device);
    cluster.cut_off(B);
    // B is cut off; the device, whose socket to B is half open, reconnects at C.
    let new = cluster.connect_presenting(C, &device, cluster.epoch(old).unwrap(), 1);
    cluster.run_ms(20_000);
    assert!(cluster.is_open(old), "B can't know");
    cluster.join_again(B);
    for number in 0..20 {
        cluster.send(sender, &device, number);
        cluster.run_ms(5);
    }
    cluster.run_ms(2_000);
    assert!(!cluster.is_open(old));
    assert!(cluster.is_open(new));
    assert_eq!(cluster.deliveries(old), 0, "no message goes to the older session");
    assert_eq!(cluster.deliveries(new), 20);
    for instance in [R1, R2] {
        assert_eq!(known(&mut cluster, instance, &device), cluster.epoch(new));
    }
}

#[test]
fn the_older_session_s_server_is_told_by_the_region_and_closes_it() {
    let mut cluster = two_servers();
    let device = cluster.device_in(0, "d");
    let old = cluster.welcome(B, &device);
    let new = cluster.welcome(C, &device);
    assert_eq!(
        cluster.told(old)[1..],
        [Told::Superseded(cluster.epoch(new).unwrap()), Told::Closed]
    );
}

#[test]
fn an_instance_that_never_hears_of_the_newer_session_is_told_of_the_older_one_s_end_by_its_server() {
    let mut cluster = two_servers();
    let device = cluster.device_in(0, "d");
    let old = cluster.welcome(B, &device);
    // The newer session lives and ends while its server can't reach one of the instances.
    cluster.link_down(C, R1);
    let new = cluster.connect_presenting(C, &device, cluster.epoch(old).unwrap(), 1);
    cluster.run_ms(300);
    assert!(!cluster.is_open(old) && cluster.is_open(new));
    cluster.disconnect(new);
    cluster.run_ms(10);
    cluster.link_up(C, R1);
    cluster.run_ms(10);
    assert_eq!(known(&mut cluster, R1, &device), None);
    assert_eq!(known(&mut cluster, R2, &device), None);
}

#[test]
fn a_second_session_at_the_same_server_ends_the_first() {
    let mut cluster = two_servers();
    let device = cluster.device_in(0, "d");
    let old = cluster.welcome(B, &device);
    let new = cluster.welcome(B, &device);
    assert!(!cluster.is_open(old));
    assert!(cluster.epoch(new) > cluster.epoch(old));
    assert_eq!(known(&mut cluster, R1, &device), cluster.epoch(new));
    // The end of the first must not take the second along.
    cluster.run_ms(100);
    assert_eq!(known(&mut cluster, R2, &device), cluster.epoch(new));
}

#[test]
fn unregistering_removes_exactly_the_epoch_it_names() {
    let mut cluster = two_servers();
    let device = cluster.device_in(0, "d");
    let key = cluster.key(&device);
    let old = cluster.welcome(B, &device);
    let old_epoch = cluster.epoch(old).unwrap();
    let new = cluster.welcome(C, &device);
    cluster.inject(
        B,
        R1,
        &Unregister {
            region: RegionId(1),
            device: key,
            epoch: old_epoch,
        },
    );
    cluster.run_ms(5);
    assert_eq!(known(&mut cluster, R1, &device), cluster.epoch(new));
    cluster.disconnect(new);
    cluster.run_ms(5);
    assert_eq!(known(&mut cluster, R1, &device), None);
    // A late record of what was unregistered changes nothing.
    let late = cluster.epoch(new).unwrap();
    cluster.inject(
        C,
        R1,
        &Register {
            region: RegionId(1),
            device: key,
            epoch: late,
        },
    );
    cluster.inject(
        B,
        R1,
        &Register {
            region: RegionId(1),
            device: key,
            epoch: old_epoch,
        },
    );
    cluster.run_ms(5);
    assert_eq!(known(&mut cluster, R1, &device), None);
}

#[test]
fn on_a_new_link_all_sessions_are_streamed_and_what_is_not_repeated_is_dropped() {
    let mut cluster = two_servers();
    let (stays, leaves) = (cluster.device_in(0, "stays"), cluster.device_in(0, "leaves"));
    let staying = cluster.welcome(B, &stays);
    let leaving = cluster.welcome(B, &leaves);
    cluster.link_down(B, R1);
    cluster.disconnect(leaving);
    cluster.run_ms(10);
    assert!(known(&mut cluster, R1, &leaves).is_some(), "R1 couldn't hear of it");
    assert!(known(&mut cluster, R2, &leaves).is_none());
    let arrives = cluster.device_in(0, "arrives");
    cluster.link_up(B, R1);
    let arriving = cluster.welcome(B, &arrives);
    assert_eq!(known(&mut cluster, R1, &stays), cluster.epoch(staying));
    assert_eq!(known(&mut cluster, R1, &arrives), cluster.epoch(arriving));
    assert_eq!(known(&mut cluster, R1, &leaves), None);
}

#[test]
fn an_older_session_has_lost_to_one_of_which_only_the_end_is_heard() {
    let mut cluster = two_servers();
    let device = cluster.device_in(0, "d");
    let older = cluster.welcome(B, &device);
    let (device_key, region) = (cluster.key(&device), RegionId(1));
    let newer = Epoch {
        clock: 1 << 60,
        node: node(C),
    };
    let end = Unregister {
        region,
        device: device_key,
        epoch: newer,
    };
    for instance in [R1, R2] {
        cluster.inject(C, instance, &end);
    }
    cluster.run_ms(50);
    assert_eq!(known(&mut cluster, R1, &device), None);
    assert_eq!(known(&mut cluster, R2, &device), None);
    assert!(
        cluster.told(older).contains(&Told::Superseded(newer)),
        "{:?}",
        cluster.told(older)
    );
    assert!(!cluster.is_open(older));
}

#[test]
fn registrations_made_during_a_stream_count_as_repeated() {
    let mut cluster = two_servers();
    let device = cluster.device_in(0, "d");
    let (key, region) = (cluster.key(&device), RegionId(1));
    let epoch = Epoch {
        clock: 1 << 60,
        node: node(B),
    };
    cluster.inject(B, R1, &SyncBegin { region, sync: 77 });
    cluster.inject(
        B,
        R1,
        &Register {
            region,
            device: key,
            epoch,
        },
    );
    cluster.inject(
        B,
        R1,
        &SyncEnd {
            region,
            sync: 77,
            shards: 1,
        },
    );
    cluster.run_ms(5);
    assert_eq!(known(&mut cluster, R1, &device), Some(epoch));
}

#[test]
fn frames_of_an_older_link_no_longer_count() {
    let mut cluster = two_servers();
    let device = cluster.device_in(0, "d");
    let (key, region) = (cluster.key(&device), RegionId(1));
    let epoch = Epoch {
        clock: 1 << 60,
        node: node(B),
    };
    cluster.inject_stale(
        B,
        R1,
        &Register {
            region,
            device: key,
            epoch,
        },
    );
    cluster.run_ms(5);
    assert_eq!(known(&mut cluster, R1, &device), None);
    assert_eq!(cluster.router(R1).counters().frames_stale_link, 1);
}

#[test]
fn a_server_speaks_for_its_own_sessions_only() {
    let mut cluster = two_servers();
    let device = cluster.device_in(0, "d");
    let (key, region) = (cluster.key(&device), RegionId(1));
    let epoch = Epoch {
        clock: 1 << 60,
        node: node(C),
    };
    cluster.inject(
        B,
        R1,
        &Register {
            region,
            device: key,
            epoch,
        },
    );
    cluster.run_ms(5);
    assert_eq!(known(&mut cluster, R1, &device), None);
}

#[test]
fn a_lost_connection_server_is_suspect_before_it_is_gone() {
    let mut cluster = two_servers();
    let device = cluster.device_in(0, "d");
    cluster.welcome(B, &device);
    cluster.cut_off(B);
    cluster.run_ms(9_900);
    assert!(known(&mut cluster, R1, &device).is_some());
    assert!(!cluster.router(R1).in_sync());
    cluster.run_ms(200);
    assert_eq!(known(&mut cluster, R1, &device), None);
    assert!(cluster.router(R1).in_sync(), "nobody waits for a server that is gone");
}

#[test]
fn a_server_that_was_gone_brings_its_sessions_back() {
    let mut cluster = two_servers();
    let device = cluster.device_in(0, "d");
    let conn = cluster.welcome(B, &device);
    cluster.cut_off(B);
    cluster.run_ms(15_000);
    assert_eq!(known(&mut cluster, R1, &device), None);
    cluster.join_again(B);
    cluster.run_ms(100);
    assert_eq!(known(&mut cluster, R1, &device), cluster.epoch(conn));
    assert_eq!(known(&mut cluster, R2, &device), cluster.epoch(conn));
    assert!(cluster.is_open(conn), "nobody is disconnected by a healing");
}

#[test]
fn a_device_is_welcomed_once_all_reachable_instances_have_taken_its_registration() {
    let mut cluster = two_servers();
    let device = cluster.device_in(0, "d");
    cluster.hold(R2, B);
    let conn = cluster.connect(B, &device);
    cluster.run_ms(100);
    assert_eq!(cluster.epoch(conn), None, "R2 is in reach and hasn't answered");
    cluster.let_go(R2, B);
    cluster.run_ms(5);
    assert!(cluster.epoch(conn).is_some());
    assert_eq!(cluster.router(B).counters().welcomes_late, 0);
}

#[test]
fn a_device_that_can_be_found_is_welcomed_after_a_quarter_of_a_second_at_the_latest() {
    let mut cluster = two_servers();
    let device = cluster.device_in(0, "d");
    cluster.hold(R2, B);
    let conn = cluster.connect(B, &device);
    cluster.run_ms(249);
    assert_eq!(cluster.epoch(conn), None);
    cluster.run_ms(2);
    assert!(cluster.epoch(conn).is_some());
    assert_eq!(cluster.router(B).counters().welcomes_late, 1);
}

/// When a device of which no instance has heard is welcomed at the latest.
const WELCOMED_ALONE_MS: u64 = 3_250;

#[test]
fn a_device_that_nobody_could_find_is_welcomed_when_the_first_instance_has_heard_of_it() {
    let mut cluster = two_servers();
    let device = cluster.device_in(0, "d");
    cluster.cut_off(B);
    let conn = cluster.connect(B, &device);
    cluster.run_ms(1_000);
    assert_eq!(cluster.epoch(conn), None, "its region would call it offline");
    cluster.link_up(B, R1);
    cluster.run_ms(10);
    assert!(cluster.epoch(conn).is_some());
    assert_eq!(cluster.router(B).counters().welcomes_alone, 0);
}

#[test]
fn a_silent_link_is_not_believed_to_lead_to_an_instance_until_one_has_answered() {
    let mut cluster = two_servers();
    let device = cluster.device_in(0, "d");
    let sender = cluster.welcome(C, "sender");
    // Neither side has noticed yet that nothing comes through.
    for instance in [R1, R2] {
        cluster.hold(B, instance);
    }
    let conn = cluster.connect(B, &device);
    cluster.run_ms(2_900);
    assert_eq!(cluster.epoch(conn), None);
    for instance in [R1, R2] {
        cluster.link_down(B, instance);
    }
    cluster.run_ms(WELCOMED_ALONE_MS - 2_900);
    assert!(cluster.epoch(conn).is_some(), "it serves whom it reaches");
    assert_eq!(cluster.router(B).counters().welcomes_alone, 1);
    cluster.link_down(B, C);
    cluster.send(sender, &device, 0);
    cluster.run_ms(1_000);
    assert_eq!(
        cluster.reports(sender),
        [],
        "tried again: its region knows that it has not heard B"
    );
}

#[test]
fn an_unreachable_instance_is_not_waited_for() {
    let mut cluster = two_servers();
    let device = cluster.device_in(0, "d");
    cluster.link_down(B, R2);
    let conn = cluster.connect(B, &device);
    cluster.run_ms(20);
    assert!(cluster.epoch(conn).is_some());
}
