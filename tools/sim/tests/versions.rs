//! The claims about clusters in which two versions of the protocol meet. Need the feature `next-version`.
#![cfg(feature = "next-version")]

mod common;

use std::collections::BTreeMap;

use common::held;
use trunkline_sim::swarm::{self, Options, Summary};
use trunkline_sim::{Course, Scenario};

fn mixed(seed: u64, course: Course) -> Summary {
    held(swarm::run(&Options {
        scenario: Scenario::named("mixed").unwrap(),
        course,
        ..Options::new(seed)
    }))
}

#[test]
fn clusters_of_two_versions_keep_every_promise_and_links_of_both_kinds_are_among_them() {
    let mut links = BTreeMap::new();
    for seed in 1..=8 {
        for (version, count) in mixed(seed, Course::Mixed).links {
            *links.entry(version).or_insert(0) += count;
        }
    }
    assert_eq!(links.len(), 2, "{links:?}");
}

#[test]
fn in_an_upgrade_links_of_the_next_version_come_up_and_in_a_downgrade_they_go() {
    let speak_next = |course| -> u64 {
        let links = (1..=4).flat_map(|seed| mixed(seed, course).links);
        links.filter(|(version, _)| *version == 2).map(|(_, count)| count).sum()
    };
    // At first none does in an upgrade, and in a downgrade all do.
    let (up, down) = (speak_next(Course::Upgrade), speak_next(Course::Downgrade));
    assert!(
        up > 0 && up > down,
        "{up} links after upgrades, {down} after downgrades"
    );
}

#[test]
fn where_all_speak_the_lowest_version_nothing_says_that_there_is_another() {
    let links = mixed(3, Course::Lowest).links;
    assert_eq!(links.keys().copied().collect::<Vec<_>>(), [1]);
}
