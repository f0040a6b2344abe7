//! What differs between targets: how a connection introduces itself, how a message is written, what is heard.
//!
//! A [`Protocol`] is told the connection by a number and keeps no state: what has to be remembered for a message is in
//! [`Message`] and [`Heard`]. A new one is a file with an implementation and a line in [`Kind`].

mod floor;
mod mqtt;
mod native;
mod nats;
mod redis;
mod text;

use std::str::FromStr;

pub use self::floor::Floor;
pub use self::mqtt::Mqtt;
pub use self::native::Native;
pub use self::nats::Nats;
pub use self::redis::Redis;

/// One protocol, from the side of the devices.
pub trait Protocol: Sync {
    /// Appends what a new connection says first. The answer has to lead to one [`Heard::Welcome`].
    fn greet(&self, me: u32, out: &mut Vec<u8>);

    /// Appends one message.
    fn send(&self, message: &Message<'_>, out: &mut Vec<u8>);

    /// Reads one frame from the start of `input`: its length, and what it says; `None` if it isn't whole yet. An answer
    /// that the protocol asks for is appended to `reply`.
    ///
    /// # Errors
    /// Why the connection can't go on: what the server said, or what can't be read.
    fn hear<'a>(&self, input: &'a [u8], reply: &mut Vec<u8>) -> Result<Option<(usize, Heard<'a>)>, String>;
}

/// A message that is sent.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// The sender's number.
    pub from: u32,
    /// The recipient's number.
    pub to: u32,
    /// Counts from 0 for each sender and recipient.
    pub number: u32,
    /// For a confirmed message the lowest number to that recipient that has no report; at most its own.
    pub lowest: Option<u32>,
    /// What it carries.
    pub payload: &'a [u8],
}

/// What a frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard<'a> {
    /// The connection is known to the server: others may send to it.
    Welcome,
    /// A message.
    Delivery {
        /// What it carries.
        payload: &'a [u8],
        /// Its number, if the protocol has one: the payload has to say the same.
        number: Option<u32>,
    },
    /// How a confirmed message of this connection ended.
    Report {
        /// Its recipient.
        to: u32,
        /// Its number.
        number: u32,
        /// Whether its recipient has it.
        delivered: bool,
    },
    /// Nothing that matters here.
    Nothing,
}

/// The protocols that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Trunkline's own, for devices.
    Native,
    /// The bare forwarder's.
    Floor,
    /// NATS's.
    Nats,
    /// Redis's publish and subscribe.
    Redis,
    /// MQTT 3.1.1, at quality of service 0.
    Mqtt,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 5] = [Kind::Native, Kind::Floor, Kind::Nats, Kind::Redis, Kind::Mqtt];

    /// As in a target.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Native => "native",
            Kind::Floor => "floor",
            Kind::Nats => "nats",
            Kind::Redis => "redis",
            Kind::Mqtt => "mqtt",
        }
    }

    /// Whether it has confirmed messages.
    pub fn confirms(self) -> bool {
        match self {
            Kind::Native => true,
            Kind::Floor | Kind::Nats | Kind::Redis | Kind::Mqtt => false,
        }
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Kind, String> {
        Kind::ALL.into_iter().find(|kind| kind.name() == text).ok_or_else(|| {
            format!(
                "{text:?} is no protocol: use {}",
                Kind::ALL.map(Kind::name).join(" or ")
            )
        })
    }
}
