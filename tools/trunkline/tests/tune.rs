//! `trunkline tune`: a short sweep, and a node that runs with what it prints.

mod support;

use support::{Place, Running, get, last_json, run, stderr, until};

#[test]
fn it_ranks_what_it_measured_and_a_node_takes_its_configuration() {
    let place = Place::new();
    let file = place.path("tuned.toml");
    let output = run([
        "tune",
        "--seconds",
        "8",
        "--rounds",
        "1",
        "--connections",
        "20",
        "--rate",
        "500",
        "--json",
        "--write",
        &file,
    ]);
    assert!(output.status.success(), "{}", stderr(&output));
    let said = last_json(&output);
    let ranked = said["ranked"].as_array().unwrap();
    assert!(ranked.len() >= 2, "{said}");
    for place in ranked {
        let of = |name: &str| place["measured"][name]["median"].as_f64().unwrap();
        assert!(
            of("throughput") > 0.0 && of("p50_us") > 0.0 && of("p99_us") >= of("p50_us"),
            "{place}"
        );
    }
    let medians: Vec<f64> = (ranked.iter())
        .map(|place| place["measured"]["throughput"]["median"].as_f64().unwrap())
        .collect();
    assert!(medians.is_sorted_by(|a, b| a >= b), "{medians:?}");
    assert_eq!(
        std::fs::read_to_string(&file).unwrap(),
        said["config"].as_str().unwrap()
    );

    // The very file, with a place to live in from flags.
    let up = place.up(&["--cores", "0"]);
    let (data, secret, control) = (place.path("node"), place.path("up/secret"), up.address("control"));
    let mut arguments = vec![
        "node",
        "--config",
        &file,
        "--data-dir",
        &data,
        "--secret-file",
        &secret,
        "--control",
        &control,
    ];
    for flag in ["--device-listen", "--peer-listen", "--http-listen"] {
        arguments.extend([flag, "127.0.0.1:0"]);
    }
    let node = Running::start(&arguments);
    until("its shards have begun to turn", || {
        get(&node.address("http"), "/healthz").0
    });
}
