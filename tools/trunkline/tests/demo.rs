//! The demo's cluster of real processes: nothing is lost, whoever dies.

mod support;

use support::{last_json, run, stderr};

/// A demo with these further flags, and its summary.
fn demo(more: &[&str]) -> (bool, serde_json::Value) {
    let mut arguments = vec!["demo", "--json", "--messages", "4000", "--devices", "120"];
    arguments.extend(more);
    let output = run(&arguments);
    let summary = last_json(&output);
    eprintln!("{summary}\n{}", stderr(&output));
    (output.status.success(), summary)
}

fn assert_sound(summary: &serde_json::Value) {
    for count in [
        "unreported",
        "lost",
        "misdelivered",
        "out_of_order",
        "shown_twice",
        "reported_twice",
    ] {
        assert_eq!(summary[count], 0, "{count}: {summary}");
    }
    assert_eq!(summary["reported"], 4_000, "{summary}");
}

#[test]
fn all_messages_are_delivered_by_all_three_ways() {
    let (success, summary) = demo(&[]);
    assert!(success);
    assert_sound(&summary);
    assert_eq!(summary["delivered"], 4_000);
    for way in ["local", "direct", "region"] {
        assert!(summary["ways"][way].as_u64().unwrap() > 0, "{way}: {summary}");
    }
}

#[test]
fn nothing_is_lost_when_one_of_two_region_instances_is_killed() {
    let (success, summary) = demo(&["--kill", "north-1"]);
    assert!(success);
    assert_sound(&summary);
    assert_eq!(summary["delivered"], 4_000);
}

#[test]
fn every_message_is_reported_when_a_connection_server_is_killed() {
    let (success, summary) = demo(&["--kill", "edge-2"]);
    assert!(success);
    assert_sound(&summary);
    assert!(
        summary["disconnects"].as_u64().unwrap() > 0,
        "somebody was connected there: {summary}"
    );
}

#[test]
fn without_control_a_node_restarts_and_nothing_changes() {
    let (success, summary) = demo(&["--stop-control", "--restart", "south-2"]);
    assert!(success);
    assert_sound(&summary);
    assert_eq!(summary["delivered"], 4_000);
}

#[test]
fn without_control_a_connection_server_restarts_and_every_message_is_reported() {
    let (success, summary) = demo(&["--stop-control", "--restart", "edge-3"]);
    assert!(success);
    assert_sound(&summary);
}

#[test]
fn a_trace_from_a_file_is_played() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("trace.txt");
    let lines: String = (0..200)
        .map(|n| format!("user{} user{} {}\n", n % 7, (n + 1) % 7, 1_000 + n))
        .collect();
    std::fs::write(&path, lines).unwrap();
    let output = run(["demo", "--json", "--trace", path.to_str().unwrap()]);
    let summary = last_json(&output);
    assert!(output.status.success(), "{summary} {}", stderr(&output));
    assert_eq!((&summary["delivered"], &summary["devices"]), (&200.into(), &7.into()));
}

#[test]
fn a_trace_that_is_none_and_a_process_that_is_not_there_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("trace.txt");
    std::fs::write(&path, "a b 1\na b\n").unwrap();
    let output = run(["demo", "--trace", path.to_str().unwrap()]);
    support::assert_one_line_error(&output, &["trace.txt:2", "2 fields instead of 3"]);
    let output = run(["demo", "--kill", "east-9"]);
    support::assert_one_line_error(&output, &["east-9", "north-1"]);
}
