//! A summary for people, and for programs.

use std::fmt::{self, Write as _};

use serde_json::{Map, Value, json};

use crate::ledger::Faults;
use crate::plan::{Spacing, Work};
use crate::server::congestion_control;
use crate::summary::{Entry, Metric, Spread, Summary};

/// One JSON object with everything, the single rounds included.
pub fn json(summary: &Summary) -> Value {
    let plan = &summary.plan;
    let mut work = json!({
        "work": plan.work.name(),
        "connections": plan.connections,
        "threads": plan.threads,
        "payload_bytes": plan.payload_bytes,
        "confirmed": plan.confirmed,
        "across": plan.across,
        "seconds": plan.measured.as_secs_f64(),
        "warm_up_seconds": plan.warm_up.as_secs_f64(),
        "seed": plan.seed,
        "latency": plan.work.latency(plan.confirmed),
        "segments": SEGMENTS,
        "congestion_control": congestion_control(),
    });
    match plan.work {
        Work::Closed { outstanding } => work["outstanding"] = outstanding.into(),
        Work::Open { rate, spacing } => {
            work["rate"] = rate.into();
            work["spacing"] = match spacing {
                Spacing::Poisson => "poisson".into(),
                Spacing::Fixed => "fixed".into(),
            };
        }
        Work::Idle | Work::Connects => {}
    }
    let targets: Vec<Value> = summary.entries.iter().map(|entry| target(summary, entry)).collect();
    json!({
        "event": "load",
        "plan": work,
        "base": summary.entries[summary.base].target.name,
        "targets": targets,
        "faults": faults(summary.faults()),
    })
}

fn target(summary: &Summary, entry: &Entry) -> Value {
    let metrics = |of: &dyn Fn(Metric) -> Option<Value>| -> Map<String, Value> {
        let known = Metric::ALL
            .into_iter()
            .filter_map(|metric| Some((metric.name().to_owned(), of(metric)?)));
        known.collect()
    };
    let spread = |spread: Spread| json!({ "median": spread.median, "min": spread.min, "max": spread.max });
    let rounds = entry.rounds.iter().map(|round| {
        let mut one = metrics(&|metric| metric.of(summary.plan.work, round).map(Value::from));
        one.insert("sent".into(), round.sent.into());
        one.insert("delivered".into(), round.delivered.into());
        one.insert("seconds".into(), round.seconds.into());
        one.insert("faults".into(), faults(round.faults));
        Value::from(one)
    });
    json!({
        "name": entry.target.name,
        "protocol": entry.target.protocol.name(),
        "address": entry.target.address.to_string(),
        "pids": entry.target.pids,
        "sent": entry.rounds.iter().map(|round| round.sent).sum::<u64>(),
        "delivered": entry.rounds.iter().map(|round| round.delivered).sum::<u64>(),
        "metrics": metrics(&|metric| summary.spread(entry, metric).map(spread)),
        "ratios": metrics(&|metric| summary.ratio(entry, metric).map(spread)),
        "refused": entry.refused,
        "faults": faults(entry.faults),
        "rounds": rounds.collect::<Vec<_>>(),
    })
}

fn faults(faults: Faults) -> Value {
    json!({
        "lost": faults.lost,
        "out_of_order": faults.out_of_order,
        "doubled": faults.doubled,
        "stray": faults.stray,
    })
}

/// Where segments are counted.
const SEGMENTS: &str = "all that this host sent (OutSegs of /proc/net/snmp), acknowledgements included";

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rounds = self.entries.iter().map(|entry| entry.rounds.len()).max().unwrap_or(0);
        let medians = if rounds > 1 {
            format!(", medians of {rounds} rounds (smallest to largest)")
        } else {
            String::new()
        };
        writeln!(f, "{}{medians}", self.heading())?;
        let mut rows = vec![
            std::iter::once(String::new())
                .chain(self.entries.iter().map(|e| e.target.name.clone()))
                .collect(),
        ];
        for metric in Metric::ALL {
            let cells: Vec<String> = self
                .entries
                .iter()
                .map(|entry| cell(metric, self.spread(entry, metric)))
                .collect();
            if cells.iter().any(|cell| cell != NONE) {
                rows.push(std::iter::once(self.label(metric)).chain(cells).collect());
            }
        }
        if self.plan.work != Work::Idle {
            let counted = |name: &str, of: &dyn Fn(&Entry) -> u64| -> Vec<String> {
                let counts = self.entries.iter().map(|entry| of(entry).to_string());
                std::iter::once(name.to_owned()).chain(counts).collect()
            };
            if self.plan.confirmed {
                rows.push(counted("not delivered, and told", &|entry| entry.refused));
            }
            if self.plan.work != Work::Connects {
                rows.push(counted("lost", &|entry| entry.faults.lost));
                rows.push(counted("out of order", &|entry| entry.faults.out_of_order));
                rows.push(counted("doubled or stray", &|entry| {
                    entry.faults.doubled + entry.faults.stray
                }));
            }
        }
        if self.entries.len() > 1 {
            let base = &self.entries[self.base].target.name;
            for metric in [
                Metric::Rate,
                Metric::Cpu,
                Metric::P50,
                Metric::P99,
                Metric::ResidentPerConnection,
            ] {
                let cells: Vec<String> = self
                    .entries
                    .iter()
                    .map(|entry| self.ratio(entry, metric).map_or(NONE.to_owned(), ratio_cell))
                    .collect();
                if cells.iter().any(|cell| cell != NONE) {
                    rows.push(
                        std::iter::once(format!("{} / {base}", self.label(metric)))
                            .chain(cells)
                            .collect(),
                    );
                }
            }
        }
        f.write_str(&table(&rows))?;
        if self.plan.work != Work::Idle {
            write!(f, "latency: {}", self.plan.work.latency(self.plan.confirmed))?;
        }
        Ok(())
    }
}

impl Summary {
    fn heading(&self) -> String {
        let plan = &self.plan;
        let confirmed = if plan.confirmed { ", confirmed" } else { "" };
        match plan.work {
            Work::Closed { outstanding } => format!(
                "closed loop: {} connections, {outstanding} outstanding each, {} bytes{confirmed}",
                plan.connections, plan.payload_bytes
            ),
            Work::Open { rate, spacing } => format!(
                "open loop: {rate} a second over {} connections, {}, {} bytes{confirmed}",
                plan.connections,
                match spacing {
                    Spacing::Poisson => "at random times",
                    Spacing::Fixed => "evenly",
                },
                plan.payload_bytes
            ),
            Work::Idle => format!("{} idle connections", plan.connections),
            Work::Connects => format!("connects: {} at a time", plan.connections),
        }
    }

    fn label(&self, metric: Metric) -> String {
        let (one, latency) = match self.plan.work {
            Work::Connects => ("connect", "latency"),
            Work::Closed { .. } => ("message", "queueing"),
            Work::Open { .. } | Work::Idle => ("message", "latency"),
        };
        match metric {
            Metric::Rate => format!("{one}s/s"),
            Metric::Cpu => format!("server CPU µs/{one}"),
            Metric::Busy => "server CPU, cores".into(),
            Metric::GeneratorBusy => "generator CPU, cores".into(),
            Metric::P50 => format!("{latency} p50 µs"),
            Metric::P90 => format!("{latency} p90 µs"),
            Metric::P99 => format!("{latency} p99 µs"),
            Metric::P999 => format!("{latency} p99.9 µs"),
            Metric::Max => format!("{latency} max µs"),
            Metric::FramesPerSend => "frames/send".into(),
            Metric::FramesPerReceive => "frames/receive".into(),
            Metric::Segments => "segments/message".into(),
            Metric::ResidentPerConnection => "server RSS B/connection".into(),
            Metric::Resident => "server RSS MiB".into(),
            Metric::KernelPerConnection => "kernel B/connection".into(),
        }
    }
}

fn cell(metric: Metric, spread: Option<Spread>) -> String {
    let Some(spread) = spread else {
        return NONE.into();
    };
    let value = |value: f64| match metric {
        Metric::Rate | Metric::ResidentPerConnection | Metric::KernelPerConnection => format!("{value:.0}"),
        Metric::Cpu | Metric::Busy | Metric::GeneratorBusy | Metric::Segments => format!("{value:.3}"),
        Metric::Resident => format!("{:.1}", value / f64::from(1 << 20)),
        Metric::P50 | Metric::P90 | Metric::P99 | Metric::P999 | Metric::Max => format!("{value:.0}"),
        Metric::FramesPerSend | Metric::FramesPerReceive => format!("{value:.1}"),
    };
    let (median, min, max) = (value(spread.median), value(spread.min), value(spread.max));
    if min == max {
        median
    } else {
        format!("{median} ({min} to {max})")
    }
}

fn ratio_cell(ratio: Spread) -> String {
    if ratio.min == ratio.max {
        return format!("{:.3}", ratio.median);
    }
    format!("{:.3} ({:.3} to {:.3})", ratio.median, ratio.min, ratio.max)
}

/// Columns as wide as their widest cell; the first is flush left, the others right.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
    };
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let _ = if column == 0 {
                write!(line, "{cell:<width$}")
            } else {
                write!(line, "  {cell:>width$}")
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

const NONE: &str = "-";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_says_its_spread_only_where_there_is_one() {
        let spread = |min, max| Some(Spread { median: 2.0, min, max });
        assert_eq!(cell(Metric::Rate, spread(1.0, 3.0)), "2 (1 to 3)");
        assert_eq!(cell(Metric::Cpu, spread(2.0, 2.0)), "2.000");
        assert_eq!(cell(Metric::Cpu, None), "-");
    }

    #[test]
    fn a_table_is_aligned() {
        let rows = [["", "one"], ["long", "1"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(table(&rows), "      one\nlong    1\n");
    }
}
