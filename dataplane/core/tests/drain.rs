//! The claims about a node whose devices are sent elsewhere.

mod cluster;

use cluster::{CONNECTION, Cluster, DeviceConn, INSTANCE, Told};
use trunkline_core::router::drain::Pace;
use trunkline_wire::device::{Acknowledge, ClientFrame};
use trunkline_wire::report::Outcome;

const A: usize = 0;
const B: usize = 1;
const R1: usize = 2;
const R2: usize = 3;

const DELIVERED: Outcome = Outcome::Delivered { late: false };

fn cluster() -> Cluster {
    Cluster::new(&[CONNECTION, CONNECTION, INSTANCE, INSTANCE], &[&[R1, R2]])
}

fn pace(devices_a_second: u32) -> Pace {
    Pace {
        devices_a_second,
        retry_after_ms: 0,
    }
}

fn drain(cluster: &mut Cluster, host: usize, devices_a_second: u32) {
    let now = cluster.present(host);
    cluster.router(host).drain(now, pace(devices_a_second));
}

fn told_to_go(cluster: &Cluster, devices: &[DeviceConn]) -> usize {
    let told = |conn: &&DeviceConn| cluster.told(**conn).contains(&Told::GoAway);
    devices.iter().filter(told).count()
}

#[test]
fn devices_go_in_slices_at_the_set_rate() {
    let mut cluster = cluster();
    let devices: Vec<DeviceConn> = (0..100).map(|n| cluster.connect(B, &format!("d{n}"))).collect();
    cluster.run_ms(300);
    drain(&mut cluster, B, 50);
    for second in 1..=2 {
        cluster.run_ms(1_000);
        let gone = told_to_go(&cluster, &devices);
        assert!(
            (second * 50 - 2..=second * 50).contains(&gone),
            "{gone} after {second} s"
        );
    }
    cluster.run_ms(100);
    assert_eq!(told_to_go(&cluster, &devices), 100);
    assert_eq!(cluster.router(B).sessions(), 0);
}

#[test]
fn whose_turn_has_not_come_stays_when_the_drain_is_undone() {
    let mut cluster = cluster();
    let devices: Vec<DeviceConn> = (0..20).map(|n| cluster.connect(B, &format!("d{n}"))).collect();
    cluster.run_ms(300);
    drain(&mut cluster, B, 10);
    cluster.run_ms(1_000);
    cluster.router(B).stay();
    cluster.run_ms(3_000);
    let gone = told_to_go(&cluster, &devices);
    assert!((9..=10).contains(&gone), "{gone}");
    let from = cluster.welcome(A, "a");
    let kept = (0..20).rev().find(|n| cluster.is_open(devices[*n])).unwrap();
    cluster.send(from, &format!("d{kept}"), 0);
    cluster.run_ms(50);
    assert_eq!(cluster.reports(from)[0].1, DELIVERED);
}

#[test]
fn a_device_finishes_what_is_open_before_it_goes() {
    let mut cluster = cluster();
    let (from, to) = cluster.unacknowledged(A, B);
    drain(&mut cluster, B, 100);
    cluster.run_ms(500);
    assert_eq!(told_to_go(&cluster, &[to]), 0);
    // It is given nothing new meanwhile.
    cluster.send(from, "b", 1);
    cluster.run_ms(100);
    assert_eq!(cluster.deliveries(to), 1);
    let late = false;
    cluster.say(to, &ClientFrame::Acknowledge(Acknowledge { delivery: 1, late }));
    cluster.run_ms(50);
    assert_eq!(told_to_go(&cluster, &[to]), 1);
    assert_eq!(cluster.reports(from), [cluster.reports(from)[0]]);
    assert_eq!(cluster.reports(from)[0].1, DELIVERED);
    let new = cluster.connect_presenting(A, "b", cluster.epoch(to).unwrap(), 1);
    cluster.run_ms(1_000);
    assert_eq!(cluster.deliveries(new), 1, "what it was not given waited for it");
    assert_eq!(cluster.reports(from)[1].1, DELIVERED);
}

#[test]
fn one_that_never_finishes_goes_after_a_second() {
    let mut cluster = cluster();
    let (from, to) = cluster.unacknowledged(A, B);
    drain(&mut cluster, B, 100);
    cluster.run_ms(1_100);
    assert_eq!(told_to_go(&cluster, &[to]), 1);
    assert_eq!(cluster.router(B).counters().drained_unfinished, 1);
    let new = cluster.connect_presenting(A, "b", cluster.epoch(to).unwrap(), 1);
    cluster.run_ms(1_000);
    assert_eq!(cluster.deliveries(new), 1);
    assert_eq!(cluster.reports(from)[0].1, DELIVERED);
}

#[test]
fn nobody_calls_a_device_offline_while_it_is_on_its_way_elsewhere() {
    let mut cluster = cluster();
    let from = cluster.welcome(A, "a");
    let old = cluster.welcome(B, "b");
    drain(&mut cluster, B, 1_000);
    cluster.run_ms(50);
    assert_eq!(told_to_go(&cluster, &[old]), 1);
    for number in 0..10 {
        cluster.send(from, "b", number);
        cluster.run_ms(100);
    }
    assert_eq!(cluster.reports(from), []);
    let new = cluster.connect_presenting(A, "b", cluster.epoch(old).unwrap(), 1);
    cluster.run_ms(2_500);
    assert_eq!(cluster.deliveries(new), 10);
    assert_eq!(cluster.reports(from).len(), 10);
    assert!(cluster.reports(from).iter().all(|report| report.1 == DELIVERED));
}

#[test]
fn one_that_comes_up_nowhere_is_offline_after_ten_seconds() {
    let mut cluster = cluster();
    let from = cluster.welcome(A, "a");
    cluster.welcome(B, "b");
    drain(&mut cluster, B, 1_000);
    cluster.run_ms(50);
    cluster.send(from, "b", 0);
    cluster.run_ms(9_500);
    assert_eq!(cluster.reports(from), []);
    cluster.run_ms(2_000);
    assert!(matches!(cluster.reports(from)[0].1, Outcome::Offline { .. }));
}

#[test]
fn an_instance_that_starts_meanwhile_still_finds_it_here() {
    let mut cluster = cluster();
    let from = cluster.welcome(A, "a");
    cluster.welcome(B, "b");
    drain(&mut cluster, B, 1_000);
    cluster.run_ms(50);
    for instance in [R1, R2] {
        cluster.link_down(B, instance);
        cluster.link_up(B, instance);
    }
    cluster.run_ms(50);
    cluster.send(from, "b", 0);
    cluster.run_ms(1_000);
    assert_eq!(cluster.reports(from), [], "tried again, not offline");
}

#[test]
fn who_attaches_to_a_node_that_is_drained_is_sent_on() {
    let mut cluster = cluster();
    drain(&mut cluster, B, 100);
    cluster.run_ms(100);
    let late = cluster.connect(B, "late");
    cluster.run_ms(1_500);
    assert_eq!(told_to_go(&cluster, &[late]), 1);
}

#[test]
fn an_instance_that_never_hears_where_a_device_went_is_told_by_its_server_that_it_left() {
    let mut cluster = cluster();
    let old = cluster.welcome(B, "b");
    let key = cluster.key("b");
    let epoch = cluster.epoch(old).unwrap();
    drain(&mut cluster, B, 100);
    cluster.run_ms(100);
    assert!(!cluster.is_open(old));
    // It comes up, and ends, at a server that one of the instances can't hear.
    cluster.link_down(A, R1);
    let new = cluster.connect_presenting(A, "b", epoch, 1);
    cluster.run_ms(300);
    cluster.disconnect(new);
    cluster.run_ms(10);
    cluster.link_up(A, R1);
    cluster.run_ms(10_000);
    assert_eq!(cluster.router(R1).explain(key).presence, None);
    assert_eq!(cluster.router(R2).explain(key).presence, None);
}

#[test]
fn a_device_that_was_sent_away_is_on_its_way_until_it_has_come_up_elsewhere() {
    let mut cluster = cluster();
    let old = cluster.welcome(B, "b");
    cluster.welcome(B, "never seen again");
    drain(&mut cluster, B, 1_000);
    cluster.run_ms(50);
    assert_eq!((cluster.router(B).sessions(), cluster.router(B).on_their_way()), (0, 2));
    cluster.connect_presenting(A, "b", cluster.epoch(old).unwrap(), 1);
    cluster.run_ms(50);
    assert_eq!(cluster.router(B).on_their_way(), 1);
    cluster.run_ms(10_000);
    assert_eq!(cluster.router(B).on_their_way(), 0);
}

#[test]
fn nobody_is_waited_for_where_there_is_no_other_server() {
    let mut cluster = Cluster::new(&[CONNECTION, INSTANCE], &[&[1]]);
    cluster.welcome(0, "a");
    drain(&mut cluster, 0, 1_000);
    cluster.run_ms(50);
    assert_eq!((cluster.router(0).sessions(), cluster.router(0).on_their_way()), (0, 0));
}

#[test]
fn what_was_sent_to_a_device_on_its_way_follows_in_order_and_all_but_one_of_it_for_the_first_time() {
    let mut cluster = cluster();
    let from = cluster.welcome(A, "a");
    let old = cluster.welcome(B, "b");
    drain(&mut cluster, B, 1_000);
    cluster.run_ms(50);
    for number in 0..400 {
        cluster.send(from, "b", number);
        cluster.run_ms(5);
    }
    assert_eq!(cluster.reports(from), []);
    let new = cluster.connect_presenting(A, "b", cluster.epoch(old).unwrap(), 1);
    cluster.run_ms(2_000);
    let numbers = |told: &Told| match told {
        Told::Deliver { number, .. } => Some(*number),
        _ => None,
    };
    let shown: Vec<u64> = cluster.told(new).iter().filter_map(numbers).collect();
    assert_eq!(shown, (0..400).collect::<Vec<u64>>());
    assert!(cluster.reports(from).iter().all(|report| report.1 == DELIVERED));
    assert_eq!(cluster.reports(from).len(), 400);
    let counters = cluster.router(A).counters();
    assert_eq!(counters.messages_held_back, 399);
    assert!(counters.retries < 15, "{} retries", counters.retries);
}
