//! Steps back from the present version of the map, so that a node can resume from an older one by a delta.
//!
//! Kept are not old maps but what undoes each version: [`History::rewind`] makes an old map from the present state when one is asked
//! for, and checks by its digest that it is the one. Bounded in steps and in bytes; a node with an older map gets all of it.

use std::collections::VecDeque;

use trunkline_wire::codec::{DecodeError, Field, Reader};
use trunkline_wire::map::{Map, MapId};

use crate::state::{Change, Key, State, put_changes, take_changes};
use crate::store::{Batch, Records, StoreError};

/// The most versions that a node may be behind and still get a delta.
pub const STEPS_MAX: usize = 64;
/// The most bytes of all steps, as records: a hundred thousand enrolments.
pub const STEPS_BYTES_MAX: usize = 8 << 20;

/// The way back from one version to the one before.
#[derive(Debug)]
struct Step {
    /// The version that this leads from.
    version: u64,
    /// The map that this leads to.
    to: MapId,
    /// Applied in this order.
    undo: Vec<Change>,
    bytes: usize,
}

/// The latest steps, oldest first.
#[derive(Debug, Default)]
pub struct History {
    steps: VecDeque<Step>,
    bytes: usize,
}

impl History {
    /// Reads the steps that were committed.
    ///
    /// # Errors
    /// If one can't be read.
    pub fn from_records(records: &Records) -> Result<History, StoreError> {
        let mut history = History::default();
        for (key, value) in records {
            let Some(Key::Step(version)) = Key::parse(key) else {
                continue;
            };
            let unreadable = |_| StoreError::Record(format!("history of version {version}"));
            let (to, undo) = read(value).map_err(unreadable)?;
            history.bytes += value.len();
            history.steps.push_back(Step {
                version,
                to,
                undo,
                bytes: value.len(),
            });
        }
        Ok(history)
    }

    /// Remembers how to get from `version` back to `to`, and adds to `batch` what has to be committed.
    pub fn push(&mut self, version: u64, to: MapId, undo: Vec<Change>, batch: &mut Batch) {
        let mut value = Vec::new();
        to.put(&mut value);
        put_changes(&undo, &mut value);
        let bytes = value.len();
        batch.insert(Key::Step(version).bytes(), Some(value));
        self.bytes += bytes;
        self.steps.push_back(Step {
            version,
            to,
            undo,
            bytes,
        });
        while self.steps.len() > STEPS_MAX || self.bytes > STEPS_BYTES_MAX {
            let oldest = self.steps.pop_front().expect("one was pushed");
            self.bytes -= oldest.bytes;
            batch.insert(Key::Step(oldest.version).bytes(), None);
        }
    }

    /// Whether a node that holds `map` can be given a delta.
    pub fn reaches(&self, map: MapId) -> bool {
        self.steps.iter().any(|step| step.to == map)
    }

    /// The map `to`, made from the present state.
    pub fn rewind(&self, present: &State, to: MapId) -> Option<Map> {
        let start = self.steps.iter().position(|step| step.to == to)?;
        let mut state = present.clone();
        for change in self.steps.range(start..).rev().flat_map(|step| &step.undo) {
            state.apply(change.clone());
        }
        let map = Map::build(to.lineage, to.version, state.contents()?).ok()?;
        (map.id() == to).then_some(map)
    }
}

fn read(value: &[u8]) -> Result<(MapId, Vec<Change>), DecodeError> {
    let mut reader = Reader::new(value);
    let to = MapId::take(&mut reader)?;
    let undo = take_changes(&mut reader)?;
    reader.finish()?;
    Ok((to, undo))
}
