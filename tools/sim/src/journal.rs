//! What happened, briefly, so that a broken promise comes with the history of the message or device concerned.

use std::fmt;

use trunkline_client::{Guarantee, Instance, Outcome, Way};
use trunkline_wire::id::{Epoch, NodeId};
use trunkline_wire::time::Instant;

use crate::promise::Stamp;

/// A device by its number; its id is made of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeviceNo(pub u32);

impl fmt::Display for DeviceNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "device-{}", self.0)
    }
}

/// A message by its number in this run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MessageNo(pub u32);

impl fmt::Display for MessageNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "message {}", self.0)
    }
}

/// One thing that happened.
#[derive(Clone, Debug)]
pub(crate) enum Entry {
    Started {
        device: DeviceNo,
        instance: Instance,
    },
    Ended {
        device: DeviceNo,
    },
    Welcomed {
        device: DeviceNo,
        epoch: Epoch,
        node: NodeId,
    },
    Disconnected {
        device: DeviceNo,
        reason: String,
    },
    Sent {
        message: MessageNo,
        sender: DeviceNo,
        recipient: DeviceNo,
        number: u64,
        guarantee: Guarantee,
        ttl_ms: u32,
    },
    Shown {
        message: MessageNo,
        device: DeviceNo,
        late: bool,
    },
    Reported {
        message: MessageNo,
        outcome: Outcome,
        way: Way,
    },
    /// A fault, its end, or a step of a scenario.
    Cluster(String),
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Entry::Started { device, instance } => write!(f, "{device} starts as instance {:x}", instance.0),
            Entry::Ended { device } => write!(f, "{device} ends"),
            Entry::Welcomed { device, epoch, node } => write!(f, "{device} is welcomed at node {node}: {epoch}"),
            Entry::Disconnected { device, reason } => write!(f, "{device} is disconnected: {reason}"),
            Entry::Sent {
                message,
                sender,
                recipient,
                number,
                guarantee,
                ttl_ms,
            } => write!(
                f,
                "{message}, {guarantee:?}, is sent by {sender} to {recipient} as number {number}, for {ttl_ms} ms"
            ),
            Entry::Shown { message, device, late } => {
                write!(f, "{message} is shown to {device}{}", if *late { ", late" } else { "" })
            }
            Entry::Reported { message, outcome, way } => {
                write!(f, "{message} is reported {outcome:?} ({})", way.name())
            }
            Entry::Cluster(text) => f.write_str(text),
        }
    }
}

/// Everything that happened, in order.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    entries: Vec<(Instant, Entry)>,
}

impl Journal {
    pub(crate) fn note(&mut self, now: Instant, entry: Entry) {
        self.entries.push((now, entry));
    }

    /// What concerns `message` and the comings and goings of `devices`, and all faults.
    pub(crate) fn history(&self, message: Option<MessageNo>, devices: &[DeviceNo]) -> Vec<String> {
        let concerns = |entry: &Entry| match entry {
            Entry::Started { device, .. }
            | Entry::Ended { device }
            | Entry::Welcomed { device, .. }
            | Entry::Disconnected { device, .. } => devices.contains(device),
            Entry::Sent { message: of, .. }
            | Entry::Shown { message: of, .. }
            | Entry::Reported { message: of, .. } => Some(*of) == message,
            Entry::Cluster(_) => true,
        };
        let told = self.entries.iter().filter(|(_, entry)| concerns(entry));
        told.map(|(at, entry)| format!("{} {entry}", Stamp(*at))).collect()
    }

    /// All of it.
    pub(crate) fn lines(&self) -> impl Iterator<Item = String> {
        self.entries.iter().map(|(at, entry)| format!("{} {entry}", Stamp(*at)))
    }
}
