//! What the control plane does, held against what its nodes have done: a step of a move waits for every member, and who has left is a
//! member no more.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use trunkline_control::state::moves::{Move, Stage, Way};
use trunkline_core::link::LinkState;
use trunkline_wire::id::NodeId;
use trunkline_wire::time::Instant;

use crate::cluster::{CONTROL, Cluster};
use crate::node::NodeNo;
use crate::promise::{Checked, Promise};
use crate::watch::CALM_AFTER;

/// What was seen before.
#[derive(Debug, Default)]
pub(crate) struct Steward {
    /// The highest version of the map that each node has settled, in any of its processes.
    settled: BTreeMap<NodeNo, u64>,
    /// The stage of each move, and since which version, after control's last turn.
    moves: BTreeMap<u32, (Stage, u64)>,
    /// Members that have left with nothing in the way of their last word, and when.
    leaves: BTreeMap<NodeNo, Instant>,
    /// Until when the way between each of these and control was last cut.
    cut: BTreeMap<IpAddr, Instant>,
}

impl Steward {
    /// Whatever is on its way to control may be lost.
    pub(crate) fn disturbed(&mut self) {
        self.leaves.clear();
    }

    /// The way between a node and control is open again.
    pub(crate) fn healed(&mut self, node: IpAddr, now: Instant) {
        self.cut.insert(node, now);
    }

    /// A node has settled a version, as it is about to say.
    pub(crate) fn settled(&mut self, node: NodeNo, version: u64) {
        let known = self.settled.entry(node).or_default();
        *known = version.max(*known);
    }
}

/// Whether a move comes to `stage` only when all members have settled the stage before it. A node that comes where nobody else could be
/// asked waits for nobody, nobody waits for one that has left, and operators give up a move when they like.
fn waits(moved: &Move, before: Stage) -> bool {
    match (before, moved.stage) {
        (Stage::Both, Stage::End) => moved.turns.iter().all(|turn| turn.way == Way::Goes),
        (Stage::Both, Stage::Switch) | (Stage::Switch, Stage::End) => true,
        (Stage::End, Stage::Done) | (Stage::Back, Stage::Aborted) => !moved.is_turn(),
        _ => false,
    }
}

impl Cluster {
    /// After a turn of control: no move has gone on before all members had settled its last step, and none has skipped one.
    pub(crate) fn check_moves(&mut self) -> Checked {
        let Some(logic) = self.control.as_ref().and_then(|control| control.logic()) else {
            return Ok(());
        };
        let steward = &mut self.watch.steward;
        let moves = &logic.state().moves;
        steward.moves.retain(|id, _| moves.contains_key(id));
        for (id, moved) in moves {
            let (stage, since) = steward
                .moves
                .insert(*id, (moved.stage, moved.since))
                .unwrap_or((Stage::Pending, 0));
            // In one turn, as after a pause, control may also read that a move is wanted and that it is given up.
            let skipped = stage == Stage::Pending && matches!(moved.stage, Stage::Switch | Stage::End | Stage::Done);
            if skipped && !moved.is_turn() {
                let what = format!("move {id} began with the step `{}`", moved.stage.name());
                return Err(self
                    .ledger
                    .violation(self.site.world.now(), Promise::NoBlackout, what, None, &[]));
            }
            if !waits(moved, stage) {
                continue;
            }
            let settled = |id: NodeId| {
                let at = self.nodes.iter().position(|host| host.node == id);
                at.is_none_or(|at| {
                    steward
                        .settled
                        .get(&NodeNo(at))
                        .is_some_and(|settled| *settled >= since)
                })
            };
            if let Some((_, node)) = logic.state().members().find(|(id, _)| !settled(*id)) {
                let what = format!(
                    "move {id} went on to `{}`, and {} has not settled version {since}, which its step before began with",
                    moved.stage.name(),
                    node.name
                );
                return Err(self
                    .ledger
                    .violation(self.site.world.now(), Promise::NoBlackout, what, None, &[]));
            }
        }
        Ok(())
    }

    /// After a turn in which a shard has settled a version: all that this asks is done. It has heard all that it awaits as an instance,
    /// the instances that it can reach use no older version, and they know that it uses this one, and so all that came before.
    pub(crate) fn check_settled(&self, node: NodeNo, shard: usize, version: u64) -> Checked {
        let now = self.now();
        let Some(process) = &self.nodes[node.0].process else {
            return Ok(());
        };
        let shards = &process.shards;
        let router = shards[shard].router();
        let (id, name) = (self.nodes[node.0].node, self.name(node));
        let fail = |what: String| {
            let what = format!("{name} has settled version {version}, and {what}");
            Err(self.ledger.violation(now, Promise::NoBlackout, what, None, &[]))
        };
        if let Some((region, server)) = router.awaited().next() {
            return fail(format!("has yet to hear node {server} of region {region}"));
        }
        let map = router.map();
        let holders: BTreeSet<NodeId> = map.regions().flat_map(|(region, _)| map.holders(region)).collect();
        let is_holder = holders.contains(&id);
        for holder in holders.into_iter().filter(|holder| *holder != id) {
            let Some(other) = self.node_no(holder) else { continue };
            let calm = self.watch.pairs.are_calm(node, other, now, CALM_AFTER);
            let mut links = shards.iter().filter_map(|shard| shard.links().silence(now, holder));
            if !calm || links.next().is_none() {
                continue;
            }
            if is_holder && self.map_version(other) < version {
                return fail(format!("{} is linked and has not", self.name(other)));
            }
            let owns = shards[shard].links().silence(now, holder).is_some();
            let untold = self.shards(other).any(|router| router.announced(id) < version);
            if owns && untold && self.have_one_link(node, other) {
                return fail(format!("{} has not heard that it uses it", self.name(other)));
            }
        }
        Ok(())
    }

    /// Whether what two nodes take for their link is the same one: of two that cross, each may have another for a moment.
    fn have_one_link(&self, node: NodeNo, other: NodeNo) -> bool {
        let dialled = |node: NodeNo, other: NodeNo| {
            let shards = self.nodes[node.0].process.iter().flat_map(|process| &process.shards);
            let mut links = shards.flat_map(|shard| shard.links().status(self.now()));
            let link = links.find(|link| link.node == self.nodes[other.0].node && link.state == LinkState::Up);
            link.map(|link| link.dialled)
        };
        matches!((dialled(node, other), dialled(other, node)), (Some(here), Some(there)) if here != there)
    }

    /// A node is gone in order; `member`: it was one until then.
    pub(crate) fn note_leave(&mut self, node: NodeNo, member: bool) {
        let now = self.now();
        let id = self.nodes[node.0].node;
        let member = member && self.control_logic().is_some_and(|logic| logic.is_online(id));
        // The last instance of a region stays until another one has come, and then for a while.
        if member && self.hears(node) && !self.is_last_instance(node) {
            self.watch.steward.leaves.insert(node, now);
        }
    }

    fn hears(&self, node: NodeNo) -> bool {
        let address = self.nodes[node.0].address;
        let cut = self.cuts.contains(&(address, CONTROL)) || self.cuts.contains(&(CONTROL, address));
        let was_cut = self.watch.steward.cut.get(&address);
        let was_cut = was_cut.is_some_and(|at| self.now().since(*at) <= SESSION_BACK);
        self.control_logic().is_some() && !self.site.world.is_paused(CONTROL) && !cut && !was_cut
    }

    fn is_last_instance(&self, node: NodeNo) -> bool {
        let node = self.nodes[node.0].node;
        let Some(state) = self.control_logic().map(|logic| logic.state()) else {
            return true;
        };
        let mut regions = state.nodes.get(&node).into_iter().flat_map(|record| &record.regions);
        regions.any(|region| state.instances(*region).all(|instance| instance == node))
    }

    /// Who has left is a member no more, unless it is the last instance of a region.
    pub(crate) fn check_leaves(&mut self, now: Instant) -> Checked {
        let leaves = std::mem::take(&mut self.watch.steward.leaves);
        for (node, at) in leaves {
            if self.node_runs(node) || !self.hears(node) || self.is_last_instance(node) {
                continue;
            }
            if now.since(at) <= LEAVE {
                self.watch.steward.leaves.insert(node, at);
                continue;
            }
            let host = &self.nodes[node.0];
            let records = self.control_logic().map(|logic| &logic.state().nodes);
            let record = records.and_then(|records| records.get(&host.node));
            if record.is_some_and(|record| record.member) {
                let name = &host.spec.name;
                let what = format!("{name} has left, and control takes it for a member {LEAVE:?} later");
                return Err(self.ledger.violation(now, Promise::Convergence, what, None, &[]));
            }
        }
        Ok(())
    }
}

/// How long a node's last word to control may take, and what follows from it.
const LEAVE: Duration = Duration::from_secs(3);
/// By when a session with control that a cut has broken is known to be broken, and another one is there.
const SESSION_BACK: Duration = Duration::from_secs(15);
