//! What the page about scale says of the design is so at the sizes that the simulator reaches, and the page is the one that is worked out.

use trunkline_sim::propagation::{Design, Plan, run};
use trunkline_sim::scale::{page, records_an_instance, updates_a_connect};

/// As the simulated regions are: two instances for each 16 servers.
const INSTANCES: u64 = 2;
const SERVERS_A_REGION: u64 = 16;

#[test]
fn updates_and_records_are_as_worked_out_at_every_size() {
    for servers in [16, 64, 256] {
        let plan = Plan {
            servers,
            connects: 2_000,
            seed: 7,
        };
        let outcome = run(Design::Regional, &plan);
        assert_eq!(
            outcome.updates,
            updates_a_connect(INSTANCES) * outcome.connects,
            "{servers} servers"
        );
        let regions = (servers as u64).div_ceil(SERVERS_A_REGION);
        let expected = records_an_instance(outcome.connects, regions);
        // Devices fall into regions by chance: the fullest is a few roots above the mean.
        let most = expected + 4.0 * expected.sqrt();
        let records = outcome.records_max as f64;
        assert!(
            (expected..=most).contains(&records),
            "{servers} servers: {records}, not {expected}"
        );
    }
}

#[test]
fn the_page_is_the_one_that_is_worked_out() {
    let written = include_str!("../SCALE.md");
    assert_eq!(
        written,
        page(),
        "cargo run -p trunkline-sim --bin scale > tools/sim/SCALE.md"
    );
}
