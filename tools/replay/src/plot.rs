//! The policies over the budget: hits and dials.

use crate::model::{Setup, Summary, run};
use crate::picture::{Axis, Line, Panel, picture};
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

/// The picture, hits on the left and dials on the right, as the text of an SVG file.
pub fn svg(points: &[Point]) -> String {
    let mut budgets: Vec<usize> = points.iter().map(|point| point.budget).collect();
    budgets.sort_unstable();
    budgets.dedup();
    let dials = points.iter().map(|point| point.summary.dials_per_message);
    let dials_max = dials.fold(0.4, f64::max);
    let hits = Panel {
        title: "share of messages whose link was ready, over links per node",
        axis: Axis::Linear { max: 1.0 },
        lines: lines(points, |summary| summary.hit),
    };
    let dials = Panel {
        title: "dials per message, over links per node",
        axis: Axis::Linear {
            max: (dials_max * 2.5).ceil() / 2.5,
        },
        lines: lines(points, |summary| summary.dials_per_message),
    };
    picture(&budgets, &[hits, dials])
}

/// One for each policy, in the order of their first points.
fn lines(points: &[Point], value: fn(&Summary) -> f64) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for point in points {
        let at = (point.budget, value(&point.summary));
        match lines.iter_mut().find(|line| line.name == point.policy.name()) {
            Some(line) => line.points.push(at),
            None => lines.push(Line {
                name: point.policy.name().into(),
                points: vec![at],
            }),
        }
    }
    lines
}

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
