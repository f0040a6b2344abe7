//! The model that a trace is played through.
//!
//! - There are so many connection servers, and who is attached to which when is a matter of the trace and a seed alone: [`crate::schedule`].
//! - Dials act at once. Links are per pair of nodes and serve both ways; a node has at most so many, and either end's eviction drops the link.
//! - Messages within one node don't count.
//! - A policy sees its node's own traffic, the attaching devices' histories, and locations that it asks for at that moment.
//!
//! A message is a hit if the link between its two nodes is up when it's sent. A miss costs one, a dial a tenth.

use serde::Serialize;

use crate::network::Network;
use crate::policy::{Policy, Rules};
use crate::schedule::{Act, Step, schedule};
use crate::trace::Trace;

/// What is played.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// How many connection servers; at least 1.
    pub nodes: usize,
    /// How many links a node has at most.
    pub budget: usize,
    /// Who decides which.
    pub policy: Policy,
    /// Decides where devices attach.
    pub seed: u64,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Messages between two nodes.
    pub messages: u64,
    /// The share of them whose link was ready.
    pub hit: f64,
    /// The share of them whose sender's node knew where the recipient was.
    pub location_known: f64,
    /// Dials, by messages.
    pub dials_per_message: f64,
    /// Dials whose link never carried a message.
    pub wasted_dials: u64,
    /// Links of a node, on average over nodes and messages.
    pub links_mean: f64,
    /// The most links that a node had.
    pub links_max: usize,
    /// One for each miss and a tenth for each dial, by messages.
    pub cost: f64,
}

impl Summary {
    /// The average of runs; the most links of any.
    pub fn mean(of: &[Summary]) -> Summary {
        let mean = |field: fn(&Summary) -> f64| of.iter().map(field).sum::<f64>() / of.len().max(1) as f64;
        Summary {
            messages: mean(|run| run.messages as f64).round() as u64,
            hit: mean(|run| run.hit),
            location_known: mean(|run| run.location_known),
            dials_per_message: mean(|run| run.dials_per_message),
            wasted_dials: mean(|run| run.wasted_dials as f64).round() as u64,
            links_mean: mean(|run| run.links_mean),
            links_max: of.iter().map(|run| run.links_max).max().unwrap_or(0),
            cost: mean(|run| run.cost),
        }
    }
}

/// What a dial costs, where a miss costs one.
pub const DIAL_COST: f64 = 0.1;

/// What the policy decides about.
pub(crate) struct World {
    /// Which node each device is at; none before it appears.
    pub(crate) places: Vec<Option<usize>>,
    pub(crate) network: Network,
    /// How often anybody has attached: later sessions have higher numbers.
    pub(crate) sessions: u64,
}

/// How a message found its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Sender and recipient are at one node.
    Local,
    /// They are at two.
    Remote {
        /// Whether there was a link.
        link: Readiness,
        /// Whether the sender's node knew where the recipient was.
        known: bool,
    },
}

/// Whether a link was ready for a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// There was none.
    None,
    /// It had been dialled in the message's own second: in the model it's there at once, in a network perhaps not.
    New,
    /// It had been there before.
    Ready,
}

/// Plays the trace.
pub fn run(trace: &Trace, setup: Setup) -> Summary {
    play(trace, setup, &mut |_, _| {})
}

/// Plays the trace, and tells of every message, in order, how it found its way.
pub fn play(trace: &Trace, setup: Setup, tell: &mut dyn FnMut(usize, Verdict)) -> Summary {
    let mut world = World {
        places: vec![None; trace.devices().len()],
        network: Network::new(setup.nodes),
        sessions: 0,
    };
    let mut rules = Rules::new(&setup, trace.devices().len(), &mut world);
    let (mut messages, mut hits, mut known, mut links) = (0u64, 0u64, 0u64, 0.0);
    for Step { at: now, act } in schedule(trace, setup.nodes, setup.seed) {
        world.network.turn_to(now);
        match act {
            Act::Attach { device, node, .. } => {
                let left = world.places[device].replace(node);
                world.sessions += 1;
                rules.attached(now, device, left, &mut world);
            }
            Act::Message { index, .. } => {
                let (sender, recipient) = trace.messages()[index];
                let [from, to] = [sender, recipient].map(|device| world.places[device].expect("it has appeared"));
                let verdict = if from == to {
                    Verdict::Local
                } else {
                    let (link, is_known) = (world.network.carry(from, to), rules.knows(from, recipient, to));
                    messages += 1;
                    known += u64::from(is_known);
                    hits += u64::from(link != Readiness::None);
                    links += world.network.links_mean();
                    Verdict::Remote { link, known: is_known }
                };
                tell(index, verdict);
                rules.message(now, sender, recipient, &mut world);
            }
        }
    }
    let share = |count: u64| count as f64 / messages.max(1) as f64;
    let (hit, dials_per_message) = (share(hits), share(world.network.dials()));
    Summary {
        messages,
        hit,
        location_known: share(known),
        dials_per_message,
        wasted_dials: world.network.wasted(),
        links_mean: links / messages.max(1) as f64,
        links_max: world.network.links_max(),
        cost: 1.0 - hit + DIAL_COST * dials_per_message,
    }
}

#[cfg(test)]
mod tests;
