//! Links between nodes: who is dialled, who is let in, which of two connections to one node counts, and when a link has failed.
//!
//! One [`LinkBook`] holds one shard's links; a link belongs to [`shard_of_node`]. Messages are the router's: the book takes the
//! frames that manage the link, and says of every other whose it is and whether it came on the current link.
//!
//! ```text
//!  dial      Dialing ─▶ AwaitChallenge ─▶ AwaitReady ─┐          ┌──replaced──▶ AwaitClosed ─▶ (gone)
//!                                                     ├─▶ Up ────┤                   ▲
//!  accept                        AwaitProof ──────────┘          └──▶ Fencing ───────┘ LinkClose sent: the other side's frames come
//!                                                                        └─▶ (gone)    LinkClosed sent: the other side asked
//! ```
//!
//! - **Required**: a node with the connection or messaging role needs a link to every instance of every region, an instance to its
//!   siblings, and, while devices move between its region and another, to that one's instances. They are dialled until they are up, again and again, with backoff.
//! - **Wished**: a link that would save a hop. Dialled in the background if it's worth a place in the [`LinkCache`], which both ends'
//!   links of this kind share, whoever dialled; closed when a better one needs the place, or when idle.
//! - **One link to a node.** Two nodes that dial each other keep the one that the lower id dialled. A higher incarnation replaces at
//!   once. No frame leaves on a link before its hello is answered.
//! - **Addresses change.** A link to where a node was by an older map, or to a start that is over, is closed as the map comes; the node is
//!   dialled where it is, and what failed before doesn't count.
//! - **Closing loses no frame.** Before `LinkClose` or `LinkClosed` leaves, every shard has learnt that the link is down
//!   ([`LinkEffect::Fence`]), so that nothing follows it.
//!
//! Pure: time and nonces are arguments, effects are values in a [`LinkOutbox`]. Iteration is by node id and by index.

mod backoff;
mod book;
mod cache;
mod choice;
mod counters;
pub(crate) mod need;
mod outbox;
mod peer;
mod sync;
#[cfg(test)]
mod tests;

use std::time::Duration;

use trunkline_wire::id::{NodeId, ShardId};

use crate::predictor::Worth;

pub use self::book::{LinkBook, LinkConfig, LinkRef, Origin, Passage};
pub use self::cache::{Admission, DIAL_WORTH, Entry, LinkCache, Reason, Wish};
pub use self::counters::LinkCounters;
pub use self::outbox::{LinkEffect, LinkOutbox};
pub use self::peer::{LinkState, LinkStatus};

/// Which shard of a node with `shards` threads owns its link to `node`. Nodes are numbered one by one: a mix spreads them.
pub fn shard_of_node(node: NodeId, shards: u16) -> ShardId {
    // The finaliser of SplitMix64.
    let mut mix = u64::from(node.0).wrapping_add(0x9e37_79b9_7f4a_7c15);
    mix = (mix ^ (mix >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mix = (mix ^ (mix >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mix ^= mix >> 31;
    ShardId(((u128::from(mix) * u128::from(shards)) >> 64) as u16)
}

/// How the token of a ping on a link is made up, so that its pong finds who asked.
///
/// ```text
/// 63          48 47           46                     0
/// ┌─────────────┬─────────────┬───────────────────────┐
/// │ shard       │ 1: a router │ serial, as the asker  │
/// │ that asked  │ 0: the book │ likes                 │
/// └─────────────┴─────────────┴───────────────────────┘
/// ```
pub mod token {
    use trunkline_wire::id::ShardId;

    const SHARD_SHIFT: u32 = 48;
    const ROUTER: u64 = 1 << 47;
    const SERIAL: u64 = ROUTER - 1;

    /// A ping that keeps a link alive.
    pub fn of_book(shard: ShardId, serial: u64) -> u64 {
        u64::from(shard.0) << SHARD_SHIFT | serial & SERIAL
    }

    /// A ping by which a shard's router asks whether the other side still answers.
    pub fn of_router(shard: ShardId, serial: u64) -> u64 {
        of_book(shard, serial) | ROUTER
    }

    /// Whether a pong with this token is for a router.
    pub fn is_router(token: u64) -> bool {
        token & ROUTER != 0
    }

    /// The shard that asked.
    pub fn shard(token: u64) -> ShardId {
        ShardId((token >> SHARD_SHIFT) as u16)
    }

    /// The asker's serial.
    pub fn serial(token: u64) -> u64 {
        token & SERIAL
    }
}

/// The links that a host keeps beyond the required ones, unless told otherwise: a hundred kilobytes of kernel memory each, in the
/// worst case, and enough that the busiest pairs of nodes go direct.
pub const DIRECT_LINKS_MAX: u32 = 64;

/// A link that nobody needs is closed when it carried nothing for this long. Its place is another's long before, if one needs it;
/// dialling it anew costs more than keeping it.
const IDLE_CLOSE: Duration = Duration::from_secs(3_600);

/// What a link that the other side has dialled is worth here until somebody here wishes for it too: the likelihood at which half of
/// all dials are made.
const OFFER_WORTH: Worth = Worth::per_mille(200);
/// In which time that halves.
const OFFER_HALF_LIFE: Duration = Duration::from_secs(600);

/// How long a dial may take, its handshake included: two lost SYNs.
const DIAL_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a close may wait for the other side.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// The largest body of a frame before the link is up.
const OPENING_BODY_BYTES_MAX: usize = 512;
