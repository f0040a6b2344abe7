//! What a session and its caller say to each other.

use std::net::SocketAddr;

use trunkline_wire::device::ServerFrame;

use crate::event::{Event, Loss};

/// What happened to the session's connection, or that time has passed.
#[derive(Debug)]
pub enum Input<'a> {
    /// What [`Command::Connect`] asked for has come about.
    Connected,
    /// The server sent a frame.
    Frame(ServerFrame<'a>),
    /// The server sent what isn't one.
    Unreadable(String),
    /// Connecting failed, or the connection broke.
    Lost(Loss),
    /// [`super::Session::deadline`] has come.
    Tick,
}

/// What to do with the session's one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Open it.
    Connect(SocketAddr),
    /// Write what the outbox holds, as far as it goes at once; then close it.
    Close,
}

/// Whether the user takes its events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Intake {
    /// There is room for more.
    #[default]
    Open,
    /// Messages that come now are dropped without an acknowledgement.
    Full,
}

/// Effects, to be carried out in the order of the fields.
#[derive(Debug, Default)]
pub struct Outbox {
    /// Bytes for the connection.
    pub write: Vec<u8>,
    /// What to do with the connection.
    pub command: Option<Command>,
    /// What to tell the user.
    pub events: Vec<Event>,
    /// Set by the caller: whether `events` go anywhere.
    pub intake: Intake,
}
