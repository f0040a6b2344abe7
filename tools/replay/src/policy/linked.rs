//! Every node's link cache, and what their decisions do to the links.

use std::time::Duration;

use trunkline_core::link::{Admission, LinkCache, Reason, Wish};
use trunkline_core::predictor::Worth;
use trunkline_wire::id::{DeviceKey, NodeId};
use trunkline_wire::time::Instant;

use crate::model::{Setup, World};

pub(super) struct Caches {
    caches: Vec<LinkCache>,
}

impl Caches {
    pub(super) fn new(setup: &Setup) -> Caches {
        Caches {
            caches: vec![LinkCache::new(setup.budget); setup.nodes],
        }
    }

    /// `from` would like a link to `to`.
    pub(super) fn wish(
        &mut self,
        now: u64,
        (from, to): (usize, usize),
        worth: Worth,
        half_life: Duration,
        by: Option<DeviceKey>,
        world: &mut World,
    ) {
        let now = Instant::from_micros(now.saturating_mul(1_000_000));
        let wish = |node: usize, by| Wish {
            node: name(node),
            reason: Reason::Send,
            worth,
            half_life,
            by,
        };
        match self.caches[from].wish(now, &wish(to, by)) {
            Admission::Kept | Admission::NotWorthIt | Admission::Full => return,
            Admission::Admitted => {}
            Admission::Replaces(gone) => self.drop(from, gone.node, world),
        }
        match self.caches[to].accept(now, &wish(from, None)) {
            Admission::Admitted => world.network.dial(from, to),
            Admission::Replaces(gone) => {
                self.drop(to, gone.node, world);
                world.network.dial(from, to);
            }
            Admission::Full => {
                self.caches[from].remove(name(to));
                world.network.dial_in_vain();
            }
            Admission::Kept | Admission::NotWorthIt => unreachable!("both ends agree about which links there are"),
        }
    }

    pub(super) fn withdraw(&mut self, from: usize, to: usize, by: DeviceKey) {
        self.caches[from].withdraw(name(to), by);
    }

    pub(super) fn used(&mut self, a: usize, b: usize) {
        self.caches[a].used(name(b));
        self.caches[b].used(name(a));
    }

    /// `node` has let its link to `other` go.
    fn drop(&mut self, node: usize, other: NodeId, world: &mut World) {
        let other = other.0 as usize;
        self.caches[other].remove(name(node)).expect("the other end has it too");
        world.network.drop(node, other);
    }
}

fn name(node: usize) -> NodeId {
    NodeId(node as u32)
}
