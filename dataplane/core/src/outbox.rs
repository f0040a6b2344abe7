//! What a shard wants done: effects as values, their bytes in one arena.
//!
//! The router appends; its caller carries everything out in order after the whole batch, so that all that is for one socket leaves
//! in one send. Nothing is allocated per effect once the two vectors have grown.

use std::ops::Range;

use trunkline_wire::frame::Encode;
use trunkline_wire::id::{DeviceKey, NodeId, RegionId, ShardId};

use crate::link::Wish;
use crate::predictor::Expectation;

/// The caller's name for a device connection. The router never looks inside, and never names a connection after
/// [`Effect::CloseDevice`] or after it was told that the connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Conn(pub u64);

/// News that concern all shards of a node, or the one that owns a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShardEvent {
    /// The link to `node` may be used.
    LinkUp {
        /// Whose.
        node: NodeId,
        /// Counts up with every link that this node has had; what belongs to an older one no longer counts.
        serial: u64,
    },
    /// The link to `node` is no more.
    LinkDown {
        /// Whose.
        node: NodeId,
        /// Which of its links.
        serial: u64,
    },
    /// Name all sessions of `region` to its instance `node`. The owner of the link has sent the begin already.
    SyncStart {
        /// The instance.
        node: NodeId,
        /// The region.
        region: RegionId,
        /// Names the stream.
        sync: u64,
        /// Wait until the own map has at least this version.
        map_version: u64,
    },
    /// A shard is about to use this version of the map; what it says from here on may follow from it.
    MapApplying {
        /// Which shard.
        shard: ShardId,
        /// The version.
        version: u64,
    },
    /// A shard uses this version of the map, and has registered what it asks for.
    MapApplied {
        /// Which shard.
        shard: ShardId,
        /// The version.
        version: u64,
    },
    /// A shard has taken what another node said before it announced this version of the map; told to the owner of the link.
    VersionTaken {
        /// The other node.
        node: NodeId,
        /// The version that it announced.
        version: u64,
    },
    /// One shard of this instance has taken all of a sync stream; told to the owner of the link.
    SyncTaken {
        /// The connection server.
        node: NodeId,
        /// The region.
        region: RegionId,
        /// The stream.
        sync: u64,
    },
}

/// One thing to do. Ranges are of [`Outbox::bytes`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send these frames to a device.
    Device {
        /// The connection.
        conn: Conn,
        /// Whole frames of the device's protocol.
        bytes: Range<usize>,
        /// How many.
        frames: u32,
    },
    /// Close a device's connection once what was sent to it is written.
    CloseDevice {
        /// The connection.
        conn: Conn,
    },
    /// Send these frames on the link to a node, whichever shard owns that link.
    Link {
        /// The node.
        node: NodeId,
        /// Whole frames of the peer protocol.
        bytes: Range<usize>,
        /// How many.
        frames: u32,
    },
    /// Hand these frames to another shard of this node ([`crate::router::Router::shard_frame`]).
    Shard {
        /// Which shard; never the own.
        shard: ShardId,
        /// Which node said them: this one, or the one that the link goes to.
        from: NodeId,
        /// Whole frames of the peer protocol.
        bytes: Range<usize>,
    },
    /// Tell one shard, or all of them, the own included. [`crate::router::Router::event`] takes it.
    Event {
        /// `None` is all.
        shard: Option<ShardId>,
        /// What.
        event: ShardEvent,
    },
    /// A link would be of use. Nothing waits for it. For the shard that owns links to the wish's node.
    WishLink(Wish),
    /// What a device was expected to send to this node is no longer expected.
    WithdrawWish {
        /// The node.
        node: NodeId,
        /// The device.
        by: DeviceKey,
    },
    /// Hand an expectation to the shard that owns the device which is expected to be written to
    /// ([`crate::router::Router::expect`]); never the own.
    Expect {
        /// Which shard.
        shard: ShardId,
        /// What.
        expectation: Expectation,
    },
}

/// Collects the effects of a batch.
#[derive(Debug, Default)]
pub struct Outbox {
    effects: Vec<Effect>,
    bytes: Vec<u8>,
}

impl Outbox {
    /// Nothing to do.
    pub fn new() -> Outbox {
        Outbox::default()
    }

    /// What is to be done, in order.
    pub fn effects(&self) -> &[Effect] {
        &self.effects
    }

    /// The bytes that an effect's range names.
    pub fn bytes(&self, range: &Range<usize>) -> &[u8] {
        &self.bytes[range.clone()]
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.effects.is_empty()
    }

    /// How many bytes of frames it holds.
    pub fn bytes_len(&self) -> usize {
        self.bytes.len()
    }

    /// Forgets everything, and keeps the space.
    pub fn clear(&mut self) {
        self.effects.clear();
        self.bytes.clear();
    }

    /// Sends a frame to a device. Returns its length in bytes.
    pub fn device(&mut self, conn: Conn, frame: &impl Encode) -> usize {
        let bytes = self.encoded(frame);
        let length = bytes.len();
        // Frames for one connection in a row become one effect.
        if let Some(Effect::Device {
            conn: last,
            bytes: before,
            frames,
        }) = self.effects.last_mut()
            && *last == conn
            && before.end == bytes.start
        {
            before.end = bytes.end;
            *frames += 1;
        } else {
            let frames = 1;
            self.effects.push(Effect::Device { conn, bytes, frames });
        }
        length
    }

    /// Closes a device's connection after what was sent to it.
    pub fn close_device(&mut self, conn: Conn) {
        self.effects.push(Effect::CloseDevice { conn });
    }

    /// Sends a frame on a link.
    pub fn link(&mut self, node: NodeId, frame: &impl Encode) {
        let bytes = self.encoded(frame);
        if let Some(Effect::Link {
            node: last,
            bytes: before,
            frames,
        }) = self.effects.last_mut()
            && *last == node
            && before.end == bytes.start
        {
            before.end = bytes.end;
            *frames += 1;
        } else {
            let frames = 1;
            self.effects.push(Effect::Link { node, bytes, frames });
        }
    }

    /// Hands a frame to another shard.
    pub fn shard(&mut self, shard: ShardId, from: NodeId, frame: &impl Encode) {
        let bytes = self.encoded(frame);
        self.push_shard(shard, from, bytes);
    }

    /// Hands a frame that was received to another shard, as it is.
    pub fn shard_raw(&mut self, shard: ShardId, from: NodeId, header: [u8; 4], body: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&header);
        self.bytes.extend_from_slice(body);
        self.push_shard(shard, from, start..self.bytes.len());
    }

    /// Tells one shard (`None`: all).
    pub fn event(&mut self, shard: Option<ShardId>, event: ShardEvent) {
        self.effects.push(Effect::Event { shard, event });
    }

    /// Wishes for a link.
    pub fn wish(&mut self, wish: Wish) {
        self.effects.push(Effect::WishLink(wish));
    }

    /// Takes back what was wished for on behalf of `by`.
    pub fn withdraw_wish(&mut self, node: NodeId, by: DeviceKey) {
        self.effects.push(Effect::WithdrawWish { node, by });
    }

    /// Hands an expectation to another shard.
    pub fn expect(&mut self, shard: ShardId, expectation: Expectation) {
        self.effects.push(Effect::Expect { shard, expectation });
    }

    fn encoded(&mut self, frame: &impl Encode) -> Range<usize> {
        let start = self.bytes.len();
        frame.encode(&mut self.bytes);
        start..self.bytes.len()
    }

    fn push_shard(&mut self, shard: ShardId, from: NodeId, bytes: Range<usize>) {
        if let Some(Effect::Shard {
            shard: last,
            from: who,
            bytes: before,
        }) = self.effects.last_mut()
            && *last == shard
            && *who == from
            && before.end == bytes.start
        {
            before.end = bytes.end;
        } else {
            self.effects.push(Effect::Shard { shard, from, bytes });
        }
    }
}
