//! A move: slots and devices on their way from one region to another, or a node that becomes an instance of a region, or no longer is one.
//!
//! ```text
//! Pending ─▶ Both ─▶ Switch ─▶ End ─▶ Done
//!    │         │└──────────────────▲     a node's turn skips `Switch`
//!    │         └───▶ Back ─▶ Aborted
//!    └──────────────────────────▲
//! ```
//!
//! What the map says of it follows from its stage alone ([`Move::show`]): in `Both` its devices are found by their old region and
//! registered at the new one as well, in `Switch` the other way round. A node
//! that comes or goes is a standby in `Both`: told of every session, and not asked. When it goes on is decided in `logic::moves`.

use trunkline_wire::codec::{DecodeError, Field, Reader};
use trunkline_wire::control::REGIONS_PER_NODE_MAX;
use trunkline_wire::id::{DeviceKey, NodeId, RegionId};
use trunkline_wire::map::Contents;

use super::encoding::Value;

/// The most runs of slots in one move: every other slot of all.
pub const RUNS_MAX: usize = 32_768;
/// The most devices in one move: a record of half a megabyte.
pub const MOVE_DEVICES_MAX: usize = 16_384;

/// A move of an operator's, or of a device that is enrolled, or no longer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// How far it is.
    pub stage: Stage,
    /// The version of the map that its stage began with; 0 while it has changed none.
    pub since: u64,
    /// Slots, in runs that ascend and don't overlap.
    pub slots: Vec<Run>,
    /// Devices with an override of their own, by ascending key.
    pub devices: Vec<Mover>,
    /// Regions that a node comes to, or goes from. A move has either these or the others.
    pub turns: Vec<Turn>,
    /// A region that is removed when all that it had has moved.
    pub retire: Option<RegionId>,
    /// When it was asked for, in milliseconds since the Unix epoch.
    pub asked_ms: u64,
    /// When its stage began.
    pub stage_ms: u64,
}

/// How far a move is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Others come first.
    Pending,
    /// Registered at both regions, found by the old one.
    Both,
    /// Registered at both regions, found by the new one.
    Switch,
    /// The new region's alone.
    End,
    /// Given up in `Both`: the old region's alone.
    Back,
    /// Over.
    Done,
    /// Over, and nothing has moved.
    Aborted,
}

/// Neighbouring slots that move together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first.
    pub first: u16,
    /// The last; not below the first.
    pub last: u16,
    /// Their region.
    pub from: RegionId,
    /// The one that they move to; another.
    pub to: RegionId,
}

/// A device that moves by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mover {
    /// Which.
    pub key: DeviceKey,
    /// Its region: its override's, or its slot's.
    pub from: RegionId,
    /// The one that it moves to; another.
    pub to: RegionId,
    /// What becomes of its override.
    pub then: Then,
}

/// A node that becomes an instance of a region, or no longer is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Which; the same in all turns of a move.
    pub node: NodeId,
    /// The region.
    pub region: RegionId,
    /// Whether it comes or goes.
    pub way: Way,
}

/// Whether a node comes to a region or goes from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// It is no instance before.
    Comes,
    /// It is none after.
    Goes,
}

/// What becomes of a moving device's override in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// It stays. If the move is given up, it is removed: there was none.
    Made,
    /// It stays, and stays as it was if the move is given up.
    Kept,
    /// It is removed: the device goes back to the region of its slot.
    Removed,
}

impl Stage {
    /// For people and programs.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Pending => "pending",
            Stage::Both => "both",
            Stage::Switch => "switch",
            Stage::End => "end",
            Stage::Back => "back",
            Stage::Done => "done",
            Stage::Aborted => "aborted",
        }
    }

    /// Whether nothing follows.
    pub fn is_over(self) -> bool {
        matches!(self, Stage::Done | Stage::Aborted)
    }

    /// Whether nodes are waited for.
    pub fn is_active(self) -> bool {
        match self {
            Stage::Both | Stage::Switch | Stage::End | Stage::Back => true,
            Stage::Pending | Stage::Done | Stage::Aborted => false,
        }
    }

    fn shows(self) -> bool {
        matches!(self, Stage::Both | Stage::Switch)
    }
}

impl Move {
    /// Whether the map says something of it, and not the same as `other`.
    pub(super) fn differs(one: Option<&Move>, other: Option<&Move>) -> bool {
        let shown = |of: Option<&Move>| of.filter(|of| of.stage.shows()).cloned();
        match (shown(one), shown(other)) {
            (None, None) => false,
            (Some(one), Some(other)) => {
                (one.stage, &one.slots, &one.devices, &one.turns)
                    != (other.stage, &other.slots, &other.devices, &other.turns)
            }
            (Some(_), None) | (None, Some(_)) => true,
        }
    }

    /// Writes into the map's contents what is to be said of it beside the state's own slots and devices.
    pub(super) fn show(&self, contents: &mut Contents) {
        let switched = match self.stage {
            Stage::Both => false,
            Stage::Switch => true,
            Stage::Pending | Stage::End | Stage::Back | Stage::Done | Stage::Aborted => return,
        };
        for turn in self.turns.iter().filter(|turn| contents.nodes.contains_key(&turn.node)) {
            let Some(region) = contents.regions.get_mut(&turn.region) else {
                continue;
            };
            region.instances.retain(|node| *node != turn.node);
            let standbys = contents.standbys.entry(turn.region).or_default();
            if let Err(at) = standbys.binary_search(&turn.node) {
                standbys.insert(at, turn.node);
            }
        }
        let in_turn = |from: RegionId, to: RegionId| if switched { (to, from) } else { (from, to) };
        for run in &self.slots {
            let (_, also) = in_turn(run.from, run.to);
            contents
                .slots_also
                .extend((run.first..=run.last).map(|slot| (slot, also)));
        }
        for mover in &self.devices {
            let (by, also) = in_turn(mover.from, mover.to);
            contents.overrides.insert(mover.key, by);
            contents.overrides_also.insert(mover.key, also);
        }
    }

    /// Whether it is a node's coming or going.
    pub fn is_turn(&self) -> bool {
        !self.turns.is_empty()
    }

    /// How many slots move.
    pub fn slot_count(&self) -> usize {
        self.slots.iter().map(|run| usize::from(run.last - run.first) + 1).sum()
    }

    /// Whether `slot` moves.
    pub fn has_slot(&self, slot: u16) -> bool {
        let at = self.slots.partition_point(|run| run.last < slot);
        self.slots.get(at).is_some_and(|run| run.first <= slot)
    }

    /// The device, if it moves by itself.
    pub fn mover(&self, key: DeviceKey) -> Option<&Mover> {
        let at = self.devices.binary_search_by_key(&key, |mover| mover.key).ok()?;
        Some(&self.devices[at])
    }

    /// The pairs of regions between which something moves, none twice.
    pub fn pairs(&self) -> Vec<(RegionId, RegionId)> {
        let slots = self.slots.iter().map(|run| (run.from, run.to));
        let devices = self.devices.iter().map(|mover| (mover.from, mover.to));
        let mut pairs: Vec<_> = slots.chain(devices).collect();
        pairs.sort_unstable();
        pairs.dedup();
        pairs
    }
}

/// In the first byte of a record, beside the stage: turns follow at its end.
const HAS_TURNS: u8 = 0x80;
const _: () = assert!(REGIONS_PER_NODE_MAX <= u8::MAX as usize);

impl Value for Move {
    fn put(&self, out: &mut Vec<u8>) {
        (self.stage as u8 | if self.is_turn() { HAS_TURNS } else { 0 }).put(out);
        Field::put(&self.since, out);
        Field::put(&self.asked_ms, out);
        Field::put(&self.stage_ms, out);
        Field::put(&self.retire.is_some(), out);
        if let Some(region) = self.retire {
            region.put(out);
        }
        Field::put(&(self.slots.len() as u32), out);
        for run in &self.slots {
            Field::put(&run.first, out);
            Field::put(&run.last, out);
            run.from.put(out);
            run.to.put(out);
        }
        Field::put(&(self.devices.len() as u32), out);
        for mover in &self.devices {
            mover.key.put(out);
            mover.from.put(out);
            mover.to.put(out);
            Field::put(&(mover.then as u8), out);
        }
        if self.is_turn() {
            Field::put(&(self.turns.len() as u8), out);
        }
        for turn in &self.turns {
            turn.node.put(out);
            turn.region.put(out);
            Field::put(&(turn.way == Way::Comes), out);
        }
    }

    fn take(reader: &mut Reader<'_>) -> Result<Move, DecodeError> {
        let first = reader.u8()?;
        let stage = match first & !HAS_TURNS {
            0 => Stage::Pending,
            1 => Stage::Both,
            2 => Stage::Switch,
            3 => Stage::End,
            4 => Stage::Back,
            5 => Stage::Done,
            6 => Stage::Aborted,
            _ => return Err(DecodeError::Value("stage")),
        };
        let (since, asked_ms, stage_ms) = (reader.u64()?, reader.u64()?, reader.u64()?);
        let retire = bool::take(reader)?.then(|| RegionId::take(reader)).transpose()?;
        let mut slots = Vec::new();
        for _ in 0..reader.u32()? {
            let run = Run {
                first: reader.u16()?,
                last: reader.u16()?,
                from: RegionId::take(reader)?,
                to: RegionId::take(reader)?,
            };
            if run.first > run.last || slots.last().is_some_and(|before: &Run| before.last >= run.first) {
                return Err(DecodeError::Value("moving slots"));
            }
            slots.push(run);
        }
        let mut devices = Vec::new();
        for _ in 0..reader.u32()? {
            devices.push(Mover {
                key: DeviceKey::take(reader)?,
                from: RegionId::take(reader)?,
                to: RegionId::take(reader)?,
                then: match reader.u8()? {
                    0 => Then::Made,
                    1 => Then::Kept,
                    2 => Then::Removed,
                    _ => return Err(DecodeError::Value("override")),
                },
            });
        }
        let turns = if first & HAS_TURNS != 0 { reader.u8()? } else { 0 };
        let turns = (0..turns).map(|_| {
            Ok(Turn {
                node: NodeId::take(reader)?,
                region: RegionId::take(reader)?,
                way: if bool::take(reader)? { Way::Comes } else { Way::Goes },
            })
        });
        let turns = turns.collect::<Result<Vec<Turn>, DecodeError>>()?;
        Ok(Move {
            stage,
            since,
            slots,
            devices,
            turns,
            retire,
            asked_ms,
            stage_ms,
        })
    }
}

/// Runs of the slots that differ, by what they are and what they are to be.
pub fn runs(before: &super::Slots, after: &super::Slots) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (slot, (&from, &to)) in (0..=u16::MAX).zip(before.iter().zip(after.iter())) {
        if from == to {
            continue;
        }
        match runs.last_mut() {
            Some(run) if run.last.checked_add(1) == Some(slot) && (run.from, run.to) == (from, to) => run.last = slot,
            Some(_) | None => runs.push(Run {
                first: slot,
                last: slot,
                from,
                to,
            }),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use trunkline_wire::map::SLOTS;

    use super::*;

    fn sample(stage: Stage) -> Move {
        let run = |first, last| Run {
            first,
            last,
            from: RegionId(1),
            to: RegionId(2),
        };
        Move {
            stage,
            since: 7,
            slots: vec![run(3, 5), run(9, 9)],
            devices: vec![Mover {
                key: DeviceKey(4),
                from: RegionId(2),
                to: RegionId(1),
                then: Then::Kept,
            }],
            turns: Vec::new(),
            retire: Some(RegionId(1)),
            asked_ms: 1,
            stage_ms: 2,
        }
    }

    #[test]
    fn a_record_gives_back_the_move() {
        for stage in [Stage::Pending, Stage::Both, Stage::Back, Stage::Aborted] {
            let mut bytes = Vec::new();
            Value::put(&sample(stage), &mut bytes);
            let mut reader = Reader::new(&bytes);
            assert_eq!(<Move as Value>::take(&mut reader), Ok(sample(stage)));
            assert_eq!(reader.finish(), Ok(()));
        }
    }

    fn turn(stage: Stage, node: u32, way: Way) -> Move {
        let (node, region) = (NodeId(node), RegionId(1));
        Move {
            turns: vec![Turn { node, region, way }],
            slots: Vec::new(),
            devices: Vec::new(),
            retire: None,
            ..sample(stage)
        }
    }

    #[test]
    fn a_record_gives_back_a_turn() {
        for way in [Way::Comes, Way::Goes] {
            let mut bytes = Vec::new();
            Value::put(&turn(Stage::End, 3, way), &mut bytes);
            let mut reader = Reader::new(&bytes);
            assert_eq!(<Move as Value>::take(&mut reader), Ok(turn(Stage::End, 3, way)));
            assert_eq!(reader.finish(), Ok(()));
        }
    }

    #[test]
    fn a_node_that_comes_or_goes_is_a_standby_in_one_stage_only() {
        let state = super::super::tests::sample();
        for (stage, way, standbys) in [
            (Stage::Pending, Way::Comes, 0),
            (Stage::Both, Way::Comes, 1),
            (Stage::Both, Way::Goes, 1),
            (Stage::End, Way::Goes, 0),
            (Stage::Back, Way::Comes, 0),
        ] {
            let mut contents = state.contents().unwrap();
            turn(stage, 4, way).show(&mut contents);
            let count = contents.standbys.get(&RegionId(1)).map_or(0, Vec::len);
            assert_eq!(count, standbys, "{stage:?} {way:?}");
            // The only node of the sample is its region's instance, so that it is either.
            assert_eq!(contents.regions[&RegionId(1)].instances.len(), 1 - standbys);
        }
        let mut contents = state.contents().unwrap();
        turn(Stage::Both, 9, Way::Comes).show(&mut contents);
        assert!(contents.standbys.is_empty(), "who is no member is no standby");
    }

    #[test]
    fn slots_and_devices_are_found() {
        let moved = sample(Stage::Both);
        let found: Vec<u16> = (0..20).filter(|slot| moved.has_slot(*slot)).collect();
        assert_eq!(found, [3, 4, 5, 9]);
        assert_eq!(moved.slot_count(), 4);
        assert!(moved.mover(DeviceKey(4)).is_some() && moved.mover(DeviceKey(5)).is_none());
    }

    #[test]
    fn the_map_names_both_regions_in_two_stages_only() {
        for (stage, slot, device) in [
            (Stage::Pending, None, None),
            (Stage::Both, Some(2), Some((2, 1))),
            (Stage::Switch, Some(1), Some((1, 2))),
            (Stage::End, None, None),
            (Stage::Back, None, None),
        ] {
            let mut contents = Contents::default();
            sample(stage).show(&mut contents);
            let key = DeviceKey(4);
            assert_eq!(contents.slots_also.get(&3).map(|region| region.0), slot);
            let both = contents.overrides.get(&key).zip(contents.overrides_also.get(&key));
            assert_eq!(both.map(|(by, also)| (by.0, also.0)), device);
        }
    }

    #[test]
    fn runs_are_cut_where_the_regions_differ() {
        let before: super::super::Slots = Box::new([RegionId(1); SLOTS]);
        let mut after = before.clone();
        after[10..20].fill(RegionId(2));
        after[20..22].fill(RegionId(3));
        after[SLOTS - 1] = RegionId(2);
        let found: Vec<_> = runs(&before, &after)
            .iter()
            .map(|run| (run.first, run.last, run.to.0))
            .collect();
        assert_eq!(found, [(10, 19, 2), (20, 21, 3), (65_535, 65_535, 2)]);
    }
}
