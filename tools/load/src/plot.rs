//! A picture of a summary: latency by percentile on the left, throughput on the right. SVG, written by hand: two axes and a few lines.

use std::fmt::Write as _;

use hdrhistogram::Histogram;

use crate::draw::{color, escape, line, text};
use crate::plan::Work;
use crate::summary::{Entry, Metric, Summary};
use crate::worker::histogram;

/// The picture, as the text of an SVG file.
pub fn svg(summary: &Summary) -> String {
    let mut picture = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
    );
    latencies(summary, &mut picture);
    bars(summary, &mut picture);
    picture.push_str("</svg>\n");
    picture
}

/// Latency over percentile, both on logarithmic axes: the axis below is that of one in ten, in a hundred, in a thousand.
fn latencies(summary: &Summary, picture: &mut String) {
    let merged: Vec<Histogram<u64>> = summary.entries.iter().map(merge).collect();
    let seen = || merged.iter().filter(|latency| !latency.is_empty());
    let Some(least) = seen().map(|latency| latency.value_at_quantile(0.0).max(1)).min() else {
        return;
    };
    let most = seen().map(Histogram::max).max().unwrap_or(1);
    let (low, high) = ((least as f64).log10().floor(), (most as f64).log10().ceil());
    let high = high.max(low + 1.0);
    let y = |ns: f64| BOTTOM - (ns.log10() - low) / (high - low) * (BOTTOM - TOP);
    let x = |nines: f64| LEFT + nines / NINES_MAX * (RIGHT - LEFT);

    let what = match summary.plan.work {
        Work::Closed { .. } => "queueing in a closed loop",
        Work::Open { .. } | Work::Idle | Work::Connects => "latency",
    };
    text(picture, (LEFT, TOP - 14.0), "start", &format!("{what} by percentile"));
    for power in low as i32..=high as i32 {
        let at = y(10f64.powi(power));
        line(picture, (LEFT, at), (RIGHT, at), "#ddd");
        text(picture, (LEFT - 6.0, at + 4.0), "end", &duration(power));
    }
    for (nines, label) in ["0", "90", "99", "99.9", "99.99", "99.999"].iter().enumerate() {
        let at = x(nines as f64);
        line(picture, (at, TOP), (at, BOTTOM), "#ddd");
        text(picture, (at, BOTTOM + 16.0), "middle", label);
    }
    for (place, latency) in merged.iter().enumerate().filter(|(_, latency)| !latency.is_empty()) {
        let mut points = String::new();
        for step in 0..=STEPS {
            let nines = NINES_MAX * f64::from(step) / f64::from(STEPS);
            // Fewer samples than that percentile needs say nothing of it.
            if 10f64.powf(nines) > latency.len() as f64 {
                break;
            }
            let ns = latency.value_at_quantile(1.0 - 10f64.powf(-nines)).max(1);
            let _ = write!(points, "{:.1},{:.1} ", x(nines), y(ns as f64));
        }
        let _ = writeln!(
            picture,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"/>",
            points.trim_end(),
            color(place)
        );
    }
}

/// A bar a target as long as its median, with a whisker from the smallest round to the largest.
fn bars(summary: &Summary, picture: &mut String) {
    let metric = if summary.plan.work == Work::Idle {
        Metric::ResidentPerConnection
    } else {
        Metric::Rate
    };
    let what = match summary.plan.work {
        Work::Idle => "server memory, bytes a connection",
        Work::Connects => "connects a second",
        Work::Closed { .. } | Work::Open { .. } => "messages delivered a second",
    };
    let spreads: Vec<_> = summary
        .entries
        .iter()
        .map(|entry| summary.spread(entry, metric))
        .collect();
    let most = spreads.iter().flatten().map(|spread| spread.max).fold(1.0, f64::max);
    let (left, right) = (RIGHT + 50.0, WIDTH - 20.0);
    let step = ((BOTTOM - TOP) / summary.entries.len() as f64).min(60.0);
    text(picture, (left, TOP - 14.0), "start", what);
    for (place, (entry, spread)) in summary.entries.iter().zip(spreads).enumerate() {
        let top = TOP + step * place as f64;
        let length = |value: f64| value.max(0.0) / most * (right - left);
        let (value, min, max) = spread.map_or((0.0, 0.0, 0.0), |spread| (spread.median, spread.min, spread.max));
        let label = format!("{}: {value:.0}", escape(&entry.target.name));
        text(picture, (left, top + 12.0), "start", &label);
        let _ = writeln!(
            picture,
            "<rect x=\"{left:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{}\"/>",
            top + 18.0,
            length(value),
            (step - 30.0).max(4.0),
            color(place)
        );
        let middle = top + 18.0 + (step - 30.0).max(4.0) / 2.0;
        line(
            picture,
            (left + length(min), middle),
            (left + length(max), middle),
            "black",
        );
    }
}

fn merge(entry: &Entry) -> Histogram<u64> {
    let mut merged = histogram();
    for round in &entry.rounds {
        merged.add(&round.latency).expect("all have the same bounds");
    }
    merged
}

/// A power of ten nanoseconds.
fn duration(power: i32) -> String {
    match power {
        ..3 => format!("{} ns", 10i64.pow(power.max(0) as u32)),
        3..6 => format!("{} µs", 10i64.pow(power as u32 - 3)),
        6..9 => format!("{} ms", 10i64.pow(power as u32 - 6)),
        9.. => format!("{} s", 10i64.pow(power as u32 - 9)),
    }
}

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 560.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 320.0;
/// The axis of percentiles ends at 99.999.
const NINES_MAX: f64 = 5.0;
const STEPS: i32 = 200;
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_says_its_units() {
        let labels: Vec<String> = [0, 3, 5, 6, 9].map(duration).into();
        assert_eq!(labels, ["1 ns", "1 µs", "100 µs", "1 ms", "1 s"]);
    }
}
