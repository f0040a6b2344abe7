//! When the messages of an open loop are meant to be sent, whatever became of the earlier ones.

use fastrand::Rng;

use crate::plan::Spacing;

/// A schedule without an end.
#[derive(Debug)]
pub struct Pace {
    interval_ns: f64,
    spacing: Spacing,
    next_ns: f64,
}

impl Pace {
    /// `rate` messages a second, the first one interval after `start_ns`.
    pub fn new(rate: f64, spacing: Spacing, start_ns: u64, random: &mut Rng) -> Pace {
        let mut pace = Pace {
            interval_ns: 1e9 / rate,
            spacing,
            next_ns: start_ns as f64,
        };
        pace.advance(random);
        pace
    }

    /// When the next message is meant to be sent.
    pub fn next_ns(&self) -> u64 {
        self.next_ns as u64
    }

    /// It was sent, on time or not.
    pub fn advance(&mut self, random: &mut Rng) {
        self.next_ns += match self.spacing {
            Spacing::Fixed => self.interval_ns,
            // The time between independent events is exponential; `1 - f64()` is never 0.
            Spacing::Poisson => -(1.0 - random.f64()).ln() * self.interval_ns,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(spacing: Spacing) -> Vec<u64> {
        let mut random = Rng::with_seed(7);
        let mut pace = Pace::new(50_000.0, spacing, 1_000, &mut random);
        let mut times = Vec::new();
        for _ in 0..50_000 {
            times.push(pace.next_ns());
            pace.advance(&mut random);
        }
        times
    }

    #[test]
    fn a_fixed_pace_is_even() {
        let times = times(Spacing::Fixed);
        assert_eq!(times[..3], [21_000, 41_000, 61_000]);
        assert_eq!(times.last(), Some(&1_000_001_000));
    }

    #[test]
    fn a_poisson_pace_keeps_the_rate_and_bunches() {
        let times = times(Spacing::Poisson);
        let last = *times.last().unwrap() as f64;
        assert!((0.98e9..1.02e9).contains(&last), "{last}");
        // Of exponential gaps a share of 1 - 1/e is below their mean.
        let short = times.windows(2).filter(|pair| pair[1] - pair[0] < 20_000).count();
        assert!((31_000..32_200).contains(&short), "{short}");
    }
}
