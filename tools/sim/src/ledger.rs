//! Everything that users of devices send, see and are told, held against the promises about messages.
//!
//! It stands outside of the cluster: it hears only what the client library tells its user, and what the scenario did. So it
//! can't share an error with what it checks.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use trunkline_client::{Guarantee, Instance, Message, Outcome, Report, TtlMs, Way, Welcomed};
use trunkline_wire::id::{DeviceId, Epoch, NodeId};
use trunkline_wire::time::Instant;

use crate::journal::{DeviceNo, Entry, Journal, MessageNo};
use crate::promise::{Checked, Promise, Violation};

/// A message, from its sending on.
#[derive(Clone, Debug)]
pub struct Record {
    /// From whom.
    pub sender: DeviceNo,
    /// Which start of the sender's library.
    pub instance: Instance,
    /// To whom.
    pub recipient: DeviceNo,
    /// Its number there.
    pub number: u64,
    /// Whether it is to be reported.
    pub guarantee: Guarantee,
    /// When it was sent.
    pub sent: Instant,
    /// For how long it is worth delivering.
    pub ttl: Duration,
    /// The starts of the recipient's library that have shown it.
    pub shown: Vec<Instance>,
    /// How it ended.
    pub report: Option<(Instant, Outcome, Way)>,
    bytes: usize,
    /// A confirmed one whose sender's program has ended before its report: nobody is there to be told.
    abandoned: bool,
}

/// What is known of a device from outside.
#[derive(Clone, Debug, Default)]
pub struct DeviceRecord {
    /// Its running program, if it runs.
    pub instance: Option<Instance>,
    /// The session that its library holds for open, since when, and where.
    pub session: Option<(Epoch, Instant, NodeId)>,
    /// The highest epoch that any of its sessions was welcomed with.
    pub epoch_max: Epoch,
}

/// What a run came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Messages that libraries took.
    pub sent: u64,
    /// Of these, confirmed ones.
    pub confirmed: u64,
    /// Times that a message was shown.
    pub shown: u64,
    /// Of these, marked late.
    pub late: u64,
    /// Reports by outcome.
    pub outcomes: BTreeMap<&'static str, u64>,
    /// Deliveries that were reported, by way.
    pub ways: BTreeMap<&'static str, u64>,
    /// Welcomes of devices.
    pub welcomes: u64,
    /// Connections that devices lost.
    pub losses: u64,
}

/// A message's name: sender, its instance, recipient, number.
type Name = (DeviceNo, Instance, DeviceNo, u64);
/// A stream of messages as one user sees it: the recipient, its instance, the sender, its instance.
type Stream = (DeviceNo, Instance, DeviceNo, Instance);

/// See the module's text.
#[derive(Debug)]
pub struct Ledger {
    seed: u64,
    records: Vec<Record>,
    /// Confirmed messages whose senders wait for their reports, by when their time to live ends.
    open: BTreeSet<(Instant, MessageNo)>,
    names: BTreeMap<Name, MessageNo>,
    devices: Vec<DeviceRecord>,
    /// The highest number that was shown.
    highest: BTreeMap<Stream, u64>,
    journal: Journal,
    totals: Totals,
}

impl Ledger {
    /// For `devices` devices that run, and as many others that never do.
    pub(crate) fn new(seed: u64, devices: u32) -> Ledger {
        Ledger {
            seed,
            records: Vec::new(),
            open: BTreeSet::new(),
            names: BTreeMap::new(),
            devices: vec![DeviceRecord::default(); devices as usize],
            highest: BTreeMap::new(),
            journal: Journal::default(),
            totals: Totals::default(),
        }
    }

    /// All messages, by number.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// What is known of a device.
    pub fn device(&self, device: DeviceNo) -> &DeviceRecord {
        &self.devices[device.0 as usize]
    }

    /// What it came to so far.
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// The whole story, one line for each thing that happened.
    pub fn story(&self) -> impl Iterator<Item = String> {
        self.journal.lines()
    }

    /// Notes a fault, or a step of a scenario.
    pub(crate) fn note(&mut self, now: Instant, text: String) {
        self.journal.note(now, Entry::Cluster(text));
    }

    pub(crate) fn started(&mut self, now: Instant, device: DeviceNo, instance: Instance) {
        self.journal.note(now, Entry::Started { device, instance });
        self.devices[device.0 as usize].instance = Some(instance);
    }

    /// The device's program ended: what it sent is reported to nobody.
    pub(crate) fn ended(&mut self, now: Instant, device: DeviceNo) {
        self.journal.note(now, Entry::Ended { device });
        let known = &mut self.devices[device.0 as usize];
        known.session = None;
        let Some(instance) = known.instance.take() else { return };
        let records = &mut self.records;
        self.open.retain(|(_, message)| {
            let record = &mut records[message.0 as usize];
            record.abandoned = record.sender == device && record.instance == instance;
            !record.abandoned
        });
    }

    pub(crate) fn welcomed(&mut self, now: Instant, device: DeviceNo, welcomed: &Welcomed) {
        let Welcomed { epoch, node, .. } = *welcomed;
        self.totals.welcomes += 1;
        self.journal.note(now, Entry::Welcomed { device, epoch, node });
        let known = &mut self.devices[device.0 as usize];
        known.session = Some((epoch, now, node));
        known.epoch_max = known.epoch_max.max(epoch);
    }

    pub(crate) fn disconnected(&mut self, now: Instant, device: DeviceNo, reason: String) {
        self.totals.losses += 1;
        self.journal.note(now, Entry::Disconnected { device, reason });
        self.devices[device.0 as usize].session = None;
    }

    /// The number of the next message, and what it says.
    pub(crate) fn draft(&self, bytes: usize) -> (MessageNo, Vec<u8>) {
        let message = MessageNo(self.records.len() as u32);
        (message, payload(message, bytes))
    }

    /// The library has taken the message of [`Ledger::draft`].
    #[allow(clippy::too_many_arguments, reason = "each says a different thing of one message")]
    pub(crate) fn sent(
        &mut self,
        now: Instant,
        message: MessageNo,
        sender: DeviceNo,
        recipient: DeviceNo,
        number: u64,
        bytes: usize,
        ttl: TtlMs,
        guarantee: Guarantee,
    ) {
        let instance = self.device(sender).instance.expect("who sends runs");
        self.totals.sent += 1;
        self.totals.confirmed += u64::from(guarantee == Guarantee::Confirmed);
        let ttl_ms = ttl.ms();
        self.journal.note(
            now,
            Entry::Sent {
                message,
                sender,
                recipient,
                number,
                guarantee,
                ttl_ms,
            },
        );
        self.names.insert((sender, instance, recipient, number), message);
        let ttl = Duration::from_millis(ttl_ms.into());
        if guarantee == Guarantee::Confirmed {
            self.open.insert((now + ttl, message));
        }
        self.records.push(Record {
            sender,
            instance,
            recipient,
            number,
            guarantee,
            sent: now,
            ttl,
            shown: Vec::new(),
            report: None,
            bytes,
            abandoned: false,
        });
    }

    /// A user was shown a message.
    pub(crate) fn shown(&mut self, now: Instant, device: DeviceNo, shown: &Message) -> Checked {
        let message = shown
            .payload
            .first_chunk()
            .map(|bytes| MessageNo(u32::from_le_bytes(*bytes)));
        let Some((message, record)) = message.and_then(|m| Some((m, self.records.get(m.0 as usize)?))) else {
            let what = format!("{device} was shown a message that nobody sent: {shown:?}");
            return Err(self.violation(now, Promise::NoInvention, what, None, &[device]));
        };
        let late = shown.late;
        self.journal.note(now, Entry::Shown { message, device, late });
        self.totals.shown += 1;
        self.totals.late += u64::from(late);
        let devices = [record.sender, record.recipient, device];
        let named = (number_of(&shown.sender), shown.instance, device, shown.number);
        let is_meant = named == (Some(record.sender), record.instance, record.recipient, record.number);
        if !is_meant || shown.payload != payload(message, record.bytes) {
            let what = format!(
                "{message}, from {} to {}, was shown to {device}, or altered",
                devices[0], devices[1]
            );
            return Err(self.violation(now, Promise::NoMisdelivery, what, Some(message), &devices));
        }
        let Some(instance) = self.device(device).instance else {
            let what = format!("{message} was shown to {device}, which has ended");
            return Err(self.violation(now, Promise::NoMisdelivery, what, Some(message), &devices));
        };
        if record.shown.contains(&instance) {
            let what = format!("{message} was shown twice by one library");
            return Err(self.violation(now, Promise::BoundedDuplicates, what, Some(message), &devices));
        }
        if let Some((_, outcome, _)) = record.report.filter(|(_, outcome, _)| excludes_delivery(*outcome)) {
            let what = format!("{message} was reported {outcome:?}, and then shown");
            return Err(self.violation(now, Promise::OneReport, what, Some(message), &devices));
        }
        let stream = (device, instance, record.sender, record.instance);
        let number = record.number;
        let highest = self.highest.entry(stream).or_insert(number);
        let before = std::mem::replace(highest, number.max(*highest));
        if number < before && !late {
            let what = format!("{message}, number {number}, was shown after number {before}, and not marked late");
            return Err(self.violation(now, Promise::Order, what, Some(message), &devices));
        }
        self.records[message.0 as usize].shown.push(instance);
        Ok(())
    }

    /// A user was told how a message ended. Returns the message, and whether an instance was unreachable,
    /// if it says that a device was offline whose library held itself for connected all the time.
    pub(crate) fn reported(
        &mut self,
        now: Instant,
        device: DeviceNo,
        report: &Report,
    ) -> Checked<Option<(MessageNo, bool)>> {
        let name = |ledger: &Ledger| {
            let instance = ledger.device(device).instance?;
            let recipient = number_of(&report.id.recipient)?;
            ledger
                .names
                .get(&(device, instance, recipient, report.id.number))
                .copied()
        };
        let Some(message) = name(self) else {
            let what = format!("{device} was told of a message that it didn't send: {report:?}");
            return Err(self.violation(now, Promise::OneReport, what, None, &[device]));
        };
        let (outcome, way) = (report.outcome, report.way);
        self.journal.note(now, Entry::Reported { message, outcome, way });
        let record = &mut self.records[message.0 as usize];
        let before = record.report.replace((now, outcome, way));
        self.open.remove(&(record.sent + record.ttl, message));
        let record = record.clone();
        let devices = [record.sender, record.recipient];
        let what = if record.guarantee == Guarantee::FireAndForget {
            Some("although nobody asked".to_owned())
        } else if let Some((_, before, _)) = before {
            Some(format!("after it was reported {before:?}"))
        } else if matches!(outcome, Outcome::Delivered { .. }) && record.shown.is_empty() {
            Some("and was never shown".to_owned())
        } else if excludes_delivery(outcome) && !record.shown.is_empty() {
            Some("without maybe_delivered, and had been shown".to_owned())
        } else {
            None
        };
        if let Some(what) = what {
            let what = format!("{message} was reported {outcome:?} {what}");
            return Err(self.violation(now, Promise::OneReport, what, Some(message), &devices));
        }
        *self.totals.outcomes.entry(outcome.name()).or_default() += 1;
        match outcome {
            Outcome::Delivered { .. } => *self.totals.ways.entry(way.name()).or_default() += 1,
            Outcome::Offline { unreachable, .. } if self.is_there(record.recipient, record.sent) => {
                return Ok(Some((message, unreachable)));
            }
            Outcome::Offline { .. } | Outcome::Expired { .. } | Outcome::Rejected { .. } => {}
        }
        Ok(None)
    }

    /// Every confirmed message whose time to live ended more than `grace` ago has its report, unless its sender is `excused`.
    pub(crate) fn all_resolved(&self, now: Instant, grace: Duration, excused: impl Fn(DeviceNo) -> bool) -> Checked {
        let overdue = self.open.iter().take_while(|(end, _)| *end + grace <= now);
        let overdue = overdue.map(|(_, message)| *message);
        let first = overdue
            .filter(|message| !excused(self.records[message.0 as usize].sender))
            .min();
        let Some(message) = first else { return Ok(()) };
        let record = &self.records[message.0 as usize];
        let what = format!("{message} has no report {grace:?} after its time to live");
        let devices = [record.sender, record.recipient];
        Err(self.violation(now, Promise::OneReport, what, Some(message), &devices))
    }

    /// Every confirmed message that was sent between `from` and `to`, when nothing was wrong, was delivered if its recipient was there; and
    /// so was what was sent before and had `left_min` left.
    pub(crate) fn all_delivered(&self, now: Instant, from: Instant, to: Instant, left_min: Duration) -> Checked {
        let undelivered = self.records.iter().enumerate().find(|(_, record)| {
            // What was sent before, and had time enough left, doesn't run out of it; but it may have been answered for good before.
            let open = record.report.is_none_or(|(at, ..)| at >= from) && record.sent + record.ttl >= from + left_min;
            let (sent_calm, delivered, expired) = match record.report {
                Some((_, outcome, _)) => (
                    record.sent >= from,
                    matches!(outcome, Outcome::Delivered { .. }),
                    matches!(outcome, Outcome::Expired { .. }),
                ),
                None => (record.sent >= from, false, true),
            };
            record.guarantee == Guarantee::Confirmed
                && !record.abandoned
                && record.sent <= to
                && self.is_there(record.recipient, record.sent.max(from))
                && (sent_calm && !delivered || open && expired)
        });
        let Some((index, record)) = undelivered else {
            return Ok(());
        };
        let message = MessageNo(index as u32);
        let what = format!(
            "{message} was sent long after the last fault to a connected device, and its report is {:?}",
            record.report
        );
        Err(self.violation(
            now,
            Promise::NoBlackout,
            what,
            Some(message),
            &[record.sender, record.recipient],
        ))
    }

    /// Whether a device's present session has been there since `since`, as its library sees it.
    pub(crate) fn is_there(&self, device: DeviceNo, since: Instant) -> bool {
        let known = self.devices.get(device.0 as usize).and_then(|known| known.session);
        known.is_some_and(|(epoch, from, _)| epoch.some().is_some() && from <= since)
    }

    /// A promise is broken.
    pub(crate) fn violation(
        &self,
        at: Instant,
        promise: Promise,
        what: String,
        message: Option<MessageNo>,
        devices: &[DeviceNo],
    ) -> Box<Violation> {
        let history = self.journal.history(message, devices);
        Box::new(Violation {
            seed: self.seed,
            promise,
            at,
            what,
            history,
        })
    }
}

/// The id of a device of a run.
pub(crate) fn id_of(device: DeviceNo) -> DeviceId {
    DeviceId::new(&device.to_string()).expect("a short name is an id")
}

fn number_of(id: &DeviceId) -> Option<DeviceNo> {
    id.as_str().strip_prefix("device-")?.parse().ok().map(DeviceNo)
}

/// Whether who is told this may conclude that the message was never shown.
fn excludes_delivery(outcome: Outcome) -> bool {
    !matches!(outcome, Outcome::Delivered { .. }) && !outcome.maybe_delivered()
}

/// What a message says: its number, and bytes that no other message has in this order.
fn payload(message: MessageNo, bytes: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(message.0.into());
    let number = message.0.to_le_bytes();
    let mut payload = vec![0; bytes.max(number.len())];
    let (head, rest) = payload.split_at_mut(number.len());
    head.copy_from_slice(&number);
    random.fill(rest);
    payload
}
