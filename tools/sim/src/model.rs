//! What every turn of a shard is held against: the sums of its messages, and what its instance knows against the sessions that live.
//!
//! The model is the sessions themselves, at whatever node they are. An instance's record of a device may go up, never down, and may go
//! away only if that session is no more, or if its server has been out of the instance's reach for so long that it counts as gone. An
//! instance that stood still says so to itself in its next turn; and while there is somebody whom it hasn't heard, it neither asks its
//! siblings, as if its word were the last one missing, nor tells them that they needn't wait for it.

use std::collections::BTreeMap;

use trunkline_core::constants::{LEASE, PAUSE_MAX, TOMBSTONE};
use trunkline_core::counters::Counters;
use trunkline_core::router::{Breach, Doubt};
use trunkline_wire::id::{DeviceKey, Epoch, NodeId, RegionId};
use trunkline_wire::map::Map;
use trunkline_wire::time::Instant;

use crate::cluster::Cluster;
use crate::journal::DeviceNo;
use crate::node::{NodeHost, NodeNo};
use crate::promise::{Checked, Promise, Violation};

/// What was seen at the end of earlier turns.
#[derive(Debug, Default)]
pub(crate) struct Model {
    /// By instance, its shard and region, as of its last change: device and epoch, by device.
    known: BTreeMap<(NodeNo, usize, RegionId), Vec<(DeviceKey, Epoch)>>,
    /// The highest epoch that each instance has held of a device, and when it last did.
    stored: BTreeMap<(NodeNo, DeviceKey), (Epoch, Instant)>,
    /// Since when an instance has held what it holds.
    since: BTreeMap<(NodeNo, DeviceKey), Instant>,
    /// By node and shard.
    shards: Vec<Vec<Seen>>,
}

/// What was seen of a shard.
#[derive(Debug, Default)]
struct Seen {
    /// Its last turn.
    turn: Option<Turn>,
    /// What it had counted of registrations when `known` was taken.
    mark: Mark,
    /// The version of the map that it has settled.
    settled: u64,
}

#[derive(Debug)]
struct Turn {
    at: Instant,
    /// Whether it served a region.
    serves: bool,
    /// How many pauses it had noticed.
    pauses: u64,
    /// Why it may not say that a device is nowhere.
    doubt: Option<Doubt>,
    /// How often it has told a sibling that it may.
    sure: u64,
    /// How often it has asked siblings, which it does only if it may.
    asked: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Mark {
    registered: u64,
    unregistered: u64,
    dropped: u64,
    withdrawn: u64,
    maps: u64,
}

impl Mark {
    fn of(counters: &Counters) -> Mark {
        Mark {
            registered: counters.presence_registered,
            unregistered: counters.presence_unregistered,
            dropped: counters.presence_dropped,
            withdrawn: counters.presence_withdrawn,
            maps: counters.maps_applied,
        }
    }
}

impl Model {
    /// A node's process ended: it may forget what is not on its disk.
    pub(crate) fn forget(&mut self, node: NodeNo) {
        self.known.retain(|(of, ..), _| *of != node);
        self.stored.retain(|(of, _), _| *of != node);
        self.since.retain(|(of, _), _| *of != node);
        if let Some(shards) = self.shards.get_mut(node.0) {
            shards.clear();
        }
    }

    fn seen(&mut self, node: NodeNo, shard: usize) -> &mut Seen {
        if node.0 >= self.shards.len() {
            self.shards.resize_with(node.0 + 1, Vec::new);
        }
        let shards = &mut self.shards[node.0];
        if shard >= shards.len() {
            shards.resize_with(shard + 1, Seen::default);
        }
        &mut shards[shard]
    }

    /// Since when `instance` has held what it holds of `device`.
    pub(crate) fn held_since(&self, instance: NodeNo, device: DeviceKey) -> Option<Instant> {
        self.since.get(&(instance, device)).copied()
    }
}

/// A record that changed.
#[derive(Clone, Copy, Debug)]
struct Step {
    device: DeviceKey,
    before: Option<Epoch>,
    after: Option<Epoch>,
}

/// A step, and the highest epoch that its instance knows of the device afterwards.
type Known = (Step, Option<Epoch>);

impl Cluster {
    /// What must hold after a turn of a shard.
    pub(crate) fn check_turn(&mut self, node: NodeNo, shard: usize) -> Checked {
        let Some(process) = &self.nodes[node.0].process else {
            return Ok(());
        };
        let router = process.shards[shard].router();
        if let Err(breach) = router.check_sums() {
            return Err(self.breach(node, breach));
        }
        let now = self.site.world.now();
        let turn = Turn {
            at: now,
            serves: router.map().regions().any(|(region, _)| router.has_presence(region)),
            pauses: router.counters().presence_pauses,
            doubt: router.doubts(),
            sure: router.counters().locates_sure,
            asked: router.counters().locates_sent,
        };
        let (pauses, settled, mark) = (turn.pauses, process.settled_by(shard), Mark::of(router.counters()));
        let seen = self.watch.model.seen(node, shard);
        let last = seen.turn.replace(turn);
        let settled_before = std::mem::replace(&mut seen.settled, settled);
        let before = std::mem::replace(&mut seen.mark, mark);
        // The same doubt before and after: there was no moment without it.
        if let (Some(last), Some(turn)) = (&last, &seen.turn)
            && let Some(doubt) = &turn.doubt
            && last.doubt.as_ref() == Some(doubt)
            && last.sure + last.asked < turn.sure + turn.asked
        {
            let name = &self.nodes[node.0].spec.name;
            let what = format!("{name} speaks as an instance that has heard everybody, and has not: {doubt:?}");
            return Err(self.ledger.violation(now, Promise::NoBlackout, what, None, &[]));
        }
        if let Some(last) = last.filter(|last| last.serves && last.pauses == pauses)
            && now.since(last.at) > PAUSE_MAX
        {
            let name = &self.nodes[node.0].spec.name;
            let what = format!(
                "{name} stood still for {:?}, and does not doubt what it knows",
                now - last.at
            );
            return Err(self.ledger.violation(now, Promise::NoBlackout, what, None, &[]));
        }
        if settled_before < settled {
            self.check_settled(node, shard, settled)?;
        }
        if before == mark {
            return Ok(());
        }
        let Some(process) = &self.nodes[node.0].process else {
            return Ok(());
        };
        let router = process.shards[shard].router();
        let (mut steps, mut known_steps): (Vec<Step>, Vec<Known>) = (Vec::new(), Vec::new());
        let regions: Vec<RegionId> = router.map().regions().map(|(region, _)| region).collect();
        for region in regions {
            let Some(process) = &self.nodes[node.0].process else {
                continue;
            };
            let router = process.shards[shard].router();
            let now = router.presence(region);
            let holds = router.map().holds(region, self.nodes[node.0].node);
            let place = (node, shard, region);
            let Some(after) = now else {
                self.watch.model.known.remove(&place);
                continue;
            };
            let known = self.watch.model.known.entry(place).or_default();
            differences(known, &after, &mut steps);
            *known = after;
            known_steps.extend(
                steps
                    .drain(..)
                    // A device that has moved is forgotten, and lives on elsewhere; so is all that was known by who is no instance any more.
                    .filter(|step| step.after.is_some() || holds && router.map().belongs(step.device, region))
                    .filter(|step| !is_taken_away(&self.nodes, router.map(), step, region))
                    .map(|step| (step, router.presence_highest(region, step.device))),
            );
        }
        let dropped = before.dropped != mark.dropped;
        known_steps
            .into_iter()
            .try_for_each(|(step, highest)| self.check_step(node, step, highest, dropped))
    }

    fn check_step(&mut self, node: NodeNo, step: Step, highest: Option<Epoch>, dropped: bool) -> Checked {
        let now = self.now();
        let Step { device, before, after } = step;
        let model = &mut self.watch.model;
        model.since.insert((node, device), now);
        if let Some(before) = before {
            let stored = model.stored.entry((node, device)).or_insert((before, now));
            *stored = (stored.0.max(before), now);
        }
        if let Some(after) = after {
            let stored = model.stored.get(&(node, device));
            if let Some((highest, at)) = stored.filter(|(highest, _)| *highest > after)
                && now.since(*at) < TOMBSTONE
            {
                let what = format!("{} stores {after} after {highest}", self.nodes[node.0].spec.name);
                return Err(self.of_device(Promise::EpochsNeverGoBack, what, device));
            }
            return Ok(());
        }
        // A newer session may have come and gone within the turn.
        let Some(epoch) = before.filter(|epoch| highest <= Some(*epoch) && self.lives(device, *epoch)) else {
            return Ok(());
        };
        let name = self.nodes[node.0].spec.name.clone();
        if !dropped {
            let what = format!("{name} has removed {epoch}, which lives: another session's end was taken for its");
            return Err(self.of_device(Promise::ExactUnregister, what, device));
        }
        let server = self.node_no(epoch.node);
        if !self.watch.pairs.may_count_as_gone(node, server, now) && !self.has_left(node, server) {
            let what = format!("{name} has dropped {epoch}, which lives at a server within its reach");
            return Err(self.of_device(Promise::ExactUnregister, what, device));
        }
        Ok(())
    }

    /// Whether a server has left in order, and is back without the map of `instance` saying so yet: its sessions are nobody's there
    /// until it streams them.
    pub(crate) fn has_left(&self, instance: NodeNo, server: Option<NodeNo>) -> bool {
        server.is_some_and(|server| self.watch.left.contains(&server) && !self.map_names(instance, server))
    }

    fn map_names(&self, node: NodeNo, other: NodeNo) -> bool {
        let shards = self.nodes[node.0].process.iter().flat_map(|process| &process.shards);
        shards
            .into_iter()
            .all(|shard| shard.router().map().node(self.nodes[other.0].node).is_some())
    }

    /// Who left and is back for long, and is named by all maps, has come back.
    pub(crate) fn note_returns(&mut self, now: Instant) {
        let back = |server: &NodeNo| {
            self.node_runs(*server)
                && self.watch.pairs.node_is_calm(*server, now, LEASE)
                && (0..self.nodes.len()).all(|node| self.map_names(NodeNo(node), *server))
        };
        let back: Vec<NodeNo> = self.watch.left.iter().copied().filter(back).collect();
        for server in back {
            self.watch.left.remove(&server);
        }
    }

    /// Whether that very session is open, at a node that runs.
    pub(crate) fn lives(&self, device: DeviceKey, epoch: Epoch) -> bool {
        let Some(host) = self.node_no(epoch.node).map(|node| &self.nodes[node.0]) else {
            return false;
        };
        let Some(process) = &host.process else { return false };
        let shard = device.shard(host.spec.shards);
        let shard = process.shards.get(usize::from(shard.0));
        shard.is_some_and(|shard| shard.router().session_epoch(device) == Some(epoch))
    }

    pub(crate) fn node_no(&self, node: NodeId) -> Option<NodeNo> {
        let at = self.nodes.iter().position(|host| host.node == node);
        at.map(NodeNo)
    }

    pub(crate) fn breach(&self, node: NodeNo, breach: Breach) -> Box<Violation> {
        let (promise, what) = match breach {
            Breach::Conservation(what) => (Promise::Conservation, what),
            Breach::Fencing(what) => (Promise::OneWinner, what),
            Breach::Bounds(what) => (Promise::Bounds, what),
        };
        let what = format!("{}: {what}", self.nodes[node.0].spec.name);
        self.ledger.violation(self.now(), promise, what, None, &[])
    }

    /// A violation with the history of a device.
    pub(crate) fn of_device(&self, promise: Promise, what: String, device: DeviceKey) -> Box<Violation> {
        let devices: Vec<DeviceNo> = self.device_of(device).into_iter().collect();
        let mut violation = self.ledger.violation(self.now(), promise, what, None, &devices);
        if let Some(device) = devices.first() {
            violation.history.extend(self.explain(*device));
        }
        violation
    }
}

/// Whether the server of a session that is gone from `region` has a newer map than the instance, by which the device has no place there:
/// a move that the instance still goes by was given up, or is over.
fn is_taken_away(nodes: &[NodeHost], map: &Map, step: &Step, region: RegionId) -> bool {
    let (Some(epoch), None) = (step.before, step.after) else {
        return false;
    };
    let Some(host) = nodes.iter().find(|host| host.node == epoch.node) else {
        return false;
    };
    let shard = usize::from(step.device.shard(host.spec.shards).0);
    let shard = host.process.as_ref().and_then(|process| process.shards.get(shard));
    shard.is_some_and(|shard| {
        let newer = shard.router().map();
        newer.id().version > map.id().version && !newer.belongs(step.device, region)
    })
}

/// Where two lists, both by device, differ.
fn differences(before: &[(DeviceKey, Epoch)], after: &[(DeviceKey, Epoch)], steps: &mut Vec<Step>) {
    let (mut a, mut b) = (before.iter().peekable(), after.iter().peekable());
    loop {
        let device = match (a.peek(), b.peek()) {
            (None, None) => return,
            (Some(a), None) => a.0,
            (None, Some(b)) => b.0,
            (Some(a), Some(b)) => a.0.min(b.0),
        };
        let before = a.next_if(|(key, _)| *key == device).map(|(_, epoch)| *epoch);
        let after = b.next_if(|(key, _)| *key == device).map(|(_, epoch)| *epoch);
        if before != after {
            steps.push(Step { device, before, after });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_went_and_changed_is_found() {
        let epoch = |clock| Epoch { clock, node: NodeId(1) };
        let (a, b, c, d) = (DeviceKey(1), DeviceKey(2), DeviceKey(3), DeviceKey(4));
        let mut steps = Vec::new();
        let before = [(a, epoch(1)), (b, epoch(1)), (c, epoch(1))];
        differences(&before, &[(b, epoch(2)), (c, epoch(1)), (d, epoch(1))], &mut steps);
        let said: Vec<_> = steps
            .iter()
            .map(|step| (step.device, step.before.is_some(), step.after.is_some()))
            .collect();
        assert_eq!(said, [(a, true, false), (b, true, true), (d, false, true)]);
    }
}
