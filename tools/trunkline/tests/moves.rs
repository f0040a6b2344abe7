//! Moves between regions, and of instances to and from them, over real processes, under traffic, and with the control plane killed in
//! the midst of one.

mod support;

use std::process::{Child, Stdio};

use serde_json::Value;
use support::cluster::Cluster;
use support::{Running, last_json, metric, run, stderr, trunkline, until};

/// Confirmed messages between devices of both servers, for some seconds.
fn load(cluster: &Cluster, seconds: &str) -> Child {
    let [_, _, one, other] = &cluster.nodes[..4] else {
        unreachable!()
    };
    let target = format!("native:{},also={}", one.address("device"), other.address("device"));
    let arguments = [
        "load",
        "--json",
        "--seconds",
        seconds,
        "--warm-up",
        "0.2",
        "--connections",
        "40",
    ];
    trunkline(arguments)
        .args(["--rate", "1000", "--confirmed", "--target", &target])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts")
}

fn reported(cluster: &Cluster, name: &str) -> f64 {
    cluster
        .nodes
        .iter()
        .map(|node| metric(&node.address("http"), name))
        .sum()
}

/// Nothing is lost, misdelivered or out of order. The generator is no library: it counts the copies that retries make.
fn assert_clean(cluster: &Cluster, load: Child) {
    let output = load.wait_with_output().unwrap();
    assert!(!output.stdout.is_empty(), "{}", stderr(&output));
    let report = last_json(&output);
    for fault in ["lost", "out_of_order", "stray"] {
        assert_eq!(report["faults"][fault], 0, "{report}");
    }
    let copies = report["faults"]["doubled"].as_f64().unwrap();
    let retries = reported(cluster, "trunkline_retries_total");
    assert!(copies <= retries, "{copies} copies, and {retries} retries: {report}");
    assert_eq!(reported(cluster, "trunkline_reports_offline_total"), 0.0);
}

#[test]
fn a_quarter_of_the_slots_moves_under_traffic_and_back() {
    let cluster = Cluster::with_edges();
    let load = load(&cluster, "6");
    let dry = cluster.ask(&[
        "move",
        "--share",
        "50%",
        "--from",
        "north",
        "--to",
        "south",
        "--dry-run",
        "--json",
    ]);
    assert_eq!(
        (&dry["slots"], &dry["dry_run"]),
        (&Value::from(16_384), &Value::from(true)),
        "{dry}"
    );
    for (from, to, share) in [("north", "south", "50%"), ("south", "north", "33.34%")] {
        let done = cluster.ask(&["move", "--share", share, "--from", from, "--to", to, "--json"]);
        assert_eq!(done["stage"], "done", "{done}");
    }
    assert_clean(&cluster, load);
    let moves = cluster.ask(&["moves", "--json"]);
    assert_eq!(moves["moves"].as_array().unwrap().len(), 2, "{moves}");
}

#[test]
fn a_move_that_control_was_killed_in_goes_on_and_whoever_watches_sees_its_end() {
    let mut cluster = Cluster::with_edges();
    let load = load(&cluster, "6");
    let begun = cluster.ask(&["move", "--slots", "0-65535", "--to", "south", "--detach", "--json"]);
    assert_eq!(begun["stage"], "both", "{begun}");
    let (at, address) = (cluster.at(), cluster.control.address("control"));
    cluster.control.kill();
    let watch = trunkline(cluster.arguments(&["watch", "1", "--json"], &at))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    cluster.control = Cluster::control(&cluster.place, &address);
    let watched = watch.wait_with_output().unwrap();
    assert!(watched.status.success(), "{}", stderr(&watched));
    assert_eq!(last_json(&watched)["stage"], "done");
    assert_clean(&cluster, load);
}

#[test]
fn a_connected_device_and_a_whole_region_move_and_wrong_moves_are_refused() {
    let cluster = Cluster::with_edges();
    let edge = cluster.nodes[2].address("device");
    let mut alice = Running::start(&["listen", "--server", &edge, "--device", "alice"]);
    let home = cluster.ask(&["where", "alice"])["region"].as_str().unwrap().to_owned();
    let other = if home == "north" { "south" } else { "north" };
    cluster.refused(
        &["move", "alice", "--to", other],
        &["alice", "is not enrolled", "enroll alice"],
    );
    cluster.ask(&["enroll", "alice", "--region", &home]);
    let done = cluster.ask(&["move", "alice", "--to", other, "--json"]);
    assert_eq!(
        (&done["stage"], &done["devices"]),
        (&"done".into(), &1.into()),
        "{done}"
    );
    cluster.refused(&["move", "alice", "--to", other], &["alice", "is in the region", other]);
    cluster.refused(
        &["move", "alice", "--to", "mars"],
        &["no region `mars`", "north, south"],
    );
    cluster.refused(
        &["move", "--share", "5%", "--from", other, "--to", other],
        &["to itself"],
    );
    cluster.refused(&["watch", "77"], &["there is no move 77"]);
    cluster.refused(&["abort", "1"], &["move 1 is over: done"]);
    let removed = cluster.ask(&["remove-region", &home, "--json"]);
    assert_eq!(
        (&removed["stage"], &removed["slots"]),
        (&"done".into(), &32_768.into()),
        "{removed}"
    );
    cluster.refused(&["remove-region", other], &[other, "is the last one"]);
    let server = cluster.nodes[3].address("device");
    let output = run([
        "send", "--server", &server, "--from", "bob", "--to", "alice", "--json", "hello",
    ]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(alice.json()["payload"], "hello");
}

#[test]
fn an_instance_comes_and_another_goes_under_traffic_and_a_killed_control_plane_goes_on_with_it() {
    let mut cluster = Cluster::with_edges();
    let load = load(&cluster, "8");
    cluster.refused(
        &["remove-instance", "north", "--region", "north"],
        &["last instance", "32768 slots"],
    );
    cluster.node("north-2", &["--roles", "region", "--regions", "north"]);
    let serves = |cluster: &Cluster, name: &str| {
        let status = cluster.status();
        let node = |region: &Value| region["instances"].as_array().unwrap().clone();
        let ids = status["nodes"].as_array().unwrap().iter();
        let id = ids.clone().find(|node| node["name"] == name).unwrap()["id"].clone();
        let regions = status["regions"].as_array().unwrap();
        let north = regions.iter().find(|region| region["name"] == "north").unwrap();
        node(north).contains(&id)
    };
    until("the newcomer is asked", || serves(&cluster, "north-2"));
    let dry = cluster.ask(&["remove-instance", "north", "--region", "north", "--dry-run", "--json"]);
    assert_eq!(
        (&dry["instances"][0]["way"], &dry["dry_run"]),
        (&"goes".into(), &true.into())
    );
    let id = cluster.ask(&["remove-instance", "north", "--region", "north", "--detach", "--json"])["move"].clone();
    cluster.restart_control();
    let watched = cluster.ask(&["watch", &id.to_string(), "--json"]);
    assert_eq!(watched["stage"], "done", "{watched}");
    assert!(!serves(&cluster, "north") && serves(&cluster, "north-2"));
    let back = cluster.ask(&["add-instance", "north", "--region", "north", "--json"]);
    assert_eq!(back["stage"], "done", "{back}");
    assert!(serves(&cluster, "north") && serves(&cluster, "north-2"));
    assert_clean(&cluster, load);
}

#[test]
fn a_whole_region_comes_takes_half_of_the_slots_and_goes_again_under_traffic() {
    let mut cluster = Cluster::with_edges();
    let load = load(&cluster, "8");
    cluster.node("east", &["--roles", "region", "--regions", "east"]);
    until("the region is there", || {
        cluster.status()["regions"].to_string().contains("east")
    });
    let moved = cluster.ask(&["move", "--slots", "0-32767", "--to", "east", "--json"]);
    assert_eq!((&moved["stage"], &moved["slots"]), (&"done".into(), &32_768.into()));
    let removed = cluster.ask(&["remove-region", "east", "--json"]);
    assert_eq!((&removed["stage"], &removed["slots"]), (&"done".into(), &32_768.into()));
    // The node's settings still name it.
    cluster.restart_control();
    cluster.until_all_are_back();
    assert!(!cluster.status()["regions"].to_string().contains("east"));
    assert_clean(&cluster, load);
}
