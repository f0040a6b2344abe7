//! Which links beyond the required ones a node keeps: a bounded cache, by worth.
//!
//! A link is kept until a better one needs its place, because a dial costs and a place doesn't. What a link is worth is the likelihood of the next
//! message over it, stated by wishes, and it halves with every half-life that passes without one. A newcomer has to be worth
//! more than what it replaces by what a dial costs ([`DIAL_WORTH`]): that is the hysteresis which keeps two equals from taking turns.
//!
//! Either end may let a link go, so that each end decides about its own places only. Deliberately absent: sockets, addresses, the time a
//! dial takes. The same cache decides in a node and in the model of `trunkline replay`.

use std::time::Duration;

use trunkline_wire::id::{DeviceKey, NodeId};
use trunkline_wire::time::Instant;

use crate::predictor::Worth;

/// What a wished link has to be worth more than the one that it replaces, or than nothing. A dial costs about a tenth of a missing link,
/// and a link, once there, serves about two messages, because answers come over it too. 0.05 gives fewer dials
/// and fewer hits on the traffic of `tools/replay/README.md`, within a percent of the cost.
pub const DIAL_WORTH: Worth = Worth::per_mille(45);

/// The links beyond the required ones, their dials included.
#[derive(Clone, Debug)]
pub struct LinkCache {
    budget: usize,
    /// By ascending node.
    entries: Vec<Entry>,
}

/// One link, or the dial that is to become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it leads.
    pub node: NodeId,
    /// Why it is there: for the wish that it is worth this by.
    pub reason: Reason,
    /// What it was worth at `since`.
    pub worth: Worth,
    /// When somebody last said so.
    pub since: Instant,
    /// In which time that halves.
    pub half_life: Duration,
    /// The device for which it is worth most; none if the other side has dialled and nobody here has wished yet.
    pub wished_by: Option<DeviceKey>,
    /// Whether a message has gone over it.
    pub used: bool,
}

/// Why a link beyond the required ones is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A device has connected, and may write to whom it wrote to before.
    Attach,
    /// A device has sent, and may go on.
    Send,
    /// A device was handed a message, and may answer.
    Reply,
    /// A device's client has said so.
    Hint,
    /// Devices move to another region, and what is said of them has to follow.
    Move,
    /// The other side has dialled.
    Offer,
}

impl Reason {
    /// All of them.
    pub const ALL: [Reason; 6] = [
        Reason::Attach,
        Reason::Send,
        Reason::Reply,
        Reason::Hint,
        Reason::Move,
        Reason::Offer,
    ];

    /// One word.
    pub fn name(self) -> &'static str {
        match self {
            Reason::Attach => "attach",
            Reason::Send => "send",
            Reason::Reply => "reply",
            Reason::Hint => "hint",
            Reason::Move => "move",
            Reason::Offer => "offer",
        }
    }
}

/// Somebody would like a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Where to.
    pub node: NodeId,
    /// Why.
    pub reason: Reason,
    /// How likely a message goes there next.
    pub worth: Worth,
    /// In which time that halves.
    pub half_life: Duration,
    /// For whom.
    pub by: Option<DeviceKey>,
}

/// What becomes of a wish, or of a link that the other side has dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It's there already.
    Kept,
    /// There was a place.
    Admitted,
    /// It takes the place of this one, which is to be closed.
    Replaces(Entry),
    /// It isn't worth a dial.
    NotWorthIt,
    /// What has the places is worth more.
    Full,
}

impl Entry {
    fn new(now: Instant, wish: &Wish) -> Entry {
        Entry {
            node: wish.node,
            reason: wish.reason,
            worth: wish.worth,
            since: now,
            half_life: wish.half_life,
            wished_by: wish.by,
            used: false,
        }
    }

    /// What it is worth now.
    pub fn worth_at(&self, now: Instant) -> Worth {
        self.worth.since(self.since, now, self.half_life)
    }
}

impl LinkCache {
    /// A cache with `budget` places, which may be none.
    pub fn new(budget: usize) -> LinkCache {
        LinkCache {
            budget,
            entries: Vec::new(),
        }
    }

    /// How many places there are.
    pub fn budget(&self) -> usize {
        self.budget
    }

    /// How many places are taken.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no place is taken.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What is in it, by ascending node.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The link to `node`.
    pub fn find(&self, node: NodeId) -> Option<&Entry> {
        self.place(node).ok().map(|at| &self.entries[at])
    }

    /// Somebody would like a link to the wish's node. With [`Admission::Admitted`] and [`Admission::Replaces`] it has a place from now on,
    /// and is to be dialled.
    pub fn wish(&mut self, now: Instant, wish: &Wish) -> Admission {
        let at = match self.place(wish.node) {
            Ok(at) => {
                let entry = &mut self.entries[at];
                if wish.worth >= entry.worth_at(now) {
                    let used = entry.used;
                    *entry = Entry {
                        used,
                        ..Entry::new(now, wish)
                    };
                }
                return Admission::Kept;
            }
            Err(at) => at,
        };
        if wish.worth < DIAL_WORTH {
            return Admission::NotWorthIt;
        }
        let lost = if self.entries.len() < self.budget {
            None
        } else {
            match self.least(now) {
                Some((least, worth)) if wish.worth.0 - DIAL_WORTH.0 >= worth.0 => Some(least),
                Some(_) | None => return Admission::Full,
            }
        };
        self.put(now, at, wish, lost)
    }

    /// The other side has dialled, for reasons of its own, and says what it's worth to it. Its judgement counts like one from here, less the
    /// hysteresis: the dial has been paid for.
    pub fn accept(&mut self, now: Instant, offer: &Wish) -> Admission {
        let at = match self.place(offer.node) {
            Ok(_) => return self.wish(now, offer),
            Err(at) => at,
        };
        let lost = if self.entries.len() < self.budget {
            None
        } else {
            match self.least(now) {
                Some((least, worth)) if offer.worth >= worth => Some(least),
                Some(_) | None => return Admission::Full,
            }
        };
        self.put(now, at, offer, lost)
    }

    /// What `by` was expected to send to `node` is no longer expected. The link stays until its place is needed.
    pub fn withdraw(&mut self, node: NodeId, by: DeviceKey) {
        if let Ok(at) = self.place(node)
            && self.entries[at].wished_by == Some(by)
        {
            self.entries[at].worth = Worth::NONE;
        }
    }

    /// A message has gone over the link to `node`, either way.
    pub fn used(&mut self, node: NodeId) {
        if let Ok(at) = self.place(node) {
            self.entries[at].used = true;
        }
    }

    /// The link to `node` is no more, or its dial has failed.
    pub fn remove(&mut self, node: NodeId) -> Option<Entry> {
        let at = self.place(node).ok()?;
        Some(self.entries.remove(at))
    }

    fn put(&mut self, now: Instant, at: usize, wish: &Wish, lost: Option<usize>) -> Admission {
        let entry = Entry::new(now, wish);
        match lost {
            None => {
                self.entries.insert(at, entry);
                Admission::Admitted
            }
            Some(lost) => {
                let gone = self.entries.remove(lost);
                self.entries.insert(if lost < at { at - 1 } else { at }, entry);
                Admission::Replaces(gone)
            }
        }
    }

    /// The one that is worth least; of equals the one that was wished for longest ago, then the one with the lower id.
    fn least(&self, now: Instant) -> Option<(usize, Worth)> {
        let worths = self.entries.iter().enumerate();
        let least = worths.min_by_key(|(_, entry)| (entry.worth_at(now), entry.since, entry.node));
        least.map(|(at, entry)| (at, entry.worth_at(now)))
    }

    fn place(&self, node: NodeId) -> Result<usize, usize> {
        self.entries.binary_search_by_key(&node, |entry| entry.node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(node: u32, per_mille: u16) -> Wish {
        Wish {
            node: NodeId(node),
            reason: Reason::Send,
            worth: Worth::per_mille(per_mille),
            half_life: Duration::from_secs(10),
            by: Some(DeviceKey(u128::from(node))),
        }
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_micros(seconds * 1_000_000)
    }

    fn nodes(cache: &LinkCache) -> Vec<u32> {
        cache.entries().iter().map(|entry| entry.node.0).collect()
    }

    #[test]
    fn a_link_is_kept_until_a_better_one_needs_its_place() {
        let mut cache = LinkCache::new(2);
        assert_eq!(cache.wish(at(0), &wish(3, 500)), Admission::Admitted);
        assert_eq!(cache.wish(at(0), &wish(1, 300)), Admission::Admitted);
        assert_eq!(cache.wish(at(0), &wish(1, 300)), Admission::Kept);
        // Equal, or better by less than a dial.
        assert_eq!(cache.wish(at(0), &wish(2, 300)), Admission::Full);
        assert_eq!(cache.wish(at(0), &wish(2, 340)), Admission::Full);
        match cache.wish(at(0), &wish(2, 400)) {
            Admission::Replaces(gone) => assert_eq!(gone.node, NodeId(1)),
            other => panic!("{other:?}"),
        }
        assert_eq!(nodes(&cache), [2, 3]);
        // A day later nothing is worth anything, and everything is still there.
        assert!(
            cache
                .entries()
                .iter()
                .all(|entry| entry.worth_at(at(86_400)) == Worth::NONE)
        );
        match cache.wish(at(86_400), &wish(9, 60)) {
            Admission::Replaces(gone) => assert_eq!(gone.node, NodeId(2), "of equals the lower id"),
            other => panic!("{other:?}"),
        }
        assert_eq!(nodes(&cache), [3, 9]);
    }

    #[test]
    fn two_equals_do_not_take_turns() {
        let mut cache = LinkCache::new(1);
        cache.wish(at(0), &wish(1, 500));
        let mut replaced = 0;
        for second in 0..100 {
            for node in [1, 2] {
                replaced += u32::from(matches!(
                    cache.wish(at(second), &wish(node, 500)),
                    Admission::Replaces(_)
                ));
            }
        }
        assert_eq!(replaced, 0);
    }

    #[test]
    fn what_is_unlikely_is_not_dialled_even_if_there_is_room() {
        let mut cache = LinkCache::new(8);
        assert_eq!(cache.wish(at(0), &wish(1, 10)), Admission::NotWorthIt);
        assert!(cache.is_empty());
    }

    #[test]
    fn without_places_there_are_no_links() {
        let mut cache = LinkCache::new(0);
        assert_eq!(cache.wish(at(0), &wish(1, 1_000)), Admission::Full);
        assert_eq!(cache.accept(at(0), &wish(1, 1_000)), Admission::Full);
    }

    #[test]
    fn what_the_other_side_dials_takes_the_place_of_what_is_worth_no_more() {
        let mut cache = LinkCache::new(1);
        cache.wish(at(0), &wish(1, 500));
        assert_eq!(cache.accept(at(0), &wish(2, 400)), Admission::Full);
        assert!(matches!(cache.accept(at(0), &wish(2, 500)), Admission::Replaces(_)));
        assert_eq!(nodes(&cache), [2]);
    }

    #[test]
    fn a_device_that_leaves_withdraws_what_is_its_own() {
        let mut cache = LinkCache::new(1);
        cache.wish(at(0), &wish(1, 500));
        cache.withdraw(NodeId(1), DeviceKey(99));
        assert_eq!(cache.wish(at(0), &wish(2, 400)), Admission::Full);
        cache.withdraw(NodeId(1), DeviceKey(1));
        assert_eq!(nodes(&cache), [1], "the link is there until its place is needed");
        assert!(matches!(cache.wish(at(0), &wish(2, 400)), Admission::Replaces(_)));
    }

    #[test]
    fn whatever_is_wished_the_budget_holds() {
        let mut rng = fastrand::Rng::with_seed(3);
        let mut cache = LinkCache::new(5);
        let mut second = 0;
        for _ in 0..20_000 {
            second += rng.u64(0..5);
            let wish = wish(rng.u32(0..40), rng.u16(0..1_000));
            let known = cache.find(wish.node).is_some();
            let admission = if rng.bool() {
                cache.wish(at(second), &wish)
            } else {
                cache.accept(at(second), &wish)
            };
            assert!(cache.len() <= 5);
            assert!(cache.entries().is_sorted_by_key(|entry| entry.node));
            let is_in = cache.find(wish.node).is_some();
            match admission {
                Admission::Kept => assert!(known && is_in),
                Admission::Admitted | Admission::Replaces(_) => assert!(!known && is_in),
                Admission::NotWorthIt | Admission::Full => assert!(!known && !is_in),
            }
            if rng.u8(0..10) == 0 {
                cache.remove(NodeId(rng.u32(0..40)));
            }
        }
    }
}
