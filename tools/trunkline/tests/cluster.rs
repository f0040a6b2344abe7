//! A cluster of separate processes that were told only the control address and the secret.

mod support;

use serde_json::Value;
use support::cluster::{ANY, Cluster, listen};
use support::{Running, assert_one_line_error, get, last_json, run, stderr, until};

#[test]
fn a_messaging_server_takes_messages_in_and_holds_no_sessions() {
    let mut cluster = Cluster::start();
    cluster.node("edge", &["--roles", "connection"]);
    cluster.node("backend", &["--roles", "messaging"]);
    cluster.ready();
    let [_, _, edge, backend] = &cluster.nodes[..] else {
        unreachable!()
    };
    let mut bob = listen(edge, "bob");
    let server = backend.address("device");
    let output = run([
        "send", "--server", &server, "--from", "service", "--to", "bob", "--json", "hello",
    ]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(last_json(&output)["reports"][0]["way"], "region");
    assert_eq!(bob.json()["payload"], "hello");
    let refused = run([
        "listen",
        "--server",
        &server,
        "--device",
        "carol",
        "--count",
        "1",
        "--timeout",
        "1s",
    ]);
    assert!(!refused.status.success());
    assert!(stderr(&refused).contains("not_served"), "{}", stderr(&refused));
}

#[test]
fn a_device_is_known_to_its_region_alone_also_when_it_was_assigned_before_its_first_connect() {
    let mut cluster = Cluster::start();
    cluster.node("edge", &["--roles", "connection"]);
    cluster.ready();
    let [north, south, edge] = &cluster.nodes[..] else {
        unreachable!()
    };
    for (device, region) in [("alice", "north"), ("bob", "south")] {
        cluster.ask(&["enroll", device, "--region", region]);
        until("the edge has the map", || {
            let seen = cluster.explain(edge, device);
            seen["region"]["name"] == region && seen["region_also"].is_null()
        });
    }
    let _alice = listen(edge, "alice");
    let _bob = listen(edge, "bob");
    for (device, own, other) in [("alice", north, south), ("bob", south, north)] {
        until("the region's instance knows", || {
            !cluster.explain(own, device)["presence"].is_null()
        });
        assert!(cluster.explain(other, device)["presence"].is_null());
        let seen = cluster.explain(edge, device);
        assert_eq!(seen["instances"][0]["says"]["in_sync"], true, "{seen}");
    }
    let dump = cluster.ask(&["map"]).to_string();
    assert!(dump.contains("north") && dump.contains("south"), "{dump}");
}

#[test]
fn control_that_was_killed_goes_on_where_it_was() {
    let mut cluster = Cluster::start();
    cluster.node("edge", &["--roles", "connection"]);
    cluster.ready();
    cluster.ask(&["enroll", "alice", "--region", "south"]);
    let edge = &cluster.nodes[2];
    until("the edge has the map", || {
        cluster.explain(edge, "alice")["region"]["name"] == "south"
    });
    let before = cluster.explain(edge, "alice")["map_version"].as_u64().unwrap();
    cluster.restart_control();
    let told = cluster.ask(&["where", "alice"]);
    assert!(told.to_string().contains("south"), "{told}");
    cluster.ask(&["enroll", "bob", "--region", "north"]);
    let edge = &cluster.nodes[2];
    until("the edge has a newer map", || {
        cluster.explain(edge, "bob")["map_version"].as_u64().unwrap() > before
    });
}

#[test]
fn a_node_with_another_secret_is_refused_by_name() {
    let cluster = Cluster::start();
    let other = cluster.place.write("other", "another secret, long enough as well");
    let data = cluster.place.path("stranger");
    let output = run([
        "--log",
        "off",
        "node",
        "--roles",
        "connection",
        "--control",
        &cluster.control.address("control"),
        "--data-dir",
        &data,
        "--secret-file",
        &other,
        "--device-listen",
        ANY,
        "--peer-listen",
        ANY,
        "--http-listen",
        ANY,
    ]);
    assert_one_line_error(&output, &["secret"]);
}

#[test]
fn status_names_all_nodes_and_their_map_versions() {
    let mut cluster = Cluster::start();
    cluster.node("edge", &["--roles", "connection"]);
    cluster.ready();
    let mut said = Value::Null;
    until("all have the same version", || {
        said = cluster.status();
        let nodes = said["nodes"].as_array().unwrap();
        nodes.len() == 3 && nodes.iter().all(|node| node["version"] == said["version"])
    });
    let names: Vec<_> = said["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| node["name"].clone())
        .collect();
    assert_eq!(names, ["north", "south", "edge"]);
    let [control, secret] = cluster.at();
    let text = run(["status", "--control", &control, "--secret-file", &secret]);
    assert!(String::from_utf8_lossy(&text.stdout).contains("edge"));
    assert!(
        get(&cluster.control.address("http"), "/metrics")
            .1
            .contains("trunkline_control_joins_total 3")
    );
}

#[test]
fn a_drained_server_s_devices_move_to_another_without_a_report_of_offline_and_it_can_be_taken_back() {
    let mut cluster = Cluster::start();
    cluster.node("edge", &["--roles", "connection"]);
    cluster.node("other", &["--roles", "connection"]);
    cluster.ready();
    let [_, _, edge, other] = &cluster.nodes[..] else {
        unreachable!()
    };
    let (edge, other, http) = (edge.address("device"), other.address("device"), edge.address("http"));
    let servers = format!("{edge},{other}");
    let names: Vec<String> = (0..6).map(|n| format!("device{n}")).collect();
    let _listening: Vec<Running> = names
        .iter()
        .map(|name| Running::start(&["listen", "--server", &servers, "--device", name]))
        .collect();
    let sessions = |http: &str| {
        let (_, said) = get(http, "/status");
        let said: Value = serde_json::from_str(&said).unwrap();
        (said["sessions"].as_u64().unwrap(), said["draining"] == true)
    };
    let done = cluster.ask(&["drain", "edge", "--rate", "10"]);
    assert_eq!(done["sessions"], 0);
    // Who was being let in when the drain began goes as well.
    until("nobody is left", || sessions(&http) == (0, true));
    assert!(!get(&http, "/readyz").0, "no traffic should be sent there");
    for name in &names {
        let output = run([
            "send", "--server", &other, "--from", "sender", "--to", name, "--json", "hello",
        ]);
        assert!(output.status.success(), "{}", stderr(&output));
    }
    let output = run([
        "send", "--server", &servers, "--from", "sender", "--to", &names[0], "hello",
    ]);
    assert!(output.status.success(), "who comes is sent on: {}", stderr(&output));
    cluster.ask(&["drain", "edge", "--undo"]);
    until("it takes devices again", || {
        get(&http, "/readyz").0 && !sessions(&http).1
    });
    let output = run([
        "send", "--server", &edge, "--from", "sender", "--to", &names[0], "hello",
    ]);
    assert!(output.status.success(), "{}", stderr(&output));
}

#[test]
fn a_trace_is_played_by_the_clock_through_servers_that_run_already() {
    let mut cluster = Cluster::start();
    for name in ["edge-1", "edge-2", "edge-3"] {
        cluster.node(name, &["--roles", "connection"]);
    }
    cluster.ready();
    // Each comes back after 40 minutes, and sends two messages.
    let mut text = String::new();
    for round in 0..4 {
        for device in 0..10 {
            let (at, to) = (1_000_000 + round * 2_400 + device * 60, (device + 1) % 10);
            text += &format!("d{device} d{to} {at}\nd{device} d{to} {at}\n");
        }
    }
    let file = cluster.place.write("trace.txt", &text);
    let ports = |port: &str| {
        let edges = cluster.nodes[2..].iter().map(|node| node.address(port));
        edges.collect::<Vec<_>>().join(",")
    };
    let (servers, http) = (ports("device"), ports("http"));
    let mut arguments = vec![
        "replay",
        &file,
        "--cluster",
        "--speed",
        "3000",
        "--lead",
        "200ms",
        "--json",
    ];
    arguments.extend(["--server", &servers]);
    let output = run(arguments.iter().chain(&["--http", &http]));
    assert!(output.status.success(), "{}", stderr(&output));
    let figures = last_json(&output);
    let played = &figures["runs"][0];
    assert_eq!(
        (&figures["servers"], &played["policy"]),
        (&3.into(), &"as it is".into())
    );
    assert_eq!(
        (&played["all"]["sent"], &played["all"]["delivered"]),
        (&80.into(), &80.into()),
        "{played}"
    );
    // At the very servers that the model has them at, except while they change over.
    let [model, remote] = [&figures["model"], played].map(|of| of["messages"].as_u64().unwrap());
    assert_eq!(model, remote);
    let ways = &played["all"]["ways"];
    let local = ways["local"].as_u64().unwrap();
    assert!(
        local.abs_diff(80 - remote) <= 4,
        "{local} local, {remote} in the model not: {ways}"
    );
    assert!(played["first_after_idle"]["messages"].as_u64().unwrap() > 10);
    assert!(played["location_known"].as_f64().unwrap() > 0.0 && !played["dials_per_message"].is_null());
    // Without their HTTP ports it isn't known what they count.
    let without = last_json(&run(&arguments));
    assert!(without["runs"][0]["dials_per_message"].is_null(), "{without}");
}

#[test]
fn a_drained_server_stays_drained_though_it_and_control_start_anew_until_that_is_undone() {
    let mut cluster = Cluster::start();
    cluster.node("edge", &["--roles", "connection"]);
    cluster.node("other", &["--roles", "connection"]);
    cluster.ready();
    assert_eq!(cluster.ask(&["drain", "edge"])["sessions"], 0);
    cluster.restart_control();
    cluster.nodes[2].kill();
    cluster.nodes[2] = cluster.started("edge", &["--roles", "connection"]);
    let http = cluster.nodes[2].address("http");
    let draining = || serde_json::from_str::<Value>(&get(&http, "/status").1).unwrap()["draining"] == true;
    until("it is told again", draining);
    assert!(!get(&http, "/readyz").0, "no traffic should be sent there");
    cluster.ask(&["drain", "edge", "--undo"]);
    until("it takes devices again", || !draining() && get(&http, "/readyz").0);
}

#[test]
fn a_drained_server_that_starts_while_control_is_away_lets_nobody_in_and_hears_from_control_that_it_may() {
    let mut cluster = Cluster::start();
    cluster.node("edge", &["--roles", "connection"]);
    cluster.node("other", &["--roles", "connection"]);
    cluster.ready();
    assert_eq!(cluster.ask(&["drain", "edge"])["sessions"], 0);
    let address = cluster.control.address("control");
    // Control names its port to those that start.
    let start_alone = |cluster: &mut Cluster| {
        cluster.nodes[2].kill();
        cluster.control.kill();
        cluster.nodes[2] = cluster.started("edge", &["--roles", "connection"]);
    };
    let draining = |cluster: &Cluster| {
        let (_, said) = get(&cluster.nodes[2].address("http"), "/status");
        serde_json::from_str::<Value>(&said).unwrap()["draining"] == true
    };
    start_alone(&mut cluster);
    // It has not been told, and turns away whoever comes.
    let server = cluster.nodes[2].address("device");
    let refused = run([
        "listen",
        "--server",
        &server,
        "--device",
        "device",
        "--count",
        "1",
        "--timeout",
        "1s",
    ]);
    assert!(
        !refused.status.success() && stderr(&refused).contains("shutting down"),
        "{}",
        stderr(&refused)
    );
    assert!(draining(&cluster));
    cluster.control = Cluster::control(&cluster.place, &address);
    cluster.until_all_are_back();
    assert!(draining(&cluster), "control says the same");
    // What is undone while it is away, it hears when it's back.
    cluster.nodes[2].kill();
    cluster.ask(&["drain", "edge", "--undo"]);
    start_alone(&mut cluster);
    until("it goes by what it knows", || draining(&cluster));
    cluster.control = Cluster::control(&cluster.place, &address);
    until("it takes devices again", || !draining(&cluster));
    cluster.nodes[2].kill();
    cluster.nodes[2] = cluster.started("edge", &["--roles", "connection"]);
    assert!(!draining(&cluster), "and has kept that");
}

#[test]
fn a_server_that_comes_back_at_another_address_is_reached_there_directly() {
    let mut cluster = Cluster::start();
    cluster.node("one", &["--roles", "connection"]);
    cluster.node("two", &["--roles", "connection"]);
    cluster.ready();
    let one = cluster.nodes[2].address("device");
    let sent = |way: &str| {
        // Who writes three times is worth a link.
        let output = run([
            "send", "--server", &one, "--from", "alice", "--to", "bob", "--count", "3", "--json", "hello",
        ]);
        assert!(output.status.success(), "{}", stderr(&output));
        let said = last_json(&output);
        let reports = said["reports"].as_array().unwrap();
        assert!(reports.iter().all(|report| report["outcome"] == "delivered"), "{said}");
        reports.iter().any(|report| report["way"] == way)
    };
    let _bob = listen(&cluster.nodes[3], "bob");
    until("alice reaches bob directly", || sent("direct"));
    let before = cluster.nodes[3].address("peer");
    cluster.nodes.remove(3).kill();
    let two = cluster.node("two", &["--roles", "connection"]);
    assert_ne!(two.address("peer"), before, "the system gives it another port");
    let _bob = listen(&cluster.nodes[3], "bob");
    until("and where it is now", || sent("direct"));
}
