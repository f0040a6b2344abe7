//! `doctor` says what the host can do, and what to change.

mod support;

use serde_json::Value;
use support::{assert_one_line_error, last_json, run, stderr};

fn findings() -> (bool, Vec<Value>) {
    let output = run(["doctor", "--json"]);
    let said = last_json(&output);
    let can_run = said["can_run"].as_bool().unwrap();
    assert_eq!(output.status.success(), can_run, "{}", stderr(&output));
    (can_run, said["findings"].as_array().unwrap().clone())
}

#[test]
fn it_looks_at_everything_and_this_host_can_run_a_node() {
    let (can_run, findings) = findings();
    assert!(can_run, "the tests do run nodes: {findings:?}");
    let looked_at: Vec<&str> = findings
        .iter()
        .map(|finding| finding["what"].as_str().unwrap())
        .collect();
    for what in [
        "io_uring",
        "epoll",
        "backend auto",
        "open files",
        "locked memory",
        "processors",
        "cores of their own",
        "listen backlog",
        "ephemeral ports",
        "congestion control",
        "device port",
        "http port",
    ] {
        assert!(looked_at.contains(&what), "{what} is not in {looked_at:?}");
    }
}

#[test]
fn auto_chooses_what_the_self_test_allows() {
    let (_, findings) = findings();
    let find = |what: &str| findings.iter().find(|finding| finding["what"] == what).unwrap();
    let chosen = match find("io_uring")["state"].as_str().unwrap() {
        "ok" => "chooses io_uring",
        _ => "chooses epoll",
    };
    assert!(
        find("backend auto")["says"].as_str().unwrap().contains(chosen),
        "{findings:?}"
    );
}

#[test]
fn for_people_it_is_a_line_each() {
    let output = run(["doctor"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.lines().count() >= 12, "{text}");
    for line in text.lines() {
        assert!(
            ["ok ", "warn ", "fail "].iter().any(|state| line.starts_with(state)),
            "{line}"
        );
    }
    let shows_log = String::from_utf8(output.stderr).unwrap();
    assert!(!shows_log.contains("panicked"), "{shows_log}");
}

#[test]
fn a_host_that_leaves_no_descriptors_for_devices_fails_and_the_exit_code_says_so() {
    let program = env!("CARGO_BIN_EXE_trunkline");
    let output = std::process::Command::new("sh")
        .args([
            "-c",
            &format!("ulimit -n 200 && exec {program} --log error doctor --json"),
        ])
        .output()
        .unwrap();
    let said = last_json(&output);
    assert_eq!(said["can_run"], false);
    assert_one_line_error(&output, &["can't run here", "open files"]);
    let findings = said["findings"].as_array().unwrap();
    let finding = findings.iter().find(|finding| finding["what"] == "open files").unwrap();
    assert_eq!(finding["state"], "fail");
    assert!(finding["says"].as_str().unwrap().contains("LimitNOFILE"), "{finding}");
}
