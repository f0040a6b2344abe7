//! The claims about runs: they break no promise, and are what their seed says.

mod common;

use common::held;
use trunkline_sim::swarm::{self, Options};

#[test]
fn no_seed_breaks_a_promise() {
    for seed in 1..=20 {
        held(swarm::run(&Options::new(seed)));
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
