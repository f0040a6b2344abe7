//! The policy of most systems: a link to whom one has just sent to; the one that was longest without a message goes.

use crate::model::{Setup, World};

pub(crate) struct Lru {
    budget: usize,
    /// Of each node: who it is linked to, the most recently used last.
    links: Vec<Vec<usize>>,
}

impl Lru {
    pub(super) fn new(setup: &Setup) -> Lru {
        Lru {
            budget: setup.budget,
            links: vec![Vec::new(); setup.nodes],
        }
    }

    pub(super) fn message(&mut self, _now: u64, sender: usize, recipient: usize, world: &mut World) {
        let [a, b] = [sender, recipient].map(|device| world.places[device].expect("it has appeared"));
        if a == b || self.budget == 0 {
            return;
        }
        if world.network.is_linked(a, b) {
            self.forget(a, b);
        } else {
            for node in [a, b] {
                if self.links[node].len() >= self.budget {
                    let oldest = self.links[node][0];
                    self.forget(node, oldest);
                    world.network.drop(node, oldest);
                }
            }
            world.network.dial(a, b);
        }
        self.links[a].push(b);
        self.links[b].push(a);
    }

    fn forget(&mut self, a: usize, b: usize) {
        self.links[a].retain(|&node| node != b);
        self.links[b].retain(|&node| node != a);
    }
}
