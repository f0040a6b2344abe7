//! The claims about links and instances, on whole nodes.

mod common;

use common::{DELIVERED, cluster, held, ms, outcome, secs, send};
use trunkline_core::link::LinkState;
use trunkline_sim::{DeviceNo, Host, NodeNo, Spec, Start};

/// The two instances of a region dial each other as soon as they have the map.
#[test]
fn two_nodes_that_dial_each_other_at_once_end_with_one_link() {
    let mut crossed = 0;
    for seed in 1..=20 {
        let mut cluster = cluster(seed, Spec::default());
        held(cluster.run_for(secs(5)));
        crossed += cluster.counter_sum("links_doubled") + cluster.counter_sum("links_replaced");
        let nodes: Vec<NodeNo> = cluster.nodes_where(|_| true);
        for &node in &nodes {
            let up: Vec<_> = cluster
                .links(node)
                .into_iter()
                .filter(|link| link.state == LinkState::Up)
                .collect();
            assert_eq!(
                cluster.sockets(node),
                up.len(),
                "seed {seed}: {node:?} has a socket for each link"
            );
            for link in up {
                let other = nodes.iter().find(|other| cluster.node_id(**other) == link.node);
                let back = cluster.links(*other.expect("it is one of them"));
                let back = back
                    .iter()
                    .find(|back| back.node == cluster.node_id(node) && back.state == LinkState::Up);
                let back = back.unwrap_or_else(|| panic!("seed {seed}: {node:?} has a link that {other:?} has not"));
                assert_ne!(link.dialled, back.dialled, "seed {seed}: both ends have the same one");
            }
        }
    }
    assert!(crossed > 0, "some dials crossed");
}

/// What was sent to it while it stood still waits in its sockets, in any order: a message may come before the registration of its
/// recipient.
#[test]
fn an_instance_that_was_paused_validates_before_it_says_offline() {
    let mut doubts = 0;
    for seed in 1..=40 {
        let spec = Spec {
            regions: 1,
            instances: 2,
            devices: 2,
            ..Spec::default()
        };
        let mut cluster = cluster(seed, spec);
        let (from, to) = (DeviceNo(0), DeviceNo(1));
        let [a, b] = [cluster.servers()[0], cluster.servers()[1]];
        let at = |server| Start {
            servers: vec![server],
            ..Start::default()
        };
        cluster.start_device(from, &at(a));
        held(cluster.run_for(secs(1)));
        let instance = cluster.instances(0)[0];
        cluster.pause(Host::Node(instance), ms(2_500));
        held(cluster.run_for(ms(500)));
        cluster.start_device(to, &at(b));
        held(cluster.run_for(secs(1)));
        assert_eq!(
            cluster.connected_at(to),
            Some(b),
            "seed {seed}: the other instance has it"
        );
        let message = send(&mut cluster, from, to, 10_000);
        held(cluster.run_for(secs(5)));
        assert_eq!(outcome(&cluster, message), Some(DELIVERED), "seed {seed}");
        doubts += cluster.counter(instance, "presence_pauses");
    }
    assert!(doubts >= 40, "the pause was noticed each time");
}
