//! The map as bytes: sections with counts, their keys strictly ascending, slots as runs. One form for each map.

use sha2::{Digest, Sha256};

use super::check::{self, INSTANCES_MAX, NAME_BYTES_MAX, NODES_MAX, OVERRIDES_MAX, REGIONS_MAX, at_most};
use super::slots::run_end;
use super::{Contents, Map, MapError, MapId, Node, Region, Roles, SLOTS};
use crate::codec::{DecodeError, Field, Reader, Text};
use crate::id::{DeviceKey, Incarnation, NodeId, RegionId};

/// The first four bytes of a map.
const MAGIC: [u8; 4] = *b"TKM1";

/// The most bytes of a map's encoding, and of a delta's.
pub const MAP_BYTES_MAX: usize = 4 + 8 + 8 // magic, lineage, version
    + 7 * 4 // counts of the sections
    + REGIONS_MAX * (2 + 1 + NAME_BYTES_MAX + 1 + INSTANCES_MAX * 4)
    + NODES_MAX * (4 + 1 + NAME_BYTES_MAX + 8 + 1 + 3 * 19)
    + SLOTS * (2 + 2) // runs
    + SLOTS * (2 + 2) // second regions
    + OVERRIDES_MAX * (16 + 2)
    + OVERRIDES_MAX * (16 + 2) // second regions
    + REGIONS_MAX * (2 + 1 + INSTANCES_MAX * 4); // standbys
const _: () = assert!(MAP_BYTES_MAX < 48 << 20);

pub(super) fn whole(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

pub(super) fn digest(bytes: &[u8]) -> [u8; 16] {
    let hash = whole(bytes);
    *hash.first_chunk().expect("32 bytes have 16")
}

pub(super) fn encode(map: &Map) -> Vec<u8> {
    let mut out = Vec::with_capacity(256 + map.nodes.len() * 64 + map.overrides.len() * 18);
    MAGIC.put(&mut out);
    map.id.lineage.put(&mut out);
    map.id.version.put(&mut out);
    put_table(&mut out, map.regions.iter());
    put_table(&mut out, map.nodes.iter());
    put_table(&mut out, runs(&map.slots).iter().map(|(last, region)| (last, region)));
    put_table(&mut out, map.slots_also.iter());
    put_table(&mut out, map.overrides_sorted());
    put_table(&mut out, map.overrides_also.iter());
    put_table(&mut out, map.standbys.iter());
    out
}

pub(super) fn decode(bytes: &[u8], expected: MapId) -> Result<Map, MapError> {
    check_size(bytes)?;
    if digest(bytes) != expected.digest && !crate::planted!(DigestUnchecked) {
        // The digest is what counts; but if the bytes just end too early, that is the better thing to be told.
        return Err(match parse(bytes) {
            Err(error @ (MapError::Truncated | MapError::NotAMap)) => error,
            Ok(_) | Err(_) => MapError::Digest,
        });
    }
    let (lineage, version, contents) = parse(bytes)?;
    if (lineage, version) != (expected.lineage, expected.version) {
        return Err(MapError::OtherId {
            found: version,
            lineage,
        });
    }
    check::contents(version, &contents)?;
    Ok(Map::assemble(expected, contents))
}

pub(super) fn check_size(bytes: &[u8]) -> Result<(), MapError> {
    match bytes.len() {
        0 => Err(MapError::Blank),
        1..=MAP_BYTES_MAX => Ok(()),
        bytes => Err(MapError::TooLarge {
            bytes,
            max: MAP_BYTES_MAX,
        }),
    }
}

/// Form only: no reference has been looked at.
fn parse(bytes: &[u8]) -> Result<(u64, u64, Contents), MapError> {
    let mut reader = Reader::new(bytes);
    if reader.array()? != MAGIC {
        return Err(MapError::NotAMap);
    }
    let lineage = reader.u64()?;
    let version = reader.u64()?;
    let contents = Contents {
        regions: table(&mut reader, "regions", REGIONS_MAX)?.into_iter().collect(),
        nodes: table(&mut reader, "nodes", NODES_MAX)?.into_iter().collect(),
        slots: fill(&table(&mut reader, "runs of slots", SLOTS)?)?,
        slots_also: table(&mut reader, "moving slots", SLOTS)?.into_iter().collect(),
        overrides: table(&mut reader, "overrides", OVERRIDES_MAX)?.into_iter().collect(),
        overrides_also: table(&mut reader, "moving devices", OVERRIDES_MAX)?
            .into_iter()
            .collect(),
        standbys: table(&mut reader, "standbys", REGIONS_MAX)?.into_iter().collect(),
    };
    reader.finish()?;
    Ok((lineage, version, contents))
}

/// The last slot of each run of one region, and that region.
fn runs(slots: &[RegionId; SLOTS]) -> Vec<(u16, RegionId)> {
    let mut runs: Vec<(u16, RegionId)> = Vec::new();
    let mut start = 0;
    while start < SLOTS {
        let end = run_end(slots, start);
        runs.push(((end - 1) as u16, slots[start]));
        start = end;
    }
    runs
}

/// The runs' last slots ascend; that is checked.
fn fill(runs: &[(u16, RegionId)]) -> Result<Box<[RegionId; SLOTS]>, MapError> {
    let mut slots = Box::new([RegionId(0); SLOTS]);
    let mut start = 0;
    for &(last, region) in runs {
        let end = usize::from(last) + 1;
        if start > 0 && slots[start - 1] == region {
            return Err(MapError::Form("two runs of slots that are one"));
        }
        slots[start..end].fill(region);
        start = end;
    }
    if start != SLOTS {
        return Err(MapError::Form("the runs of slots don't reach slot 65535"));
    }
    Ok(slots)
}

/// Something that has a place in a table: a field that is lent, or one that is small.
pub(super) trait Put {
    fn put(&self, out: &mut Vec<u8>);
}

impl<T: Field<'static>> Put for &T {
    fn put(&self, out: &mut Vec<u8>) {
        Field::put(*self, out);
    }
}

impl Put for DeviceKey {
    fn put(&self, out: &mut Vec<u8>) {
        Field::put(self, out);
    }
}

impl Put for RegionId {
    fn put(&self, out: &mut Vec<u8>) {
        Field::put(self, out);
    }
}

/// What a key that is gone has for a value.
impl Put for () {
    fn put(&self, _: &mut Vec<u8>) {}
}

pub(super) fn put_table(out: &mut Vec<u8>, entries: impl ExactSizeIterator<Item = (impl Put, impl Put)>) {
    Field::put(&(entries.len() as u32), out);
    for (key, value) in entries {
        key.put(out);
        value.put(out);
    }
}

/// A count, then keys that strictly ascend, each with its value.
pub(super) fn table<'a, K, V>(reader: &mut Reader<'a>, what: &'static str, max: usize) -> Result<Vec<(K, V)>, MapError>
where
    K: Field<'a> + Ord,
    V: Field<'a>,
{
    // Nothing is reserved for a claim: the vector grows with the bytes that are there.
    let count = reader.u32()? as usize;
    at_most(what, count, max)?;
    let mut entries: Vec<(K, V)> = Vec::new();
    for _ in 0..count {
        let key = K::take(reader)?;
        if entries.last().is_some_and(|(last, _)| *last >= key) {
            return Err(MapError::Form("keys that don't ascend"));
        }
        entries.push((key, V::take(reader)?));
    }
    Ok(entries)
}

impl<'a> Field<'a> for Region {
    fn put(&self, out: &mut Vec<u8>) {
        Text::clipped(&self.name).put(out);
        self.instances.put(out);
    }

    fn take(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let name = Text::take(reader)?.as_str().to_owned();
        let instances = Field::take(reader)?;
        Ok(Region { name, instances })
    }
}

/// Instances, or standbys, of one region.
impl<'a> Field<'a> for Vec<NodeId> {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(self.len() as u8);
        self.iter().for_each(|node| node.put(out));
    }

    fn take(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let count = usize::from(reader.u8()?);
        if count > INSTANCES_MAX {
            return Err(DecodeError::TooLong("instances"));
        }
        (0..count).map(|_| NodeId::take(reader)).collect()
    }
}
const _: () = assert!(INSTANCES_MAX <= u8::MAX as usize);
const _: () = assert!(NAME_BYTES_MAX <= u8::MAX as usize);

impl<'a> Field<'a> for Node {
    fn put(&self, out: &mut Vec<u8>) {
        Text::clipped(&self.name).put(out);
        self.incarnation.put(out);
        self.roles.put(out);
        self.device_address.put(out);
        self.peer_address.put(out);
        self.http_address.put(out);
    }

    fn take(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Node {
            name: Text::take(reader)?.as_str().to_owned(),
            incarnation: Incarnation::take(reader)?,
            roles: Roles::take(reader)?,
            device_address: Field::take(reader)?,
            peer_address: Field::take(reader)?,
            http_address: Field::take(reader)?,
        })
    }
}

/// A map's bytes with its id before them: for a file, which has nobody to announce what it holds.
pub(super) fn seal(map: &Map) -> Vec<u8> {
    let mut out = Vec::new();
    map.id.put(&mut out);
    out.extend_from_slice(&encode(map));
    out
}

pub(super) fn unseal(bytes: &[u8]) -> Result<Map, MapError> {
    let mut reader = Reader::new(bytes);
    if bytes.is_empty() {
        return Err(MapError::Blank);
    }
    let id = MapId::take(&mut reader)?;
    decode(reader.rest(), id)
}
