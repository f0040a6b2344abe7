//! The order of what was measured, and what is within the noise.

use serde::Serialize;

/// What is to be best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Goal {
    /// Most messages a second.
    Throughput,
    /// Shortest latency at the median.
    Latency,
    /// Least processor time for a message.
    Cpu,
}

/// The values of one quantity over the rounds.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Values {
    /// The median.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The most.
    pub max: f64,
}

impl Values {
    /// Of the rounds; nothing of none.
    pub fn of(mut rounds: Vec<f64>) -> Values {
        rounds.sort_unstable_by(f64::total_cmp);
        let (Some(min), Some(max)) = (rounds.first(), rounds.last()) else {
            return Values::default();
        };
        let middle = rounds.len() / 2;
        let median = match rounds.len() % 2 {
            1 => rounds[middle],
            _ => (rounds[middle - 1] + rounds[middle]) / 2.0,
        };
        Values {
            median,
            min: *min,
            max: *max,
        }
    }

    /// Whether the rounds of both lie in one another: then which is better can't be told.
    fn overlaps(&self, other: &Values) -> bool {
        self.min <= other.max && other.min <= self.max
    }
}

/// What was measured of one candidate.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// Messages a second in the closed loop.
    pub throughput: Values,
    /// Microseconds in the open loop: at the median, and at 99 %.
    pub p50_us: Values,
    /// See above.
    pub p99_us: Values,
    /// Microseconds of processor time for a message in the open loop.
    pub cpu_us: Values,
}

/// A candidate's place.
#[derive(Clone, Debug, Serialize)]
pub struct Place {
    /// Which of the candidates.
    pub candidate: usize,
    /// Whether it is better than the defaults by more than the noise.
    pub better: bool,
    /// Whether the difference from the defaults is within the noise.
    pub noise: bool,
}

impl Goal {
    fn of(self, measured: &Measured) -> &Values {
        match self {
            Goal::Throughput => &measured.throughput,
            Goal::Latency => &measured.p50_us,
            Goal::Cpu => &measured.cpu_us,
        }
    }

    /// From the best to the worst. The first of `all` are the defaults.
    pub fn rank(self, all: &[Measured]) -> Vec<Place> {
        let value = |candidate: usize| self.of(&all[candidate]);
        let beats = |a: f64, b: f64| match self {
            Goal::Throughput => a > b,
            Goal::Latency | Goal::Cpu => a < b,
        };
        let mut places: Vec<Place> = (0..all.len())
            .map(|candidate| {
                let noise = value(candidate).overlaps(value(0));
                let better = !noise && beats(value(candidate).median, value(0).median);
                Place {
                    candidate,
                    better,
                    noise,
                }
            })
            .collect();
        places.sort_by(|a, b| {
            let (a, b) = (value(a.candidate).median, value(b.candidate).median);
            match self {
                Goal::Throughput => b.total_cmp(&a),
                Goal::Latency | Goal::Cpu => a.total_cmp(&b),
            }
        });
        places
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(throughput: [f64; 3], p50: [f64; 3]) -> Measured {
        Measured {
            throughput: Values::of(throughput.to_vec()),
            p50_us: Values::of(p50.to_vec()),
            p99_us: Values::default(),
            cpu_us: Values::of(vec![1.0]),
        }
    }

    #[test]
    fn the_median_of_the_rounds_ranks_and_one_that_lies_in_the_noise_is_not_better() {
        let all = [
            measured([100.0, 90.0, 110.0], [40.0, 41.0, 42.0]),
            measured([112.0, 105.0, 130.0], [20.0, 25.0, 22.0]),
            measured([50.0, 51.0, 52.0], [43.0, 44.0, 45.0]),
        ];
        let ranked = Goal::Throughput.rank(&all);
        let order: Vec<usize> = ranked.iter().map(|place| place.candidate).collect();
        assert_eq!(order, [1, 0, 2]);
        assert!(ranked[0].noise && !ranked[0].better, "105 was less than 110");
        assert!(!ranked[2].noise && !ranked[2].better, "clearly worse");
        let ranked = Goal::Latency.rank(&all);
        assert!(ranked[0].candidate == 1 && ranked[0].better);
        assert!(Goal::Cpu.rank(&all).iter().all(|place| place.noise));
    }

    #[test]
    fn an_even_number_of_rounds_has_its_median_between() {
        assert_eq!(Values::of(vec![4.0, 1.0, 2.0, 3.0]).median, 2.5);
    }
}
