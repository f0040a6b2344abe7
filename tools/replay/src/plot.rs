//! A picture of the policies over the budget: hits on the left, dials on the right. SVG, written by hand: two axes and a few lines.

use std::fmt::Write as _;

use crate::model::{Setup, Summary, run};
use crate::policy::Policy;
use crate::trace::Trace;

/// One policy at one budget.
#[derive(Clone, Copy, Debug)]
pub struct Point {
    /// Which.
    pub policy: Policy,
    /// Links of a node at most.
    pub budget: usize,
    /// What came of it, on average over the seeds.
    pub summary: Summary,
}

/// Plays every policy at every budget with every seed. `done` is told how many runs are over.
pub fn sweep(
    trace: &Trace,
    nodes: usize,
    policies: &[Policy],
    budgets: &[usize],
    seeds: &[u64],
    done: &mut dyn FnMut(usize),
) -> Vec<Point> {
    let mut points = Vec::new();
    let mut runs = 0;
    for &policy in policies {
        for &budget in budgets {
            let mut summaries = Vec::new();
            for &seed in seeds {
                let setup = Setup {
                    nodes,
                    budget,
                    policy,
                    seed,
                };
                summaries.push(run(trace, setup));
                runs += 1;
                done(runs);
            }
            let summary = Summary::mean(&summaries);
            points.push(Point {
                policy,
                budget,
                summary,
            });
        }
    }
    points
}

/// The picture, as the text of an SVG file.
pub fn svg(points: &[Point]) -> String {
    let mut picture = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
    );
    let mut budgets: Vec<usize> = points.iter().map(|point| point.budget).collect();
    budgets.sort_unstable();
    budgets.dedup();
    let dials_max = points
        .iter()
        .map(|point| point.summary.dials_per_message)
        .fold(0.5, f64::max);
    let hits = Panel {
        left: 60.0,
        what: "share of messages whose link was ready, over links per node",
        max: 1.0,
        value: |summary| summary.hit,
    };
    let dials = Panel {
        left: 530.0,
        what: "dials per message, over links per node",
        max: (dials_max * 4.0).ceil() / 4.0,
        value: |summary| summary.dials_per_message,
    };
    for panel in [&hits, &dials] {
        panel.draw(points, &budgets, &mut picture);
    }
    let mut policies: Vec<Policy> = Vec::new();
    for point in points {
        if !policies.contains(&point.policy) {
            policies.push(point.policy);
        }
    }
    for (place, policy) in policies.iter().enumerate() {
        let x = 60.0 + 105.0 * place as f64;
        line(&mut picture, (x, 345.0), (x + 22.0, 345.0), color(place));
        text(&mut picture, (x + 27.0, 349.0), "start", policy.name());
    }
    picture.push_str("</svg>\n");
    picture
}

struct Panel {
    left: f64,
    what: &'static str,
    max: f64,
    value: fn(&Summary) -> f64,
}

impl Panel {
    fn draw(&self, points: &[Point], budgets: &[usize], picture: &mut String) {
        let step = PANEL / (budgets.len().max(2) - 1) as f64;
        let y = |value: f64| BOTTOM - value / self.max * (BOTTOM - TOP);
        text(picture, (self.left, TOP - 14.0), "start", self.what);
        for tick in 0..=4 {
            let value = self.max * f64::from(tick) / 4.0;
            line(picture, (self.left, y(value)), (self.left + PANEL, y(value)), "#ddd");
            text(
                picture,
                (self.left - 6.0, y(value) + 4.0),
                "end",
                &format!("{value:.2}"),
            );
        }
        for (place, budget) in budgets.iter().enumerate() {
            let x = self.left + step * place as f64;
            text(picture, (x, BOTTOM + 16.0), "middle", &budget.to_string());
        }
        let mut policies: Vec<Policy> = Vec::new();
        for point in points {
            if !policies.contains(&point.policy) {
                policies.push(point.policy);
            }
        }
        for (color_place, &policy) in policies.iter().enumerate() {
            let mut line = String::new();
            for (place, &budget) in budgets.iter().enumerate() {
                let point = points
                    .iter()
                    .find(|point| point.policy == policy && point.budget == budget);
                if let Some(point) = point {
                    let x = self.left + step * place as f64;
                    let _ = write!(line, "{x:.1},{:.1} ", y((self.value)(&point.summary)));
                }
            }
            let _ = writeln!(
                picture,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"/>",
                line.trim_end(),
                color(color_place)
            );
        }
    }
}

fn line(picture: &mut String, (x1, y1): (f64, f64), (x2, y2): (f64, f64), stroke: &str) {
    let _ = writeln!(
        picture,
        "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{stroke}\" stroke-width=\"2\"/>"
    );
}

fn text(picture: &mut String, (x, y): (f64, f64), anchor: &str, what: &str) {
    let _ = writeln!(
        picture,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{what}</text>"
    );
}

fn color(place: usize) -> &'static str {
    COLORS[place % COLORS.len()]
}

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 360.0;
const PANEL: f64 = 400.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 300.0;
/// Told apart also by who sees few colours.
const COLORS: [&str; 8] = [
    "#000000", "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#999999",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_has_a_line_for_each_policy_in_both_panels() {
        let trace = Trace::synthetic(1, 20, 200);
        let policies = [Policy::None, Policy::Lru, Policy::Mesh, Policy::Predictor];
        let mut runs = 0;
        let points = sweep(&trace, 8, &policies, &[1, 2, 4], &[1, 2], &mut |done| runs = done);
        assert_eq!((points.len(), runs), (12, 24));
        let picture = svg(&points);
        assert_eq!(picture.matches("<polyline").count(), 8);
        for policy in policies {
            assert!(picture.contains(&format!(">{policy}</text>")));
        }
        assert!(picture.ends_with("</svg>\n"));
    }
}
