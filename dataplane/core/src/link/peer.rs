//! What a shard knows of one other node: its link, its dial, when to try again.

use trunkline_wire::id::{DeviceKey, Incarnation, NodeId};
use trunkline_wire::time::Instant;

use crate::predictor::Worth;

/// A node to which there is, or might be, a link.
#[derive(Debug)]
pub(super) struct PeerEntry {
    pub(super) node: NodeId,
    /// By the map.
    pub(super) required: bool,
    /// Within the budget.
    pub(super) wished: bool,
    /// The index of the link.
    pub(super) current: Option<u32>,
    /// The index of what was the link, and still takes what the shards sent before they knew.
    pub(super) fencing: Option<u32>,
    /// The index of the own dial, or of its handshake.
    pub(super) dial: Option<u32>,
    /// Not to be dialled before this.
    pub(super) retry_at: Instant,
    /// Failures in a row.
    pub(super) failures: u32,
    /// Why the last attempt or link ended.
    pub(super) trouble: Option<String>,
}

impl PeerEntry {
    pub(super) fn new(node: NodeId) -> PeerEntry {
        PeerEntry {
            node,
            required: false,
            wished: false,
            current: None,
            fencing: None,
            dial: None,
            retry_at: Instant::ZERO,
            failures: 0,
            trouble: None,
        }
    }

    /// Whether it is to be dialled, when the time has come.
    pub(super) fn wants_dial(&self) -> bool {
        (self.required || self.wished) && self.current.is_none() && self.dial.is_none() && self.fencing.is_none()
    }
}

/// How a link is, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// No link, and none being made.
    Idle,
    /// Connecting.
    Dialing,
    /// Proving the secret.
    Handshaking,
    /// In use.
    Up,
    /// On its way out.
    Closing,
}

impl LinkState {
    /// One word.
    pub fn name(self) -> &'static str {
        match self {
            LinkState::Idle => "idle",
            LinkState::Dialing => "dialing",
            LinkState::Handshaking => "handshaking",
            LinkState::Up => "up",
            LinkState::Closing => "closing",
        }
    }
}

/// A link, for `status` and `explain`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkStatus {
    /// The other node.
    pub node: NodeId,
    /// How it is.
    pub state: LinkState,
    /// Whether this node can't do without it.
    pub required: bool,
    /// Whether this node dialled it.
    pub dialled: bool,
    /// Which start of the other node it is with, once both sides have proven themselves.
    pub incarnation: Option<Incarnation>,
    /// The protocol version that it speaks, once both sides have proven themselves.
    pub version: Option<u8>,
    /// What the other side says that it runs, if the link's version can say it.
    #[cfg(feature = "next-version")]
    pub build: Option<String>,
    /// What it's worth now, if it isn't required.
    pub worth: Option<Worth>,
    /// The device for which it is worth most.
    pub wished_by: Option<DeviceKey>,
    /// Milliseconds since the other side was last heard, if the link is up.
    pub heard_ms: Option<u64>,
    /// Failures in a row.
    pub failures: u32,
    /// Why the last attempt or link ended.
    pub trouble: Option<String>,
}
