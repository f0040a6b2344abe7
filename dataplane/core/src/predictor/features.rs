//! What the model looks at, as places in its table of weights. Every feature is a choice of one of a few, so that a score is a sum.

use super::affinity::{Affinity, PARTNERS_MAX, Partner};
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

/// The first weight of those that are a partner's own.
pub(super) const OWN: u8 = RANK;

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

/// When partners are looked at, and after what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    now: u32,
    /// When who was written to just now had been written to before.
    anchor: u32,
    events: &'static [[u8; 2]; PLACES],
    togethers: &'static [u8; 8],
}

impl Moment {
    /// `anchor`: when who was written to just now had been written to before; 0 if nobody was, or never.
    pub(super) fn new(kind: Kind, anchor: u32, now: u32) -> Moment {
        let togethers = match kind {
            Kind::Attached | Kind::Delivered => &TOGETHER_NOTHING,
            // Who was never written to is near nobody.
            Kind::Sent if anchor <= TOGETHER_SECONDS => &TOGETHER_FIRST,
            Kind::Sent => &TOGETHER_ANCHORED,
        };
        let events = &EVENTS[kind as usize];
        Moment {
            now,
            anchor,
            events,
            togethers,
        }
    }

    /// What is true of the partner at place `rank` of the list. By tables and without branches: those would go either way, and a wrong
    /// guess of the processor takes as long as a partner.
    #[inline(always)]
    pub(super) fn partnership(&self, rank: usize, partner: &Partner) -> Partnership {
        let place = rank % PLACES;
        let unanswered = usize::from(partner.is_unanswered());
        let silence = self.now.saturating_sub(partner.touched_at());
        let first = self.anchor.wrapping_sub(TOGETHER_SECONDS);
        let near = |time: u32| usize::from(time.wrapping_sub(first) <= 2 * TOGETHER_SECONDS);
        let is_its_turn = usize::from(self.now.wrapping_sub(partner.sent_at) < TURN_SECONDS);
        let together = near(partner.sent_before) | near(partner.sent_at) << 1 | is_its_turn << 2;
        Partnership([
            RANK_OF[place],
            AGE_OF[unanswered * 32 + (silence | 1).ilog2() as usize],
            SENT_OF[usize::from(partner.sent)],
            RECEIVED_OF[usize::from(partner.received)],
            self.events[place][unanswered],
            self.togethers[together],
        ])
    }
}

/// Who was written to less than this ago is the one who was written to just now.
const TURN_SECONDS: u32 = 6;

/// Places of a list; as many as a power of two, so that none is out of range.
const PLACES: usize = PARTNERS_MAX.next_power_of_two();

/// By place: 0, 1, 2, up to 4, up to 8, further.
const RANK_OF: [u8; PLACES] = {
    let mut ranks = [RANK + RANKS - 1; PLACES];
    let mut place = 0;
    while place <= 8 {
        ranks[place] = RANK
            + match place {
                0..=2 => place as u8,
                3..=4 => 3,
                _ => 4,
            };
        place += 1;
    }
    ranks
};

/// By place and whether its last message is unanswered, for what has happened: 0, 1, further.
const EVENTS: [[[u8; 2]; PLACES]; 3] = {
    let mut events = [[[0; 2]; PLACES]; 3];
    let mut at = 0;
    while at < 3 * PLACES * 2 {
        let (kind, place, unanswered) = (at / (2 * PLACES), at / 2 % PLACES, at % 2);
        let last = EVENT_RANKS as usize - 1;
        let rank = if place < last { place } else { last };
        events[kind][place][unanswered] = EVENT + (kind * 2 + unanswered) as u8 * EVENT_RANKS + rank as u8;
        at += 1;
    }
    events
};

/// By whether it is unanswered and how often the seconds can be halved, so that ages are by powers of four: 0 to 3, to 15, to 63, …, from
/// 48 days.
const AGE_OF: [u8; 64] = {
    let mut ages = [0; 64];
    let mut at = 0;
    while at < 64 {
        let age = (at % 32 / 2) as u8;
        let first = if at < 32 { AGE_ANSWERED } else { AGE_UNANSWERED };
        ages[at] = first + if age < AGES { age } else { AGES - 1 };
        at += 1;
    }
    ages
};

/// By messages to it.
const SENT_OF: [u8; 256] = counts(SENT);
/// By messages from it.
const RECEIVED_OF: [u8; 256] = counts(RECEIVED);

/// By messages, from this feature on: none, one or two, up to six, up to fourteen, more.
const fn counts(first: u8) -> [u8; 256] {
    let mut counts = [first + COUNTS - 1; 256];
    let mut messages = 0;
    while messages + 1 < 1 << (COUNTS - 1) {
        counts[messages] = first + (messages + 1).ilog2() as u8;
        messages += 1;
    }
    counts
}

/// By bits: the time before its last it was written to together with whom was written to just now, the last time it was, it was its turn
/// already. Nobody was written to just now.
const TOGETHER_NOTHING: [u8; 8] = [TOGETHER; 8];
/// Who was written to just now had not been before.
const TOGETHER_FIRST: [u8; 8] = togethers([0; 4]);
/// It had been.
const TOGETHER_ANCHORED: [u8; 8] = togethers([3, 2, 1, 1]);

const fn togethers(before_its_turn: [u8; 4]) -> [u8; 8] {
    let mut togethers = [TOGETHER + 4; 8];
    let mut at = 0;
    while at < before_its_turn.len() {
        togethers[at] = TOGETHER + before_its_turn[at];
        at += 1;
    }
    togethers
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
                let moment = Moment::new(kind, 1_000, 4_000_000);
                let features = moment.partnership(rank, &list.partners()[rank]).0;
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
            (u32::MAX - 1, 11),
        ] {
            let mut list = Affinity::default();
            list.sent(1, PartnerKey(1));
            let features = |list: &Affinity| {
                Moment::new(Kind::Attached, 0, 1 + seconds)
                    .partnership(0, &list.partners()[0])
                    .0
            };
            assert_eq!(features(&list)[1], AGE_ANSWERED + bucket, "{seconds}");
            list.received(1, PartnerKey(1));
            assert_eq!(
                features(&list)[1],
                AGE_ANSWERED + bucket,
                "it wasn't after the last message to it"
            );
            let mut list = Affinity::default();
            list.received(1, PartnerKey(1));
            assert_eq!(features(&list)[1], AGE_UNANSWERED + bucket, "{seconds}");
        }
    }

    #[test]
    fn counts_are_by_powers_of_two() {
        for (messages, bucket) in [
            (0, 0),
            (1, 1),
            (2, 1),
            (3, 2),
            (6, 2),
            (7, 3),
            (14, 3),
            (15, 4),
            (255, 4),
        ] {
            assert_eq!(SENT_OF[messages], SENT + bucket, "{messages}");
        }
    }

    #[test]
    fn who_was_written_to_together_is_told_from_whose_turn_it_was() {
        let mut list = Affinity::default();
        for (time, device) in [(1_000, 1), (1_030, 2), (5_000, 3), (9_000, 2), (9_500, 4), (9_500, 1)] {
            list.sent(time, PartnerKey(device));
        }
        // The first was written to just now, and before that at 1,000.
        let of = |kind, anchor, device| {
            let mut partners = list.partners().iter().enumerate();
            let (rank, partner) = partners
                .find(|(_, partner)| partner.device == PartnerKey(device))
                .unwrap();
            Moment::new(kind, anchor, 9_500).partnership(rank, partner).0[5] - TOGETHER
        };
        let all = |kind, anchor| [1, 2, 3, 4].map(|device| of(kind, anchor, device));
        assert_eq!(all(Kind::Sent, 1_000), [4, 2, 3, 4]);
        assert_eq!(all(Kind::Sent, 5_030), [4, 3, 1, 4]);
        assert_eq!(all(Kind::Sent, 0), [4, 0, 0, 4]);
        assert_eq!(all(Kind::Attached, 1_000), [0; 4]);
    }
}
