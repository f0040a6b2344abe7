//! From rounds to numbers: medians, spreads, ratios.

use crate::ledger::Faults;
use crate::plan::{Plan, Work};
use crate::run::Round;
use crate::target::Target;

/// What is reported of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// Messages delivered a second.
    Rate,
    /// The server's processor time for each.
    Cpu,
    /// How busy the server's processors were.
    Busy,
    /// How busy the generator's were: where all of its threads are, it is what was measured.
    GeneratorBusy,
    /// Latency.
    P50,
    /// Latency.
    P90,
    /// Latency.
    P99,
    /// Latency.
    P999,
    /// Latency.
    Max,
    /// Frames the generator wrote with a system call.
    FramesPerSend,
    /// Frames the generator read with a system call.
    FramesPerReceive,
    /// TCP segments of the host for each message.
    Segments,
    /// The server's memory for each connection.
    ResidentPerConnection,
    /// All of the server's memory.
    Resident,
    /// What the kernel's memory grew by, for each connection: both ends, the generator's included.
    KernelPerConnection,
}

impl Metric {
    /// All of them, in the order of reports.
    pub const ALL: [Metric; 15] = [
        Metric::Rate,
        Metric::Cpu,
        Metric::Busy,
        Metric::GeneratorBusy,
        Metric::P50,
        Metric::P90,
        Metric::P99,
        Metric::P999,
        Metric::Max,
        Metric::FramesPerSend,
        Metric::FramesPerReceive,
        Metric::Segments,
        Metric::ResidentPerConnection,
        Metric::Resident,
        Metric::KernelPerConnection,
    ];

    /// In JSON, with the unit.
    pub fn name(self) -> &'static str {
        match self {
            Metric::Rate => "per_second",
            Metric::Cpu => "server_cpu_us",
            Metric::Busy => "server_cpu_share",
            Metric::GeneratorBusy => "generator_cpu_share",
            Metric::P50 => "p50_us",
            Metric::P90 => "p90_us",
            Metric::P99 => "p99_us",
            Metric::P999 => "p99_9_us",
            Metric::Max => "max_us",
            Metric::FramesPerSend => "frames_per_send",
            Metric::FramesPerReceive => "frames_per_receive",
            Metric::Segments => "segments_per_message",
            Metric::ResidentPerConnection => "server_resident_bytes_per_connection",
            Metric::Resident => "server_resident_bytes",
            Metric::KernelPerConnection => "kernel_bytes_per_connection",
        }
    }

    /// In a round; `None` if the round has none.
    pub fn of(self, work: Work, round: &Round) -> Option<f64> {
        let messages = matches!(work, Work::Closed { .. } | Work::Open { .. });
        let latency =
            |quantile| (!round.latency.is_empty()).then(|| round.latency.value_at_quantile(quantile) as f64 / 1e3);
        match self {
            Metric::Rate => (work != Work::Idle).then(|| round.delivered as f64 / round.seconds),
            Metric::Cpu => {
                let ns = round.server_ns.filter(|_| round.delivered > 0 && work != Work::Idle)?;
                Some(ns as f64 / 1e3 / round.delivered as f64)
            }
            Metric::GeneratorBusy => Some(round.generator_ns? as f64 / 1e9 / round.seconds),
            Metric::Busy => Some(round.server_ns? as f64 / 1e9 / round.seconds),
            Metric::P50 => latency(0.5),
            Metric::P90 => latency(0.9),
            Metric::P99 => latency(0.99),
            Metric::P999 => latency(0.999),
            Metric::Max => latency(1.0),
            Metric::FramesPerSend => messages.then_some(round.frames_per_send),
            Metric::FramesPerReceive => messages.then_some(round.frames_per_receive),
            Metric::Segments => round.segments_per_message.filter(|_| messages),
            Metric::ResidentPerConnection => {
                let (before, after) = round.resident_bytes.filter(|_| work == Work::Idle)?;
                Some((after as f64 - before as f64) / round.connections as f64)
            }
            Metric::Resident => Some(round.resident_bytes?.1 as f64),
            Metric::KernelPerConnection => {
                let (before, after) = round.kernel_bytes.filter(|_| work == Work::Idle)?;
                Some((after as f64 - before as f64) / round.connections as f64)
            }
        }
    }
}

/// A metric over the rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The middle one; of an even number the mean of the two in the middle.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// Of at least one value.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            f64::midpoint(values[middle - 1], values[middle])
        };
        Some(Spread { median, min, max })
    }
}

/// One target's rounds.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Which.
    pub target: Target,
    /// As they were played.
    pub rounds: Vec<Round>,
    /// Over all rounds.
    pub faults: Faults,
    /// Over all rounds.
    pub refused: u64,
}

/// A whole run.
#[derive(Clone, Debug)]
pub struct Summary {
    /// What was done.
    pub plan: Plan,
    /// By target.
    pub entries: Vec<Entry>,
    /// The place of the target that the others are compared with.
    pub base: usize,
}

impl Summary {
    /// Of what [`crate::run::run`] returned for these.
    pub fn new(plan: Plan, targets: Vec<Target>, rounds: Vec<Vec<Round>>, base: usize) -> Summary {
        let entry = |(target, rounds): (Target, Vec<Round>)| {
            let (mut faults, mut refused) = (Faults::default(), 0);
            for round in &rounds {
                faults.add(round.faults);
                refused += round.refused;
            }
            Entry {
                target,
                rounds,
                faults,
                refused,
            }
        };
        Summary {
            plan,
            entries: targets.into_iter().zip(rounds).map(entry).collect(),
            base,
        }
    }

    /// A metric over a target's rounds.
    pub fn spread(&self, entry: &Entry, metric: Metric) -> Option<Spread> {
        let work = self.plan.work;
        Spread::of(entry.rounds.iter().filter_map(|round| metric.of(work, round)))
    }

    /// A metric, divided by that of the target that the others are compared with in the same round: what drifts from round to round
    /// falls out.
    pub fn ratio(&self, entry: &Entry, metric: Metric) -> Option<Spread> {
        let work = self.plan.work;
        let pairs = entry.rounds.iter().zip(&self.entries[self.base].rounds);
        let ratio = |(one, base): (&Round, &Round)| Some(metric.of(work, one)? / metric.of(work, base)?);
        Spread::of(pairs.filter_map(ratio).filter(|ratio| ratio.is_finite()))
    }

    /// What went wrong, over all targets.
    pub fn faults(&self) -> Faults {
        let mut sum = Faults::default();
        for entry in &self.entries {
            sum.add(entry.faults);
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::histogram;

    fn round(delivered: u64, latencies_ns: &[u64]) -> Round {
        let mut latency = histogram();
        for ns in latencies_ns {
            latency.record(*ns).unwrap();
        }
        Round {
            seconds: 2.0,
            sent: delivered,
            delivered,
            latency,
            server_ns: Some(1_000_000_000),
            generator_ns: None,
            frames_per_send: 1.0,
            frames_per_receive: 1.0,
            segments_per_message: None,
            faults: Faults {
                lost: 1,
                ..Faults::default()
            },
            refused: 0,
            connections: 2,
            resident_bytes: Some((1_000, 3_000)),
            kernel_bytes: Some((5_000, 9_000)),
        }
    }

    fn summary() -> Summary {
        let target = |name: &str| format!("{name}=floor:127.0.0.1:1").parse().unwrap();
        let of = |each: [u64; 3]| each.map(|delivered| round(delivered, &[1_000])).to_vec();
        // The second drifts with the first, at half of it, but for the last round.
        let rounds = vec![of([1_000, 2_000, 4_000]), of([500, 1_000, 3_000])];
        Summary::new(Plan::default(), vec![target("a"), target("b")], rounds, 0)
    }

    #[test]
    fn a_median_is_the_middle_and_a_spread_its_ends() {
        let spread = Spread::of([3.0, 1.0, 2.0]).unwrap();
        assert_eq!((spread.median, spread.min, spread.max), (2.0, 1.0, 3.0));
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 3.0]).unwrap().median, 2.5);
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn a_ratio_is_taken_round_by_round() {
        let summary = summary();
        let rate = summary.spread(&summary.entries[1], Metric::Rate).unwrap();
        assert_eq!((rate.median, rate.max), (500.0, 1_500.0));
        let ratio = summary.ratio(&summary.entries[1], Metric::Rate).unwrap();
        assert_eq!((ratio.median, ratio.min, ratio.max), (0.5, 0.5, 0.75));
        assert_eq!(summary.ratio(&summary.entries[0], Metric::Rate).unwrap().max, 1.0);
    }

    #[test]
    fn the_servers_time_is_divided_by_what_was_delivered() {
        let summary = summary();
        let cpu = Metric::Cpu.of(summary.plan.work, &summary.entries[0].rounds[0]);
        assert_eq!(cpu, Some(1_000.0));
        let idle = Metric::ResidentPerConnection.of(Work::Idle, &summary.entries[0].rounds[0]);
        assert_eq!(idle, Some(1_000.0));
        let kernel = Metric::KernelPerConnection.of(Work::Idle, &summary.entries[0].rounds[0]);
        assert_eq!(kernel, Some(2_000.0));
        assert_eq!(Metric::Rate.of(Work::Idle, &summary.entries[0].rounds[0]), None);
        assert_eq!(summary.faults().lost, 6);
    }

    #[test]
    fn merged_histograms_hold_what_each_held() {
        let (mut one, other) = (histogram(), round(1, &[5_000, 9_000_000]).latency);
        one.record(1_000).unwrap();
        one.add(&other).unwrap();
        assert_eq!(one.len(), 3);
        assert!((4_990..=5_010).contains(&one.value_at_quantile(0.5)));
        assert!(one.max() >= 9_000_000);
    }
}
