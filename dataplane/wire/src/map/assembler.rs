//! Collects a map, or a delta, that comes in parts; and cuts one into parts.
//!
//! What is too large is refused when it is announced. Memory grows with the bytes that came, never with what was announced.

use super::{MAP_BYTES_MAX, Map, MapError, MapId, Plan};
#[cfg(feature = "next-version")]
use crate::codec::Newer;
use crate::codec::Tail;
use crate::control::{MAP_PART_BYTES_MAX, MapBegin, MapPart};
#[cfg(feature = "next-version")]
use crate::preface::VERSION_MIN;

/// A map on its way in.
#[derive(Debug)]
pub struct Assembler {
    begin: MapBegin,
    bytes: Vec<u8>,
}

/// A map that has arrived, not checked yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Which map it was announced to be.
    pub map: MapId,
    /// The map that it is a difference to; version 0 if it is all of one.
    pub base: MapId,
    /// The encoding of the map or of the delta.
    pub bytes: Vec<u8>,
    /// All of the hash of the map's encoding, if the connection's version says it.
    #[cfg(feature = "next-version")]
    pub whole: Option<[u8; 32]>,
}

impl Assembler {
    /// A map was announced. One that was still on its way is to be dropped: its sender has begun anew.
    ///
    /// # Errors
    /// If it's announced as blank, as version 0, or as larger than any map.
    pub fn begin(begin: MapBegin) -> Result<Assembler, MapError> {
        let bytes = begin.bytes as usize;
        if bytes == 0 {
            return Err(MapError::Blank);
        }
        if bytes > MAP_BYTES_MAX {
            return Err(MapError::TooLarge {
                bytes,
                max: MAP_BYTES_MAX,
            });
        }
        if begin.map.version == 0 {
            return Err(MapError::VersionZero);
        }
        Ok(Assembler {
            begin,
            bytes: Vec::new(),
        })
    }

    /// Which map is on its way.
    pub fn map(&self) -> MapId {
        self.begin.map
    }

    /// How many bytes are still to come; 0 only after the last part.
    pub fn missing(&self) -> usize {
        self.begin.bytes as usize - self.bytes.len()
    }

    /// The next part. `Some` with the last one.
    ///
    /// # Errors
    /// If the part is empty, too long, or goes on beyond what was announced. The transfer is void then.
    pub fn part(&mut self, part: MapPart<'_>) -> Result<Option<Transfer>, MapError> {
        let Tail(bytes) = part.bytes;
        let max = self.missing().min(MAP_PART_BYTES_MAX);
        if bytes.is_empty() || bytes.len() > max {
            return Err(MapError::Part { part: bytes.len(), max });
        }
        self.bytes.extend_from_slice(bytes);
        if self.missing() > 0 {
            return Ok(None);
        }
        self.begin.bytes = 0;
        Ok(Some(Transfer {
            map: self.begin.map,
            base: self.begin.base,
            bytes: std::mem::take(&mut self.bytes),
            #[cfg(feature = "next-version")]
            whole: self.begin.whole.said(),
        }))
    }
}

impl Transfer {
    /// Makes the map, checked whole, as [`super::accept`] planned it.
    ///
    /// # Errors
    /// If it's not the map that was announced, or not a good one. `current` is as it was.
    pub fn finish(&self, current: &Map, plan: Plan) -> Result<Map, MapError> {
        let made = match plan {
            Plan::Snapshot => Map::decode(&self.bytes, self.map),
            Plan::Delta => Map::apply(current, &self.bytes, self.map),
        }?;
        #[cfg(feature = "next-version")]
        if self.whole.is_some_and(|whole| whole != made.whole()) && !crate::planted!(DigestUnchecked) {
            return Err(MapError::Digest);
        }
        Ok(made)
    }
}

/// The frames that carry `bytes`: a map's encoding if `base` has version 0, else a delta's from it. In the form of the lowest version:
/// what a later one says beyond that is the caller's to add.
///
/// # Panics
/// If there are more bytes than [`MAP_BYTES_MAX`]; no map has.
pub fn parts(map: MapId, base: MapId, bytes: &[u8]) -> (MapBegin, impl Iterator<Item = MapPart<'_>>) {
    assert!(bytes.len() <= MAP_BYTES_MAX, "a map of {} bytes", bytes.len());
    let begin = MapBegin {
        map,
        base,
        bytes: bytes.len() as u32,
        #[cfg(feature = "next-version")]
        whole: Newer::new(VERSION_MIN, [0; 32]),
    };
    let parts = bytes
        .chunks(MAP_PART_BYTES_MAX)
        .map(|bytes| MapPart { bytes: Tail(bytes) });
    (begin, parts)
}
