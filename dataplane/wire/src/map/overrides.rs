//! The devices that belong to another region than their slot's: one sorted table, and where in it each share of the keys begins.
//!
//! ```text
//! key's top bits ──▶ starts ──▶ two to four neighbours in entries ──▶ region
//! ```
//! A map is built once and looked into for every message, so that this is made for looking: two reads from memory a look-up, at most 20
//! bytes an override, and no order to restore where maps are compared, written or dumped.
//!
//! **Invariant**: entries ascend by key, none twice.

use crate::id::{DeviceKey, PartnerKey, RegionId};

/// See the module's text. Immutable.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Overrides {
    entries: Box<[Entry]>,
    /// For each value of a key's top bits the place of its first entry, and behind all the number of entries. None without entries.
    starts: Box<[u32]>,
    /// What a key is shifted down by for its place in `starts`.
    shift: u32,
}

/// 18 bytes, where aligned ones would be 32.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C, packed(2))]
struct Entry {
    key: DeviceKey,
    region: RegionId,
}
const _: () = assert!(size_of::<Entry>() == 18);

impl Overrides {
    /// From entries whose keys ascend.
    pub(super) fn new(ascending: impl Iterator<Item = (DeviceKey, RegionId)>) -> Overrides {
        let entries: Box<[Entry]> = ascending.map(|(key, region)| Entry { key, region }).collect();
        debug_assert!(entries.is_sorted_by(|a, b| { a.key } < { b.key }), "keys ascend");
        // Keys are as good as random, so that equal shares of their range hold about equally many.
        let shares = (entries.len() / SHARE).next_power_of_two().max(2);
        let shift = u128::BITS - shares.ilog2();
        let mut starts = Vec::new();
        if !entries.is_empty() {
            starts.reserve_exact(shares + 1);
            for (place, entry) in entries.iter().enumerate() {
                let share = ({ entry.key }.0 >> shift) as usize;
                while starts.len() <= share {
                    starts.push(place as u32);
                }
            }
            starts.resize(shares + 1, entries.len() as u32);
        }
        Overrides {
            entries,
            starts: starts.into(),
            shift,
        }
    }

    /// The region of a device that has an override.
    #[inline]
    pub(super) fn find(&self, key: DeviceKey) -> Option<RegionId> {
        if self.entries.is_empty() {
            return None;
        }
        let share = (key.0 >> self.shift) as usize;
        let (start, end) = (self.starts[share] as usize, self.starts[share + 1] as usize);
        // Searched rather than scanned: whoever chose the keys, this has an end.
        let near = &self.entries[start..end];
        let found = near.binary_search_by(|entry| { entry.key }.cmp(&key)).ok()?;
        Some(near[found].region)
    }

    /// As [`Overrides::find`], of a device that is known by a part of its key: looks at all of its slot.
    pub(super) fn find_partner(&self, key: PartnerKey) -> Option<RegionId> {
        let first = DeviceKey(u128::from(key.slot()) << 112);
        let start = self.entries.partition_point(|entry| { entry.key } < first);
        let mut slot = self.entries[start..]
            .iter()
            .take_while(|entry| { entry.key }.slot() == key.slot());
        let found = slot.find(|entry| { entry.key }.partner() == key)?;
        Some(found.region)
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// All of them, by ascending key.
    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = (DeviceKey, RegionId)> + '_ {
        self.entries.iter().map(|entry| (entry.key, entry.region))
    }

    /// The memory that they take.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.entries) + size_of_val(&*self.starts)
    }
}

/// Entries for each place of `starts`, at the least; at the most twice as many. They lie in one or two cache lines.
const SHARE: usize = 4;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn table(keys: impl Iterator<Item = u128>) -> (BTreeMap<DeviceKey, RegionId>, Overrides) {
        let all: BTreeMap<_, _> = keys
            .enumerate()
            .map(|(at, key)| (DeviceKey(key), RegionId(at as u16)))
            .collect();
        let overrides = Overrides::new(all.iter().map(|(key, region)| (*key, *region)));
        (all, overrides)
    }

    /// Evenly over all keys, none twice.
    fn spread(n: u128) -> u128 {
        n.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
    }

    #[test]
    fn what_was_put_in_is_found_and_nothing_else() {
        for count in [0, 1, 2, 3, 7, 8, 9, 100, 5_000] {
            let (all, overrides) = table((1..=count).map(spread));
            assert_eq!(overrides.len(), all.len());
            assert!(overrides.iter().eq(all.iter().map(|(key, region)| (*key, *region))));
            for (key, region) in &all {
                assert_eq!(overrides.find(*key), Some(*region));
                assert_eq!(overrides.find_partner(key.partner()), Some(*region));
                for near in [key.0.wrapping_add(1), key.0.wrapping_sub(1)] {
                    assert_eq!(overrides.find(DeviceKey(near)), all.get(&DeviceKey(near)).copied());
                }
            }
            for key in [0, 1, u128::MAX, u128::MAX / 2] {
                assert_eq!(overrides.find(DeviceKey(key)), all.get(&DeviceKey(key)).copied());
            }
        }
    }

    #[test]
    fn keys_that_all_share_their_top_bits_are_found_too() {
        for top in [0, u128::MAX << 64] {
            let (all, overrides) = table((0..1_000).map(|n| top + n * 3));
            assert!(all.iter().all(|(key, region)| overrides.find(*key) == Some(*region)));
            assert_eq!(overrides.find(DeviceKey(top + 1)), None);
        }
    }

    #[test]
    fn an_override_takes_at_most_twenty_bytes() {
        for count in [1_000, 1_023, 1_024, 1_025, 50_000] {
            let (all, overrides) = table((1..=count).map(spread));
            assert!(
                overrides.bytes() <= 20 * all.len() + 64,
                "{} of {count}",
                overrides.bytes()
            );
        }
    }
}
