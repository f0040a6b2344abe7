//! `trunkline replay` through the model: the figures that are printed, and what can't be played.

mod support;

use support::{Place, assert_one_line_error, run};

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
