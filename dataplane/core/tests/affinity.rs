//! History follows the device: what one server has learnt of it, the next one knows before the first message.

mod cluster;

use std::time::Duration;

use cluster::{CONNECTION, Cluster, DeviceConn, INSTANCE, node};
use trunkline_core::predictor::Origin;
use trunkline_core::router::REMEMBER_AFTER;
use trunkline_wire::control::Roles;
use trunkline_wire::frame::Encode;
use trunkline_wire::peer::{Recall, Register, Remember};

const A: usize = 0;
const B: usize = 1;
const C: usize = 2;
const R1: usize = 3;
const R2: usize = 4;

fn cluster() -> Cluster {
    Cluster::new(&[CONNECTION, CONNECTION, CONNECTION, INSTANCE, INSTANCE], &[&[R1, R2]])
}

/// `a`, at A, has written to `b`, at B.
fn acquainted(cluster: &mut Cluster) -> DeviceConn {
    let a = cluster.welcome(A, "a");
    cluster.welcome(B, "b");
    for number in 0..3 {
        cluster.send(a, "b", number);
        cluster.run_ms(50);
    }
    a
}

/// Whom `device` is expected to write to at `host`, and from where that is known.
fn expected(cluster: &mut Cluster, host: usize, device: &str) -> Vec<(String, Origin)> {
    let key = cluster.key(device);
    let names = ["a", "b", "c"].map(|name| (cluster.key(name).partner(), name.to_owned()));
    let explained = cluster.router(host).explain(key).expected;
    let named = explained.iter().map(|partner| {
        let (_, name) = names
            .iter()
            .find(|(key, _)| *key == partner.device)
            .expect("one of these");
        (name.clone(), partner.origin)
    });
    named.collect()
}

fn carried(cluster: &Cluster, from: usize, to: usize, ty: u8) -> usize {
    let frames = cluster.carried.iter();
    frames.filter(|&&frame| frame == (node(from), node(to), ty)).count()
}

#[test]
fn who_reconnects_elsewhere_is_expected_to_write_to_its_partners_from_the_welcome_on() {
    let mut cluster = cluster();
    let a = acquainted(&mut cluster);
    cluster.disconnect(a);
    cluster.run_ms(50);
    cluster.wishes.clear();
    cluster.welcome(C, "a");
    assert_eq!(expected(&mut cluster, C, "a"), [("b".to_owned(), Origin::Region)]);
    let b_key = cluster.key("b");
    let location = cluster.router(C).explain(b_key).location;
    assert_eq!(location.map(|(epoch, _)| epoch.node), Some(node(B)));
    let wished = cluster.wishes.iter();
    let wished = wished.filter(|(by, _)| *by == node(C)).map(|(_, wish)| wish.node);
    assert_eq!(wished.collect::<Vec<_>>(), [node(B)], "before any message");
}

#[test]
fn a_partner_that_is_written_to_again_is_known_from_this_session() {
    let mut cluster = cluster();
    let a = acquainted(&mut cluster);
    cluster.disconnect(a);
    cluster.run_ms(50);
    let a = cluster.welcome(C, "a");
    cluster.send(a, "b", 10);
    cluster.run_ms(50);
    assert_eq!(expected(&mut cluster, C, "a"), [("b".to_owned(), Origin::Session)]);
}

#[test]
fn the_history_of_a_session_that_was_superseded_comes_after_the_device() {
    let mut cluster = cluster();
    let a = acquainted(&mut cluster);
    assert!(!cluster.remembers(R1, "a"), "its minute is not over");
    cluster.welcome(C, "a");
    cluster.run_ms(50);
    assert!(!cluster.is_open(a));
    assert_eq!(expected(&mut cluster, C, "a"), [("b".to_owned(), Origin::Region)]);
}

#[test]
fn a_region_is_told_once_a_minute_however_many_messages_there_are() {
    let mut cluster = cluster();
    let a = cluster.welcome(A, "a");
    cluster.welcome(B, "b");
    for number in 0..360 {
        cluster.send(a, "b", number);
        cluster.skip(Duration::from_millis(500));
    }
    for (server, instance) in [(A, R1), (A, R2), (B, R1), (B, R2)] {
        let told = carried(&cluster, server, instance, Remember::TYPE);
        assert!((2..=3).contains(&told), "{told}");
    }
    // What nothing has changed is not told again.
    cluster.skip(2 * REMEMBER_AFTER);
    let told = carried(&cluster, A, R1, Remember::TYPE);
    cluster.skip(10 * REMEMBER_AFTER);
    assert_eq!(carried(&cluster, A, R1, Remember::TYPE), told);
}

#[test]
fn who_never_had_to_do_with_anybody_costs_no_frame() {
    let mut cluster = cluster();
    let a = cluster.welcome(A, "a");
    cluster.skip(2 * REMEMBER_AFTER);
    cluster.disconnect(a);
    cluster.run_ms(50);
    cluster.welcome(C, "a");
    let frames = cluster.carried.iter();
    assert_eq!(
        frames
            .filter(|(.., ty)| [Remember::TYPE, Recall::TYPE].contains(ty))
            .count(),
        0
    );
}

#[test]
fn the_history_is_there_before_the_answer_to_the_registration() {
    let mut cluster = cluster();
    let a = acquainted(&mut cluster);
    cluster.disconnect(a);
    cluster.run_ms(50);
    cluster.carried.clear();
    cluster.welcome(C, "a");
    let answers = cluster.carried.iter().filter(|(_, to, _)| *to == node(C));
    let answers: Vec<u8> = answers.map(|(.., ty)| *ty).take(2).collect();
    assert_eq!(answers, [Recall::TYPE, 0x31]);
    assert_eq!(carried(&cluster, C, R1, Register::TYPE), 1);
}

#[test]
fn one_instance_that_remembers_is_enough() {
    for lost in [R1, R2] {
        let mut cluster = cluster();
        let a = acquainted(&mut cluster);
        cluster.cut_off(lost);
        cluster.disconnect(a);
        cluster.run_ms(50);
        cluster.join_again(lost);
        cluster.run_ms(50);
        assert!(!cluster.remembers(lost, "a"));
        cluster.welcome(C, "a");
        assert_eq!(expected(&mut cluster, C, "a"), [("b".to_owned(), Origin::Region)]);
    }
}

#[test]
fn an_instance_that_is_back_is_told_within_a_minute_of_those_who_are_connected() {
    let mut cluster = cluster();
    cluster.cut_off(R2);
    acquainted(&mut cluster);
    cluster.skip(2 * REMEMBER_AFTER);
    assert!(cluster.remembers(R1, "a"));
    cluster.join_again(R2);
    cluster.run_ms(10);
    assert!(!cluster.remembers(R2, "a"), "not with the sync");
    cluster.skip(REMEMBER_AFTER);
    assert!(cluster.remembers(R2, "a") && cluster.remembers(R2, "b"));
}

#[test]
fn a_list_that_comes_late_from_an_older_session_takes_nothing_away() {
    let mut cluster = cluster();
    let a = acquainted(&mut cluster);
    // What its first session tells at its end is under way for long.
    cluster.hold(A, R1);
    cluster.hold(A, R2);
    cluster.disconnect(a);
    cluster.run_ms(50);
    let a = cluster.welcome(C, "a");
    cluster.welcome(B, "c");
    cluster.send(a, "c", 0);
    cluster.run_ms(50);
    cluster.disconnect(a);
    cluster.run_ms(50);
    cluster.let_go(A, R1);
    cluster.let_go(A, R2);
    cluster.run_ms(50);
    cluster.welcome(A, "a");
    let known: Vec<String> = expected(&mut cluster, A, "a")
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert_eq!(known, ["c", "b"]);
}

#[test]
fn a_node_that_is_server_and_instance_remembers_for_itself() {
    let all = Roles {
        connection: true,
        messaging: true,
        region: true,
    };
    let mut cluster = Cluster::new(&[all], &[&[0]]);
    let a = cluster.welcome(0, "a");
    cluster.welcome(0, "b");
    cluster.send(a, "b", 0);
    cluster.run_ms(20);
    cluster.disconnect(a);
    cluster.run_ms(20);
    cluster.welcome(0, "a");
    assert_eq!(expected(&mut cluster, 0, "a"), [("b".to_owned(), Origin::Region)]);
    assert_eq!(cluster.router(0).affinities().0, 1);
}

#[test]
fn what_was_handed_out_on_a_link_that_was_lost_is_handed_out_again_on_the_next() {
    let mut cluster = cluster();
    let a = acquainted(&mut cluster);
    cluster.disconnect(a);
    cluster.run_ms(50);
    let lose_links = |cluster: &mut Cluster| {
        for instance in [R1, R2] {
            cluster.link_down(C, instance);
            cluster.link_up(C, instance);
        }
        cluster.run_ms(50);
    };
    cluster.hold(R1, C);
    cluster.hold(R2, C);
    cluster.connect(C, "a");
    cluster.run_ms(300);
    assert_eq!(expected(&mut cluster, C, "a"), [], "it was welcomed without an answer");
    lose_links(&mut cluster);
    assert_eq!(expected(&mut cluster, C, "a"), [("b".to_owned(), Origin::Region)]);
    // Once it has told what it knows itself, a new link brings nothing.
    cluster.skip(2 * REMEMBER_AFTER);
    let before = carried(&cluster, R1, C, Recall::TYPE);
    lose_links(&mut cluster);
    assert_eq!(carried(&cluster, R1, C, Recall::TYPE), before);
}
