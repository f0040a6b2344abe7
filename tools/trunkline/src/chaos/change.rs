//! What an operator changes while faults go on: slots move, an instance goes and comes back. Drawn by seed, never what would be refused.

use std::fmt;

use fastrand::Rng;
use serde_json::{Value, json};

use crate::cluster::{REGIONS, is_edge, names};

/// One change, begun just before a fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A share of one region's slots moves to another's, in ten-thousandths.
    Share {
        /// From this region.
        from: &'static str,
        /// To this one.
        to: &'static str,
        /// How much of what it has.
        share: u32,
    },
    /// A node goes from its region.
    Remove(String),
    /// It comes back.
    Add(String),
}

/// Draws changes that follow on each other.
#[derive(Debug, Default)]
pub struct Changes {
    shares: usize,
    away: Option<String>,
}

impl Changes {
    /// The next one.
    pub fn next(&mut self, rng: &mut Rng) -> Change {
        if rng.bool() {
            // There and back in turn, so that no region runs out of slots.
            let (from, to) = (REGIONS[self.shares % 2], REGIONS[(self.shares + 1) % 2]);
            self.shares += 1;
            let share = rng.u32(1_000..6_000);
            return Change::Share { from, to, share };
        }
        match self.away.take() {
            Some(node) => Change::Add(node),
            None => {
                let instances: Vec<String> = names().filter(|name| !is_edge(name)).collect();
                let node = instances[rng.usize(..instances.len())].clone();
                self.away = Some(node.clone());
                Change::Remove(node)
            }
        }
    }
}

impl Change {
    /// For reports.
    pub fn kind(&self) -> &'static str {
        match self {
            Change::Share { .. } => "slots",
            Change::Remove(_) | Change::Add(_) => "instance",
        }
    }

    /// What control is asked for.
    pub fn request(&self) -> Value {
        match self {
            Change::Share { from, to, share } => {
                json!({ "op": "move", "what": { "share": { "from": from, "share": share } }, "to": to })
            }
            // One of four at a time, and another soon: what is asked for here is meant.
            Change::Remove(node) => {
                json!({ "op": "remove-instance", "node": node, "region": region_of(node), "force": true })
            }
            Change::Add(node) => json!({ "op": "add-instance", "node": node, "region": region_of(node) }),
        }
    }
}

/// The region that an instance is named after.
pub(super) fn region_of(node: &str) -> &str {
    node.rsplit_once('-').map_or(node, |(region, _)| region)
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Share { from, to, share } => write!(f, "{} % of {from} moves to {to}", share / 100),
            Change::Remove(node) => write!(f, "{node} goes from its region"),
            Change::Add(node) => write!(f, "{node} comes back to its region"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_most_one_instance_is_away_and_slots_go_there_and_back() {
        let (mut changes, mut rng) = (Changes::default(), Rng::with_seed(1));
        let (mut away, mut from) = (None, REGIONS[0]);
        for _ in 0..200 {
            match changes.next(&mut rng) {
                Change::Share { from: region, to, .. } => {
                    assert_eq!(region, from);
                    from = to;
                }
                Change::Remove(node) => {
                    assert!(away.is_none() && !is_edge(&node));
                    away = Some(node);
                }
                Change::Add(node) => assert_eq!(away.take(), Some(node)),
            }
        }
    }
}
