//! What became of every message: shown where it should be, in order, once, and reported once.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};
use trunkline_client::{DeviceId, Instance, Message, Outcome, Report, Way};

/// The longest latency that the histogram tells apart: two minutes, in microseconds.
const LATENCY_US_MAX: u64 = 120_000_000;

/// Counts everything that is sent, shown and reported.
pub struct Ledger {
    /// Per message: how often shown, how often reported.
    messages: BTreeMap<usize, Fate>,
    /// The highest number shown, per recipient, sender and start of the sender's library.
    highest: BTreeMap<(DeviceId, DeviceId, Instance), u64>,
    misdelivered: u64,
    out_of_order: u64,
    late: u64,
    disconnects: u64,
    unknown_reports: u64,
    outcomes: BTreeMap<&'static str, u64>,
    ways: BTreeMap<&'static str, u64>,
    reported: u64,
    latency_us: Histogram<u64>,
}

#[derive(Clone, Copy, Default)]
struct Fate {
    shown: u32,
    reports: u32,
    delivered: bool,
    /// Of one that was delivered: which way it took, and how long until the report.
    way: Option<(Way, Duration)>,
}

impl Default for Ledger {
    fn default() -> Ledger {
        Ledger {
            messages: BTreeMap::new(),
            highest: BTreeMap::new(),
            misdelivered: 0,
            out_of_order: 0,
            late: 0,
            disconnects: 0,
            unknown_reports: 0,
            outcomes: BTreeMap::new(),
            ways: [Way::Local, Way::Direct, Way::Region].map(|way| (way.name(), 0)).into(),
            reported: 0,
            latency_us: Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("valid bounds"),
        }
    }
}

/// What a run has come to.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Messages of the trace.
    pub messages: usize,
    /// Of these, sent so far.
    pub sent: u64,
    /// Reports, at most one counted a message.
    pub reported: u64,
    /// Sent, and without a report.
    pub unreported: u64,
    /// Reported delivered.
    pub delivered: u64,
    /// Reported delivered, and never shown to their recipient.
    pub lost: u64,
    /// Shown to a device that was not their recipient, or with another content.
    pub misdelivered: u64,
    /// Shown after a later one of the same sender, without being marked late.
    pub out_of_order: u64,
    /// Marked late.
    pub late: u64,
    /// Shown more than once.
    pub shown_twice: u64,
    /// Reported more than once.
    pub reported_twice: u64,
    /// Connections that were lost.
    pub disconnects: u64,
    /// Reports by outcome.
    pub outcomes: BTreeMap<&'static str, u64>,
    /// Delivered messages by way.
    pub ways: BTreeMap<&'static str, u64>,
    /// From the call to send until the report, in microseconds: 50th, 90th, 99th, 99.9th percentile, highest.
    pub latency_us: [u64; 5],
    /// How long it took.
    pub elapsed: Duration,
}

impl Ledger {
    /// What a message says: which one it is, from whom, to whom.
    pub fn payload(&self, index: usize, sender: &DeviceId, recipient: &DeviceId) -> Vec<u8> {
        format!("{index} {sender} {recipient}").into_bytes()
    }

    /// It was taken by the sender's library.
    pub fn sent(&mut self, index: usize) {
        self.messages.entry(index).or_default();
    }

    /// A device was shown a message.
    pub fn shown(&mut self, device: &DeviceId, message: &Message) {
        let said = std::str::from_utf8(&message.payload)
            .ok()
            .and_then(|text| text.split_once(' '));
        let index = said.and_then(|(index, _)| index.parse().ok());
        let expected = index.map(|index| self.payload(index, &message.sender, device));
        match index.and_then(|index| self.messages.get_mut(&index)) {
            Some(fate) if expected.as_deref() == Some(&message.payload[..]) => fate.shown += 1,
            _ => {
                self.misdelivered += 1;
                return;
            }
        }
        let highest = self
            .highest
            .entry((device.clone(), message.sender.clone(), message.instance))
            .or_insert(0);
        if message.late {
            self.late += 1;
        } else if message.number < *highest {
            self.out_of_order += 1;
        }
        *highest = (*highest).max(message.number);
    }

    /// A sender was told how its message `index` ended.
    pub fn report(&mut self, index: Option<usize>, report: &Report) {
        let Some(fate) = index.and_then(|index| self.messages.get_mut(&index)) else {
            self.unknown_reports += 1;
            return;
        };
        fate.reports += 1;
        fate.delivered = matches!(report.outcome, Outcome::Delivered { .. });
        self.reported += 1;
        *self.outcomes.entry(report.outcome.name()).or_default() += 1;
        if fate.delivered {
            fate.way = Some((report.way, report.latency));
            *self.ways.entry(report.way.name()).or_default() += 1;
            let us = (report.latency.as_micros() as u64).clamp(1, LATENCY_US_MAX);
            self.latency_us.record(us).expect("within the bounds");
        }
    }

    /// How a message came to its recipient, and how long it took until the report; nothing if it didn't.
    pub fn delivery(&self, index: usize) -> Option<(Way, Duration)> {
        self.messages.get(&index)?.way
    }

    /// A connection was lost.
    pub fn disconnected(&mut self) {
        self.disconnects += 1;
    }

    /// How many messages have been reported.
    pub fn reported(&self) -> u64 {
        self.reported
    }

    /// What it has come to, of `messages` that are to be sent.
    pub fn summary(&self, messages: usize, elapsed: Duration) -> Summary {
        // Walking all messages in every step would cost more than sending them: these are counted only once all is over.
        let over = self.reported == messages as u64;
        let count = |test: &dyn Fn(&Fate) -> bool| {
            if over {
                self.messages.values().filter(|fate| test(fate)).count() as u64
            } else {
                0
            }
        };
        let at = |quantile| self.latency_us.value_at_quantile(quantile);
        Summary {
            messages,
            sent: self.messages.len() as u64,
            reported: self.reported,
            unreported: self.messages.len() as u64 - self.reported,
            delivered: self.outcomes.get("delivered").copied().unwrap_or(0),
            lost: count(&|fate| fate.delivered && fate.shown == 0),
            misdelivered: self.misdelivered,
            out_of_order: self.out_of_order,
            late: self.late,
            shown_twice: count(&|fate| fate.shown > 1),
            reported_twice: self.unknown_reports,
            disconnects: self.disconnects,
            outcomes: self.outcomes.clone(),
            ways: self.ways.clone(),
            latency_us: [at(0.5), at(0.9), at(0.99), at(0.999), self.latency_us.max()],
            elapsed,
        }
    }
}

impl Summary {
    /// Whether every message was sent, reported, shown to its recipient alone, once, in order.
    pub fn is_sound(&self) -> bool {
        self.sent == self.messages as u64
            && self.unreported == 0
            && self.lost == 0
            && self.misdelivered == 0
            && self.out_of_order == 0
            && self.shown_twice == 0
            && self.reported_twice == 0
    }

    /// Whether, besides, every message was reported delivered.
    pub fn is_complete(&self) -> bool {
        self.is_sound() && self.delivered == self.messages as u64
    }

    /// Messages a second.
    pub fn rate(&self) -> f64 {
        self.reported as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let [p50, p90, p99, p999, max] = self.latency_us;
        json!({
            "messages": self.messages,
            "sent": self.sent,
            "reported": self.reported,
            "unreported": self.unreported,
            "delivered": self.delivered,
            "lost": self.lost,
            "misdelivered": self.misdelivered,
            "out_of_order": self.out_of_order,
            "late": self.late,
            "shown_twice": self.shown_twice,
            "reported_twice": self.reported_twice,
            "disconnects": self.disconnects,
            "outcomes": self.outcomes,
            "ways": self.ways,
            "latency_us": { "p50": p50, "p90": p90, "p99": p99, "p999": p999, "max": max },
            "seconds": self.elapsed.as_secs_f64(),
            "messages_per_second": self.rate(),
        })
    }
}

/// For people.
impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let outcomes: Vec<String> = self
            .outcomes
            .iter()
            .map(|(name, count)| format!("{name} {count}"))
            .collect();
        let ways: Vec<String> = self
            .ways
            .iter()
            .map(|(name, count)| {
                format!(
                    "{name} {count} ({:.1} %)",
                    100.0 * *count as f64 / self.delivered.max(1) as f64
                )
            })
            .collect();
        let [p50, p90, p99, p999, max] = self.latency_us.map(|us| us as f64 / 1_000.0);
        writeln!(
            f,
            "messages      {} sent, {} reported: {}",
            self.sent,
            self.reported,
            outcomes.join(", ")
        )?;
        writeln!(f, "ways          {}", ways.join(", "))?;
        writeln!(
            f,
            "latency ms    p50 {p50:.2}, p90 {p90:.2}, p99 {p99:.2}, p99.9 {p999:.2}, max {max:.2}"
        )?;
        writeln!(
            f,
            "rate          {:.0} messages/s over {:.2} s",
            self.rate(),
            self.elapsed.as_secs_f64()
        )?;
        write!(
            f,
            "checks        unreported {}, lost {}, misdelivered {}, out of order {}, late {}, shown twice {}, reported twice {}",
            self.unreported,
            self.lost,
            self.misdelivered,
            self.out_of_order,
            self.late,
            self.shown_twice,
            self.reported_twice
        )
    }
}

#[cfg(test)]
mod tests {
    use trunkline_client::{Guarantee, MessageId};

    use super::*;

    fn message(sender: &str, number: u64, payload: &str) -> Message {
        Message {
            sender: DeviceId::new(sender).unwrap(),
            instance: Instance(1),
            number,
            guarantee: Guarantee::Confirmed,
            late: false,
            payload: payload.into(),
        }
    }

    fn report(outcome: Outcome) -> Report {
        let id = MessageId {
            recipient: DeviceId::new("b").unwrap(),
            number: 0,
        };
        Report {
            id,
            outcome,
            way: Way::Local,
            latency: Duration::from_millis(1),
        }
    }

    #[test]
    fn what_goes_wrong_is_counted() {
        let b = DeviceId::new("b").unwrap();
        let mut ledger = Ledger::default();
        for index in 0..4 {
            ledger.sent(index);
            ledger.report(Some(index), &report(Outcome::Delivered { late: false }));
        }
        ledger.shown(&b, &message("a", 1, "1 a b"));
        ledger.shown(&b, &message("a", 0, "0 a b"));
        ledger.shown(&b, &message("a", 0, "0 a b"));
        ledger.shown(&b, &message("a", 2, "2 a c"));
        ledger.shown(&b, &message("a", 2, "nonsense"));
        ledger.report(None, &report(Outcome::Expired { maybe_delivered: true }));
        let summary = ledger.summary(4, Duration::from_secs(1));
        assert!(!summary.is_sound());
        assert_eq!((summary.lost, summary.misdelivered, summary.out_of_order), (2, 2, 2));
        assert_eq!((summary.shown_twice, summary.reported_twice), (1, 1));
    }

    #[test]
    fn a_run_without_fault_is_complete() {
        let b = DeviceId::new("b").unwrap();
        let mut ledger = Ledger::default();
        for index in 0..2 {
            ledger.sent(index);
            ledger.shown(&b, &message("a", index as u64, &format!("{index} a b")));
            ledger.report(Some(index), &report(Outcome::Delivered { late: false }));
        }
        assert!(ledger.summary(2, Duration::from_secs(1)).is_complete());
        assert!(!ledger.summary(3, Duration::from_secs(1)).is_complete());
    }
}
