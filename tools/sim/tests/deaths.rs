//! The claims about what a death costs, on whole nodes.

mod common;

use common::{connected, count, held, is_delivered, ms, secs, talk};
use trunkline_client::Outcome;
use trunkline_net::sim::Death;
use trunkline_sim::{NodeNo, Start};

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
