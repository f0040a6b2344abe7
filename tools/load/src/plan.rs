//! What a run does.

use std::time::Duration;

use crate::stamp::STAMP_BYTES;

/// What a run does to each target.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The kind of load.
    pub work: Work,
    /// Connections, over all threads; at [`Work::Connects`], how many are under way at a time.
    pub connections: usize,
    /// Threads; connections send to others of their own thread.
    pub threads: usize,
    /// Bytes of payload: [`PAYLOAD_BYTES_MIN`] to [`PAYLOAD_BYTES_MAX`].
    pub payload_bytes: usize,
    /// Whether messages are confirmed, where the protocol can.
    pub confirmed: bool,
    /// Whether messages go only to connections of the target's next server, so that each passes two of them.
    pub across: bool,
    /// How long it measures.
    pub measured: Duration,
    /// How long it runs before that.
    pub warm_up: Duration,
    /// It ends early when so many messages were delivered.
    pub messages_max: Option<u64>,
    /// Seeds who sends to whom, and when.
    pub seed: u64,
    /// The processors of the threads, in turn; empty for any.
    pub cores: Vec<usize>,
}

impl Default for Plan {
    fn default() -> Plan {
        Plan {
            work: Work::Closed { outstanding: 32 },
            connections: 200,
            threads: 1,
            payload_bytes: 128,
            confirmed: false,
            across: false,
            measured: Duration::from_secs(5),
            warm_up: Duration::from_secs(1),
            messages_max: None,
            seed: 1,
            cores: Vec::new(),
        }
    }
}

/// The kind of load.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Work {
    /// Each connection keeps so many messages under way.
    Closed {
        /// How many.
        outstanding: u32,
    },
    /// So many messages a second are sent, whatever comes of them.
    Open {
        /// Messages a second, over all connections.
        rate: f64,
        /// How they are spaced.
        spacing: Spacing,
    },
    /// Connections are held open, and nothing is sent.
    Idle,
    /// Connections come and go: connect, hello, welcome, close.
    Connects,
}

impl Work {
    /// One word for reports.
    pub fn name(self) -> &'static str {
        match self {
            Work::Closed { .. } => "closed",
            Work::Open { .. } => "open",
            Work::Idle => "idle",
            Work::Connects => "connects",
        }
    }

    /// What the latency of this work is.
    pub fn latency(self, confirmed: bool) -> &'static str {
        match (self, confirmed) {
            (Work::Closed { .. }, false) => {
                "queueing: from the send to the delivery, mostly behind the loop's own messages"
            }
            (Work::Closed { .. }, true) => {
                "queueing: from the send to the report, mostly behind the loop's own messages"
            }
            (Work::Open { .. }, false) => "from the time the message was meant to be sent to its delivery",
            (Work::Open { .. }, true) => "from the time the message was meant to be sent to its report",
            (Work::Idle, _) => "none",
            (Work::Connects, _) => "from the connect to the welcome",
        }
    }
}

/// How the messages of an open loop are spaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spacing {
    /// As from many independent senders.
    Poisson,
    /// Evenly.
    Fixed,
}

/// The smallest payload: sender, number, time.
pub const PAYLOAD_BYTES_MIN: usize = STAMP_BYTES;
/// The largest payload, Trunkline's.
pub const PAYLOAD_BYTES_MAX: usize = trunkline_wire::device::PAYLOAD_BYTES_MAX;
