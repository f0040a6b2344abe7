//! What a driver's kind has to bring along to be checked.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use trunkline_net::driver::Driver;
use trunkline_wire::time::Instant;

/// A promise that was not kept.
#[derive(Debug)]
pub struct Failure(pub String);

pub type Outcome = Result<(), Failure>;

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Returns a [`Failure`] with the formatted text unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($text:tt)*) => {
        if !$condition {
            return Err(crate::harness::Failure(format!($($text)*)));
        }
    };
}
pub(crate) use ensure;

/// Bounds of a driver under test: small, so that they are met.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub sockets_max: u32,
    pub sockets_reserved: u32,
    pub device_buffers: u32,
    pub link_buffers: u32,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds {
            sockets_max: 64,
            sockets_reserved: 0,
            device_buffers: 8,
            link_buffers: 4,
        }
    }
}

/// Sizes of every buffer under test.
pub const DEVICE_BUFFER_BYTES: u32 = 1024;
pub const LINK_BUFFER_BYTES: u32 = 8192;

/// How long drivers spin that do: less than the suite's idle waits, so that these both spin and sleep.
pub const SPIN_MICROS: u64 = 300;

/// Makes drivers of one kind that can talk to each other, and peers that are none.
pub trait Harness: Sized {
    /// In failures.
    const NAME: &'static str;
    /// With which every case is run.
    const SEEDS: std::ops::Range<u64>;

    /// How many connections come and go in the test of leaks.
    const CONNECTIONS: usize;

    type Driver: Driver;
    type Peer: Peer;

    /// Why this kind can't be checked on this machine, if it can't.
    fn unusable() -> Option<String> {
        None
    }

    fn new(seed: u64) -> Self;

    fn driver(&self, bounds: Bounds) -> Self::Driver;

    /// Where its drivers may listen. Several, so that ports aren't used up.
    fn addresses(&self) -> Vec<IpAddr>;

    /// An address at which a connect stays without an answer, for as long as the harness lives.
    fn mute_address(&self) -> SocketAddr;

    /// A peer that connects to a driver under test.
    fn dial(&self, to: SocketAddr) -> Self::Peer;

    /// How long a `wait` may last, given whether anything happened in the round before.
    fn until(&self, driver: &Self::Driver, idle: bool) -> Option<Instant>;

    /// Nothing happened in a round: virtual time passes here. False if nothing will ever happen.
    fn pass(&self, limit: Instant) -> bool;

    /// How often the driver looked for work, if it tells: a measure of spinning.
    fn looks(&self, driver: &Self::Driver) -> u64;

    /// For how long a condition may stay unmet.
    fn patience(&self) -> Duration;
}

/// The other end of a connection, with powers that a driver doesn't have.
pub trait Peer {
    /// Does what can be done now; whether anything was done.
    fn turn(&mut self) -> bool;

    /// Sends `bytes`, over as many turns as it takes.
    fn send(&mut self, bytes: &[u8]);

    /// How fast it reads from now on.
    fn read_at(&mut self, speed: Speed);

    /// What it read so far.
    fn received(&self) -> &[u8];

    /// Whether everything given to `send` has left.
    fn drained(&self) -> bool;

    /// How the stream to it ended.
    fn end(&self) -> Option<End>;

    /// Sends a FIN after what was sent, and goes on reading.
    fn finish(&mut self);

    /// Breaks the connection.
    fn reset(&mut self);
}

/// How fast a peer reads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Speed {
    Stopped,
    Full,
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum End {
    Eof,
    Reset,
}
