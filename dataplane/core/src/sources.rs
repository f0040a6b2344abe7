//! What one instance's shard has heard from each connection server: whether its "not here" may be believed.
//!
//! ```text
//!            SyncBegin           all shards' SyncEnd
//! Unheard ───────────▶ Syncing ─────────────────────▶ Synced ◀──pong──┐
//!    │ 10 s               │ link lost                 │ │ pause       │
//!    ▼                    ▼                           │ └──────▶ Validating
//!   Gone ◀──── 10 s ──── Lost ◀──────── link lost ────┴──────────────┘
//! ```
//!
//! A server that is gone, and of which a sibling hears, is lost again: what the sibling said of it is forgotten with it.
//!
//! A server that is gone no longer keeps an instance from saying "offline"; when it returns, it streams anew.

use std::collections::BTreeMap;

use trunkline_wire::id::{NodeId, RegionId};
use trunkline_wire::time::Instant;

use crate::constants::GONE_AFTER;

/// What was heard from one connection server about one region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Nothing yet, since this time.
    Unheard {
        /// When it began to matter.
        since: Instant,
    },
    /// Its stream is coming.
    Syncing {
        /// Which stream.
        sync: u64,
        /// How many of its shards have named all their sessions.
        ended: u16,
    },
    /// All its sessions are known, and each change is told.
    Synced {
        /// The stream that made it so; later registrations belong to it too.
        sync: u64,
    },
    /// This instance was paused; what was sent meanwhile is in front of the answer to this ping.
    Validating {
        /// As in `Synced`.
        sync: u64,
        /// The ping's token.
        ping: u64,
    },
    /// Its link was lost.
    Lost {
        /// When.
        since: Instant,
    },
    /// It was away for so long that its sessions are forgotten.
    Gone,
}

/// What was heard from every connection server, for each region that this node serves.
#[derive(Debug, Default)]
pub struct Sources {
    sources: BTreeMap<(RegionId, NodeId), Source>,
}

impl Sources {
    /// Sets which connection servers matter for which regions: new ones start unheard. Of the others, those that are being heard stay
    /// (their map is newer than ours, or older), the rest is forgotten. Returns what was forgotten.
    pub fn expect(&mut self, now: Instant, pairs: impl Iterator<Item = (RegionId, NodeId)>) -> Vec<(RegionId, NodeId)> {
        let mut before = std::mem::take(&mut self.sources);
        for pair in pairs {
            let source = before.remove(&pair).unwrap_or(Source::Unheard { since: now });
            self.sources.insert(pair, source);
        }
        let (heard, forgotten): (Vec<_>, Vec<_>) = before.into_iter().partition(|(_, source)| match source {
            Source::Syncing { .. } | Source::Synced { .. } | Source::Validating { .. } => true,
            Source::Unheard { .. } | Source::Lost { .. } | Source::Gone => false,
        });
        self.sources.extend(heard);
        forgotten.into_iter().map(|(pair, _)| pair).collect()
    }

    /// Forgets what servers said of regions, where that is stale. Returns what was forgotten.
    pub fn forget_stale(&mut self, stale: impl Fn(RegionId, NodeId) -> bool) -> Vec<(RegionId, NodeId)> {
        let pairs = self.sources.keys().copied();
        let forgotten: Vec<_> = pairs.filter(|&(region, node)| stale(region, node)).collect();
        for pair in &forgotten {
            self.sources.remove(pair);
        }
        forgotten
    }

    /// Whether anybody names sessions of `region` here.
    pub fn hears(&self, region: RegionId) -> bool {
        self.of_region(region).next().is_some()
    }

    /// Whether a device that no record names is connected nowhere, as far as connection servers can tell.
    pub fn in_sync(&self, region: RegionId) -> bool {
        trunkline_wire::planted!(OfflineBeforeSync)
            || self
                .of_region(region)
                .all(|(_, source)| matches!(source, Source::Synced { .. } | Source::Gone))
    }

    /// The servers that have yet to be heard of a region, and how far that is.
    pub fn awaited(&self, region: RegionId) -> impl Iterator<Item = (NodeId, Source)> {
        self.of_region(region).filter_map(|(node, source)| match source {
            Source::Unheard { .. } | Source::Syncing { .. } | Source::Validating { .. } | Source::Lost { .. } => {
                Some((node, *source))
            }
            Source::Synced { .. } | Source::Gone => None,
        })
    }

    /// Whether a server has named all its sessions of a region, and tells each change; what it told during a pause may still be unread.
    pub fn is_told_by(&self, region: RegionId, node: NodeId) -> bool {
        match self.sources.get(&(region, node)) {
            Some(Source::Synced { .. } | Source::Validating { .. }) => true,
            Some(Source::Unheard { .. } | Source::Syncing { .. } | Source::Lost { .. } | Source::Gone) | None => false,
        }
    }

    /// The stream to which a registration by `node` belongs now; 0 if it hasn't begun one.
    pub fn stream(&self, region: RegionId, node: NodeId) -> u64 {
        match self.sources.get(&(region, node)) {
            Some(Source::Syncing { sync, .. } | Source::Synced { sync } | Source::Validating { sync, .. }) => *sync,
            Some(Source::Unheard { .. } | Source::Lost { .. } | Source::Gone) | None => 0,
        }
    }

    /// A stream begins.
    pub fn begin(&mut self, region: RegionId, node: NodeId, sync: u64) {
        // A server that the map doesn't name yet is heard all the same: its map may be newer than ours.
        self.sources.insert((region, node), Source::Syncing { sync, ended: 0 });
    }

    /// One of the server's `shards` has named all. True when all have: what was not named is to be dropped.
    pub fn end(&mut self, region: RegionId, node: NodeId, sync: u64, shards: u16) -> bool {
        let Some(source) = self.sources.get_mut(&(region, node)) else {
            return false;
        };
        match source {
            Source::Syncing { sync: current, ended } if *current == sync => {
                *ended += 1;
                if *ended < shards && !trunkline_wire::planted!(SyncEndsWithFirstShard) {
                    return false;
                }
                *source = Source::Synced { sync };
                true
            }
            _ => false,
        }
    }

    /// The link to `node` is no more.
    pub fn lost(&mut self, now: Instant, node: NodeId) {
        for source in self.of_node(node) {
            match source {
                // It was there until now, also if its stream hadn't begun.
                Source::Syncing { .. } | Source::Synced { .. } | Source::Validating { .. } | Source::Lost { .. } => {
                    *source = Source::Lost { since: now };
                }
                Source::Unheard { since } => *since = now,
                Source::Gone => {}
            }
        }
    }

    /// A sibling knows of a session at `node`: if that counted as gone, its end may have to be noticed once more.
    pub fn heard_of(&mut self, now: Instant, region: RegionId, node: NodeId) {
        if let Some(source @ Source::Gone) = self.sources.get_mut(&(region, node)) {
            *source = Source::Lost { since: now };
        }
    }

    /// This instance was paused. `ping` makes a token for each server that has to be asked.
    pub fn doubt(&mut self, mut ping: impl FnMut(NodeId) -> u64) {
        for ((_, node), source) in &mut self.sources {
            match *source {
                Source::Synced { sync } | Source::Validating { sync, .. } => {
                    *source = Source::Validating {
                        sync,
                        ping: ping(*node),
                    };
                }
                Source::Unheard { .. } | Source::Syncing { .. } | Source::Lost { .. } | Source::Gone => {}
            }
        }
    }

    /// The answer to a ping of [`Sources::doubt`]: all that was sent during the pause has been read.
    pub fn validated(&mut self, node: NodeId, token: u64) {
        for source in self.of_node(node) {
            match *source {
                Source::Validating { sync, ping } if ping == token => *source = Source::Synced { sync },
                _ => {}
            }
        }
    }

    /// Who has been away for too long, since the last time this was asked. Whoever has a link (`linked`) is not away: its stream
    /// is still to come.
    pub fn gone(&mut self, now: Instant, linked: impl Fn(NodeId) -> bool) -> Vec<(RegionId, NodeId)> {
        let is_over = |since: Instant| since + GONE_AFTER <= now || trunkline_wire::planted!(GoneAtOnce);
        let mut gone = Vec::new();
        if trunkline_wire::planted!(LostNeverGone) {
            return gone;
        }
        for (pair, source) in &mut self.sources {
            match *source {
                Source::Unheard { since } | Source::Lost { since } if is_over(since) && !linked(pair.1) => {
                    *source = Source::Gone;
                    gone.push(*pair);
                }
                _ => {}
            }
        }
        gone
    }

    /// When somebody will have been away for too long. Whoever has a link (`linked`) will not, however long its stream takes to come.
    pub fn deadline(&self, linked: impl Fn(NodeId) -> bool) -> Instant {
        let away = self.sources.iter().filter_map(|((_, node), source)| match *source {
            Source::Unheard { since } | Source::Lost { since } if !linked(*node) => Some(since + GONE_AFTER),
            _ => None,
        });
        away.min().unwrap_or(Instant::NEVER)
    }

    fn of_region(&self, region: RegionId) -> impl Iterator<Item = (NodeId, &Source)> {
        let range = (region, NodeId(0))..=(region, NodeId(u32::MAX));
        self.sources.range(range).map(|((_, node), source)| (*node, source))
    }

    fn of_node(&mut self, node: NodeId) -> impl Iterator<Item = &mut Source> {
        self.sources
            .iter_mut()
            .filter(move |((_, n), _)| *n == node)
            .map(|(_, source)| source)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const REGION: RegionId = RegionId(1);
    const SERVER: NodeId = NodeId(7);
    const T0: Instant = Instant::ZERO;

    fn expecting() -> Sources {
        let mut sources = Sources::default();
        sources.expect(T0, [(REGION, SERVER)].into_iter());
        sources
    }

    #[test]
    fn an_instance_is_in_sync_when_all_shards_of_all_servers_have_named_their_sessions() {
        let mut sources = expecting();
        assert!(!sources.in_sync(REGION));
        sources.begin(REGION, SERVER, 1);
        assert!(!sources.end(REGION, SERVER, 1, 2));
        assert!(!sources.in_sync(REGION));
        assert!(sources.end(REGION, SERVER, 1, 2));
        assert!(sources.in_sync(REGION));
    }

    #[test]
    fn the_end_of_an_older_stream_changes_nothing() {
        let mut sources = expecting();
        sources.begin(REGION, SERVER, 2);
        assert!(!sources.end(REGION, SERVER, 1, 1));
        assert!(!sources.in_sync(REGION));
    }

    #[test]
    fn a_lost_server_is_suspect_before_it_is_gone() {
        let mut sources = expecting();
        sources.begin(REGION, SERVER, 1);
        sources.end(REGION, SERVER, 1, 1);
        sources.lost(T0, SERVER);
        assert!(!sources.in_sync(REGION));
        assert_eq!(sources.gone(T0 + Duration::from_secs(9), |_| false), []);
        assert_eq!(sources.gone(T0 + GONE_AFTER, |_| false), [(REGION, SERVER)]);
        assert!(sources.in_sync(REGION));
    }

    #[test]
    fn a_server_that_was_linked_meanwhile_is_away_since_that_link_was_lost() {
        let mut sources = expecting();
        sources.begin(REGION, SERVER, 1);
        sources.lost(T0, SERVER);
        // It came back, was stopped before it could name a session, and is suspect again.
        let again = T0 + Duration::from_secs(7);
        sources.lost(again, SERVER);
        assert_eq!(sources.gone(T0 + GONE_AFTER, |_| false), []);
        assert_eq!(sources.gone(again + GONE_AFTER, |_| false), [(REGION, SERVER)]);
        // So too one that was linked before anything was heard of it.
        let mut unheard = expecting();
        unheard.lost(again, SERVER);
        assert_eq!(unheard.gone(T0 + GONE_AFTER, |_| false), []);
    }

    #[test]
    fn a_server_with_a_link_is_not_gone_although_its_stream_has_not_begun() {
        let mut sources = expecting();
        assert_eq!(sources.gone(T0 + GONE_AFTER, |_| true), []);
        assert!(!sources.in_sync(REGION));
        // Nor is anything due for it: a deadline in the past would keep its shard busy for nothing.
        assert_eq!(sources.deadline(|_| true), Instant::NEVER);
        assert_eq!(sources.deadline(|_| false), T0 + GONE_AFTER);
    }

    #[test]
    fn a_pause_is_over_for_a_server_when_its_pong_was_read() {
        let mut sources = expecting();
        sources.begin(REGION, SERVER, 1);
        sources.end(REGION, SERVER, 1, 1);
        sources.doubt(|_| 42);
        assert!(!sources.in_sync(REGION));
        sources.validated(SERVER, 41);
        assert!(!sources.in_sync(REGION));
        sources.validated(SERVER, 42);
        assert!(sources.in_sync(REGION));
    }
}
