//! Settings that can't be: one line that names the setting and says what to do.

mod support;

use support::{Place, assert_one_line_error, run};

#[test]
fn a_port_in_use_names_its_setting() {
    let place = Place::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (data, secret) = (place.path("control"), place.path("secret"));
    let output = run([
        "control",
        "--listen",
        &address,
        "--data-dir",
        &data,
        "--secret-file",
        &secret,
    ]);
    assert_one_line_error(&output, &[&address, "listen"]);
    let node = place.path("node");
    for flag in ["--device-listen", "--peer-listen", "--http-listen"] {
        let mut arguments = vec![
            "node",
            "--roles",
            "connection",
            "--data-dir",
            &node,
            "--secret-file",
            &secret,
        ];
        for other in ["--device-listen", "--peer-listen", "--http-listen"] {
            arguments.extend([other, if other == flag { &address } else { "127.0.0.1:0" }]);
        }
        assert_one_line_error(&run(&arguments), &[&address]);
    }
}

#[test]
fn a_configuration_file_that_cannot_be_used_is_named_with_the_line() {
    let place = Place::new();
    let missing = run(["node", "--config", "/nowhere/node.toml"]);
    assert_one_line_error(&missing, &["/nowhere/node.toml"]);
    let file = place.write("invalid.toml", "[node\nname = 1");
    assert_one_line_error(&run(["node", "--config", &file]), &["invalid.toml"]);
    let file = place.write("unknown.toml", "[node]\nnmae = \"a\"\n");
    assert_one_line_error(&run(["node", "--config", &file]), &["unknown.toml", "nmae"]);
    let file = place.write("control.toml", "lisen = \"127.0.0.1:0\"\n");
    assert_one_line_error(&run(["control", "--config", &file]), &["control.toml", "lisen"]);
}

#[test]
fn a_secret_that_is_none_is_named() {
    let place = Place::new();
    let (data, short) = (place.path("control"), place.write("short", "short"));
    let output = run([
        "control",
        "--listen",
        "127.0.0.1:0",
        "--data-dir",
        &data,
        "--secret-file",
        &short,
    ]);
    assert_one_line_error(&output, &["secret_file", "at least 16 bytes"]);
    let output = run([
        "control",
        "--listen",
        "127.0.0.1:0",
        "--data-dir",
        &data,
        "--secret-file",
        "/nowhere",
    ]);
    assert_one_line_error(&output, &["secret_file", "/nowhere"]);
    let output = run(["control", "--listen", "127.0.0.1:0", "--data-dir", &data]);
    assert_one_line_error(&output, &["secret_file"]);
}

#[test]
fn a_tool_with_another_secret_is_refused_by_name() {
    let place = Place::new();
    let up = place.up(&[]);
    let other = place.write("other", "another secret, long enough too");
    let output = run(["status", "--control", &up.address("control"), "--secret-file", &other]);
    assert_one_line_error(&output, &["secret"]);
}

#[test]
fn two_nodes_cannot_share_a_data_directory() {
    let place = Place::new();
    let _up = place.up(&[]);
    let data = place.path("up");
    let second = run([
        "up",
        "--data-dir",
        &data,
        "--device-listen",
        "127.0.0.1:0",
        "--peer-listen",
        "127.0.0.1:0",
        "--control-listen",
        "127.0.0.1:0",
        "--http-listen",
        "127.0.0.1:0",
    ]);
    assert_one_line_error(&second, &[&data]);
}

#[test]
fn cores_that_are_not_there_are_refused() {
    let place = Place::new();
    let (data, secret) = (place.path("node"), place.path("secret"));
    for cores in ["9999", "2-1", "a", ""] {
        let output = run([
            "node",
            "--roles",
            "connection",
            "--data-dir",
            &data,
            "--secret-file",
            &secret,
            "--cores",
            cores,
            "--device-listen",
            "127.0.0.1:0",
            "--peer-listen",
            "127.0.0.1:0",
            "--http-listen",
            "127.0.0.1:0",
        ]);
        assert_one_line_error(&output, &["cores"]);
    }
}

#[test]
fn nobody_at_an_address_is_said_with_what_to_check() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    let output = run(["send", "--server", &nobody, "--from", "a", "--to", "b", "hi"]);
    assert_one_line_error(&output, &[&nobody]);
    let output = run(["explain", "bob", "--http", &nobody]);
    assert_one_line_error(&output, &[&nobody]);
}

#[test]
fn tuning_that_cannot_be_is_refused_with_the_setting_and_what_to_do() {
    let place = Place::new();
    let data = place.path("up");
    let refused = |flag: &str, value: &str| {
        let mut arguments = vec!["up", "--data-dir", &data, flag, value];
        for flag in ["--device-listen", "--peer-listen", "--control-listen", "--http-listen"] {
            arguments.extend([flag, "127.0.0.1:0"]);
        }
        run(arguments)
    };
    assert_one_line_error(&refused("--spin-us", "20000"), &["tuning.spin_us", "at most"]);
    assert_one_line_error(&refused("--memory", "far"), &["--memory", "inherited"]);
    let beyond = refused("--send-buffer-bytes", "1073741824");
    assert_one_line_error(&beyond, &["tuning.send_buffer_bytes", "net.core.wmem_max"]);
}

#[test]
fn a_load_that_no_simulated_cluster_can_have_is_refused_by_its_flag() {
    for (flags, named) in [
        (
            &["--devices", "10", "--devices-min", "11"][..],
            ["--devices-min 11", "--devices 10"],
        ),
        (&["--servers", "65"], ["--servers 65", "64"]),
        (&["--servers", "2,3"], ["--servers", "--propagation"]),
        (&["--message-rate", "0"], ["--message-rate", "0.01 to 100"]),
        (&["--fault-rate", "often"], ["--fault-rate", "0.01 to 100"]),
        (
            &["--propagation", "global", "--fault-rate", "1"],
            ["--fault-rate", "--propagation"],
        ),
    ] {
        let output = run([&["sim"], flags].concat());
        assert_one_line_error(&output, &named);
    }
}
