//! One session with the control plane, from dial to loss.

use std::time::Duration;

use trunkline_net::driver::{BufferGroup, Completion, Driver, ReceiveMode, Token};
use trunkline_net::framing::{Frame, Framer};
use trunkline_net::outbuf::{OutBuf, Spares};
use trunkline_wire::auth::LinkEnd;
#[cfg(feature = "next-version")]
use trunkline_wire::codec::Newer;
use trunkline_wire::codec::Text;
use trunkline_wire::common::{Failure, Pong};
use trunkline_wire::control::{
    CONTROL_BODY_BYTES_MAX, ControlFrame, Draining, Join, Joined, Leave, MapAck, MapNack, MapRequest, MapSettled,
    Names, Renew,
};
use trunkline_wire::device::ErrorCode;
use trunkline_wire::frame::{Decode, Encode};
use trunkline_wire::handshake::Opener;
use trunkline_wire::id::NodeId;
use trunkline_wire::preface::{Preface, Side, VERSION_MIN};
use trunkline_wire::time::Instant;

use super::maps::Answer;
use super::{Agent, JOIN_TIMEOUT, News, RETRY_MAX, RETRY_MIN};
use crate::identity;

/// How far the session is. Everything before [`Session::Member`] has one deadline.
#[derive(Debug)]
pub(super) enum Session {
    Idle {
        retry_at: Instant,
    },
    Connecting {
        wire: Wire,
        deadline: Instant,
    },
    Opening {
        wire: Wire,
        deadline: Instant,
        opener: Opener,
    },
    /// From here on the protocol version is agreed on: [`Wire::version`].
    Proving {
        wire: Wire,
        deadline: Instant,
    },
    Joining {
        wire: Wire,
        deadline: Instant,
    },
    Member {
        wire: Wire,
        lease: Duration,
        heard: Instant,
        renew_at: Instant,
    },
    /// The leave is being written, or read: the connection is closed by the control plane, which has read all then. Who closes with
    /// something unread takes back what is still on its way.
    Leaving {
        wire: Wire,
        deadline: Instant,
    },
}

/// The connection.
#[derive(Debug)]
pub(super) struct Wire {
    token: Token,
    framer: Framer,
    out: OutBuf,
    /// The protocol version that both sides speak; the lowest until they have agreed on one.
    version: u8,
}

impl Session {
    pub(super) fn deadline(&self) -> Instant {
        match self {
            Session::Idle { retry_at } => *retry_at,
            Session::Connecting { deadline, .. }
            | Session::Opening { deadline, .. }
            | Session::Proving { deadline, .. }
            | Session::Joining { deadline, .. }
            | Session::Leaving { deadline, .. } => *deadline,
            Session::Member {
                lease, heard, renew_at, ..
            } => (*renew_at).min(*heard + *lease),
        }
    }

    fn wire(&mut self) -> Option<&mut Wire> {
        match self {
            Session::Idle { .. } => None,
            Session::Connecting { wire, .. }
            | Session::Opening { wire, .. }
            | Session::Proving { wire, .. }
            | Session::Joining { wire, .. }
            | Session::Member { wire, .. }
            | Session::Leaving { wire, .. } => Some(wire),
        }
    }

    fn into_wire(self) -> Option<Wire> {
        match self {
            Session::Idle { .. } => None,
            Session::Connecting { wire, .. }
            | Session::Opening { wire, .. }
            | Session::Proving { wire, .. }
            | Session::Joining { wire, .. }
            | Session::Member { wire, .. }
            | Session::Leaving { wire, .. } => Some(wire),
        }
    }
}

/// What ended a session: the other side's code, if it said one, and one line.
type Trouble = (Option<ErrorCode>, String);

fn trouble(text: impl Into<String>) -> Trouble {
    (None, text.into())
}

impl<D: Driver> Agent<D> {
    pub(super) fn complete(&mut self, now: Instant, completion: Completion<D::Socket>) {
        match completion {
            Completion::Connected { token } if self.is_ours(token) => self.connected(token),
            Completion::ConnectFailed { token, error } => {
                if self.is_ours(token) {
                    self.fail(now, trouble(error.to_string()));
                }
            }
            Completion::Received { token, buffer } => {
                // Off the messages' way: a copy keeps the session simple.
                let bytes = self.driver.bytes(&buffer).to_vec();
                self.driver.give_back(buffer);
                if self.is_ours(token) {
                    self.received(now, &bytes);
                }
            }
            Completion::Eof { token } if self.is_ours(token) => {
                self.fail(now, trouble("the control plane closed the connection"));
            }
            Completion::ReceiveFailed { token, error } if self.is_ours(token) => {
                self.fail(now, trouble(error.to_string()));
            }
            Completion::Sent { token, bytes, result } if self.is_ours(token) => match result {
                Ok(()) => self.sent(bytes),
                Err(error) => self.fail(now, trouble(error.to_string())),
            },
            Completion::Connected { .. }
            | Completion::Eof { .. }
            | Completion::ReceiveFailed { .. }
            | Completion::Sent { .. }
            | Completion::Closed { .. }
            | Completion::Woken
            | Completion::Accepted { .. }
            | Completion::AcceptPaused { .. }
            | Completion::HandedOver { .. } => {}
        }
    }

    pub(super) fn tick(&mut self, now: Instant) {
        match &mut self.session {
            Session::Idle { retry_at } => {
                if *retry_at <= now && !self.leaving {
                    self.dial(now);
                }
            }
            Session::Connecting { deadline, .. }
            | Session::Opening { deadline, .. }
            | Session::Proving { deadline, .. }
            | Session::Joining { deadline, .. }
            | Session::Leaving { deadline, .. } => {
                if *deadline <= now {
                    self.fail(now, trouble("the control plane did not answer in time"));
                }
            }
            Session::Member {
                lease, heard, renew_at, ..
            } => {
                if *heard + *lease <= now {
                    self.fail(now, trouble("the control plane is silent"));
                } else if *renew_at <= now {
                    // An operator watches.
                    let wait = if self.draining {
                        DRAIN_RENEWAL
                    } else {
                        *lease / RENEWALS_A_LEASE
                    };
                    *renew_at = now + wait;
                    let sessions = self.sessions;
                    if !trunkline_wire::planted!(LeaseNotRenewed) {
                        self.send(&Renew { sessions });
                    }
                    if self.map_owed && !trunkline_wire::planted!(MapNotAskedAgain) {
                        // There may be room on the disk by now, and control offers nothing twice by itself.
                        self.counters.maps_requested += 1;
                        self.send(&MapRequest {});
                    }
                }
                if self.settled != self.settled_told {
                    self.settled_told = self.settled;
                    let version = self.settled;
                    self.send(&MapSettled { version });
                }
            }
        }
        self.start_send();
    }

    /// The protocol version that the session speaks, as far as it is agreed on.
    pub(super) fn version(&mut self) -> u8 {
        self.session.wire().map_or(VERSION_MIN, |wire| wire.version)
    }

    fn is_ours(&mut self, token: Token) -> bool {
        self.session.wire().is_some_and(|wire| wire.token == token)
    }

    fn dial(&mut self, now: Instant) {
        self.counters.control_dials += 1;
        let started = self.address().and_then(|address| {
            self.driver
                .connect(address)
                .map_err(|error| format!("{address}: {error}"))
        });
        match started {
            Ok(token) => {
                let wire = Wire {
                    token,
                    framer: Framer::new(),
                    out: OutBuf::new(OUT_BYTES_MAX),
                    version: VERSION_MIN,
                };
                let deadline = now + JOIN_TIMEOUT;
                self.session = Session::Connecting { wire, deadline };
                self.maps.reset();
            }
            Err(text) => self.fail(now, trouble(text)),
        }
    }

    fn connected(&mut self, token: Token) {
        let Session::Connecting { deadline, .. } = self.session else {
            return;
        };
        let me = LinkEnd {
            node: self.config.node,
            incarnation: self.config.incarnation,
            nonce: self.config.entropy.nonce(),
        };
        let (opener, hello) = Opener::new(&self.config.keys, me, self.config.versions);
        self.driver.receive(token, ReceiveMode::Stream, BufferGroup::Link);
        let mut bytes = Preface::offering(Side::Control, self.config.versions).encode().to_vec();
        hello.encode(&mut bytes);
        self.push(&bytes);
        self.move_on(|wire| Session::Opening { wire, deadline, opener });
    }

    fn received(&mut self, now: Instant, bytes: &[u8]) {
        let Some(wire) = self.session.wire() else { return };
        let mut framer = std::mem::take(&mut wire.framer);
        let mut frames = framer.frames(bytes);
        let result = loop {
            match frames.next(|_| CONTROL_BODY_BYTES_MAX) {
                Ok(None) => break Ok(()),
                Ok(Some(Frame { ty, body })) => match ControlFrame::decode(self.version(), ty, body) {
                    Ok(None) => {}
                    Ok(Some(frame)) => {
                        if let Err(trouble) = self.frame(now, &frame) {
                            break Err(trouble);
                        }
                    }
                    Err(error) => break Err(trouble(error.to_string())),
                },
                Err(error) => break Err(trouble(error.to_string())),
            }
        };
        drop(frames);
        match (result, self.session.wire()) {
            (Ok(()), Some(wire)) => wire.framer = framer,
            (Ok(()), None) => {}
            (Err(trouble), _) => self.fail(now, trouble),
        }
    }

    fn frame(&mut self, now: Instant, frame: &ControlFrame<'_>) -> Result<(), Trouble> {
        if let Session::Member { heard, .. } = &mut self.session {
            *heard = now;
        }
        match (&self.session, frame) {
            (_, ControlFrame::Failure(failure)) => {
                let text = format!("the control plane refuses: {}", failure.text.as_str());
                Err((Some(failure.code), text))
            }
            (_, ControlFrame::Ping(ping)) => {
                self.send(&Pong { token: ping.token });
                Ok(())
            }
            (_, ControlFrame::Pong(_)) => Ok(()),
            (Session::Opening { opener, deadline, .. }, ControlFrame::LinkChallenge(challenge)) => {
                let (opener, deadline) = (*opener, *deadline);
                match opener.challenge(&self.config.keys, challenge) {
                    Ok((proof, peer)) => {
                        if let Some(wire) = self.session.wire() {
                            wire.version = peer.version;
                        }
                        self.send(&proof);
                        self.move_on(|wire| Session::Proving { wire, deadline });
                        Ok(())
                    }
                    Err(refusal) => {
                        let text = refusal.to_string();
                        self.send(&Failure {
                            code: refusal.code(),
                            text: Text::clipped(&text),
                        });
                        self.start_send();
                        Err((Some(refusal.code()), text))
                    }
                }
            }
            (Session::Proving { deadline, .. }, ControlFrame::LinkReady(_)) => {
                let deadline = *deadline;
                self.send_join()?;
                self.move_on(|wire| Session::Joining { wire, deadline });
                Ok(())
            }
            (Session::Joining { .. }, ControlFrame::Joined(joined)) => self.joined(now, joined),
            (Session::Member { .. }, ControlFrame::Renewed(_)) => {
                self.counters.lease_renewals += 1;
                Ok(())
            }
            (Session::Member { .. }, ControlFrame::Drain(drain)) => {
                self.order_drain(drain.on.then_some(drain.rate));
                Ok(())
            }
            (Session::Member { .. }, ControlFrame::MapBegin(begin)) => {
                let answer = self.maps.begin(*begin);
                self.answer(answer);
                Ok(())
            }
            (Session::Member { .. }, ControlFrame::MapPart(part)) => {
                let answer = self.maps.part(*part, &*self.storage);
                self.answer(answer);
                Ok(())
            }
            // The answer to a frame that was sent before the leave.
            (Session::Leaving { .. }, _) => Ok(()),
            (
                Session::Idle { .. }
                | Session::Connecting { .. }
                | Session::Opening { .. }
                | Session::Proving { .. }
                | Session::Joining { .. }
                | Session::Member { .. },
                ControlFrame::LinkChallenge(_)
                | ControlFrame::LinkReady(_)
                | ControlFrame::Joined(_)
                | ControlFrame::Renewed(_)
                | ControlFrame::Drain(_)
                | ControlFrame::MapBegin(_)
                | ControlFrame::MapPart(_)
                | ControlFrame::AdminAnswer(_),
            ) => Err(trouble("the control plane sent a frame that has no place here")),
        }
    }

    fn send_join(&mut self) -> Result<(), Trouble> {
        #[cfg(feature = "next-version")]
        let version = self.version();
        let regions: Vec<&str> = self.config.regions.iter().map(String::as_str).collect();
        let mut space = Vec::new();
        let regions = Names::new(regions, &mut space)
            .ok_or_else(|| trouble("the setting `node.regions` has too many names, or an empty one"))?;
        let join = Join {
            name: Text::clipped(&self.config.name),
            roles: self.config.roles,
            device_address: self.config.device_address,
            peer_address: self.config.peer_address,
            http_address: self.config.http_address,
            map: self.maps.held(),
            regions,
            #[cfg(feature = "next-version")]
            build: Newer::new(version, Text::clipped(&self.config.build)),
        };
        let bytes = join.to_vec();
        self.push(&bytes);
        Ok(())
    }

    fn joined(&mut self, now: Instant, joined: &Joined) -> Result<(), Trouble> {
        let known = self.config.node;
        if known == NodeId::NONE {
            identity::keep_node(&*self.storage, joined.node)
                .map_err(|error| trouble(format!("the node's id can't be written to the data directory: {error}")))?;
            self.config.node = joined.node;
        } else if known != joined.node {
            return Err(trouble(format!(
                "the control plane calls this node {}, and its data directory says {known}",
                joined.node
            )));
        }
        self.counters.control_sessions += 1;
        self.settled_told = 0;
        self.failures = 0;
        let lease = Duration::from_millis(joined.lease_ms.into()).max(LEASE_MIN);
        self.move_on(|wire| Session::Member {
            wire,
            lease,
            heard: now,
            renew_at: now + lease / RENEWALS_A_LEASE,
        });
        self.news.push(News::Joined(joined.node));
        if self.draining {
            self.tell_draining();
        }
        Ok(())
    }

    /// An operator's word holds also when the node starts while the control plane is away.
    fn order_drain(&mut self, ordered: Option<u32>) {
        if ordered != self.drain_ordered {
            match identity::keep_drain(&*self.storage, ordered) {
                Ok(()) => self.drain_ordered = ordered,
                Err(error) => self.news.push(News::Trouble {
                    code: None,
                    text: format!(
                        "that this node is drained, or no longer, can't be written to the data directory: {error}"
                    ),
                }),
            }
        }
        self.news.push(match ordered {
            Some(rate) => News::Drain { rate },
            None => News::Stay,
        });
    }

    fn answer(&mut self, answer: Answer) {
        match answer {
            Answer::Nothing => {}
            Answer::Held(map) => self.send(&MapAck { map }),
            Answer::Taken(map) => {
                self.counters.maps_taken += 1;
                self.map_owed = false;
                self.send(&MapAck { map: map.id() });
                self.news.push(News::Map(map));
            }
            Answer::Request => {
                self.counters.maps_requested += 1;
                self.send(&MapRequest {});
            }
            Answer::Refused { map, reason } => {
                self.counters.maps_refused += 1;
                self.nack(map, &reason);
            }
            Answer::Unwritable { map, reason } => {
                self.counters.maps_unwritable += 1;
                self.map_owed = true;
                self.nack(map, &reason);
            }
        }
    }

    fn nack(&mut self, map: trunkline_wire::control::MapId, reason: &str) {
        let text = format!("map {} is refused: {reason}", map.version);
        self.news.push(News::Trouble { code: None, text });
        let reason = Text::clipped(reason);
        self.send(&MapNack { map, reason });
    }

    pub(super) fn end_membership(&mut self) {
        let deadline = self.driver.now() + LEAVE_TIMEOUT;
        if matches!(self.session, Session::Member { .. }) {
            self.send(&Leave {});
            self.move_on(|wire| Session::Leaving { wire, deadline });
            self.start_send();
        } else {
            self.hang_up(Instant::NEVER);
        }
    }

    pub(super) fn tell_draining(&mut self) {
        if let Session::Member { renew_at, .. } = &mut self.session {
            *renew_at = self.driver.now();
            let on = self.draining;
            self.send(&Draining { on });
            self.start_send();
        }
    }

    fn send(&mut self, frame: &impl Encode) {
        let bytes = frame.to_vec();
        self.push(&bytes);
    }

    fn push(&mut self, bytes: &[u8]) {
        if let Some(wire) = self.session.wire() {
            // Too much waits only if the control plane doesn't read; then its silence ends the session.
            let _ = wire.out.push(bytes, &mut Spares::new(0));
        }
    }

    fn start_send(&mut self) {
        if let Some(wire) = self.session.wire()
            && let Some(bytes) = wire.out.next_send()
        {
            let token = wire.token;
            self.driver.send(token, bytes);
        }
    }

    fn sent(&mut self, bytes: Vec<u8>) {
        let Some(wire) = self.session.wire() else { return };
        wire.out.sent(bytes, &mut Spares::new(0));
    }

    fn move_on(&mut self, next: impl FnOnce(Wire) -> Session) {
        let idle = Session::Idle {
            retry_at: Instant::NEVER,
        };
        if let Some(wire) = std::mem::replace(&mut self.session, idle).into_wire() {
            self.session = next(wire);
        }
    }

    /// The session is over; there will be another one.
    fn fail(&mut self, now: Instant, (code, text): Trouble) {
        if self.leaving {
            self.hang_up(now);
            return;
        }
        self.counters.control_sessions_lost += 1;
        self.failures = self.failures.saturating_add(1);
        let doublings = (self.failures - 1).min(16);
        let full = RETRY_MIN.saturating_mul(1 << doublings).min(RETRY_MAX).as_micros() as u64;
        let wait = Duration::from_micros(self.rng.u64(full / 2..=full));
        self.hang_up(now + wait);
        self.news.push(News::Trouble { code, text });
    }

    fn hang_up(&mut self, retry_at: Instant) {
        let idle = Session::Idle { retry_at };
        if let Some(wire) = std::mem::replace(&mut self.session, idle).into_wire() {
            self.driver.close(wire.token);
        }
    }
}

/// A lost renewal, or two, doesn't cost the lease.
const RENEWALS_A_LEASE: u32 = 3;
/// How often a node that sends its devices elsewhere says how many are left.
const DRAIN_RENEWAL: Duration = Duration::from_secs(1);
/// Whatever the control plane says, it isn't renewed more often than a few times a second.
const LEASE_MIN: Duration = Duration::from_secs(1);
/// How long the leave may take to be written and read.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);
/// A node says little: a join is the largest frame.
const OUT_BYTES_MAX: usize = 256 * 1024;
