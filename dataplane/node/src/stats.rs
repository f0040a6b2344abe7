//! What shards count, for everybody else to read: plain atomics, written by their shard every [`PUBLISH_INTERVAL`] while it is awake.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use trunkline_core::counters::Counters;
use trunkline_core::link::{LinkCounters, Reason};
use trunkline_core::predictor::PredictorCounters;
use trunkline_core::tally;
use trunkline_wire::time::Instant;

tally! {
    /// What the glue of one shard counts, from its start.
    ShardCounters {
        connections_accepted => "Connections accepted.",
        connections_handed_over => "Connections handed to the shard that owns them.",
        connections_adopted => "Connections taken over from the shard that accepted them.",
        connections_refused_full => "Connections that could not be taken over: no room.",
        connections_refused_pace => "Connections told to come back later: too many came at once.",
        connections_refused_address => "Connections told to come back later: their address has too many.",
        connections_refused_draining => "Connections sent on because this node sends its devices elsewhere.",
        accepts_paused => "Times that accepting stopped for want of room or descriptors.",
        refused_bad_preface => "Connections refused: not the protocol, or another port's.",
        refused_unsupported_version => "Connections refused: no common protocol version.",
        refused_malformed => "Connections refused: a hello that can't be read.",
        refused_too_long => "Connections refused: a first frame that is too long.",
        refused_out_of_turn => "Connections refused: a first frame that is not the hello.",
        refused_hello_timeout => "Connections refused: no hello in time.",
        refused_unauthorized => "Connections refused: device token missing, wrong or expired.",
        refused_not_served => "Connections refused: a full session at a server that takes messages in only.",
        hellos_incomplete => "Connections that ended before their hello was complete.",
        hellos_abandoned => "Connections that had ended when their hello was read; nobody was let in.",
        devices_malformed => "Device sessions closed: a frame that can't be read.",
        devices_too_long => "Device sessions closed: a frame that is too long.",
        devices_overflowed => "Device sessions closed: more waits for the device than any bound allows.",
        link_messages_shed => "Messages dropped because a link's queue is full, or holds more than it carries in half a second; their senders' nodes try again.",
        link_frames_lost => "Frames for a node to which there is no link any more.",
        links_overflowed => "Links closed because too much waits for the other side.",
        mesh_messages_shed => "Messages dropped because another shard has fallen behind; tried again.",
        mesh_frames_shed => "Other frames dropped because another shard has fallen far behind.",
        bytes_received => "Bytes received from devices and nodes.",
        bytes_sent => "Bytes sent to devices and nodes.",
        sends => "Sends to devices and nodes.",
        turns => "Turns of the shard.",
        completions => "What its driver told it of: bytes, ends, sends that are through.",
        receives => "Receives that brought bytes.",
        frames_received => "Frames received from devices and nodes.",
        frames_sent => "Frames given to devices' and nodes' connections, to leave with the next send.",
        enters => "System calls for completions or readiness: io_uring_enter, epoll_wait.",
        reads => "System calls that read from a socket; over io_uring none.",
        writes => "System calls that wrote to a socket; over io_uring none.",
        sleeps => "Waits that went to sleep, after spinning if that is set.",
    }
}

/// How often a shard that is awake publishes what it counted.
pub const PUBLISH_INTERVAL: Duration = Duration::from_millis(100);

/// One shard's numbers.
#[derive(Debug)]
pub struct ShardStats {
    values: Box<[AtomicU64]>,
    /// Open device sessions.
    pub sessions: AtomicU64,
    /// Open sockets.
    pub sockets: AtomicU64,
    /// Links that are up.
    pub links_up: AtomicU64,
    /// Places for links beyond the required ones that are taken, dials included.
    pub direct_links: AtomicU64,
    /// How many such places there are.
    pub direct_links_max: AtomicU64,
    /// Of those that are taken, how many for each reason, in the order of [`Reason::ALL`].
    pub direct_links_for: [AtomicU64; Reason::ALL.len()],
    /// Devices of which it is remembered whom they have to do with.
    pub affinities: AtomicU64,
    /// How many these may be.
    pub affinities_max: AtomicU64,
    /// Required links that are not.
    pub links_missing: AtomicU64,
    /// Confirmed messages without a report.
    pub unresolved: AtomicU64,
    /// Bytes that wait at connections, those in flight included.
    pub queued_bytes: AtomicU64,
    /// Bytes that wait for other shards to take them.
    pub mesh_queued_bytes: AtomicU64,
    /// Sessions that this node knows as an instance of their regions: the shard's part of the LDCI.
    pub presence: AtomicU64,
    /// The thread's number in the kernel; 0 before it has one.
    pub thread: AtomicU64,
    /// The version of the map in use; 0 is none.
    pub map_version: AtomicU64,
    /// The version of the map of which all that it asks of this shard is done; 0 before the first.
    pub map_settled: AtomicU64,
    /// Whether the regions that this node serves could say "offline".
    pub in_sync: AtomicBool,
    /// Whether devices are sent elsewhere, and none is let in.
    pub draining: AtomicBool,
    /// Whether a node that is to end has no device here any more, nor one on its way elsewhere.
    pub devices_gone: AtomicBool,
    /// Whether a node that is to end has closed its links.
    pub drained: AtomicBool,
    /// When the shard last turned, in microseconds of the process's clock; 0 before the first turn.
    pub turned_at: AtomicU64,
}

impl Default for ShardStats {
    fn default() -> ShardStats {
        let values = names().map(|_| AtomicU64::new(0)).collect();
        ShardStats {
            values,
            sessions: AtomicU64::new(0),
            sockets: AtomicU64::new(0),
            links_up: AtomicU64::new(0),
            direct_links: AtomicU64::new(0),
            direct_links_max: AtomicU64::new(0),
            direct_links_for: Default::default(),
            affinities: AtomicU64::new(0),
            affinities_max: AtomicU64::new(0),
            links_missing: AtomicU64::new(0),
            unresolved: AtomicU64::new(0),
            queued_bytes: AtomicU64::new(0),
            mesh_queued_bytes: AtomicU64::new(0),
            presence: AtomicU64::new(0),
            thread: AtomicU64::new(0),
            map_version: AtomicU64::new(0),
            map_settled: AtomicU64::new(0),
            in_sync: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            devices_gone: AtomicBool::new(false),
            drained: AtomicBool::new(false),
            turned_at: AtomicU64::new(0),
        }
    }
}

impl ShardStats {
    pub(crate) fn publish(
        &self,
        router: &Counters,
        predictions: &PredictorCounters,
        links: &LinkCounters,
        shard: &ShardCounters,
    ) {
        let (router, predictions) = (router.values(), predictions.values());
        let (links, shard) = (links.values(), shard.values());
        let mut shared = self.values.iter();
        for values in [&router[..], &predictions, &links, &shard] {
            for (value, shared) in values.iter().zip(&mut shared) {
                shared.store(*value, Ordering::Relaxed);
            }
        }
    }

    /// The counters, in the order of [`names`].
    pub fn values(&self) -> impl Iterator<Item = u64> {
        self.values.iter().map(|value| value.load(Ordering::Relaxed))
    }

    /// One counter by its name; 0 if there is none of that name.
    pub fn value(&self, name: &str) -> u64 {
        let found = names().zip(self.values()).find(|((known, _), _)| *known == name);
        found.map_or(0, |(_, value)| value)
    }

    /// Time since the last turn, or `None` before the first.
    pub fn age(&self, now: Instant) -> Option<Duration> {
        match self.turned_at.load(Ordering::Relaxed) {
            0 => None,
            micros => Some(now - Instant::from_micros(micros)),
        }
    }
}

/// Names and help texts of all counters.
pub fn names() -> impl Iterator<Item = (&'static str, &'static str)> {
    let all = Counters::NAMES
        .iter()
        .chain(PredictorCounters::NAMES)
        .chain(LinkCounters::NAMES)
        .chain(ShardCounters::NAMES);
    all.copied()
}

/// The numbers of all shards of a node.
#[derive(Clone, Debug)]
pub struct Stats(Arc<[Arc<ShardStats>]>);

impl Stats {
    /// For `shards` shards.
    pub fn new(shards: u16) -> Stats {
        Stats((0..shards).map(|_| Arc::default()).collect())
    }

    /// By shard.
    pub fn shards(&self) -> &[Arc<ShardStats>] {
        &self.0
    }

    /// Whether the node sends its devices elsewhere.
    pub fn draining(&self) -> bool {
        self.0.iter().any(|shard| shard.draining.load(Ordering::Relaxed))
    }

    /// The version of the map of which all that it asks of the node is done.
    pub fn map_settled(&self) -> u64 {
        let settled = self.0.iter().map(|shard| shard.map_settled.load(Ordering::Acquire));
        settled.min().unwrap_or(0)
    }

    /// A counter, summed over the shards.
    pub fn sum(&self, name: &str) -> u64 {
        self.0.iter().map(|shard| shard.value(name)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_published_is_found_by_name() {
        let stats = Stats::new(2);
        let router = Counters {
            messages_in: 3,
            ..Counters::default()
        };
        let shard = ShardCounters {
            turns: 5,
            ..ShardCounters::default()
        };
        for one in stats.shards() {
            one.publish(&router, &PredictorCounters::default(), &LinkCounters::default(), &shard);
        }
        assert_eq!((stats.sum("messages_in"), stats.sum("turns")), (6, 10));
        assert_eq!(stats.sum("nothing of that name"), 0);
        let mut all: Vec<_> = names().map(|(name, _)| name).collect();
        all.sort_unstable();
        let count = all.len();
        all.dedup();
        assert_eq!(all.len(), count, "names are unique");
    }
}
