//! Nodes that become instances of a region, and that no longer are any: moves of their own, with the steps of the others but one.
//!
//! ```text
//! comes    both   a standby: told of every session, not asked     then all members have settled it
//!          end    an instance                                     then all members have settled it: over
//! goes     both   a standby: told, and nobody asks it any more    then all members have settled it
//!          end    nothing                                         then all members have settled it: over
//! ```
//!
//! A node whose settings name a region comes to it when it joins; operators ask for either. A region without an instance to ask doesn't
//! wait for others: its first node is its instance at once, and so is the next one, if all before it are silent. What an instance
//! hasn't heard it says is to be tried again, so that coming early costs a wait and never a wrong word. Who is on the way out stays, if
//! nobody else is left to be asked.

use std::collections::BTreeSet;

use tracing::{info, warn};
use trunkline_wire::control::REGIONS_PER_NODE_MAX;
use trunkline_wire::id::{NodeId, RegionId};
use trunkline_wire::map::INSTANCES_MAX;

use super::moves::MOVES_OPEN_MAX;
use super::operator::{Refused, Reply};
use super::plan::Plan;
use super::{Logic, Now};
use crate::membership::Lease;
use crate::request::NodeRef;
use crate::state::moves::{Move, Stage, Turn, Way};
use crate::state::orders::{Orders, REGIONS_ORDERED_MAX};
use crate::state::{Change, Node};

impl Logic {
    /// Those of the regions that a joining node is to serve in which it is an instance at once; to the others it comes.
    pub(super) fn regions_at_once(&self, node: NodeId, regions: &BTreeSet<RegionId>) -> BTreeSet<RegionId> {
        let before = self.state.nodes.get(&node).filter(|known| known.member);
        let at_once = |region: &&RegionId| {
            let serves = before.is_some_and(|known| known.regions.contains(region));
            let comes = self.is_coming(node, **region);
            let asked = self
                .state
                .instances(**region)
                .any(|instance| self.online.contains_key(&instance));
            let none_to_wait_for = self.state.slots.is_none() || !asked || self.open_moves() >= MOVES_OPEN_MAX;
            serves || !comes && none_to_wait_for
        };
        regions.iter().filter(at_once).copied().collect()
    }

    /// A node has joined, and comes to those of its regions in which it is no instance yet.
    pub(super) fn let_come(&mut self, now: Now, node: NodeId, regions: &BTreeSet<RegionId>) {
        let serves = &self.state.nodes[&node].regions;
        let turns = regions
            .iter()
            .filter(|region| !serves.contains(region) && !self.is_coming(node, **region))
            .map(|&region| Turn {
                node,
                region,
                way: Way::Comes,
            });
        let turns: Vec<Turn> = turns.collect();
        if !turns.is_empty() {
            let id = self.add_move(now, Plan::of_turns(turns));
            self.begin(now, id);
        }
    }

    /// The open move in which a node comes to a region, or goes from it.
    fn turn_of(&self, node: NodeId, region: RegionId) -> Option<(u32, Way)> {
        let mut open = self.state.moves.iter().filter(|(_, moved)| !moved.stage.is_over());
        open.find_map(|(id, moved)| {
            let mut turns = moved.turns.iter();
            let turn = turns.find(|turn| turn.node == node && turn.region == region)?;
            Some((*id, turn.way))
        })
    }

    /// Whether a node is on its way to a region. One that had come, and left before everybody knew, isn't any more.
    fn is_coming(&self, node: NodeId, region: RegionId) -> bool {
        let turn = self.turn_of(node, region);
        turn.is_some_and(|(id, _)| self.state.moves[&id].stage != Stage::End)
    }

    /// Whether a node's coming waits for nobody: nobody else could be asked.
    pub(super) fn is_urgent(&self, now: Now, moved: &Move) -> bool {
        moved.stage == Stage::Both
            && moved.turns.iter().any(|turn| {
                let mut instances = self.state.instances(turn.region);
                turn.way == Way::Comes && instances.all(|node| self.is_silent(now, node))
            })
    }

    /// Not connected, and its lease has lapsed.
    fn is_silent(&self, now: Now, node: NodeId) -> bool {
        !self.online.contains_key(&node) && self.leases.of(now.at, node) == Lease::Lapsed
    }

    /// Everybody has settled the first step: the node is an instance now, or none.
    pub(super) fn take_turns(&mut self, now: Now, turns: &[Turn]) {
        for &Turn { node, region, way } in turns {
            // It may have left, and the region may be gone.
            let Some(mut record) = self.state.nodes.get(&node).cloned() else {
                continue;
            };
            let changed = match way {
                Way::Comes => {
                    record.member && self.state.regions.contains_key(&region) && record.regions.insert(region)
                }
                Way::Goes => record.regions.remove(&region),
            };
            if changed {
                self.change(now.at, Change::Node(node, Some(record)));
            }
        }
    }

    /// The last instance of a region goes without a word: whoever comes to it is its instance at once.
    pub(super) fn hurry(&mut self, now: Now, region: RegionId, gone: NodeId) {
        let comes = |moved: &Move| {
            let mut turns = moved.turns.iter();
            moved.stage == Stage::Both
                && turns.any(|turn| turn.region == region && turn.way == Way::Comes && turn.node != gone)
        };
        let found = self.state.moves.iter().find(|(_, moved)| comes(moved));
        if let Some(id) = found.map(|(id, _)| *id) {
            self.step(now, id);
        }
    }

    /// Who is on the way out of a region stays there, if nobody else is left to be asked: since it began to go, the others have left, or
    /// are silent. As a standby it was told of everything.
    pub(super) fn call_back(&mut self, now: Now) {
        if trunkline_wire::planted!(LastGoes) {
            return;
        }
        let is_last = |turn: &Turn| {
            let Turn { node, region, way } = *turn;
            let mut others = self.asked_without(node, region);
            way == Way::Goes && others.all(|other| self.is_silent(now, other)) && self.is_needed(region)
        };
        let needed =
            |moved: &Move| matches!(moved.stage, Stage::Pending | Stage::Both) && moved.turns.iter().any(is_last);
        let moves = self.state.moves.iter().filter(|(_, moved)| needed(moved));
        let moves: Vec<u32> = moves.map(|(id, _)| *id).collect();
        for id in moves {
            warn!(id, "the last instance of a region would have gone: it stays");
            self.give_up(now, id);
        }
    }

    /// Those that are asked for a region's devices, and stay, if `node` goes.
    fn asked_without(&self, node: NodeId, region: RegionId) -> impl Iterator<Item = NodeId> {
        let goes = move |other: NodeId| self.turn_of(other, region).is_some_and(|(_, way)| way == Way::Goes);
        let others = self.state.instances(region);
        others.filter(move |&other| other != node && !goes(other))
    }

    /// Whether anything is in a region, or on its way there or from there.
    fn is_needed(&self, region: RegionId) -> bool {
        let (slots, devices) = self.held_by(region);
        let mut open = self.state.moves.values().filter(|moved| !moved.stage.is_over());
        let takes = open.any(|moved| moved.pairs().iter().any(|(from, to)| *from == region || *to == region));
        slots > 0 || devices > 0 || takes
    }

    /// Slots and devices of a region's own.
    fn held_by(&self, region: RegionId) -> (usize, usize) {
        let slots = self.state.slots.as_ref();
        let slots = slots.map_or(0, |slots| slots.iter().filter(|of| **of == region).count());
        let devices = self.state.devices.values();
        let devices = devices.filter(|device| device.assigned.map(|(of, _)| of).or(device.wanted) == Some(region));
        (slots, devices.count())
    }

    /// A node is a member no more: its turns are over with it.
    pub(super) fn end_turns(&mut self, now: Now, node: NodeId) {
        let of_node = |moved: &Move| !moved.stage.is_over() && moved.turns.iter().any(|turn| turn.node == node);
        let open = self.state.moves.iter().filter(|(_, moved)| of_node(moved));
        let open: Vec<u32> = open.map(|(id, _)| *id).collect();
        for id in open {
            let comes = self.state.moves[&id].turns.iter().any(|turn| turn.way == Way::Comes);
            let stage = match self.state.moves[&id].stage {
                Stage::Both | Stage::Pending if comes => Stage::Aborted,
                Stage::Pending | Stage::Both | Stage::Switch | Stage::End => Stage::Done,
                Stage::Back | Stage::Done | Stage::Aborted => Stage::Aborted,
            };
            self.enter(now, id, stage);
        }
    }

    // What operators ask for.

    /// Makes a node an instance of a region.
    pub(super) fn add_instance(
        &mut self,
        now: Now,
        node: &NodeRef,
        name: &str,
        dry_run: bool,
    ) -> Result<Reply, Refused> {
        let (id, record) = self.member(node)?;
        let region = self.state.region_named(name).ok_or_else(|| self.unknown_region(name))?;
        let who = format!("node {id} `{}`", record.name);
        if !record.roles.region {
            return Err(format!("{who} has no role `region`: set it, and start the node anew"));
        }
        if record.regions.contains(&region) || self.turn_of(id, region).is_some_and(|(_, way)| way == Way::Comes) {
            return Err(format!(
                "{who} is an instance of the region `{name}` already, or becomes one"
            ));
        }
        if !self.online.contains_key(&id) {
            return Err(format!("{who} is not connected to the control plane: start it first"));
        }
        if self.holders(region) >= INSTANCES_MAX {
            return Err(format!(
                "the region `{name}` has {INSTANCES_MAX} instances, and more are not possible"
            ));
        }
        if record.regions.len() >= REGIONS_PER_NODE_MAX {
            return Err(format!(
                "{who} serves {REGIONS_PER_NODE_MAX} regions, and more are not possible"
            ));
        }
        let turn = Turn {
            node: id,
            region,
            way: Way::Comes,
        };
        self.undertake_turns(now, Plan::of_turns(vec![turn]), dry_run)
    }

    /// Makes a node an instance no longer: of a region, or of all.
    pub(super) fn remove_instance(
        &mut self,
        now: Now,
        node: &NodeRef,
        name: Option<&str>,
        forced: bool,
        dry_run: bool,
    ) -> Result<Reply, Refused> {
        let (id, record) = self.member(node)?;
        let who = format!("node {id} `{}`", record.name);
        let regions: Vec<RegionId> = match name {
            None => record.regions.iter().copied().collect(),
            Some(name) => {
                let region = self.state.region_named(name).ok_or_else(|| self.unknown_region(name))?;
                record.regions.get(&region).copied().into_iter().collect()
            }
        };
        if regions.is_empty() {
            let what = name.map_or("any region".to_owned(), |name| format!("the region `{name}`"));
            return Err(format!("{who} is no instance of {what}: see `status`"));
        }
        for region in &regions {
            self.check_spared(now, id, *region)?;
        }
        let turns = regions.into_iter().map(|region| Turn {
            node: id,
            region,
            way: Way::Goes,
        });
        let plan = Plan {
            gone: 1,
            forced,
            ..Plan::of_turns(turns.collect())
        };
        self.undertake_turns(now, plan, dry_run)
    }

    fn member(&self, node: &NodeRef) -> Result<(NodeId, Node), Refused> {
        let id = self.find_node(node)?;
        let record = self.state.nodes[&id].clone();
        if !record.member {
            return Err(format!("node {id} `{}` is no member: start it first", record.name));
        }
        Ok((id, record))
    }

    /// Whether a region can do without one of its instances: another lives and stays, or nothing is in the region.
    fn check_spared(&self, now: Now, node: NodeId, region: RegionId) -> Result<(), Refused> {
        let lives = |other: NodeId| self.leases.of(now.at, other) == Lease::Live;
        if self.asked_without(node, region).any(lives) || !self.is_needed(region) {
            return Ok(());
        }
        let (slots, devices) = self.held_by(region);
        let name = self.region_name(region);
        Err(format!(
            "node {node} is the last instance of the region `{name}` that lives and stays, and the region has {slots} slots and {devices} \
             devices of its own: start another instance first, or use remove-region"
        ))
    }

    fn undertake_turns(&mut self, now: Now, plan: Plan, dry_run: bool) -> Result<Reply, Refused> {
        for turn in &plan.turns {
            if let Some((id, _)) = self.turn_of(turn.node, turn.region) {
                let region = self.region_name(turn.region);
                return Err(format!(
                    "node {} is on its way to or from the region `{region}` in move {id} already: wait for it (`moves`), or abort it",
                    turn.node
                ));
            }
            if self.is_retiring(turn.region) {
                let region = self.region_name(turn.region);
                return Err(format!("the region `{region}` is being removed"));
            }
            let known = self.state.orders.get(&turn.node);
            if known.is_some_and(|orders| orders.regions.len() >= REGIONS_ORDERED_MAX) {
                return Err(format!(
                    "node {} was added to and removed from {REGIONS_ORDERED_MAX} regions by hand: change its settings instead",
                    turn.node
                ));
            }
        }
        self.undertake(now, plan, dry_run)
    }

    /// An operator's word stands over the node's settings. It is taken back by the contrary one.
    pub(super) fn order_turns(&mut self, now: Now, turns: &[Turn]) {
        for turn in turns {
            let name = self.region_name(turn.region).to_owned();
            self.order_region(now, turn.node, name, turn.way == Way::Comes);
        }
    }

    pub(super) fn order_region(&mut self, now: Now, node: NodeId, name: String, serves: bool) {
        let mut orders = self.state.orders.get(&node).cloned().unwrap_or_default();
        info!(%node, region = name, serves, "an operator's word stands for this");
        orders.regions.insert(name, serves);
        self.set_orders(now, node, orders);
    }

    pub(super) fn set_orders(&mut self, now: Now, node: NodeId, orders: Orders) {
        if self.state.orders.get(&node).cloned().unwrap_or_default() != orders {
            let orders = Some(orders).filter(|orders| !orders.is_empty());
            self.change(now.at, Change::Orders(node, orders));
        }
    }

    /// The regions that a joining node is to serve: those that its settings name, but for what an operator has said.
    pub(super) fn regions_ordered(&self, node: NodeId, named: &BTreeSet<&str>) -> (BTreeSet<String>, Orders) {
        let mut orders = self.state.orders.get(&node).cloned().unwrap_or_default();
        let named = named.iter().map(|name| (*name).to_owned()).collect();
        let mut names = orders.settle(&named);
        names.retain(|name| {
            let region = self.state.region_named(name);
            let serves = |region| {
                self.state
                    .nodes
                    .get(&node)
                    .is_some_and(|known| known.regions.contains(&region))
            };
            match region {
                // Nobody comes to a region that goes.
                Some(region) if self.is_retiring(region) => serves(region),
                Some(_) => true,
                // An operator added it to a region that is no more.
                None => named.contains(name),
            }
        });
        if names.is_empty() && !named.is_empty() {
            warn!(%node, "serves no region, as an operator has said");
        }
        (names, orders)
    }

    /// Instances, and those that become some.
    pub(super) fn holders(&self, region: RegionId) -> usize {
        let holders: BTreeSet<NodeId> = self
            .state
            .instances(region)
            .chain(self.state.arriving(region))
            .collect();
        holders.len()
    }
}
