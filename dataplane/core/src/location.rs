//! Where devices of other nodes were last known to be: hints from their regions, used to send straight to the right node.
//!
//! A wrong entry costs one extra hop and no message. Bounded by two generations: what was not used while the younger one filled up
//! goes first.

use trunkline_wire::id::{DeviceKey, Epoch, NodeId, PartnerKey};

use trunkline_wire::keyed::KeyMap;

/// The locations that one shard remembers.
#[derive(Debug)]
pub struct Locations {
    young: KeyMap<Epoch>,
    old: KeyMap<Epoch>,
    generation_max: usize,
}

impl Locations {
    /// Remembers at most `entries_max` (at least 2).
    pub fn new(entries_max: usize) -> Locations {
        Locations {
            young: KeyMap::default(),
            old: KeyMap::default(),
            generation_max: (entries_max / 2).max(1),
        }
    }

    /// The session of `device`, as far as known. Its epoch names the node.
    pub fn find(&mut self, device: DeviceKey) -> Option<Epoch> {
        if let Some(&epoch) = self.young.get(&device) {
            return Some(epoch);
        }
        let epoch = self.old.remove(&device)?;
        self.insert(device, epoch);
        Some(epoch)
    }

    /// As [`Locations::peek`], of a device that is known by a part of its key.
    pub fn peek_partner(&self, device: PartnerKey) -> Option<Epoch> {
        self.young.get(&device).or_else(|| self.old.get(&device)).copied()
    }

    /// Forgets where a device is that is known by a part of its key.
    pub fn forget_partner(&mut self, device: PartnerKey) {
        self.young.remove(&device);
        self.old.remove(&device);
    }

    /// As [`Locations::find`], without counting as a use.
    pub fn peek(&self, device: DeviceKey) -> Option<Epoch> {
        self.young.get(&device).or_else(|| self.old.get(&device)).copied()
    }

    /// Learns a location, unless a higher epoch is known. Returns what is known then.
    pub fn learn(&mut self, device: DeviceKey, epoch: Epoch) -> Epoch {
        let known = self.old.remove(&device).max(self.young.get(&device).copied());
        let epoch = known.map_or(epoch, |known| known.max(epoch));
        self.insert(device, epoch);
        epoch
    }

    /// A message of `device` has come from `node`, which says where it was a moment ago, and not which of its sessions that is: as good as
    /// a location until one is learnt, and nothing beside one that was.
    pub fn suppose(&mut self, device: DeviceKey, node: NodeId) {
        let clock = SUPPOSED;
        self.learn(device, Epoch { clock, node });
    }

    /// Forgets where `device` is.
    pub fn forget(&mut self, device: DeviceKey) {
        self.young.remove(&device);
        self.old.remove(&device);
    }

    /// How many locations are known.
    pub fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn insert(&mut self, device: DeviceKey, epoch: Epoch) {
        if self.young.len() >= self.generation_max && !self.young.contains_key(&device) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(device, epoch);
    }
}

/// Whether a location is only supposed, because a message of the device came from there: its epoch is no session's.
pub fn is_supposed(epoch: Epoch) -> bool {
    epoch.clock == SUPPOSED
}

/// The clock of a session that is only supposed: below that of every one that there is, whose upper 48 bits are milliseconds.
const SUPPOSED: u64 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch(clock: u64) -> Epoch {
        Epoch { clock, node: NodeId(1) }
    }

    #[test]
    fn the_bound_holds_and_what_is_used_stays() {
        let mut locations = Locations::new(100);
        let hot = DeviceKey(1 << 64);
        locations.learn(hot, epoch(1));
        for other in 2..1_000u128 {
            locations.learn(DeviceKey(other << 64), epoch(1));
            assert_eq!(locations.find(hot), Some(epoch(1)));
            assert!(locations.len() <= 100);
        }
    }

    #[test]
    fn an_older_location_never_replaces_a_newer_one() {
        let mut locations = Locations::new(100);
        let device = DeviceKey(7 << 64);
        locations.learn(device, epoch(5));
        locations.learn(device, epoch(4));
        assert_eq!(locations.peek(device), Some(epoch(5)));
        locations.forget(device);
        assert_eq!(locations.find(device), None);
    }

    #[test]
    fn what_is_supposed_stands_until_something_is_learnt() {
        let mut locations = Locations::new(100);
        let device = DeviceKey(7 << 64);
        let at = |locations: &Locations| locations.peek(device).map(|epoch| epoch.node);
        locations.suppose(device, NodeId(2));
        assert_eq!(at(&locations), Some(NodeId(2)));
        locations.learn(device, epoch(1 << 16));
        locations.suppose(device, NodeId(3));
        assert_eq!((at(&locations), locations.len()), (Some(NodeId(1)), 1));
    }
}
