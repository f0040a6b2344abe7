//! What a new user types: `up`, `listen`, `send`, and what they look at next.

mod support;

use serde_json::Value;
use support::{Place, Running, assert_one_line_error, get, last_json, metric, run, stderr, until};

fn listen(server: &str, device: &str, more: &[&str]) -> Running {
    let mut arguments = vec!["listen", "--server", server, "--device", device];
    arguments.extend(more);
    Running::start(&arguments)
}

fn send(server: &str, more: &[&str]) -> (std::process::Output, Value) {
    let mut arguments = vec!["send", "--server", server, "--json"];
    arguments.extend(more);
    let output = run(&arguments);
    let said = last_json(&output);
    (output, said)
}

#[test]
fn a_message_is_sent_shown_and_reported() {
    let place = Place::new();
    let up = place.up(&[]);
    let server = up.address("device");
    let mut bob = listen(&server, "bob", &[]);
    let (output, said) = send(&server, &["--from", "alice", "--to", "bob", "hello"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(said["reports"][0]["outcome"], "delivered");
    assert_eq!(said["reports"][0]["way"], "local");
    let shown = bob.json();
    assert_eq!(
        (&shown["sender"], &shown["payload"]),
        (&"alice".into(), &"hello".into())
    );
    let http = up.address("http");
    until("the message is counted", || {
        metric(&http, "trunkline_messages_delivered_total") == 1.0
    });
    assert!(get(&http, "/healthz").0 && get(&http, "/readyz").0);
}

#[test]
fn an_unknown_device_is_offline_and_the_exit_code_says_so() {
    let place = Place::new();
    let up = place.up(&[]);
    let (output, said) = send(&up.address("device"), &["--from", "alice", "--to", "nobody", "hello"]);
    assert_eq!(said["reports"][0]["outcome"], "offline");
    assert_one_line_error(&output, &["not delivered"]);
}

#[test]
fn a_message_that_waits_for_its_device_expires() {
    let place = Place::new();
    let up = place.up(&[]);
    let server = up.address("device");
    let (_, said) = send(&server, &["--from", "a", "--to", "b", "--fire-and-forget", "hello"]);
    assert_eq!(said["sent"], 1);
    let http = up.address("http");
    until("the drop is counted", || {
        metric(&http, "trunkline_dropped_offline_total") == 1.0
    });
}

#[test]
fn an_echo_comes_back() {
    let place = Place::new();
    let up = place.up(&[]);
    let server = up.address("device");
    let _echo = listen(&server, "echo", &["--echo"]);
    let mut alice = listen(&server, "alice", &[]);
    let (output, _) = send(&server, &["--from", "alice", "--to", "echo", "marco"]);
    assert!(output.status.success());
    assert_eq!(alice.json()["payload"], "marco");
}

#[test]
fn explain_and_status_say_where_a_device_is() {
    let place = Place::new();
    let up = place.up(&[]);
    let _bob = listen(&up.address("device"), "bob", &[]);
    let output = run(["explain", "bob", "--http", &up.address("http"), "--json"]);
    let said = last_json(&output);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(said["device"], "bob");
    assert!(said["session"].is_string() || said["session"].is_object(), "{said}");
    let secret = place.path("up/secret");
    let control = up.address("control");
    let output = run(["status", "--control", &control, "--secret-file", &secret, "--json"]);
    let said = last_json(&output);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(said["nodes"].as_array().map(Vec::len), Some(1), "{said}");
}

#[test]
fn a_device_is_assigned_before_its_first_connect() {
    let place = Place::new();
    let up = place.up(&[]);
    let (control, secret) = (up.address("control"), place.path("up/secret"));
    let reach = ["--control", &control, "--secret-file", &secret];
    let mut arguments = vec!["control", "enroll", "alice", "--region", "main"];
    arguments.extend(reach);
    let output = run(&arguments);
    assert!(output.status.success(), "{}", stderr(&output));
    until("the map has it", || {
        let mut arguments = vec!["control", "map"];
        arguments.extend(reach);
        String::from_utf8_lossy(&run(&arguments).stdout).contains("main")
    });
    let mut arguments = vec!["control", "where", "alice"];
    arguments.extend(reach);
    let output = run(&arguments);
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("main"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn on_sigterm_devices_are_told_to_go_away_and_the_exit_code_is_zero() {
    let place = Place::new();
    let mut up = place.up(&[]);
    let mut bob = listen(&up.address("device"), "bob", &[]);
    assert!(up.end().success());
    assert!(bob.end().success());
}

#[test]
fn a_token_lets_its_device_in_and_nobody_else() {
    let place = Place::new();
    let key = place.write("token.key", "the key of the operator's tokens");
    let up = place.up(&["--token-key-file", &key]);
    let server = up.address("device");
    let token = |device: &str, valid: &str| {
        let output = run(["token", "--device", device, "--key-file", &key, "--valid", valid]);
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let (alice, expired) = (token("alice", "1h"), token("alice", "0s"));
    let attempt = |token: &str| {
        run([
            "send",
            "--server",
            &server,
            "--from",
            "alice",
            "--to",
            "bob",
            "--fire-and-forget",
            "--token",
            token,
            "hi",
        ])
    };
    assert!(attempt(&alice).status.success());
    assert_one_line_error(&attempt(&token("mallory", "1h")), &["not valid for this device"]);
    assert_one_line_error(&attempt(&expired), &["expired"]);
    let without = run(["send", "--server", &server, "--from", "alice", "--to", "bob", "hi"]);
    assert_one_line_error(&without, &["asks for a device token"]);
    assert_one_line_error(&attempt("nonsense"), &["--token", "trunkline token"]);
}

#[test]
fn a_backup_is_restored_to_a_store_of_the_same_lineage() {
    let place = Place::new();
    let mut up = place.up(&[]);
    let (control, secret) = (up.address("control"), place.path("up/secret"));
    let (backup, data) = (place.path("backup"), place.path("restored"));
    let output = run([
        "control",
        "backup",
        &backup,
        "--control",
        &control,
        "--secret-file",
        &secret,
    ]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(up.end().success());
    let output = run(["control", "restore", &backup, "--data-dir", &data]);
    let said = last_json(&output);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(said["version"].as_u64() > said["version_backup"].as_u64());
    let again = run(["control", "restore", &backup, "--data-dir", &data]);
    assert_one_line_error(&again, &["--force"]);
    std::fs::write(&backup, b"not a backup").unwrap();
    let damaged = run(["control", "restore", &backup, "--data-dir", &place.path("other")]);
    assert_one_line_error(&damaged, &["backup"]);
}
