//! Moves between regions over real processes, under traffic, and with the control plane killed in the midst of one.

mod support;

use std::process::{Child, Stdio};

use serde_json::Value;
use support::{Place, Running, assert_one_line_error, get, last_json, metric, run, stderr, trunkline, until};

const ANY: &str = "127.0.0.1:0";

/// Control, two regions of one instance each, and two connection servers.
struct Cluster {
    place: Place,
    control: Running,
    nodes: Vec<Running>,
}

impl Cluster {
    fn start() -> Cluster {
        let place = Place::new();
        let control = Cluster::control(&place, ANY);
        let mut cluster = Cluster {
            place,
            control,
            nodes: Vec::new(),
        };
        for region in ["north", "south"] {
            cluster.node(region, &["--roles", "region", "--regions", region]);
        }
        for edge in ["edge-1", "edge-2"] {
            cluster.node(edge, &["--roles", "connection"]);
        }
        for node in &cluster.nodes {
            let http = node.address("http");
            until("a node is ready", || get(&http, "/readyz").0);
        }
        cluster
    }

    fn control(place: &Place, listen: &str) -> Running {
        let (data, secret) = (place.path("control"), place.path("secret"));
        let mut arguments = vec!["control", "--listen", listen, "--data-dir", &data];
        arguments.extend(["--secret-file", &secret, "--initial-regions", "north,south"]);
        Running::start(&arguments)
    }

    fn node(&mut self, name: &str, more: &[&str]) {
        let (data, secret) = (self.place.path(name), self.place.path("secret"));
        let control = self.control.address("control");
        let mut arguments = vec!["node", "--name", name, "--control", &control];
        arguments.extend(["--data-dir", &data, "--secret-file", &secret]);
        arguments.extend(["--device-listen", ANY, "--peer-listen", ANY, "--http-listen", ANY]);
        arguments.extend(more);
        self.nodes.push(Running::start(&arguments));
    }

    fn arguments<'a>(&'a self, request: &[&'a str], at: &'a [String; 2]) -> Vec<&'a str> {
        let mut arguments = vec!["control"];
        arguments.extend(request);
        arguments.extend(["--control", &at[0], "--secret-file", &at[1]]);
        arguments
    }

    fn at(&self) -> [String; 2] {
        [self.control.address("control"), self.place.path("secret")]
    }

    fn ask(&self, request: &[&str]) -> Value {
        let at = self.at();
        let output = run(self.arguments(request, &at));
        assert!(output.status.success(), "{}", stderr(&output));
        last_json(&output)
    }

    fn refused(&self, request: &[&str], parts: &[&str]) {
        let at = self.at();
        assert_one_line_error(&run(self.arguments(request, &at)), parts);
    }

    /// Confirmed messages between devices of both servers, for some seconds.
    fn load(&self, seconds: &str) -> Child {
        let [_, _, one, other] = &self.nodes[..] else {
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

    fn reported(&self, name: &str) -> f64 {
        self.nodes.iter().map(|node| metric(&node.address("http"), name)).sum()
    }

    /// Nothing is lost, misdelivered or out of order. The generator is no library: it counts the copies that retries make.
    fn assert_clean(&self, load: Child) {
        let output = load.wait_with_output().unwrap();
        assert!(!output.stdout.is_empty(), "{}", stderr(&output));
        let report = last_json(&output);
        for fault in ["lost", "out_of_order", "stray"] {
            assert_eq!(report["faults"][fault], 0, "{report}");
        }
        let copies = report["faults"]["doubled"].as_f64().unwrap();
        let retries = self.reported("trunkline_retries_total");
        assert!(copies <= retries, "{copies} copies, and {retries} retries: {report}");
        assert_eq!(self.reported("trunkline_reports_offline_total"), 0.0);
    }
}

#[test]
fn a_quarter_of_the_slots_moves_under_traffic_and_back() {
    let cluster = Cluster::start();
    let load = cluster.load("6");
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
    cluster.assert_clean(load);
    let moves = cluster.ask(&["moves", "--json"]);
    assert_eq!(moves["moves"].as_array().unwrap().len(), 2, "{moves}");
}

#[test]
fn a_move_that_control_was_killed_in_goes_on_and_whoever_watches_sees_its_end() {
    let mut cluster = Cluster::start();
    let load = cluster.load("6");
    let begun = cluster.ask(&["move", "--slots", "0-65535", "--to", "south", "--detach", "--json"]);
    assert_eq!(begun["stage"], "both", "{begun}");
    let address = cluster.control.address("control");
    cluster.control.kill();
    let at = cluster.at();
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
    cluster.assert_clean(load);
}

#[test]
fn a_connected_device_and_a_whole_region_move_and_wrong_moves_are_refused() {
    let cluster = Cluster::start();
    let edge = cluster.nodes[2].address("device");
    let mut alice = Running::start(&["listen", "--server", &edge, "--device", "alice"]);
    let home = cluster.ask(&["where", "alice"])["region"].as_str().unwrap().to_owned();
    let other = if home == "north" { "south" } else { "north" };
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
