//! What is done ahead of need: locations are asked for, links are wished for, and both are taken back when the device leaves.

mod cluster;

use cluster::{CONNECTION, Cluster, DeviceConn, INSTANCE, node};
use trunkline_core::link::Reason;
use trunkline_wire::device::{ClientFrame, Intend};
use trunkline_wire::frame::Encode;
use trunkline_wire::id::{IdRef, NodeId};
use trunkline_wire::peer::{Location, WhereIs};
use trunkline_wire::report::{Outcome, Way};

const DELIVERED: Outcome = Outcome::Delivered { late: false };

const A: usize = 0;
const B: usize = 1;
const R: usize = 2;
const C: usize = 3;

fn two_servers() -> Cluster {
    Cluster::new(&[CONNECTION, CONNECTION, INSTANCE], &[&[R]])
}

fn three_servers() -> Cluster {
    Cluster::new(&[CONNECTION, CONNECTION, INSTANCE, CONNECTION], &[&[R]])
}

#[test]
fn a_delivered_message_makes_the_way_back_known_before_the_answer() {
    let mut cluster = two_servers();
    cluster.link_down(A, B);
    let a = cluster.welcome(A, "a");
    let b = cluster.welcome(B, "b");
    cluster.send(a, "b", 0);
    cluster.run_ms(50);
    assert_eq!(cluster.deliveries(b), 1);
    let asked = (node(B), node(R), WhereIs::TYPE);
    let told = (node(R), node(B), Location::TYPE);
    assert!(cluster.carried.contains(&asked) && cluster.carried.contains(&told));
    let a_key = cluster.key("a");
    assert_eq!(
        cluster.router(B).explain(a_key).location.map(|(at, _)| at.node),
        Some(node(A))
    );
    // And B wishes for a link there, on behalf of b.
    let b_key = cluster.key("b");
    let wish = cluster.wishes.iter().find(|(by, _)| *by == node(B)).expect("a wish").1;
    assert_eq!((wish.node, wish.by), (node(A), Some(b_key)));
    assert_eq!(cluster.router(B).counters().locations_prefetched, 1);
}

/// `b` at B has a message of `a` at A, and what the region says to B is held back.
fn written_to_before_the_region_says_by_whom(cluster: &mut Cluster) -> (DeviceConn, DeviceConn) {
    let a = cluster.welcome(A, "a");
    let b = cluster.welcome(B, "b");
    intend(cluster, a, "b");
    cluster.hold(R, B);
    cluster.send(a, "b", 0);
    cluster.run_ms(50);
    (a, b)
}

#[test]
fn an_answer_goes_straight_to_where_the_message_came_from_before_the_region_has_said_where_that_is() {
    let mut cluster = two_servers();
    let (a, b) = written_to_before_the_region_says_by_whom(&mut cluster);
    cluster.send(b, "a", 0);
    cluster.run_ms(50);
    assert_eq!(cluster.reports(b), [(0, DELIVERED, Way::Direct)]);
    assert_eq!(cluster.router(B).counters().locations_supposed, 1);
    // What the region says is believed, whatever comes from elsewhere.
    cluster.let_go(R, B);
    cluster.run_ms(50);
    let a_key = cluster.key("a");
    let known = |cluster: &mut Cluster| cluster.router(B).explain(a_key).location.map(|(epoch, _)| epoch);
    assert_eq!(known(&mut cluster), cluster.epoch(a));
}

#[test]
fn where_a_message_came_from_stays_known_when_who_was_to_answer_it_leaves() {
    let mut cluster = two_servers();
    let a = cluster.welcome(A, "a");
    let b = cluster.welcome(B, "b");
    cluster.send(a, "b", 0);
    cluster.run_ms(50);
    cluster.disconnect(b);
    cluster.run_ms(50);
    assert_eq!(thought_at(&mut cluster, B, "a"), Some(node(A)));
}

#[test]
fn a_wrong_guess_of_where_a_message_came_from_costs_a_hop_and_no_message() {
    let mut cluster = three_servers();
    let (a, b) = written_to_before_the_region_says_by_whom(&mut cluster);
    cluster.disconnect(a);
    let a = cluster.welcome(C, "a");
    cluster.send(b, "a", 0);
    cluster.run_ms(50);
    assert_eq!(cluster.deliveries(a), 1);
    assert_eq!(cluster.reports(b), [(0, DELIVERED, Way::Region)]);
    cluster.let_go(R, B);
    cluster.run_ms(50);
    assert_eq!(thought_at(&mut cluster, B, "a"), Some(node(C)));
}

#[test]
fn who_was_written_to_is_expected_to_be_written_to_again_and_leaving_withdraws_it() {
    let mut cluster = two_servers();
    cluster.link_down(A, B);
    let a = cluster.welcome(A, "a");
    cluster.welcome(B, "b");
    cluster.send(a, "b", 0);
    cluster.run_ms(50);
    let (a_key, b_key) = (cluster.key("a"), cluster.key("b"));
    let wished = |cluster: &Cluster| {
        cluster
            .wishes
            .iter()
            .any(|(by, wish)| *by == node(A) && wish.node == node(B))
    };
    assert!(wished(&cluster));
    let expected = cluster.router(A).explain(a_key).expected;
    assert_eq!(expected[0].device, b_key.partner());
    cluster.disconnect(a);
    cluster.run_ms(50);
    assert!(cluster.withdrawn.contains(&(node(A), node(B), a_key)));
    assert_eq!(
        cluster.router(A).explain(b_key).location,
        None,
        "nobody here is expected to need it"
    );
}

#[test]
fn what_one_device_leaves_another_still_expects() {
    let mut cluster = two_servers();
    cluster.link_down(A, B);
    let a = cluster.welcome(A, "a");
    let other = cluster.welcome(A, "other");
    cluster.welcome(B, "b");
    for session in [a, other] {
        let recipient = IdRef::new("b").unwrap();
        cluster.say(session, &ClientFrame::Intend(Intend { recipient }));
        cluster.run_ms(50);
    }
    cluster.disconnect(a);
    cluster.run_ms(50);
    let b_key = cluster.key("b");
    assert!(cluster.router(A).explain(b_key).location.is_some());
}

#[test]
fn at_one_node_nothing_is_asked_or_wished_for() {
    let mut cluster = two_servers();
    let a = cluster.welcome(A, "a");
    cluster.welcome(A, "b");
    cluster.send(a, "b", 0);
    cluster.run_ms(50);
    assert_eq!(cluster.wishes, []);
    assert!(cluster.carried.iter().all(|(_, _, ty)| *ty != WhereIs::TYPE));
}

#[test]
fn a_location_is_asked_for_once_in_a_while_however_many_messages_there_are() {
    let mut cluster = two_servers();
    let a = cluster.welcome(A, "a");
    cluster.welcome(B, "b");
    for number in 0..50 {
        cluster.send(a, "b", number);
        cluster.run_ms(20);
    }
    let asked = cluster
        .carried
        .iter()
        .filter(|(from, _, ty)| *from == node(A) && *ty == WhereIs::TYPE);
    assert_eq!(asked.count(), 1);
}

#[test]
fn a_hint_makes_the_way_known_before_the_first_message_and_a_flood_of_hints_asks_little() {
    let mut cluster = two_servers();
    cluster.link_down(A, B);
    let a = cluster.welcome(A, "a");
    cluster.welcome(B, "b");
    let intend = |cluster: &mut Cluster, to: &str| {
        let recipient = IdRef::new(to).unwrap();
        cluster.say(a, &ClientFrame::Intend(Intend { recipient }));
    };
    intend(&mut cluster, "b");
    cluster.run_ms(50);
    let b_key = cluster.key("b");
    assert!(cluster.router(A).explain(b_key).location.is_some());
    assert!(
        cluster
            .wishes
            .iter()
            .any(|(by, wish)| *by == node(A) && wish.node == node(B))
    );
    // Of devices that nobody knows, and more than anybody opens chats.
    for n in 0..200 {
        intend(&mut cluster, &format!("nobody-{n}"));
    }
    cluster.run_ms(50);
    let asked = cluster
        .carried
        .iter()
        .filter(|(from, _, ty)| *from == node(A) && *ty == WhereIs::TYPE);
    assert!(asked.count() <= 8);
    assert!(cluster.is_open(a));
    assert!(cluster.router(A).predictions().hints_refused >= 190);
}

/// Where a node thinks that a device is.
fn thought_at(cluster: &mut Cluster, host: usize, device: &str) -> Option<NodeId> {
    let key = cluster.key(device);
    cluster.router(host).explain(key).location.map(|(epoch, _)| epoch.node)
}

fn questions(cluster: &Cluster, host: usize) -> usize {
    let asked = (node(host), node(R), WhereIs::TYPE);
    cluster.carried.iter().filter(|&&frame| frame == asked).count()
}

fn intend(cluster: &mut Cluster, session: DeviceConn, to: &str) {
    let recipient = IdRef::new(to).unwrap();
    cluster.say(session, &ClientFrame::Intend(Intend { recipient }));
    cluster.run_ms(50);
}

#[test]
fn who_connects_is_told_at_once_where_all_its_partners_are() {
    let mut cluster = three_servers();
    let a = cluster.welcome(A, "a");
    let partners: Vec<String> = (0..12).map(|n| format!("partner-{n:02}")).collect();
    for (number, partner) in partners.iter().enumerate() {
        cluster.welcome(B, partner);
        cluster.send(a, partner, number as u64);
        cluster.run_ms(500);
    }
    cluster.disconnect(a);
    cluster.run_ms(50);
    // Somebody else's question of a while ago is not good enough: what if they have moved since?
    let other = cluster.welcome(C, "other");
    intend(&mut cluster, other, &partners[0]);
    cluster.run_ms(300);
    let asked = questions(&cluster, C);
    cluster.welcome(C, "a");
    cluster.run_ms(50);
    for partner in &partners {
        assert_eq!(thought_at(&mut cluster, C, partner), Some(node(B)), "{partner}");
    }
    assert_eq!(questions(&cluster, C) - asked, partners.len());
}

#[test]
fn who_has_asked_where_a_device_is_is_told_when_it_turns_up_elsewhere() {
    let mut cluster = three_servers();
    cluster.link_down(A, C);
    let a = cluster.welcome(A, "a");
    let b = cluster.welcome(B, "b");
    intend(&mut cluster, a, "b");
    assert_eq!(thought_at(&mut cluster, A, "b"), Some(node(B)));
    let asked = questions(&cluster, A);
    cluster.disconnect(b);
    cluster.run_ms(50);
    cluster.wishes.clear();
    let b = cluster.welcome(C, "b");
    cluster.run_ms(50);
    assert_eq!(thought_at(&mut cluster, A, "b"), Some(node(C)));
    // What was wished for is wished for there.
    let wished = cluster.wishes.iter();
    let wished: Vec<_> = wished.map(|(by, wish)| (*by, wish.node, wish.reason)).collect();
    assert_eq!(wished, [(node(A), node(C), Reason::Hint)]);
    // And of its next move too.
    cluster.disconnect(b);
    cluster.run_ms(50);
    cluster.welcome(B, "b");
    cluster.run_ms(50);
    assert_eq!(thought_at(&mut cluster, A, "b"), Some(node(B)));
    assert_eq!(cluster.router(R).counters().locations_told_again, 2);
    assert_eq!(questions(&cluster, A), asked);
}

#[test]
fn who_was_told_with_a_message_where_a_device_is_is_told_when_it_turns_up_elsewhere() {
    let mut cluster = three_servers();
    let a = cluster.welcome(A, "a");
    let b = cluster.welcome(B, "b");
    // More than a device is listened to in a second: nothing is foreseen after it, and nothing asked.
    for number in 0..100 {
        cluster.send(a, "nobody", number);
    }
    cluster.run_ms(1);
    let asked = questions(&cluster, A);
    cluster.send(a, "b", 100);
    cluster.run_ms(50);
    assert_eq!(thought_at(&mut cluster, A, "b"), Some(node(B)));
    cluster.disconnect(b);
    cluster.welcome(C, "b");
    assert_eq!(thought_at(&mut cluster, A, "b"), Some(node(C)));
    assert_eq!(questions(&cluster, A), asked);
}

#[test]
fn where_a_neighbour_goes_is_known_to_whom_it_leaves_behind_and_a_stranger_is_not_asked_for() {
    let mut cluster = three_servers();
    let a = cluster.welcome(A, "a");
    for (device, questions_asked) in [("neighbour", 1), ("stranger", 0)] {
        let gone = cluster.welcome(A, device);
        if device == "neighbour" {
            cluster.send(gone, "a", 0);
            cluster.run_ms(50);
        }
        let asked = questions(&cluster, A);
        cluster.disconnect(gone);
        cluster.run_ms(50);
        assert_eq!(questions(&cluster, A) - asked, questions_asked, "{device}");
    }
    cluster.welcome(B, "neighbour");
    assert_eq!(thought_at(&mut cluster, A, "neighbour"), Some(node(B)));
    cluster.send(a, "neighbour", 0);
    cluster.run_ms(50);
    assert_eq!(cluster.reports(a), [(0, DELIVERED, Way::Direct)]);
    // It comes back, and turns up elsewhere without having left.
    cluster.welcome(A, "neighbour");
    cluster.send(a, "neighbour", 1);
    cluster.run_ms(50);
    let asked = questions(&cluster, A);
    cluster.welcome(C, "neighbour");
    assert_eq!(thought_at(&mut cluster, A, "neighbour"), Some(node(C)));
    assert_eq!(questions(&cluster, A), asked);
}

#[test]
fn where_messages_went_stays_known_when_who_sent_them_leaves() {
    let mut cluster = two_servers();
    let a = cluster.welcome(A, "a");
    cluster.welcome(B, "b");
    intend(&mut cluster, a, "b");
    cluster.send(a, "b", 0);
    cluster.run_ms(50);
    assert_eq!(cluster.reports(a), [(0, DELIVERED, Way::Direct)]);
    cluster.disconnect(a);
    cluster.run_ms(50);
    assert_eq!(thought_at(&mut cluster, A, "b"), Some(node(B)));
}

#[test]
fn who_has_asked_for_a_device_that_is_away_is_told_when_it_connects() {
    let mut cluster = two_servers();
    let a = cluster.welcome(A, "a");
    intend(&mut cluster, a, "b");
    assert_eq!(thought_at(&mut cluster, A, "b"), None);
    cluster.welcome(B, "b");
    cluster.run_ms(50);
    assert_eq!(thought_at(&mut cluster, A, "b"), Some(node(B)));
}

#[test]
fn a_message_from_elsewhere_than_its_sender_was_thought_to_be_is_reason_to_ask_and_one_from_there_is_none() {
    let mut cluster = three_servers();
    let a = cluster.welcome(A, "a");
    cluster.welcome(B, "b");
    cluster.send(a, "b", 0);
    cluster.run_ms(500);
    assert_eq!(
        (thought_at(&mut cluster, B, "a"), questions(&cluster, B)),
        (Some(node(A)), 1)
    );
    for number in 1..100 {
        cluster.send(a, "b", number);
        cluster.run_ms(500);
    }
    assert_eq!(questions(&cluster, B), 1, "its messages say where it is");
    // It moves, and moves on: of the first time B is told, and what it is told of the second is lost.
    cluster.welcome(C, "a");
    cluster.run_ms(500);
    cluster.hold(R, B);
    let a = cluster.welcome(A, "a");
    cluster.run_ms(500);
    cluster.lose(R, B);
    cluster.let_go(R, B);
    assert_eq!(thought_at(&mut cluster, B, "a"), Some(node(C)));
    cluster.send(a, "b", 100);
    cluster.run_ms(500);
    assert_eq!(
        (thought_at(&mut cluster, B, "a"), questions(&cluster, B)),
        (Some(node(A)), 2)
    );
}

#[test]
fn who_sends_by_way_of_the_region_is_told_where_to_once_a_second_and_at_once_of_another_session() {
    let mut cluster = two_servers();
    cluster.link_down(A, B);
    let a = cluster.welcome(A, "a");
    let b = cluster.welcome(B, "b");
    let told = |cluster: &mut Cluster| {
        let of_instance = |&&(from, _, ty): &&(_, _, u8)| (from, ty) == (node(R), Location::TYPE);
        let all = cluster.carried.iter().filter(of_instance).count() as u64;
        // Without what was asked ahead of need.
        let counters = cluster.router(R).counters();
        all - counters.locations_told - counters.locations_told_again
    };
    for number in 0..10 {
        cluster.send(a, "b", number);
        cluster.run_ms(20);
    }
    assert_eq!(cluster.deliveries(b), 10);
    assert_eq!(told(&mut cluster), 1);
    cluster.run_ms(1_000);
    cluster.send(a, "b", 10);
    cluster.run_ms(20);
    assert_eq!(told(&mut cluster), 2);
    cluster.disconnect(b);
    cluster.welcome(B, "b");
    cluster.send(a, "b", 11);
    cluster.run_ms(20);
    assert_eq!(told(&mut cluster), 3);
}
