//! One connection, from its preface to its last frame: bytes in, events out.
//!
//! ```text
//! Preface ──▶ Hello ──▶ Proof ──▶ Open        each but Open within HELLO_TIMEOUT of the accept
//!    └───────────┴─────────┴───────┴─── a fault ──▶ Closing: the failure leaves, what comes is thrown away
//! ```
//!
//! Knows no driver: what is to be sent gathers in an [`OutBuf`].

use std::net::SocketAddr;
use std::time::Duration;

use trunkline_net::framing::Framer;
use trunkline_net::outbuf::{OutBuf, Spares};
use trunkline_wire::auth::{ClusterKeys, LinkEnd};
use trunkline_wire::codec::Text;
use trunkline_wire::common::Failure;
use trunkline_wire::control::{CONTROL_BODY_BYTES_MAX, NodeFrame};
use trunkline_wire::device::ErrorCode;
use trunkline_wire::frame::{Decode, Encode};
use trunkline_wire::handshake::{Acceptor, Peer, Refusal};
use trunkline_wire::id::{Incarnation, NodeId};
use trunkline_wire::map::parts;
use trunkline_wire::peer::LinkReady;
use trunkline_wire::preface::{PREFACE_BYTES, Preface, Side, VERSION_MIN, Versions, check_prefix};
use trunkline_wire::time::Instant;

use crate::logic::ConnectionId;
use crate::publication::Transfer;

/// From the accept to the proof.
pub(super) const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// Without a frame. Nodes renew every 5 s; tools ask, or ping.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a failure may take to leave.
const FAILURE_TIMEOUT: Duration = Duration::from_secs(5);
/// After the failure has left: a close with unread bytes would be a reset, which destroys it on its way.
const LINGER: Duration = Duration::from_secs(1);
/// The largest body before the proof: [`trunkline_wire::peer::LinkHello`] has 52 bytes.
const HELLO_BODY_BYTES_MAX: usize = 256;
/// The most bytes that wait for a peer: the longest answer three times over.
const OUT_BYTES_MAX: usize = 512 * 1024;
/// Parts of a map are added while less than this waits.
const OUT_BYTES_LOW: usize = 64 * 1024;

const _: () = assert!(OUT_BYTES_MAX >= 3 * (CONTROL_BODY_BYTES_MAX + 4) && OUT_BYTES_LOW < OUT_BYTES_MAX / 2);

/// Draws nonces: from the operating system in production, from a seed in the simulator.
pub type Random = Box<dyn FnMut() -> [u8; 32] + Send>;

#[derive(Debug)]
enum State {
    Preface(Vec<u8>),
    Hello,
    Proof(Acceptor),
    Open,
    Closing { sent: bool },
}

/// What a connection's bytes meant.
#[derive(Debug)]
pub(super) enum Event<'a> {
    /// The peer is proven.
    Opened(Peer),
    /// It said something.
    Frame(NodeFrame<'a>),
}

/// Why a connection is to be closed: the peer's fault.
#[derive(Debug)]
pub(super) struct Fault {
    pub code: ErrorCode,
    pub text: String,
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Fault {
        Fault {
            code: refusal.code(),
            text: refusal.to_string(),
        }
    }
}

#[derive(Debug)]
pub(super) struct Connection {
    pub id: ConnectionId,
    pub address: SocketAddr,
    /// When it's closed, or what it's waited for is overdue.
    pub deadline: Instant,
    state: State,
    /// What this side speaks.
    versions: Versions,
    /// What both sides speak; the lowest until they have agreed on one.
    version: u8,
    framer: Framer,
    out: OutBuf,
    sending: Option<(Transfer, usize)>,
    /// The peer sends no more.
    ended: bool,
}

impl Connection {
    pub fn new(now: Instant, id: ConnectionId, address: SocketAddr, versions: Versions) -> Connection {
        Connection {
            id,
            address,
            deadline: now + HELLO_TIMEOUT,
            state: State::Preface(Vec::new()),
            versions,
            version: VERSION_MIN,
            framer: Framer::new(),
            out: OutBuf::new(OUT_BYTES_MAX),
            sending: None,
            ended: false,
        }
    }

    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Open)
    }

    pub fn is_closing(&self) -> bool {
        matches!(self.state, State::Closing { .. })
    }

    /// The peer sends no more. True if there is nothing left to say to it.
    pub fn end(&mut self) -> bool {
        self.ended = true;
        match self.state {
            State::Closing { sent } => sent,
            // What waits is an answer to somebody who didn't wait for it.
            State::Preface(_) | State::Hello | State::Proof(_) | State::Open => true,
        }
    }

    /// Takes in what was received.
    pub fn feed(
        &mut self,
        now: Instant,
        mut bytes: &[u8],
        keys: &ClusterKeys,
        random: &mut Random,
        spares: &mut Spares,
        mut event: impl FnMut(Event<'_>),
    ) -> Result<(), Fault> {
        if self.is_closing() {
            return Ok(());
        }
        if let State::Preface(preface) = &mut self.state {
            let (taken, rest) = bytes.split_at(bytes.len().min(PREFACE_BYTES - preface.len()));
            preface.extend_from_slice(taken);
            bytes = rest;
            match negotiate(preface, self.versions)? {
                None => return Ok(()),
                Some(version) => {
                    self.version = version;
                    self.state = State::Hello;
                }
            }
        }
        let version = self.version;
        let Connection { state, framer, out, .. } = self;
        let mut frames = framer.frames(bytes);
        loop {
            let limit = if matches!(state, State::Open) {
                CONTROL_BODY_BYTES_MAX
            } else {
                HELLO_BODY_BYTES_MAX
            };
            let frame = frames.next(|_| limit).map_err(|error| Fault {
                code: ErrorCode::TooLong,
                text: error.to_string(),
            })?;
            let Some(frame) = frame else { break };
            let decoded = NodeFrame::decode(version, frame.ty, frame.body).map_err(|error| Fault {
                code: ErrorCode::Malformed,
                text: error.to_string(),
            })?;
            let Some(frame) = decoded else { continue };
            match (&*state, frame) {
                (State::Open, frame) => event(Event::Frame(frame)),
                (State::Hello, NodeFrame::LinkHello(hello)) => {
                    let me = LinkEnd {
                        node: NodeId::NONE,
                        incarnation: Incarnation(0),
                        nonce: random(),
                    };
                    let (acceptor, challenge) = Acceptor::hello(keys, me, version, &hello)?;
                    push(out, spares, &challenge.to_vec())?;
                    *state = State::Proof(acceptor);
                }
                (State::Proof(acceptor), NodeFrame::LinkProof(proof)) => {
                    let peer = acceptor.proof(keys, &proof)?;
                    push(out, spares, &LinkReady { doubled: false }.to_vec())?;
                    *state = State::Open;
                    event(Event::Opened(peer));
                }
                (State::Hello | State::Proof(_), _) => {
                    return Err(Fault {
                        code: ErrorCode::OutOfTurn,
                        text: "the link's handshake comes first: hello, then proof".into(),
                    });
                }
                (State::Preface(_) | State::Closing { .. }, _) => unreachable!("no frames are read in these states"),
            }
        }
        drop(frames);
        if self.is_open() {
            self.deadline = now + IDLE_TIMEOUT;
        }
        Ok(())
    }

    /// Sends a frame, header included.
    pub fn send(&mut self, frame: &[u8], spares: &mut Spares) -> Result<(), Fault> {
        if self.is_closing() {
            return Ok(());
        }
        push(&mut self.out, spares, frame)
    }

    /// Sends a map in parts, as fast as they are taken. Drops one that is on its way.
    pub fn send_map(&mut self, transfer: Transfer) {
        if !self.is_closing() {
            self.sending = Some((transfer, 0));
        }
    }

    /// Says why, and reads nothing more.
    pub fn fail(&mut self, now: Instant, fault: &Fault, spares: &mut Spares) {
        let failure = Failure {
            code: fault.code,
            text: Text::clipped(&fault.text),
        };
        // If it doesn't fit, the peer reads nothing, and won't read this either.
        let _ = push(&mut self.out, spares, &failure.to_vec());
        self.state = State::Closing { sent: false };
        self.framer = Framer::new();
        self.sending = None;
        self.deadline = now + FAILURE_TIMEOUT;
    }

    /// What to send now, if no send is in flight.
    pub fn next_send(&mut self, now: Instant, spares: &mut Spares) -> Option<Vec<u8>> {
        self.fill(spares);
        let chunk = self.out.next_send();
        if chunk.is_none()
            && !self.out.sending()
            && let State::Closing { sent: sent @ false } = &mut self.state
        {
            *sent = true;
            self.deadline = if self.ended {
                now
            } else {
                self.deadline.min(now + LINGER)
            };
        }
        chunk
    }

    /// A send ended.
    pub fn sent(&mut self, bytes: Vec<u8>, spares: &mut Spares) {
        self.out.sent(bytes, spares);
    }

    /// The text of the deadline that has passed; `None` if there is nobody to say it to any more.
    pub fn overdue(&self) -> Option<Fault> {
        match self.state {
            State::Preface(_) | State::Hello | State::Proof(_) => Some(Fault {
                code: ErrorCode::HelloTimeout,
                text: format!("no proof of the cluster secret within {HELLO_TIMEOUT:?}"),
            }),
            State::Open => Some(Fault {
                code: ErrorCode::IdleTimeout,
                text: format!("nothing was heard for {IDLE_TIMEOUT:?}"),
            }),
            State::Closing { .. } => None,
        }
    }

    /// Adds parts of the map while little waits.
    fn fill(&mut self, spares: &mut Spares) {
        while self.out.pending() < OUT_BYTES_LOW {
            let Some((transfer, next)) = self.sending.take() else {
                return;
            };
            if let Some(frame) = frame_of(self.version, &transfer, next) {
                self.out.push(&frame, spares).expect("a part fits above the low mark");
                self.sending = Some((transfer, next + 1));
            }
        }
    }
}

/// The announcement of a map in the form of `version`, or the part after it; `None` after the last.
#[cfg_attr(
    not(feature = "next-version"),
    expect(unused_variables, reason = "all versions have one form")
)]
fn frame_of(version: u8, transfer: &Transfer, index: usize) -> Option<Vec<u8>> {
    let (begin, mut parts) = parts(transfer.map, transfer.base, &transfer.bytes);
    #[cfg(feature = "next-version")]
    let version = if trunkline_wire::planted!(MapFormUnasked) {
        trunkline_wire::next::VERSION
    } else {
        version
    };
    #[cfg(feature = "next-version")]
    let begin = trunkline_wire::control::MapBegin {
        whole: trunkline_wire::codec::Newer::new(version, transfer.whole),
        ..begin
    };
    match index.checked_sub(1) {
        None => Some(begin.to_vec()),
        Some(part) => parts.nth(part).map(|part| part.to_vec()),
    }
}

/// The version, when the preface is complete.
fn negotiate(preface: &[u8], versions: Versions) -> Result<Option<u8>, Fault> {
    let bad = |error: trunkline_wire::preface::PrefaceError| Fault {
        code: ErrorCode::BadPreface,
        text: error.to_string(),
    };
    check_prefix(preface).map_err(bad)?;
    let Ok(bytes) = <[u8; PREFACE_BYTES]>::try_from(preface) else {
        return Ok(None);
    };
    let preface = Preface::decode(bytes).map_err(bad)?;
    if preface.side != Side::Control {
        return Err(Fault {
            code: ErrorCode::BadPreface,
            text: "this is the control port; devices and nodes have others".into(),
        });
    }
    let version = versions.common(preface.versions).map_err(|none| Fault {
        code: ErrorCode::UnsupportedVersion,
        text: none.to_string(),
    })?;
    Ok(Some(version))
}

fn push(out: &mut OutBuf, spares: &mut Spares, frame: &[u8]) -> Result<(), Fault> {
    out.push(frame, spares).map_err(|_| Fault {
        code: ErrorCode::SlowReader,
        text: "too much waits to be read".into(),
    })
}
