//! Sends this node's devices elsewhere, a slice at a time.
//!
//! ```text
//! attached ──its turn──▶ finishing ──nothing is open, or 1 s──▶ sent away ──its newer session is known, or 10 s──▶ forgotten
//! ```
//! A device that is finishing is given no new message: what was written to it is acknowledged, and what it sent is reported, before it is
//! told to go. Its region goes on naming this node until the device has come up elsewhere, so that nobody calls it offline
//! meanwhile: what comes for it here is answered "try again".

use std::collections::VecDeque;

use trunkline_wire::device::{GoAway, GoAwayReason};
use trunkline_wire::id::{DeviceKey, Epoch};
use trunkline_wire::time::Instant;

use super::{Now, Router};
use crate::constants::{AWAY, DRAIN_FINISH, DRAIN_STEP};
use crate::outbox::Outbox;
use crate::session::SessionRef;

/// How devices are sent elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Devices of this shard, a second; at least 1.
    pub devices_a_second: u32,
    /// What they are told to wait before they connect again.
    pub retry_after_ms: u32,
}

/// A drain under way.
#[derive(Debug)]
pub(super) struct Drain {
    pace: Pace,
    started: Instant,
    /// How many have had their turn.
    turns: u64,
    queue: VecDeque<SessionRef>,
    /// Until when at most.
    finishing: Vec<(Instant, SessionRef)>,
    next: Instant,
}

impl Router {
    /// Begins to send all devices elsewhere; those that attach later as well. Another pace may be set while it lasts.
    pub fn drain(&mut self, now: Now, pace: Pace) {
        let finishing = self.drain.take().map(|drain| drain.finishing).unwrap_or_default();
        self.drain = Some(Drain {
            pace,
            started: now.at,
            turns: 0,
            queue: self.sessions.refs().into(),
            finishing,
            next: now.at,
        });
    }

    /// Whose turn hasn't come stays. Those that were sent away don't come back by themselves.
    pub fn stay(&mut self) {
        let Some(drain) = self.drain.take() else { return };
        for (_, reference) in drain.finishing {
            if let Some(session) = self.sessions.find(reference) {
                session.finishing = false;
            }
        }
    }

    pub(super) fn drain_deadline(&self) -> Instant {
        self.drain.as_ref().map_or(Instant::NEVER, |drain| drain.next)
    }

    pub(super) fn tick_drain(&mut self, now: Now, out: &mut Outbox) {
        while let Some(&(at, device, epoch)) = self.away_until.front() {
            if at > now.at {
                break;
            }
            self.away_until.pop_front();
            self.forget_away(now, device, epoch, out);
        }
        let Some(mut drain) = self.drain.take_if(|drain| drain.next <= now.at) else {
            return;
        };
        drain.finishing.retain(|&(until, reference)| {
            let Some(session) = self.sessions.find(reference) else {
                return false;
            };
            let finished = session.is_finished();
            if !finished && until > now.at {
                return true;
            }
            self.counters.drained_unfinished += u64::from(!finished);
            self.send_away(now, reference, drain.pace, out);
            false
        });
        let due = (now.at - drain.started).as_millis() as u64 * u64::from(drain.pace.devices_a_second) / 1_000;
        while drain.turns < due.max(1)
            && let Some(reference) = drain.queue.pop_front()
        {
            let Some(session) = self.sessions.find(reference) else {
                continue;
            };
            drain.turns += 1;
            if session.is_finished() {
                self.send_away(now, reference, drain.pace, out);
            } else {
                session.finishing = true;
                drain.finishing.push((now.at + DRAIN_FINISH, reference));
            }
        }
        if drain.queue.is_empty() && drain.finishing.is_empty() {
            // Those that came meanwhile, if any. Their turns begin to count now.
            drain.queue = self.sessions.refs().into();
            (drain.started, drain.turns) = (now.at, 0);
        }
        let idle = drain.queue.is_empty() && drain.finishing.is_empty();
        drain.next = if idle { Instant::NEVER } else { now.at + DRAIN_STEP };
        self.drain = Some(drain);
    }

    /// A device that attaches while the others are sent elsewhere has its turn as well.
    pub(super) fn drain_too(&mut self, now: Now, session: SessionRef) {
        if let Some(drain) = &mut self.drain {
            drain.queue.push_back(session);
            drain.next = drain.next.min(now.at + DRAIN_STEP);
        }
    }

    fn send_away(&mut self, now: Now, session: SessionRef, pace: Pace, out: &mut Outbox) {
        let Some(device) = self.sessions.find(session) else {
            return;
        };
        let (conn, key, epoch) = (device.conn, device.key, device.epoch);
        let go = GoAway {
            retry_after_ms: pace.retry_after_ms,
            reason: GoAwayReason::Shutdown,
        };
        out.device(conn, &go);
        self.counters.drained += 1;
        self.end_sent_away(now, session, out);
        out.close_device(conn);
        if epoch != Epoch::NONE {
            self.away.insert(key, epoch);
            self.away_until.push_back((now.at + AWAY, key, epoch));
        }
    }

    /// How many devices that were sent elsewhere have not come up there yet, as far as this shard has heard. None are waited for where
    /// there is no other server for them.
    pub fn on_their_way(&self) -> usize {
        let own = self.config.node;
        let mut nodes = self.map.nodes();
        match nodes.any(|(node, known)| node != own && known.roles.connection) {
            true => self.away.len(),
            false => 0,
        }
    }

    /// Whether a session that was here, and was sent elsewhere, may come up there at any moment.
    pub(super) fn is_away(&self, device: DeviceKey, epoch: Epoch) -> bool {
        self.away.get(&device) == Some(&epoch)
    }

    /// A session that was sent elsewhere has come up there; or it didn't in time, and its device is offline.
    pub(super) fn forget_away(&mut self, now: Now, device: DeviceKey, epoch: Epoch, out: &mut Outbox) {
        if self.is_away(device, epoch) {
            self.away.remove(&device);
            let map = std::sync::Arc::clone(&self.map);
            for region in map.regions_of(device) {
                self.unregister(now, region, device, epoch, out);
            }
        }
    }
}
