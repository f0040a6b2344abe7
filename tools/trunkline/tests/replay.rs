//! `trunkline replay` through the model: the figures that are printed, and what can't be played.

mod support;

use std::sync::{Mutex, PoisonError};

use support::{Place, assert_one_line_error, last_json, run};

/// Each writes once a day to one other of its own.
fn trace() -> String {
    let mut text = String::new();
    for day in 0..30 {
        for pair in 0..10 {
            text += &format!("s{pair} r{pair} {}\n", 1_000_000 + day * 86_400 + pair * 600);
        }
    }
    text
}

fn play(file: &str, more: &[&str]) -> serde_json::Value {
    let mut arguments = vec!["replay", file, "--nodes", "16", "--seed", "1", "--json"];
    arguments.extend(more);
    let output = run(&arguments);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

#[test]
fn the_model_prints_its_figures_and_a_seed_gives_them_again() {
    let place = Place::new();
    let file = place.write("trace.txt", &trace());
    let figures = play(&file, &["--budget", "4", "--policy", "predictor"]);
    let mut names: Vec<&String> = figures.as_object().unwrap().keys().collect();
    names.sort();
    let expected = [
        "cost",
        "dials_per_message",
        "hit",
        "links_max",
        "links_mean",
        "location_known",
        "messages",
        "wasted_dials",
    ];
    assert_eq!(names, expected);
    assert_eq!(figures, play(&file, &["--budget", "4", "--policy", "predictor"]));
    let (hit, dials) = (
        figures["hit"].as_f64().unwrap(),
        figures["dials_per_message"].as_f64().unwrap(),
    );
    assert!((figures["cost"].as_f64().unwrap() - (1.0 - hit + 0.1 * dials)).abs() < 1e-9);
    assert!(hit > 0.9);
    let none = play(&file, &["--budget", "4", "--policy", "none"]);
    assert_eq!(none["hit"], 0.0);
    assert_eq!(none["messages"], figures["messages"]);
}

#[test]
fn a_picture_and_a_table_compare_the_policies() {
    let place = Place::new();
    let (file, picture) = (place.write("trace.txt", &trace()), place.path("policies.svg"));
    let figures = play(&file, &["--plot", &picture]);
    assert_eq!(figures["points"].as_array().unwrap().len(), 4 * 4);
    let picture = std::fs::read_to_string(picture).unwrap();
    assert!(picture.starts_with("<svg") && picture.contains("predictor"));
}

#[test]
fn a_bounded_number_of_links_is_compared_with_a_full_mesh_over_the_number_of_servers() {
    let place = Place::new();
    let (file, picture) = (place.write("trace.txt", &trace()), place.path("scale.svg"));
    let arguments = [
        "replay", &file, "--scale", "--nodes", "200", "--budget", "8", "--way", "2ms",
    ];
    let output = run(arguments.iter().chain(&["--plot", &picture, "--json"]));
    assert!(output.status.success(), "{output:?}");
    let figures = last_json(&output);
    let sizes = figures["sizes"].as_array().unwrap();
    let servers: Vec<u64> = sizes.iter().map(|size| size["servers"].as_u64().unwrap()).collect();
    assert_eq!(servers, [4, 8, 16, 32, 64, 128, 200]);
    let last = sizes.last().unwrap();
    assert_eq!(
        (&last["mesh"]["links_max"], &last["mesh"]["dispatch_ms_p99"]),
        (&199.into(), &2.0.into())
    );
    assert!(last["predictor"]["links_max"].as_u64().unwrap() <= 8);
    assert_eq!(
        (&figures["mesh_fits_until"], &figures["ways"]["region_ms"]),
        (&9.into(), &44.0.into())
    );
    // 300 messages are too few for 19,900 links.
    let stops = figures["mesh_costs_more_from"].as_u64().unwrap();
    assert!((4..200).contains(&stops), "{stops}");
    assert!(std::fs::read_to_string(picture).unwrap().contains(">mesh</text>"));
    let output = run(arguments);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("wins on up to 9 servers") && text.contains(&format!("stops winning at {stops} servers")),
        "{text}"
    );
}

#[test]
fn what_cannot_be_played_is_one_line_that_says_why() {
    let place = Place::new();
    let good = place.write("trace.txt", &trace());
    for (budget, says) in [
        ("0", "--policy none"),
        ("many", "use a number"),
        ("5000", "use a number"),
    ] {
        assert_one_line_error(&run(["replay", &good, "--budget", budget]), &["--budget", says]);
    }
    assert_one_line_error(&run(["replay", &good, "--policy", "luck"]), &["predictor", "lru"]);
    assert_one_line_error(&run(["replay", &good, "--nodes", "1"]), &["nodes"]);
    for (text, says) in [
        ("a b\n", ":1: 2 fields"),
        ("a b 2\na b 1\n", ":2: the time goes back"),
        ("a b x\n", "not a time"),
    ] {
        let file = place.write("bad.txt", text);
        assert_one_line_error(&run(["replay", &file, "--nodes", "4"]), &[says]);
    }
}

/// Some send every few minutes, to each other; the others write to two of them, come back after more than half an hour, and write to one
/// of the two, mostly the same. So many hours of it. Whom nobody has written to before nobody can foresee: there is nobody new in it.
fn idle_spells(hours: u64) -> String {
    let mut rng = fastrand::Rng::with_seed(11);
    let (mut messages, end) = (Vec::new(), START + hours * 3_600);
    for busy in 0..8u64 {
        let mut at = START + rng.u64(0..600);
        while at < end {
            messages.push((at, format!("busy-{busy}"), format!("busy-{}", (busy + 1) % 8)));
            at += rng.u64(300..900);
        }
    }
    for idler in 0..24u64 {
        let mut at = START + rng.u64(0..3_000);
        let (usual, other) = (idler % 8, (idler + 3) % 8);
        let idler = format!("idler-{idler}");
        for partner in [usual, other] {
            messages.push((at, idler.clone(), format!("busy-{partner}")));
            at += 60;
        }
        while at < end {
            at += rng.u64(2_000..4_000);
            let partner = if rng.u8(0..4) == 0 { other } else { usual };
            let partner = format!("busy-{partner}");
            messages.push((at, idler.clone(), partner.clone()));
            messages.push((at + 30, partner, idler.clone()));
        }
    }
    messages.sort();
    let lines = messages.into_iter().map(|(at, from, to)| format!("{from} {to} {at}\n"));
    lines.collect()
}

const START: u64 = 1_000_000;

/// In a cluster of processes whose links take a while to open, and whose ways to a region's instances take longer than others: nine of ten
/// first messages after an idle spell that the model calls hits go direct, and take a fifth of the time that they take without a
/// predictor, which dials nothing for them.
///
/// Ways are five times as long as a data centre's (a link takes 250 ms to open, a way to an instance 100 ms longer), so that the turns which
/// a process waits for the processor of a busy host are short beside them.
fn assert_first_messages_go_direct(more: &[&str]) {
    // What is told by the clock is not to be told while another cluster has the processors.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let place = Place::new();
    let file = place.write("trace.txt", &idle_spells(2));
    let mut arguments = vec![
        "replay",
        &file,
        "--cluster",
        "--start",
        "4",
        "--speed",
        "900",
        "--lead",
        "1800ms",
        "--json",
    ];
    arguments.extend(["--link-open", "250ms", "--way", "5ms", "--way-to-region", "100ms"]);
    arguments.extend(more);
    let output = run(&arguments);
    assert!(output.status.success(), "{output:?}");
    let figures = last_json(&output);
    let [none, predictor] = [0, 1].map(|at| &figures["runs"][at]);
    assert_eq!(
        (&none["policy"], &predictor["policy"]),
        (&"none".into(), &"predictor".into())
    );
    for run in [none, predictor] {
        assert_eq!(run["all"]["delivered"], run["all"]["messages"], "{run}");
    }
    assert_eq!(
        (&none["direct"]["messages"], &none["dials_per_message"]),
        (&0.into(), &0.0.into())
    );
    let first = &predictor["first_after_idle"];
    let [hits, direct] = ["model_hits", "model_hits_direct"].map(|name| first[name].as_f64().unwrap());
    assert!(hits > 20.0 && direct >= 0.9 * hits, "{predictor}");
    assert!(figures["first_latency_gain"].as_f64().unwrap() >= 5.0, "{figures}");
}

#[test]
fn after_a_hint_first_messages_go_direct_and_take_a_fifth_of_the_time() {
    assert_first_messages_go_direct(&["--hints"]);
}

#[test]
fn first_messages_after_an_idle_spell_go_direct_and_take_a_fifth_of_the_time() {
    assert_first_messages_go_direct(&[]);
}

#[test]
fn what_a_cluster_cannot_be_played_with_is_one_line_that_says_why() {
    let place = Place::new();
    let file = place.write("trace.txt", &trace());
    for (more, says) in [
        (&["--cluster"][..], &["--server", "--start"][..]),
        (&["--start", "4"], &["--cluster"]),
        (&["--cluster", "--start", "1"], &["--start", "2 to 32"]),
        (
            &["--cluster", "--start", "4", "--speed", "3600"],
            &["--speed", "--lead", "use 3599 at most"],
        ),
        (&["--cluster", "--start", "4", "--speed", "0"], &["--speed", "0.001"]),
        (
            &["--cluster", "--start", "4", "--policy", "lru"],
            &["--policy lru", "predictor"],
        ),
        (
            &["--cluster", "--start", "4", "--budget", "0"],
            &["--budget", "--policy none"],
        ),
        (
            &["--cluster", "--server", "127.0.0.1:1,127.0.0.1:2", "--policy", "none"],
            &["--policy", "--start"],
        ),
        (&["--cluster", "--nodes", "4"], &["--nodes", "--cluster"]),
        (
            &["--cluster", "--start", "4", "--way", "1s"],
            &["--way", "0ms to 1000ms"],
        ),
    ] {
        let arguments = [&["replay", &file[..]], more].concat();
        assert_one_line_error(&run(&arguments), says);
    }
}
