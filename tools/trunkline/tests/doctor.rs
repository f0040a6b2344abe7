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
            ["ok ", "warn ", "fail ", "run "]
                .iter()
                .any(|state| line.starts_with(state)),
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

/// Unpacks a recorded host: a file's path and text a line.
fn recorded(text: &str) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (path, text) = line.split_once(" =").unwrap();
        let path = root.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let text = text.trim().replace("\\n", "\n").replace("\\t", "\t");
        std::fs::write(path, text + "\n").unwrap();
    }
    root
}

fn plan(host: &str) -> Value {
    let root = recorded(host);
    let output = run(["doctor", "--json", "--root", root.path().to_str().unwrap()]);
    assert!(output.status.success(), "{}", stderr(&output));
    last_json(&output)["plan"].take()
}

fn says<'p>(plan: &'p Value, what: &str) -> Option<&'p str> {
    let notes = plan["notes"].as_array().unwrap();
    notes.iter().find(|note| note["what"] == what)?["says"].as_str()
}

fn commands(plan: &Value) -> Vec<&str> {
    let commands = plan["commands"].as_array().unwrap();
    commands.iter().map(|command| command.as_str().unwrap()).collect()
}

#[test]
fn on_two_sockets_shards_go_beside_the_card_one_a_core_and_its_interrupts_to_their_siblings() {
    let plan = plan(include_str!("hosts/two-sockets.txt"));
    let topology = says(&plan, "topology").unwrap();
    assert_eq!(
        topology,
        "16 processors on 8 cores in 2 packages, 2 NUMA nodes; a last-level cache of 16384 KiB for 8"
    );
    // Node 1 has the card; of its cores, the first is left to the system.
    assert_eq!(plan["cores"], serde_json::json!([5, 6, 7]), "{plan}");
    assert!(
        says(&plan, "numa").unwrap().contains("eth0 is attached to it"),
        "{plan}"
    );
    assert!(says(&plan, "numa").unwrap().contains("--cores 0-3"), "{plan}");
    assert!(says(&plan, "siblings").unwrap().contains("8 of 16"), "{plan}");
    assert!(says(&plan, "spared").unwrap().contains("core 4"), "{plan}");
    let commands = commands(&plan);
    assert_eq!(commands[0], "trunkline node --cores 5-7 …");
    for line in [
        "echo 13 > /proc/irq/40/smp_affinity_list",
        "echo 14 > /proc/irq/41/smp_affinity_list",
        "echo 15 > /proc/irq/42/smp_affinity_list",
        "echo 13 > /proc/irq/43/smp_affinity_list",
    ] {
        assert!(commands.contains(&line), "{line}: {commands:?}");
    }
    assert!(
        says(&plan, "queues").unwrap().contains("ethtool -L eth0 combined 3"),
        "{plan}"
    );
    assert_eq!(says(&plan, "cgroup cpu"), None, "max is no limit");
}

#[test]
fn isolated_cores_are_the_ones_that_shards_get() {
    let host = include_str!("hosts/two-sockets.txt").replace("isolated =", "isolated = 6-7,14-15");
    let plan = plan(&host);
    assert_eq!(plan["cores"], serde_json::json!([6, 7]), "{plan}");
    assert!(says(&plan, "ticks").unwrap().contains("nohz_full=6-7"), "{plan}");
    assert!(says(&plan, "spinning").unwrap().contains("--spin-us"), "{plan}");
}

#[test]
fn interrupts_that_are_in_place_are_left_there() {
    let mut host = include_str!("hosts/two-sockets.txt").to_owned();
    for (number, target) in [(40, 13), (41, 14), (42, 15), (43, 13)] {
        let line = format!("proc/irq/{number}/effective_affinity_list = ");
        host = host.replace(&format!("{line}0"), &format!("{line}{target}"));
    }
    let plan = plan(&host);
    assert!(says(&plan, "card").unwrap().ends_with("already"), "{plan}");
    assert_eq!(commands(&plan).len(), 1, "{plan}");
}

#[test]
fn a_small_virtual_machine_gets_all_its_processors_and_a_warning_of_its_limit() {
    let plan = plan(include_str!("hosts/vm.txt"));
    assert_eq!(plan["cores"], serde_json::json!([0, 1]), "{plan}");
    assert_eq!(plan["incoming_cpu"], false);
    assert!(says(&plan, "card").unwrap().contains("shows no interrupts"), "{plan}");
    assert!(
        says(&plan, "spinning").unwrap().contains("would take it from others"),
        "{plan}"
    );
    assert!(says(&plan, "open files").unwrap().contains("20000"), "{plan}");
    assert!(
        commands(&plan).iter().any(|command| command.contains("LimitNOFILE")),
        "{plan}"
    );
    assert_eq!((says(&plan, "numa"), says(&plan, "siblings")), (None, None));
}

#[test]
fn a_container_gets_no_more_shards_than_its_quota_has_processors() {
    let plan = plan(include_str!("hosts/container.txt"));
    assert_eq!(plan["cores"].as_array().unwrap().len(), 2, "{plan}");
    assert_eq!(
        plan["cores"],
        serde_json::json!([3, 4]),
        "of 2 to 7, one spared: {plan}"
    );
    assert!(says(&plan, "cgroup cpu").unwrap().contains("2.50 processors"), "{plan}");
    assert!(
        says(&plan, "cgroup memory")
            .unwrap()
            .contains("128 MiB: 64 MiB are left"),
        "{plan}"
    );
}

#[test]
fn a_root_without_a_host_is_refused_by_name() {
    let empty = tempfile::tempdir().unwrap();
    let root = empty.path().to_str().unwrap();
    assert_one_line_error(&run(["doctor", "--root", root]), &["--root", root]);
}
