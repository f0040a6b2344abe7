//! What is expected of devices, and what is done about it ahead of need.
//!
//! ```text
//! shard of the sender          shard of who is expected to be written to               shard that owns the link
//! predictor ──Expectation──▶ location known ─────────────────────────────Wish──▶ link cache: dial, or not
//!                            not known ──WhereIs──▶ an instance ──Location──▶ ↑
//!                                                      └──when it turns up elsewhere──Location──▶ ↑
//!                              here, and leaves ──WhereIs──▶ an instance, likewise
//! ```
//!
//! Nothing waits for any of it: a message that comes first goes by way of the region.

use std::time::Duration;

use trunkline_wire::id::{DeviceKey, Epoch, IdRef, NodeId, PartnerKey};
use trunkline_wire::peer::{Location, WhereIs};
use trunkline_wire::time::Instant;

use super::{Now, Router, SessionRef};
use crate::constants::{LOCATION_DOUBTED, LOCATION_FRESH, PREFETCHES_MAX};
use crate::link::{Reason, Wish};
use crate::outbox::Outbox;
use crate::predictor::{Expectation, FORESEEN, Occasion, Worth};

/// A location that was asked for ahead of need.
#[derive(Clone, Copy, Debug)]
pub(super) struct Prefetch {
    asked_at: Instant,
    /// For whom, last.
    by: DeviceKey,
    /// Whether others expect to write there too: then it isn't taken back when one of them leaves.
    shared: bool,
    /// What is wished for once it is known, or another one than before.
    hope: Hope,
    /// Whether no place is known for that yet.
    waiting: bool,
    /// Whether it was not known before, and no message has come from there or gone there since.
    news: bool,
}

/// A wish before it is known where to.
#[derive(Clone, Copy, Debug)]
struct Hope {
    reason: Reason,
    worth: Worth,
    since: Instant,
    half_life: Duration,
}

impl Hope {
    /// What it is worth by now.
    fn aged(self, now: Now) -> Hope {
        let worth = self.worth.since(self.since, now.at, self.half_life);
        let since = now.at;
        Hope { worth, since, ..self }
    }
}

impl Router {
    /// A device says whom it's about to write to. Beyond its rate, it isn't listened to.
    pub(super) fn intend(&mut self, now: Now, session: SessionRef, recipient: IdRef<'_>, out: &mut Outbox) {
        let to = self.config.keys.device_key(recipient).partner();
        let Some(sender) = self.sessions.find(session) else {
            return;
        };
        let by = sender.key;
        let habits = sender.habits.get_or_insert_default();
        self.predictor
            .hinted(now.unix_seconds(), habits, to, &mut self.foresights);
        self.foresee(now, by, Occasion::Hinted, out);
    }

    /// Passes on what the predictor has just foreseen for `by`, which is this shard's.
    pub(super) fn foresee(&mut self, now: Now, by: DeviceKey, occasion: Occasion, out: &mut Outbox) {
        if self.foresights.is_empty() {
            return;
        }
        let half_life = self.predictor.half_life();
        let mut foresights = std::mem::take(&mut self.foresights);
        for foresight in foresights.drain(..) {
            let expectation = Expectation {
                device: foresight.device,
                by,
                worth: foresight.worth,
                half_life,
                occasion,
            };
            let owner = expectation.device.shard(self.config.shards);
            if owner == self.config.shard {
                self.expect(now, &expectation, out);
            } else {
                out.expect(owner, expectation);
            }
        }
        self.foresights = foresights;
    }

    /// A device of this shard is expected to be written to from this node: finds out where it is, and wishes for a link there.
    pub fn expect(&mut self, now: Now, expectation: &Expectation, out: &mut Outbox) {
        let Expectation {
            device,
            by,
            worth,
            half_life,
            occasion,
        } = *expectation;
        debug_assert!(
            device.shard(self.config.shards) == self.config.shard,
            "a device belongs to one shard"
        );
        if worth == Worth::NONE {
            return self.withdraw(device, by, out);
        }
        if let Some(here) = self.sessions.of_partner(device) {
            here.awaited = true;
            return;
        }
        let known = self.locations.peek_partner(device);
        let hope = Hope {
            reason: reason(occasion),
            worth,
            since: now.at,
            half_life,
        };
        let seen = seen(occasion);
        let is_confirmed = seen.is_some() && seen == known.map(|epoch| epoch.node);
        let supposed = match (occasion, known) {
            (Occasion::Delivered { from, at: Some(node) }, None) => self.suppose(from, node),
            _ => None,
        };
        if let Some(node) = supposed.or(known.map(|epoch| epoch.node)) {
            self.wish(node, hope, by, out);
        }
        if let Some(prefetch) = self.prefetches.get_mut(&device)
            && (is_confirmed || now.at.since(prefetch.asked_at) < believed(occasion, known))
        {
            if is_confirmed {
                prefetch.asked_at = now.at;
            }
            let is_used = known.is_some() && matches!(occasion, Occasion::Sent { to } if to == device);
            prefetch.news &= seen.is_none() && !is_used;
            prefetch.shared |= prefetch.by != by;
            if prefetch.hope.aged(now).worth <= worth {
                (prefetch.by, prefetch.hope) = (by, hope);
            }
            return;
        }
        if self.prefetches.len() >= PREFETCHES_MAX && !self.make_room(now) {
            return;
        }
        let prefetch = Prefetch {
            asked_at: now.at,
            by,
            shared: self
                .prefetches
                .get(&device)
                .is_some_and(|before| before.by != by || before.shared),
            hope,
            waiting: true,
            news: known.is_none() && seen.is_none(),
        };
        self.prefetches.insert(device, prefetch);
        self.ask_where(now, device, out);
    }

    /// A message of a device has come from `node`, and nothing else is known of where it is: an answer that leaves before the region has
    /// said more goes there. Not to a node that holds no sessions.
    fn suppose(&mut self, device: DeviceKey, node: NodeId) -> Option<NodeId> {
        let holds_sessions = self.map.node(node).is_some_and(|node| node.roles.connection);
        if node == self.config.node || !holds_sessions {
            return None;
        }
        self.counters.locations_supposed += 1;
        self.locations.suppose(device, node);
        Some(node)
    }

    /// A node asks where a device is, ahead of need. Answered by what this instance holds, if it serves the device's region, and again
    /// when that has changed.
    pub(super) fn where_is(&mut self, from: NodeId, device: PartnerKey, out: &mut Outbox) {
        let region = self.map.region_of_partner(device);
        if !self.served.contains(&region) || !self.ready(from) {
            return;
        }
        self.watches.watch(device, from);
        if let Some((device, epoch)) = self.present(device) {
            self.counters.locations_told += 1;
            out.link(from, &Location { device, epoch });
        }
    }

    /// As an instance: a device has turned up at its epoch's node. Who asked for it lately, or was told with a message, is told.
    pub(super) fn tell_watchers(&mut self, device: DeviceKey, epoch: Epoch, out: &mut Outbox) {
        for node in self.watches.told(device.partner()) {
            // It has the session itself.
            if node != epoch.node && self.ready(node) {
                self.counters.locations_told_again += 1;
                out.link(node, &Location { device, epoch });
            }
        }
    }

    /// A device has left to which others here were expected to write: finds out where it goes.
    pub(super) fn follow(&mut self, now: Now, device: DeviceKey, left: Epoch, out: &mut Outbox) {
        match self.superseded.get(&device).copied().filter(|&newer| newer > left) {
            Some(newer) => self.learn_location(now, device, newer, out),
            None => {
                // What was known before it came here is older than that.
                self.locations.forget(device);
                self.ask_where(now, device.partner(), out);
            }
        }
    }

    /// The location of `device` has become known, or is another one than `before`: what was hoped for is wished for.
    pub(super) fn fulfil(
        &mut self,
        now: Now,
        device: DeviceKey,
        epoch: Epoch,
        before: Option<Epoch>,
        out: &mut Outbox,
    ) {
        let Some(prefetch) = self.prefetches.get_mut(&device.partner()) else {
            return;
        };
        let was_waiting = std::mem::replace(&mut prefetch.waiting, false);
        if was_waiting || before.is_none_or(|before| before.node != epoch.node) {
            let (hope, by) = (prefetch.hope, prefetch.by);
            self.counters.locations_prefetched += u64::from(was_waiting);
            self.wish(epoch.node, hope.aged(now), by, out);
        }
    }

    fn wish(&self, node: NodeId, hope: Hope, by: DeviceKey, out: &mut Outbox) {
        if node != self.config.node && hope.worth >= FORESEEN {
            out.wish(Wish {
                node,
                reason: hope.reason,
                worth: hope.worth,
                half_life: hope.half_life,
                by: Some(by),
            });
        }
    }

    fn withdraw(&mut self, device: PartnerKey, by: DeviceKey, out: &mut Outbox) {
        if let Some(epoch) = self.locations.peek_partner(device)
            && epoch.node != self.config.node
        {
            out.withdraw_wish(epoch.node, by);
        }
        let its = self.prefetches.get_mut(&device).filter(|prefetch| prefetch.by == by);
        let is_its_own = its.is_some_and(|prefetch| {
            prefetch.hope.worth = Worth::NONE;
            !prefetch.shared
        });
        if is_its_own && self.prefetches.remove(&device).is_some_and(|prefetch| prefetch.news) {
            self.counters.locations_withdrawn += 1;
            self.locations.forget_partner(device);
        }
    }

    fn ask_where(&mut self, now: Now, device: PartnerKey, out: &mut Outbox) {
        let region = self.map.region_of_partner(device);
        if self.served.contains(&region) {
            if let Some((device, epoch)) = self.present(device) {
                self.learn_location(now, device, epoch, out);
            }
            return;
        }
        let count = self.map.instances(region).len();
        let first = (device.0 >> 32) as usize;
        for step in 0..count {
            let node = self.map.instances(region)[(first + step) % count];
            if self.ready(node) {
                self.counters.locations_asked += 1;
                return out.link(node, &WhereIs { device });
            }
        }
    }

    /// Where this instance has it registered.
    fn present(&self, device: PartnerKey) -> Option<(DeviceKey, Epoch)> {
        let region = self.map.region_of_partner(device);
        self.presence.get(&region)?.find_partner(device)
    }

    /// Forgets that locations were asked for a while ago. Returns whether that has made room.
    fn make_room(&mut self, now: Now) -> bool {
        self.prefetches
            .retain(|_, prefetch| now.at.since(prefetch.asked_at) < LOCATION_FRESH);
        self.prefetches.len() < PREFETCHES_MAX
    }
}

/// From which other node a message has just come of who is expected to be written to. If it was thought to be there, that is as good as an
/// answer.
fn seen(occasion: Occasion) -> Option<NodeId> {
    match occasion {
        Occasion::Delivered { at, .. } => at,
        Occasion::Attached | Occasion::Sent { .. } | Occasion::Hinted | Occasion::Detached => None,
    }
}

/// How long after a question about a device its answer is good enough.
fn believed(occasion: Occasion, known: Option<Epoch>) -> Duration {
    match (occasion, known) {
        (Occasion::Attached | Occasion::Hinted, _) => LOCATION_DOUBTED,
        // A message has come from elsewhere than where its sender was thought to be.
        (Occasion::Delivered { at: Some(_), .. }, Some(_)) => LOCATION_DOUBTED,
        (Occasion::Sent { .. } | Occasion::Detached | Occasion::Delivered { .. }, _) => LOCATION_FRESH,
    }
}

/// Why a link is wished for after it.
fn reason(occasion: Occasion) -> Reason {
    match occasion {
        Occasion::Attached => Reason::Attach,
        Occasion::Sent { .. } => Reason::Send,
        Occasion::Delivered { .. } => Reason::Reply,
        Occasion::Hinted => Reason::Hint,
        // Nothing is worth anything then.
        Occasion::Detached => Reason::Attach,
    }
}
