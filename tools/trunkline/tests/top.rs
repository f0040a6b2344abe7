//! `trunkline top`, without a terminal.

mod support;

use serde_json::Value;
use support::{Place, assert_one_line_error, last_json, run, stderr, trunkline};

#[test]
fn it_shows_each_core_of_each_node_and_who_does_not_answer() {
    let place = Place::new();
    let up = place.up(&["--cores", "0", "--backend", "epoll"]);
    let (http, server) = (up.address("http"), up.address("device"));
    let mut load = trunkline([
        "load",
        "--server",
        &server,
        "--connections",
        "10",
        "--rate",
        "2000",
        "--seconds",
        "20",
        "--warm-up",
        "0",
    ])
    .stdout(std::process::Stdio::null())
    .spawn()
    .unwrap();
    let nobody = "127.0.0.1:1";
    let both = format!("{http},{nobody}");
    let mut said = Value::Null;
    support::until("its messages are seen", || {
        let output = run(["top", "--http", &both, "--interval", "300ms", "--json"]);
        assert!(output.status.success(), "{}", stderr(&output));
        said = last_json(&output);
        said["nodes"][0]["messages_in"].as_f64().unwrap() > 500.0
    });
    let node = &said["nodes"][0];
    assert_eq!(
        (&node["name"], &node["sessions"]),
        (&"up".into(), &10.0.into()),
        "{node}"
    );
    assert_eq!(node["ldci"], 10.0, "this node is also the instance");
    let core = &node["cores"][0];
    assert_eq!((&core["core"], &core["backend"]), (&"0".into(), &"epoll".into()));
    assert!(core["calls_per_message"].as_f64().unwrap() > 0.5, "{core}");
    // A frame that comes in two parts, or the end of a connection, is a receive without one.
    for about_one in ["frames_per_receive", "frames_per_send", "completions_per_turn"] {
        assert!(core[about_one].as_f64().unwrap() > 0.9, "{about_one}: {core}");
    }
    assert!(said["nodes"][1]["error"].as_str().unwrap().contains(nobody), "{said}");

    let output = run(["top", "--http", &http, "--interval", "300ms", "--once"]);
    let text = String::from_utf8(output.stdout).unwrap();
    let heads: Vec<&str> = text.lines().filter(|line| line.starts_with("NODE")).collect();
    assert_eq!(heads.len(), 2, "{text}");
    assert!(text.contains("in sync"), "{text}");
    load.kill().unwrap();
    load.wait().unwrap();
}

#[test]
fn without_a_node_or_a_terminal_it_says_so() {
    assert_one_line_error(&run(["top", "--http", "127.0.0.1:1", "--once"]), &["127.0.0.1:1"]);
    let place = Place::new();
    let up = place.up(&["--cores", "0"]);
    assert_one_line_error(&run(["top", "--http", &up.address("http")]), &["--once"]);
}
