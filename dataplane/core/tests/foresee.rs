//! What is done ahead of need: locations are asked for, links are wished for, and both are taken back when the device leaves.

mod cluster;

use cluster::{CONNECTION, Cluster, INSTANCE, node};
use trunkline_wire::device::{ClientFrame, Intend};
use trunkline_wire::frame::Encode;
use trunkline_wire::id::IdRef;
use trunkline_wire::peer::{Location, WhereIs};

const A: usize = 0;
const B: usize = 1;
const R: usize = 2;

fn two_servers() -> Cluster {
    Cluster::new(&[CONNECTION, CONNECTION, INSTANCE], &[&[R]])
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
