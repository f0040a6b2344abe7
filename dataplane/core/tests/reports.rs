//! The claims about confirmed messages: exactly one report, whatever happens to their device.

mod cluster;

use std::time::Duration;

use cluster::{CONNECTION, Cluster, INSTANCE, Told};
use trunkline_wire::report::{Number, Outcome, RejectReason, TtlMs};

const A: usize = 0;
const B: usize = 1;
const R1: usize = 2;
const R2: usize = 3;

fn cluster() -> Cluster {
    Cluster::new(&[CONNECTION, CONNECTION, INSTANCE, INSTANCE], &[&[R1, R2]])
}

const DELIVERED: Outcome = Outcome::Delivered { late: false };

#[test]
fn a_mute_device_s_message_expires_and_may_have_been_delivered() {
    let mut cluster = cluster();
    let from = cluster.welcome(A, "a");
    let to = cluster.welcome(B, "b");
    cluster.mute(to);
    cluster.send_with(
        from,
        "b",
        Number {
            number: 0,
            confirmed: Some(0),
        },
        TtlMs::new(5_000).unwrap(),
    );
    cluster.run_ms(4_990);
    assert_eq!(cluster.reports(from), []);
    cluster.run_ms(50);
    assert_eq!(cluster.reports(from).len(), 1);
    assert_eq!(cluster.reports(from)[0].1, Outcome::Expired { maybe_delivered: true });
    assert_eq!(
        cluster.deliveries(to),
        1,
        "copies of a message that waits for its acknowledgement are not written"
    );
    assert!(cluster.router(B).counters().duplicates_held >= 1);
}

#[test]
fn when_the_recipient_s_server_dies_and_the_device_comes_back_elsewhere_the_message_is_delivered() {
    let mut cluster = cluster();
    let (from, old) = cluster.unacknowledged(A, B);
    cluster.cut_off(B);
    let new = cluster.connect_presenting(A, "b", cluster.epoch(old).unwrap(), 1);
    cluster.run_ms(5_000);
    assert_eq!(cluster.reports(from).len(), 1);
    assert_eq!(cluster.reports(from)[0].1, DELIVERED);
    assert_eq!(cluster.deliveries(new), 1);
}

#[test]
fn when_the_recipient_s_server_dies_for_good_the_report_says_that_it_may_have_been_delivered() {
    let mut cluster = cluster();
    let (from, _) = cluster.unacknowledged(A, B);
    cluster.cut_off(B);
    cluster.run_ms(20_000);
    assert_eq!(cluster.reports(from).len(), 1);
    assert_eq!(
        cluster.reports(from)[0].1,
        Outcome::Offline {
            unreachable: false,
            maybe_delivered: true
        }
    );
}

#[test]
fn a_session_that_ends_hands_its_unacknowledged_messages_back() {
    let mut cluster = cluster();
    let (from, old) = cluster.unacknowledged(A, B);
    cluster.disconnect(old);
    cluster.run_ms(100);
    assert_eq!(
        cluster.reports(from)[0].1,
        Outcome::Offline {
            unreachable: false,
            maybe_delivered: true
        }
    );
}

#[test]
fn a_message_that_is_sent_again_while_it_is_unresolved_is_one_message() {
    let mut cluster = cluster();
    let (first, to) = cluster.unacknowledged(A, B);
    let again = cluster.connect_presenting(A, "a", cluster.epoch(first).unwrap(), 1);
    cluster.run_ms(300);
    cluster.send(again, "b", 0);
    cluster.run_ms(20);
    assert_eq!(cluster.router(A).counters().messages_resent, 1);
    assert_eq!(cluster.deliveries(to), 1);
    let delivery = cluster.told(to).iter().find_map(|told| match told {
        Told::Deliver { delivery, .. } => Some(*delivery),
        _ => None,
    });
    let ack = trunkline_wire::device::Acknowledge {
        delivery: delivery.unwrap(),
        late: false,
    };
    cluster.say(to, &trunkline_wire::device::ClientFrame::Acknowledge(ack));
    cluster.run_ms(20);
    assert_eq!(cluster.reports(first), []);
    assert_eq!(cluster.reports(again).len(), 1, "the session that asks is told");
}

#[test]
fn a_device_that_does_not_read_is_refused_more_and_then_closed() {
    let mut cluster = cluster();
    let from = cluster.welcome(B, "a");
    let to = cluster.welcome(B, "b");
    cluster.stop_reading(to);
    for number in 0..40_000u64 {
        cluster.send_with(
            from,
            "b",
            Number {
                number,
                confirmed: None,
            },
            TtlMs::default(),
        );
    }
    cluster.run_ms(10);
    assert!(cluster.router(B).counters().dropped_busy > 0);
    cluster.send(from, "b", 40_000);
    cluster.run_ms(10);
    let busy = Outcome::Rejected {
        reason: RejectReason::Busy,
        maybe_delivered: false,
    };
    assert_eq!(cluster.reports(from)[0].1, busy);
    cluster.run_ms(31_000);
    assert!(!cluster.is_open(to));
    assert_eq!(cluster.router(B).counters().devices_slow_closed, 1);
}

#[test]
fn a_sender_with_too_many_unresolved_messages_is_told_busy() {
    let mut cluster = cluster();
    let from = cluster.welcome(A, "a");
    let to = cluster.welcome(A, "b");
    cluster.mute(to);
    for number in 0..1_025 {
        cluster.send(from, "b", number);
    }
    cluster.run_ms(5);
    let reports = cluster.reports(from);
    assert_eq!(reports.len(), 1);
    assert_eq!(reports[0].0, 1_024);
    assert!(matches!(
        reports[0].1,
        Outcome::Rejected {
            reason: RejectReason::Busy,
            ..
        }
    ));
}

#[test]
fn a_fire_and_forget_message_gets_no_report_and_no_retry() {
    let mut cluster = cluster();
    let from = cluster.welcome(A, "a");
    cluster.send_with(
        from,
        "nobody",
        Number {
            number: 0,
            confirmed: None,
        },
        TtlMs::default(),
    );
    cluster.run_ms(3_000);
    assert_eq!(cluster.reports(from), []);
    assert_eq!(cluster.router(A).counters().retries, 0);
    let dropped: u64 = [R1, R2]
        .iter()
        .map(|&r| cluster.router(r).counters().dropped_offline)
        .sum();
    assert_eq!(dropped, 1);
}

#[test]
fn a_device_that_is_not_heard_is_closed_at_one_and_a_half_of_its_interval() {
    let mut cluster = cluster();
    let conn = cluster.welcome(A, "a");
    let interval = Duration::from_millis(trunkline_wire::device::PING_INTERVAL_MS_DEFAULT.into());
    cluster.skip(interval.mul_f64(1.5) - Duration::from_secs(1));
    assert!(cluster.is_open(conn));
    cluster.skip(Duration::from_secs(2));
    assert!(!cluster.is_open(conn));
    assert_eq!(cluster.router(A).counters().devices_idle_closed, 1);
}

#[test]
fn a_frame_before_the_welcome_or_a_second_hello_closes_the_connection() {
    let mut cluster = cluster();
    cluster.hold(R1, A);
    cluster.hold(R2, A);
    let early = cluster.connect(A, "early");
    cluster.send(early, "b", 0);
    cluster.run_ms(5);
    assert!(
        matches!(cluster.told(early), [Told::Failure(_), Told::Closed]),
        "{:?}",
        cluster.told(early)
    );
    assert_eq!(cluster.router(A).counters().devices_out_of_turn, 1);
}
