//! What a device and its connection server say to each other.

use crate::codec::{DecodeError, Field, Reader, Tail};
use crate::frame::frames;
use crate::id::{Epoch, IdRef, Instance, NodeId};
use crate::report::{Number, Outcome, TtlMs, Way};

/// The largest payload, in bytes.
pub const PAYLOAD_BYTES_MAX: usize = 64 * 1024;

/// The largest body of a frame after the hello: a payload, and at most this much around it.
pub const DEVICE_BODY_BYTES_MAX: usize = PAYLOAD_BYTES_MAX + 256;

/// The largest body of a hello: an id, credentials and some numbers.
pub const HELLO_BODY_BYTES_MAX: usize = 1024;

// The longest frames fit: an id takes 65 bytes, a number 17, an instance, a delivery 8, a time to live 4.
const _: () = assert!(65 + 8 + 12 + 1 + 4 + 2 + CREDENTIALS_BYTES_MAX <= HELLO_BODY_BYTES_MAX);
const _: () = assert!(8 + 65 + 8 + 17 + PAYLOAD_BYTES_MAX <= DEVICE_BODY_BYTES_MAX);

/// The longest credentials, in bytes.
pub const CREDENTIALS_BYTES_MAX: usize = 512;

/// What a device shows to be let in: a token ([`crate::auth::DeviceToken`]), or nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Credentials<'a>(&'a [u8]);

impl<'a> Credentials<'a> {
    /// `None` if there are more than [`CREDENTIALS_BYTES_MAX`].
    pub fn new(bytes: &'a [u8]) -> Option<Credentials<'a>> {
        (bytes.len() <= CREDENTIALS_BYTES_MAX).then_some(Credentials(bytes))
    }

    /// The bytes.
    pub fn bytes(self) -> &'a [u8] {
        self.0
    }
}

impl<'a> Field<'a> for Credentials<'a> {
    fn put(&self, out: &mut Vec<u8>) {
        (self.0.len() as u16).put(out);
        out.extend_from_slice(self.0);
    }

    fn take(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let length = reader.u16()? as usize;
        if length > CREDENTIALS_BYTES_MAX {
            return Err(DecodeError::TooLong("credentials"));
        }
        reader.slice(length).map(Credentials)
    }
}

/// What a session is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// It sends and receives: it is the device's one session, and an older one ends.
    Full,
    /// It only sends and gets reports: nobody is told of it, and it ends no other session.
    SendOnly,
}

impl<'a> Field<'a> for Purpose {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(match self {
            Purpose::Full => 0,
            Purpose::SendOnly => 1,
        });
    }

    fn take(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        match reader.u8()? {
            0 => Ok(Purpose::Full),
            1 => Ok(Purpose::SendOnly),
            _ => Err(DecodeError::Value("purpose")),
        }
    }
}

/// Why a connection is closed by the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ErrorCode {
    /// Not Trunkline's protocol, or a malformed preface.
    BadPreface,
    /// No common protocol version.
    UnsupportedVersion,
    /// A frame that can't be read.
    Malformed,
    /// A frame longer than its limit.
    TooLong,
    /// A frame that has no place in this state: before the hello, or a second hello.
    OutOfTurn,
    /// No hello within its time.
    HelloTimeout,
    /// Nothing heard within the time that the welcome named.
    IdleTimeout,
    /// Credentials are missing, wrong or expired.
    Unauthorized,
    /// The proof of the cluster secret failed.
    WrongSecret,
    /// The device doesn't read what is sent to it.
    SlowReader,
    /// This server does not do that: a full session at a messaging server, for example.
    NotServed,
    /// A defect of the server's own.
    Internal,
}

impl ErrorCode {
    /// All of them, in the order of their numbers on the wire, which start at 1.
    pub const ALL: [ErrorCode; 12] = [
        ErrorCode::BadPreface,
        ErrorCode::UnsupportedVersion,
        ErrorCode::Malformed,
        ErrorCode::TooLong,
        ErrorCode::OutOfTurn,
        ErrorCode::HelloTimeout,
        ErrorCode::IdleTimeout,
        ErrorCode::Unauthorized,
        ErrorCode::WrongSecret,
        ErrorCode::SlowReader,
        ErrorCode::NotServed,
        ErrorCode::Internal,
    ];

    /// One word for logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            ErrorCode::BadPreface => "bad_preface",
            ErrorCode::UnsupportedVersion => "unsupported_version",
            ErrorCode::Malformed => "malformed",
            ErrorCode::TooLong => "too_long",
            ErrorCode::OutOfTurn => "out_of_turn",
            ErrorCode::HelloTimeout => "hello_timeout",
            ErrorCode::IdleTimeout => "idle_timeout",
            ErrorCode::Unauthorized => "unauthorized",
            ErrorCode::WrongSecret => "wrong_secret",
            ErrorCode::SlowReader => "slow_reader",
            ErrorCode::NotServed => "not_served",
            ErrorCode::Internal => "internal",
        }
    }
}

impl<'a> Field<'a> for ErrorCode {
    fn put(&self, out: &mut Vec<u8>) {
        let number = ErrorCode::ALL
            .iter()
            .position(|c| c == self)
            .expect("ALL lists every code")
            + 1;
        (number as u16).put(out);
    }

    fn take(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let number = reader.u16()? as usize;
        let code = number.checked_sub(1).and_then(|index| ErrorCode::ALL.get(index));
        code.copied().ok_or(DecodeError::Value("error code"))
    }
}

/// Why devices are told to go elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum GoAwayReason {
    /// The server is shutting down.
    Shutdown,
    /// The server has no room.
    Full,
}

impl<'a> Field<'a> for GoAwayReason {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(match self {
            GoAwayReason::Shutdown => 1,
            GoAwayReason::Full => 2,
        });
    }

    fn take(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        match reader.u8()? {
            1 => Ok(GoAwayReason::Shutdown),
            2 => Ok(GoAwayReason::Full),
            _ => Err(DecodeError::Value("go-away reason")),
        }
    }
}

/// The longest interval between a device's pings: an hour, in milliseconds.
pub const PING_INTERVAL_MS_MAX: u32 = 3_600_000;
/// The shortest, so that a device can't ask to be watched more closely than that.
pub const PING_INTERVAL_MS_MIN: u32 = 1_000;
/// What a device that has no reason for another value should choose.
pub const PING_INTERVAL_MS_DEFAULT: u32 = 240_000;

/// How often a device promises to be heard: between a second and an hour, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PingIntervalMs(u32);

impl PingIntervalMs {
    /// `None` if out of range.
    pub fn new(ms: u32) -> Option<PingIntervalMs> {
        (PING_INTERVAL_MS_MIN..=PING_INTERVAL_MS_MAX)
            .contains(&ms)
            .then_some(PingIntervalMs(ms))
    }

    /// Milliseconds.
    pub fn ms(self) -> u32 {
        self.0
    }
}

impl Default for PingIntervalMs {
    fn default() -> PingIntervalMs {
        PingIntervalMs(PING_INTERVAL_MS_DEFAULT)
    }
}

impl<'a> Field<'a> for PingIntervalMs {
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
    }

    fn take(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        PingIntervalMs::new(reader.u32()?).ok_or(DecodeError::Value("ping interval"))
    }
}

frames! {
    /// What a device sends.
    pub enum ClientFrame {
        /// The first frame, right behind the preface.
        0x01 Hello['a] {
            /// Who it is.
            device: IdRef<'a>,
            /// The library's random number, the same for all its connections.
            instance: Instance,
            /// The highest epoch that this device has been told, or none.
            presented: Epoch,
            /// Whether it receives.
            purpose: Purpose,
            /// How often it promises to be heard.
            ping_interval: PingIntervalMs,
            /// What lets it in.
            credentials: Credentials<'a>,
        }
        /// A message.
        0x02 Send['a] {
            /// To whom.
            recipient: IdRef<'a>,
            /// Which, and whether confirmed.
            number: Number,
            /// For how long it is worth delivering.
            ttl: TtlMs,
            /// At most [`PAYLOAD_BYTES_MAX`] bytes.
            payload: Tail<'a>,
        }
        /// The device has taken a confirmed message.
        0x03 Acknowledge {
            /// The delivery's number, from [`Deliver`].
            delivery: u64,
            /// It was shown after messages with higher numbers.
            late: bool,
        }
        /// The device is about to write to somebody: a chat was opened. Not answered.
        0x04 Intend['a] {
            /// To whom.
            recipient: IdRef<'a>,
        }
    }
    shared { 0x10 Ping, 0x11 Pong, 0x1e Failure['a] }
}

frames! {
    /// What a connection server sends.
    pub enum ServerFrame {
        /// The hello was accepted.
        0x41 Welcome {
            /// The protocol version that both speak from here on.
            version: u8,
            /// This session's epoch: present it on the next connection. None for a session that only sends.
            epoch: Epoch,
            /// The server's node.
            node: NodeId,
            /// The server closes a connection that it hasn't heard from for this long, in milliseconds.
            idle_ms: u32,
            /// How many of this device's confirmed messages may be unresolved at a time; more are rejected as busy.
            unresolved_max: u32,
        }
        /// A message for the device.
        0x42 Deliver['a] {
            /// Names this delivery in an [`Acknowledge`]; 0 if the message is fire-and-forget.
            delivery: u64,
            /// From whom.
            sender: IdRef<'a>,
            /// Which start of the sender's library.
            instance: Instance,
            /// Which of its messages to this device.
            number: Number,
            /// At most [`PAYLOAD_BYTES_MAX`] bytes.
            payload: Tail<'a>,
        }
        /// How a confirmed message ended.
        0x43 Report['a] {
            /// The message's recipient.
            recipient: IdRef<'a>,
            /// The message's number to that recipient.
            number: u64,
            /// How it ended.
            outcome: Outcome,
            /// Which way it took.
            way: Way,
        }
        /// Connect elsewhere, or again later. The server closes soon after.
        0x44 GoAway {
            /// Not before this, in milliseconds, plus jitter of the device's own.
            retry_after_ms: u32,
            /// Why.
            reason: GoAwayReason,
        }
        /// A newer session of this device exists. The server closes.
        0x45 Superseded {
            /// The newer session's epoch.
            epoch: Epoch,
        }
    }
    shared { 0x10 Ping, 0x11 Pong, 0x1e Failure['a] }
}

pub use crate::common::{Failure, Ping, Pong};
