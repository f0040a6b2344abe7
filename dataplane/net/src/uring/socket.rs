//! One socket of a `UringDriver`: what the caller started on it, and what is under way in the kernel.
//!
//! ```text
//! Registering ─▶ Connecting ─▶ Open ──hand_over──▶ Moving ─▶ Moved
//!      │              │         │ ▲                   │
//!      ▼              ▼         │ └───refused─────────┘
//!    Failed ◀─────────┘         │
//!      └───────close────────────┴─▶ Ending ─▶ Closing
//! ```
//!
//! Only the last completion of a socket frees its slot: in `Ending` what was under way is awaited, in `Closing` the close of the
//! descriptor.

use std::os::fd::RawFd;
use std::sync::Arc;

use io_uring::types::Fixed;
use socket2::SockAddr;

use super::handover::{Berth, Socket as InTransit};
use crate::driver::{BufferGroup, ReceiveMode};

/// A socket from accept, connect or adoption until its slot is free.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) phase: Phase,
    /// Its direct descriptor, once it has one.
    pub(super) descriptor: Option<Fixed>,
    pub(super) receive: Receive,
    pub(super) send: Send,
    /// Part of a buffer was lost: nothing may follow it.
    pub(super) broken: bool,
    /// Whether anything was sent: then the close must see to it that the peer can read it.
    pub(super) wrote: bool,
    /// How many bytes were received on it, and in which of the driver's waits.
    pub(super) taken: Taken,
    /// Operations whose last completion is still to come.
    pub(super) outstanding: u32,
    /// What the kernel reads and writes while a connect is under way.
    pub(super) dial: Option<Box<Dial>>,
}

/// How far a socket is.
#[derive(Debug)]
pub(super) enum Phase {
    /// Dialled, and on its way into the table of direct descriptors.
    Registering,
    Connecting,
    Open,
    /// The connect failed; only the caller's close is to come.
    Failed,
    /// On its way to another ring.
    Moving(Arc<Berth>),
    /// The hand-over was refused at once, of a socket that is connected, or whose connect failed; the caller is to be told.
    Staying {
        connected: bool,
    },
    /// At the other ring; the descriptor here is being closed.
    Moved(InTransit),
    /// The caller closed it; operations are under way.
    Ending,
    /// The descriptor is being closed.
    Closing,
}

/// What one socket has received within one wait: the kernel goes on for as long as bytes come, so that a flood has to be stopped.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Taken {
    wait: u32,
    bytes: u32,
}

impl Taken {
    /// Counts `bytes` in the wait `wait`. True for the bytes with which it has had its share.
    pub(super) fn add(&mut self, wait: u32, bytes: u32) -> bool {
        if self.wait != wait {
            *self = Taken { wait, bytes: 0 };
        }
        let before = self.bytes;
        self.bytes = self.bytes.saturating_add(bytes);
        before < SHARE_BYTES && self.bytes >= SHARE_BYTES
    }

    /// Whether it has had its share of the wait `wait`.
    pub(super) fn is_over(&self, wait: u32) -> bool {
        self.wait == wait && self.bytes >= SHARE_BYTES
    }
}

/// What one device's socket may take of a wait, about: as much as with `epoll`, so that a flood costs the others little.
const SHARE_BYTES: u32 = 16 * 1024;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Receive {
    Idle,
    /// In the kernel.
    Armed(ReceiveMode, BufferGroup),
    /// Waits for its turn at the buffers, which are or were all out.
    Parked(ReceiveMode, BufferGroup),
    /// By the peer's end or an error: not to be armed again.
    Ended,
}

#[derive(Debug)]
pub(super) enum Send {
    Idle,
    /// The kernel has taken the first `sent` bytes and has a chunk of the rest.
    Flying {
        bytes: Vec<u8>,
        sent: usize,
    },
    /// Never started; `Sent` waits to be delivered.
    Refused,
}

/// A connect's memory: boxed, so that it stays where it is.
#[derive(Debug)]
pub(super) struct Dial {
    /// The plain descriptor, until a direct one replaces it.
    pub(super) socket: Option<socket2::Socket>,
    /// What the kernel registers, and where it writes which place it took.
    pub(super) place: [RawFd; 1],
    pub(super) address: SockAddr,
}

impl Socket {
    /// A connected socket.
    pub(super) fn open(descriptor: Fixed) -> Socket {
        Socket {
            phase: Phase::Open,
            descriptor: Some(descriptor),
            receive: Receive::Idle,
            send: Send::Idle,
            broken: false,
            wrote: false,
            taken: Taken::default(),
            outstanding: 0,
            dial: None,
        }
    }

    /// A socket that is to connect.
    pub(super) fn dialling(dial: Box<Dial>) -> Socket {
        Socket {
            phase: Phase::Registering,
            descriptor: None,
            dial: Some(dial),
            ..Socket::open(Fixed(0))
        }
    }

    /// Whether a second send would panic.
    pub(super) fn sending(&self) -> bool {
        match self.send {
            Send::Flying { .. } | Send::Refused => true,
            Send::Idle => false,
        }
    }

    /// Whether the caller has nothing to say on it any more: closed, or handed over.
    pub(super) fn leaving(&self) -> bool {
        match self.phase {
            Phase::Moving(_) | Phase::Staying { .. } | Phase::Moved(_) | Phase::Ending | Phase::Closing => true,
            Phase::Registering | Phase::Connecting | Phase::Open | Phase::Failed => false,
        }
    }

    /// Whether unread bytes of the peer's would make the close a reset, and cost it bytes that were sent.
    pub(super) fn must_discard(&self) -> bool {
        self.wrote && self.receive != Receive::Ended && self.descriptor.is_some()
    }
}
