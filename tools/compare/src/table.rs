//! One workload's outcome as a table that a README can show.

use std::fmt::Write as _;

use serde_json::{Value, json};
use trunkline_load::plan::Work;
use trunkline_load::summary::{Metric, Summary};

/// Medians of the rounds, the spread of the first figure, and the ratio to the base, as Markdown.
/// `syscalls` are those for each message, by server, where they were counted.
pub fn table(title: &str, summary: &Summary, syscalls: &[Option<f64>]) -> String {
    let columns = columns(summary.plan.work);
    let base = &summary.entries[summary.base].target.name;
    let mut text = format!(
        "\n{title}; medians of {} rounds\n\n| server |",
        summary.entries[0].rounds.len()
    );
    for (name, ..) in &columns {
        let _ = write!(text, " {name} |");
    }
    let counted = syscalls.iter().any(Option::is_some);
    if counted {
        text.push_str(" syscalls/message |");
    }
    let _ = write!(text, " smallest to largest | to {base} |");
    let timed = columns.iter().any(|(_, metric, _)| *metric == Metric::Cpu);
    if timed {
        let _ = write!(text, " CPU to {base} |");
    }
    text.push_str("\n|---|");
    text.push_str(&"---:|".repeat(columns.len() + 2 + usize::from(counted) + usize::from(timed)));
    for (entry, calls) in summary.entries.iter().zip(syscalls) {
        let _ = write!(text, "\n| {} |", entry.target.name);
        for (_, metric, digits) in &columns {
            match summary.spread(entry, *metric) {
                Some(spread) => {
                    let _ = write!(text, " {:.digits$} |", spread.median);
                }
                None => text.push_str(" – |"),
            }
        }
        match calls {
            Some(calls) => {
                let _ = write!(text, " {calls:.2} |");
            }
            None if counted => text.push_str(" – |"),
            None => {}
        }
        let (_, first, digits) = columns[0];
        match summary.spread(entry, first) {
            Some(spread) => {
                let _ = write!(text, " {:.digits$} to {:.digits$} |", spread.min, spread.max);
            }
            None => text.push_str(" – |"),
        }
        let shown = [first].into_iter().chain(timed.then_some(Metric::Cpu));
        for ratio in shown.map(|metric| summary.ratio(entry, metric)) {
            match ratio {
                Some(ratio) => {
                    let _ = write!(text, " {:.2} |", ratio.median);
                }
                None => text.push_str(" – |"),
            }
        }
    }
    let faults = summary.faults();
    if !faults.is_clean() {
        let _ = write!(
            text,
            "\n\nlost {}, out of order {}, doubled {}, stray {}",
            faults.lost, faults.out_of_order, faults.doubled, faults.stray
        );
    }
    text
}

/// What matters: name, metric, digits behind the point.
fn columns(work: Work) -> Vec<(&'static str, Metric, usize)> {
    match work {
        Work::Closed { .. } => vec![
            ("messages/s", Metric::Rate, 0),
            ("CPU µs/message", Metric::Cpu, 2),
            ("segments/message", Metric::Segments, 2),
            ("p50 µs", Metric::P50, 0),
        ],
        Work::Open { .. } => vec![
            ("p50 µs", Metric::P50, 0),
            ("p99 µs", Metric::P99, 0),
            ("CPU µs/message", Metric::Cpu, 2),
            ("segments/message", Metric::Segments, 2),
        ],
        Work::Idle => vec![
            ("B/connection", Metric::ResidentPerConnection, 0),
            ("RSS bytes", Metric::Resident, 0),
            ("kernel B/connection, both ends", Metric::KernelPerConnection, 0),
        ],
        Work::Connects => vec![
            ("connects/s", Metric::Rate, 0),
            ("CPU µs/connect", Metric::Cpu, 1),
            ("p50 µs", Metric::P50, 0),
        ],
    }
}

/// On what it was measured.
pub fn host() -> Value {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    json!({
        "processor": model.map(|(_, name)| name),
        "processors": std::thread::available_parallelism().map_or(0, usize::from),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
    })
}
