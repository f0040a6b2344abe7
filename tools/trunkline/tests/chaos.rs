//! Faults against real processes in network namespaces: a short run. Skipped where the host doesn't allow it.

mod support;

use support::{assert_one_line_error, last_json, run, stderr};

#[test]
fn a_cluster_keeps_its_promises_while_everything_in_turn_breaks() {
    let output = run([
        "chaos",
        "--minutes",
        "0.4",
        "--rate",
        "300",
        "--devices",
        "60",
        "--json",
    ]);
    if stderr(&output).contains("chaos can't run on this host") {
        println!("skipped: {}", stderr(&output));
        return;
    }
    let verdict = last_json(&output);
    assert!(output.status.success(), "{verdict} {}", stderr(&output));
    assert_eq!(verdict["sent"], verdict["reported"], "{verdict}");
    assert!(verdict["outcomes"]["delivered"].as_u64().unwrap() > 1_000, "{verdict}");
    assert!(
        verdict["changes"]
            .as_object()
            .unwrap()
            .values()
            .any(|count| *count != 0)
    );
    assert!(verdict["faults"].as_object().unwrap().len() > 2, "{verdict}");
}

#[test]
fn a_fault_that_is_none_is_named() {
    let output = run(["chaos", "--faults", "kill,earthquake"]);
    assert_one_line_error(&output, &["earthquake", "unplug"]);
}
