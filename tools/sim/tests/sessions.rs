//! The claims about a device's sessions, on whole nodes: which one wins, whatever is cut off meanwhile.

mod common;

use common::{DELIVERED, another_server, connected, held, ms, outcome, secs, send};
use trunkline_net::sim::Direction;
use trunkline_sim::{DeviceNo, Host, Start};

const DEVICE: DeviceNo = DeviceNo(0);
const OTHER: DeviceNo = DeviceNo(1);

/// The device is at B; B is cut off; the device comes back at C; B comes back. B's session is half open all the time.
#[test]
fn a_partition_that_heals_never_lets_an_older_session_win() {
    for seed in 1..=10 {
        let start = Start {
            // Nobody hears of the half-open session by silence.
            ping_ms: 120_000,
            ..Start::default()
        };
        let mut cluster = connected(seed, 2, &start);
        let b = cluster.connected_at(DEVICE).expect("it is connected");
        let c = another_server(&cluster, b);
        let (older, _) = cluster.sessions_of(DEVICE)[0];
        cluster.isolate(b);
        cluster.cut(Host::Device(DEVICE), Host::Node(b), Direction::Both);
        if cluster.connected_at(OTHER) == Some(b) {
            cluster.end_device(OTHER);
        }
        // The program starts anew and knows of no epoch: the region alone can tell which session is newer.
        cluster.end_device(DEVICE);
        let at_c = Start {
            servers: vec![c],
            ..start
        };
        cluster.start_device(DEVICE, &at_c);
        if !cluster.device_runs(OTHER) {
            cluster.start_device(OTHER, &at_c);
        }
        held(cluster.run_for(secs(14)));
        let sessions = cluster.sessions_of(DEVICE);
        let &(newer, _) = sessions.iter().find(|(_, node)| *node == c).expect("it is at C");
        assert!(
            sessions.contains(&(older, b)),
            "seed {seed}: B holds the older session: {sessions:?}"
        );
        assert!(newer > older, "seed {seed}: {newer} and {older}");
        let region = cluster.region_of(DEVICE).expect("it has a region");

        cluster.join(b);
        for _ in 0..60 {
            held(cluster.run_for(ms(100)));
            for instance in cluster.instances(region) {
                assert_eq!(cluster.presence_at(instance, DEVICE), Some(newer), "seed {seed}");
            }
            assert_eq!(
                cluster.connected_at(DEVICE),
                Some(c),
                "seed {seed}: nobody is disconnected by the healing"
            );
        }
        assert_eq!(cluster.sessions_of(DEVICE), [(newer, c)], "seed {seed}");
        let message = send(&mut cluster, OTHER, DEVICE, 2_000);
        held(cluster.run_for(secs(1)));
        assert_eq!(outcome(&cluster, message), Some(DELIVERED), "seed {seed}");
    }
}

/// A server that was cut off for so long that it counted as gone brings its devices back with it.
#[test]
fn no_device_is_disconnected_by_a_healing() {
    let mut cluster = connected(1, 6, &Start::default());
    let b = cluster.connected_at(DEVICE).expect("it is connected");
    let losses = cluster.ledger().totals().losses;
    cluster.isolate(b);
    held(cluster.run_for(secs(15)));
    let region = cluster.region_of(DEVICE).expect("it has a region");
    for instance in cluster.instances(region) {
        assert_eq!(cluster.presence_at(instance, DEVICE), None, "B counts as gone");
    }
    cluster.join(b);
    held(cluster.settle(secs(10)));
    assert_eq!(cluster.ledger().totals().losses, losses);
}
