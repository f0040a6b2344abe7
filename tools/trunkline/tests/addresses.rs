//! Servers that come back at other addresses while their devices write to each other.

mod support;

use support::cluster::{ANY, Cluster, listen};
use support::traffic::{Traffic, assert_nothing_is_lost};
use support::{Running, get, last_json, metric, run, stderr, until};

const EDGES: [&str; 3] = ["edge-1", "edge-2", "edge-3"];

/// A connection server whose devices find it there, and other nodes wherever the system puts it.
fn edge(cluster: &Cluster, name: &str, devices: &str) -> Running {
    cluster.started(name, &["--roles", "connection", "--device-listen", devices])
}

/// Whether one of some messages from there to this device goes direct; all are delivered. Who writes three times is worth a link.
fn goes_direct(from: &Running, to: &str) -> bool {
    let server = from.address("device");
    let output = run([
        "send", "--server", &server, "--from", "writer", "--to", to, "--count", "3", "--json", "hello",
    ]);
    assert!(output.status.success(), "{}", stderr(&output));
    let said = last_json(&output);
    let reports = said["reports"].as_array().unwrap();
    assert!(reports.iter().all(|report| report["outcome"] == "delivered"), "{said}");
    reports.iter().any(|report| report["way"] == "direct")
}

#[test]
fn servers_that_move_to_other_addresses_under_traffic_lose_nothing_and_are_reached_there_directly() {
    let mut cluster = Cluster::start();
    for name in EDGES {
        let edge = edge(&cluster, name, ANY);
        cluster.nodes.push(edge);
    }
    cluster.ready();
    let places = 2..2 + EDGES.len();
    let servers = cluster.nodes[places.clone()].iter();
    let servers: Vec<_> = servers.map(|edge| edge.address("device").parse().unwrap()).collect();
    let traffic = Traffic::start(&servers);
    traffic.goes_on();
    for (place, name) in places.clone().zip(EDGES) {
        let [devices, before] = ["device", "peer"].map(|port| cluster.nodes[place].address(port));
        let status = cluster.nodes[place].end();
        assert!(status.success(), "{status}");
        // Its devices are elsewhere, and go on.
        traffic.goes_on();
        cluster.nodes[place] = edge(&cluster, name, &devices);
        assert_ne!(
            cluster.nodes[place].address("peer"),
            before,
            "the system gives it another port"
        );
        let http = cluster.nodes[place].address("http");
        until("it is ready", || get(&http, "/readyz").0);
        let _listener = listen(&cluster.nodes[place], "listener");
        let other = &cluster.nodes[if place == places.start { place + 1 } else { places.start }];
        until("messages come directly to where it is now", || {
            goes_direct(other, "listener")
        });
    }
    assert_nothing_is_lost(&traffic.end());
    // The links to where they were were closed, and nothing was under way on them.
    for node in &cluster.nodes {
        let http = node.address("http");
        for name in ["trunkline_links_suspect_total", "trunkline_link_frames_lost_total"] {
            assert_eq!(metric(&http, name), 0.0, "{name}");
        }
    }
}
