//! What must hold of a router between any two of its turns, whatever came in: the sums of what it counts, and every bound.
//!
//! It decides nothing and changes nothing. The simulator asks [`Router::check_sums`] after every turn and [`Router::check_bounds`] ten
//! times a second; a breach is a defect of ours.

use trunkline_wire::device::Purpose;
use trunkline_wire::id::{Epoch, NodeId, RegionId};

use super::Router;
use crate::constants::{
    DEVICE_QUEUE_BYTES_MAX, LOCATE_TIMEOUT, LOCATING_BYTES_MAX, LOCATING_MESSAGES_MAX, LOCATIONS_MAX, PAUSE_MAX,
    SLOW_READER_TIMEOUT, UNACKNOWLEDGED_PER_SESSION_MAX, UNRESOLVED_BYTES_MAX, UNRESOLVED_PER_SESSION_MAX, WATCHES_MAX,
};
use crate::presence::Presence;
use crate::session::State;
use crate::sources::Source;
use trunkline_wire::time::Instant;

/// What didn't hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Breach {
    /// A message came in and neither ended nor waits, or ended twice.
    Conservation(String),
    /// A session goes on though a newer one is known.
    Fencing(String),
    /// A table or queue holds more than it may, or something in it is overdue.
    Bounds(String),
}

/// Why an instance may not say that a device is nowhere. Two that are equal have nothing but doubt between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doubt {
    version: u64,
    announced: u64,
    awaited: Vec<(RegionId, NodeId, Source)>,
}

impl Router {
    /// Why this node may not say of any device that it is nowhere, if it may not: others have announced a newer map, or servers have yet
    /// to be heard of each region that it serves.
    pub fn doubts(&self) -> Option<Doubt> {
        let (version, announced) = (self.map.id().version, self.newest_announced());
        let mut served = self.served.iter();
        let doubts = announced > version || served.all(|region| self.sources.awaited(*region).next().is_some());
        doubts.then(|| Doubt {
            version,
            announced,
            awaited: self.sources_awaited().collect(),
        })
    }

    /// Which servers have yet to be heard of the regions that this node serves.
    pub fn awaited(&self) -> impl Iterator<Item = (RegionId, NodeId)> {
        self.sources_awaited().map(|(region, node, _)| (region, node))
    }

    fn sources_awaited(&self) -> impl Iterator<Item = (RegionId, NodeId, Source)> {
        let of = |region: &RegionId| {
            let region = *region;
            let awaited = self.sources.awaited(region);
            awaited.map(move |(node, source)| (region, node, source))
        };
        self.served.iter().flat_map(of)
    }

    /// Every confirmed message that came in has ended once or waits for its end; every confirmed delivery was acknowledged, or was
    /// given up with its session, or is open. A few additions.
    ///
    /// # Errors
    /// What doesn't add up.
    pub fn check_sums(&self) -> Result<(), Breach> {
        let c = &self.counters;
        let came = c.messages_in_confirmed + c.messages_refused;
        let ended = c.reports_delivered + c.reports_offline + c.reports_expired + c.reports_rejected;
        let waiting = self.unresolved.len() as u64;
        if came != ended + waiting {
            let text = format!("{came} confirmed messages came in, {ended} have ended, {waiting} wait");
            return Err(Breach::Conservation(text));
        }
        let written = c.messages_delivered_confirmed;
        let (taken, given_up, open) = (c.acknowledged, c.deliveries_abandoned, self.held.len() as u64);
        if written != taken + given_up + open {
            let text = format!(
                "{written} deliveries were written, {taken} acknowledged, {given_up} given up, {open} are open"
            );
            return Err(Breach::Conservation(text));
        }
        if c.messages_delivered < written || c.messages_in < c.messages_in_confirmed {
            return Err(Breach::Conservation("more confirmed messages than messages".into()));
        }
        Ok(())
    }

    /// How many entries there are in all tables that grow with sessions and messages, and are emptied again with time. Those whose size is
    /// a constant's are not counted.
    pub fn entries(&self) -> usize {
        let presence = self.presence.values().map(Presence::entries);
        let tables = [
            self.sessions.len(),
            self.session_timers.len(),
            self.held.len(),
            self.superseded.len() + self.superseded_forget.len(),
            self.away.len() + self.away_until.len(),
            self.unresolved.entries(),
            self.asked.values().map(|asked| asked.bodies().count()).sum(),
            presence.sum(),
        ];
        tables.iter().sum()
    }

    /// Every table is within its bound, nothing in it is overdue, and tables that speak of the same agree. Looks at every session and
    /// record.
    ///
    /// # Errors
    /// The first that isn't so.
    pub fn check_bounds(&self) -> Result<(), Breach> {
        let fail = |text: String| Err(Breach::Bounds(text));
        // Who was paused is late with everything, once.
        let late = self.ticked + PAUSE_MAX;
        let overdue = |at: Instant| at + PAUSE_MAX + PAUSE_MAX < late;
        let mut open = 0;
        for session in self.sessions.all() {
            let key = session.key;
            open += session.open_deliveries();
            if session.unresolved > UNRESOLVED_PER_SESSION_MAX {
                return fail(format!("a session with {} unresolved messages", session.unresolved));
            }
            if session.open_deliveries() > UNACKNOWLEDGED_PER_SESSION_MAX {
                return fail(format!("a session with {} open deliveries", session.open_deliveries()));
            }
            if session.queued > DEVICE_QUEUE_BYTES_MAX + CONTROL_BYTES_MAX {
                return fail(format!("{} bytes wait for one device", session.queued));
            }
            if overdue(session.heard + std::time::Duration::from_millis(session.idle_ms.into())) {
                return fail(format!(
                    "a session that was not heard since {:?} is open",
                    session.heard
                ));
            }
            if session.queued > 0 && overdue(session.stalled + SLOW_READER_TIMEOUT) {
                return fail(format!(
                    "a device that takes nothing since {:?} is connected",
                    session.stalled
                ));
            }
            if let State::Registering { until, .. } = session.state
                && overdue(until)
            {
                return fail(format!("a session was to be welcomed by {until:?}"));
            }
            if session.last_way.is_some() {
                let nodes = session.last_trail.nodes();
                let twice = (1..nodes.len()).any(|at| nodes[..at].contains(&nodes[at]));
                if twice || nodes.contains(&self.config.node) {
                    return fail(format!(
                        "a message came here by way of {nodes:?}: where it had been before"
                    ));
                }
            }
            if !self.is_own(key) {
                return fail("a session of another shard's device".into());
            }
            let newer = self.superseded.get(&key).filter(|newer| **newer > session.epoch);
            if let Some(newer) = newer.filter(|_| session.purpose == Purpose::Full) {
                return Err(Breach::Fencing(format!(
                    "{} goes on, and {newer} is known",
                    session.epoch
                )));
            }
        }
        if open != self.held.len() {
            return Err(Breach::Conservation(format!(
                "{open} open deliveries, {} of them known",
                self.held.len()
            )));
        }
        let table = &self.unresolved;
        if table.bytes() > UNRESOLVED_BYTES_MAX {
            return fail(format!("{} bytes of unresolved messages", table.bytes()));
        }
        if let Some(expires) = table.expires_first().filter(|expires| overdue(*expires)) {
            return fail(format!("a message whose time ended at {expires:?} is unresolved"));
        }
        table.check().map_err(Breach::Bounds)?;
        if self.watches.len() > WATCHES_MAX {
            return fail(format!("{} watched devices", self.watches.len()));
        }
        if let Some(node) = self.passed.links().find(|node| !self.ready(*node)) {
            return fail(format!(
                "what went to node {node} over a link that is lost is not answered"
            ));
        }
        if self.locations.len() > LOCATIONS_MAX {
            return fail(format!("{} locations", self.locations.len()));
        }
        let (kept, may_be) = self.affinities();
        if kept > may_be {
            return fail(format!("{kept} affinity lists, and {may_be} may be"));
        }
        let waiting: usize = self
            .asked
            .values()
            .flat_map(|asked| asked.bodies())
            .map(<[u8]>::len)
            .sum();
        if waiting != self.asked_bytes || waiting > LOCATING_BYTES_MAX || self.asked.len() > LOCATING_MESSAGES_MAX {
            return fail(format!(
                "{waiting} bytes ({} counted) for {} recipients wait for siblings",
                self.asked_bytes,
                self.asked.len()
            ));
        }
        if let Some(asked) = self
            .asked
            .values()
            .find(|asked| overdue(asked.since() + LOCATE_TIMEOUT))
        {
            return fail(format!("siblings were asked at {:?}", asked.since()));
        }
        if let Some((at, ..)) = self.superseded_forget.front().filter(|(at, ..)| overdue(*at)) {
            return fail(format!("a superseded session was to be forgotten at {at:?}"));
        }
        for presence in self.presence.values() {
            presence.check(late).map_err(Breach::Bounds)?;
        }
        for (region, presence) in &self.presence {
            if !self.served.contains(region) && !presence.is_empty() && !self.sources.hears(*region) {
                return fail("presence of a region that is not served here".into());
            }
        }
        if let Some((device, _)) = self.superseded.iter().find(|(_, epoch)| **epoch == Epoch::NONE) {
            return fail(format!("{device:?} was superseded by nobody"));
        }
        Ok(())
    }
}

/// Beside messages, a device's queue takes reports, pongs and the like: far fewer than this while it lives.
const CONTROL_BYTES_MAX: usize = 48 << 10;
