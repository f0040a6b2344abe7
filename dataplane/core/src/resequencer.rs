//! Puts one device's incoming messages back into the order in which each sender numbered them.
//!
//! The ways that messages take keep order, each for itself; a message that changes from the way of the region to the direct one
//! can overtake its elders. So the last hop waits a little: a message whose elders are missing is held for at most
//! [`WINDOW`], then shown, and the missing numbers are remembered as *gaps*. Used by the client library, and by connection servers
//! for devices that have no library.
//!
//! What becomes of a message, by its number:
//!
//! ```text
//! number == next          shown, and with it what was held right behind it
//! number  > next          held; shown in order when the gap fills, at the window's end, or when a bound is reached
//! number  < next, a gap   its sender has given it up (below its lowest unresolved number): dropped
//!                         else confirmed: shown, marked late; fire-and-forget: dropped
//! number  < next, shown   a duplicate: confirmed: acknowledged again; fire-and-forget: dropped
//! number  < next, unknown the gap was forgotten because of the bound: dropped, not acknowledged, so that the sender retries
//! ```
//!
//! The invariants: a number is shown at most once, and nothing is acknowledged that was not shown. They end where an entry is
//! forgotten: after [`Bounds::senders_max`] other senders, a sender's message that comes again is shown again.
//!
//! Pure and deterministic: time is an argument, effects are [`Step`]s, nothing iterates in random order.

mod gaps;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use slab::Slab;
use trunkline_wire::id::{IdRef, Instance};
use trunkline_wire::report::Number;
use trunkline_wire::time::Instant;

use self::gaps::{Gaps, Known};
use crate::constants::UNRESOLVED_PER_SESSION_MAX;

/// What to do with a message that came in, now or earlier. `M` is the caller's form of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step<M> {
    /// Hand it to the user, and acknowledge it if it is confirmed.
    Show {
        /// The message.
        item: M,
        /// Messages with higher numbers were shown before.
        late: bool,
    },
    /// A confirmed message that was shown before: acknowledge it again and don't show it.
    Repeat {
        /// The message.
        item: M,
    },
    /// Neither show nor acknowledge it; count it.
    Drop {
        /// The message.
        item: M,
        /// Why.
        reason: DropReason,
    },
}

/// Why a message was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DropReason {
    /// Fire-and-forget, after messages with higher numbers had been shown.
    Late,
    /// Fire-and-forget, and shown before.
    Duplicate,
    /// Held, when the same message came again: the newer copy is held instead, because its delivery can still be acknowledged.
    Replaced,
    /// Below the sender's lowest unresolved number, and not shown: its sender has been told how it ended.
    Resolved,
    /// Nobody remembers whether it was shown.
    Forgotten,
    /// The highest number that there is: no sender counts so far.
    OutOfRange,
}

/// How much a [`Resequencer`] may hold.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Bytes of all held messages, [`HELD_OVERHEAD_BYTES`] each included.
    pub bytes_max: usize,
    /// Bytes of one sender's held messages: less than the whole, so that one sender can't take the window from all others.
    pub sender_bytes_max: usize,
    /// Held messages of one sender.
    pub sender_messages_max: usize,
    /// Senders (each start of each library counts) that are remembered; the one silent for longest is forgotten first.
    pub senders_max: usize,
    /// Gaps remembered of each sender, whatever there is of others. Beyond its bound a sender's lowest gap is forgotten first: below
    /// its lowest unresolved number that makes no difference.
    pub sender_gaps_kept: usize,
    /// Gaps remembered of one sender, while there is room for them: one for each message that may still come, and as many between
    /// them that came to another end.
    pub sender_gaps_max: usize,
    /// Gaps of all senders that each has beyond [`Bounds::sender_gaps_kept`].
    pub gaps_shared_max: usize,
}

/// What a held message costs beside its payload: its entry in the table, and the caller's names for it.
pub const HELD_OVERHEAD_BYTES: usize = 256;

impl Default for Bounds {
    /// For a device of its own process. The sum: 1 MiB held, 65,536 senders of at most 256 + 16 × 16 bytes, 32 MiB, if that many
    /// ever send to one device, and 1 MiB of further gaps: of 32 senders with as many as there can be. A connection server, with many
    /// devices, chooses less.
    fn default() -> Bounds {
        Bounds {
            bytes_max: 1024 * 1024,
            sender_bytes_max: 256 * 1024,
            sender_messages_max: 256,
            senders_max: 65_536,
            sender_gaps_kept: 16,
            sender_gaps_max: 2 * UNRESOLVED_PER_SESSION_MAX as usize,
            gaps_shared_max: 65_536,
        }
    }
}

/// How long a message waits for its elders: several times the difference between two ways within one site, and short enough
/// that a user doesn't notice.
pub const WINDOW: Duration = Duration::from_millis(100);

/// A message's name and size.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// From whom.
    pub sender: IdRef<'a>,
    /// Which start of the sender's library.
    pub instance: Instance,
    /// Which message, and whether confirmed.
    pub number: Number,
    /// The payload's length.
    pub bytes: usize,
}

/// One device's incoming messages. See the module's text.
#[derive(Debug)]
pub struct Resequencer<M> {
    bounds: Bounds,
    senders: Slab<Sender<M>>,
    /// Where each sender is in `senders`.
    index: BTreeMap<Box<[u8]>, BTreeMap<Instance, usize>>,
    /// The senders by when they were last heard, counted in arrivals.
    recency: BTreeMap<u64, usize>,
    arrivals: u64,
    /// The senders that hold something, by the end of their window.
    deadlines: BTreeSet<(Instant, usize)>,
    bytes: usize,
    /// By the count of [`Bounds::gaps_shared_max`].
    gaps_shared: usize,
}

#[derive(Debug)]
struct Sender<M> {
    id: Box<[u8]>,
    instance: Instance,
    /// Its key in `recency`.
    heard: u64,
    /// The number to show next: all below are shown, or in a gap, or forgotten.
    next: u64,
    /// The highest lowest-unresolved number that it named.
    lowest: u64,
    gaps: Gaps,
    /// How many of these count as shared.
    gaps_shared: usize,
    /// All at or above `next`; the first is above it.
    held: BTreeMap<u64, Held<M>>,
    bytes: usize,
    /// The end of the window of the message held for longest; `NEVER` if none is held.
    deadline: Instant,
}

#[derive(Debug)]
struct Held<M> {
    item: M,
    cost: usize,
    until: Instant,
}

impl<M> Resequencer<M> {
    /// One that has heard of nobody.
    pub fn new(bounds: Bounds) -> Resequencer<M> {
        assert!(bounds.senders_max > 0, "no sender could be remembered");
        assert!(
            bounds.sender_gaps_kept <= bounds.sender_gaps_max,
            "what each has is too much for one"
        );
        Resequencer {
            bounds,
            senders: Slab::new(),
            index: BTreeMap::new(),
            recency: BTreeMap::new(),
            arrivals: 0,
            deadlines: BTreeSet::new(),
            bytes: 0,
            gaps_shared: 0,
        }
    }

    /// A message came in. Appends what to do, in order.
    pub fn arrive(&mut self, now: Instant, arrival: Arrival<'_>, item: M, out: &mut Vec<Step<M>>) {
        let Number { number, confirmed } = arrival.number;
        if number == u64::MAX {
            let reason = DropReason::OutOfRange;
            return out.push(Step::Drop { item, reason });
        }
        let at = self.hear(&arrival, out);
        let gaps_max = self.gaps_max(at);
        let sender = &mut self.senders[at];
        let bytes_before = sender.bytes;
        if let Some(lowest) = confirmed {
            sender.resolve_below(lowest, gaps_max, out);
        }
        if number < sender.next {
            out.push(sender.behind(number, confirmed.is_some(), item, gaps_max));
        } else {
            let cost = arrival.bytes.saturating_add(HELD_OVERHEAD_BYTES);
            let window = if trunkline_wire::planted!(ShowUnordered) {
                Duration::ZERO
            } else {
                WINDOW
            };
            sender.hold(number, cost, now + window, item, out);
            sender.show_ready(out);
        }
        self.bytes = self.bytes - bytes_before + sender.bytes;
        while self.bytes > self.bounds.bytes_max && !sender.held.is_empty() || sender.is_over(&self.bounds) {
            let bytes_before = sender.bytes;
            sender.skip_gap(gaps_max, out);
            self.bytes = self.bytes - bytes_before + sender.bytes;
        }
        self.count_gaps(at);
        self.schedule(at);
    }

    /// Shows what has waited long enough. To be called at [`Resequencer::deadline`].
    pub fn tick(&mut self, now: Instant, out: &mut Vec<Step<M>>) {
        while let Some(&(deadline, at)) = self.deadlines.first() {
            if deadline > now {
                return;
            }
            let gaps_max = self.gaps_max(at);
            let sender = &mut self.senders[at];
            self.bytes -= sender.bytes;
            while sender.deadline <= now {
                sender.skip_gap(gaps_max, out);
                sender.find_deadline();
            }
            self.bytes += sender.bytes;
            self.count_gaps(at);
            let sender = &self.senders[at];
            // The set still has the entry under the old deadline.
            self.deadlines.remove(&(deadline, at));
            if !sender.held.is_empty() {
                self.deadlines.insert((sender.deadline, at));
            }
        }
    }

    /// When something held has to be shown; [`Instant::NEVER`] if nothing is held.
    pub fn deadline(&self) -> Instant {
        self.deadlines.first().map_or(Instant::NEVER, |&(deadline, _)| deadline)
    }

    /// Bytes held, by the count of [`Bounds::bytes_max`].
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Senders remembered.
    pub fn senders(&self) -> usize {
        self.senders.len()
    }

    /// Gaps remembered, by the count of [`Bounds::gaps_shared_max`].
    pub fn gaps_shared(&self) -> usize {
        self.gaps_shared
    }

    /// Finds the sender, or starts with it, and notes that it was heard.
    fn hear(&mut self, arrival: &Arrival<'_>, out: &mut Vec<Step<M>>) -> usize {
        self.arrivals += 1;
        let known = self.index.get(arrival.sender.as_bytes());
        if let Some(&at) = known.and_then(|starts| starts.get(&arrival.instance)) {
            let sender = &mut self.senders[at];
            self.recency.remove(&sender.heard);
            sender.heard = self.arrivals;
            self.recency.insert(self.arrivals, at);
            return at;
        }
        if self.senders.len() >= self.bounds.senders_max {
            self.forget_oldest(out);
        }
        let at = self.senders.insert(Sender::first_heard(arrival, self.arrivals));
        let starts = self.index.entry(arrival.sender.as_bytes().into()).or_default();
        starts.insert(arrival.instance, at);
        self.recency.insert(self.arrivals, at);
        at
    }

    fn forget_oldest(&mut self, out: &mut Vec<Step<M>>) {
        let Some((_, at)) = self.recency.pop_first() else {
            return;
        };
        let mut sender = self.senders.remove(at);
        self.deadlines.remove(&(sender.deadline, at));
        self.bytes -= sender.bytes;
        self.gaps_shared -= sender.gaps_shared;
        while !sender.held.is_empty() {
            sender.skip_gap(0, out);
        }
        if let Some(starts) = self.index.get_mut(&sender.id) {
            starts.remove(&sender.instance);
            if starts.is_empty() {
                self.index.remove(&sender.id);
            }
        }
    }

    /// How many gaps of this sender may be remembered now.
    fn gaps_max(&self, at: usize) -> usize {
        let left = self.bounds.gaps_shared_max - self.gaps_shared;
        let own = self.bounds.sender_gaps_kept + self.senders[at].gaps_shared;
        (own + left).min(self.bounds.sender_gaps_max)
    }

    fn count_gaps(&mut self, at: usize) {
        let sender = &mut self.senders[at];
        self.gaps_shared -= sender.gaps_shared;
        sender.gaps_shared = sender.gaps.len().saturating_sub(self.bounds.sender_gaps_kept);
        self.gaps_shared += sender.gaps_shared;
    }

    fn schedule(&mut self, at: usize) {
        let sender = &mut self.senders[at];
        let before = sender.deadline;
        sender.find_deadline();
        if sender.deadline != before {
            self.deadlines.remove(&(before, at));
            if !sender.held.is_empty() {
                self.deadlines.insert((sender.deadline, at));
            }
        }
    }
}

impl<M> Sender<M> {
    /// A sender starts where its first message says that nobody waits below; a fire-and-forget message says nothing, so that it
    /// starts at its own number. What is below was not shown here: a gap.
    fn first_heard(arrival: &Arrival<'_>, heard: u64) -> Sender<M> {
        let next = arrival.number.confirmed.unwrap_or(arrival.number.number);
        let mut gaps = Gaps::default();
        gaps.add(0..next, 1);
        Sender {
            id: arrival.sender.as_bytes().into(),
            instance: arrival.instance,
            heard,
            next,
            lowest: 0,
            gaps,
            gaps_shared: 0,
            held: BTreeMap::new(),
            bytes: 0,
            deadline: Instant::NEVER,
        }
    }

    fn is_over(&self, bounds: &Bounds) -> bool {
        self.bytes > bounds.sender_bytes_max || self.held.len() > bounds.sender_messages_max
    }

    /// Nobody waits below `lowest` any more.
    fn resolve_below(&mut self, lowest: u64, gaps_max: usize, out: &mut Vec<Step<M>>) {
        let lowest = lowest + u64::from(trunkline_wire::planted!(ReleaseEarly));
        self.lowest = self.lowest.max(lowest);
        while self.held.first_key_value().is_some_and(|(&number, _)| number < lowest) {
            self.skip_gap(gaps_max, out);
        }
        if self.next < lowest {
            self.gaps.add(self.next..lowest, gaps_max);
            self.next = lowest;
            self.show_ready(out);
        }
    }

    /// What becomes of a message with a number below `next`.
    fn behind(&mut self, number: u64, confirmed: bool, item: M, gaps_max: usize) -> Step<M> {
        let drop = |item, reason| Step::Drop { item, reason };
        match (self.gaps.look_up(number), confirmed) {
            (Known::Gap, _) if number < self.lowest => drop(item, DropReason::Resolved),
            (Known::Gap, false) => drop(item, DropReason::Late),
            (Known::Gap, true) => {
                self.gaps.fill(number, gaps_max);
                let late = !trunkline_wire::planted!(ShowUnordered);
                Step::Show { item, late }
            }
            (Known::Shown, true) if trunkline_wire::planted!(ShowTwice) => Step::Show { item, late: true },
            (Known::Shown, true) => Step::Repeat { item },
            (Known::Shown, false) => drop(item, DropReason::Duplicate),
            (Known::Forgotten, true | false) => drop(item, DropReason::Forgotten),
        }
    }

    fn hold(&mut self, number: u64, cost: usize, until: Instant, item: M, out: &mut Vec<Step<M>>) {
        self.bytes += cost;
        // The first copy's window counts: a message that keeps coming again must not wait for ever.
        let until = self.held.get(&number).map_or(until, |held| held.until);
        if let Some(held) = self.held.insert(number, Held { item, cost, until }) {
            self.bytes -= held.cost;
            out.push(Step::Drop {
                item: held.item,
                reason: DropReason::Replaced,
            });
        }
    }

    /// Shows what is held from `next` on, up to the first missing number.
    fn show_ready(&mut self, out: &mut Vec<Step<M>>) {
        while let Some(entry) = self.held.first_entry() {
            if *entry.key() != self.next {
                return;
            }
            let held = entry.remove();
            self.bytes -= held.cost;
            self.next += 1;
            out.push(Step::Show {
                item: held.item,
                late: false,
            });
        }
    }

    /// Waits no longer for what is missing before the first held message.
    fn skip_gap(&mut self, gaps_max: usize, out: &mut Vec<Step<M>>) {
        if let Some((&first, _)) = self.held.first_key_value() {
            self.gaps.add(self.next..first, gaps_max);
            self.next = first;
            self.show_ready(out);
        }
    }

    fn find_deadline(&mut self) {
        let first = self.held.values().map(|held| held.until).min();
        self.deadline = first.unwrap_or(Instant::NEVER);
    }
}
