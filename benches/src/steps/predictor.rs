//! What a prediction costs: a message of a busy device, and the first one of a device that was idle.

use std::hint::black_box;

use trunkline_core::predictor::{Affinity, Foresight, Habits, PARTNERS_MAX, Predictor};
use trunkline_wire::id::PartnerKey;

use super::{Entry, Step};
use crate::{BATCH, DEVICES};

pub(super) const ALL: &[Entry] = &[
    Entry::turn("predictor", "sent", sent),
    Entry::turn("predictor", "delivered", delivered),
    Entry::new("predictor", "sent_cold", || cold(Predictor::sent)),
    Entry::new("predictor", "delivered_cold", || cold(Predictor::delivered)),
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
        black_box(out.len());
        out.clear();
    })
}

/// As many as keep one shard busy at that rate.
const BUSY_DEVICES: usize = 1_000;

/// A message of a device that was idle for an hour: what came of the last prediction is learnt, and all partners are scored.
fn cold(event: Event) -> Box<dyn Step> {
    let mut predictor = Predictor::new();
    let mut devices = vec![habits(); DEVICES];
    let (mut message, mut out) = (0, Vec::new());
    Box::new(move || {
        let now = NOON + (message / DEVICES) as u32 * 3_600 + (message % DEVICES) as u32 / 1_000;
        // Not the one of before: half of the partners are known, at some place of the list.
        let to = partner(message * 7 + message / DEVICES * 5);
        event(&mut predictor, now, &mut devices[message % DEVICES], to, &mut out);
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
