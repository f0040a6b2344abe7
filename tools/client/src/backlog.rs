//! How many events wait for a user, and what that stops.
//!
//! A user may take all events, some kinds of them, or none. Each kind that is left has a bound of its own, so that it doesn't stop
//! what the user does care for.

use crate::event::{Event, Message};
use crate::session::Intake;

/// Counts of the events that wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    messages: usize,
    /// Of the messages' payloads.
    bytes: usize,
    reports: usize,
    /// Comings and goings of connections.
    notices: usize,
}

impl Backlog {
    /// Counts an event that begins to wait.
    pub fn add(&mut self, event: &Event) {
        match event {
            Event::Message(message) => {
                self.messages += 1;
                self.bytes += message.payload.len();
            }
            Event::Report(_) => self.reports += 1,
            Event::Welcomed(_) | Event::Disconnected { .. } | Event::Stopped { .. } => self.notices += 1,
        }
    }

    /// Counts an event that is taken.
    pub fn remove(&mut self, event: &Event) {
        match event {
            Event::Message(message) => self.remove_message(message),
            Event::Report(_) => self.reports -= 1,
            Event::Welcomed(_) | Event::Disconnected { .. } | Event::Stopped { .. } => self.notices -= 1,
        }
    }

    /// Counts a message that is taken.
    pub fn remove_message(&mut self, message: &Message) {
        self.messages -= 1;
        self.bytes -= message.payload.len();
    }

    /// Both together.
    pub fn plus(self, other: Backlog) -> Backlog {
        Backlog {
            messages: self.messages + other.messages,
            bytes: self.bytes + other.bytes,
            reports: self.reports + other.reports,
            notices: self.notices + other.notices,
        }
    }

    /// Whether messages may come in.
    pub fn intake(&self) -> Intake {
        if self.messages >= MESSAGES_MAX || self.bytes >= MESSAGE_BYTES_MAX {
            Intake::Full
        } else {
            Intake::Open
        }
    }

    /// Whether the user must take reports before it may send more.
    pub fn refuses_sends(&self) -> bool {
        self.reports >= REPORTS_MAX
    }

    /// Whether the event is one that is dropped now: a user that leaves so many comings and goings doesn't care for them.
    pub fn refuses(&self, event: &Event) -> bool {
        match event {
            Event::Welcomed(_) | Event::Disconnected { .. } => self.notices >= NOTICES_MAX,
            Event::Message(_) | Event::Report(_) | Event::Stopped { .. } => false,
        }
    }
}

/// Beside their payloads they take about 10 MiB.
const MESSAGES_MAX: usize = 65_536;
/// Their payloads. What is held for its order comes on top.
const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// What was unresolved when this was reached comes on top.
const REPORTS_MAX: usize = 65_536;
/// A few for each of many thousand devices.
const NOTICES_MAX: usize = 65_536;

#[cfg(test)]
mod tests {
    use trunkline_wire::id::{DeviceId, Epoch, Instance, NodeId};
    use trunkline_wire::report::{Outcome, Way};

    use super::*;
    use crate::event::{Guarantee, MessageId, Report, Welcomed};

    fn message() -> Event {
        Event::Message(Message {
            sender: DeviceId::new("bob").unwrap(),
            instance: Instance(1),
            number: 0,
            guarantee: Guarantee::Confirmed,
            late: false,
            payload: vec![0; 64 * 1024],
        })
    }

    fn report() -> Event {
        Event::Report(Report {
            id: MessageId {
                recipient: DeviceId::new("bob").unwrap(),
                number: 0,
            },
            outcome: Outcome::Delivered { late: false },
            way: Way::Local,
            latency: Default::default(),
        })
    }

    fn notice() -> Event {
        Event::Welcomed(Welcomed {
            epoch: Epoch::NONE,
            node: NodeId(1),
            version: 1,
            server: ([127, 0, 0, 1], 1).into(),
        })
    }

    /// What a backlog of `count` such events stops: messages, sends, notices.
    fn stopped(event: &Event, count: usize) -> (Intake, bool, bool) {
        let mut backlog = Backlog::default();
        (0..count).for_each(|_| backlog.add(event));
        let stopped = (backlog.intake(), backlog.refuses_sends(), backlog.refuses(&notice()));
        (0..count).for_each(|_| backlog.remove(event));
        assert_eq!(backlog, Backlog::default());
        stopped
    }

    #[test]
    fn each_kind_stops_its_own_kind_and_no_other() {
        let bytes = MESSAGE_BYTES_MAX / (64 * 1024);
        assert_eq!(stopped(&message(), bytes - 1), (Intake::Open, false, false));
        assert_eq!(stopped(&message(), bytes), (Intake::Full, false, false));
        assert_eq!(stopped(&report(), REPORTS_MAX - 1), (Intake::Open, false, false));
        assert_eq!(stopped(&report(), REPORTS_MAX), (Intake::Open, true, false));
        assert_eq!(stopped(&notice(), NOTICES_MAX), (Intake::Open, false, true));
    }
}
