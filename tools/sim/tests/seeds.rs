//! The claims about runs: they break no promise, and are what their seed says.

mod common;

use common::held;
use trunkline_sim::Scenario;
use trunkline_sim::swarm::{self, Load, Options, Rate};

const OVERLOAD: &str = "overload";

#[test]
fn no_seed_breaks_a_promise() {
    for seed in 1..=20 {
        held(swarm::run(&Options::new(seed)));
    }
}

#[test]
fn no_scenario_breaks_a_promise() {
    // What is too much takes its time.
    for scenario in Scenario::ALL.iter().filter(|scenario| scenario.name != OVERLOAD) {
        for seed in 1..=3 {
            let options = Options {
                scenario,
                ..Options::new(seed)
            };
            held(swarm::run(&options));
        }
    }
}

#[test]
fn too_much_to_do_leaves_nothing_behind() {
    let scenario = Scenario::named(OVERLOAD).expect("there is one");
    // In the second, half of all messages pass a link that has more to carry than it can.
    for seed in [1, 23] {
        held(swarm::run(&Options {
            scenario,
            ..Options::new(seed)
        }));
    }
}

#[test]
fn the_same_seed_makes_the_same_trace_in_two_runs() {
    for seed in [7, 8] {
        let options = Options::new(seed);
        assert_eq!(held(swarm::run(&options)), held(swarm::run(&options)));
    }
    let hash = |seed| held(swarm::run(&Options::new(seed))).trace_hash;
    assert_ne!(hash(7), hash(8));
}

#[test]
fn a_load_that_is_said_is_what_a_run_has() {
    for seed in 1..=3 {
        let options = Options {
            devices: 40,
            load: Load {
                servers: Some(5),
                devices_min: Some(40),
                messages: Rate::new(2.0),
                faults: Rate::new(1.0),
            },
            // Without faults that make devices send.
            scenario: Scenario::named("partitions").expect("there is one"),
            ..Options::new(seed)
        };
        let summary = held(swarm::run(&options));
        assert_eq!((summary.size.servers, summary.size.devices), (5, 40), "seed {seed}");
        let seconds = options.faulty.as_secs();
        let asked = 2 * 40 * seconds;
        // A device that is away sends nothing; one that is back is greeted.
        let sent = asked * 4 / 5..asked * 5 / 4;
        assert!(
            sent.contains(&summary.sent_faulty),
            "seed {seed}: {}",
            summary.sent_faulty
        );
        let faults: u64 = summary.faults.values().sum();
        assert!(
            (seconds * 2 / 3..seconds * 3 / 2).contains(&faults),
            "seed {seed}: {faults}"
        );
    }
    assert_eq!(Rate::new(0.0), None);
    assert_eq!(Rate::new(f64::NAN), None);
}

/// The checks can fail: three defects, each noticed by the promise that it breaks.
#[cfg(feature = "planted")]
#[test]
fn a_planted_defect_is_noticed() {
    use trunkline_sim::Promise;
    use trunkline_sim::planted::{hunt, scenario};
    use trunkline_wire::planted::Bug;

    for (bug, promise) in [
        (Bug::AcceptOlderEpoch, Promise::EpochsNeverGoBack),
        (Bug::UnregisterAnyEpoch, Promise::ExactUnregister),
        (Bug::DeliveredWhenWritten, Promise::OneReport),
    ] {
        let noticed = hunt(bug, scenario(bug), 1, 20, |_| {}).expect("it is noticed");
        assert_eq!(noticed.violation.promise, promise, "{}", noticed.violation);
    }
}
