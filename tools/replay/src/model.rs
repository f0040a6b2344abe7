//! The model that a trace is played through.
//!
//! - There are so many connection servers. A device attaches at a random one 10 s before its first appearance; a sender that last sent more
//!   than 1,800 s ago attaches at a random one anew 2 s before its next message. Which ones is a matter of the seed alone.
//! - Dials act at once. Links are per pair of nodes and serve both ways; a node has at most so many, and either end's eviction drops the link.
//! - Messages within one node don't count.
//! - A policy sees its node's own traffic, the attaching devices' histories, and locations that it asks for at that moment.
//!
//! A message is a hit if the link between its two nodes is up when it's sent. A miss costs one, a dial a tenth.

use fastrand::Rng;
use serde::Serialize;

use crate::network::Network;
use crate::policy::{Policy, Rules};
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

/// A device attaches so long before its first appearance.
const FIRST_ATTACH_SECONDS: u64 = 10;
/// A sender that was silent for longer attaches anew,
const SILENT_SECONDS: u64 = 1_800;
/// so long before its next message.
const ATTACH_SECONDS: u64 = 2;

/// What the policy decides about.
pub(crate) struct World {
    /// Which node each device is at; none before it appears.
    pub(crate) places: Vec<Option<usize>>,
    pub(crate) network: Network,
    /// How often anybody has attached: later sessions have higher numbers.
    pub(crate) sessions: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Attach { device: usize },
    Message { index: usize },
}

/// Plays the trace.
pub fn run(trace: &Trace, setup: Setup) -> Summary {
    let mut rng = Rng::with_seed(setup.seed);
    let mut world = World {
        places: vec![None; trace.devices().len()],
        network: Network::new(setup.nodes),
        sessions: 0,
    };
    let mut rules = Rules::new(&setup, trace.devices().len(), &mut world);
    let (mut messages, mut hits, mut known, mut links) = (0u64, 0u64, 0u64, 0.0);
    for (now, event) in events(trace) {
        match event {
            Event::Attach { device } => {
                let node = rng.usize(..setup.nodes);
                let left = world.places[device].replace(node);
                world.sessions += 1;
                rules.attached(now, device, left, &mut world);
            }
            Event::Message { index } => {
                let (sender, recipient) = trace.messages()[index];
                let [from, to] = [sender, recipient].map(|device| world.places[device].expect("it has appeared"));
                if from != to {
                    messages += 1;
                    known += u64::from(rules.knows(from, recipient, to));
                    hits += u64::from(world.network.carry(from, to));
                    links += world.network.links_mean();
                }
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

/// All that happens, in the order of time; who attaches at a message's second is there before it.
fn events(trace: &Trace) -> Vec<(u64, Event)> {
    let mut events = Vec::new();
    let mut last_sent: Vec<Option<u64>> = vec![None; trace.devices().len()];
    let mut appeared = vec![false; trace.devices().len()];
    for (index, (&(sender, recipient), &at)) in trace.messages().iter().zip(trace.times()).enumerate() {
        for device in [sender, recipient] {
            if !std::mem::replace(&mut appeared[device], true) {
                let event = Event::Attach { device };
                events.push((at.saturating_sub(FIRST_ATTACH_SECONDS), event));
            }
        }
        if last_sent[sender].is_some_and(|last| at - last > SILENT_SECONDS) {
            let event = Event::Attach { device: sender };
            events.push((at.saturating_sub(ATTACH_SECONDS), event));
        }
        last_sent[sender] = Some(at);
        events.push((at, Event::Message { index }));
    }
    events.sort_by_key(|&(at, event)| (at, matches!(event, Event::Message { .. })));
    events
}

#[cfg(test)]
mod tests;
