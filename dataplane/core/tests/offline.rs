//! The claims about "offline": it is never guessed.

mod cluster;

use cluster::{CONNECTION, Cluster, INSTANCE};
use trunkline_wire::id::RegionId;
use trunkline_wire::peer::{MapVersion, SyncBegin, SyncEnd};
use trunkline_wire::report::{Outcome, Way};

const A: usize = 0;
const B: usize = 1;
const R1: usize = 2;
const R2: usize = 3;

fn cluster() -> Cluster {
    Cluster::new(&[CONNECTION, CONNECTION, INSTANCE, INSTANCE], &[&[R1, R2]])
}

const OFFLINE: Outcome = Outcome::Offline {
    unreachable: false,
    maybe_delivered: false,
};

#[test]
fn an_unknown_device_is_offline_once_the_siblings_were_asked() {
    let mut cluster = cluster();
    let from = cluster.welcome(A, "a");
    cluster.send(from, "nobody", 0);
    cluster.run_ms(20);
    assert_eq!(cluster.reports(from), [(0, OFFLINE, Way::Unknown)]);
    let asked: u64 = [R1, R2]
        .iter()
        .map(|&r| cluster.router(r).counters().locates_sent)
        .sum();
    assert_eq!(asked, 1);
}

#[test]
fn a_sibling_that_knows_the_device_is_believed() {
    let mut cluster = cluster();
    let from = cluster.welcome(A, "a");
    // B's link to one of the instances brings nothing; the other one knows.
    cluster.hold(B, R1);
    let to = cluster.connect(B, "b");
    cluster.run_ms(300);
    cluster.link_down(A, R2);
    cluster.send(from, "b", 0);
    cluster.run_ms(50);
    assert_eq!(cluster.reports(from)[0].1, Outcome::Delivered { late: false });
    assert_eq!(cluster.deliveries(to), 1);
    assert_eq!(cluster.router(R1).counters().locates_sent, 1);
}

#[test]
fn a_sibling_that_has_not_heard_that_a_session_ended_is_asked_once() {
    let mut cluster = cluster();
    let from = cluster.welcome(A, "a");
    let to = cluster.welcome(B, "b");
    // The end of the session reaches one instance only: the one that is not asked first stays behind.
    cluster.send(from, "b", 0);
    cluster.run_ms(20);
    let behind = if cluster.router(R1).counters().forwards_from_region > 0 {
        R2
    } else {
        R1
    };
    cluster.hold(B, behind);
    cluster.disconnect(to);
    cluster.run_ms(5);
    cluster.send(from, "b", 1);
    cluster.run_ms(50);
    assert_eq!(cluster.reports(from)[1], (1, OFFLINE, Way::Unknown));
    assert_eq!(cluster.router(R1 + R2 - behind).counters().locates_sent, 1);
}

#[test]
fn a_device_that_registers_while_a_sibling_is_asked_gets_what_waited_whatever_the_sibling_says() {
    let mut cluster = cluster();
    let from = cluster.welcome(A, "a");
    for (asked, sibling) in [(R1, R2), (R2, R1)] {
        cluster.hold(sibling, asked);
    }
    cluster.send(from, "b", 0);
    cluster.run_ms(5);
    // Neither sibling knew it when it was asked.
    let to = cluster.connect(B, "b");
    cluster.run_ms(5);
    assert_eq!(cluster.deliveries(to), 1, "it need not wait");
    for (asked, sibling) in [(R1, R2), (R2, R1)] {
        cluster.let_go(sibling, asked);
    }
    cluster.run_ms(20);
    assert_eq!(cluster.reports(from)[0].1, Outcome::Delivered { late: false });
}

#[test]
fn an_instance_that_is_not_in_sync_says_retry_and_not_offline() {
    let mut cluster = Cluster::apart(&[CONNECTION, CONNECTION, INSTANCE], &[&[2]]);
    cluster.link_up(A, 2);
    cluster.run_ms(10);
    let from = cluster.welcome(A, "a");
    cluster.send(from, "b", 0);
    cluster.run_ms(5_000);
    assert_eq!(cluster.reports(from), [], "B hasn't been heard: who knows");
    assert!(cluster.router(2).counters().retry_not_in_sync > 0);
    cluster.link_up(B, 2);
    let to = cluster.welcome(B, "b");
    cluster.run_ms(2_000);
    assert_eq!(cluster.reports(from)[0].1, Outcome::Delivered { late: false });
    assert_eq!(cluster.deliveries(to), 1);
}

#[test]
fn an_unreachable_sibling_means_retry_for_ten_seconds_then_offline_unreachable() {
    let mut cluster = cluster();
    let from = cluster.welcome(A, "a");
    cluster.cut_off(R2);
    cluster.send(from, "nobody", 0);
    cluster.run_ms(9_000);
    assert_eq!(cluster.reports(from), []);
    cluster.run_ms(3_500);
    let outcome = Outcome::Offline {
        unreachable: true,
        maybe_delivered: false,
    };
    assert_eq!(cluster.reports(from), [(0, outcome, Way::Unknown)]);
}

#[test]
fn a_pause_clears_in_sync_before_any_input_is_handled() {
    let mut cluster = Cluster::new(&[CONNECTION, CONNECTION, INSTANCE], &[&[2]]);
    let from = cluster.welcome(A, "a");
    // While the instance is paused, `b` connects, and the news of it lie behind the message.
    cluster.pause(2, 1_500);
    cluster.send(from, "b", 0);
    cluster.run_ms(1_400);
    let to = cluster.connect(B, "b");
    cluster.run_ms(50);
    assert!(cluster.router(2).in_sync(), "it hasn't noticed yet");
    cluster.run_ms(2_500);
    assert_eq!(cluster.router(2).counters().presence_pauses, 1);
    assert_eq!(
        cluster.reports(from)[0].1,
        Outcome::Delivered { late: false },
        "it was not called offline"
    );
    assert_eq!(cluster.deliveries(to), 1);
    assert!(cluster.router(2).in_sync(), "all that was sent meanwhile has been read");
}

#[test]
fn an_idle_instance_is_not_taken_for_paused() {
    let mut cluster = cluster();
    cluster.run_ms(5_000);
    assert_eq!(cluster.router(R1).counters().presence_pauses, 0);
}

#[test]
fn of_a_lost_server_s_devices_nobody_says_offline_before_it_is_gone() {
    let mut cluster = cluster();
    let from = cluster.welcome(A, "a");
    cluster.welcome(B, "b");
    cluster.cut_off(B);
    cluster.send(from, "b", 0);
    cluster.run_ms(9_000);
    assert_eq!(cluster.reports(from), []);
    cluster.run_ms(4_000);
    assert_eq!(cluster.reports(from)[0].1, OFFLINE);
}

#[test]
fn what_a_sibling_knew_of_a_server_that_is_gone_is_forgotten_when_the_server_dies() {
    let mut cluster = cluster();
    let from = cluster.welcome(A, "a");
    cluster.welcome(B, "b");
    cluster.link_down(B, R1);
    cluster.run_ms(11_000);
    cluster.link_down(A, R2);
    cluster.send(from, "b", 0);
    cluster.run_ms(50);
    let key = cluster.key("b");
    assert!(
        cluster.router(R1).explain(key).presence.is_some(),
        "the sibling was asked"
    );
    cluster.cut_off(B);
    cluster.run_ms(12_000);
    assert_eq!(cluster.router(R1).explain(key).presence, None);
    assert_eq!(cluster.router(R2).explain(key).presence, None);
}

#[test]
fn a_sibling_that_could_not_hear_of_a_session_s_end_does_not_bring_it_back_to_an_instance_that_did() {
    let mut cluster = cluster();
    let from = cluster.welcome(A, "a");
    let to = cluster.welcome(B, "b");
    let key = cluster.key("b");
    cluster.cut_off(B);
    cluster.disconnect(to);
    // One instance hears everything of B again, and the other one can't yet: by it, the session is still there.
    cluster.link_up(B, R1);
    cluster.link_down(A, R2);
    cluster.run_ms(20);
    assert_eq!(cluster.router(R1).explain(key).presence, None);
    assert!(cluster.router(R2).explain(key).presence.is_some());
    cluster.send(from, "b", 0);
    cluster.run_ms(50);
    assert!(cluster.router(R1).counters().locates_sent > 0);
    assert!(cluster.router(B).counters().forwards_not_here > 0, "B itself is asked");
    assert_eq!(cluster.router(R1).explain(key).presence, None);
    cluster.link_up(B, R2);
    cluster.link_up(A, R2);
    cluster.run_ms(2_000);
    assert_eq!(cluster.router(R1).explain(key).presence, None);
    assert_eq!(cluster.router(R2).explain(key).presence, None);
    assert_eq!(cluster.reports(from)[0].1, OFFLINE);
}

#[test]
fn what_a_sibling_says_while_a_server_names_its_sessions_goes_with_the_end_of_that_if_it_was_not_named() {
    let mut cluster = cluster();
    let from = cluster.welcome(A, "a");
    let to = cluster.welcome(B, "b");
    let key = cluster.key("b");
    cluster.link_down(B, R1);
    cluster.run_ms(5_000);
    cluster.link_down(B, R2);
    cluster.disconnect(to);
    cluster.run_ms(6_000);
    assert_eq!(cluster.router(R1).explain(key).presence, None, "B is gone to it");
    assert!(cluster.router(R2).explain(key).presence.is_some());
    cluster.link_down(A, R2);
    cluster.hold(R2, R1);
    cluster.send(from, "b", 0);
    cluster.run_ms(5);
    assert_eq!(cluster.router(R1).counters().locates_sent, 1);
    // The answer comes between the beginning and the end of B's stream.
    cluster.link_up(B, R1);
    cluster.hold(B, R1);
    cluster.lose(B, R1);
    let (region, sync) = (RegionId(1), 77);
    let (version, newest) = (1, 1);
    cluster.inject(B, R1, &MapVersion { version, newest });
    cluster.inject(B, R1, &SyncBegin { region, sync });
    cluster.let_go(B, R1);
    cluster.run_ms(5);
    cluster.let_go(R2, R1);
    cluster.run_ms(2);
    assert!(cluster.router(R1).explain(key).presence.is_some());
    cluster.inject(
        B,
        R1,
        &SyncEnd {
            region,
            sync,
            shards: 1,
        },
    );
    cluster.run_ms(5);
    assert_eq!(cluster.router(R1).explain(key).presence, None);
}
