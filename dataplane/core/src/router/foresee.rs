//! What is expected of devices, and what is done about it ahead of need.
//!
//! ```text
//! shard of the sender          shard of who is expected to be written to               shard that owns the link
//! predictor ──Expectation──▶ location known ─────────────────────────────Wish──▶ link cache: dial, or not
//!                            not known ──WhereIs──▶ an instance ──Location──▶ ↑
//! ```
//!
//! Nothing waits for any of it: a message that comes first goes by way of the region.

use std::time::Duration;

use trunkline_wire::id::{DeviceKey, Epoch, IdRef, NodeId, PartnerKey};
use trunkline_wire::peer::{Location, WhereIs};
use trunkline_wire::time::Instant;

use super::{Now, Router, SessionRef};
use crate::constants::{LOCATION_FRESH, PREFETCHES_MAX};
use crate::link::Wish;
use crate::outbox::Outbox;
use crate::predictor::{Expectation, Worth};

/// A location that was asked for ahead of need.
#[derive(Clone, Copy, Debug)]
pub(super) struct Prefetch {
    asked_at: Instant,
    /// For whom, last.
    by: DeviceKey,
    /// Whether others expect to write there too: then it isn't taken back when one of them leaves.
    shared: bool,
    /// What is wished for once it is known.
    waiting: Option<(Worth, Duration)>,
    /// Whether it was not known before.
    news: bool,
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
        self.foresee(now, by, out);
    }

    /// Passes on what the predictor has just foreseen for `by`, which is this shard's.
    pub(super) fn foresee(&mut self, now: Now, by: DeviceKey, out: &mut Outbox) {
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
        } = *expectation;
        debug_assert!(
            device.shard(self.config.shards) == self.config.shard,
            "a device belongs to one shard"
        );
        if worth == Worth::NONE {
            return self.withdraw(device, by, out);
        }
        if self.sessions.has_partner(device) {
            return;
        }
        let known = self.locations.peek_partner(device);
        if let Some(epoch) = known {
            self.wish(epoch.node, worth, half_life, by, out);
        }
        if let Some(prefetch) = self.prefetches.get_mut(&device)
            && now.at.since(prefetch.asked_at) < LOCATION_FRESH
        {
            prefetch.shared |= prefetch.by != by;
            if known.is_none() && prefetch.waiting.is_none_or(|(before, _)| before < worth) {
                (prefetch.by, prefetch.waiting) = (by, Some((worth, half_life)));
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
            waiting: Some((worth, half_life)),
            news: known.is_none(),
        };
        self.prefetches.insert(device, prefetch);
        self.ask_where(device, out);
    }

    /// A node asks where a device is, ahead of need. Answered by what this instance holds, if it serves the device's region.
    pub(super) fn where_is(&mut self, from: NodeId, device: PartnerKey, out: &mut Outbox) {
        let region = self.map.region_of_partner(device);
        if !self.served.contains(&region) || !self.ready(from) {
            return;
        }
        if let Some((device, epoch)) = self.present(device) {
            self.counters.locations_told += 1;
            out.link(from, &Location { device, epoch });
        }
    }

    /// The location of `device` has become known: what waited for it is wished for.
    pub(super) fn fulfil(&mut self, device: DeviceKey, epoch: Epoch, out: &mut Outbox) {
        let Some(prefetch) = self.prefetches.get_mut(&device.partner()) else {
            return;
        };
        let by = prefetch.by;
        if let Some((worth, half_life)) = prefetch.waiting.take() {
            self.counters.locations_prefetched += 1;
            self.wish(epoch.node, worth, half_life, by, out);
        }
    }

    fn wish(&self, node: NodeId, worth: Worth, half_life: Duration, by: DeviceKey, out: &mut Outbox) {
        if node != self.config.node {
            out.wish(Wish {
                node,
                worth,
                half_life,
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
        let prefetch = self.prefetches.get(&device);
        let is_its_own = prefetch.is_some_and(|prefetch| prefetch.by == by && !prefetch.shared);
        if is_its_own && self.prefetches.remove(&device).is_some_and(|prefetch| prefetch.news) {
            self.counters.locations_withdrawn += 1;
            self.locations.forget_partner(device);
        }
    }

    fn ask_where(&mut self, device: PartnerKey, out: &mut Outbox) {
        let region = self.map.region_of_partner(device);
        if self.served.contains(&region) {
            if let Some((device, epoch)) = self.present(device) {
                self.learn_location(device, epoch, out);
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
