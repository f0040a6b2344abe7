//! Which confirmed messages went over which link lately: when the link is lost, they are answered "try again" at once.
//!
//! Otherwise each of them would wait for its sender's node to give up waiting for an answer. Kept wherever a message passes, so that
//! the loss of the second link on its way is told to where it was taken in, as that of the first. Most of what is kept has been
//! answered already, by a way that doesn't lead through here: such an answer finds nothing to do, and costs a look-up.

use std::collections::{BTreeMap, VecDeque};

use trunkline_wire::id::NodeId;
use trunkline_wire::peer::Forward;
use trunkline_wire::report::{Answer, RetryReason, Trail, Way};
use trunkline_wire::time::Instant;

use super::route::message_id;
use super::{Now, Router};
use crate::constants::{PASSED_KEPT, PASSED_MAX};
use crate::outbox::Outbox;
use crate::unresolved::MessageId;

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Passed {
    links: BTreeMap<NodeId, VecDeque<Passage>>,
    /// Of all links.
    count: usize,
}

/// A message that went over a link.
#[derive(Clone, Copy, Debug)]
struct Passage {
    at: Instant,
    id: MessageId,
    /// The nodes that it had passed before this one.
    trail: Trail,
}

impl Passed {
    /// A confirmed message went to `node`. The oldest of that link are forgotten for it.
    fn note(&mut self, now: Instant, node: NodeId, id: MessageId, trail: Trail) {
        let link = self.links.entry(node).or_default();
        while let Some(oldest) = link.front()
            && (oldest.at + PASSED_KEPT < now || self.count >= PASSED_MAX)
        {
            link.pop_front();
            self.count -= 1;
        }
        if self.count < PASSED_MAX {
            link.push_back(Passage { at: now, id, trail });
            self.count += 1;
        }
    }

    /// The nodes to which something went.
    pub(super) fn links(&self) -> impl Iterator<Item = NodeId> {
        self.links.keys().copied()
    }

    /// What went to `node`, and not too long ago, in order. All that is known of the link is forgotten.
    fn take(&mut self, now: Instant, node: NodeId) -> impl Iterator<Item = Passage> + use<> {
        let passages = self.links.remove(&node).unwrap_or_default();
        self.count -= passages.len();
        passages
            .into_iter()
            .filter(move |passage| passage.at + PASSED_KEPT >= now)
    }
}

impl Router {
    /// A message was put on the link to `node`.
    pub(super) fn note_passage(&mut self, forward: &Forward<'_>, node: NodeId) {
        if forward.number.confirmed.is_some() {
            self.passed.note(self.ticked, node, message_id(forward), forward.trail);
        }
    }

    /// The link to `node` is lost, and whatever was under way on it: it may have arrived, and its answer may not come.
    pub(super) fn answer_passages(&mut self, now: Now, node: NodeId, out: &mut Outbox) {
        let answer = Answer::Retry {
            reason: RetryReason::NoLink,
            maybe_delivered: true,
        };
        for passage in self.passed.take(now.at, node) {
            self.counters.passages_lost += 1;
            self.reply(now, passage.id, &passage.trail, answer, Way::Unknown, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use trunkline_wire::id::{DeviceKey, Instance};

    use super::*;

    const T0: Instant = Instant::ZERO;
    const ONE: NodeId = NodeId(1);
    const TWO: NodeId = NodeId(2);

    fn id(number: u64) -> MessageId {
        MessageId {
            sender_key: DeviceKey(1),
            instance: Instance(1),
            recipient: DeviceKey(2),
            number,
        }
    }

    fn numbers(passed: &mut Passed, now: Instant, node: NodeId) -> Vec<u64> {
        passed.take(now, node).map(|passage| passage.id.number).collect()
    }

    #[test]
    fn a_link_s_loss_names_what_went_over_it_lately_and_once() {
        let mut passed = Passed::default();
        passed.note(T0, ONE, id(1), Trail::default());
        let later = T0 + PASSED_KEPT + Duration::from_millis(1);
        passed.note(later, TWO, id(2), Trail::default());
        passed.note(later, ONE, id(3), Trail::default());
        assert_eq!(numbers(&mut passed, later, ONE), [3]);
        assert_eq!(numbers(&mut passed, later, ONE), [0; 0]);
        assert_eq!(numbers(&mut passed, later, TWO), [2]);
        assert_eq!(passed.count, 0);
    }

    #[test]
    fn what_is_kept_is_bounded_and_the_oldest_of_the_link_goes_first() {
        let mut passed = Passed::default();
        for number in 0..PASSED_MAX as u64 + 10 {
            passed.note(T0, ONE, id(number), Trail::default());
        }
        passed.note(T0, TWO, id(0), Trail::default());
        assert_eq!(passed.count, PASSED_MAX);
        let kept = numbers(&mut passed, T0, ONE);
        assert_eq!((kept[0], kept.len()), (10, PASSED_MAX));
        assert_eq!(passed.count, 0);
    }
}
