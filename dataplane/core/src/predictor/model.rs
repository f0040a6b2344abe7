//! How likely a device writes to a partner next: logistic regression over what is known of both, learnt message by message.
//!
//! Everything is fixed-point (16 bits behind the point) and the same in every process. The weights start from what is true of any
//! traffic (who was written to a moment ago is written to again, a message calls for an answer, old acquaintances are silent) and
//! each shard's move with its own traffic, in steps that shrink with the errors already made (AdaGrad), but never to nothing: habits change.

use super::affinity::PARTNERS_MAX;
use super::features::{BASES, FEATURES, OWN, Partnership, WEIGHTS, prior};

/// One, with 16 bits behind the point.
pub(super) const ONE: i32 = 1 << 16;

/// The weights, and how much each has erred.
#[derive(Clone, Debug)]
pub(super) struct Model {
    /// By feature; a place is one byte, so that none is out of range.
    weights: [i32; 256],
    errors: [u32; 256],
}

impl Model {
    pub(super) fn new() -> Model {
        let mut weights = [0; 256];
        for (at, weight) in weights.iter_mut().enumerate().take(WEIGHTS) {
            *weight = prior(at);
        }
        Model {
            weights,
            errors: [ONE as u32; 256],
        }
    }

    /// What all partners of a device have in common.
    pub(super) fn base(&self, bases: &[u8; BASES]) -> i32 {
        bases.iter().map(|&at| self.weights[at as usize]).sum()
    }

    /// What is this partner's own. With the base it is the logit of the probability that it is written to next: see [`logistic`].
    pub(super) fn sum(&self, partnership: &Partnership) -> i32 {
        partnership.0.iter().map(|&at| self.weights[at as usize]).sum()
    }

    /// Takes in what came of a decision: how far off each of `partners` was, by the weights that there were for all of them, and what all
    /// of them have in common.
    pub(super) fn learn(&mut self, bases: &[u8; BASES], partners: &[Partnership], mut errors: Errors) {
        let common = errors.common;
        for &at in bases {
            self.correct(at, common);
        }
        // What a few partners have is less than all that there is.
        if partners.len() * FEATURES < OWNS {
            for &at in partners.iter().flat_map(|partnership| &partnership.0) {
                let error = std::mem::take(&mut errors.own[usize::from(at) % OWNS]);
                self.correct(at, error);
            }
        } else {
            for at in OWN..WEIGHTS as u8 {
                self.correct(at, errors.own[usize::from(at) % OWNS]);
            }
        }
    }

    #[inline(always)]
    fn correct(&mut self, at: u8, error: Error) {
        let at = at as usize;
        self.errors[at] = (self.errors[at] + error.squared()).min(ERRORS_MAX);
        self.weights[at] += ((i64::from(error.sum()) * step(self.errors[at])) >> 16) as i32;
    }
}

/// How far the partners of one device were from what was expected of them: at most one whole error each.
#[derive(Clone, Copy, Debug)]
pub(super) struct Errors {
    common: Error,
    /// By feature of a partner: the remainder tells them apart, and none is out of range.
    own: [Error; OWNS],
}

/// As many as a partner has features to choose from, to the next power of two.
const OWNS: usize = (WEIGHTS - OWN as usize).next_power_of_two();

impl Errors {
    /// Nothing was wrong.
    pub(super) fn none() -> Errors {
        Errors {
            common: Error(0),
            own: [Error(0); OWNS],
        }
    }

    /// The partner, which had that sum with its base, was written to next, or another one was (or nobody, until the device left).
    #[inline(always)]
    pub(super) fn add(&mut self, partnership: &Partnership, sum: i32, was_written_to: bool) {
        let score = logistic(sum);
        let error = Error::new(if was_written_to { ONE - score } else { -score });
        self.common.add(error);
        for &at in &partnership.0 {
            self.own[usize::from(at) % OWNS].add(error);
        }
    }
}

/// A sum of errors and one of their squares, in one number: both are added at once.
#[derive(Clone, Copy, Debug, Default)]
struct Error(i64);

const _: () = assert!(
    PARTNERS_MAX as u64 * (ONE as u64) < 1 << 32,
    "the squares stay in the lower half"
);

impl Error {
    #[inline(always)]
    fn new(error: i32) -> Error {
        let error = i64::from(error);
        Error((error << 32) + ((error * error) >> 16))
    }

    #[inline(always)]
    fn add(&mut self, other: Error) {
        self.0 += other.0;
    }

    fn sum(self) -> i32 {
        (self.0 >> 32) as i32
    }

    fn squared(self) -> u32 {
        self.0 as u32
    }
}

/// How far a weight moves for a whole error, after so many squared errors: 0.3 by the root of them.
fn step(errors: u32) -> i64 {
    let exponent = errors.ilog2();
    let half = (errors >> (exponent - 1)) & 1;
    STEPS[exponent as usize][half as usize]
}

/// For each power of two, and for one and a half of it.
const STEPS: [[i64; 2]; 32] = {
    let mut steps = [[0; 2]; 32];
    let mut exponent = 16;
    while exponent < 32 {
        let one = 1u64 << exponent;
        // 0.3² × 2^48 / errors, whose root has 16 bits behind the point.
        let squared = RATE_SQUARED << 32;
        steps[exponent][0] = (squared / one).isqrt() as i64;
        steps[exponent][1] = (squared / (one + one / 2)).isqrt() as i64;
        exponent += 1;
    }
    steps
};

/// The square of 0.3, the first step's length, with 16 bits behind the point.
const RATE_SQUARED: u64 = 5_898;

/// 4,096 whole errors: later steps are a sixty-fourth of the first, and no shorter.
const ERRORS_MAX: u32 = 1 << 28;

/// What was expected with less than half a percent (this is its logit), and didn't come, teaches nothing: most of a list, most of the
/// time.
pub(super) const NEGLIGIBLE: i32 = -(ONE * 5 + ONE * 3 / 10);

/// `1 / (1 + e^-x)`, between tabulated points on a straight line: off by less than 0.0005.
pub(super) const fn logistic(x: i32) -> i32 {
    let magnitude = x.unsigned_abs();
    let magnitude = if magnitude < 8 << 16 { magnitude } else { 8 << 16 };
    let (at, rest) = ((magnitude >> 13) as usize, (magnitude & 0x1fff) as i32);
    let (low, high) = (LOGISTIC[at], LOGISTIC[at + 1]);
    let value = low + (((high - low) * rest) >> 13);
    if x < 0 { ONE - value } else { value }
}

/// At every eighth from 0 to 8, and once more.
#[rustfmt::skip]
const LOGISTIC: [i32; 66] = [
    32768, 34813, 36843, 38841, 40793, 42687, 44511, 46254, 47911, 49474, 50941,
    52310, 53581, 54754, 55834, 56822, 57724, 58544, 59287, 59959, 60565, 61109,
    61598, 62036, 62428, 62778, 63090, 63368, 63615, 63835, 64030, 64203, 64357,
    64494, 64614, 64721, 64816, 64900, 64974, 65039, 65097, 65149, 65194, 65234,
    65269, 65300, 65328, 65352, 65374, 65393, 65410, 65425, 65438, 65449, 65459,
    65468, 65476, 65483, 65489, 65495, 65500, 65504, 65508, 65511, 65514,
    65514,
];

#[cfg(test)]
mod tests {
    use super::super::features::{Kind, Moment, bases};
    use super::*;
    use crate::predictor::Affinity;
    use trunkline_wire::id::PartnerKey;

    #[test]
    fn the_curve_is_the_logistic_one() {
        for step in -200..=200 {
            let x = f64::from(step) / 20.0;
            let exact = 1.0 / (1.0 + (-x).exp());
            let ours = f64::from(logistic((x * 65_536.0) as i32)) / 65_536.0;
            assert!((exact - ours).abs() < 0.001, "at {x}: {ours} instead of {exact}");
        }
        assert!(logistic(i32::MIN) >= 0 && logistic(i32::MAX) <= ONE);
        assert!((ONE / 210..=ONE / 190).contains(&logistic(NEGLIGIBLE)));
    }

    #[test]
    fn steps_shrink_with_the_root_of_the_errors() {
        for errors in [1.0f64, 1.5, 2.0, 3.0, 100.0, 4_096.0] {
            let ours = step((errors * 65_536.0) as u32) as f64 / 65_536.0;
            let exact = 0.3 / errors.sqrt();
            assert!((ours / exact - 1.0).abs() < 0.3, "{errors}: {ours} instead of {exact}");
        }
    }

    #[test]
    fn what_happens_often_becomes_likely_and_what_never_happens_unlikely() {
        let mut list = Affinity::default();
        list.received(100, PartnerKey(1));
        list.sent(200, PartnerKey(2));
        let bases = bases(&list, 0);
        let moment = Moment::new(Kind::Attached, 0, 5_000);
        let of = |at: usize| moment.partnership(at, &list.partners()[at]);
        let mut model = Model::new();
        let sum = |model: &Model, at| model.base(&bases) + model.sum(&of(at));
        let before = [0, 1].map(|at| logistic(sum(&model, at)));
        for _ in 0..200 {
            // Against the grain: the one that waits for no answer is written to.
            let mut errors = Errors::none();
            for (at, was_written_to) in [(0, true), (1, false)] {
                errors.add(&of(at), sum(&model, at), was_written_to);
            }
            model.learn(&bases, &[of(0), of(1)], errors);
        }
        let after = [0, 1].map(|at| logistic(sum(&model, at)));
        assert!(after[0] > before[0] && after[0] > ONE * 9 / 10, "{after:?}");
        assert!(after[1] < before[1] && after[1] < ONE / 10, "{after:?}");
    }

    #[test]
    fn few_partners_teach_as_they_would_among_many() {
        let mut list = Affinity::default();
        for n in 0..6 {
            list.sent(100 * n, PartnerKey(u64::from(n)));
        }
        let bases = bases(&list, 0);
        let moment = Moment::new(Kind::Sent, 100, 5_000);
        let (mut few, mut many) = (Model::new(), Model::new());
        let partners: Vec<_> = list
            .partners()
            .iter()
            .enumerate()
            .map(|(at, partner)| moment.partnership(at, partner))
            .collect();
        for round in 0..50 {
            let mut errors = Errors::none();
            for (at, partner) in partners.iter().enumerate() {
                errors.add(partner, few.base(&bases) + few.sum(partner), at == round % 6);
            }
            few.learn(&bases, &partners, errors);
            many.learn(&bases, &partners.repeat(4), errors);
        }
        assert_eq!((few.weights, few.errors), (many.weights, many.errors));
        assert_ne!(few.weights, Model::new().weights);
    }

    #[test]
    fn errors_add_up_whichever_way_they_lie() {
        let mut all = Error::new(0);
        for _ in 0..PARTNERS_MAX {
            all.add(Error::new(-ONE));
        }
        all.add(Error::new(ONE / 2));
        let partners = PARTNERS_MAX as i32;
        assert_eq!(
            (all.sum(), all.squared()),
            (ONE / 2 - partners * ONE, (partners * ONE + ONE / 4) as u32)
        );
    }
}
