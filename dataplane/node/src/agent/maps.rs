//! The map at hand, the one that is on its way in, and the file that holds the last good one.

use std::sync::Arc;

use trunkline_wire::codec::{Field, Reader};
use trunkline_wire::control::{MapBegin, MapId, MapPart};
use trunkline_wire::map::{Assembler, Map, Plan, Refusal, accept};

use crate::storage::Storage;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Maps {
    current: Arc<Map>,
    incoming: Option<(Assembler, Plan)>,
    accept_lineage: bool,
}

/// What to answer, if anything.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Answer {
    /// More is to come, or nobody waits.
    Nothing,
    /// It's the one at hand.
    Held(MapId),
    /// It's taken, and on disk.
    Taken(Arc<Map>),
    /// A whole one is needed.
    Request,
    /// It's refused.
    Refused { map: MapId, reason: String },
    /// It's good, and can't be kept.
    Unwritable { map: MapId, reason: String },
}

impl Maps {
    /// The last good map of `storage`; or none, and what is wrong with what is there.
    pub(super) fn load(storage: &(impl Storage + ?Sized), accept_lineage: bool) -> (Maps, Option<String>) {
        let (current, trouble) = match storage.read(FILE) {
            Ok(None) => (Map::empty(), None),
            Ok(Some(bytes)) => match decode(&bytes) {
                Ok(map) => (map, None),
                Err(error) => (
                    Map::empty(),
                    Some(format!("the map in the data directory is not used: {error}")),
                ),
            },
            Err(error) => (
                Map::empty(),
                Some(format!("the map in the data directory can't be read: {error}")),
            ),
        };
        let maps = Maps {
            current: Arc::new(current),
            incoming: None,
            accept_lineage,
        };
        (maps, trouble)
    }

    pub(super) fn current(&self) -> &Arc<Map> {
        &self.current
    }

    /// What to say that is held when joining: with consent to another lineage nothing, so that all of a map is sent.
    pub(super) fn held(&self) -> MapId {
        if self.accept_lineage {
            MapId::default()
        } else {
            self.current.id()
        }
    }

    /// The connection is new: nothing is on its way.
    pub(super) fn reset(&mut self) {
        self.incoming = None;
    }

    pub(super) fn begin(&mut self, begin: MapBegin) -> Answer {
        self.incoming = None;
        let map = begin.map;
        let foreign = self.current.id().version != 0 && map.lineage != self.current.id().lineage;
        let planned = if foreign && self.accept_lineage {
            accept(&Map::empty(), map, begin.base)
        } else {
            accept(&self.current, map, begin.base)
        };
        match planned {
            Ok(plan) => match Assembler::begin(begin) {
                Ok(assembler) => {
                    self.incoming = Some((assembler, plan));
                    Answer::Nothing
                }
                Err(error) => Answer::Refused {
                    map,
                    reason: error.to_string(),
                },
            },
            Err(Refusal::Held(_)) => Answer::Held(map),
            Err(refusal) if refusal.wants_snapshot() => Answer::Request,
            Err(refusal) => Answer::Refused {
                map,
                reason: refusal.to_string(),
            },
        }
    }

    pub(super) fn part(&mut self, part: MapPart<'_>, storage: &(impl Storage + ?Sized)) -> Answer {
        // Parts of a map that was refused at its announcement.
        let Some((assembler, plan)) = &mut self.incoming else {
            return Answer::Nothing;
        };
        let (map, plan) = (assembler.map(), *plan);
        let made = match assembler.part(part) {
            Ok(None) => return Answer::Nothing,
            Ok(Some(transfer)) => transfer.finish(&self.current, plan),
            Err(error) => Err(error),
        };
        self.incoming = None;
        let made = match made {
            Ok(made) => made,
            Err(error) => {
                let reason = error.to_string();
                return Answer::Refused { map, reason };
            }
        };
        let kept = match trunkline_wire::planted!(MapNotKept) {
            true => Ok(()),
            false => storage.replace(FILE, &encode(&made)),
        };
        if let Err(error) = kept {
            let reason = format!("the map can't be written to the data directory: {error}");
            return Answer::Unwritable { map, reason };
        }
        self.current = Arc::new(made);
        Answer::Taken(Arc::clone(&self.current))
    }
}

/// The id, then the map.
fn encode(map: &Map) -> Vec<u8> {
    let mut bytes = Vec::new();
    map.id().put(&mut bytes);
    bytes.extend_from_slice(&map.encode());
    bytes
}

fn decode(bytes: &[u8]) -> Result<Map, String> {
    let mut reader = Reader::new(bytes);
    let id = MapId::take(&mut reader).map_err(|error| error.to_string())?;
    Map::decode(reader.rest(), id).map_err(|error| error.to_string())
}

const FILE: &str = "map";
