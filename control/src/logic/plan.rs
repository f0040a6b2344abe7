//! What is to move, by an operator's wish: worked out and checked whole before anything changes, then undertaken.

use serde_json::{Value, json};
use trunkline_wire::id::RegionId;
use trunkline_wire::map::SLOTS;

use super::moves::{MOVES_OPEN_MAX, NAMED_MAX};
use super::operator::{Answer, Refused, Reply};
use super::{Logic, Now};
use crate::assignment;
use crate::membership::{GRACE, REMOVALS_PERCENT_MAX};
use crate::request::What;
use crate::state::moves::{MOVE_DEVICES_MAX, Mover, RUNS_MAX, Run, Then, Turn, Way, runs};
use crate::state::{Change, Region, Slots};

/// The whole of a share.
pub const SHARE_WHOLE: u32 = 10_000;

/// What is to move, before it is one.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) slots: Vec<Run>,
    pub(super) devices: Vec<Mover>,
    pub(super) turns: Vec<Turn>,
    pub(super) retire: Option<RegionId>,
    /// How many nodes it makes instances no longer.
    pub(super) gone: usize,
    /// However many these are.
    pub(super) forced: bool,
}

impl Logic {
    /// Moves a device, slots, or a share of a region's slots.
    pub(super) fn move_what(&mut self, now: Now, what: &What, to: &str, dry_run: bool) -> Result<Reply, Refused> {
        let target = self.region_to_move_to(to)?;
        let plan = match what {
            What::Device(device) => self.plan_device(device, target)?,
            What::Slots { first, last } => self.plan_slots(*first, *last, target)?,
            What::Share { from, share } => self.plan_share(from, *share, target)?,
        };
        self.undertake(now, plan, dry_run)
    }

    /// Spreads the slots anew by weight.
    pub(super) fn rebalance(&mut self, now: Now, dry_run: bool) -> Result<Reply, Refused> {
        let before = self.slots_to_move()?.clone();
        if let Some(id) = self
            .state
            .moves
            .iter()
            .find(|(_, moved)| !moved.stage.is_over() && !moved.slots.is_empty())
        {
            let id = id.0;
            return Err(format!(
                "move {id} has slots on their way: wait for it (`moves`), or abort it"
            ));
        }
        let Some(after) = assignment::spread(Some(&before), &self.weights()) else {
            return Err("no region with an instance has a weight above 0: set one with `region`".into());
        };
        let slots = runs(&before, &after);
        if slots.is_empty() {
            return Ok(Reply::Committed(Answer::Done(json!({ "moved": 0, "move": null }))));
        }
        let plan = Plan {
            slots,
            ..Plan::default()
        };
        self.undertake(now, plan, dry_run)
    }

    /// Moves all that a region has to the others, then removes it.
    pub(super) fn remove_region(
        &mut self,
        now: Now,
        name: &str,
        forced: bool,
        dry_run: bool,
    ) -> Result<Reply, Refused> {
        let region = self.state.region_named(name).ok_or_else(|| self.unknown_region(name))?;
        let before = self.slots_to_move()?.clone();
        let mut weights = self.weights();
        weights.remove(&region);
        let Some(after) = assignment::spread(Some(&before), &weights) else {
            return Err(format!(
                "the region `{name}` is the last one with an instance and a weight: another has to take what it has"
            ));
        };
        // Only what leaves this region moves; how the others share theirs is a rebalance's affair.
        let slots = if before.contains(&region) {
            runs(&before, &without(&before, &after, region))
        } else {
            Vec::new()
        };
        let waiting = self.pending.iter().any(|(_, key)| {
            let device = self.state.devices.get(key);
            device.is_some_and(|device| device.wanted == Some(region))
        });
        if waiting {
            return Err(format!(
                "a device is being enrolled in the region `{name}`: try again in a moment"
            ));
        }
        let mut counts = self.devices_by_region.clone();
        let mut devices = Vec::new();
        for (key, device) in &self.state.devices {
            if device.assigned.is_none_or(|(assigned, _)| assigned != region) {
                continue;
            }
            let to = assignment::choose(&weights, &counts).expect("there are weights");
            *counts.entry(to).or_default() += 1;
            devices.push(Mover {
                key: *key,
                from: region,
                to,
                then: Then::Kept,
            });
        }
        let plan = Plan {
            slots,
            devices,
            retire: Some(region),
            gone: self.state.instances(region).count(),
            forced,
            ..Plan::default()
        };
        self.undertake(now, plan, dry_run)
    }

    /// Checks the whole of it, then begins it.
    pub(super) fn undertake(&mut self, now: Now, plan: Plan, dry_run: bool) -> Result<Reply, Refused> {
        self.check(&plan)?;
        self.check_share_gone(now, &plan)?;
        if dry_run {
            let mut value = plan_json(self, &plan.slots, &plan.devices, &plan.turns, plan.retire);
            value["dry_run"] = true.into();
            value["moved"] = value["slots"].clone();
            return Ok(Reply::Now(value));
        }
        if let Some(region) = plan.retire {
            // Nothing new is to come to it meanwhile.
            let name = self.region_name(region).to_owned();
            self.change(now.at, Change::Region(region, Some(Region { name, weight: 0 })));
        }
        let come = plan.turns.iter().filter(|turn| turn.way == Way::Comes).count();
        self.instances_removed.take_back(come);
        self.instances_removed.count(now.at, plan.gone);
        self.order_turns(now, &plan.turns);
        let id = self.add_move(now, plan);
        self.advance_moves(now);
        Ok(Reply::Committed(Answer::Move(id)))
    }

    fn check(&self, plan: &Plan) -> Result<(), Refused> {
        if plan.slots.is_empty() && plan.devices.is_empty() && plan.turns.is_empty() && plan.retire.is_none() {
            return Err("there is nothing to move".into());
        }
        if self.open_moves() >= MOVES_OPEN_MAX {
            return Err(format!(
                "{MOVES_OPEN_MAX} moves are not over yet, and more are not taken: wait for some, or abort them"
            ));
        }
        if plan.slots.len() > RUNS_MAX || plan.devices.len() > MOVE_DEVICES_MAX {
            return Err(format!(
                "this moves {} devices with an override, and {MOVE_DEVICES_MAX} are the most at once: move some first",
                plan.devices.len()
            ));
        }
        for (id, other) in self.state.moves.iter().filter(|(_, moved)| !moved.stage.is_over()) {
            let retired = |region: RegionId| other.retire == Some(region) || plan.retire == Some(region);
            let comes_or_goes = |turn: &Turn| plan.retire == Some(turn.region);
            let touched = plan.pairs().chain(other.pairs()).flat_map(|(from, to)| [from, to]);
            let clash = if let Some(slot) = overlap(&plan.slots, &other.slots) {
                format!("slot {slot} is")
            } else if plan.devices.iter().any(|mover| other.mover(mover.key).is_some()) {
                "the device, or one of them, is".to_owned()
            } else if returns_to(&other.devices, &plan.slots) || returns_to(&plan.devices, &other.slots) {
                "a device that goes back to one of these slots is".to_owned()
            } else if plan.retire.is_some()
                && (touched.into_iter().any(retired) || other.turns.iter().any(comes_or_goes))
                || other
                    .retire
                    .is_some_and(|region| plan.pairs().any(|(from, to)| from == region || to == region))
            {
                "a region that is being removed is".to_owned()
            } else {
                continue;
            };
            return Err(format!(
                "{clash} on the way in move {id} already: wait for it (`moves`), or abort it"
            ));
        }
        Ok(())
    }

    /// An operator who takes many instances away within a short time may not mean it.
    fn check_share_gone(&mut self, now: Now, plan: &Plan) -> Result<(), Refused> {
        let serving = self.state.members().filter(|(_, node)| !node.regions.is_empty());
        let present = serving.count();
        if plan.forced || !self.instances_removed.exceeds(now.at, plan.gone, present) {
            return Ok(());
        }
        Err(format!(
            "this makes {} of {present} nodes instances no longer, and more than {REMOVALS_PERCENT_MAX} % would have gone within {} s: wait, or \
             use --force",
            plan.gone,
            GRACE.as_secs()
        ))
    }

    fn plan_device(&self, device: &str, to: RegionId) -> Result<Plan, Refused> {
        let key = self.key_of(device)?;
        let by_slot = self.slots_to_move()?[usize::from(key.slot())];
        let Some(known) = self.state.devices.get(&key) else {
            let (by_slot, to) = (self.region_name(by_slot), self.region_name(to));
            return Err(format!(
                "the device `{device}` is not enrolled, and goes with its slot {}, which is in region `{by_slot}`: see that the id is right, \
                 then `enroll {device} --region {to}`",
                key.slot()
            ));
        };
        if let Some((id, _)) = self.move_of_device(key) {
            return Err(format!(
                "the device `{device}` is on its way in move {id} already: wait for it, or abort it"
            ));
        }
        if self.is_enrolling(key) || self.pending.iter().any(|(_, pending)| *pending == key) {
            return Err(format!(
                "the device `{device}` is being enrolled: try again in a moment"
            ));
        }
        let from = known.assigned.map_or(by_slot, |(region, _)| region);
        if from == to {
            return Err(format!(
                "the device `{device}` is in the region `{}` already",
                self.region_name(to)
            ));
        }
        let then = Then::Kept;
        Ok(Plan {
            devices: vec![Mover { key, from, to, then }],
            ..Plan::default()
        })
    }

    fn plan_slots(&self, first: u16, last: u16, to: RegionId) -> Result<Plan, Refused> {
        if first > last {
            return Err(format!("the slots {first}-{last} are none: give the lower one first"));
        }
        let before = self.slots_to_move()?;
        let mut after = before.clone();
        after[usize::from(first)..=usize::from(last)].fill(to);
        let slots = runs(before, &after);
        if slots.is_empty() {
            let to = self.region_name(to);
            return Err(format!("the slots {first}-{last} are in the region `{to}` already"));
        }
        Ok(Plan {
            slots,
            ..Plan::default()
        })
    }

    /// A share of a region's slots: its highest ones, as a rebalance takes them.
    fn plan_share(&self, from: &str, share: u32, to: RegionId) -> Result<Plan, Refused> {
        let source = self.state.region_named(from).ok_or_else(|| self.unknown_region(from))?;
        if source == to {
            return Err(format!("the region `{from}` can't move to itself"));
        }
        if share == 0 || share > SHARE_WHOLE {
            return Err("a share is above 0 % and at most 100 %".into());
        }
        let before = self.slots_to_move()?;
        let has = before.iter().filter(|region| **region == source).count();
        let count = (has as u64 * u64::from(share) / u64::from(SHARE_WHOLE)) as usize;
        if count == 0 {
            return Err(format!(
                "this share of the region `{from}`, which has {has} of {SLOTS} slots, is none"
            ));
        }
        let mut after = before.clone();
        after
            .iter_mut()
            .rev()
            .filter(|region| **region == source)
            .take(count)
            .for_each(|region| *region = to);
        Ok(Plan {
            slots: runs(before, &after),
            ..Plan::default()
        })
    }

    fn slots_to_move(&self) -> Result<&Slots, Refused> {
        let none = || "the slots are not assigned yet: the first regions have to join".into();
        self.state.slots.as_ref().ok_or_else(none)
    }

    fn region_to_move_to(&self, name: &str) -> Result<RegionId, Refused> {
        let region = self.state.region_named(name).ok_or_else(|| self.unknown_region(name))?;
        if self.state.instances(region).next().is_none() {
            return Err(format!(
                "the region `{name}` has no instance: start one first, or choose another region"
            ));
        }
        Ok(region)
    }
}

impl Plan {
    /// Of nodes that come to regions or go.
    pub(super) fn of_turns(turns: Vec<Turn>) -> Plan {
        Plan {
            turns,
            ..Plan::default()
        }
    }

    fn pairs(&self) -> impl Iterator<Item = (RegionId, RegionId)> {
        let slots = self.slots.iter().map(|run| (run.from, run.to));
        slots.chain(self.devices.iter().map(|mover| (mover.from, mover.to)))
    }
}

/// The first slot that is in both.
fn overlap(a: &[Run], b: &[Run]) -> Option<u16> {
    let (mut left, mut right) = (a.iter().peekable(), b.iter().peekable());
    while let (Some(one), Some(other)) = (left.peek(), right.peek()) {
        if one.first.max(other.first) <= one.last.min(other.last) {
            return Some(one.first.max(other.first));
        }
        if one.last < other.last {
            left.next();
        } else {
            right.next();
        }
    }
    None
}

/// Whether a device goes back to one of these slots.
fn returns_to(devices: &[Mover], slots: &[Run]) -> bool {
    let returning = devices.iter().filter(|mover| mover.then == Then::Removed);
    let mut slot = returning.map(|mover| mover.key.slot());
    slot.any(|slot| slots.iter().any(|run| run.first <= slot && slot <= run.last))
}

/// `before`, but for the slots of `region`, which go where `after` has more than before.
fn without(before: &Slots, after: &Slots, region: RegionId) -> Slots {
    let (had, has) = (assignment::counts(before), assignment::counts(after));
    let more = has
        .iter()
        .map(|(to, count)| (*to, count.saturating_sub(had.get(to).copied().unwrap_or(0))));
    let mut takers: Vec<RegionId> = more.flat_map(|(to, count)| std::iter::repeat_n(to, count)).collect();
    let mut slots = before.clone();
    let spare = *has.keys().next().expect("some region has slots");
    for slot in slots.iter_mut().rev().filter(|slot| **slot == region) {
        *slot = takers.pop().unwrap_or(spare);
    }
    slots
}

/// A plan, or a move, for people and programs.
pub(super) fn plan_json(
    logic: &Logic,
    slots: &[Run],
    devices: &[Mover],
    turns: &[Turn],
    retire: Option<RegionId>,
) -> Value {
    let mut pairs: std::collections::BTreeMap<(RegionId, RegionId), (usize, usize)> = Default::default();
    for run in slots {
        pairs.entry((run.from, run.to)).or_default().0 += usize::from(run.last - run.first) + 1;
    }
    for mover in devices {
        pairs.entry((mover.from, mover.to)).or_default().1 += 1;
    }
    let named = pairs.iter().take(NAMED_MAX).map(|((from, to), (slots, devices))| {
        let (from, to) = (logic.region_name(*from), logic.region_name(*to));
        json!({ "from": from, "to": to, "slots": slots, "devices": devices })
    });
    let turns = turns.iter().map(|turn| {
        let node = logic.state.nodes.get(&turn.node);
        json!({
            "node": turn.node.0,
            "name": node.map_or("?", |node| &node.name),
            "region": logic.region_name(turn.region),
            "way": match turn.way {
                Way::Comes => "comes",
                Way::Goes => "goes",
            },
        })
    });
    let all: usize = pairs.values().map(|(slots, _)| slots).sum();
    json!({
        "slots": all,
        "devices": devices.len(),
        "pairs": named.collect::<Vec<_>>(),
        "pairs_left_out": pairs.len().saturating_sub(NAMED_MAX),
        "instances": turns.collect::<Vec<_>>(),
        "removes_region": retire.map(|region| logic.region_name(region)),
    })
}
