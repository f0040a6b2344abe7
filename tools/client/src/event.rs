//! What the library tells its user, and what the user may ask for.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use trunkline_wire::device::{ErrorCode, GoAwayReason, PAYLOAD_BYTES_MAX};
use trunkline_wire::id::{DeviceId, Epoch, Instance, NodeId};
use trunkline_wire::report::{Outcome, Way};

/// What a sender wants to be told of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Guarantee {
    /// Retried until exactly one [`Report`] says how it ended.
    Confirmed,
    /// No report, no retry.
    FireAndForget,
}

/// Names a message among those of one start of the library.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId {
    /// To whom.
    pub recipient: DeviceId,
    /// Counts from 0 per recipient.
    pub number: u64,
}

/// What happened. Exactly one `Report` comes per confirmed message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A server has let the device in.
    Welcomed(Welcomed),
    /// A message for the device.
    Message(Message),
    /// How a confirmed message of the device ended.
    Report(Report),
    /// A connection ended, or did not come about. The library goes on by itself.
    Disconnected {
        /// The server.
        server: SocketAddr,
        /// Why.
        reason: Loss,
        /// When the library connects again.
        retry_in: Duration,
    },
    /// The library has given up; nothing but reports follows.
    Stopped {
        /// Why.
        reason: StopReason,
    },
}

/// A server has let the device in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Welcomed {
    /// The session's epoch; none for a session that only sends.
    pub epoch: Epoch,
    /// The server's node.
    pub node: NodeId,
    /// The protocol version that both sides speak.
    pub version: u8,
    /// The server's address.
    pub server: SocketAddr,
}

/// A message for the device. By the time it is seen here it counts as taken: a confirmed one is acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// From whom.
    pub sender: DeviceId,
    /// Which start of the sender's library.
    pub instance: Instance,
    /// Which of its messages to this device.
    pub number: u64,
    /// Whether its sender gets a report.
    pub guarantee: Guarantee,
    /// Messages of this sender with higher numbers were shown before.
    pub late: bool,
    /// What it says.
    pub payload: Vec<u8>,
}

/// How a confirmed message ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The message.
    pub id: MessageId,
    /// Its end.
    pub outcome: Outcome,
    /// Which way it took.
    pub way: Way,
    /// From the call to send it until the report.
    pub latency: Duration,
}

/// Why a connection ended, or did not come about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Connecting failed, or the connection broke: what the system said.
    Network(String),
    /// The server closed without a word.
    Closed,
    /// The server did not do this in time.
    TimedOut(Awaited),
    /// The server sent what can't be read, or what has no place there.
    Unreadable(String),
    /// The server said why it closes.
    Failure {
        /// For programs.
        code: ErrorCode,
        /// For people.
        text: String,
    },
    /// The server sends its devices elsewhere.
    GoAway(GoAwayReason),
    /// A newer session of this device exists.
    Superseded(Epoch),
    /// The server does not read what is sent to it.
    NotReading,
    /// The user named other servers.
    Left,
}

/// What a server was awaited to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Awaited {
    /// To accept the connection.
    Connect,
    /// To answer the hello.
    Welcome,
    /// To answer a ping.
    Pong,
}

/// Why the library gave up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// Twice within a minute another session of the same device took over: two programs use one device id.
    Superseded(Epoch),
    /// The credentials are missing, wrong or expired.
    Unauthorized(String),
    /// The server speaks no protocol version that this library does.
    UnsupportedVersion(String),
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Loss::Network(text) => write!(f, "{text}"),
            Loss::Closed => write!(f, "the server closed the connection"),
            Loss::TimedOut(Awaited::Connect) => write!(f, "the server did not accept the connection in time"),
            Loss::TimedOut(Awaited::Welcome) => write!(f, "the server did not answer the hello in time"),
            Loss::TimedOut(Awaited::Pong) => write!(f, "the server did not answer a ping in time"),
            Loss::Unreadable(text) => write!(f, "the server does not speak the protocol: {text}"),
            Loss::Failure { code, text } => write!(f, "the server closed the connection: {} ({text})", code.name()),
            Loss::GoAway(GoAwayReason::Shutdown) => write!(f, "the server is shutting down"),
            Loss::GoAway(GoAwayReason::Full) => write!(f, "the server is full"),
            Loss::Superseded(epoch) => write!(f, "superseded by the session {epoch}"),
            Loss::Left => write!(f, "left for other servers"),
            Loss::NotReading => write!(f, "the server does not read what is sent to it"),
        }
    }
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StopReason::Superseded(epoch) => write!(
                f,
                "superseded by the session {epoch}, twice within a minute: another program uses the same device id"
            ),
            StopReason::Unauthorized(text) => write!(f, "not let in: {text}; check the device's token"),
            StopReason::UnsupportedVersion(text) => f.write_str(text),
        }
    }
}

/// Why a message was not taken. It has no number, and nothing is reported of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// Too much waits to be sent or reported already, or the user does not take its events; try again later.
    #[error("busy: {messages} messages with {bytes} bytes wait to be sent or reported")]
    Busy {
        /// Messages that wait.
        messages: usize,
        /// Their bytes.
        bytes: usize,
    },
    /// The payload is longer than the protocol allows.
    #[error("a payload has at most {PAYLOAD_BYTES_MAX} bytes, this one has {bytes}")]
    PayloadTooLong {
        /// Its length.
        bytes: usize,
    },
    /// The library has given up, as an [`Event::Stopped`] has said, or was closed.
    #[error("the library has stopped")]
    Stopped,
}

/// Settings that can't work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// There is nobody to connect to.
    #[error("`servers` is empty: name at least one address")]
    NoServers,
    /// The credentials are longer than the protocol allows.
    #[error("`credentials` have {0} bytes, 512 are allowed")]
    CredentialsTooLong(usize),
}

/// What was counted since the session began. Nothing that is dropped is dropped silently.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Welcomes.
    pub welcomed: u64,
    /// Messages written, first times only.
    pub sent: u64,
    /// Confirmed messages written again after a reconnect.
    pub resent: u64,
    /// Hints said: whom the user is about to write to.
    pub hints: u64,
    /// Hints that gave way to newer ones before they could be said.
    pub hints_replaced: u64,
    /// Reports handed to the user.
    pub reports: u64,
    /// Reports that came after the first, or for nothing that is known.
    pub reports_repeated: u64,
    /// Fire-and-forget messages whose time to live passed before there was a connection.
    pub unconfirmed_expired: u64,
    /// Messages shown.
    pub shown: u64,
    /// Of these, after messages with higher numbers.
    pub shown_late: u64,
    /// Confirmed duplicates, acknowledged again.
    pub acknowledged_again: u64,
    /// Fire-and-forget messages that came late or twice.
    pub dropped_unconfirmed: u64,
    /// Messages whose sender has been told how they ended.
    pub dropped_resolved: u64,
    /// Messages of which nobody remembers whether they were shown: not acknowledged.
    pub dropped_forgotten: u64,
    /// Older copies of messages that were held.
    pub dropped_replaced: u64,
    /// Messages that came while the user took no events: not acknowledged, so that confirmed ones come again.
    pub dropped_backlog: u64,
}

impl Counts {
    /// The sum of both, field by field.
    pub fn plus(self, other: Counts) -> Counts {
        Counts {
            welcomed: self.welcomed + other.welcomed,
            sent: self.sent + other.sent,
            resent: self.resent + other.resent,
            hints: self.hints + other.hints,
            hints_replaced: self.hints_replaced + other.hints_replaced,
            reports: self.reports + other.reports,
            reports_repeated: self.reports_repeated + other.reports_repeated,
            unconfirmed_expired: self.unconfirmed_expired + other.unconfirmed_expired,
            shown: self.shown + other.shown,
            shown_late: self.shown_late + other.shown_late,
            acknowledged_again: self.acknowledged_again + other.acknowledged_again,
            dropped_unconfirmed: self.dropped_unconfirmed + other.dropped_unconfirmed,
            dropped_resolved: self.dropped_resolved + other.dropped_resolved,
            dropped_forgotten: self.dropped_forgotten + other.dropped_forgotten,
            dropped_replaced: self.dropped_replaced + other.dropped_replaced,
            dropped_backlog: self.dropped_backlog + other.dropped_backlog,
        }
    }
}
