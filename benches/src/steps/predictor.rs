//! What a prediction costs: a message of a busy device, and the first one of a device that was idle.

use std::hint::black_box;

use trunkline_core::predictor::{Affinity, Foresight, Habits, PARTNERS_MAX, Predictor};
use trunkline_wire::id::PartnerKey;

use super::{Entry, Step};
use crate::{BATCH, DEVICES};

pub(super) const ALL: &[Entry] = &[
    Entry::turn("predictor", "sent", sent),
    Entry::turn("predictor", "delivered", delivered),
    Entry::turn("predictor", "sent_cold", || cold(Shard::Grown)).prepared(),
    Entry::turn("predictor", "sent_cold_young", || cold(Shard::Young)).prepared(),
    Entry::turn("predictor", "learn", || learn(Shard::Grown)).prepared(),
    Entry::turn("predictor", "learn_young", || learn(Shard::Young)).prepared(),
    Entry::turn("predictor", "sent_cold_and_learn", sent_cold_and_learn),
    Entry::new("predictor", "delivered_cold", delivered_cold),
    Entry::new("predictor", "attached", attached),
];

/// Whom a device writes to in turn: its list is full, and one more than fit writes the last one out each time.
const PARTNERS: usize = PARTNERS_MAX + 8;
/// A million messages a second from all devices together.
const MESSAGES_A_SECOND: usize = 1_000_000;

type Event = fn(&mut Predictor, u32, &mut Habits, PartnerKey, &mut Vec<Foresight>);

fn partner(n: usize) -> PartnerKey {
    PartnerKey((n % PARTNERS) as u64 + 1)
}

/// A device with a full list, which it has filled over a day.
fn habits() -> Habits {
    let mut affinity = Affinity::default();
    for n in 0..PARTNERS {
        let now = NOON - 86_400 + n as u32 * 3_000;
        affinity.sent(now, partner(n));
        if n % 3 == 0 {
            affinity.received(now + 60, partner(n));
        }
    }
    Habits::new(affinity)
}

/// Some Unix second.
const NOON: u32 = 1_700_000_000;

fn sent() -> Box<dyn Step> {
    busy(Predictor::sent)
}

fn delivered() -> Box<dyn Step> {
    busy(Predictor::delivered)
}

/// A turn's messages, each of another device; every device has some hundred a second.
fn busy(event: Event) -> Box<dyn Step> {
    let mut predictor = Predictor::new();
    let mut devices = vec![habits(); BUSY_DEVICES];
    let (mut message, mut out) = (0, Vec::new());
    Box::new(move || {
        for _ in 0..BATCH {
            let at = message % BUSY_DEVICES;
            // Their seconds don't begin all at once.
            let now = NOON + ((message + at * MESSAGES_A_SECOND / BUSY_DEVICES) / MESSAGES_A_SECOND) as u32;
            let device = &mut devices[at];
            event(&mut predictor, now, device, partner(message / BUSY_DEVICES), &mut out);
            message += 1;
        }
        predictor.learn();
        black_box(out.len());
        out.clear();
    })
}

/// As many as keep one shard busy at that rate.
const BUSY_DEVICES: usize = 1_000;

/// How much a shard has seen when its messages are measured.
#[derive(Clone, Copy, PartialEq)]
enum Shard {
    /// It has just started, and has learnt nothing.
    Young,
    /// It has seen each device write for a day.
    Grown,
}

/// One part of what a fleet does in a turn, of which the other is done before.
struct Part {
    fleet: Fleet,
    before: fn(&mut Fleet),
    run: fn(&mut Fleet),
}

/// A turn's messages, each of a device that was idle for an hour: all of its partners are scored. What came of the last prediction is
/// learnt later, between the turns.
fn cold(shard: Shard) -> Box<dyn Step> {
    let before = |fleet: &mut Fleet| {
        fleet.learn();
        fleet.stay_young();
    };
    Box::new(Part {
        fleet: Fleet::new(shard),
        before,
        run: Fleet::turn,
    })
}

/// What is learnt between the turns.
fn learn(shard: Shard) -> Box<dyn Step> {
    let before = |fleet: &mut Fleet| {
        fleet.stay_young();
        fleet.turn();
    };
    Box::new(Part {
        fleet: Fleet::new(shard),
        before,
        run: Fleet::learn,
    })
}

impl Step for Part {
    fn prepare_run(&mut self) {
        (self.before)(&mut self.fleet);
    }

    fn run(&mut self) {
        (self.run)(&mut self.fleet);
    }

    fn check(&self) {
        self.fleet.check();
    }
}

/// Both, one after the other.
fn sent_cold_and_learn() -> Box<dyn Step> {
    let mut fleet = Fleet::new(Shard::Grown);
    Box::new(move || {
        fleet.turn();
        fleet.learn();
    })
}

/// Devices that write once an hour, each in turn.
struct Fleet {
    shard: Shard,
    predictor: Predictor,
    devices: Vec<Habits>,
    rng: fastrand::Rng,
    messages: usize,
    out: Vec<Foresight>,
}

impl Fleet {
    fn new(shard: Shard) -> Fleet {
        let mut fleet = Fleet {
            shard: Shard::Grown,
            predictor: Predictor::new(),
            devices: vec![habits(); DEVICES],
            rng: fastrand::Rng::with_seed(1),
            messages: 0,
            out: Vec::new(),
        };
        // Of each device something is expected, that its next message teaches something about.
        let rounds = if shard == Shard::Young { 1 } else { 24 };
        for _ in 0..rounds * DEVICES / BATCH {
            fleet.turn();
            fleet.learn();
        }
        fleet.shard = shard;
        fleet
    }

    /// Of four messages three go to a partner, the more likely the more recent it is, and one to a stranger. So lists stay full, and there
    /// is always something to learn.
    fn turn(&mut self) {
        for _ in 0..BATCH {
            let (round, at) = (self.messages / DEVICES, self.messages % DEVICES);
            let now = NOON + round as u32 * 3_600 + at as u32 / 1_000;
            let device = &mut self.devices[at];
            let drawn = self.rng.u64(..);
            let place = |bits: u64| (bits % PARTNERS_MAX as u64) as usize;
            let to = match drawn % 4 {
                0 => PartnerKey(drawn),
                _ => device.affinity().partners()[place(drawn >> 8).min(place(drawn >> 32))].device,
            };
            self.predictor.sent(now, device, to, &mut self.out);
            self.messages += 1;
        }
        black_box(self.out.len());
        self.out.clear();
    }

    fn learn(&mut self) {
        self.predictor.learn();
    }

    fn stay_young(&mut self) {
        if self.shard == Shard::Young {
            self.predictor = Predictor::new();
        }
    }

    fn check(&self) {
        let counted = self.predictor.counters();
        let lessons = counted.predictions_right + counted.predictions_wrong + counted.predictions_new;
        let turns = if self.shard == Shard::Young {
            1
        } else {
            self.messages / BATCH
        };
        assert_eq!(
            counted.predictions,
            (turns * BATCH) as u64,
            "each message is one decision"
        );
        assert!(lessons == 0 || counted.predictions_right > 0, "some of them come true");
    }
}

/// A message that a device is handed which was idle.
fn delivered_cold() -> Box<dyn Step> {
    let mut predictor = Predictor::new();
    let mut devices = vec![habits(); DEVICES];
    let (mut message, mut out) = (0, Vec::new());
    Box::new(move || {
        let now = NOON + (message / DEVICES) as u32 * 3_600 + (message % DEVICES) as u32 / 1_000;
        // Not the one of before: half of the partners are known, at some place of the list.
        let from = partner(message * 7 + message / DEVICES * 5);
        predictor.delivered(now, &mut devices[message % DEVICES], from, &mut out);
        message += 1;
        black_box(out.len());
        out.clear();
    })
}

/// A device that comes with its history.
fn attached() -> Box<dyn Step> {
    let mut predictor = Predictor::new();
    let mut devices = vec![habits(); DEVICES];
    let (mut next, mut out) = (0, Vec::new());
    Box::new(move || {
        predictor.attached(NOON, &mut devices[next % DEVICES], &mut out);
        next += 1;
        black_box(out.len());
        out.clear();
    })
}
