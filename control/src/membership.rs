//! Leases: which members show signs of life, and which have been silent long enough to leave the map.
//!
//! ```text
//! Live ──no renewal for LEASE──▶ Lapsed ──GRACE more──▶ due: leaves the map, unless too many are due at once
//!   ▲────────── renewal ───────────┘
//! ```
//!
//! A lease informs the control plane only: nobody stops serving over one, and a lapsed member stays in the map for [`GRACE`], since a
//! silent node may well serve. Nothing here survives a restart: a control plane that starts grants every member a whole lease, so
//! that nobody is expired for its absence.
//!
//! When many go silent at once it's rather the control plane that is cut off. So at most [`REMOVALS_PERCENT_MAX`] of the members (one
//! at least) leave within any [`GRACE`] by themselves; when more are due, none goes, and the operator decides.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use trunkline_wire::id::NodeId;
use trunkline_wire::time::Instant;

/// How long a membership lasts without a renewal.
pub const LEASE: Duration = Duration::from_secs(15);
/// How often a node renews.
pub const RENEWAL: Duration = Duration::from_secs(5);
/// How long a member whose lease has lapsed stays in the map.
pub const GRACE: Duration = Duration::from_secs(60);
/// The most members, of a hundred, that leave the map by themselves within [`GRACE`].
pub const REMOVALS_PERCENT_MAX: usize = 10;

/// How often members that stay in the map though they are due are looked at.
const RECHECK: Duration = Duration::from_secs(1);

// Two renewals may be lost; peers (gone after 10 s) have given a node up long before the map does.
const _: () = assert!(LEASE.as_secs() >= 3 * RENEWAL.as_secs());
const _: () = assert!(GRACE.as_secs() > LEASE.as_secs());

/// The leases of all members.
#[derive(Debug, Default)]
pub struct Leases {
    /// When each ends, or ended.
    ends: BTreeMap<NodeId, Instant>,
    /// Members that left by themselves, or were removed.
    removals: Removals,
}

/// How many of some were taken away within the last [`GRACE`]: more than [`REMOVALS_PERCENT_MAX`] of them, one at least, go by an
/// operator's force only.
#[derive(Debug, Default)]
pub struct Removals(VecDeque<Instant>);

impl Removals {
    /// Whether `more` are too many now, of those that are there.
    pub fn exceeds(&mut self, now: Instant, more: usize, present: usize) -> bool {
        while self.0.front().is_some_and(|at| now - *at >= GRACE) {
            self.0.pop_front();
        }
        // As many as there were before those removals.
        let before = present + self.0.len();
        more > 0 && self.0.len() + more > (before * REMOVALS_PERCENT_MAX / 100).max(1)
    }

    /// So many are taken away.
    pub fn count(&mut self, now: Instant, removed: usize) {
        self.0.extend(std::iter::repeat_n(now, removed));
        // What matters is whether there are more than a tenth of the members: at most 4096 of them.
        self.0.truncate(trunkline_wire::map::NODES_MAX);
    }

    /// So many come back.
    pub fn take_back(&mut self, returned: usize) {
        self.0.truncate(self.0.len().saturating_sub(returned));
    }
}

/// How a member does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lease {
    /// It renews.
    Live,
    /// It hasn't for a whole lease.
    Lapsed,
}

/// What follows from the silence of members.
#[derive(Debug, PartialEq, Eq)]
pub enum Due {
    /// These leave the map now.
    Leave(Vec<NodeId>),
    /// Too many at once: none leaves.
    Held(Vec<NodeId>),
}

impl Leases {
    /// A member joined, or gave a sign of life; or the control plane has started and knows it from before.
    pub fn renew(&mut self, now: Instant, node: NodeId) {
        self.ends.insert(node, now + LEASE);
    }

    /// A member is none any more.
    pub fn remove(&mut self, node: NodeId) {
        self.ends.remove(&node);
    }

    /// A member left by its own word, but stays in the map for now: it's the last instance of a region.
    pub fn end(&mut self, now: Instant, node: NodeId) {
        self.ends.insert(node, now);
    }

    /// How a member does.
    pub fn of(&self, now: Instant, node: NodeId) -> Lease {
        match self.ends.get(&node) {
            Some(end) if now < *end => Lease::Live,
            Some(_) | None => Lease::Lapsed,
        }
    }

    /// How long until the lease ends; zero if it has.
    pub fn left(&self, now: Instant, node: NodeId) -> Duration {
        self.ends.get(&node).map_or(Duration::ZERO, |end| *end - now)
    }

    /// Members whose silence has lasted lease and grace, of those that `may_leave`.
    pub fn due(&mut self, now: Instant, members: usize, may_leave: impl Fn(NodeId) -> bool) -> Due {
        let due: Vec<_> = self
            .ends
            .iter()
            .filter(|(node, end)| now >= **end + GRACE && may_leave(**node))
            .map(|(node, _)| *node)
            .collect();
        if self.removals.exceeds(now, due.len(), members) {
            return Due::Held(due);
        }
        self.removals.count(now, due.len());
        Due::Leave(due)
    }

    /// Whether removing `more` members now needs the operator's force.
    pub fn needs_force(&mut self, now: Instant, more: usize, members: usize) -> bool {
        self.removals.exceeds(now, more, members)
    }

    /// An operator removed a member.
    pub fn count_removal(&mut self, now: Instant) {
        self.removals.count(now, 1);
    }

    /// When to ask [`Leases::due`] again. Members that are due and may not leave are looked at once a second.
    pub fn deadline(&self, now: Instant) -> Instant {
        let next = self.ends.values().map(|end| *end + GRACE).min();
        next.map_or(Instant::NEVER, |due| if due > now { due } else { now + RECHECK })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::from_micros(seconds * 1_000_000)
    }

    fn leases(count: u32) -> Leases {
        let mut leases = Leases::default();
        (1..=count).for_each(|node| leases.renew(at(0), NodeId(node)));
        leases
    }

    fn renew_from(leases: &mut Leases, now: u64, first: u32, count: u32) {
        (first..=count).for_each(|node| leases.renew(at(now), NodeId(node)));
    }

    #[test]
    fn a_member_that_renews_stays() {
        let mut leases = leases(1);
        for now in (0..600).step_by(5) {
            leases.renew(at(now), NodeId(1));
            assert_eq!(leases.due(at(now), 1, |_| true), Due::Leave(vec![]));
            assert_eq!(leases.of(at(now + 5), NodeId(1)), Lease::Live);
        }
    }

    #[test]
    fn a_silent_member_lapses_and_leaves_a_grace_later() {
        let mut leases = leases(10);
        renew_from(&mut leases, 70, 2, 10);
        assert_eq!(leases.of(at(15), NodeId(1)), Lease::Lapsed);
        assert_eq!(leases.due(at(74), 10, |_| true), Due::Leave(vec![]));
        assert_eq!(leases.due(at(75), 10, |_| true), Due::Leave(vec![NodeId(1)]));
    }

    #[test]
    fn when_many_are_silent_at_once_none_leaves() {
        let mut leases = leases(20);
        renew_from(&mut leases, 70, 4, 20);
        let Due::Held(held) = leases.due(at(80), 20, |_| true) else {
            panic!("three of twenty are too many")
        };
        assert_eq!(held.len(), 3);
        leases.renew(at(80), NodeId(1));
        assert_eq!(leases.due(at(80), 20, |_| true), Due::Leave(vec![NodeId(2), NodeId(3)]));
    }

    #[test]
    fn removals_one_after_the_other_count_together() {
        let mut leases = leases(10);
        renew_from(&mut leases, 1, 2, 2);
        renew_from(&mut leases, 74, 3, 10);
        assert_eq!(leases.due(at(75), 10, |_| true), Due::Leave(vec![NodeId(1)]));
        leases.remove(NodeId(1));
        assert_eq!(leases.due(at(76), 9, |_| true), Due::Held(vec![NodeId(2)]));
        renew_from(&mut leases, 134, 3, 10);
        assert_eq!(leases.due(at(135), 9, |_| true), Due::Leave(vec![NodeId(2)]));
    }

    #[test]
    fn who_comes_back_counts_no_more() {
        let mut removals = Removals::default();
        removals.count(at(0), 1);
        assert!(removals.exceeds(at(59), 1, 10));
        removals.take_back(1);
        assert!(!removals.exceeds(at(59), 1, 10) && removals.exceeds(at(59), 2, 10));
        removals.count(at(59), 1);
        assert!(!removals.exceeds(at(59) + GRACE, 1, 10));
    }

    #[test]
    fn who_may_not_leave_does_not_count() {
        let mut leases = leases(2);
        assert_eq!(
            leases.due(at(80), 2, |node| node == NodeId(2)),
            Due::Leave(vec![NodeId(2)])
        );
    }
}
