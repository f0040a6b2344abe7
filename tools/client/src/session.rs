//! One device's dealings with its servers.
//!
//! ```text
//! Waiting ──time──▶ Connecting ──connected──▶ AwaitWelcome ──welcome──▶ Open
//!    ▲                  │                          │                      │
//!    └──────────────────┴── lost, refused, sent elsewhere, out of time ───┤
//!                                                                         ▼
//!                          superseded twice, unauthorized, no version: Stopped
//! ```
//!
//! Pure: sockets, clocks and seeds belong to the caller, which hands in one [`Input`] at a time, carries out the [`Outbox`],
//! then calls [`Session::write`] with the room it has, and comes back with [`Input::Tick`] at [`Session::deadline`]. After
//! [`Command::Close`] the session must hear nothing more of that connection.
//!
//! The rules that matter to others:
//! - Every confirmed message is reported to the user exactly once: the first end counts. If no report comes, the session itself
//!   says `expired`: at the end of the time to live, or 2 s later while a connection holds that may still bring the report.
//! - A message that was written to more than one connection may have reached the device by any of them: only a server that
//!   says `delivered` is certain then, and every other end is reported with `maybe_delivered`.
//! - A message is acknowledged when it is handed to the user, on the connection that brought it. If that is gone, it will come
//!   again, and is acknowledged then.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use trunkline_core::resequencer::{Arrival, DropReason, Resequencer, Step};
use trunkline_wire::codec::Text;
use trunkline_wire::device::{
    Acknowledge, Credentials, DEVICE_BODY_BYTES_MAX, Deliver, ErrorCode, Failure, GoAway, GoAwayReason,
    HELLO_BODY_BYTES_MAX, Hello, PAYLOAD_BYTES_MAX, Ping, Pong, Purpose, ServerFrame, Welcome,
};
use trunkline_wire::frame::Encode;
use trunkline_wire::id::{DeviceId, Epoch, IdRef};
use trunkline_wire::preface::{Preface, Side, VERSION_MIN};
use trunkline_wire::report::{Outcome, TtlMs, Way};
use trunkline_wire::time::Instant;

use crate::backoff;
use crate::event::{
    Awaited, Counts, Event, Guarantee, Loss, Message, MessageId, OptionsError, Report, SendError, StopReason, Welcomed,
};
use crate::hints::Hints;
use crate::options::DeviceOptions;
use crate::outgoing::{Outgoing, Resolved, Written};

mod exchange;
#[cfg(test)]
mod tests;

pub use self::exchange::{Command, Input, Intake, Outbox};

/// One device. See the module's text.
#[derive(Debug)]
pub struct Session {
    options: DeviceOptions,
    state: State,
    /// Index of the server to connect to, or connected to.
    server: usize,
    /// Connections so far: names the present one.
    connection: u64,
    /// Connections in a row that did not last.
    failures: u32,
    /// The highest epoch ever told.
    presented: Epoch,
    /// When the session was last superseded.
    superseded: Option<Instant>,
    /// Hellos that were never answered: a server that was slow may still take each, and supersede this session by it.
    unanswered: u32,
    outgoing: Outgoing,
    hints: Hints,
    incoming: Resequencer<Arrived>,
    /// Empty between two calls.
    steps: Vec<Step<Arrived>>,
    random: Rng,
    counts: Counts,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Waiting { until: Instant },
    Connecting { until: Instant },
    AwaitWelcome { until: Instant },
    Open(Open),
    Stopped,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    since: Instant,
    /// When the server last heard from us, and we from it.
    written: Instant,
    heard: Instant,
    /// Set while a ping is unanswered.
    pong_until: Option<Instant>,
    ping_interval: Duration,
    unresolved_max: usize,
    /// The protocol version that both sides speak.
    version: u8,
}

/// A message on its way through the resequencer.
#[derive(Debug)]
struct Arrived {
    message: Message,
    delivery: u64,
    connection: u64,
}

impl Session {
    /// A session that connects at its first tick.
    ///
    /// # Errors
    /// Options that can't work.
    pub fn new(now: Instant, options: DeviceOptions, seed: u64) -> Result<Session, OptionsError> {
        if options.servers.is_empty() {
            return Err(OptionsError::NoServers);
        }
        if Credentials::new(&options.credentials).is_none() {
            return Err(OptionsError::CredentialsTooLong(options.credentials.len()));
        }
        let mut random = Rng::with_seed(seed);
        Ok(Session {
            state: State::Waiting { until: now },
            server: random.usize(..options.servers.len()),
            connection: 0,
            failures: 0,
            presented: Epoch::NONE,
            superseded: None,
            unanswered: 0,
            outgoing: Outgoing::new(options.outgoing),
            hints: Hints::new(),
            incoming: Resequencer::new(options.incoming),
            steps: Vec::new(),
            random,
            counts: Counts::default(),
            options,
        })
    }

    /// Takes a message in; it leaves with the next [`Session::write`] that has room for it.
    ///
    /// # Errors
    /// At once, if it can't be taken. Then it has no number, and nothing is reported of it.
    pub fn send(
        &mut self,
        now: Instant,
        recipient: IdRef<'_>,
        payload: Vec<u8>,
        ttl: TtlMs,
        guarantee: Guarantee,
    ) -> Result<MessageId, SendError> {
        if matches!(self.state, State::Stopped) {
            return Err(SendError::Stopped);
        }
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(SendError::PayloadTooLong { bytes: payload.len() });
        }
        let number = self.outgoing.take(now, recipient, payload, ttl, guarantee)?;
        self.hints.follow(recipient);
        let recipient = recipient.to_owned();
        Ok(MessageId { recipient, number })
    }

    /// The user is about to write to `recipient`: the server may make the way there ready. Said with the next [`Session::write`] that may
    /// say it, four times a second at most; one that is still waiting gives way to a newer one.
    pub fn intend(&mut self, now: Instant, recipient: IdRef<'_>) {
        if !self.is_stopped() && self.hints.take(now, recipient) {
            self.counts.hints_replaced += 1;
        }
    }

    /// From now on the servers are these: a connection ends, and another begins at once, with one of them. For who comes into another
    /// network, or is told where to go.
    ///
    /// # Errors
    /// If there is none. Then nothing changes.
    pub fn use_servers(
        &mut self,
        now: Instant,
        servers: Arc<[SocketAddr]>,
        out: &mut Outbox,
    ) -> Result<(), OptionsError> {
        if servers.is_empty() {
            return Err(OptionsError::NoServers);
        }
        let left = self.server();
        self.server = self.random.usize(..servers.len());
        self.options.servers = servers;
        let waits = State::Waiting { until: now };
        match self.state {
            State::Stopped => {}
            State::Waiting { .. } => self.state = waits,
            State::Connecting { .. } | State::AwaitWelcome { .. } | State::Open(_) => {
                if matches!(self.state, State::AwaitWelcome { .. }) {
                    self.unanswered = self.unanswered.saturating_add(1);
                }
                out.events.push(Event::Disconnected {
                    server: left,
                    reason: Loss::Left,
                    retry_in: Duration::ZERO,
                });
                self.end_connection(now, waits, out);
            }
        }
        Ok(())
    }

    /// Something happened.
    pub fn handle(&mut self, now: Instant, input: Input<'_>, out: &mut Outbox) {
        match (self.state, input) {
            (_, Input::Tick) => self.tick(now, out),
            (State::Connecting { .. }, Input::Connected) => self.say_hello(now, out),
            (State::Connecting { .. } | State::AwaitWelcome { .. } | State::Open(_), Input::Lost(loss)) => {
                self.lose(now, loss, out);
            }
            (State::AwaitWelcome { .. } | State::Open(_), Input::Unreadable(text)) => {
                self.refuse(now, ErrorCode::Malformed, text, out);
            }
            (State::AwaitWelcome { .. } | State::Open(_), Input::Frame(frame)) => self.hear(now, frame, out),
            // Without a connection there is nothing to hear, and a connection opens once.
            (State::Waiting { .. } | State::Stopped, Input::Connected | Input::Frame(_))
            | (State::Waiting { .. } | State::Stopped, Input::Unreadable(_) | Input::Lost(_))
            | (State::Connecting { .. }, Input::Frame(_) | Input::Unreadable(_))
            | (State::AwaitWelcome { .. } | State::Open(_), Input::Connected) => {}
        }
    }

    /// Appends to `out.write` a hint, if one has its turn, and messages, as many as may leave now; at most `room` bytes of both.
    pub fn write(&mut self, now: Instant, room: usize, out: &mut Outbox) {
        let State::Open(open) = &mut self.state else {
            return;
        };
        let start = out.write.len();
        if self.hints.write(now, room, &mut out.write) {
            self.counts.hints += 1;
            open.written = now;
        }
        loop {
            let left = room.saturating_sub(out.write.len() - start);
            let written = self.outgoing.write(now, open.unresolved_max, left, &mut out.write);
            match written {
                Some(Written::First) => self.counts.sent += 1,
                Some(Written::Again) => self.counts.resent += 1,
                None => return,
            }
            open.written = now;
        }
    }

    /// When to come back with [`Input::Tick`]; [`Instant::NEVER`] if nothing is due.
    pub fn deadline(&self) -> Instant {
        let own = match self.state {
            State::Waiting { until } | State::Connecting { until } | State::AwaitWelcome { until } => until,
            State::Open(open) => open.deadline(),
            State::Stopped => Instant::NEVER,
        };
        own.min(self.outgoing.deadline())
            .min(self.incoming.deadline())
            .min(self.hints.deadline())
    }

    /// The longest frame body that the server may send now.
    pub fn body_bytes_max(&self) -> usize {
        match self.state {
            State::Open(_) => DEVICE_BODY_BYTES_MAX,
            State::Waiting { .. } | State::Connecting { .. } | State::AwaitWelcome { .. } | State::Stopped => {
                HELLO_BODY_BYTES_MAX
            }
        }
    }

    /// Whether a server has let the device in, and holds the connection.
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Open(_))
    }

    /// Whether the session has given up.
    pub fn is_stopped(&self) -> bool {
        matches!(self.state, State::Stopped)
    }

    /// What to answer while nothing more can be taken.
    pub fn busy(&self) -> SendError {
        self.outgoing.busy()
    }

    /// Messages that wait to be written or reported.
    pub fn waiting(&self) -> usize {
        self.outgoing.len()
    }

    /// Of these, how many were never written.
    pub fn unwritten(&self) -> usize {
        self.outgoing.unwritten()
    }

    /// What was counted so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// The options that it was made with.
    pub fn options(&self) -> &DeviceOptions {
        &self.options
    }

    fn tick(&mut self, now: Instant, out: &mut Outbox) {
        let mut expired = Vec::new();
        self.counts.unconfirmed_expired += self.outgoing.expire(now, &mut expired);
        self.report_expired(now, expired, out);
        self.incoming.tick(now, &mut self.steps);
        self.carry_out(now, out);
        match self.state {
            State::Waiting { until } if now >= until => {
                self.state = State::Connecting {
                    until: now + CONNECT_TIMEOUT,
                };
                out.command = Some(Command::Connect(self.server()));
            }
            State::Connecting { until } if now >= until => self.lose(now, Loss::TimedOut(Awaited::Connect), out),
            State::AwaitWelcome { until } if now >= until => self.lose(now, Loss::TimedOut(Awaited::Welcome), out),
            State::Open(open) if now >= open.deadline() => match open.pong_until {
                Some(_) => self.lose(now, Loss::TimedOut(Awaited::Pong), out),
                None if trunkline_wire::planted!(NoPing) => {
                    self.state = State::Open(Open {
                        written: now,
                        heard: now,
                        ..open
                    })
                }
                None => self.ping(now, out),
            },
            State::Waiting { .. } | State::Connecting { .. } | State::AwaitWelcome { .. } | State::Open(_) => {}
            State::Stopped => {}
        }
    }

    /// The protocol version that the connection speaks; the lowest until the welcome names it.
    pub(crate) fn version(&self) -> u8 {
        match &self.state {
            State::Open(open) => open.version,
            State::Waiting { .. } | State::Connecting { .. } | State::AwaitWelcome { .. } | State::Stopped => {
                VERSION_MIN
            }
        }
    }

    fn ping(&mut self, now: Instant, out: &mut Outbox) {
        let State::Open(open) = &mut self.state else {
            return;
        };
        open.written = now;
        open.pong_until = Some(now + PONG_TIMEOUT);
        let token = self.counts.welcomed;
        Ping { token }.encode(&mut out.write);
    }

    fn say_hello(&mut self, now: Instant, out: &mut Outbox) {
        self.connection += 1;
        self.state = State::AwaitWelcome {
            until: now + WELCOME_TIMEOUT,
        };
        out.write
            .extend_from_slice(&Preface::offering(Side::Device, self.options.versions).encode());
        let hello = Hello {
            device: self.options.device.borrow(),
            instance: self.options.instance,
            presented: self.presented,
            purpose: self.options.purpose,
            ping_interval: self.options.ping_interval,
            credentials: Credentials::new(&self.options.credentials).expect("`new` has checked the length"),
        };
        hello.encode(&mut out.write);
    }

    fn hear(&mut self, now: Instant, frame: ServerFrame<'_>, out: &mut Outbox) {
        if let State::Open(open) = &mut self.state {
            // Whatever comes shows that the server lives: a pong may stand behind much else.
            open.heard = now;
            open.pong_until = None;
        }
        match (self.state, frame) {
            (_, ServerFrame::Ping(Ping { token })) => {
                Pong { token }.encode(&mut out.write);
                if let State::Open(open) = &mut self.state {
                    open.written = now;
                }
            }
            (_, ServerFrame::Pong(_)) => {}
            (_, ServerFrame::Failure(failure)) => self.refused(now, failure, out),
            (_, ServerFrame::GoAway(go_away)) => self.go_away(now, go_away, out),
            (_, ServerFrame::Superseded(superseded)) => self.supersede(now, superseded.epoch, out),
            (State::AwaitWelcome { .. }, ServerFrame::Welcome(welcome)) => self.open(now, welcome, out),
            (State::Open(_), ServerFrame::Deliver(deliver)) if self.options.purpose == Purpose::Full => {
                self.deliver(now, deliver, out);
            }
            (State::Open(_), ServerFrame::Report(report)) => {
                match self.outgoing.resolve(report.recipient, report.number) {
                    Some(resolved) => {
                        let outcome = report
                            .outcome
                            .or_maybe(resolved.written > 1 && !trunkline_wire::planted!(CopyForgotten));
                        self.report(now, resolved, outcome, report.way, out);
                    }
                    None => self.counts.reports_repeated += 1,
                }
            }
            (State::Open(_), ServerFrame::Welcome(_) | ServerFrame::Deliver(_))
            | (State::AwaitWelcome { .. }, ServerFrame::Deliver(_) | ServerFrame::Report(_)) => {
                let text = "a frame that has no place here".into();
                self.refuse(now, ErrorCode::OutOfTurn, text, out);
            }
            // `handle` hears nothing without a connection.
            (
                State::Waiting { .. } | State::Connecting { .. } | State::Stopped,
                ServerFrame::Welcome(_) | ServerFrame::Deliver(_) | ServerFrame::Report(_),
            ) => {}
        }
    }

    fn open(&mut self, now: Instant, welcome: Welcome, out: &mut Outbox) {
        let offered = self.options.versions;
        if !offered.contains(welcome.version) {
            let text = format!(
                "the server chose protocol version {}; this side speaks {offered}",
                welcome.version
            );
            return self.stop(now, StopReason::UnsupportedVersion(text), out);
        }
        self.counts.welcomed += 1;
        self.presented = self.presented.max(welcome.epoch);
        // The server's word counts if it is stricter than what was asked for.
        let own = Duration::from_millis(u64::from(self.options.ping_interval.ms()));
        let allowed = Duration::from_millis(u64::from(welcome.idle_ms)) * 2 / 3;
        self.state = State::Open(Open {
            since: now,
            written: now,
            heard: now,
            pong_until: None,
            ping_interval: own.min(allowed).max(PING_INTERVAL_MIN),
            unresolved_max: welcome.unresolved_max as usize,
            version: welcome.version,
        });
        out.events.push(Event::Welcomed(Welcomed {
            epoch: welcome.epoch,
            node: welcome.node,
            version: welcome.version,
            server: self.server(),
        }));
    }

    fn deliver(&mut self, now: Instant, deliver: Deliver<'_>, out: &mut Outbox) {
        if out.intake == Intake::Full {
            self.counts.dropped_backlog += 1;
            return;
        }
        let arrival = Arrival {
            sender: deliver.sender,
            instance: deliver.instance,
            number: deliver.number,
            bytes: deliver.payload.0.len(),
        };
        let guarantee = match deliver.number.confirmed {
            Some(_) => Guarantee::Confirmed,
            None => Guarantee::FireAndForget,
        };
        let arrived = Arrived {
            message: Message {
                sender: deliver.sender.to_owned(),
                instance: deliver.instance,
                number: deliver.number.number,
                guarantee,
                late: false,
                payload: deliver.payload.0.to_vec(),
            },
            delivery: deliver.delivery,
            connection: self.connection,
        };
        if trunkline_wire::planted!(AckWhenHeld) {
            self.acknowledge(now, &arrived, false, out);
        }
        self.incoming.arrive(now, arrival, arrived, &mut self.steps);
        self.carry_out(now, out);
    }

    fn carry_out(&mut self, now: Instant, out: &mut Outbox) {
        let mut steps = std::mem::take(&mut self.steps);
        for step in steps.drain(..) {
            match step {
                Step::Show { mut item, late } => {
                    self.counts.shown += 1;
                    self.counts.shown_late += u64::from(late);
                    self.acknowledge(now, &item, late, out);
                    item.message.late = late && !trunkline_wire::planted!(LateUnmarked);
                    out.events.push(Event::Message(item.message));
                }
                Step::Repeat { item } => {
                    self.counts.acknowledged_again += 1;
                    self.acknowledge(now, &item, false, out);
                }
                Step::Drop { reason, .. } => match reason {
                    DropReason::Late | DropReason::Duplicate => self.counts.dropped_unconfirmed += 1,
                    DropReason::Replaced => self.counts.dropped_replaced += 1,
                    DropReason::Resolved => self.counts.dropped_resolved += 1,
                    DropReason::Forgotten | DropReason::OutOfRange => self.counts.dropped_forgotten += 1,
                },
            }
        }
        // The vector is used again, unless a skipped gap made it large.
        if steps.capacity() <= STEPS_KEPT_MAX {
            self.steps = steps;
        }
    }

    fn acknowledge(&mut self, now: Instant, arrived: &Arrived, late: bool, out: &mut Outbox) {
        let State::Open(open) = &mut self.state else {
            return;
        };
        if arrived.message.guarantee == Guarantee::Confirmed && arrived.connection == self.connection {
            open.written = now;
            let delivery = arrived.delivery;
            Acknowledge { delivery, late }.encode(&mut out.write);
        }
    }

    fn report_expired(&mut self, now: Instant, expired: Vec<Resolved>, out: &mut Outbox) {
        for resolved in expired {
            let maybe_delivered = resolved.written > 0 && !trunkline_wire::planted!(ExpireUnmaybe);
            self.report(now, resolved, Outcome::Expired { maybe_delivered }, Way::Unknown, out);
        }
    }

    fn report(&mut self, now: Instant, resolved: Resolved, outcome: Outcome, way: Way, out: &mut Outbox) {
        self.counts.reports += 1;
        out.events.push(Event::Report(Report {
            id: MessageId {
                recipient: DeviceId::new(&resolved.recipient).expect("it was an id when it was taken in"),
                number: resolved.number,
            },
            outcome,
            way,
            latency: now.since(resolved.taken),
        }));
    }

    /// The server said why it closes.
    fn refused(&mut self, now: Instant, failure: Failure<'_>, out: &mut Outbox) {
        let text = failure.text.as_str().to_owned();
        match failure.code {
            ErrorCode::Unauthorized => self.stop(now, StopReason::Unauthorized(text), out),
            ErrorCode::UnsupportedVersion => self.stop(now, StopReason::UnsupportedVersion(text), out),
            // The rest is this server's, or this connection's: another may do.
            code @ (ErrorCode::BadPreface
            | ErrorCode::Malformed
            | ErrorCode::TooLong
            | ErrorCode::OutOfTurn
            | ErrorCode::HelloTimeout
            | ErrorCode::IdleTimeout
            | ErrorCode::WrongSecret
            | ErrorCode::SlowReader
            | ErrorCode::NotServed
            | ErrorCode::Internal) => self.lose(now, Loss::Failure { code, text }, out),
        }
    }

    /// The server has left the protocol: say why, and close.
    fn refuse(&mut self, now: Instant, code: ErrorCode, text: String, out: &mut Outbox) {
        let failure = Failure {
            code,
            text: Text::clipped(&text),
        };
        failure.encode(&mut out.write);
        self.lose(now, Loss::Unreadable(text), out);
    }

    fn go_away(&mut self, now: Instant, go_away: GoAway, out: &mut Outbox) {
        self.count_failure(now);
        let asked = Duration::from_millis(u64::from(go_away.retry_after_ms));
        // A server that shuts down says nothing about the others: only being full again and again makes the waits longer.
        let failures = match go_away.reason {
            GoAwayReason::Shutdown => 1,
            GoAwayReason::Full => self.failures,
        };
        let delay = backoff::after_go_away(asked, failures, &mut self.random);
        self.disconnect(now, Loss::GoAway(go_away.reason), delay, Next::Another, out);
    }

    /// A newer session exists. It may be this device's own, from a connection that broke: presenting its epoch wins against it.
    fn supersede(&mut self, now: Instant, epoch: Epoch, out: &mut Outbox) {
        self.presented = self.presented.max(epoch);
        if let Some(left) = self.unanswered.checked_sub(1) {
            // Most likely a hello of our own: it counts for nobody else's.
            self.unanswered = left;
            return self.disconnect(now, Loss::Superseded(epoch), Duration::ZERO, Next::Same, out);
        }
        match self.superseded {
            Some(before) if now.since(before) <= SUPERSEDED_AGAIN => self.stop(now, StopReason::Superseded(epoch), out),
            Some(_) | None => {
                self.superseded = Some(now);
                self.disconnect(now, Loss::Superseded(epoch), Duration::ZERO, Next::Same, out);
            }
        }
    }

    fn lose(&mut self, now: Instant, loss: Loss, out: &mut Outbox) {
        if matches!(self.state, State::AwaitWelcome { .. }) {
            self.unanswered = self.unanswered.saturating_add(1);
        }
        self.count_failure(now);
        let delay = match trunkline_wire::planted!(ReconnectAtOnce) {
            true => Duration::ZERO,
            false if trunkline_wire::planted!(BackoffLong) => Duration::from_secs(120),
            false => backoff::delay(self.failures, &mut self.random),
        };
        self.disconnect(now, loss, delay, Next::Another, out);
    }

    fn count_failure(&mut self, now: Instant) {
        self.failures = match self.state {
            State::Open(open) if now.since(open.since) >= LASTING => 1,
            State::Open(_) | State::Connecting { .. } | State::AwaitWelcome { .. } => self.failures.saturating_add(1),
            State::Waiting { .. } | State::Stopped => self.failures,
        };
    }

    fn disconnect(&mut self, now: Instant, reason: Loss, retry_in: Duration, next: Next, out: &mut Outbox) {
        out.events.push(Event::Disconnected {
            server: self.server(),
            reason,
            retry_in,
        });
        self.server = match next {
            Next::Same => self.server,
            Next::Another => (self.server + 1) % self.options.servers.len(),
        };
        self.end_connection(now, State::Waiting { until: now + retry_in }, out);
    }

    fn stop(&mut self, now: Instant, reason: StopReason, out: &mut Outbox) {
        out.events.push(Event::Stopped { reason });
        self.end_connection(now, State::Stopped, out);
    }

    fn end_connection(&mut self, now: Instant, state: State, out: &mut Outbox) {
        self.state = state;
        out.command = Some(Command::Close);
        self.hints.connection_lost();
        let mut expired = Vec::new();
        self.outgoing.connection_lost(&mut expired);
        self.report_expired(now, expired, out);
    }

    fn server(&self) -> SocketAddr {
        self.options.servers[self.server]
    }
}

/// Where to connect next.
#[derive(Clone, Copy, Debug)]
enum Next {
    Same,
    Another,
}

impl Open {
    /// When the pong is overdue, or the next ping due: at the interval after either side was last heard, so that a server that has
    /// gone is noticed although we keep writing.
    fn deadline(&self) -> Instant {
        match self.pong_until {
            Some(until) => until,
            None => self.written.min(self.heard) + self.ping_interval,
        }
    }
}

/// As long as a handshake over a bad link takes, and short enough to try the next server.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The server waits up to 250 ms for the device's region, and 3 s more if nobody of it answers; the rest is the network.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(5);
const PONG_TIMEOUT: Duration = Duration::from_secs(10);
/// An idle device holds room for so many steps at most.
const STEPS_KEPT_MAX: usize = 4;
/// Whatever the welcome says, pings come no faster.
const PING_INTERVAL_MIN: Duration = Duration::from_millis(500);
/// A connection that lasted this long was good: its loss starts a new row of failures.
const LASTING: Duration = Duration::from_secs(5);
/// Superseded again within this time: two programs use one device id, and one of them must yield.
const SUPERSEDED_AGAIN: Duration = Duration::from_secs(60);
