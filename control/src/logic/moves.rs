//! Moves of slots and devices from one region to another, and of nodes to and from regions ([`super::turns`]), step by step, each a
//! version of the map.
//!
//! ```text
//! both     registered at R and S, found by R     then all members have settled it
//! switch   registered at R and S, found by S     then all members have settled it
//! end      S alone                               then all members have settled it: over
//! ```
//!
//! A member has *settled* a version when all that it asks is done there ([`trunkline_wire::control::MapSettled`]). A lapsed lease is no
//! such word: a move waits for the node until it is back, or leaves the map. All that a move needs is in the store, and every step
//! changes it in one batch with the map, so that it goes on from where it was, whoever was killed. Nothing but a member's
//! absence, or an operator, keeps one waiting.

use serde_json::{Value, json};
use tracing::{info, warn};
use trunkline_wire::id::{DeviceKey, NodeId, RegionId};

use super::operator::{Answer, Refused, Reply};
use super::plan::{Plan, plan_json};
use super::{Logic, Now};
use crate::membership::Lease;
use crate::state::moves::{MOVE_DEVICES_MAX, Mover, Stage, Then, Turn, Way};
use crate::state::{Change, Move};

/// Moves of which the map says something at a time: each makes three versions of it, and keeps sessions registered twice.
pub const MOVES_ACTIVE_MAX: usize = 4;
/// Moves that are not over. All of them, and those that are remembered, fit one answer.
pub const MOVES_OPEN_MAX: usize = 64;
/// Moves that are remembered when they are over, for those who ask how they ended.
const MOVES_OVER_KEPT: usize = 32;
/// Nodes and pairs of regions that an answer names; the others are counted.
pub(super) const NAMED_MAX: usize = 8;

impl Logic {
    /// A member has settled a version.
    pub(super) fn map_settled(&mut self, now: Now, node: NodeId, version: u64) {
        if let Some(online) = self.online.get_mut(&node) {
            online.settled = version;
        }
        self.advance_moves(now);
    }

    /// Moves whose members have all settled go on, and others begin.
    pub(super) fn advance_moves(&mut self, now: Now) {
        if self.state.moves.values().all(|moved| moved.stage.is_over()) {
            return;
        }
        self.call_back(now);
        let settled = self.settled_by_all();
        let active = |moved: &&Move| moved.stage.is_active();
        let due: Vec<u32> = self
            .state
            .moves
            .iter()
            .filter(|(_, moved)| active(moved) && (moved.since <= settled || self.is_urgent(now, moved)))
            .map(|(id, _)| *id)
            .collect();
        due.into_iter().for_each(|id| self.step(now, id));
        loop {
            let pending = self.state.moves.iter().find(|(_, moved)| moved.stage == Stage::Pending);
            let Some(id) = pending.map(|(id, _)| *id) else { break };
            if self.active_moves() >= MOVES_ACTIVE_MAX {
                break;
            }
            self.begin(now, id);
        }
        self.forget_moves(now);
    }

    /// The version that every member has settled.
    fn settled_by_all(&self) -> u64 {
        let waited = |node: &NodeId| self.online.contains_key(node) || !trunkline_wire::planted!(AbsentIsSettled);
        let members = self.state.members().map(|(node, _)| node).filter(waited);
        let settled = members.map(|node| self.settled_by(node));
        if trunkline_wire::planted!(StepEarly) {
            return settled.max().unwrap_or(0);
        }
        settled.min().unwrap_or(0)
    }

    fn settled_by(&self, node: NodeId) -> u64 {
        self.online.get(&node).map_or(0, |online| online.settled)
    }

    fn active_moves(&self) -> usize {
        self.state
            .moves
            .values()
            .filter(|moved| moved.stage.is_active() && !moved.is_turn())
            .count()
    }

    /// How many moves are not over.
    pub fn open_moves(&self) -> usize {
        self.state.moves.values().filter(|moved| !moved.stage.is_over()).count()
    }

    /// Whether one more move of devices that are enrolled may begin now.
    pub(super) fn may_move_devices(&self) -> bool {
        !self.enrolling.is_empty() && self.enrolling.len() < MOVE_DEVICES_MAX || self.active_moves() < MOVES_ACTIVE_MAX
    }

    /// The unfinished move that a device is in by itself.
    pub(super) fn move_of_device(&self, key: DeviceKey) -> Option<(u32, Mover)> {
        let mut open = self.state.moves.iter().filter(|(_, moved)| !moved.stage.is_over());
        open.find_map(|(id, moved)| moved.mover(key).map(|mover| (*id, *mover)))
    }

    /// Whether a device is to move with the next batch, since it was just enrolled.
    pub(super) fn is_enrolling(&self, key: DeviceKey) -> bool {
        self.enrolling.iter().any(|mover| mover.key == key)
    }

    /// Whether a region is being removed.
    pub(super) fn is_retiring(&self, region: RegionId) -> bool {
        let mut open = self.state.moves.values().filter(|moved| !moved.stage.is_over());
        open.any(|moved| moved.retire == Some(region))
    }

    fn move_of_slot(&self, slot: u16) -> Option<u32> {
        let mut open = self.state.moves.iter().filter(|(_, moved)| !moved.stage.is_over());
        open.find_map(|(id, moved)| moved.has_slot(slot).then_some(*id))
    }

    /// The region of a device's slot, as the map says it.
    pub(super) fn region_of_slot(&self, key: DeviceKey) -> Option<RegionId> {
        self.state.slots.as_ref().map(|slots| slots[usize::from(key.slot())])
    }

    /// Devices that were enrolled since the last batch, and belong to another region than their slot's, move there together.
    pub(super) fn flush_enrolling(&mut self) {
        let Some(now) = self.enrolling_since.take() else { return };
        let mut devices = std::mem::take(&mut self.enrolling);
        devices.sort_unstable_by_key(|mover| mover.key);
        let plan = Plan {
            devices,
            ..Plan::default()
        };
        let id = self.add_move(now, plan);
        self.begin(now, id);
    }

    pub(super) fn add_move(&mut self, now: Now, plan: Plan) -> u32 {
        let id = self.state.moves.last_key_value().map_or(0, |(id, _)| *id) + 1;
        let Plan {
            slots,
            devices,
            turns,
            retire,
            ..
        } = plan;
        let moved = Move {
            stage: Stage::Pending,
            since: 0,
            slots,
            devices,
            turns,
            retire,
            asked_ms: now.wall_ms,
            stage_ms: now.wall_ms,
        };
        self.change(now.at, Change::Move(id, Some(moved)));
        id
    }

    pub(super) fn enter(&mut self, now: Now, id: u32, stage: Stage) -> Move {
        let mut moved = self.state.moves[&id].clone();
        moved.stage = stage;
        moved.stage_ms = now.wall_ms;
        if stage.is_active() {
            // What changes the map is in the next version, with all that is staged.
            moved.since = self.state.version + 1;
        }
        info!(id, stage = stage.name(), "a move");
        self.change(now.at, Change::Move(id, Some(moved.clone())));
        moved
    }

    pub(super) fn begin(&mut self, now: Now, id: u32) {
        let moved = self.enter(now, id, Stage::Both);
        self.counters.moves_begun += 1;
        for mover in moved.devices.iter().filter(|mover| mover.then != Then::Removed) {
            self.assign_to(now, mover.key, Some(mover.to));
        }
        if trunkline_wire::planted!(SwitchAtOnce) {
            self.step(now, id);
        }
    }

    pub(super) fn step(&mut self, now: Now, id: u32) {
        match self.state.moves[&id].stage {
            Stage::Both if self.state.moves[&id].is_turn() => {
                let moved = self.enter(now, id, Stage::End);
                self.take_turns(now, &moved.turns);
            }
            Stage::Both => {
                let moved = self.enter(now, id, Stage::Switch);
                if let Some(mut slots) = self.state.slots.clone() {
                    for run in &moved.slots {
                        slots[usize::from(run.first)..=usize::from(run.last)].fill(run.to);
                    }
                    self.change(now.at, Change::Slots(Some(slots)));
                }
            }
            Stage::Switch => {
                let moved = self.enter(now, id, Stage::End);
                for mover in moved.devices.iter().filter(|mover| mover.then == Then::Removed) {
                    self.remove_device(now, mover.key);
                }
            }
            Stage::End => {
                let moved = self.enter(now, id, Stage::Done);
                self.counters.moves_done += 1;
                if let Some(region) = moved.retire {
                    self.retire(now, region);
                }
            }
            Stage::Back => drop(self.enter(now, id, Stage::Aborted)),
            // Nobody is waited for.
            Stage::Pending | Stage::Done | Stage::Aborted => {}
        }
    }

    /// Nothing is left in this region: it goes, and its instances serve it no more.
    fn retire(&mut self, now: Now, region: RegionId) {
        warn!(%region, name = self.region_name(region), "a region is removed");
        let nodes: Vec<_> = self
            .state
            .nodes
            .iter()
            .filter(|(_, node)| node.regions.contains(&region))
            .collect();
        let nodes: Vec<_> = nodes.into_iter().map(|(id, node)| (*id, node.clone())).collect();
        for (id, mut node) in nodes {
            node.regions.remove(&region);
            self.change(now.at, Change::Node(id, Some(node)));
            // Else its settings would bring it back when the node joins again.
            self.order_region(now, id, self.region_name(region).to_owned(), false);
        }
        self.devices_by_region.remove(&region);
        self.change(now.at, Change::Region(region, None));
    }

    /// Sets, or takes back, the region of an enrolled device.
    pub(super) fn assign_to(&mut self, now: Now, key: DeviceKey, region: Option<RegionId>) {
        let Some(mut device) = self.state.devices.get(&key).cloned() else {
            return;
        };
        if let Some((before, _)) = device.assigned
            && let Some(count) = self.devices_by_region.get_mut(&before)
        {
            *count = count.saturating_sub(1);
        }
        if let Some(region) = region {
            *self.devices_by_region.entry(region).or_default() += 1;
        }
        device.wanted = device.wanted.and(region);
        device.assigned = region.map(|region| (region, now.wall_ms));
        self.change(now.at, Change::Device(key, Some(device)));
    }

    /// Takes a device's override away.
    pub(super) fn remove_device(&mut self, now: Now, key: DeviceKey) {
        self.assign_to(now, key, None);
        self.pending.retain(|(_, pending)| *pending != key);
        self.change(now.at, Change::Device(key, None));
    }

    /// Moves that have been over for longest are forgotten.
    fn forget_moves(&mut self, now: Now) {
        let over = self.state.moves.iter().filter(|(_, moved)| moved.stage.is_over());
        let over: Vec<u32> = over.map(|(id, _)| *id).collect();
        let surplus = over.len().saturating_sub(MOVES_OVER_KEPT);
        for id in over.into_iter().take(surplus) {
            self.change(now.at, Change::Move(id, None));
        }
    }

    // What operators ask for.

    /// Gives up a move that has not switched yet.
    pub(super) fn abort_move(&mut self, now: Now, id: u32) -> Result<Reply, Refused> {
        let moved = self.find_move(id)?;
        match moved.stage {
            Stage::Pending | Stage::Both => self.give_up(now, id),
            Stage::Switch | Stage::End => {
                return Err(format!(
                    "move {id} has switched already: let it end, then move back what it has moved"
                ));
            }
            Stage::Back => return Err(format!("move {id} is being given up already")),
            Stage::Done | Stage::Aborted => return Err(format!("move {id} is over: {}", moved.stage.name())),
        }
        Ok(Reply::Committed(Answer::Move(id)))
    }

    /// Takes back what a move that has not switched yet has begun.
    pub(super) fn give_up(&mut self, now: Now, id: u32) {
        let moved = self.state.moves[&id].clone();
        match moved.stage {
            Stage::Pending => {
                self.enter(now, id, Stage::Aborted);
                let made = moved.devices.iter().filter(|mover| mover.then == Then::Made);
                made.for_each(|mover| self.remove_device(now, mover.key));
            }
            Stage::Both => {
                self.enter(now, id, Stage::Back);
                for mover in &moved.devices {
                    match mover.then {
                        Then::Made => self.remove_device(now, mover.key),
                        Then::Kept => self.assign_to(now, mover.key, Some(mover.from)),
                        Then::Removed => {}
                    }
                }
                self.order_turns(now, &contrary(&moved.turns));
            }
            Stage::Switch | Stage::End | Stage::Back | Stage::Done | Stage::Aborted => return,
        }
        self.counters.moves_aborted += 1;
    }

    /// A device that is enrolled no longer goes back to the region of its slot.
    pub(super) fn unenroll_moving(&mut self, now: Now, key: DeviceKey, from: RegionId) -> Result<Reply, Refused> {
        let to = self.region_of_slot(key).ok_or("there is no map yet")?;
        if let Some(id) = self.move_of_slot(key.slot()) {
            return Err(format!(
                "the device's slot {} is on its way in move {id}: wait for it",
                key.slot()
            ));
        }
        let then = Then::Removed;
        let plan = Plan {
            devices: vec![Mover { key, from, to, then }],
            ..Plan::default()
        };
        self.undertake(now, plan, false)
    }

    pub(super) fn show_moves(&self, now: Now) -> Value {
        let all = self.state.moves.keys().rev().map(|id| self.move_json(now, *id));
        json!({ "moves": all.collect::<Vec<_>>(), "version": self.version() })
    }

    pub(super) fn show_move(&self, now: Now, id: u32) -> Result<Value, Refused> {
        self.find_move(id)?;
        Ok(self.move_json(now, id))
    }

    fn find_move(&self, id: u32) -> Result<&Move, Refused> {
        let known = self.state.moves.get(&id);
        known.ok_or_else(|| format!("there is no move {id}, or it has been over for long: see `moves`"))
    }

    /// One move, for people and programs.
    pub(super) fn move_json(&self, now: Now, id: u32) -> Value {
        let Some(moved) = self.state.moves.get(&id) else {
            return json!({ "move": id });
        };
        let waiting: Vec<(NodeId, &str)> = if moved.stage.is_active() {
            let members = self
                .state
                .members()
                .filter(|(node, _)| self.settled_by(*node) < moved.since);
            members.map(|(node, record)| (node, record.name.as_str())).collect()
        } else {
            Vec::new()
        };
        let named = waiting.iter().take(NAMED_MAX).map(|&(node, name)| {
            let lease = match (self.leases.of(now.at, node), self.online.contains_key(&node)) {
                (Lease::Lapsed, _) => "lapsed",
                (Lease::Live, false) => "not connected",
                (Lease::Live, true) => "live",
            };
            json!({ "node": node.0, "name": name, "lease": lease })
        });
        let mut value = plan_json(self, &moved.slots, &moved.devices, &moved.turns, moved.retire);
        value["move"] = id.into();
        value["stage"] = moved.stage.name().into();
        value["over"] = moved.stage.is_over().into();
        value["since_version"] = moved.since.into();
        value["members"] = self.state.members().count().into();
        value["waiting"] = waiting.len().into();
        value["waiting_for"] = Value::Array(named.collect());
        value["asked_ms"] = moved.asked_ms.into();
        value["stage_ms"] = moved.stage_ms.into();
        value
    }
}

/// What takes these back.
fn contrary(turns: &[Turn]) -> Vec<Turn> {
    let contrary = turns.iter().map(|turn| Turn {
        way: match turn.way {
            Way::Comes => Way::Goes,
            Way::Goes => Way::Comes,
        },
        ..*turn
    });
    contrary.collect()
}
