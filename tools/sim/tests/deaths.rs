//! The claims about what a death costs, on whole nodes.

mod common;

use std::time::Duration;

use common::{connected, count, held, is_delivered, ms, secs, talk};
use trunkline_client::Outcome;
use trunkline_net::sim::{Death, Direction};
use trunkline_sim::{Cluster, Host, MessageNo, NodeNo, Start};

#[test]
fn nothing_is_lost_when_one_of_two_instances_dies() {
    for (seed, death) in [
        (1, Death::Visible),
        (2, Death::Silent),
        (3, Death::Visible),
        (4, Death::Silent),
    ] {
        let mut cluster = connected(seed, 12, &Start::default());
        let instance = cluster.instances(0)[seed as usize % 2];
        let mut sent = talk(&mut cluster, ms(500), 30_000);
        cluster.kill_node(instance, death);
        sent.extend(talk(&mut cluster, secs(5), 30_000));
        held(cluster.run_for(secs(15)));
        assert_eq!(
            count(&cluster, &sent, is_delivered),
            sent.len(),
            "seed {seed}, {death:?}"
        );
        cluster.revive_node(instance);
        held(cluster.settle(secs(10)));
    }
}

#[test]
fn a_region_that_loses_all_instances_says_nothing_of_its_devices_until_it_is_rebuilt() {
    let mut cluster = connected(1, 12, &Start::default());
    let instances = cluster.instances(0);
    for &instance in &instances {
        cluster.kill_node(instance, Death::Visible);
    }
    let mut sent = talk(&mut cluster, secs(2), 30_000);
    for &instance in &instances {
        cluster.revive_node(instance);
    }
    sent.extend(talk(&mut cluster, secs(2), 30_000));
    held(cluster.settle(secs(10)));
    held(cluster.run_for(secs(15)));
    assert_eq!(count(&cluster, &sent, is_delivered), sent.len());
}

#[test]
fn every_message_is_reported_when_a_connection_server_dies() {
    for (seed, death) in [
        (1, Death::Visible),
        (2, Death::Silent),
        (3, Death::Visible),
        (4, Death::Silent),
    ] {
        let start = Start {
            ping_ms: 2_000,
            ..Start::default()
        };
        let mut cluster = connected(seed, 12, &start);
        let server = cluster.servers()[seed as usize % 3];
        let mut sent = talk(&mut cluster, ms(500), 10_000);
        cluster.kill_node(server, death);
        sent.extend(talk(&mut cluster, secs(3), 10_000));
        held(cluster.run_for(secs(13)));
        assert_eq!(
            count(&cluster, &sent, |_| true),
            sent.len(),
            "seed {seed}: every message is reported"
        );
        held(cluster.settle(secs(15)));
        // Its devices are elsewhere, and nothing is amiss.
        let after = talk(&mut cluster, secs(1), 10_000);
        held(cluster.run_for(secs(1)));
        assert_eq!(count(&cluster, &after, is_delivered), after.len(), "seed {seed}");
    }
}

#[test]
fn nothing_changes_while_control_is_gone_and_a_node_restarts_meanwhile() {
    for seed in 1..=3 {
        let mut cluster = connected(seed, 12, &Start::default());
        let version = cluster.control_version();
        cluster.kill_control(Death::Silent);
        let sent = talk(&mut cluster, secs(1), 10_000);
        held(cluster.run_for(secs(20)));
        assert_eq!(
            count(&cluster, &sent, is_delivered),
            sent.len(),
            "seed {seed}: leases stop nobody"
        );

        // One of each kind: an instance, and a server that devices have to come back to.
        for node in [cluster.instances(1)[0], cluster.servers()[0]] {
            cluster.kill_node(node, Death::Visible);
            held(cluster.run_for(ms(200)));
            cluster.revive_node(node);
        }
        held(cluster.settle(secs(10)));
        for node in 0..8 {
            assert_eq!(
                cluster.map_version(NodeNo(node)),
                version,
                "seed {seed}: from the map on its disk"
            );
        }
        let sent = talk(&mut cluster, secs(2), 10_000);
        let offline = |outcome| matches!(outcome, Outcome::Offline { .. });
        held(cluster.run_for(secs(2)));
        assert_eq!(count(&cluster, &sent, offline), 0);
        assert_eq!(count(&cluster, &sent, is_delivered), sent.len(), "seed {seed}");

        cluster.revive_control();
        held(cluster.settle(secs(10)));
        for node in 0..8 {
            assert!(
                cluster.node_runs(NodeNo(node)),
                "nobody is expired for control's absence"
            );
        }
    }
}

/// Within this time a death that shows (RST, FIN) is acted on.
const VISIBLE: Duration = ms(250);
/// And one that doesn't.
const SILENT: Duration = secs(3);
/// What a cluster is asked every ten milliseconds may be so much older.
const ASKED: Duration = ms(10);

/// How long it takes, from now, until all other nodes have dropped their link to `dead`.
fn all_have_dropped(cluster: &mut Cluster, dead: NodeNo, before: &[u64]) -> Duration {
    let (start, others) = (cluster.now(), others(cluster, dead));
    let waiting = |cluster: &mut Cluster| {
        let mut pairs = others.iter().zip(before);
        pairs.any(|(node, before)| cluster.counter(*node, "links_down") == *before)
    };
    assert!(
        held(cluster.run_while(secs(20), waiting)),
        "somebody still has its link"
    );
    cluster.now() - start
}

/// The nodes that need a link to that instance: its sibling and the servers.
fn others(cluster: &Cluster, instance: NodeNo) -> Vec<NodeNo> {
    let siblings = cluster.instances(0).into_iter().filter(|node| *node != instance);
    cluster.servers().into_iter().chain(siblings).collect()
}

fn links_down(cluster: &Cluster, instance: NodeNo) -> Vec<u64> {
    let others = others(cluster, instance);
    others.iter().map(|node| cluster.counter(*node, "links_down")).collect()
}

/// The longest time from a message to its report.
fn slowest(cluster: &Cluster, messages: &[MessageNo]) -> Duration {
    let took = messages.iter().map(|message| {
        let record = &cluster.ledger().records()[message.0 as usize];
        let (at, ..) = record.report.expect("each is reported");
        at - record.sent
    });
    took.max().expect("there are messages")
}

#[test]
fn a_death_that_shows_is_acted_on_within_250_ms() {
    for seed in 1..=5 {
        let mut cluster = connected(seed, 12, &Start::default());
        let mut sent = talk(&mut cluster, ms(300), 30_000);
        let instance = cluster.instances(0)[seed as usize % 2];
        let before = links_down(&cluster, instance);
        cluster.kill_node(instance, Death::Visible);
        let took = all_have_dropped(&mut cluster, instance, &before);
        assert!(took <= VISIBLE, "seed {seed}: {took:?}");
        sent.extend(talk(&mut cluster, secs(1), 30_000));
        held(cluster.run_for(secs(1)));
        assert_eq!(count(&cluster, &sent, is_delivered), sent.len());
        let slowest = slowest(&cluster, &sent);
        assert!(slowest <= VISIBLE, "seed {seed}: a message took {slowest:?}");
    }
}

#[test]
fn a_death_that_does_not_show_is_acted_on_within_three_seconds() {
    for seed in 1..=6 {
        let mut cluster = connected(seed, 12, &Start::default());
        let mut sent = talk(&mut cluster, ms(300), 30_000);
        let instance = cluster.instances(0)[seed as usize % 2];
        let before = links_down(&cluster, instance);
        if seed % 2 == 0 {
            cluster.kill_node(instance, Death::Silent);
        } else {
            // It lives, and nothing passes: no FIN, no RST.
            for node in others(&cluster, instance) {
                cluster.cut(Host::Node(instance), Host::Node(node), Direction::Both);
            }
        }
        let died = cluster.now();
        sent.extend(talk(&mut cluster, ms(50), 30_000));
        all_have_dropped(&mut cluster, instance, &before);
        let took = cluster.now() - died;
        assert!(took <= SILENT + ASKED, "seed {seed}: {took:?}");
        held(cluster.run_for(VISIBLE));
        let slowest_before = slowest(&cluster, &sent);
        assert!(
            slowest_before <= SILENT + VISIBLE,
            "seed {seed}: a message took {slowest_before:?}"
        );
        // Who writes from then on doesn't notice.
        let after = talk(&mut cluster, secs(1), 30_000);
        held(cluster.run_for(VISIBLE));
        let slowest_after = slowest(&cluster, &after);
        assert!(
            slowest_after <= VISIBLE,
            "seed {seed}: a message took {slowest_after:?}"
        );
        sent.extend(after);
        assert_eq!(count(&cluster, &sent, is_delivered), sent.len());
    }
}
