//! What time asks for: the first spreading of the slots, assignments that are due, members that have been silent for too long.

use std::collections::BTreeSet;

use tracing::{info, warn};
use trunkline_wire::device::ErrorCode;
use trunkline_wire::id::{DeviceKey, NodeId, RegionId};
use trunkline_wire::time::Instant;

use super::{Logic, Now, Outbox, fail};
use crate::assignment::{self, Weights};
use crate::config::SETTLE;
use crate::membership::{Due, GRACE, LEASE};
use crate::state::Change;
use crate::state::moves::{Mover, Then};

impl Logic {
    /// Does what time asks for.
    pub fn tick(&mut self, now: Now, out: &mut Outbox) {
        self.spread_initially(now);
        self.assign_pending(now);
        self.expire(now, out);
        self.advance_moves(now);
        for (connection, node) in self.publication.overdue(now.at) {
            let text = format!("node {node} has not answered an offered map in time; join again");
            self.publication.unsubscribe(connection);
            fail(out, connection, ErrorCode::IdleTimeout, text);
        }
    }

    /// When to come back with [`Logic::tick`] and [`Logic::take_batch`].
    pub fn deadline(&self, now: Instant) -> Instant {
        let staged = self.staged.as_ref().map(|staged| staged.due);
        let settle = self.settle.filter(|_| self.state.slots.is_none());
        let pending = self
            .pending
            .first()
            .map(|(due, _)| *due)
            .filter(|_| !self.pending_blocked);
        let others = [self.leases.deadline(now), self.publication.deadline()];
        let deadlines = [staged, settle, pending].into_iter().flatten().chain(others);
        deadlines.min().unwrap_or(Instant::NEVER)
    }

    pub(super) fn leave(&mut self, now: Now, node: NodeId) {
        self.counters.leaves += 1;
        self.take_offline(node);
        self.leases.end(now.at, node);
        self.depart(now, node);
        info!(%node, "left");
    }

    /// Takes `node` out of the map, but for the regions whose last instance it is. True if that changed anything.
    pub(super) fn depart(&mut self, now: Now, node: NodeId) -> bool {
        let Some(mut record) = self.state.nodes.get(&node).cloned() else {
            return false;
        };
        let before = record.clone();
        for region in &before.regions {
            if self.state.instances(*region).all(|instance| instance == node) {
                self.hurry(now, *region, node);
            }
        }
        record
            .regions
            .retain(|region| self.state.instances(*region).all(|instance| instance == node));
        if record.regions.is_empty() {
            record.regions = before.regions.clone();
            record.member = false;
            self.leases.remove(node);
            self.end_turns(now, node);
        } else {
            warn!(%node, "is the last instance of a region: it stays in the map until another joins, or it is removed by force");
        }
        let changed = record != before;
        if changed {
            self.change(now.at, Change::Node(node, Some(record)));
            self.call_back(now);
        }
        changed
    }

    /// The weights of the regions that have an instance.
    pub(super) fn weights(&self) -> Weights {
        let served: BTreeSet<_> = self.state.members().flat_map(|(_, node)| &node.regions).collect();
        let regions = self.state.regions.iter().filter(|(id, _)| served.contains(id));
        regions.map(|(id, region)| (*id, region.weight)).collect()
    }

    /// The first assignment of the slots, when the first regions are there.
    fn spread_initially(&mut self, now: Now) {
        if self.state.slots.is_some() {
            return;
        }
        let mut weights = self.weights();
        if self.config.initial_regions.is_empty() {
            if weights.is_empty() {
                self.settle = None;
                return;
            }
            let settle = *self.settle.get_or_insert(now.at + SETTLE);
            if now.at < settle {
                return;
            }
        } else {
            let names = self
                .config
                .initial_regions
                .iter()
                .map(|region| self.state.region_named(&region.name));
            let Some(initial) = names.collect::<Option<BTreeSet<_>>>() else {
                return;
            };
            weights.retain(|region, _| initial.contains(region));
            if weights.len() < initial.len() {
                return;
            }
        }
        match assignment::spread(None, &weights) {
            Some(slots) => {
                info!(regions = weights.len(), "the slots are assigned");
                self.change(now.at, Change::Slots(Some(slots)));
            }
            // An operator gave all of them weight 0.
            None => self.settle = Some(now.at + SETTLE),
        }
    }

    /// Devices whose initial interval has begun get their region.
    pub(super) fn assign_pending(&mut self, now: Now) {
        self.pending_blocked = false;
        while let Some(&(due, key)) = self.pending.first() {
            if due > now.at {
                return;
            }
            if !self.may_move_devices() || !self.assign(now, key) {
                self.pending_blocked = true;
                return;
            }
            self.pending.pop_first();
        }
    }

    /// Gives an enrolled device its region. False if there is no region to give.
    fn assign(&mut self, now: Now, key: DeviceKey) -> bool {
        let Some(device) = self.state.devices.get(&key).cloned() else {
            return true;
        };
        let chosen = device
            .wanted
            .or_else(|| assignment::choose(&self.weights(), &self.devices_by_region));
        let Some(region) = chosen else {
            return false;
        };
        self.counters.assignments += 1;
        let latest = device.enrolled_ms + self.config.initial_interval.max.as_millis() as u64;
        if now.wall_ms > latest {
            self.counters.assignments_late += 1;
            warn!(
                device = device.id,
                "assigned later than `initial_interval` allows: no region was there, or control was not"
            );
        }
        self.assign_to(now, key, Some(region));
        if let Some(from) = self.region_of_slot(key).filter(|from| *from != region) {
            // It may be connected already.
            self.enrolling_since.get_or_insert(now);
            self.enrolling.push(Mover {
                key,
                from,
                to: region,
                then: Then::Made,
            });
        }
        true
    }

    /// Members that have been silent for too long leave the map.
    fn expire(&mut self, now: Now, out: &mut Outbox) {
        let members = self.state.members().count();
        let state = &self.state;
        let may_leave = |node: NodeId| {
            let regions = state.nodes.get(&node).map(|record| &record.regions);
            let not_alone = |region: &RegionId| {
                let mut others = state.instances(*region).chain(state.arriving(*region));
                others.any(|instance| instance != node)
            };
            regions.is_none_or(|regions| regions.is_empty() || regions.iter().any(not_alone))
        };
        match self.leases.due(now.at, members, may_leave) {
            Due::Leave(nodes) => {
                self.held.clear();
                for node in nodes {
                    warn!(%node, "was silent for {:?}: it leaves the map", LEASE + GRACE);
                    self.counters.expiries += u64::from(self.depart(now, node));
                    // It may have pinged all the time.
                    if let Some(connection) = self.take_offline(node) {
                        let text = format!("node {node} has not renewed its lease for long: join again");
                        fail(out, connection, ErrorCode::IdleTimeout, text);
                    }
                }
            }
            Due::Held(nodes) => {
                if nodes != self.held {
                    warn!(
                        nodes = nodes.len(),
                        members, "too many members are silent at once to remove any; see `remove-node`"
                    );
                    self.held = nodes;
                }
            }
        }
    }
}
