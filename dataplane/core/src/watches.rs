//! Which nodes have asked an instance where a device is, ahead of need: they are told when it turns up elsewhere.
//!
//! An answer is true for as long as the device stays where it is, or isn't given at all while the device is away. So a question is answered at
//! once, if the device is there, and again whenever it has registered anew: [`MOVES_MAX`] times, then a node that still wants to know asks
//! again. Who was told with a message that went by way of this instance counts as one that has asked.
//!
//! Bounded by two generations, as [`crate::location::Locations`], and by [`WATCHERS_MAX`] nodes a device. What is forgotten costs its node an
//! extra hop.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use trunkline_wire::id::{NodeId, PartnerKey};
use trunkline_wire::keyed::KeyHasher;

/// How many nodes are told of one device: of those that asked for it, the last. Who is asked for by more is somebody whom everybody writes to,
/// and whose moves would cost a frame for each node of the cluster.
pub const WATCHERS_MAX: usize = 4;

/// Of how many moves of a device a node is told that has asked once. One that connects anew all the time costs so many frames, and not one each time.
pub const MOVES_MAX: u8 = 8;

type Table = HashMap<PartnerKey, [Watcher; WATCHERS_MAX], BuildHasherDefault<KeyHasher>>;

/// A node that has asked, and of how many moves it is still told; nobody if of none.
#[derive(Clone, Copy, Debug, Default)]
struct Watcher {
    node: NodeId,
    moves: u8,
}

/// Who is to be told, of one shard's devices.
#[derive(Debug)]
pub struct Watches {
    young: Table,
    old: Table,
    generation_max: usize,
}

impl Watches {
    /// Remembers at most `devices_max` (at least 2) devices.
    pub fn new(devices_max: usize) -> Watches {
        Watches {
            young: Table::default(),
            old: Table::default(),
            generation_max: (devices_max / 2).max(1),
        }
    }

    /// `node` has asked where `device` is.
    pub fn watch(&mut self, device: PartnerKey, node: NodeId) {
        let mut watchers = match self.young.get(&device) {
            Some(watchers) => *watchers,
            None => self.old.remove(&device).unwrap_or_default(),
        };
        let place = watchers.iter().position(|watcher| watcher.node == node);
        // The latest first; the one that asked longest ago falls out.
        watchers[..=place.unwrap_or(WATCHERS_MAX - 1)].rotate_right(1);
        let moves = MOVES_MAX;
        watchers[0] = Watcher { node, moves };
        if self.young.len() >= self.generation_max && !self.young.contains_key(&device) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(device, watchers);
    }

    /// `device` has turned up: who is to be told.
    pub fn told(&mut self, device: PartnerKey) -> impl Iterator<Item = NodeId> + use<> {
        let watchers = match self.is_empty() {
            true => None,
            false => self.young.get_mut(&device).or_else(|| self.old.get_mut(&device)),
        };
        let told = watchers.map(|watchers| {
            let told = *watchers;
            for watcher in watchers {
                watcher.moves = watcher.moves.saturating_sub(1);
            }
            told
        });
        let told = told.into_iter().flatten();
        told.filter(|watcher| watcher.moves > 0).map(|watcher| watcher.node)
    }

    /// How many devices are watched.
    pub fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.young.is_empty() && self.old.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(watches: &mut Watches, device: u64) -> Vec<u32> {
        watches.told(PartnerKey(device)).map(|node| node.0).collect()
    }

    #[test]
    fn who_asked_is_told_of_so_many_moves_and_of_as_many_more_if_it_asks_again() {
        let mut watches = Watches::new(10);
        for node in [1, 2, 1] {
            watches.watch(PartnerKey(7), NodeId(node));
        }
        assert_eq!(told(&mut watches, 8), []);
        assert_eq!(told(&mut watches, 7), [1, 2]);
        watches.watch(PartnerKey(7), NodeId(2));
        for _ in 1..MOVES_MAX {
            assert_eq!(told(&mut watches, 7), [2, 1]);
        }
        assert_eq!(told(&mut watches, 7), [2]);
        assert_eq!(told(&mut watches, 7), []);
    }

    #[test]
    fn of_those_who_asked_the_last_are_told_and_who_asks_again_is_one_of_them() {
        let mut watches = Watches::new(10);
        for node in 1..=4 {
            watches.watch(PartnerKey(7), NodeId(node));
        }
        watches.watch(PartnerKey(7), NodeId(1));
        watches.watch(PartnerKey(7), NodeId(5));
        assert_eq!(told(&mut watches, 7), [5, 1, 4, 3]);
    }

    #[test]
    fn the_bound_holds_and_who_is_asked_for_again_stays() {
        let mut watches = Watches::new(100);
        for device in 2..1_000 {
            watches.watch(PartnerKey(1), NodeId(9));
            watches.watch(PartnerKey(device), NodeId(1));
            assert!(watches.len() <= 100);
        }
        assert_eq!(told(&mut watches, 1), [9]);
        assert_eq!(told(&mut watches, 2), []);
    }
}
