//! A region's devices and their sessions, as one shard holds them: in as few bytes as they have, and in many small tables, so that no
//! registration waits until all of them have moved.
//!
//! Ten million devices in one table would move in one turn, for a second or more, whenever it has grown full; here a 64th of them do.

use std::hash::BuildHasherDefault;

use hashbrown::{Equivalent, HashMap};
use trunkline_wire::id::{DeviceKey, Epoch, NodeId, PartnerKey};
use trunkline_wire::keyed::KeyHasher;

/// Where a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) epoch: Epoch,
    /// In which of its server's streams the session was last named.
    pub(super) sync: u64,
}

/// What one connected device costs in an instance's table, at the table's fullest: its key, its entry and a byte of the table's own, of
/// which seven in eight places may be used. Right after a table has grown it is twice that.
pub const RECORD_BYTES: usize = (size_of::<(Key, Record)>() + 1) * 8 / 7;

/// A device's key in 16 bytes that lie anywhere, where the aligned one takes up to 12 more beside its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C, packed(4))]
struct Key(DeviceKey);

impl Equivalent<Key> for PartnerKey {
    fn equivalent(&self, key: &Key) -> bool {
        { key.0 }.partner() == *self
    }
}

/// An entry in the same manner.
#[derive(Clone, Copy, Debug)]
#[repr(C, packed(4))]
struct Record {
    clock: u64,
    node: NodeId,
    sync: u64,
}
const _: () = assert!(size_of::<(Key, Record)>() == 36);

impl Record {
    fn new(entry: Entry) -> Record {
        Record {
            clock: entry.epoch.clock,
            node: entry.epoch.node,
            sync: entry.sync,
        }
    }

    fn entry(self) -> Entry {
        Entry {
            epoch: Epoch {
                clock: self.clock,
                node: self.node,
            },
            sync: self.sync,
        }
    }
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Table {
    parts: Box<[Part]>,
    length: usize,
}

type Part = HashMap<Key, Record, BuildHasherDefault<KeyHasher>>;

/// Into how many parts the devices are spread.
const PARTS: usize = 64;

impl Default for Table {
    fn default() -> Table {
        Table {
            parts: (0..PARTS).map(|_| Part::default()).collect(),
            length: 0,
        }
    }
}

impl Table {
    pub(super) fn find(&self, device: DeviceKey) -> Option<Entry> {
        self.parts[part(device.partner())]
            .get(&Key(device))
            .map(|record| record.entry())
    }

    /// A device that is known by a part of its key.
    pub(super) fn find_partner(&self, device: PartnerKey) -> Option<(DeviceKey, Entry)> {
        let (key, record) = self.parts[part(device)].get_key_value(&device)?;
        Some((key.0, record.entry()))
    }

    /// Adds the device, or replaces what was known of it.
    pub(super) fn set(&mut self, device: DeviceKey, entry: Entry) {
        let before = self.parts[part(device.partner())].insert(Key(device), Record::new(entry));
        self.length += usize::from(before.is_none());
    }

    /// Returns whether it was there.
    pub(super) fn remove(&mut self, device: DeviceKey) -> bool {
        let was_there = self.parts[part(device.partner())].remove(&Key(device)).is_some();
        self.length -= usize::from(was_there);
        was_there
    }

    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// All of them, in no order that means anything.
    pub(super) fn iter(&self) -> impl Iterator<Item = (DeviceKey, Entry)> + '_ {
        let all = self.parts.iter().flatten();
        all.map(|(key, record)| (key.0, record.entry()))
    }

    /// What the tables have taken from memory, in bytes.
    pub(super) fn bytes(&self) -> usize {
        // A table has a power of two of places, of which seven in eight may be used; `capacity` is the latter.
        let places = self.parts.iter().map(|part| (part.capacity() * 8).div_ceil(7));
        places.sum::<usize>() * (size_of::<(Key, Record)>() + 1)
    }
}

/// By bits of the key by which neither its slot nor its shard is chosen.
fn part(device: PartnerKey) -> usize {
    (device.0 >> 32) as usize % PARTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_what_is_in_it() {
        let mut table = Table::default();
        let entry = |sync| Entry {
            epoch: Epoch {
                clock: u64::MAX - sync,
                node: NodeId(u32::MAX),
            },
            sync,
        };
        let device = |n: u64| DeviceKey(u128::from(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)) << 16 | u128::from(n));
        for n in 0..1_000 {
            table.set(device(n), entry(n));
            table.set(device(n), entry(n + 1));
        }
        assert_eq!(table.len(), 1_000);
        assert_eq!(table.iter().count(), 1_000);
        for n in 0..1_000 {
            assert_eq!(table.find(device(n)), Some(entry(n + 1)));
            let found = table.find_partner(device(n).partner());
            assert_eq!(found, Some((device(n), entry(n + 1))));
        }
        assert!(table.remove(device(3)) && !table.remove(device(3)));
        assert_eq!((table.len(), table.find(device(3))), (999, None));
    }
}
