//! Whom a device will write to next, so that the link and the location are there before the message.
//!
//! ```text
//! attached, sent, delivered ──▶ Habits of that device ──▶ score each partner ──▶ Foresight { device, worth }
//!                                     │                          ▲
//!                                     └── what came of the last ─┘ learn, between the turns
//! ```
//!
//! One [`Predictor`] per shard holds what is learnt from all its devices; each session holds its [`Habits`]. The router finds out where
//! a foreseen device is, and the link cache whether a link to that server is worth its place. A wrong or missing prediction costs
//! latency only: the message goes by way of the region.
//!
//! - The models that were measured, and why this one was chosen: `tools/replay/README.md`.
//! - **Bounded**: [`PARTNERS_MAX`] partners a device, [`DECISIONS_A_SECOND`] decisions and [`REMEMBERED_A_SECOND`] entries in its history a
//!   second and device; a message beyond them costs a comparison.
//! - **No message waits for learning**: what came of a decision is put off until [`Predictor::learn`], in the order in which it was known.
//!   At most [`LESSONS_MAX`] lessons wait; who puts off one more learns the oldest, so that none is lost. What is foreseen meanwhile is
//!   foreseen with the weights of before.
//! - **Deterministic**: fixed-point, no randomness. Time is Unix seconds, because history outlives the session, the process and the
//!   host; a clock that is wrong makes predictions worse and nothing else.
//!
//! What is deliberately absent: locations, links, nodes. Devices and servers are different things: the same partner, moved, is
//! reached over another link, and nothing has to be learnt anew.

mod affinity;
mod features;
mod lessons;
mod model;
mod patience;
mod ranking;
mod worth;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use trunkline_wire::affinity::AffinityVersion;
use trunkline_wire::id::{DeviceKey, NodeId, PartnerKey};

pub use self::affinity::{Affinity, PARTNERS_MAX, Partner};
pub use self::lessons::LESSONS_MAX;
pub use self::worth::Worth;

use self::features::{Kind, Moment, Partnership, bases};
use self::lessons::Lessons;
use self::model::{Errors, Model, NEGLIGIBLE, logistic};
use self::patience::Patience;
use self::ranking::{LIKELY, Ranking, worth};

/// Whether a node foresees anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// It does.
    #[default]
    On,
    /// It doesn't, nor does it learn or listen to hints: it asks for no location and dials no link ahead of a message, and so none at all.
    Off,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::On => "on",
            Mode::Off => "off",
        })
    }
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Mode, String> {
        match text {
            "on" => Ok(Mode::On),
            "off" => Ok(Mode::Off),
            other => Err(format!("the predictor can't be `{other}`: choose on or off")),
        }
    }
}

/// What a shard's devices have taught it.
#[derive(Clone, Debug)]
pub struct Predictor {
    mode: Mode,
    model: Model,
    patience: Patience,
    lessons: Lessons,
    /// How often a hint was followed by the message that it announced, in 65,536ths.
    candour: u16,
    counters: PredictorCounters,
}

crate::tally! {
    /// What a predictor counts, from its start.
    PredictorCounters {
        predictions => "Times that a device's partners were scored.",
        predictions_skipped => "Messages after which they were not, because the device had its share of the second.",
        predictions_right => "Messages to a device that was foreseen.",
        predictions_wrong => "Messages to a known partner that was not foreseen.",
        predictions_right_attach => "Messages to a device that was foreseen when the sender had connected.",
        predictions_right_send => "Messages to a device that was foreseen after another message of the sender.",
        predictions_right_reply => "Messages to a device that was foreseen because it waited for an answer.",
        predictions_wrong_attach => "Messages to a known partner that was not foreseen when the sender had connected.",
        predictions_wrong_send => "Messages to a known partner that was not foreseen after another message of the sender.",
        predictions_wrong_reply => "Messages to a known partner that was not foreseen when the sender had been handed a message.",
        predictions_new => "Messages to a device that the sender's history doesn't know.",
        hints_taken => "Hints of clients: whom they are about to write to.",
        hints_kept => "Hints that the message followed.",
        hints_refused => "Hints beyond their rate, or while nothing is foreseen.",
    }
}

impl PredictorCounters {
    /// A message went to a partner, which was foreseen after something of that kind, or wasn't.
    fn judge(&mut self, kind: Kind, was_foreseen: bool) {
        let (all, by_kind) = match (was_foreseen, kind) {
            (true, Kind::Attached) => (&mut self.predictions_right, &mut self.predictions_right_attach),
            (true, Kind::Sent) => (&mut self.predictions_right, &mut self.predictions_right_send),
            (true, Kind::Delivered) => (&mut self.predictions_right, &mut self.predictions_right_reply),
            (false, Kind::Attached) => (&mut self.predictions_wrong, &mut self.predictions_wrong_attach),
            (false, Kind::Sent) => (&mut self.predictions_wrong, &mut self.predictions_wrong_send),
            (false, Kind::Delivered) => (&mut self.predictions_wrong, &mut self.predictions_wrong_reply),
        };
        *all += 1;
        *by_kind += 1;
    }
}

/// What one device does, as far as its node has seen it or was told.
#[derive(Clone, Debug, Default)]
pub struct Habits {
    affinity: Affinity,
    /// The last decision, until it's known what came of it.
    decision: Option<Decision>,
    /// When who was written to last had been written to before.
    anchor: u32,
    /// Messages in this session, as far as that can be counted.
    sends: u8,
    /// The second in which messages and hints are counted, and how many there were.
    second: u32,
    messages: u8,
    hints: u8,
    hinted: Option<PartnerKey>,
    /// The latest state of the list that the region has handed out.
    recalled: AffinityVersion,
}

/// When partners were scored, and after what. Their features follow from this and the list, which hasn't changed since: they are worked
/// out anew when it's known what came of it, which most decisions of a busy device never are.
#[derive(Clone, Copy, Debug)]
struct Decision {
    at: u32,
    kind: Kind,
    /// By place in the list: of whom something is learnt, whatever comes. Not of who was too unlikely.
    weighed: u32,
}

const _: () = assert!(PARTNERS_MAX < u32::BITS as usize);

/// A device that another is expected to write to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Foresight {
    /// Who will be written to.
    pub device: PartnerKey,
    /// How likely: below [`FORESEEN`] only of who might be written to first. [`Worth::NONE`]: no longer expected.
    pub worth: Worth,
}

/// A partner, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Explained {
    /// Who.
    pub device: PartnerKey,
    /// How likely it is written to next.
    pub worth: Worth,
    /// Where it is known from.
    pub origin: Origin,
}

/// Where a partner is known from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Messages of this session.
    Session,
    /// The region's list, from earlier sessions.
    Region,
}

impl Origin {
    /// One word.
    pub fn name(self) -> &'static str {
        match self {
            Origin::Session => "session",
            Origin::Region => "region",
        }
    }
}

/// What a shard foresees for one of its devices, as the shard that owns the other device is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expectation {
    /// Who will be written to.
    pub device: PartnerKey,
    /// By whom.
    pub by: DeviceKey,
    /// How likely. [`Worth::NONE`]: no longer expected.
    pub worth: Worth,
    /// In which time that halves.
    pub half_life: Duration,
    /// After what.
    pub occasion: Occasion,
}

/// What a device has done that something is foreseen after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occasion {
    /// It has connected, or its history has arrived.
    Attached,
    /// It has sent a message.
    Sent {
        /// To whom.
        to: PartnerKey,
    },
    /// It was handed a message of `from`, which will be written to.
    Delivered {
        /// Its whole key.
        from: DeviceKey,
        /// The node that it came from; none if that is the own one.
        at: Option<NodeId>,
    },
    /// Its client has said so.
    Hinted,
    /// It has left.
    Detached,
}

impl Predictor {
    /// One that has seen nothing.
    pub fn new() -> Predictor {
        Predictor::in_mode(Mode::On)
    }

    /// One that has seen nothing, and may never.
    pub fn in_mode(mode: Mode) -> Predictor {
        Predictor {
            mode,
            model: Model::new(),
            patience: Patience::new(),
            lessons: Lessons::default(),
            candour: Worth::per_mille(900).0,
            counters: PredictorCounters::default(),
        }
    }

    /// What was counted.
    pub fn counters(&self) -> &PredictorCounters {
        &self.counters
    }

    /// In which time what was foreseen loses half its worth.
    pub fn half_life(&self) -> Duration {
        self.patience.half_life()
    }

    /// The device has connected, or its history has arrived. All of its partners are foreseen, the unlikely ones too: none of them was heard
    /// of here lately, and its first message is the one that nothing else makes ready.
    pub fn attached(&mut self, now: u32, habits: &mut Habits, out: &mut Vec<Foresight>) {
        if self.mode == Mode::Off {
            return;
        }
        let first = out.len();
        self.decide(now, Kind::Attached, habits, out);
        let likely = first..out.len();
        for partner in habits.affinity.partners() {
            let device = partner.device;
            if !out[likely.clone()].iter().any(|foresight| foresight.device == device) {
                let worth = HARDLY_ANYTHING;
                out.push(Foresight { device, worth });
            }
        }
    }

    /// The device has sent a message to `to`.
    pub fn sent(&mut self, now: u32, habits: &mut Habits, to: PartnerKey, out: &mut Vec<Foresight>) {
        if self.mode == Mode::Off {
            return;
        }
        if let Some(hinted) = habits.hinted.take() {
            self.hint_followed(hinted == to);
        }
        match habits.share(now) {
            Share::Decide => {
                self.learn_later(now, habits, Some(to));
                habits.sent(now, to);
                self.decide(now, Kind::Sent, habits, out);
            }
            Share::Remember => {
                self.counters.predictions_skipped += 1;
                habits.sent(now, to);
            }
            Share::Ignore => self.counters.predictions_skipped += 1,
        }
    }

    /// The device was handed a message of `from`, which foretells its answer.
    pub fn delivered(&mut self, now: u32, habits: &mut Habits, from: PartnerKey, out: &mut Vec<Foresight>) {
        if self.mode == Mode::Off {
            return;
        }
        match habits.share(now) {
            Share::Decide => {
                habits.affinity.received(now, from);
                // Who was heard from is the first of the list.
                self.decide_on_first(now, Kind::Delivered, habits, out);
            }
            Share::Remember => {
                self.counters.predictions_skipped += 1;
                habits.affinity.received(now, from);
                // The list has changed under it.
                habits.decision = None;
            }
            Share::Ignore => self.counters.predictions_skipped += 1,
        }
    }

    /// The device says that it's about to write to `to`. It is believed as far as hints have proved true here. Returns whether it was
    /// within its rate.
    pub fn hinted(&mut self, now: u32, habits: &mut Habits, to: PartnerKey, out: &mut Vec<Foresight>) -> bool {
        habits.turn_to(now);
        if self.mode == Mode::Off || habits.hints >= HINTS_A_SECOND {
            self.counters.hints_refused += 1;
            return false;
        }
        habits.hints += 1;
        self.counters.hints_taken += 1;
        match habits.hinted.replace(to) {
            Some(before) if before != to => self.hint_followed(false),
            Some(_) | None => {}
        }
        out.push(Foresight {
            device: to,
            worth: Worth(self.candour),
        });
        true
    }

    /// The device has left: nothing that was foreseen for it is expected here any more. Its history stays with `habits`.
    pub fn detached(&mut self, now: u32, habits: &mut Habits, out: &mut Vec<Foresight>) {
        // Whatever was expected later than this has lost its worth by itself.
        let counts = habits
            .decision
            .is_some_and(|decision| now.saturating_sub(decision.at) <= 4 * self.patience.seconds());
        let hinted = habits.hinted.take();
        if hinted.is_some() {
            self.hint_followed(false);
        }
        let partners = habits.affinity.partners().iter().map(|partner| partner.device);
        let expected = partners.filter(|_| counts).chain(hinted);
        out.extend(expected.map(|device| Foresight {
            device,
            worth: Worth::NONE,
        }));
        self.learn_later(now, habits, None);
        habits.sends = 0;
        habits.anchor = 0;
    }

    /// Every partner with how likely it is written to next, for people. The most recent first.
    pub fn explain(&self, now: u32, habits: &Habits) -> Vec<Explained> {
        let bases = bases(&habits.affinity, habits.sends);
        let base = self.model.base(&bases);
        let moment = Moment::new(Kind::Attached, 0, now);
        let partners = habits.affinity.partners().iter().enumerate();
        partners
            .map(|(rank, partner)| {
                let partnership = moment.partnership(rank, partner);
                Explained {
                    device: partner.device,
                    worth: worth(logistic(base + self.model.sum(&partnership))),
                    origin: if partner.recalled {
                        Origin::Region
                    } else {
                        Origin::Session
                    },
                }
            })
            .collect()
    }

    /// Scores all partners.
    fn decide(&mut self, now: u32, kind: Kind, habits: &mut Habits, out: &mut Vec<Foresight>) {
        let list = &habits.affinity;
        if list.is_empty() {
            return;
        }
        self.counters.predictions += 1;
        let base = self.model.base(&bases(list, habits.sends));
        let moment = Moment::new(kind, habits.anchor, now);
        let mut ranking = Ranking::new(list.partners().len());
        for (sum, (rank, partner)) in ranking.sums_mut().iter_mut().zip(list.partners().iter().enumerate()) {
            *sum = base + self.model.sum(&moment.partnership(rank, partner));
        }
        let (at, weighed) = (now, ranking.places(NEGLIGIBLE));
        habits.decision = Some(Decision { at, kind, weighed });
        // The likeliest first: it finds the places before the others do.
        ranking.for_each_likely(|rank, worth| {
            if let Some(partner) = list.partners().get(rank) {
                let device = partner.device;
                out.push(Foresight { device, worth });
            }
        });
    }

    /// Scores the first of the list alone: of the others nothing new is known, and what was expected of them stands.
    fn decide_on_first(&mut self, now: u32, kind: Kind, habits: &mut Habits, out: &mut Vec<Foresight>) {
        let list = &habits.affinity;
        let Some(partner) = list.partners().first() else {
            return;
        };
        self.counters.predictions += 1;
        let base = self.model.base(&bases(list, habits.sends));
        let moment = Moment::new(kind, habits.anchor, now);
        let sum = base + self.model.sum(&moment.partnership(0, partner));
        // Who isn't looked at now may have been likely before.
        let (at, weighed) = (now, u32::MAX << 1 | u32::from(sum >= NEGLIGIBLE));
        habits.decision = Some(Decision { at, kind, weighed });
        if sum >= LIKELY {
            let (device, worth) = (partner.device, worth(logistic(sum)));
            out.push(Foresight { device, worth });
        }
    }

    /// Puts off learning from what came of the last decision, a message to `to`, or none, until [`Predictor::learn`].
    fn learn_later(&mut self, now: u32, habits: &mut Habits, to: Option<PartnerKey>) {
        let Some(decision) = habits.decision.take() else {
            if to.is_some() {
                self.counters.predictions_new += 1;
            }
            return;
        };
        if self.lessons.is_full() {
            self.learn_one();
        }
        self.lessons.put(now, decision, habits, to);
    }

    /// Learns what was put off: call it once a turn, when that turn's messages don't wait for it. It is at most [`LESSONS_MAX`] lessons.
    pub fn learn(&mut self) {
        while self.learn_one() {}
    }

    /// Learns what was put off first. Returns whether there was something.
    fn learn_one(&mut self) -> bool {
        let Some(lesson) = self.lessons.next() else {
            return false;
        };
        let Decision { at, kind, weighed } = lesson.decision;
        let partners = lesson.list.partners();
        let written_to = partners.iter().position(|partner| Some(partner.device) == lesson.to);
        let known = (1 << partners.len()) - 1;
        let mut weighed = weighed & known | written_to.map_or(0, |rank| 1 << rank);
        let bases = bases(&lesson.list, lesson.sends);
        let base = self.model.base(&bases);
        let moment = Moment::new(kind, lesson.anchor, at);
        let mut errors = Errors::none();
        let (mut scored, mut count) = ([Partnership::default(); PARTNERS_MAX], 0);
        let mut expected = NEGLIGIBLE;
        while weighed != 0 {
            let rank = weighed.trailing_zeros() as usize;
            weighed &= weighed - 1;
            let features = moment.partnership(rank, &partners[rank]);
            let sum = base + self.model.sum(&features);
            let was_written_to = written_to == Some(rank);
            if was_written_to {
                expected = sum;
            }
            errors.add(&features, sum, was_written_to);
            scored[count] = features;
            count += 1;
        }
        if written_to.is_some() {
            self.counters.judge(kind, expected >= LIKELY);
            self.patience.learn(lesson.now.saturating_sub(at));
        } else if lesson.to.is_some() {
            self.counters.predictions_new += 1;
        }
        self.model.learn(&bases, &scored[..count], errors);
        true
    }

    fn hint_followed(&mut self, kept: bool) {
        let aim = if kept { i32::from(u16::MAX) } else { 0 };
        self.counters.hints_kept += u64::from(kept);
        self.candour = (i32::from(self.candour) + (aim - i32::from(self.candour)) / 32) as u16;
    }
}

impl Default for Predictor {
    fn default() -> Predictor {
        Predictor::new()
    }
}

impl Habits {
    /// Of a device with a history.
    pub fn new(affinity: Affinity) -> Habits {
        Habits {
            affinity,
            ..Habits::default()
        }
    }

    /// Whom the device writes to and hears from.
    pub fn affinity(&self) -> &Affinity {
        &self.affinity
    }

    /// What the region remembers has arrived. Returns whether it was news: also what came before may have been completed since, by what
    /// an older session told late.
    pub fn recall(&mut self, version: AffinityVersion, history: &Affinity) -> bool {
        let before = self.affinity.clone();
        if version >= self.recalled {
            self.recalled = version;
            self.affinity.join(history);
        } else {
            self.affinity.complete(history);
        }
        let is_news = self.affinity != before;
        if is_news {
            // The list has changed under it.
            self.decision = None;
        }
        is_news
    }

    fn sent(&mut self, now: u32, to: PartnerKey) {
        self.anchor = self.affinity.sent(now, to);
        self.sends = self.sends.saturating_add(1);
        // The list has changed under it.
        self.decision = None;
    }

    fn turn_to(&mut self, now: u32) {
        if self.second != now {
            (self.second, self.messages, self.hints) = (now, 0, 0);
        }
    }

    /// Counts a message of this second.
    fn share(&mut self, now: u32) -> Share {
        self.turn_to(now);
        self.messages = self.messages.saturating_add(1);
        if self.messages <= DECISIONS_A_SECOND {
            Share::Decide
        } else if self.messages <= REMEMBERED_A_SECOND {
            Share::Remember
        } else {
            Share::Ignore
        }
    }
}

/// How much is done about a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Share {
    Decide,
    Remember,
    Ignore,
}

/// What is less likely is not worth a link, nor, between two messages, finding out where it is: a question and an answer.
pub const FORESEEN: Worth = Worth::per_mille(20);

/// What a partner is worth that is foreseen because it is one, and for no other reason.
const HARDLY_ANYTHING: Worth = Worth(1);

/// Nobody writes to more people in a second than this; what a program sends is not foreseen message by message.
pub const DECISIONS_A_SECOND: u8 = 8;

/// And nobody has more partners than this in a second: what comes beyond is not put down either.
pub const REMEMBERED_A_SECOND: u8 = 32;

/// A chat is opened by hand: more hints than these a second and device are not.
pub const HINTS_A_SECOND: u8 = 4;

#[cfg(test)]
mod tests;
