//! The claims about a message's way: by the region, straight, and on from a node whose session has gone.

mod cluster;

use std::sync::Arc;

use cluster::{CONNECTION, Cluster, INSTANCE, node};
use trunkline_wire::id::Epoch;
use trunkline_wire::report::{Outcome, Way};

const A: usize = 0;
const B: usize = 1;
const C: usize = 2;
const R1: usize = 3;
const R2: usize = 4;

fn three_servers() -> Cluster {
    Cluster::new(&[CONNECTION, CONNECTION, CONNECTION, INSTANCE, INSTANCE], &[&[R1, R2]])
}

const DELIVERED: Outcome = Outcome::Delivered { late: false };

#[test]
fn the_first_message_goes_by_way_of_the_region_and_the_second_straight() {
    let mut cluster = three_servers();
    let from = cluster.welcome(A, "a");
    let to = cluster.welcome(B, "b");
    cluster.send(from, "b", 0);
    cluster.run_ms(20);
    cluster.send(from, "b", 1);
    cluster.run_ms(20);
    assert_eq!(
        cluster.reports(from),
        [(0, DELIVERED, Way::Region), (1, DELIVERED, Way::Direct)]
    );
    assert_eq!(cluster.deliveries(to), 2);
}

#[test]
fn without_a_ready_link_a_known_location_is_not_dialled_but_reached_by_way_of_the_region() {
    let mut cluster = three_servers();
    cluster.link_down(A, B);
    let from = cluster.welcome(A, "a");
    cluster.welcome(B, "b");
    for number in 0..2 {
        cluster.send(from, "b", number);
        cluster.run_ms(20);
    }
    assert_eq!(
        cluster.reports(from),
        [(0, DELIVERED, Way::Region), (1, DELIVERED, Way::Region)]
    );
}

#[test]
fn at_one_node_no_network_is_used() {
    let mut cluster = three_servers();
    let from = cluster.welcome(A, "a");
    cluster.welcome(A, "b");
    cluster.run_ms(10);
    cluster.carried.clear();
    cluster.send(from, "b", 0);
    cluster.run_ms(5);
    assert_eq!(cluster.reports(from), [(0, DELIVERED, Way::Local)]);
    assert_eq!(cluster.carried, []);
}

/// Does something of which the region's word doesn't reach A.
fn unheard_at_a<T>(cluster: &mut Cluster, act: impl FnOnce(&mut Cluster) -> T) -> T {
    for instance in [R1, R2] {
        cluster.hold(instance, A);
    }
    let done = act(cluster);
    for instance in [R1, R2] {
        cluster.lose(instance, A);
        cluster.let_go(instance, A);
    }
    done
}

/// `a` at A knows that `b` is at B; then `b` moves to C without A learning of it.
fn stale_location(cluster: &mut Cluster) -> (cluster::DeviceConn, cluster::DeviceConn) {
    let from = cluster.welcome(A, "a");
    let old = cluster.welcome(B, "b");
    cluster.send(from, "b", 0);
    cluster.run_ms(20);
    let new = unheard_at_a(cluster, |cluster| {
        let new = cluster.connect_presenting(C, "b", cluster.epoch(old).unwrap(), 1);
        cluster.run_ms(300);
        new
    });
    let key = cluster.key("b");
    let believed = cluster.router(A).explain(key).location.unwrap().0;
    assert_eq!(believed.node, node(B), "A's location is stale");
    (from, new)
}

#[test]
fn a_stale_location_costs_an_extra_hop_and_no_message() {
    let mut cluster = three_servers();
    let (from, new) = stale_location(&mut cluster);
    cluster.carried.clear();
    cluster.send(from, "b", 1);
    cluster.run_ms(20);
    assert_eq!(cluster.reports(from)[1].1, DELIVERED);
    assert_eq!(cluster.deliveries(new), 1);
    let forwards: Vec<_> = cluster
        .carried
        .iter()
        .filter(|c| c.2 == 0x20)
        .map(|c| (c.0, c.1))
        .collect();
    assert_eq!(
        forwards,
        [(node(A), node(B)), (node(B), node(C))],
        "to the node named in the higher epoch that superseded the session"
    );
    cluster.send(from, "b", 2);
    cluster.run_ms(20);
    assert_eq!(cluster.reports(from)[2], (2, DELIVERED, Way::Direct), "A has learnt");
}

#[test]
fn who_lost_a_session_without_a_successor_forwards_to_an_instance_which_removes_exactly_that_epoch() {
    let mut cluster = three_servers();
    let from = cluster.welcome(A, "a");
    let old = cluster.welcome(B, "b");
    cluster.send(from, "b", 0);
    cluster.run_ms(20);
    // B's unregistration is lost with its links to the region; A's link to B stays.
    cluster.hold(B, R1);
    cluster.hold(B, R2);
    cluster.disconnect(old);
    cluster.run_ms(5);
    let key = cluster.key("b");
    assert_eq!(
        cluster.router(R1).explain(key).presence,
        cluster.epoch(old),
        "the instance doesn't know yet"
    );
    cluster.let_go(B, R1);
    cluster.let_go(B, R2);
    cluster.send(from, "b", 1);
    cluster.run_ms(50);
    assert_eq!(cluster.router(R1).explain(key).presence, None);
    let outcome = Outcome::Offline {
        unreachable: false,
        maybe_delivered: false,
    };
    assert_eq!(cluster.reports(from)[1], (1, outcome, Way::Unknown));
}

#[test]
fn a_message_never_goes_back_to_where_it_came_from() {
    let mut cluster = three_servers();
    let from = cluster.welcome(A, "a");
    let first = cluster.welcome(B, "b");
    cluster.send(from, "b", 0);
    cluster.run_ms(20);
    // A second session at the same server ends as well, and the news of that are lost: the region believes in it.
    let second = unheard_at_a(&mut cluster, |cluster| {
        let second = cluster.connect_presenting(B, "b", cluster.epoch(first).unwrap(), 1);
        cluster.run_ms(300);
        second
    });
    cluster.disconnect(second);
    cluster.lose(B, R1);
    cluster.lose(B, R2);
    let key = cluster.key("b");
    assert_eq!(cluster.router(R1).explain(key).presence, cluster.epoch(second));
    cluster.carried.clear();
    cluster.send(from, "b", 1);
    cluster.run_ms(15);
    let forwards: Vec<_> = cluster
        .carried
        .iter()
        .filter(|c| c.2 == 0x20)
        .map(|c| (c.0, c.1))
        .collect();
    assert_eq!(forwards[0], (node(A), node(B)), "the location that A knows");
    let instance = forwards[1].1;
    assert_eq!(
        forwards,
        [(node(A), node(B)), (node(B), instance)],
        "not back to B, where the region believes it is"
    );
    let refused: u64 = [R1, R2].iter().map(|&r| cluster.router(r).counters().retry_hops).sum();
    assert_eq!(refused, 1);
}

#[test]
fn a_message_passes_four_nodes_at_most_and_is_then_tried_again() {
    // Six servers, each of which believes that its successor has the session: a chain longer than the limit.
    let roles = [
        CONNECTION, CONNECTION, CONNECTION, CONNECTION, CONNECTION, CONNECTION, INSTANCE,
    ];
    let mut cluster = Cluster::new(&roles, &[&[6]]);
    let from = cluster.welcome(0, "a");
    let b1 = cluster.welcome(1, "b");
    cluster.send(from, "b", 0);
    cluster.run_ms(20);
    let mut last = b1;
    for host in 2..6 {
        last = cluster.connect_presenting(host, "b", cluster.epoch(last).unwrap(), 1);
        cluster.run_ms(300);
    }
    cluster.carried.clear();
    cluster.send(from, "b", 1);
    cluster.run_ms(8);
    let hops = cluster.carried.iter().filter(|c| c.2 == 0x20).count();
    assert!(hops <= 4, "{:?}", cluster.carried);
    cluster.run_ms(2_000);
    assert_eq!(cluster.reports(from)[1].1, DELIVERED, "the second attempt finds it");
    assert_eq!(cluster.deliveries(last), 1);
}

#[test]
fn an_instance_that_cannot_reach_the_recipient_s_server_passes_the_message_to_a_sibling() {
    for instance in [R1, R2] {
        let mut cluster = three_servers();
        cluster.link_down(A, B);
        let from = cluster.welcome(A, "a");
        cluster.welcome(B, "b");
        cluster.link_down(B, instance);
        cluster.send(from, "b", 0);
        cluster.run_ms(20);
        assert_eq!(
            cluster.reports(from),
            [(0, DELIVERED, Way::Region)],
            "whichever instance A prefers"
        );
    }
}

#[test]
fn a_reply_finds_its_way_back_through_the_node_that_forwarded() {
    let mut cluster = three_servers();
    cluster.link_down(A, B);
    let from = cluster.welcome(A, "a");
    cluster.welcome(B, "b");
    cluster.send(from, "b", 0);
    cluster.run_ms(20);
    assert_eq!(cluster.reports(from), [(0, DELIVERED, Way::Region)]);
    let relayed: u64 = [R1, R2]
        .iter()
        .map(|&r| cluster.router(r).counters().replies_relayed)
        .sum();
    assert_eq!(relayed, 1);
}

#[test]
fn a_device_that_a_newer_map_assigns_to_another_region_is_registered_there() {
    let roles = [CONNECTION, INSTANCE, INSTANCE];
    let mut cluster = Cluster::new(&roles, &[&[1], &[2]]);
    let device = cluster.device_in(0, "d");
    let key = cluster.key(&device);
    let conn = cluster.welcome(0, &device);
    let epoch: Option<Epoch> = cluster.epoch(conn);
    assert_eq!(cluster.router(2).explain(key).presence, None);
    let before = Arc::clone(cluster.router(0).map());
    let mut contents = before.contents();
    contents.overrides.insert(key, trunkline_wire::id::RegionId(2));
    let after = Arc::new(trunkline_wire::map::Map::build(1, 2, contents).unwrap());
    // The older region's instance hasn't got it yet.
    for host in [2, 0] {
        cluster.apply_map(host, Arc::clone(&after));
    }
    cluster.run_ms(5);
    assert_eq!(cluster.router(2).explain(key).presence, epoch);
    let known = |cluster: &mut Cluster, instance: usize, region| {
        let known = cluster
            .router(instance)
            .presence(trunkline_wire::id::RegionId(region))
            .unwrap_or_default();
        known.contains(&(key, epoch.unwrap()))
    };
    assert!(
        known(&mut cluster, 1, 1),
        "nodes with an older map still find it where it was"
    );
    cluster.disconnect(conn);
    cluster.run_ms(5);
    assert!(
        !known(&mut cluster, 1, 1) && !known(&mut cluster, 2, 2),
        "when it ends, both regions are told"
    );
}
