//! What a shard knows of one socket.

use std::net::SocketAddr;

use trunkline_core::constants::DEVICE_QUEUE_BYTES_MAX;
use trunkline_core::greeting::{Greeting, Introduction};
use trunkline_core::link::LinkRef;
use trunkline_core::outbox::Conn;
use trunkline_core::router::SessionRef;
use trunkline_net::driver::Token;
use trunkline_net::framing::Framer;
use trunkline_net::outbuf::OutBuf;
use trunkline_wire::device::DEVICE_BODY_BYTES_MAX;
use trunkline_wire::frame::HEADER_BYTES;
use trunkline_wire::time::Instant;

use crate::congestion::QueueBound;
use crate::door::Place;

/// One socket, from accept, connect or adoption until the driver says that it is closed.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) state: State,
    /// What leaves. It outlives changes of the state, so that a send in flight finds its way back.
    pub(crate) out: OutBuf,
    /// Whether it stands in the list of those that may have something to send.
    pub(crate) listed: bool,
    /// What it counts for, unless it is exempt.
    pub(crate) place: Option<Place>,
}

/// ```text
/// Greeting ─▶ Introduced ─▶ InTransit ─▶ (another shard's)
///     │           ├─────▶ Device ──┐
///     │           ├─────▶ Link ────┼──▶ Lingering ──▶ Closing ──▶ (gone)
///     └─refused───┴─refused────────┘
/// ```
#[derive(Debug)]
pub(crate) enum State {
    /// Accepted, the hello not complete.
    Greeting(Box<Guest>),
    /// The hello is complete, and something is behind it: the connection's end perhaps. Where nothing is, it goes on at once.
    Introduced(Box<Introduction>),
    /// The hello is complete, and another shard owns the connection.
    InTransit(Box<Introduction>),
    Device {
        session: SessionRef,
        /// The protocol version that both sides speak.
        version: u8,
        framer: Framer,
    },
    Link {
        link: LinkRef,
        framer: Framer,
        /// Beyond this, messages for it are shed: their senders' nodes try again.
        bound: QueueBound,
    },
    /// The last frame is being written; what still arrives is discarded.
    Lingering {
        until: Instant,
        /// Whether the other side has ended.
        eof: bool,
        /// Whether all was written, and `until` counts from then.
        written: bool,
    },
    Closing,
}

/// A connection that has not said who it is.
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) greeting: Greeting,
    pub(crate) address: SocketAddr,
}

/// A connection on its way to the shard that owns it.
#[derive(Debug)]
pub(crate) struct Transit<S> {
    pub(crate) socket: S,
    pub(crate) introduction: Introduction,
    pub(crate) place: Option<Place>,
}

impl Connection {
    pub(crate) fn new(state: State) -> Connection {
        let out = OutBuf::new(state.out_bytes_max());
        Connection {
            state,
            out,
            listed: false,
            place: None,
        }
    }

    /// The same socket in another state, which has other bounds; nothing was sent yet.
    pub(crate) fn becomes(&mut self, state: State) {
        debug_assert_eq!(self.out.pending(), 0);
        self.out = OutBuf::new(state.out_bytes_max());
        self.state = state;
    }
}

impl State {
    /// A link of which nothing was read yet.
    pub(crate) fn link(link: LinkRef) -> State {
        State::Link {
            link,
            framer: Framer::new(),
            bound: QueueBound::default(),
        }
    }

    fn out_bytes_max(&self) -> usize {
        match self {
            State::Link { .. } => LINK_BYTES_HARD_MAX,
            State::Device { .. } => DEVICE_BYTES_MAX,
            State::Greeting(_)
            | State::Introduced(_)
            | State::InTransit(_)
            | State::Lingering { .. }
            | State::Closing => REFUSAL_BYTES_MAX,
        }
    }
}

/// The core's name of a device connection or link is its token: found again without a table.
pub(crate) fn conn(token: Token) -> Conn {
    Conn(u64::from(token.generation) << 32 | u64::from(token.slot))
}

/// The token behind a name.
pub(crate) fn token(conn: Conn) -> Token {
    Token {
        slot: conn.0 as u32,
        generation: (conn.0 >> 32) as u32,
    }
}

/// The router bounds what waits for a device; this is one frame of each kind more, so that its last words always fit.
const DEVICE_BYTES_MAX: usize = DEVICE_QUEUE_BYTES_MAX + 2 * (HEADER_BYTES + DEVICE_BODY_BYTES_MAX);
/// A link with so much waiting doesn't work; it's closed.
const LINK_BYTES_HARD_MAX: usize = 64 << 20;
/// One failure with its text.
const REFUSAL_BYTES_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_back_to_its_token() {
        let t = Token {
            slot: 7,
            generation: u32::MAX,
        };
        assert_eq!(token(conn(t)), t);
    }
}
