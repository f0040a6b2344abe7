//! The region's knowledge of where its devices are connected (local device connection information), as one instance's shard has it.
//!
//! A join semilattice: per device the highest epoch wins, so that order, repetition and the choice of instance don't matter.
//! An epoch never goes back: what was removed is remembered for [`TOMBSTONE`]. A late record of what its server removed changes
//! nothing; what was dropped because its server was away, or didn't name it, may come back with it.

mod table;

use std::collections::{BTreeSet, VecDeque};

use trunkline_wire::id::{DeviceKey, Epoch, NodeId, PartnerKey};
use trunkline_wire::time::Instant;

pub use self::table::RECORD_BYTES;

use self::table::{Entry, Table};
use crate::constants::TOMBSTONE;
use trunkline_wire::keyed::KeyMap;

/// The stream of a session that only another instance has told of. Real ones count up from the start's number.
const SECONDHAND: u64 = u64::MAX;

/// Where the devices of one region are.
#[derive(Debug, Default)]
pub struct Presence {
    entries: Table,
    removed: KeyMap<Removed>,
    /// When to forget what was removed, in the order of time.
    forget: VecDeque<(Instant, DeviceKey, Epoch)>,
    /// The devices whose sessions only other instances have told of, and some whose servers have named them since.
    secondhand: BTreeSet<DeviceKey>,
}

/// The highest epoch of a device that is no longer here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Removed {
    epoch: Epoch,
    /// Its own server has ended it. Otherwise nobody could say, and it may still live.
    ended: bool,
}

/// What a registration did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registration {
    /// It is the device's session now; the older one that it replaces, if there was one.
    Taken {
        /// The session that is no longer the device's.
        replaced: Option<Epoch>,
    },
    /// It was known already.
    Repeated,
    /// A higher epoch is known, or was until lately.
    Stale {
        /// The higher epoch.
        highest: Epoch,
    },
    /// Its server has ended it already, and this was late.
    Removed,
}

impl Presence {
    /// The device's session, if it has one.
    pub fn find(&self, device: DeviceKey) -> Option<Epoch> {
        self.entries.find(device).map(|entry| entry.epoch)
    }

    /// A device that is known by a part of its key, and its session, if it has one.
    pub fn find_partner(&self, device: PartnerKey) -> Option<(DeviceKey, Epoch)> {
        let (device, entry) = self.entries.find_partner(device)?;
        Some((device, entry.epoch))
    }

    /// The highest epoch that is known for the device, of a session that is or of one that was until lately.
    pub fn highest(&self, device: DeviceKey) -> Option<Epoch> {
        self.find(device)
            .max(self.removed.get(&device).map(|removed| removed.epoch))
    }

    /// Whether a session is known to be no more: its server has ended it, or a newer one is or was until lately.
    pub fn is_over(&self, device: DeviceKey, epoch: Epoch) -> bool {
        let is_newer = self.highest(device).is_some_and(|highest| highest > epoch);
        is_newer
            || self
                .removed
                .get(&device)
                .is_some_and(|it| it.epoch == epoch && it.ended)
    }

    /// A session exists, named in its server's stream `sync`.
    pub fn register(&mut self, device: DeviceKey, epoch: Epoch, sync: u64) -> Registration {
        if let Some(&removed) = self.removed.get(&device) {
            if removed.epoch == epoch && removed.ended {
                return Registration::Removed;
            }
            if removed.epoch > epoch {
                return Registration::Stale {
                    highest: self.highest(device).expect("it has a tombstone"),
                };
            }
        }
        match self.entries.find(device) {
            None => {
                self.entries.set(device, Entry { epoch, sync });
                Registration::Taken { replaced: None }
            }
            Some(entry) if entry.epoch == epoch => {
                self.entries.set(device, Entry { epoch, sync });
                Registration::Repeated
            }
            Some(entry) if entry.epoch < epoch || trunkline_wire::planted!(AcceptOlderEpoch) => {
                self.entries.set(device, Entry { epoch, sync });
                Registration::Taken {
                    replaced: Some(entry.epoch),
                }
            }
            Some(entry) => Registration::Stale { highest: entry.epoch },
        }
    }

    /// As [`Presence::register`], of a session that another instance tells of: in no stream of its server's.
    pub fn register_secondhand(&mut self, device: DeviceKey, epoch: Epoch) -> Registration {
        match self.entries.find(device) {
            // Its server may have named it itself.
            Some(entry) if entry.epoch == epoch => Registration::Repeated,
            Some(_) | None => {
                let registration = self.register(device, epoch, SECONDHAND);
                if matches!(registration, Registration::Taken { .. }) {
                    self.secondhand.insert(device);
                }
                registration
            }
        }
    }

    /// Drops the sessions at `node` that only other instances have told of: the server has the same map as this node, has named all its
    /// sessions by it, and these were not among them. Returns how many.
    pub fn drop_secondhand(&mut self, now: Instant, node: NodeId) -> usize {
        let mut dropped = Vec::new();
        let entries = &self.entries;
        self.secondhand.retain(|device| {
            let secondhand = entries.find(*device).filter(|entry| entry.sync == SECONDHAND);
            let of_node = secondhand.filter(|entry| entry.epoch.node == node);
            dropped.extend(of_node.map(|entry| (*device, entry.epoch)));
            secondhand.is_some() && of_node.is_none()
        });
        for &(device, epoch) in &dropped {
            self.remove(now, device, Removed { epoch, ended: false });
        }
        dropped.len()
    }

    /// The session belongs to another region now, and lives on: exactly this epoch is removed, without a tombstone.
    pub fn withdraw(&mut self, device: DeviceKey, epoch: Epoch) -> bool {
        let known = self.find(device) == Some(epoch);
        if known && trunkline_wire::planted!(WithdrawnForGood) {
            let end = Removed { epoch, ended: true };
            self.removed.insert(device, end);
        }
        if known {
            self.entries.remove(device);
        }
        known
    }

    /// A session is no more: removes exactly this epoch. Returns whether it was there.
    pub fn unregister(&mut self, now: Instant, device: DeviceKey, epoch: Epoch) -> bool {
        self.remove(now, device, Removed { epoch, ended: true })
    }

    fn remove(&mut self, now: Instant, device: DeviceKey, removed: Removed) -> bool {
        let Removed { epoch, ended } = removed;
        self.secondhand.remove(&device);
        if trunkline_wire::planted!(NoTombstone) {
            return self.find(device) == Some(epoch) && self.entries.remove(device);
        }
        let is_news = match self.removed.get_mut(&device) {
            Some(known) if known.epoch >= epoch => {
                known.ended |= ended && known.epoch == epoch;
                false
            }
            Some(_) | None => true,
        };
        // What is said again, as with each message that finds the session gone, is remembered no more often.
        if is_news {
            self.removed.insert(device, removed);
            let kept = match trunkline_wire::planted!(TombstoneShort) {
                true => std::time::Duration::from_secs(1),
                false => TOMBSTONE,
            };
            self.forget.push_back((now + kept, device, epoch));
        }
        match self.find(device) {
            Some(held) if held == epoch || trunkline_wire::planted!(UnregisterAnyEpoch) => self.entries.remove(device),
            _ => false,
        }
    }

    /// Drops the sessions at `node` that were not named in its stream `sync`; with `None` all of them, which it may name again when it
    /// is back. Returns how many.
    pub fn drop_unnamed(&mut self, now: Instant, node: NodeId, sync: Option<u64>) -> usize {
        self.drop_where(now, node, |entry| {
            sync.is_none_or(|sync| entry.sync != sync || trunkline_wire::planted!(DropNamed))
        })
    }

    /// As [`Presence::drop_unnamed`], but for what other instances have told of: by the server's older map it belongs to their region,
    /// and is named to them.
    pub fn drop_unnamed_but_secondhand(&mut self, now: Instant, node: NodeId, sync: u64) -> usize {
        let unnamed =
            |entry: &Entry| (entry.sync != sync || trunkline_wire::planted!(DropNamed)) && entry.sync != SECONDHAND;
        self.drop_where(now, node, unnamed)
    }

    fn drop_where(&mut self, now: Instant, node: NodeId, of: impl Fn(&Entry) -> bool) -> usize {
        let unnamed = |entry: &Entry| entry.epoch.node == node && of(entry) && !trunkline_wire::planted!(KeepUnnamed);
        let mut dropped: Vec<(DeviceKey, Epoch)> = Vec::new();
        dropped.extend(
            self.entries
                .iter()
                .filter(|(_, entry)| unnamed(entry))
                .map(|(key, entry)| (key, entry.epoch)),
        );
        for &(device, epoch) in &dropped {
            // Its server may have ended it while it was away, or it moved to another region, and may come back.
            let ended = trunkline_wire::planted!(DroppedForGood);
            self.remove(now, device, Removed { epoch, ended });
        }
        dropped.len()
    }

    /// Forgets what was removed long ago.
    pub fn tick(&mut self, now: Instant) {
        while let Some(&(at, device, epoch)) = self.forget.front() {
            if at > now {
                break;
            }
            self.forget.pop_front();
            if self.removed.get(&device).is_some_and(|removed| removed.epoch == epoch) {
                self.removed.remove(&device);
            }
        }
    }

    /// Whether no session that was removed is held, and what is to be forgotten by `now` is.
    ///
    /// # Errors
    /// What isn't so.
    pub fn check(&self, now: Instant) -> Result<(), String> {
        for (&device, removed) in &self.removed {
            if let Some(held) = self.find(device)
                && (removed.epoch > held || removed.epoch == held && removed.ended)
            {
                return Err(format!("{device:?} is held at {held}, and {} has ended", removed.epoch));
            }
        }
        // That of an older session of the device is forgotten in its time, too.
        if self.removed.len() > self.forget.len() {
            return Err(format!(
                "{} removals, {} of them to be forgotten",
                self.removed.len(),
                self.forget.len()
            ));
        }
        if self.forget.front().is_some_and(|(at, ..)| *at + TOMBSTONE < now) {
            return Err("a removal that was to be forgotten a minute ago".into());
        }
        Ok(())
    }

    /// How many devices are connected, as far as known.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Entries of all tables: of those who are connected, and of those who have left lately.
    pub fn entries(&self) -> usize {
        self.entries.len() + self.removed.len() + self.forget.len() + self.secondhand.len()
    }

    /// What the devices that are connected take from memory, in bytes: without those who have left lately.
    pub fn bytes(&self) -> usize {
        self.entries.bytes()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.entries.len() == 0
    }

    /// All devices and their sessions, by key.
    pub fn sorted(&self) -> Vec<(DeviceKey, Epoch)> {
        self.sorted_where(|_, _| true)
    }

    /// Those for which `wanted` holds, by key.
    pub fn sorted_where(&self, wanted: impl Fn(DeviceKey, Epoch) -> bool) -> Vec<(DeviceKey, Epoch)> {
        let all = self.entries.iter().map(|(key, entry)| (key, entry.epoch));
        let mut all: Vec<_> = all.filter(|(key, epoch)| wanted(*key, *epoch)).collect();
        all.sort_unstable_by_key(|(key, _)| *key);
        all
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const DEVICE: DeviceKey = DeviceKey(5);
    const T0: Instant = Instant::ZERO;

    fn epoch(clock: u64, node: u32) -> Epoch {
        Epoch {
            clock,
            node: NodeId(node),
        }
    }

    #[test]
    fn a_late_old_record_never_overrides_a_newer_one() {
        let mut presence = Presence::default();
        presence.register(DEVICE, epoch(7, 2), 1);
        assert_eq!(
            presence.register(DEVICE, epoch(6, 1), 1),
            Registration::Stale { highest: epoch(7, 2) }
        );
        assert_eq!(presence.find(DEVICE), Some(epoch(7, 2)));
    }

    #[test]
    fn unregistering_removes_exactly_the_epoch_it_names() {
        let mut presence = Presence::default();
        presence.register(DEVICE, epoch(7, 2), 1);
        assert!(!presence.unregister(T0, DEVICE, epoch(6, 1)));
        assert_eq!(presence.find(DEVICE), Some(epoch(7, 2)));
        assert!(presence.unregister(T0, DEVICE, epoch(7, 2)));
        assert_eq!(presence.find(DEVICE), None);
    }

    #[test]
    fn what_was_unregistered_is_remembered_for_sixty_seconds() {
        let mut presence = Presence::default();
        presence.unregister(T0, DEVICE, epoch(7, 2));
        presence.tick(T0 + Duration::from_secs(59));
        assert_eq!(presence.register(DEVICE, epoch(7, 2), 1), Registration::Removed);
        assert_eq!(
            presence.register(DEVICE, epoch(6, 1), 1),
            Registration::Stale { highest: epoch(7, 2) }
        );
        presence.tick(T0 + TOMBSTONE);
        assert_eq!(
            presence.register(DEVICE, epoch(6, 1), 1),
            Registration::Taken { replaced: None }
        );
    }

    #[test]
    fn what_is_unregistered_again_and_again_is_remembered_once() {
        let mut presence = Presence::default();
        presence.unregister(T0, DEVICE, epoch(7, 2));
        let once = presence.entries();
        for seconds in 1..50 {
            presence.unregister(T0 + Duration::from_secs(seconds), DEVICE, epoch(7, 2));
            presence.unregister(T0 + Duration::from_secs(seconds), DEVICE, epoch(6, 1));
        }
        assert_eq!(presence.entries(), once);
    }

    #[test]
    fn what_a_stream_does_not_repeat_is_dropped_at_its_end() {
        let mut presence = Presence::default();
        presence.register(DeviceKey(1), epoch(1, 1), 1);
        presence.register(DeviceKey(2), epoch(1, 1), 1);
        presence.register(DeviceKey(3), epoch(1, 2), 1);
        presence.register(DeviceKey(1), epoch(1, 1), 2);
        assert_eq!(presence.drop_unnamed(T0, NodeId(1), Some(2)), 1);
        assert_eq!(
            presence.sorted(),
            [(DeviceKey(1), epoch(1, 1)), (DeviceKey(3), epoch(1, 2))]
        );
    }

    #[test]
    fn what_was_dropped_with_its_server_comes_back_with_it_unless_it_ended_meanwhile() {
        let mut presence = Presence::default();
        presence.register(DEVICE, epoch(7, 2), 1);
        assert_eq!(presence.drop_unnamed(T0, NodeId(2), None), 1);
        assert_eq!(
            presence.register(DEVICE, epoch(6, 1), 1),
            Registration::Stale { highest: epoch(7, 2) }
        );
        assert_eq!(
            presence.register(DEVICE, epoch(7, 2), 2),
            Registration::Taken { replaced: None }
        );
        presence.drop_unnamed(T0, NodeId(2), None);
        presence.unregister(T0, DEVICE, epoch(7, 2));
        assert_eq!(presence.register(DEVICE, epoch(7, 2), 3), Registration::Removed);
    }

    proptest! {
        /// Whatever the order of the registrations, and of the removals behind them, and however often each is repeated: the same
        /// presence.
        #[test]
        fn order_and_repetition_do_not_matter(
            ops in prop::collection::vec((0u128..4, 1u64..6, 1u32..3, any::<bool>()), 1..40),
            seed in any::<u64>(),
        ) {
            let apply = |registered: &[(u128, u64, u32, bool)], removed: &[(u128, u64, u32, bool)]| {
                let mut presence = Presence::default();
                for &(device, clock, node, _) in registered {
                    presence.register(DeviceKey(device), epoch(clock, node), 1);
                }
                for &(device, clock, node, _) in removed {
                    presence.unregister(T0, DeviceKey(device), epoch(clock, node));
                }
                presence.sorted()
            };
            let removed: Vec<_> = ops.iter().copied().filter(|op| op.3).collect();
            let straight = apply(&ops, &removed);
            let mut rng = fastrand::Rng::with_seed(seed);
            let [mut registered, mut removed] = [&ops, &removed].map(|ops| ops.repeat(2));
            rng.shuffle(&mut registered);
            rng.shuffle(&mut removed);
            prop_assert_eq!(straight, apply(&registered, &removed));
        }
    }
}
