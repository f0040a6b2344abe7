//! The hybrid logical clock that mints session epochs: close to the wall clock, never backwards, above what was seen.

use trunkline_wire::id::{Epoch, NodeId};

/// How far ahead of this node's wall clock an epoch that a device presents may be: a year, in milliseconds.
///
/// A device may present anything. Were a value near the end of the number range believed, nothing could be minted above it.
/// What is ignored here and still true is answered by the region, above which the first registration is raised.
const PRESENTED_AHEAD_MS_MAX: u64 = 366 * 24 * 3600 * 1000;

/// Mints epochs for the sessions of one shard.
#[derive(Clone, Debug)]
pub struct EpochClock {
    node: NodeId,
    last: u64,
}

impl EpochClock {
    /// A clock that has minted nothing yet.
    pub fn new(node: NodeId) -> EpochClock {
        EpochClock { node, last: 0 }
    }

    /// A new epoch above all that this clock has minted, the wall clock, and `above`.
    pub fn mint(&mut self, wall_ms: u64, above: Epoch) -> Epoch {
        let clock = (wall_ms << 16).max(self.last + 1).max(above.clock.saturating_add(1));
        let clock = if trunkline_wire::planted!(EpochOfWallClock) {
            wall_ms << 16
        } else {
            clock
        };
        // One device's history must not drag the others' epochs along: only what lies near the wall clock is remembered.
        if clock >> 16 <= wall_ms + PRESENTED_AHEAD_MS_MAX {
            self.last = self.last.max(clock);
        }
        Epoch { clock, node: self.node }
    }

    /// What of a presented epoch is believed.
    pub fn believable(wall_ms: u64, presented: Epoch) -> Epoch {
        if presented.clock >> 16 > wall_ms + PRESENTED_AHEAD_MS_MAX {
            Epoch::NONE
        } else {
            presented
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId(3);

    #[test]
    fn an_epoch_is_above_the_wall_clock_the_presented_one_and_its_predecessor() {
        let mut clock = EpochClock::new(NODE);
        let first = clock.mint(1_000, Epoch::NONE);
        assert_eq!(first.clock, 1_000 << 16);
        let second = clock.mint(1_000, Epoch::NONE);
        assert!(second > first);
        let presented = Epoch {
            clock: 2_000 << 16,
            node: NodeId(9),
        };
        let third = clock.mint(1_000, presented);
        assert!(third > presented);
        assert!(
            clock.mint(500, Epoch::NONE) > third,
            "a wall clock that went back doesn't take the epochs along"
        );
    }

    #[test]
    fn a_device_that_presents_the_end_of_time_is_not_believed() {
        let absurd = Epoch {
            clock: u64::MAX,
            node: NodeId(9),
        };
        assert_eq!(EpochClock::believable(1_000, absurd), Epoch::NONE);
    }
}
