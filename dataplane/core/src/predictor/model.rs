//! How likely a device writes to a partner next: logistic regression over what is known of both, learnt message by message.
//!
//! Everything is fixed-point (16 bits behind the point) and the same in every process. The weights start from what is true of any
//! traffic (who was written to a moment ago is written to again, a message calls for an answer, old acquaintances are silent) and
//! each shard's move with its own traffic, in steps that shrink with the errors already made (AdaGrad), but never to nothing: habits change.

use super::features::{BASES, Partnership, WEIGHTS, prior};

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

    /// The partner, which had that sum with its base, was written to next, or another one was (or nobody, until the device left). What it
    /// says of all partners is added to `common`.
    pub(super) fn learn(&mut self, partnership: &Partnership, sum: i32, was_written_to: bool, common: &mut Errors) {
        if !was_written_to && sum < NEGLIGIBLE {
            return;
        }
        let score = logistic(sum);
        let error = if was_written_to { ONE - score } else { -score };
        let squared = ((i64::from(error) * i64::from(error)) >> 16) as u32;
        common.sum += error;
        common.squared += squared;
        for &at in &partnership.0 {
            self.correct(at, error, squared);
        }
    }

    /// What all partners of a device have in common learns once from all of them.
    pub(super) fn learn_common(&mut self, bases: &[u8; BASES], errors: Errors) {
        for &at in bases {
            self.correct(at, errors.sum, errors.squared);
        }
    }

    fn correct(&mut self, at: u8, error: i32, squared: u32) {
        let at = at as usize;
        self.errors[at] = (self.errors[at] + squared).min(ERRORS_MAX);
        self.weights[at] += ((i64::from(error) * step(self.errors[at])) >> 16) as i32;
    }
}

/// How far the partners of one device were from what was expected of them: at most one whole error each.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Errors {
    sum: i32,
    squared: u32,
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
pub(super) fn logistic(x: i32) -> i32 {
    let magnitude = x.unsigned_abs().min(8 << 16);
    let (at, rest) = ((magnitude >> 13) as usize, (magnitude & 0x1fff) as i32);
    let low = LOGISTIC[at];
    let high = LOGISTIC[(at + 1).min(LOGISTIC.len() - 1)];
    let value = low + (((high - low) * rest) >> 13);
    if x < 0 { ONE - value } else { value }
}

/// At every eighth from 0 to 8.
#[rustfmt::skip]
const LOGISTIC: [i32; 65] = [
    32768, 34813, 36843, 38841, 40793, 42687, 44511, 46254, 47911, 49474, 50941,
    52310, 53581, 54754, 55834, 56822, 57724, 58544, 59287, 59959, 60565, 61109,
    61598, 62036, 62428, 62778, 63090, 63368, 63615, 63835, 64030, 64203, 64357,
    64494, 64614, 64721, 64816, 64900, 64974, 65039, 65097, 65149, 65194, 65234,
    65269, 65300, 65328, 65352, 65374, 65393, 65410, 65425, 65438, 65449, 65459,
    65468, 65476, 65483, 65489, 65495, 65500, 65504, 65508, 65511, 65514,
];

#[cfg(test)]
mod tests {
    use super::super::features::{Kind, bases, partnership};
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
        let of = |at| partnership(&list, at, Kind::Attached, 0, 5_000);
        let mut model = Model::new();
        let sum = |model: &Model, at| model.base(&bases) + model.sum(&of(at));
        let before = [0, 1].map(|at| logistic(sum(&model, at)));
        for _ in 0..200 {
            // Against the grain: the one that waits for no answer is written to.
            for (at, was_written_to) in [(0, true), (1, false)] {
                let sum = sum(&model, at);
                let mut common = Errors::default();
                model.learn(&of(at), sum, was_written_to, &mut common);
                model.learn_common(&bases, common);
            }
        }
        let after = [0, 1].map(|at| logistic(sum(&model, at)));
        assert!(after[0] > before[0] && after[0] > ONE * 9 / 10, "{after:?}");
        assert!(after[1] < before[1] && after[1] < ONE / 10, "{after:?}");
    }
}
