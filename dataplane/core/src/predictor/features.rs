//! What the model looks at, as places in its table of weights. Every feature is a choice of one of a few, so that a score is a sum.

use super::affinity::{Affinity, Partner};
use super::model::ONE;

/// What has just happened to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// It has connected.
    Attached = 0,
    /// It has sent a message.
    Sent = 1,
    /// It was handed a message.
    Delivered = 2,
}

/// Features that all partners of a device have in common: the bias, novelty, how many partners, how many messages in this session.
pub(super) const BASES: usize = 4;

/// One partner's features: rank; age and direction of the last message; messages to it; messages from it; what has just happened;
/// whether it was written to together with whom was written to now.
pub(super) const FEATURES: usize = 6;

/// A partner's features.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Partnership(pub(super) [u8; FEATURES]);

const NOVELTIES: u8 = 8;
const LENGTHS: u8 = 5;
const SENDS: u8 = 4;
const RANKS: u8 = 6;
const AGES: u8 = 12;
const COUNTS: u8 = 5;
const EVENT_RANKS: u8 = 3;
const TOGETHERS: u8 = 5;

const BIAS: u8 = 0;
const NOVELTY: u8 = BIAS + 1;
const LENGTH: u8 = NOVELTY + NOVELTIES;
const SESSION_SENDS: u8 = LENGTH + LENGTHS;
const RANK: u8 = SESSION_SENDS + SENDS;
const AGE_ANSWERED: u8 = RANK + RANKS;
const AGE_UNANSWERED: u8 = AGE_ANSWERED + AGES;
const SENT: u8 = AGE_UNANSWERED + AGES;
const RECEIVED: u8 = SENT + COUNTS;
const EVENT: u8 = RECEIVED + COUNTS;
const TOGETHER: u8 = EVENT + 3 * 2 * EVENT_RANKS;

/// How many weights there are.
pub(super) const WEIGHTS: usize = (TOGETHER + TOGETHERS) as usize;

/// Two messages to different devices within this many seconds are of one piece: the recipients of one mail, a round of greetings.
const TOGETHER_SECONDS: u32 = 60;

/// What is true of a device at the moment, whoever the partner is.
pub(super) fn bases(list: &Affinity, sends: u8) -> [u8; BASES] {
    let length = (list.partners().len().max(1).ilog2() as u8).min(LENGTHS - 1);
    [
        BIAS,
        NOVELTY + list.novelty() / 32,
        LENGTH + length,
        SESSION_SENDS + sends.min(SENDS - 1),
    ]
}

/// What is true of the partner at place `rank` of the list, at the moment. `anchor`: when who was written to just now had been written to
/// before; 0 if nobody was, or never.
pub(super) fn partnership(list: &Affinity, rank: usize, kind: Kind, anchor: u32, now: u32) -> Partnership {
    let partner = &list.partners()[rank];
    let unanswered = partner.is_unanswered();
    let age = age(now.saturating_sub(partner.touched_at()));
    let event = (kind as u8 * 2 + u8::from(unanswered)) * EVENT_RANKS + (rank as u8).min(EVENT_RANKS - 1);
    Partnership([
        RANK + RANK_OF[rank.min(RANK_OF.len() - 1)],
        age + if unanswered { AGE_UNANSWERED } else { AGE_ANSWERED },
        SENT + count(partner.sent),
        RECEIVED + count(partner.received),
        EVENT + event,
        TOGETHER + together(partner, kind, anchor, now),
    ])
}

/// 0, 1, 2, up to 4, up to 8, further.
const RANK_OF: [u8; 10] = [0, 1, 2, 3, 3, 4, 4, 4, 4, 5];

/// Seconds, by powers of four: 0 to 3, to 15, to 63, …, from 48 days.
fn age(seconds: u32) -> u8 {
    (((seconds | 1).ilog2() / 2) as u8).min(AGES - 1)
}

/// None, one, two or three, up to seven, more.
fn count(messages: u8) -> u8 {
    ((u32::from(messages) + 1).ilog2() as u8).min(COUNTS - 1)
}

fn together(partner: &Partner, kind: Kind, anchor: u32, now: u32) -> u8 {
    let near = |time: u32| time != 0 && time.abs_diff(anchor) <= TOGETHER_SECONDS;
    match kind {
        Kind::Attached | Kind::Delivered => 0,
        // It was its turn already.
        Kind::Sent if now.saturating_sub(partner.sent_at) <= 5 => 4,
        Kind::Sent if anchor == 0 => 0,
        Kind::Sent if near(partner.sent_at) => 1,
        Kind::Sent if near(partner.sent_before) => 2,
        Kind::Sent => 3,
    }
}

/// A weight before anything is learnt. Round figures that say which way things lie on any traffic; none was fitted.
pub(super) fn prior(at: usize) -> i32 {
    let at = at as u8;
    let half = ONE / 2;
    match at {
        BIAS => -4 * half,
        // Who writes to strangers writes the less to friends.
        _ if (NOVELTY..LENGTH).contains(&at) => -half * i32::from(at - NOVELTY) / 4,
        _ if (RANK..AGE_ANSWERED).contains(&at) => half * (2 - i32::from(at - RANK)),
        _ if (AGE_ANSWERED..SENT).contains(&at) => {
            let unanswered = at >= AGE_UNANSWERED;
            let age = i32::from(if unanswered {
                at - AGE_UNANSWERED
            } else {
                at - AGE_ANSWERED
            });
            // From a few hours on, the longer ago the less.
            let forgotten = half * (age - 6).max(0) / 2;
            if unanswered { 2 * half - forgotten } else { -forgotten }
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trunkline_wire::id::PartnerKey;

    #[test]
    fn every_feature_has_a_weight_of_its_own() {
        let mut list = Affinity::default();
        for n in 0..40u32 {
            list.sent(1_000 + n * n * n * 50, PartnerKey(u64::from(n % 20)));
            list.received(1_001 + n * n * n * 50, PartnerKey(u64::from(n % 7)));
        }
        for kind in [Kind::Attached, Kind::Sent, Kind::Delivered] {
            for rank in 0..list.partners().len() {
                let features = partnership(&list, rank, kind, 1_000, 4_000_000).0;
                let bounds = [RANK, AGE_ANSWERED, SENT, RECEIVED, EVENT, TOGETHER, WEIGHTS as u8];
                for (at, feature) in features.into_iter().enumerate() {
                    assert!((bounds[at]..bounds[at + 1]).contains(&feature), "feature {at}");
                }
            }
        }
        for sends in [0, 1, 255] {
            let bounds = [BIAS, NOVELTY, LENGTH, SESSION_SENDS, RANK];
            for (at, base) in bases(&list, sends).into_iter().enumerate() {
                assert!((bounds[at]..bounds[at + 1]).contains(&base), "base {at}");
            }
        }
    }

    #[test]
    fn ages_are_by_powers_of_four() {
        for (seconds, bucket) in [
            (0, 0),
            (3, 0),
            (4, 1),
            (15, 1),
            (16, 2),
            (4_095, 5),
            (4_096, 6),
            (u32::MAX, 11),
        ] {
            assert_eq!(age(seconds), bucket, "{seconds}");
        }
    }
}
