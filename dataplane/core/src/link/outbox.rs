//! What a link book wants done: effects as values, their bytes in one arena.

use std::net::SocketAddr;
use std::ops::Range;

use trunkline_wire::frame::Encode;
use trunkline_wire::id::NodeId;

use super::LinkRef;
use crate::outbox::{Conn, ShardEvent};

/// One thing to do. They are carried out in order, and before anything that the router says later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkEffect {
    /// Connect; then [`super::LinkBook::dialing`] with the connection's name, or [`super::LinkBook::failed`].
    Dial {
        /// What to call it.
        link: LinkRef,
        /// The node, for logs.
        node: NodeId,
        /// Where.
        address: SocketAddr,
    },
    /// Send these bytes. Ranges are of [`LinkOutbox::bytes`].
    Send {
        /// The connection.
        conn: Conn,
        /// Whole frames, or a preface and a frame.
        bytes: Range<usize>,
    },
    /// Close once what was sent is written. The book has forgotten the connection.
    Close {
        /// The connection.
        conn: Conn,
    },
    /// Tell all shards, the own included.
    Event(ShardEvent),
    /// Ask every other shard to answer, in the order of what it sends here; when all have, [`super::LinkBook::fenced`].
    Fence {
        /// The link that waits for it.
        link: LinkRef,
    },
    /// For the log: what is wrong between this node and that one.
    Trouble {
        /// The other node.
        node: NodeId,
        /// One line.
        text: String,
    },
}

/// Collects the effects of one call or more.
#[derive(Debug, Default)]
pub struct LinkOutbox {
    effects: Vec<LinkEffect>,
    bytes: Vec<u8>,
}

impl LinkOutbox {
    /// Nothing to do.
    pub fn new() -> LinkOutbox {
        LinkOutbox::default()
    }

    /// What is to be done, in order.
    pub fn effects(&self) -> &[LinkEffect] {
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

    /// Forgets everything, and keeps the space.
    pub fn clear(&mut self) {
        self.effects.clear();
        self.bytes.clear();
    }

    pub(super) fn push(&mut self, effect: LinkEffect) {
        self.effects.push(effect);
    }

    pub(super) fn send(&mut self, conn: Conn, frame: &impl Encode) {
        self.send_after(conn, &[], frame);
    }

    pub(super) fn send_after(&mut self, conn: Conn, preface: &[u8], frame: &impl Encode) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(preface);
        frame.encode(&mut self.bytes);
        let bytes = start..self.bytes.len();
        self.effects.push(LinkEffect::Send { conn, bytes });
    }
}
