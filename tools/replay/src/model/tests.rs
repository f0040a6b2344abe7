use super::*;
use std::io::Write;

fn trace(text: &str) -> Trace {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    Trace::read(file.path()).unwrap()
}

fn setup(policy: Policy) -> Setup {
    Setup {
        nodes: 16,
        budget: 4,
        policy,
        seed: 1,
    }
}

#[test]
fn a_link_is_new_in_the_second_of_its_dial_and_ready_from_the_next_on() {
    let trace = trace("a b 1000\na b 1000\na b 1001\n");
    let mut links = Vec::new();
    play(&trace, setup(Policy::Lru), &mut |index, verdict| match verdict {
        Verdict::Remote { link, .. } => links.push((index, link)),
        Verdict::Local => panic!("the seed puts them at two nodes"),
    });
    assert_eq!(
        links,
        [(0, Readiness::None), (1, Readiness::New), (2, Readiness::Ready)]
    );
}

#[test]
fn without_links_nothing_hits_and_with_all_everything_does() {
    let trace = Trace::synthetic(3, 60, 3_000);
    let none = run(&trace, setup(Policy::None));
    assert_eq!(
        (none.hit, none.dials_per_message, none.links_max, none.cost),
        (0.0, 0.0, 0, 1.0)
    );
    let mesh = run(&trace, setup(Policy::Mesh));
    assert_eq!((mesh.hit, mesh.links_max, mesh.links_mean), (1.0, 15, 15.0));
    assert_eq!(mesh.messages, none.messages);
    let dials = mesh.dials_per_message * mesh.messages as f64;
    assert_eq!(dials.round(), 120.0);
}

#[test]
fn the_budget_holds_at_every_node_under_every_policy() {
    let trace = Trace::synthetic(5, 200, 5_000);
    for policy in Policy::all().filter(|&policy| policy != Policy::Mesh) {
        for budget in [0, 1, 3] {
            let summary = run(
                &trace,
                Setup {
                    budget,
                    ..setup(policy)
                },
            );
            assert!(summary.links_max <= budget, "{policy}: {summary:?}");
        }
    }
}

#[test]
fn a_dial_after_a_miss_hits_the_second_time() {
    let trace = trace("a b 1000\na b 1001\nb a 1002\n");
    let lru = run(&trace, setup(Policy::Lru));
    assert_eq!(lru.messages, 3);
    assert_eq!((lru.hit * 3.0).round(), 2.0);
    assert_eq!(lru.wasted_dials, 0);
}

#[test]
fn who_always_writes_to_the_same_is_foreseen_at_whatever_node_it_attaches() {
    // Each writes once a day to one other of its own, so that every message is the first of a session.
    let mut text = String::new();
    for day in 0..60 {
        for pair in 0..20 {
            text += &format!("s{pair} r{pair} {}\n", 1_000_000 + day * 86_400 + pair * 600);
        }
    }
    let trace = trace(&text);
    let predictor = run(&trace, setup(Policy::Predictor));
    let lru = run(&trace, setup(Policy::Lru));
    assert!(predictor.hit > 0.95, "{predictor:?}");
    assert!(predictor.location_known > 0.95, "{predictor:?}");
    assert!(lru.hit < 0.5, "{lru:?}");
}

#[test]
fn a_seed_gives_the_same_figures_again() {
    let trace = Trace::synthetic(9, 100, 4_000);
    for policy in Policy::all() {
        assert_eq!(run(&trace, setup(policy)), run(&trace, setup(policy)), "{policy}");
    }
    let other = Setup {
        seed: 2,
        ..setup(Policy::Predictor)
    };
    assert_ne!(run(&trace, setup(Policy::Predictor)), run(&trace, other));
}

#[test]
fn the_fields_that_are_printed() {
    let summary = run(&Trace::synthetic(1, 10, 100), setup(Policy::Predictor));
    let object = serde_json::to_value(summary).unwrap();
    let mut names: Vec<&String> = object.as_object().unwrap().keys().collect();
    names.sort();
    let expected = "cost dials_per_message hit links_max links_mean location_known messages wasted_dials";
    assert_eq!(names.len(), 8);
    assert!(expected.split(' ').eq(names));
}
