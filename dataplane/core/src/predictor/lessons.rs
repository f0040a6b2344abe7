//! What came of decisions, until somebody has time to learn from it: a message doesn't wait for that.
//!
//! First in, first out, and bounded: who puts more off learns the oldest first. A lesson has all that it takes, since the device's list
//! changes with the message, and the device may leave.

use trunkline_wire::id::PartnerKey;

use super::affinity::Affinity;
use super::{Decision, Habits};

/// How many wait at most: the first messages of a turn of as many devices. Each has about 600 bytes.
pub const LESSONS_MAX: usize = 64;

/// What came of one decision.
#[derive(Clone, Debug)]
pub(super) struct Lesson {
    pub(super) decision: Decision,
    /// The list and what else the features follow from, as they were when the decision was taken.
    pub(super) list: Affinity,
    pub(super) anchor: u32,
    pub(super) sends: u8,
    /// When it was known what came of it.
    pub(super) now: u32,
    /// Whom the device has written to, unless it has left.
    pub(super) to: Option<PartnerKey>,
}

/// See the module's text.
#[derive(Clone, Debug, Default)]
pub(super) struct Lessons {
    /// Their memory is used again: as many as ever waited at once.
    places: Vec<Lesson>,
    first: usize,
    count: usize,
}

impl Lessons {
    pub(super) fn is_full(&self) -> bool {
        self.count == LESSONS_MAX
    }

    /// Puts one off. There has to be room.
    pub(super) fn put(&mut self, now: u32, decision: Decision, habits: &Habits, to: Option<PartnerKey>) {
        debug_assert!(!self.is_full(), "the oldest is learnt before");
        let (anchor, sends) = (habits.anchor, habits.sends);
        let at = (self.first + self.count) % LESSONS_MAX;
        self.count += 1;
        match self.places.get_mut(at) {
            Some(place) => {
                place.list.assign(&habits.affinity);
                (place.decision, place.anchor, place.sends) = (decision, anchor, sends);
                (place.now, place.to) = (now, to);
            }
            None => self.places.push(Lesson {
                decision,
                list: habits.affinity.clone(),
                anchor,
                sends,
                now,
                to,
            }),
        }
    }

    /// The oldest; it counts as learnt.
    pub(super) fn next(&mut self) -> Option<&Lesson> {
        self.count = self.count.checked_sub(1)?;
        let at = self.first;
        // The places that were used last are in the processor's caches.
        self.first = if self.count == 0 { 0 } else { (at + 1) % LESSONS_MAX };
        Some(&self.places[at])
    }
}
