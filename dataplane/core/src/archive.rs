//! What a region remembers of whom its devices have to do with, as one instance's shard has it: affinity lists that outlive sessions.
//!
//! A device's list is joined by version: the later one's word counts for what both know, but for counts, of which the higher ones do; what
//! only the earlier one knows stays while there is room. Order and repetition change nothing that a prediction would notice. Nothing depends on it but how good predictions
//! are, so that instances needn't agree, and what is lost is learnt anew.
//!
//! **Bounded**: so many lists; the one that was longest neither told nor asked for goes first. Records have a fixed size and lie in
//! chunks, so that growing moves none of them.

use hashbrown::HashTable;
use trunkline_wire::affinity::{AFFINITY_ENTRIES_MAX, AffinityEntry, AffinityList, AffinityVersion, AffinityWeight};
use trunkline_wire::id::{DeviceKey, PartnerKey};
use trunkline_wire::keyed::KeyHasher;

use crate::predictor::Affinity;
use crate::presence;

/// The lists of one shard.
#[derive(Debug)]
pub struct Archive {
    lists_max: usize,
    /// Places of records, by device.
    index: HashTable<u32>,
    chunks: Vec<Box<[Record]>>,
    /// Places that were used and are free, by their `older`.
    free: u32,
    /// How many places were ever used.
    used: u32,
    /// The ends of the order of use.
    newest: u32,
    oldest: u32,
    evicted: u64,
}

/// One device's list, without a byte between its fields.
#[derive(Clone, Debug)]
struct Record {
    /// The device's key. In halves, because a number of 16 bytes begins at a multiple of them.
    device: [u64; 2],
    clock: u64,
    partners: [PartnerKey; AFFINITY_ENTRIES_MAX],
    at: u32,
    newer: u32,
    older: u32,
    counter: u16,
    weights: [AffinityWeight; AFFINITY_ENTRIES_MAX],
    length: u8,
    novelty: u8,
}

/// What a remembered list costs at its table's fullest: its record, its place in the index and a byte of the table's own, of which seven
/// in eight places may be used.
pub const LIST_BYTES: usize = size_of::<Record>() + ((size_of::<u32>() + 1) * 8).div_ceil(7);

// A device that is connected and has a list costs an instance no more than this.
const _: () = assert!(presence::RECORD_BYTES <= 64);
const _: () = assert!(presence::RECORD_BYTES + LIST_BYTES <= 256);

/// No place.
const NOWHERE: u32 = u32::MAX;

/// How many records are made room for at once: 200 KB.
const CHUNK: usize = 1_024;

impl Archive {
    /// Remembers at most `lists_max` lists.
    pub fn new(lists_max: usize) -> Archive {
        Archive {
            lists_max: lists_max.min(NOWHERE as usize),
            index: HashTable::new(),
            chunks: Vec::new(),
            free: NOWHERE,
            used: 0,
            newest: NOWHERE,
            oldest: NOWHERE,
            evicted: 0,
        }
    }

    /// How many lists there are.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// How many there may be.
    pub fn lists_max(&self) -> usize {
        self.lists_max
    }

    /// How many had to go for others.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// A list has been told. Returns whether it was news.
    pub fn keep(&mut self, device: DeviceKey, version: AffinityVersion, list: &AffinityList) -> bool {
        if self.lists_max == 0 {
            return false;
        }
        let Some(place) = self.place(device) else {
            if self.len() == self.lists_max {
                self.evicted += 1;
                self.remove(self.device(self.oldest));
            }
            let place = self.add(Record::new(device, version, list));
            self.link(place);
            return true;
        };
        self.touch(place);
        let record = self.record(place);
        let (known, kept) = (record.version(), record.list());
        let (first, second) = if version >= known { (list, &kept) } else { (&kept, list) };
        let mut joined = Affinity::recall(first);
        joined.complete(&Affinity::recall(second));
        let joined = joined.digest();
        *self.record_mut(place) = Record {
            newer: self.record(place).newer,
            older: self.record(place).older,
            ..Record::new(device, version.max(known), &joined)
        };
        joined != kept
    }

    /// The device's list, which is about to be used.
    pub fn recall(&mut self, device: DeviceKey) -> Option<(AffinityVersion, AffinityList)> {
        let place = self.place(device)?;
        self.touch(place);
        let record = self.record(place);
        Some((record.version(), record.list()))
    }

    /// The device's list, to look at.
    pub fn peek(&self, device: DeviceKey) -> Option<(AffinityVersion, AffinityList)> {
        let record = self.record(self.place(device)?);
        Some((record.version(), record.list()))
    }

    /// Which version of the device's list is kept.
    pub fn version(&self, device: DeviceKey) -> Option<AffinityVersion> {
        Some(self.record(self.place(device)?).version())
    }

    /// Forgets the device's list.
    pub fn remove(&mut self, device: DeviceKey) -> bool {
        let found = self
            .index
            .find_entry(hash(device), |&place| device_at(&self.chunks, place) == device);
        let Ok(entry) = found else {
            return false;
        };
        let (place, _) = entry.remove();
        self.unlink(place);
        let free = self.free;
        let record = self.record_mut(place);
        (record.length, record.older, record.clock) = (0, free, 0);
        self.free = place;
        true
    }

    /// How many places there are, for who goes through all of them by [`Archive::at`].
    pub fn places(&self) -> usize {
        self.used as usize
    }

    /// What is at a place.
    pub fn at(&self, place: usize) -> Option<(DeviceKey, AffinityVersion, AffinityList)> {
        let place = u32::try_from(place).ok().filter(|&place| place < self.used)?;
        let record = self.record(place);
        (record.clock != 0).then(|| (self.device(place), record.version(), record.list()))
    }

    fn place(&self, device: DeviceKey) -> Option<u32> {
        let found = self
            .index
            .find(hash(device), |&place| device_at(&self.chunks, place) == device);
        found.copied()
    }

    fn device(&self, place: u32) -> DeviceKey {
        device_at(&self.chunks, place)
    }

    fn record(&self, place: u32) -> &Record {
        record_at(&self.chunks, place)
    }

    fn record_mut(&mut self, place: u32) -> &mut Record {
        &mut self.chunks[place as usize / CHUNK][place as usize % CHUNK]
    }

    fn add(&mut self, record: Record) -> u32 {
        let device = record.device();
        let place = if self.free == NOWHERE {
            if self.used as usize == self.chunks.len() * CHUNK {
                self.chunks.push(vec![Record::EMPTY; CHUNK].into_boxed_slice());
            }
            self.used += 1;
            self.used - 1
        } else {
            let place = self.free;
            self.free = self.record(place).older;
            place
        };
        *self.record_mut(place) = record;
        let chunks = &self.chunks;
        self.index
            .insert_unique(hash(device), place, |&place| hash(device_at(chunks, place)));
        place
    }

    fn touch(&mut self, place: u32) {
        if self.newest != place {
            self.unlink(place);
            self.link(place);
        }
    }

    fn link(&mut self, place: u32) {
        let before = std::mem::replace(&mut self.newest, place);
        let record = self.record_mut(place);
        (record.newer, record.older) = (NOWHERE, before);
        match before {
            NOWHERE => self.oldest = place,
            _ => self.record_mut(before).newer = place,
        }
    }

    fn unlink(&mut self, place: u32) {
        let Record { newer, older, .. } = *self.record(place);
        match newer {
            NOWHERE => self.newest = older,
            _ => self.record_mut(newer).older = older,
        }
        match older {
            NOWHERE => self.oldest = newer,
            _ => self.record_mut(older).newer = newer,
        }
    }
}

impl Record {
    const EMPTY: Record = Record {
        device: [0; 2],
        clock: 0,
        partners: [PartnerKey(0); AFFINITY_ENTRIES_MAX],
        at: 0,
        newer: NOWHERE,
        older: NOWHERE,
        counter: 0,
        weights: [AffinityWeight(0); AFFINITY_ENTRIES_MAX],
        length: 0,
        novelty: 0,
    };

    fn new(device: DeviceKey, version: AffinityVersion, list: &AffinityList) -> Record {
        let mut record = Record {
            device: [device.0 as u64, (device.0 >> 64) as u64],
            clock: version.clock,
            counter: version.counter,
            at: list.at,
            novelty: list.novelty,
            length: list.entries().len() as u8,
            ..Record::EMPTY
        };
        for (at, entry) in list.entries().iter().enumerate() {
            (record.partners[at], record.weights[at]) = (entry.partner, entry.weight);
        }
        record
    }

    fn device(&self) -> DeviceKey {
        let [low, high] = self.device;
        DeviceKey(u128::from(high) << 64 | u128::from(low))
    }

    fn version(&self) -> AffinityVersion {
        AffinityVersion {
            clock: self.clock,
            counter: self.counter,
        }
    }

    fn list(&self) -> AffinityList {
        let mut list = AffinityList::new(self.at, self.novelty);
        let entries = self.partners.iter().zip(&self.weights).take(usize::from(self.length));
        for (&partner, &weight) in entries {
            list.push(AffinityEntry { partner, weight });
        }
        list
    }
}

fn record_at(chunks: &[Box<[Record]>], place: u32) -> &Record {
    &chunks[place as usize / CHUNK][place as usize % CHUNK]
}

fn device_at(chunks: &[Box<[Record]>], place: u32) -> DeviceKey {
    record_at(chunks, place).device()
}

fn hash(device: DeviceKey) -> u64 {
    use std::hash::{Hash, Hasher};
    let mut hasher = KeyHasher::default();
    device.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(n: u32) -> DeviceKey {
        DeviceKey(u128::from(n) << 64 | u128::from(n))
    }

    fn version(clock: u64, counter: u16) -> AffinityVersion {
        AffinityVersion { clock, counter }
    }

    /// Written to each of these, in this order, a minute apart from `at` on.
    fn list(at: u32, partners: impl IntoIterator<Item = u64>) -> AffinityList {
        let mut affinity = Affinity::default();
        for (n, partner) in (0..).zip(partners) {
            affinity.sent(at + n * 60, PartnerKey(partner));
        }
        affinity.digest()
    }

    fn partners(archive: &Archive, of: u32) -> Vec<u64> {
        let (_, list) = archive.peek(device(of)).expect("a list");
        list.entries().iter().map(|entry| entry.partner.0).collect()
    }

    #[test]
    fn a_later_list_counts_and_what_only_an_earlier_one_knows_stays_while_there_is_room() {
        let told = [
            (version(5, 0), list(1_000, 1..AFFINITY_ENTRIES_MAX as u64)),
            (version(5, 1), list(90_000, [1, 20])),
            (version(9, 0), list(100_000, [30])),
        ];
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0], [0, 2, 1]] {
            let mut archive = Archive::new(10);
            for at in order.into_iter().chain(order) {
                let (version, list) = &told[at];
                archive.keep(device(1), *version, list);
            }
            assert_eq!(archive.peek(device(1)).unwrap().0, version(9, 0));
            let kept = partners(&archive, 1);
            assert_eq!(kept[..3], [30, 20, 1], "{order:?}");
            assert_eq!(kept.len(), AFFINITY_ENTRIES_MAX);
            assert!(!kept.contains(&2), "the one that was longest without a message goes");
        }
    }

    #[test]
    fn what_was_told_already_is_no_news() {
        let mut archive = Archive::new(10);
        let told = list(1_000, [1, 2, 3]);
        assert!(archive.keep(device(1), version(5, 0), &told));
        assert!(!archive.keep(device(1), version(5, 0), &told));
        assert!(!archive.keep(device(1), version(4, 7), &list(1_000, [1])));
        assert!(archive.keep(device(1), version(4, 7), &list(1_000, [8])));
    }

    #[test]
    fn the_list_that_was_longest_not_used_goes_first_and_the_bound_holds() {
        let mut archive = Archive::new(3_000);
        for n in 0..10_000 {
            archive.keep(device(n), version(1, 0), &list(1_000, [u64::from(n)]));
            assert!(archive.recall(device(0)).is_some(), "it is used all the time");
            assert!(archive.len() <= 3_000);
        }
        assert_eq!(archive.evicted(), 7_000);
        assert!(archive.peek(device(7_000)).is_none());
        assert!((7_001..10_000).all(|n| partners(&archive, n) == [u64::from(n)]));
        assert_eq!(archive.places(), 3_000, "places are used again");
    }

    #[test]
    fn what_was_removed_is_at_no_place() {
        let mut archive = Archive::new(100);
        for n in 0..50 {
            archive.keep(device(n), version(1, 0), &list(1_000, [1]));
        }
        for n in (0..50).step_by(2) {
            assert!(archive.remove(device(n)) && !archive.remove(device(n)));
        }
        let left: Vec<DeviceKey> = (0..archive.places())
            .filter_map(|at| archive.at(at))
            .map(|(device, ..)| device)
            .collect();
        assert_eq!(left, (1..50).step_by(2).map(device).collect::<Vec<_>>());
        for n in 0..200 {
            archive.keep(device(n), version(2, 0), &list(1_000, [2]));
        }
        assert_eq!(archive.len(), 100);
    }

    #[test]
    fn none_are_kept_where_none_may_be() {
        let mut archive = Archive::new(0);
        assert!(!archive.keep(device(1), version(1, 0), &list(1_000, [1])));
        assert!(archive.is_empty() && archive.recall(device(1)).is_none());
    }
}
