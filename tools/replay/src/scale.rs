//! A bounded number of links against all of them, over the number of servers: sockets, hits, and how long a message is under way.
//!
//! Played through the model ([`crate::model`]), and not through the simulator of whole clusters: that one runs every node's timers and
//! pings, for as many days as the trace lasts, where the question is only which links there are; the model drives the same predictor and
//! link cache in seconds. What the ways' lengths make of it:
//!
//! - A message goes direct if the link was there before the second that it was sent in (in which a dial may still be under way), and its
//!   recipient's place was known; else by way of the region.
//! - The mesh is given what it would need besides: every server knows where every device is. What it takes to tell all servers of every
//!   connect isn't counted here (`trunkline sim --propagation` counts it).

use serde::Serialize;

use crate::model::{DIAL_COST, Readiness, Setup, Summary, Verdict, play};
use crate::picture::{Axis, Line, Panel, picture};
use crate::policy::Policy;
use crate::trace::Trace;

/// How long a message is under way from server to server, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Ways {
    /// Straight.
    pub direct_ms: f64,
    /// By way of the recipient's region.
    pub region_ms: f64,
}

/// So many servers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Size {
    /// How many.
    pub servers: usize,
    /// With all links.
    pub mesh: Side,
    /// With as many as the budget allows, chosen by the predictor.
    pub predictor: Side,
}

/// What came of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Side {
    /// Links of a server, on average over servers and messages.
    pub links_mean: f64,
    /// The most that a server had.
    pub links_max: usize,
    /// Of all servers together, on average over messages.
    pub links_all: f64,
    /// The share of messages whose link was ready, as the model counts it.
    pub hit: f64,
    /// The share of messages that went direct.
    pub direct: f64,
    /// How long a message was under way, on average.
    pub dispatch_ms_mean: f64,
    /// The median.
    pub dispatch_ms_p50: f64,
    /// Of a hundred messages one is as slow.
    pub dispatch_ms_p99: f64,
    /// Dials, by messages.
    pub dials_per_message: f64,
    /// The share of dials whose link never carried a message.
    pub wasted: f64,
    /// One for each miss and a tenth for each dial, by messages.
    pub cost: f64,
}

/// What is compared.
#[derive(Clone, Debug)]
pub struct Comparison<'a> {
    /// Who writes to whom.
    pub trace: &'a Trace,
    /// Links of a server at most, for the predictor.
    pub budget: usize,
    /// How long they are.
    pub ways: Ways,
    /// Averaged over.
    pub seeds: Vec<u64>,
}

impl Comparison<'_> {
    /// Both sides with so many servers.
    pub fn at(&self, servers: usize) -> Size {
        let [mesh, predictor] = [Policy::Mesh, Policy::Predictor].map(|policy| {
            let sides: Vec<Side> = self
                .seeds
                .iter()
                .map(|&seed| self.side(servers, policy, seed))
                .collect();
            mean(&sides)
        });
        Size {
            servers,
            mesh,
            predictor,
        }
    }

    /// With how many servers a mesh costs more than the predictor for the first time, between a number where it doesn't and one where it does.
    pub fn crossing(&self, mut cheaper: usize, mut dearer: usize) -> usize {
        while dearer - cheaper > 1 {
            let middle = cheaper + (dearer - cheaper) / 2;
            let size = self.at(middle);
            if size.mesh.cost > size.predictor.cost {
                dearer = middle;
            } else {
                cheaper = middle;
            }
        }
        dearer
    }

    fn side(&self, servers: usize, policy: Policy, seed: u64) -> Side {
        let setup = Setup {
            nodes: servers,
            budget: self.budget,
            policy,
            seed,
        };
        let mut direct = 0u64;
        let summary = play(self.trace, setup, &mut |_, verdict| {
            let Verdict::Remote { link, known } = verdict else {
                return;
            };
            let known = known || policy == Policy::Mesh;
            direct += u64::from(known && link == Readiness::Ready);
        });
        Side::new(
            servers,
            &summary,
            direct as f64 / summary.messages.max(1) as f64,
            self.ways,
        )
    }
}

impl Side {
    fn new(servers: usize, summary: &Summary, direct: f64, ways: Ways) -> Side {
        let quantile = |slow: f64| {
            if direct >= 1.0 - slow {
                ways.direct_ms
            } else {
                ways.region_ms
            }
        };
        let dials = summary.dials_per_message * summary.messages as f64;
        Side {
            links_mean: summary.links_mean,
            links_max: summary.links_max,
            links_all: summary.links_mean * servers as f64 / 2.0,
            hit: summary.hit,
            direct,
            dispatch_ms_mean: direct * ways.direct_ms + (1.0 - direct) * ways.region_ms,
            dispatch_ms_p50: quantile(0.5),
            dispatch_ms_p99: quantile(0.01),
            dials_per_message: summary.dials_per_message,
            wasted: summary.wasted_dials as f64 / dials.max(1.0),
            cost: 1.0 - summary.hit + DIAL_COST * summary.dials_per_message,
        }
    }
}

/// The average; of the most links the most, of the percentiles the median.
fn mean(of: &[Side]) -> Side {
    let mean = |field: fn(&Side) -> f64| of.iter().map(field).sum::<f64>() / of.len().max(1) as f64;
    let median = |field: fn(&Side) -> f64| {
        let mut values: Vec<f64> = of.iter().map(field).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(0.0)
    };
    Side {
        links_mean: mean(|side| side.links_mean),
        links_max: of.iter().map(|side| side.links_max).max().unwrap_or(0),
        links_all: mean(|side| side.links_all),
        hit: mean(|side| side.hit),
        direct: mean(|side| side.direct),
        dispatch_ms_mean: mean(|side| side.dispatch_ms_mean),
        dispatch_ms_p50: median(|side| side.dispatch_ms_p50),
        dispatch_ms_p99: median(|side| side.dispatch_ms_p99),
        dials_per_message: mean(|side| side.dials_per_message),
        wasted: mean(|side| side.wasted),
        cost: mean(|side| side.cost),
    }
}

/// Links of a server, messages that went direct, and how long messages were under way, each over the number of servers.
pub fn svg(sizes: &[Size]) -> String {
    let counts: Vec<usize> = sizes.iter().map(|size| size.servers).collect();
    let lines = |value: fn(&Side) -> f64| {
        let line = |name: &str, side: fn(&Size) -> &Side| Line {
            name: name.into(),
            points: sizes.iter().map(|size| (size.servers, value(side(size)))).collect(),
        };
        vec![
            line("mesh", |size| &size.mesh),
            line("predictor", |size| &size.predictor),
        ]
    };
    let slowest = sizes
        .iter()
        .map(|size| size.predictor.dispatch_ms_mean.max(size.mesh.dispatch_ms_mean));
    let slowest = slowest.fold(1.0, f64::max);
    let links = Panel {
        title: "links of a server, over servers",
        axis: Axis::Logarithmic,
        lines: lines(|side| side.links_mean),
    };
    let direct = Panel {
        title: "share of messages that went direct",
        axis: Axis::Linear { max: 1.0 },
        lines: lines(|side| side.direct),
    };
    let dispatch = Panel {
        title: "ms from server to server, on average",
        axis: Axis::Linear {
            max: (slowest / 4.0).ceil() * 4.0,
        },
        lines: lines(|side| side.dispatch_ms_mean),
    };
    picture(&counts, &[links, direct, dispatch])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn comparison(trace: &Trace) -> Comparison<'_> {
        Comparison {
            trace,
            budget: 4,
            ways: Ways {
                direct_ms: 1.0,
                region_ms: 42.0,
            },
            seeds: vec![1, 2],
        }
    }

    #[test]
    fn a_mesh_is_all_direct_and_its_links_grow_with_the_servers_where_the_predictor_s_do_not() {
        let trace = Trace::synthetic(1, 200, 4_000);
        let [few, many] = [8, 64].map(|servers| comparison(&trace).at(servers));
        for size in [few, many] {
            assert_eq!((size.mesh.direct, size.mesh.dispatch_ms_p99), (1.0, 1.0));
            assert_eq!(size.mesh.links_max, size.servers - 1);
            assert!(size.predictor.links_max <= 4);
            assert!(size.predictor.direct <= size.predictor.hit);
            let slow = 1.0 - size.predictor.direct;
            assert!((size.predictor.dispatch_ms_mean - (1.0 + 41.0 * slow)).abs() < 1e-9);
        }
        assert!(
            few.mesh.cost < few.predictor.cost,
            "on few servers a mesh wins: {few:?}"
        );
    }

    #[test]
    fn where_a_mesh_stops_winning_is_found_to_the_server() {
        let trace = Trace::synthetic(1, 200, 2_000);
        let comparison = comparison(&trace);
        let first = comparison.crossing(4, 400);
        let [before, at] = [first - 1, first].map(|servers| comparison.at(servers));
        assert!(before.mesh.cost <= before.predictor.cost && at.mesh.cost > at.predictor.cost);
    }

    #[test]
    fn a_picture_has_both_lines_in_all_panels() {
        let trace = Trace::synthetic(1, 100, 500);
        let sizes = [4, 8, 16].map(|servers| comparison(&trace).at(servers));
        let text = svg(&sizes);
        assert_eq!(text.matches("<polyline").count(), 6);
        assert!(text.contains(">mesh</text>") && text.contains(">predictor</text>") && text.ends_with("</svg>\n"));
    }
}
