//! Which nodes an instance has told lately where which device is.
//!
//! A node that has no link to the recipient's server goes on sending by way of the region, however well it knows the location: it
//! is told again once in a while, and not with every message. Bounded, and forgetful: a pair whose place another pair takes is told
//! again with its next message.

use trunkline_wire::id::{DeviceKey, Epoch, NodeId};
use trunkline_wire::time::Instant;

use crate::constants::{LOCATION_TOLD_AGAIN, LOCATIONS_TOLD_MAX};

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct LocationsTold {
    /// By node and device; none before the first.
    places: Vec<Option<Told>>,
}

/// What one node was told of one device.
#[derive(Clone, Copy, Debug)]
struct Told {
    node: NodeId,
    device: DeviceKey,
    epoch: Epoch,
    at: Instant,
}

impl LocationsTold {
    /// Whether `node` is to be told now that the session of `device` is `epoch`. If so, it counts as told.
    pub(super) fn is_news(&mut self, now: Instant, node: NodeId, device: DeviceKey, epoch: Epoch) -> bool {
        if self.places.is_empty() {
            self.places = vec![None; LOCATIONS_TOLD_MAX];
        }
        let place = &mut self.places[place(node, device)];
        let is_known = place.is_some_and(|told| {
            let same = (told.node, told.device, told.epoch) == (node, device, epoch);
            same && now.since(told.at) < LOCATION_TOLD_AGAIN
        });
        if !is_known {
            *place = Some(Told {
                node,
                device,
                epoch,
                at: now,
            });
        }
        !is_known
    }

    /// `node` may have started anew, and know nothing.
    pub(super) fn forget(&mut self, node: NodeId) {
        for place in &mut self.places {
            place.take_if(|told| told.node == node);
        }
    }
}

/// Bits of the key that neither all devices of a region nor all of a shard have in common.
fn place(node: NodeId, device: DeviceKey) -> usize {
    let bits = (device.0 >> 64) as u32 ^ node.0.wrapping_mul(0x9e37_79b9);
    bits as usize % LOCATIONS_TOLD_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Instant = Instant::from_micros(1_000_000);
    const DEVICE: DeviceKey = DeviceKey(7 << 64);

    fn epoch(clock: u64) -> Epoch {
        Epoch { clock, node: NodeId(9) }
    }

    #[test]
    fn a_node_is_told_once_until_it_is_time_again_or_there_is_something_else_to_tell() {
        let mut told = LocationsTold::default();
        let (one, other) = (NodeId(1), NodeId(2));
        assert!(told.is_news(T0, one, DEVICE, epoch(1)));
        assert!(!told.is_news(T0, one, DEVICE, epoch(1)));
        assert!(told.is_news(T0, other, DEVICE, epoch(1)), "another node");
        assert!(told.is_news(T0, one, DEVICE, epoch(2)), "another session");
        let later = T0 + LOCATION_TOLD_AGAIN;
        assert!(told.is_news(later, one, DEVICE, epoch(2)), "a while later");
        assert!(!told.is_news(later, one, DEVICE, epoch(2)));
    }

    #[test]
    fn a_node_whose_link_is_new_is_told_anew_and_the_others_are_not() {
        let mut told = LocationsTold::default();
        let (one, other) = (NodeId(1), NodeId(2));
        assert!(told.is_news(T0, one, DEVICE, epoch(1)) && told.is_news(T0, other, DEVICE, epoch(1)));
        told.forget(one);
        assert!(told.is_news(T0, one, DEVICE, epoch(1)));
        assert!(!told.is_news(T0, other, DEVICE, epoch(1)));
    }

    #[test]
    fn the_memory_is_bounded_and_who_was_displaced_is_told_again() {
        let mut told = LocationsTold::default();
        let devices = || (0..2 * LOCATIONS_TOLD_MAX as u128).map(|n| DeviceKey(n << 64));
        for device in devices() {
            assert!(told.is_news(T0, NodeId(1), device, epoch(1)));
        }
        assert_eq!(told.places.len(), LOCATIONS_TOLD_MAX);
        assert!(devices().all(|device| told.is_news(T0, NodeId(1), device, epoch(1))));
    }
}
