//! History follows the device: its region keeps whom it has to do with, and hands that to whichever connection server it turns up at.
//!
//! ```text
//! connection server                                    every instance of the region
//! messages ──▶ Habits ──a minute later, at the end──Remember──▶ Archive
//!                ▲                                                 │
//!                └──────────────────Recall──at registration────────┘      move: ──Remember──▶ the other region's instances
//! ```
//!
//! - **Told** to all instances that can be reached, at most once a minute and session, and when the session ends: nothing of it is on a
//!   message's way. What a server learns in the minute before it dies is lost.
//! - **Handed out** with the answer to a session's first registration, ahead of it, so that the device is welcomed with its history. A
//!   list that is told after that, by the session that was superseded, is handed on to the newer one's server. With the answer to a
//!   registration that comes again it is handed out again, if the session is less than a minute old: the first may have been lost with
//!   its link, and a server that doesn't have a device's history would replace it by what it has learnt itself.
//! - **Not part of a sync**: that decides about "offline", and must be short. An instance that is back is told again within a minute of
//!   what the connected devices' servers know; of the others its siblings know.
//! - **Moved** with a device, at a rate, from the instances of the region that it leaves.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use trunkline_wire::affinity::AffinityVersion;
use trunkline_wire::id::{DeviceKey, Epoch, NodeId, PartnerKey, RegionId};
use trunkline_wire::map::Map;
use trunkline_wire::peer::{Recall, Remember};
use trunkline_wire::time::Instant;

use super::timers::Timer;
use super::{Now, Router, SessionRef};
use crate::outbox::Outbox;
use crate::predictor::{Affinity, Occasion};
use crate::session::{Session, State};

/// How long what a session has learnt waits until its region is told: what a crash may lose, and what bounds the rate.
pub const REMEMBER_AFTER: Duration = Duration::from_secs(60);

/// How many lists are looked at in one turn while devices move: at 200 bytes, as much as a link takes at once.
const HANDED_A_STEP: usize = 512;
/// How often that is done, at least: ten million lists in four minutes.
const HAND_STEP: Duration = Duration::from_millis(10);

/// The lists that go to other regions with their devices.
#[derive(Debug, Default)]
pub(super) struct HandOver {
    /// The map before the devices began to move.
    before: Option<Arc<Map>>,
    /// The next place to look at; none when all were.
    next: Option<usize>,
    /// A list was kept that has its place here by a newer map, perhaps: that one may be skipped for one by which it has none.
    ahead: bool,
}

impl Router {
    /// A message has changed whom a session has to do with: its region is told in a while, once for all that follows until then.
    pub(super) fn tell_later(&mut self, at: Instant, session: SessionRef) {
        if let Some(of) = self.sessions.receiving(session)
            && !of.told.due
        {
            of.told.due = true;
            self.session_timers.push(Reverse((at, session, Timer::Remember)));
        }
    }

    /// It is time to tell a session's region whom it has to do with.
    pub(super) fn tell_region(&mut self, now: Now, session: SessionRef, out: &mut Outbox) {
        let told = self.sessions.find(session).and_then(|session| {
            let told = remember(session);
            session.told.due = false;
            told
        });
        if let Some(told) = told {
            self.remember_everywhere(now, &told, out);
        }
    }

    /// A session has ended: what its region hasn't been told of it.
    pub(super) fn tell_last(&mut self, now: Now, ended: &mut Session, out: &mut Outbox) {
        if ended.told.due
            && let Some(told) = remember(ended)
        {
            self.remember_everywhere(now, &told, out);
        }
    }

    /// An instance of `region` has nothing of what it was told before: it is told again, not all at once.
    pub(super) fn tell_again(&mut self, now: Now, region: RegionId) {
        for session in self.sessions.refs() {
            let known = self.sessions.find(session).is_some_and(|session| {
                let knows = session
                    .habits
                    .as_ref()
                    .is_some_and(|habits| !habits.affinity().is_empty());
                knows && self.map.belongs(session.key, region)
            });
            if known {
                let wait = Duration::from_millis(self.rng.u64(..REMEMBER_AFTER.as_millis() as u64));
                self.tell_later(now.at + wait, session);
            }
        }
    }

    fn remember_everywhere(&mut self, now: Now, told: &Remember, out: &mut Outbox) {
        self.counters.affinities_told += 1;
        let map = Arc::clone(&self.map);
        let instances = map.regions_of(told.device).flat_map(|region| map.holders(region));
        for node in instances {
            if node == self.config.node {
                self.take_affinity(now, node, told, out);
            } else if self.ready(node) {
                out.link(node, told);
            }
        }
    }

    /// As an instance: a list was told. One of a device that is in none of this node's regions is not kept: whoever told it by an older
    /// map has told it to the device's new region as well. By a newer map it may have its place here.
    pub(super) fn take_affinity(&mut self, now: Now, from: NodeId, told: &Remember, out: &mut Outbox) {
        let is_old = self.announced(from) <= self.map.id().version;
        let is_astray = !self.remembers_of(told.device);
        if self.presence.is_empty() || is_old && is_astray {
            return;
        }
        self.hand_over.ahead |= is_astray;
        self.counters.affinities_taken += 1;
        let evicted = self.archive.evicted();
        let is_news = self.archive.keep(told.device, told.version, &told.list);
        self.counters.affinities_evicted += self.archive.evicted() - evicted;
        // The session that it is of was superseded before this was told.
        if is_news
            && let Some(epoch) = self.find_present(told.device)
            && epoch.clock > told.version.clock
        {
            self.hand_out(now, told.device, epoch, out);
        }
    }

    /// As an instance: the device has turned up at its epoch's node, which is told what is remembered.
    pub(super) fn hand_out(&mut self, now: Now, device: DeviceKey, epoch: Epoch, out: &mut Outbox) {
        if trunkline_wire::planted!(ForgetAffinity) {
            return;
        }
        let Some((version, list)) = self.archive.recall(device) else {
            return;
        };
        // Its own list needs no way back.
        if version.clock >= epoch.clock {
            return;
        }
        let recall = Recall { device, version, list };
        if epoch.node == self.config.node {
            self.counters.affinities_handed_out += 1;
            self.recalled(now, &recall, out);
        } else if self.ready(epoch.node) {
            self.counters.affinities_handed_out += 1;
            out.link(epoch.node, &recall);
        }
    }

    /// As an instance: a server names a session that is known already, on a new link, say. What it was told of the device may have been
    /// lost with the one before. Only of a session that is too young to have told what it knows itself: a stream must be short.
    pub(super) fn hand_out_again(&mut self, now: Now, device: DeviceKey, epoch: Epoch, out: &mut Outbox) {
        let begun_ms = epoch.clock >> 16;
        if begun_ms.saturating_add(REMEMBER_AFTER.as_millis() as u64) >= now.wall_ms {
            self.hand_out(now, device, epoch, out);
        }
    }

    /// As a connection server: what the region remembers of a device that is here.
    pub(super) fn recalled(&mut self, now: Now, recall: &Recall, out: &mut Outbox) {
        let Some((_, session)) = self.sessions.of_device(recall.device) else {
            return;
        };
        if recall.version.clock >= session.epoch.clock {
            return;
        }
        let habits = session.habits.get_or_insert_default();
        if !habits.recall(recall.version, &Affinity::recall(&recall.list)) {
            return;
        }
        self.counters.affinities_recalled += 1;
        // Before the welcome nothing is foreseen; with it, this is.
        if session.state == State::Open {
            let key = session.key;
            self.predictor
                .attached(now.unix_seconds(), habits, &mut self.foresights);
            self.foresee(now, key, Occasion::Attached, out);
        }
    }

    /// How many partners this shard keeps of a device, as an instance.
    pub(super) fn kept(&self, device: DeviceKey) -> Option<usize> {
        self.archive.peek(device).map(|(_, list)| list.entries().len())
    }

    /// Which list this shard keeps of a device, as an instance of its region.
    pub fn remembered_version(&self, device: DeviceKey) -> Option<AffinityVersion> {
        self.archive.version(device)
    }

    /// What this shard keeps of a device, as an instance of its region.
    pub fn remembered(&self, device: DeviceKey) -> Option<(AffinityVersion, Affinity)> {
        let (version, list) = self.archive.peek(device)?;
        Some((version, Affinity::recall(&list)))
    }

    /// With whom a device had to do, by what this shard keeps of it as an instance of its region.
    pub fn remembered_partners(&self, device: DeviceKey) -> Option<Vec<PartnerKey>> {
        let (_, list) = self.archive.peek(device)?;
        Some(list.entries().iter().map(|entry| entry.partner).collect())
    }

    /// Whether a device's history has its place at this node.
    fn remembers_of(&self, device: DeviceKey) -> bool {
        let own = self.config.node;
        self.map.regions_of(device).any(|region| self.map.holds(region, own))
    }

    /// Of which devices this shard keeps lists that have no place here. Looks at all.
    pub fn remembered_astray(&self) -> impl Iterator<Item = DeviceKey> {
        let kept = (0..self.archive.places()).filter_map(|place| self.archive.at(place));
        kept.map(|(device, ..)| device)
            .filter(|device| !self.remembers_of(*device))
    }

    /// How many lists this shard keeps, and how many it may.
    pub fn affinities(&self) -> (usize, usize) {
        (self.archive.len(), self.archive.lists_max())
    }

    /// Whether lists may be here that no change from this map on would send away.
    pub(super) fn is_ahead(&self) -> bool {
        self.hand_over.ahead
    }

    /// Devices belong to other regions than before, or than they were told to: their lists follow, and those that have no place here any
    /// more go.
    pub(super) fn hand_over(&mut self, before: Arc<Map>) {
        self.hand_over.ahead = false;
        if !self.archive.is_empty() && !trunkline_wire::planted!(HistoryStays) {
            self.hand_over.before.get_or_insert(before);
            self.hand_over.next = Some(0);
        }
    }

    /// A link to an instance of the other region is there: what it should have got and couldn't, it gets now.
    pub(super) fn hand_over_again(&mut self, node: NodeId) {
        if self.hand_over.before.is_some() && self.partners.contains(&node) {
            self.hand_over.next = Some(0);
        }
    }

    pub(super) fn tick_hand_over(&mut self, out: &mut Outbox) {
        let (Some(first), Some(before)) = (self.hand_over.next, self.hand_over.before.clone()) else {
            return;
        };
        let (last, map) = (first + HANDED_A_STEP, Arc::clone(&self.map));
        for place in first..last.min(self.archive.places()) {
            if let Some((device, version, list)) = self.archive.at(place) {
                let told = Remember { device, version, list };
                self.hand_over_one(&before, &map, &told, out);
            }
        }
        self.hand_over.next = Some(last).filter(|&next| next < self.archive.places());
        if self.hand_over.next.is_none() && !map.is_moving() {
            self.hand_over.before = None;
        }
    }

    fn hand_over_one(&mut self, before: &Map, map: &Map, told: &Remember, out: &mut Outbox) {
        let (own, device) = (self.config.node, told.device);
        let mut served_before = before.regions_of(device);
        let was_here = served_before.any(|region| before.holds(region, own));
        let (mut sent, mut missed) = (false, false);
        for region in map.regions_of(device).filter(|_| was_here) {
            let is_new = !before.belongs(device, region);
            for node in map.holders(region).filter(|&node| is_new && node != own) {
                if self.ready(node) {
                    out.link(node, told);
                    sent = true;
                } else {
                    missed = true;
                }
            }
        }
        self.counters.affinities_moved += u64::from(sent);
        // While the move lasts, it waits for a link. At its end there will be none that is needed: then its server has told the new region,
        // if the device is connected, and of one that is away a prediction is lost.
        if !self.remembers_of(device) && (sent || !missed || !map.is_moving()) {
            self.archive.remove(device);
        }
    }

    pub(super) fn hand_over_deadline(&self) -> Instant {
        match self.hand_over.next {
            Some(_) => self.ticked + HAND_STEP,
            None => Instant::NEVER,
        }
    }
}

/// What a session's region is told next; nothing of one that isn't a device's, or has had to do with nobody.
fn remember(session: &mut Session) -> Option<Remember> {
    let epoch = session.epoch.some()?;
    let affinity = session.habits.as_ref()?.affinity();
    if affinity.is_empty() {
        return None;
    }
    let version = AffinityVersion {
        clock: epoch.clock,
        counter: session.told.counter,
    };
    session.told.counter = session.told.counter.saturating_add(1);
    Some(Remember {
        device: session.key,
        version,
        list: affinity.digest(),
    })
}
