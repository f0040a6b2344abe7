//! A client in another language, written from the protocol's document alone, talks with ours.

mod support;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use support::{Place, Running, last_json, run, stderr};

#[test]
fn a_client_written_from_the_document_in_another_language_sends_and_receives() {
    if Command::new("python3").arg("--version").output().is_err() {
        println!("skipped: python3 is not installed");
        return;
    }
    let place = Place::new();
    let up = place.up(&[]);
    let server = up.address("device");
    let (host, port) = server.rsplit_once(':').unwrap();
    let mut alice = Running::start(&["listen", "--server", &server, "--device", "alice"]);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/stranger.py");
    let mut stranger = Command::new("python3")
        .args([script, host, port, "étranger", "alice"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(stranger.stdout.take().unwrap()).lines();
    let mut next = move || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    assert_eq!(next()["version"], 1);
    let shown = alice.json();
    assert_eq!(
        (&shown["sender"], &shown["payload"]),
        (&"étranger".into(), &"greetings from étranger".into())
    );
    let output = run([
        "send",
        "--server",
        &server,
        "--from",
        "alice",
        "--to",
        "étranger",
        "--json",
        "welcome",
    ]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(last_json(&output)["reports"][0]["outcome"], "delivered");
    let seen = next();
    // Delivered, in order, known for certain, by way of one node.
    assert_eq!(seen["reports"], json!(["alice", 0, 1, 0, 0, 1]));
    assert_eq!(seen["message"], json!(["alice", 0, "welcome"]));
    assert!(stranger.wait().unwrap().success());
}
