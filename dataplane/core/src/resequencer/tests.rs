use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const A: (&str, u64) = ("alice", 1);

struct Harness {
    resequencer: Resequencer<(u64, u64)>,
    now: Instant,
    arrivals: u64,
}

impl Harness {
    fn new(bounds: Bounds) -> Harness {
        Harness {
            resequencer: Resequencer::new(bounds),
            now: Instant::ZERO,
            arrivals: 0,
        }
    }

    /// Items are (number, which arrival it was).
    fn arrive(&mut self, from: (&str, u64), number: u64, confirmed: Option<u64>) -> Vec<Step<(u64, u64)>> {
        let mut out = Vec::new();
        let arrival = Arrival {
            sender: IdRef::new(from.0).unwrap(),
            instance: Instance(from.1),
            number: Number { number, confirmed },
            bytes: 10,
        };
        let item = (number, self.arrivals);
        self.arrivals += 1;
        self.resequencer.arrive(self.now, arrival, item, &mut out);
        out
    }

    fn confirmed(&mut self, number: u64, lowest: u64) -> Vec<Step<(u64, u64)>> {
        self.arrive(A, number, Some(lowest))
    }

    fn after_ms(&mut self, ms: u64) -> Vec<Step<(u64, u64)>> {
        let mut out = Vec::new();
        self.now = self.now + Duration::from_millis(ms);
        self.resequencer.tick(self.now, &mut out);
        out
    }
}

/// The numbers shown, and which of them late.
fn shown(steps: &[Step<(u64, u64)>]) -> Vec<(u64, bool)> {
    let shown = steps.iter().filter_map(|step| match step {
        Step::Show { item, late } => Some((item.0, *late)),
        Step::Repeat { .. } | Step::Drop { .. } => None,
    });
    shown.collect()
}

fn dropped(steps: &[Step<(u64, u64)>]) -> Vec<(u64, DropReason)> {
    let dropped = steps.iter().filter_map(|step| match step {
        Step::Drop { item, reason } => Some((item.0, *reason)),
        Step::Repeat { .. } | Step::Show { .. } => None,
    });
    dropped.collect()
}

#[test]
fn a_message_waits_for_its_elders_and_goes_with_the_last_of_them() {
    let mut h = Harness::new(Bounds::default());
    assert_eq!(shown(&h.confirmed(0, 0)), [(0, false)]);
    assert_eq!(h.confirmed(3, 0), []);
    assert_eq!(h.confirmed(2, 0), []);
    assert_eq!(shown(&h.confirmed(1, 0)), [(1, false), (2, false), (3, false)]);
    assert_eq!((h.resequencer.bytes(), h.resequencer.deadline()), (0, Instant::NEVER));
}

#[test]
fn after_the_window_the_gap_is_skipped_and_what_fills_it_is_late() {
    let mut h = Harness::new(Bounds::default());
    h.confirmed(0, 0);
    assert_eq!(h.confirmed(2, 0), []);
    h.after_ms(60);
    assert_eq!(h.confirmed(5, 0), []);
    assert_eq!(h.resequencer.deadline(), Instant::from_micros(100_000));
    assert_eq!(shown(&h.after_ms(40)), [(2, false)], "5 has 60 ms left");
    assert_eq!(shown(&h.after_ms(60)), [(5, false)]);
    assert_eq!(shown(&h.confirmed(3, 0)), [(3, true)]);
    assert_eq!(dropped(&h.arrive(A, 1, None)), [(1, DropReason::Late)]);
    let again = h.confirmed(3, 0);
    assert_eq!(again, [Step::Repeat { item: (3, 5) }]);
}

#[test]
fn a_younger_message_does_not_prolong_the_window_of_an_older_one() {
    let mut h = Harness::new(Bounds::default());
    h.confirmed(0, 0);
    h.confirmed(4, 0);
    h.after_ms(90);
    h.confirmed(2, 0);
    assert_eq!(
        shown(&h.after_ms(10)),
        [(2, false), (4, false)],
        "in order, by 4's deadline"
    );
}

#[test]
fn a_duplicate_is_acknowledged_again_and_a_fire_and_forget_one_dropped() {
    let mut h = Harness::new(Bounds::default());
    h.confirmed(0, 0);
    h.arrive(A, 1, None);
    assert_eq!(h.confirmed(0, 0), [Step::Repeat { item: (0, 2) }]);
    assert_eq!(dropped(&h.arrive(A, 1, None)), [(1, DropReason::Duplicate)]);
}

#[test]
fn of_two_copies_that_are_held_the_newer_stays_and_the_older_window_counts() {
    let mut h = Harness::new(Bounds::default());
    h.confirmed(0, 0);
    h.confirmed(2, 0);
    h.after_ms(50);
    let steps = h.confirmed(2, 0);
    assert_eq!(
        steps,
        [Step::Drop {
            item: (2, 1),
            reason: DropReason::Replaced
        }]
    );
    let item = (2, 2);
    assert_eq!(h.after_ms(50), [Step::Show { item, late: false }]);
}

#[test]
fn nobody_waits_below_the_lowest_unresolved_number() {
    let mut h = Harness::new(Bounds::default());
    h.confirmed(0, 0);
    h.confirmed(3, 0);
    let steps = h.confirmed(7, 6);
    assert_eq!(shown(&steps), [(3, false)], "6 is still worth waiting for");
    assert_eq!(shown(&h.confirmed(8, 8)), [(7, false), (8, false)]);
    let resolved = [(1, DropReason::Resolved)];
    assert_eq!(
        dropped(&h.confirmed(1, 0)),
        resolved,
        "its sender has been told already"
    );
    assert_eq!(h.confirmed(3, 0), [Step::Repeat { item: (3, 5) }]);
}

#[test]
fn a_sender_starts_at_its_lowest_unresolved_number_or_at_a_fire_and_forget_message() {
    let mut h = Harness::new(Bounds::default());
    assert_eq!(h.confirmed(9, 8), [], "8 may be on its way");
    assert_eq!(shown(&h.confirmed(8, 8)), [(8, false), (9, false)]);
    let other = ("alice", 2);
    assert_eq!(shown(&h.arrive(other, 5, None)), [(5, false)]);
    let late = h.arrive(other, 4, Some(4));
    assert_eq!(
        shown(&late),
        [(4, true)],
        "never shown, so that it must not be taken for a duplicate"
    );
}

#[test]
fn senders_and_their_starts_do_not_wait_for_each_other() {
    let mut h = Harness::new(Bounds::default());
    for from in [("alice", 1), ("alice", 2), ("bob", 1)] {
        assert_eq!(shown(&h.arrive(from, 0, Some(0))), [(0, false)]);
        assert_eq!(h.arrive(from, 2, Some(0)), []);
    }
    assert_eq!(shown(&h.arrive(("alice", 2), 1, Some(0))), [(1, false), (2, false)]);
    assert_eq!(shown(&h.after_ms(100)), [(2, false), (2, false)]);
}

#[test]
fn a_full_window_skips_its_first_gap_only() {
    let bounds = Bounds {
        sender_messages_max: 2,
        ..Bounds::default()
    };
    let mut h = Harness::new(bounds);
    h.confirmed(0, 0);
    h.confirmed(2, 0);
    h.confirmed(5, 0);
    assert_eq!(shown(&h.confirmed(4, 0)), [(2, false)]);
    assert_eq!(shown(&h.confirmed(3, 0)), [(3, false), (4, false), (5, false)]);
}

#[test]
fn one_sender_cannot_hold_more_than_its_share() {
    let bounds = Bounds {
        bytes_max: 10 * (HELD_OVERHEAD_BYTES + 10),
        sender_bytes_max: 3 * (HELD_OVERHEAD_BYTES + 10),
        ..Bounds::default()
    };
    let mut h = Harness::new(bounds);
    h.arrive(("flood", 1), 0, Some(0));
    for number in 1..100 {
        h.arrive(("flood", 1), 2 * number, Some(0));
        assert!(h.resequencer.bytes() <= bounds.sender_bytes_max);
    }
    h.confirmed(0, 0);
    assert_eq!(h.confirmed(2, 0), [], "others still have their window");
}

#[test]
fn a_forgotten_gap_is_neither_shown_nor_acknowledged() {
    let bounds = Bounds {
        sender_gaps_kept: 1,
        sender_gaps_max: 1,
        ..Bounds::default()
    };
    let mut h = Harness::new(bounds);
    h.confirmed(0, 0);
    h.confirmed(2, 0);
    h.after_ms(100);
    h.confirmed(4, 0);
    h.after_ms(100);
    assert_eq!(dropped(&h.confirmed(1, 0)), [(1, DropReason::Forgotten)]);
    assert_eq!(dropped(&h.confirmed(0, 0)), [(0, DropReason::Forgotten)]);
    assert_eq!(shown(&h.confirmed(3, 0)), [(3, true)]);
}

#[test]
fn each_message_that_a_sender_may_have_open_is_shown_late_and_once_whatever_came_between_them() {
    let mut h = Harness::new(Bounds::default());
    h.confirmed(0, 0);
    let open: Vec<u64> = (0..u64::from(UNRESOLVED_PER_SESSION_MAX)).map(|n| 2 * n + 1).collect();
    for &number in &open {
        h.confirmed(number + 1, 1);
        h.after_ms(100);
    }
    for &number in open.iter().rev() {
        assert_eq!(shown(&h.confirmed(number, 1)), [(number, true)]);
        assert!(matches!(h.confirmed(number, 1)[..], [Step::Repeat { .. }]));
    }
}

#[test]
fn a_sender_with_many_gaps_leaves_each_other_its_own() {
    let bounds = Bounds {
        sender_gaps_kept: 2,
        sender_gaps_max: 10,
        gaps_shared_max: 3,
        ..Bounds::default()
    };
    let mut h = Harness::new(bounds);
    let leave_gaps = |h: &mut Harness, from| {
        for number in 0..7 {
            h.arrive(from, 2 * number, Some(0));
            h.after_ms(100);
        }
    };
    let known = |h: &mut Harness, from| {
        let is_shown = |number: &u64| shown(&h.arrive(from, *number, Some(0))) == [(*number, true)];
        (1..13).step_by(2).filter(is_shown).collect::<Vec<u64>>()
    };
    let (greedy, modest) = (("greedy", 1), ("modest", 1));
    leave_gaps(&mut h, greedy);
    leave_gaps(&mut h, modest);
    assert_eq!(known(&mut h, modest), [9, 11], "nothing is left of what is shared");
    assert_eq!(known(&mut h, greedy), [3, 5, 7, 9, 11]);
    // What the greedy one had left open was shown, and its share is free again.
    let other = ("other", 1);
    leave_gaps(&mut h, other);
    assert_eq!(known(&mut h, other), [3, 5, 7, 9, 11]);
}

#[test]
fn the_sender_that_was_silent_for_longest_is_forgotten_and_loses_nothing_that_is_held() {
    let bounds = Bounds {
        senders_max: 2,
        ..Bounds::default()
    };
    let mut h = Harness::new(bounds);
    h.arrive(("a", 1), 0, Some(0));
    h.arrive(("a", 1), 2, Some(0));
    h.arrive(("b", 1), 0, Some(0));
    let steps = h.arrive(("c", 1), 0, Some(0));
    assert_eq!(shown(&steps), [(2, false), (0, false)]);
    assert_eq!(h.resequencer.senders(), 2);
    assert_eq!((h.resequencer.bytes(), h.resequencer.deadline()), (0, Instant::NEVER));
    assert_eq!(h.arrive(("b", 1), 0, Some(0)).len(), 1);
    let repeat = h.arrive(("c", 1), 0, Some(0));
    assert!(matches!(repeat[..], [Step::Repeat { .. }]), "c is still known");
}

#[test]
fn the_highest_number_is_refused_and_the_one_below_it_is_not() {
    let mut h = Harness::new(Bounds::default());
    let steps = h.confirmed(u64::MAX, u64::MAX);
    assert_eq!(dropped(&steps), [(u64::MAX, DropReason::OutOfRange)]);
    assert_eq!(shown(&h.confirmed(u64::MAX - 1, u64::MAX - 1)), [(u64::MAX - 1, false)]);
}

proptest! {
    #[test]
    fn any_permutation_within_the_window_is_shown_in_order(
        order in (1u64..60).prop_flat_map(|n| Just((0..n).collect::<Vec<_>>()).prop_shuffle()),
        plain in prop::collection::vec(any::<bool>(), 60),
    ) {
        let mut h = Harness::new(Bounds::default());
        let mut steps = Vec::new();
        for (at, &number) in order.iter().enumerate() {
            // The first must say that 0 is still worth waiting for.
            let confirmed = (at == 0 || !plain[at]).then_some(0);
            steps.extend(h.arrive(A, number, confirmed));
            steps.extend(h.after_ms(1));
        }
        let expected: Vec<_> = (0..order.len() as u64).map(|number| (number, false)).collect();
        prop_assert_eq!(shown(&steps), expected);
        prop_assert_eq!(h.resequencer.bytes(), 0);
    }

    #[test]
    fn whatever_comes_nothing_is_shown_twice_or_acknowledged_unshown_or_lost_or_out_of_bounds(
        arrivals in prop::collection::vec((0u64..3, 0u64..40, any::<bool>(), 0u64..40, 0u64..60), 0..300),
        gaps in (1usize..4, 0usize..3, 0usize..4),
        messages_max in 1usize..6,
    ) {
        let bounds = Bounds {
            bytes_max: 6 * (HELD_OVERHEAD_BYTES + 10),
            sender_bytes_max: 4 * (HELD_OVERHEAD_BYTES + 10),
            sender_messages_max: messages_max,
            senders_max: 3,
            sender_gaps_kept: gaps.0,
            sender_gaps_max: gaps.0 + gaps.1,
            gaps_shared_max: gaps.2,
        };
        let mut h = Harness::new(bounds);
        let mut sender_of = Vec::new();
        let mut shown = BTreeSet::new();
        let mut newest = [None; 3];
        let mut came_out = 0;
        for (sender, number, confirmed, lowest, ms) in arrivals {
            sender_of.push(sender);
            let mut steps = h.arrive(("s", sender), number, confirmed.then_some(lowest.min(number)));
            prop_assert!(h.resequencer.bytes() <= bounds.bytes_max);
            steps.extend(h.after_ms(ms));
            prop_assert!(h.resequencer.gaps_shared() <= bounds.gaps_shared_max);
            for step in steps {
                came_out += 1;
                match step {
                    Step::Show { item: (number, arrival), late } => {
                        let sender = sender_of[arrival as usize];
                        prop_assert!(shown.insert((sender, number)), "shown twice");
                        let newest = &mut newest[sender as usize];
                        prop_assert_eq!(late, newest.is_some_and(|newest| number < newest));
                        *newest = (*newest).max(Some(number));
                    }
                    Step::Repeat { item: (number, arrival) } => {
                        prop_assert!(shown.contains(&(sender_of[arrival as usize], number)), "acknowledged unshown");
                    }
                    Step::Drop { .. } => {}
                }
            }
        }
        came_out += h.after_ms(100).len();
        prop_assert_eq!(came_out, sender_of.len());
        prop_assert_eq!((h.resequencer.bytes(), h.resequencer.deadline()), (0, Instant::NEVER));
    }
}
