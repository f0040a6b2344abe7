//! Holds what senders and recipients saw against what was promised. Pure: records in their order, each with its time.
//!
//! | promise | what is counted against it |
//! |---|---|
//! | one report | none by the end of the time to live, a second one; delivered and never shown; not delivered, shown, and not said to be perhaps |
//! | no misdelivery, no invention | shown to another device, with another content, or never sent |
//! | bounded duplicates | shown twice |
//! | order | shown after a later one of its sender, and not marked late |
//! | one winner | [`Record::Torn`]: more or fewer sessions than devices, long after a fault |
//! | no blackout | offline, rejected or expired although sender and recipient were connected all the time, to servers that they reached |

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// A device, by its place.
pub type Device = usize;

/// What was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A server, by its place, let a device in.
    Connected(Device, usize),
    /// Its connection ended.
    Disconnected(Device),
    /// A device's library took message `index` to be sent.
    Sent {
        /// Which message.
        index: u64,
        /// From.
        sender: Device,
        /// To.
        recipient: Device,
    },
    /// It said how message `index` ended.
    Reported {
        /// Which message.
        index: u64,
        /// How.
        end: End,
    },
    /// A device was shown a message.
    Shown {
        /// To whom.
        device: Device,
        /// Which one it says it is, from whom; `None` if it says nothing of the kind, or its content isn't what was sent.
        says: Option<(u64, Device)>,
        /// Its number among those of its sender.
        number: u64,
        /// It was marked late.
        late: bool,
    },
    /// From now on these servers, by place, may be out of their devices' reach.
    Struck(Vec<usize>),
    /// They are within reach again, for some time already.
    Healed(Vec<usize>),
    /// Long after a fault the cluster has not come together.
    Torn(String),
}

/// How a message ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// The recipient's device acknowledged it.
    Delivered,
    /// Otherwise, and whether a copy may be with the device.
    Not(Why, bool),
}

/// Why a message was not delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// Its recipient isn't connected.
    Offline,
    /// Out of time.
    Expired,
    /// Refused.
    Rejected,
}

impl Why {
    /// One word.
    pub fn name(self) -> &'static str {
        match self {
            Why::Offline => "offline",
            Why::Expired => "expired",
            Why::Rejected => "rejected",
        }
    }
}

/// What may not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Breach {
    /// Reported delivered, and never shown.
    Lost,
    /// Shown to the wrong device, or with another content.
    Misdelivered,
    /// Shown, and never sent; or long after its end.
    Invented,
    /// Shown after a later one, and not marked.
    OutOfOrder,
    /// Shown twice.
    ShownTwice,
    /// No report.
    Unreported,
    /// Two reports.
    ReportedTwice,
    /// Shown, and reported as certainly not delivered.
    Denied,
    /// Not delivered although nothing was in the way of both devices.
    Blackout,
    /// The cluster did not come together.
    Torn,
}

impl Breach {
    /// All of them, and their names.
    pub const ALL: [(Breach, &'static str); 10] = [
        (Breach::Lost, "lost"),
        (Breach::Misdelivered, "misdelivered"),
        (Breach::Invented, "invented"),
        (Breach::OutOfOrder, "out_of_order"),
        (Breach::ShownTwice, "shown_twice"),
        (Breach::Unreported, "unreported"),
        (Breach::ReportedTwice, "reported_twice"),
        (Breach::Denied, "denied"),
        (Breach::Blackout, "blackout"),
        (Breach::Torn, "torn"),
    ];
}

/// See the module's text.
pub struct Judge {
    devices: Vec<Presence>,
    /// By place: since when a server may be out of reach, or when it last was.
    servers: Vec<Reach>,
    /// Messages from `first` on.
    fates: VecDeque<Fate>,
    first: u64,
    /// The highest number shown, by recipient and sender.
    highest: BTreeMap<(Device, Device), u64>,
    breaches: BTreeMap<Breach, u64>,
    examples: Vec<String>,
    outcomes: BTreeMap<&'static str, u64>,
    late: u64,
    reported: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Presence {
    /// The server, and since when.
    connected: Option<(usize, Duration)>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Reach {
    /// How many faults are in the way.
    struck: u32,
    /// When the last one was healed.
    healed: Option<Duration>,
}

#[derive(Clone, Copy, Debug)]
struct Fate {
    sender: Device,
    recipient: Device,
    sent: Duration,
    end: Option<(End, Duration)>,
    shown: bool,
}

impl Judge {
    /// For so many devices and servers.
    pub fn new(devices: usize, servers: usize) -> Judge {
        Judge {
            devices: vec![Presence::default(); devices],
            servers: vec![Reach::default(); servers],
            fates: VecDeque::new(),
            first: 0,
            highest: BTreeMap::new(),
            breaches: BTreeMap::new(),
            examples: Vec::new(),
            outcomes: BTreeMap::new(),
            late: 0,
            reported: 0,
        }
    }

    /// Takes the next record.
    pub fn take(&mut self, at: Duration, record: &Record) {
        match record {
            Record::Connected(device, server) => self.devices[*device].connected = Some((*server, at)),
            Record::Disconnected(device) => self.devices[*device].connected = None,
            Record::Struck(servers) => servers.iter().for_each(|&server| self.servers[server].struck += 1),
            Record::Healed(servers) => {
                for &server in servers {
                    self.servers[server].struck -= 1;
                    self.servers[server].healed = Some(at);
                }
            }
            Record::Torn(why) => self.breach(Breach::Torn, at, why.clone()),
            Record::Sent {
                index,
                sender,
                recipient,
            } => {
                debug_assert_eq!(*index, self.first + self.fates.len() as u64);
                self.forget(at);
                self.fates.push_back(Fate {
                    sender: *sender,
                    recipient: *recipient,
                    sent: at,
                    end: None,
                    shown: false,
                });
            }
            Record::Reported { index, end } => self.reported(at, *index, *end),
            Record::Shown {
                device,
                says,
                number,
                late,
            } => self.shown(at, *device, *says, *number, *late),
        }
    }

    fn reported(&mut self, at: Duration, index: u64, end: End) {
        let Some(place) = self.place(index) else {
            return self.breach(
                Breach::ReportedTwice,
                at,
                format!("message {index}, which has ended long ago"),
            );
        };
        let fate = self.fates[place];
        if fate.end.is_some() {
            return self.breach(Breach::ReportedTwice, at, format!("message {index}"));
        }
        self.fates[place].end = Some((end, at));
        self.reported += 1;
        let Fate {
            sender,
            recipient,
            sent,
            shown,
            ..
        } = fate;
        let name = match end {
            End::Delivered => "delivered",
            End::Not(why, _) => why.name(),
        };
        *self.outcomes.entry(name).or_default() += 1;
        let what = format!(
            "message {index} from device {sender} to {recipient}, sent at {:.3} s: {name}",
            sent.as_secs_f64()
        );
        match end {
            End::Delivered => {}
            End::Not(_, false) if shown => self.breach(Breach::Denied, at, what),
            End::Not(..) if self.undisturbed(sender, sent) && self.undisturbed(recipient, sent) => {
                self.breach(Breach::Blackout, at, what);
            }
            End::Not(..) => {}
        }
    }

    /// Whether a device has been connected since `since`, to a server that it has reached since then.
    fn undisturbed(&self, device: Device, since: Duration) -> bool {
        let Some((server, connected)) = self.devices[device].connected else {
            return false;
        };
        let reach = self.servers[server];
        connected <= since && reach.struck == 0 && reach.healed.is_none_or(|healed| healed + AFTERMATH <= since)
    }

    fn shown(&mut self, at: Duration, device: Device, says: Option<(u64, Device)>, number: u64, late: bool) {
        let Some((index, sender)) = says else {
            return self.breach(
                Breach::Misdelivered,
                at,
                format!("device {device} was shown what nobody sent it"),
            );
        };
        let what = format!("message {index} from device {sender} to {device}, number {number}");
        let Some(place) = self.place(index) else {
            return self.breach(Breach::Invented, at, what);
        };
        let fate = &mut self.fates[place];
        if (fate.sender, fate.recipient) != (sender, device) {
            return self.breach(Breach::Misdelivered, at, what);
        }
        let (twice, end) = (std::mem::replace(&mut fate.shown, true), fate.end);
        if twice {
            self.breach(Breach::ShownTwice, at, what.clone());
        }
        if let Some((End::Not(_, false), _)) = end {
            self.breach(Breach::Denied, at, what.clone());
        }
        let highest = self.highest.entry((device, sender)).or_insert(number);
        let before = number < *highest;
        *highest = (*highest).max(number);
        if late {
            self.late += 1;
        } else if before {
            self.breach(Breach::OutOfOrder, at, what);
        }
    }

    fn place(&self, index: u64) -> Option<usize> {
        let place = usize::try_from(index.checked_sub(self.first)?).ok()?;
        (place < self.fates.len()).then_some(place)
    }

    /// Closes the files on what has ended long ago: nothing more may be seen of it.
    fn forget(&mut self, at: Duration) {
        while let Some(fate) = self.fates.front()
            && at.saturating_sub(fate.sent) > KEPT
        {
            self.close(at);
        }
    }

    fn close(&mut self, at: Duration) {
        let Some(fate) = self.fates.pop_front() else { return };
        let index = self.first;
        self.first += 1;
        let what = format!(
            "message {index} from device {} to {}, sent at {:.3} s",
            fate.sender,
            fate.recipient,
            fate.sent.as_secs_f64()
        );
        match fate.end {
            None => self.breach(Breach::Unreported, at, what),
            Some((End::Delivered, _)) if !fate.shown => self.breach(Breach::Lost, at, what),
            Some(_) => {}
        }
    }

    /// All is over: what has no report now will never have one.
    pub fn finish(&mut self, at: Duration) {
        while !self.fates.is_empty() {
            self.close(at);
        }
    }

    fn breach(&mut self, breach: Breach, at: Duration, what: String) {
        *self.breaches.entry(breach).or_default() += 1;
        if self.examples.len() < EXAMPLES_MAX {
            let (_, name) = Breach::ALL[breach as usize];
            self.examples
                .push(format!("at {:.3} s, {name}: {what}", at.as_secs_f64()));
        }
    }

    /// How often it happened.
    pub fn count(&self, breach: Breach) -> u64 {
        self.breaches.get(&breach).copied().unwrap_or(0)
    }

    /// Whether nothing happened that may not.
    pub fn is_sound(&self) -> bool {
        self.breaches.is_empty()
    }

    /// The first of what may not happen, a line each.
    pub fn examples(&self) -> &[String] {
        &self.examples
    }

    /// Reports by outcome.
    pub fn outcomes(&self) -> &BTreeMap<&'static str, u64> {
        &self.outcomes
    }

    /// Messages that were marked late.
    pub fn late(&self) -> u64 {
        self.late
    }

    /// Messages with a report.
    pub fn reported_count(&self) -> u64 {
        self.reported
    }
}

/// For how long after its sending something may still be seen of a message: several times its time to live.
const KEPT: Duration = Duration::from_secs(120);
/// For how long after a server was out of its devices' reach it may still find that it had not heard one of them, or that one's bytes
/// are still on their way: TCP sends again after as long as the path was dead, and longer.
const AFTERMATH: Duration = Duration::from_secs(12);
/// The rest is only counted.
const EXAMPLES_MAX: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    const A: Device = 0;
    const B: Device = 1;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn sent(index: u64) -> Record {
        Record::Sent {
            index,
            sender: A,
            recipient: B,
        }
    }

    fn shown(index: u64, number: u64, late: bool) -> Record {
        Record::Shown {
            device: B,
            says: Some((index, A)),
            number,
            late,
        }
    }

    fn reported(index: u64, end: End) -> Record {
        Record::Reported { index, end }
    }

    const OFFLINE: End = End::Not(Why::Offline, false);

    /// Both devices are connected at second 1; then this happens, a record a second.
    fn judged(records: &[Record]) -> Judge {
        let mut judge = Judge::new(2, 2);
        judge.take(at(1), &Record::Connected(A, 0));
        judge.take(at(1), &Record::Connected(B, 1));
        for (second, record) in records.iter().enumerate() {
            judge.take(at(2 + second as u64), record);
        }
        judge.finish(at(200));
        judge
    }

    fn breaches(records: &[Record]) -> Vec<Breach> {
        let judge = judged(records);
        let all = Breach::ALL.iter().map(|(breach, _)| *breach);
        all.filter(|breach| judge.count(*breach) > 0).collect()
    }

    #[test]
    fn a_message_that_is_shown_and_reported_is_sound() {
        let judge = judged(&[sent(0), shown(0, 0, false), reported(0, End::Delivered)]);
        assert!(judge.is_sound(), "{:?}", judge.examples());
    }

    #[test]
    fn every_breach_is_found() {
        let delivered = || reported(0, End::Delivered);
        assert_eq!(breaches(&[sent(0), delivered()]), [Breach::Lost]);
        assert_eq!(breaches(&[sent(0)]), [Breach::Unreported]);
        assert_eq!(
            breaches(&[sent(0), shown(0, 0, false), delivered(), delivered()]),
            [Breach::ReportedTwice]
        );
        assert_eq!(
            breaches(&[sent(0), shown(0, 0, false), shown(0, 0, true), delivered()]),
            [Breach::ShownTwice]
        );
        assert_eq!(
            breaches(&[sent(0), shown(0, 0, false), delivered(), shown(1, 1, false)]),
            [Breach::Invented]
        );
        let elsewhere = Record::Shown {
            device: A,
            says: Some((0, A)),
            number: 0,
            late: false,
        };
        assert_eq!(
            breaches(&[sent(0), elsewhere, shown(0, 0, false), delivered()]),
            [Breach::Misdelivered]
        );
        assert_eq!(
            breaches(&[
                Record::Disconnected(B),
                sent(0),
                reported(0, OFFLINE),
                shown(0, 0, false)
            ]),
            [Breach::Denied]
        );
        assert_eq!(breaches(&[Record::Torn("apart".into())]), [Breach::Torn]);
    }

    #[test]
    fn order_is_by_number_unless_marked() {
        let first_two = |late| {
            breaches(&[
                sent(0),
                sent(1),
                shown(1, 1, false),
                shown(0, 0, late),
                reported(0, End::Delivered),
                reported(1, End::Delivered),
            ])
        };
        assert_eq!(first_two(false), [Breach::OutOfOrder]);
        assert_eq!(first_two(true), []);
    }

    #[test]
    fn offline_is_a_blackout_only_for_a_device_that_was_connected_and_within_reach_all_the_time() {
        assert_eq!(breaches(&[sent(0), reported(0, OFFLINE)]), [Breach::Blackout]);
        let (gone, back) = (Record::Disconnected(B), Record::Connected(B, 0));
        assert_eq!(breaches(&[sent(0), gone.clone(), reported(0, OFFLINE)]), []);
        assert_eq!(
            breaches(&[sent(0), gone.clone(), back.clone(), reported(0, OFFLINE)]),
            []
        );
        assert_eq!(
            breaches(&[gone, back, sent(0), reported(0, OFFLINE)]),
            [Breach::Blackout],
            "from the welcome on it is known"
        );
        let (struck, healed) = (Record::Struck(vec![1]), Record::Healed(vec![1]));
        assert_eq!(breaches(&[sent(0), struck.clone(), reported(0, OFFLINE)]), []);
        assert_eq!(
            breaches(&[struck.clone(), sent(0), healed.clone(), reported(0, OFFLINE)]),
            []
        );
        assert_eq!(
            breaches(&[struck.clone(), healed.clone(), sent(0), reported(0, OFFLINE)]),
            []
        );
        let mut judge = judged(&[struck, healed]);
        judge.take(at(50), &sent(0));
        judge.take(at(51), &reported(0, OFFLINE));
        assert_eq!(judge.count(Breach::Blackout), 1, "its aftermath is over");
    }
}
