//! The claims about a link that is lost while messages are under way on it: they don't wait for a timer.

mod cluster;

use cluster::{CONNECTION, Cluster, INSTANCE};
use trunkline_core::constants::{PASSED_KEPT, RETRIES_A_SECOND, RETRIES_PERCENT};
use trunkline_wire::report::Outcome;

const A: usize = 0;
const B: usize = 1;
const R1: usize = 2;
const R2: usize = 3;

const DELIVERED: Outcome = Outcome::Delivered { late: false };

/// A visible death is acted on within this time, the messages on their way included.
const VISIBLE_MS: u64 = 250;

fn cluster() -> Cluster {
    Cluster::new(&[CONNECTION, CONNECTION, INSTANCE, INSTANCE], &[&[R1, R2]])
}

#[test]
fn what_was_on_its_way_to_an_instance_that_dies_goes_by_the_other_at_once() {
    for dies in [R1, R2] {
        let mut cluster = cluster();
        let from = cluster.welcome(A, "a");
        let to = cluster.welcome(B, "b");
        cluster.link_down(A, B);
        // What a device sends after its first report isn't held back; that one is no longer kept in mind.
        cluster.send(from, "b", 0);
        cluster.run_ms(PASSED_KEPT.as_millis() as u64 + 1);
        cluster.hold(A, dies);
        for number in 1..11 {
            cluster.send(from, "b", number);
        }
        cluster.run_ms(100);
        let under_way = 11 - cluster.reports(from).len();
        cluster.cut_off(dies);
        cluster.run_ms(VISIBLE_MS);
        assert_eq!(cluster.reports(from).len(), 11, "{under_way} were under way");
        assert!(cluster.reports(from).iter().all(|report| report.1 == DELIVERED));
        assert_eq!(cluster.deliveries(to), 11);
        assert_eq!(cluster.router(A).counters().passages_lost, under_way as u64);
    }
}

#[test]
fn what_was_on_its_way_from_an_instance_to_a_server_that_dies_reaches_the_device_where_it_comes_back() {
    let mut cluster = cluster();
    let from = cluster.welcome(A, "a");
    let old = cluster.welcome(B, "b");
    cluster.link_down(A, B);
    for instance in [R1, R2] {
        cluster.hold(instance, B);
    }
    cluster.send(from, "b", 0);
    cluster.run_ms(100);
    assert_eq!(cluster.reports(from), []);
    cluster.cut_off(B);
    let new = cluster.connect_presenting(A, "b", cluster.epoch(old).unwrap(), 1);
    cluster.run_ms(VISIBLE_MS);
    assert_eq!(cluster.reports(from).len(), 1);
    assert_eq!(cluster.reports(from)[0].1, DELIVERED);
    assert_eq!(cluster.deliveries(new), 1);
}

#[test]
fn an_answer_that_is_lost_with_its_link_is_asked_for_again_and_the_message_shown_once_to_a_session() {
    let mut cluster = cluster();
    let from = cluster.welcome(A, "a");
    let to = cluster.welcome(B, "b");
    cluster.run_ms(10);
    cluster.send(from, "b", 0);
    cluster.run_ms(20);
    // Straight there; the device has it, and its acknowledgement is on its way back.
    cluster.mute(to);
    cluster.send(from, "b", 1);
    cluster.run_ms(20);
    cluster.link_down(A, B);
    cluster.run_ms(VISIBLE_MS);
    assert_eq!(cluster.deliveries(to), 2, "the copy is not written again");
    let ack = trunkline_wire::device::Acknowledge {
        delivery: 2,
        late: false,
    };
    cluster.say(to, &trunkline_wire::device::ClientFrame::Acknowledge(ack));
    cluster.run_ms(20);
    assert_eq!(cluster.reports(from).len(), 2, "the answer goes the copy's way back");
    assert_eq!(cluster.reports(from)[1].1, DELIVERED);
}

#[test]
fn a_fire_and_forget_message_is_not_kept_in_mind() {
    let mut cluster = cluster();
    let from = cluster.welcome(A, "a");
    cluster.welcome(B, "b");
    let number = trunkline_wire::report::Number {
        number: 0,
        confirmed: None,
    };
    cluster.send_with(from, "b", number, trunkline_wire::report::TtlMs::default());
    cluster.run_ms(10);
    cluster.cut_off(A);
    assert_eq!(cluster.router(A).counters().passages_lost, 0);
}

#[test]
fn a_message_that_found_no_way_leaves_when_there_is_one_and_that_is_no_retry() {
    let mut cluster = cluster();
    let from = cluster.welcome(A, "a");
    cluster.welcome(B, "b");
    for other in [B, R1, R2] {
        cluster.link_down(A, other);
    }
    // More than any budget of retries would allow at once.
    for number in 0..500 {
        cluster.send(from, "b", number);
    }
    cluster.run_ms(3_000);
    assert_eq!(cluster.reports(from), []);
    assert_eq!(cluster.router(A).counters().retries, 0);
    cluster.link_up(A, R1);
    cluster.run_ms(1_600);
    assert_eq!(cluster.reports(from).len(), 500);
    assert!(cluster.reports(from).iter().all(|report| report.1 == DELIVERED));
    assert!(cluster.router(A).counters().retries_free > 0);
}

/// Messages that left for "b", straight to its server, and were lost on the way, while the links to its region, and to that server unless it's
/// `kept`, are lost too: retries of both kinds after so many seconds.
fn retries_of_what_had_left(kept: bool, seconds: u64) -> (u64, u64) {
    let mut cluster = cluster();
    let from = cluster.welcome(A, "a");
    cluster.welcome(B, "b");
    // A learns where "b" is.
    cluster.send(from, "b", 0);
    cluster.run_ms(20);
    cluster.hold(A, B);
    for number in 1..=400 {
        cluster.send(from, "b", number);
    }
    cluster.run_ms(20);
    cluster.lose(A, B);
    for instance in [R1, R2] {
        cluster.link_down(A, instance);
    }
    if !kept {
        cluster.link_down(A, B);
    }
    cluster.run_ms(seconds * 1_000);
    let counters = cluster.router(A).counters();
    (counters.retries, counters.retries_free)
}

#[test]
fn what_has_left_once_burdens_the_budget_also_when_it_finds_no_way_later() {
    for kept in [false, true] {
        let seconds = 5;
        let (retries, free) = retries_of_what_had_left(kept, seconds);
        let allowed = 401 * RETRIES_PERCENT / 100 + RETRIES_A_SECOND * (seconds + 1);
        assert!(
            (1..=allowed).contains(&retries),
            "{retries}, {allowed} are allowed; the link is kept: {kept}"
        );
        assert_eq!(free, 0, "the link is kept: {kept}");
    }
}

#[test]
fn a_server_that_was_paused_closes_no_device_before_it_has_read_what_came_meanwhile() {
    let mut cluster = cluster();
    let (device, mute) = (cluster.welcome(A, "a"), cluster.welcome(A, "mute"));
    let idle_ms = u64::from(trunkline_wire::device::PING_INTERVAL_MS_DEFAULT) / 2 * 3;
    cluster.skip(std::time::Duration::from_millis(idle_ms - 10_000));
    cluster.pause(A, 20_000);
    cluster.skip(std::time::Duration::from_millis(20_500));
    let ping = trunkline_wire::device::Ping { token: 1 };
    cluster.say(device, &trunkline_wire::device::ClientFrame::Ping(ping));
    cluster.skip(std::time::Duration::from_secs(5));
    assert!(cluster.is_open(device));
    assert!(!cluster.is_open(mute));
}
