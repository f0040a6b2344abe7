//! Which session streams of other nodes this node's shards have taken, until all have.

use trunkline_wire::id::{NodeId, RegionId};

/// Counts the shards that have taken a stream.
#[derive(Debug)]
pub(super) struct Taken {
    shards: u16,
    /// Few: one for each stream under way.
    streams: Vec<(NodeId, RegionId, u64, u16)>,
}

impl Taken {
    pub(super) fn new(shards: u16) -> Taken {
        let streams = Vec::new();
        Taken { shards, streams }
    }

    /// One more shard has taken it; true with the last one.
    pub(super) fn by_one(&mut self, node: NodeId, region: RegionId, sync: u64) -> bool {
        // An older stream of the same region will not be completed any more.
        self.streams
            .retain(|&(n, r, s, _)| (n, r) != (node, region) || s >= sync);
        let known = self
            .streams
            .iter_mut()
            .find(|(n, r, s, _)| (*n, *r, *s) == (node, region, sync));
        let count = match known {
            Some((.., count)) => {
                *count += 1;
                *count
            }
            None => {
                self.streams.push((node, region, sync, 1));
                1
            }
        };
        if count >= self.shards {
            self.streams.retain(|&(n, r, s, _)| (n, r, s) != (node, region, sync));
        }
        count >= self.shards
    }

    /// The link is down: its streams begin anew on the next.
    pub(super) fn forget(&mut self, node: NodeId) {
        self.streams.retain(|&(n, ..)| n != node);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_taken_when_all_shards_have_it_and_an_older_one_no_longer_counts() {
        let (node, region) = (NodeId(1), RegionId(2));
        let mut taken = Taken::new(2);
        assert!(!taken.by_one(node, region, 5));
        assert!(!taken.by_one(node, region, 6));
        assert!(!taken.by_one(node, RegionId(3), 6));
        assert!(taken.by_one(node, region, 6));
        taken.forget(node);
        assert!(taken.streams.is_empty());
        assert!(Taken::new(1).by_one(node, region, 5));
    }
}
