//! The difference of two maps. It names both by their whole ids, so that it fits no other map than the one that it was made from.
//!
//! For each of the map's tables: the keys that are gone, then the keys that are new or have another value. For the slots: ranges
//! that have another region now. One form for each pair of maps.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use super::check::{NODES_MAX, OVERRIDES_MAX, REGIONS_MAX, at_most};
use super::encoding::{Put, check_size, put_table, table};
use super::slots::first_difference;
use super::{Map, MapError, MapId, SLOTS};
use crate::codec::{DecodeError, Field, Reader};
use crate::id::RegionId;

/// The first four bytes of a delta.
const MAGIC: [u8; 4] = *b"TKD1";

pub(super) fn encode(base: &Map, next: &Map) -> Vec<u8> {
    let mut out = Vec::new();
    MAGIC.put(&mut out);
    base.id.put(&mut out);
    next.id.put(&mut out);
    put_difference(&mut out, base.regions.iter(), next.regions.iter());
    put_difference(&mut out, base.nodes.iter(), next.nodes.iter());
    put_table(
        &mut out,
        ranges(base, next).iter().map(|(range, region)| (range, region)),
    );
    put_difference(&mut out, base.slots_also.iter(), next.slots_also.iter());
    put_difference(&mut out, base.overrides_sorted(), next.overrides_sorted());
    put_difference(&mut out, base.overrides_also.iter(), next.overrides_also.iter());
    put_difference(&mut out, base.standbys.iter(), next.standbys.iter());
    out
}

pub(super) fn apply(base: &Map, delta: &[u8], expected: MapId) -> Result<Map, MapError> {
    check_size(delta)?;
    let mut reader = Reader::new(delta);
    if reader.array()? != MAGIC {
        return Err(MapError::NotAMap);
    }
    let (from, to) = (MapId::take(&mut reader)?, MapId::take(&mut reader)?);
    check_ids(base.id, from, to, expected)?;

    let mut contents = base.contents();
    change(&mut reader, &mut contents.regions, "changed regions", REGIONS_MAX)?;
    change(&mut reader, &mut contents.nodes, "changed nodes", NODES_MAX)?;
    for (range, region) in table::<Range, RegionId>(&mut reader, "changed slots", SLOTS)? {
        contents.slots[usize::from(range.first)..=usize::from(range.last)].fill(region);
    }
    change(&mut reader, &mut contents.slots_also, "changed moving slots", SLOTS)?;
    change(&mut reader, &mut contents.overrides, "changed overrides", OVERRIDES_MAX)?;
    change(
        &mut reader,
        &mut contents.overrides_also,
        "changed moving devices",
        OVERRIDES_MAX,
    )?;
    change(&mut reader, &mut contents.standbys, "changed standbys", REGIONS_MAX)?;
    reader.finish()?;

    let next = Map::build(to.lineage, to.version, contents)?;
    if next.id != to && !crate::planted!(DigestUnchecked) {
        return Err(MapError::Digest);
    }
    // Whatever could be written in a second way (a key that is gone and never was, a value that is as before) shows here.
    if encode(base, &next) != delta {
        return Err(MapError::Form("a delta that says more than it changes"));
    }
    Ok(next)
}

fn check_ids(base: MapId, from: MapId, to: MapId, expected: MapId) -> Result<(), MapError> {
    if from != base {
        return Err(MapError::WrongBase {
            delta: from.version,
            have: base.version,
        });
    }
    if to.lineage != from.lineage {
        return Err(MapError::OtherLineage);
    }
    if to.version <= from.version {
        return Err(MapError::NotNewer {
            base: from.version,
            next: to.version,
        });
    }
    if to != expected {
        return Err(MapError::OtherId {
            found: to.version,
            lineage: to.lineage,
        });
    }
    Ok(())
}

/// Neighbouring slots, first and last included, that have one region now, and had another one each.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Range {
    first: u16,
    last: u16,
}

impl<'a> Field<'a> for Range {
    fn put(&self, out: &mut Vec<u8>) {
        self.first.put(out);
        self.last.put(out);
    }

    fn take(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let (first, last) = (reader.u16()?, reader.u16()?);
        if first > last {
            return Err(DecodeError::Value("changed slots"));
        }
        Ok(Range { first, last })
    }
}

fn ranges(base: &Map, next: &Map) -> Vec<(Range, RegionId)> {
    let mut ranges: Vec<(Range, RegionId)> = Vec::new();
    let mut from = 0;
    while let Some(at) = first_difference(&base.slots, &next.slots, from) {
        from = at + 1;
        let (slot, region) = (at as u16, next.slots[at]);
        match ranges.last_mut() {
            Some((range, of)) if *of == region && range.last + 1 == slot => range.last = slot,
            Some(_) | None => ranges.push((
                Range {
                    first: slot,
                    last: slot,
                },
                region,
            )),
        }
    }
    ranges
}

/// Keys that are gone, then entries that are new or other. Both sides come by ascending key.
fn put_difference<K: Put + Ord, V: Put + PartialEq>(
    out: &mut Vec<u8>,
    before: impl Iterator<Item = (K, V)>,
    after: impl Iterator<Item = (K, V)>,
) {
    let (mut before, mut after) = (before.peekable(), after.peekable());
    let (mut gone, mut set) = (Vec::new(), Vec::new());
    loop {
        let order = match (before.peek(), after.peek()) {
            (None, None) => break,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((old, _)), Some((new, _))) => old.cmp(new),
        };
        match order {
            Ordering::Less => gone.extend(before.next().map(|(key, _)| (key, ()))),
            Ordering::Greater => set.extend(after.next()),
            Ordering::Equal => {
                let (old, new) = (before.next(), after.next());
                if old != new {
                    set.extend(new);
                }
            }
        }
    }
    put_table(out, gone.into_iter());
    put_table(out, set.into_iter());
}

fn change<'a, K, V>(
    reader: &mut Reader<'a>,
    entries: &mut BTreeMap<K, V>,
    what: &'static str,
    max: usize,
) -> Result<(), MapError>
where
    K: Field<'a> + Ord,
    V: Field<'a>,
{
    for (key, ()) in table::<K, ()>(reader, what, max)? {
        entries.remove(&key);
    }
    entries.extend(table::<K, V>(reader, what, max)?);
    at_most(what, entries.len(), max)
}

/// What a key that is gone has for a value.
impl<'a> Field<'a> for () {
    fn put(&self, _: &mut Vec<u8>) {}

    fn take(_: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(())
    }
}
