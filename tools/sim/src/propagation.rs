//! What it costs to let the cluster know that a device has connected, and what it costs not to know yet: ours beside the design that
//! it replaces, in which every messaging server is told of every connect.
//!
//! Ours are the deployed routers ([`regional`]). The other ([`global`]) is the least that such a design can be: the deployed table of
//! presence at every server, an update to each, and the deployed waits between two tries for a message whose recipient is not known
//! yet. Both have the same connects, messages, delays and stalls, by seed, and the same cost of a frame at either end.

mod global;
mod regional;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use fastrand::Rng;
use trunkline_net::sim::WorldOptions;
use trunkline_wire::time::Instant;

/// Which design.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Design {
    /// The instances of the device's region are told.
    Regional,
    /// Every server is told.
    Global,
}

/// How large an experiment is.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Connection servers, which take messages in as well.
    pub servers: usize,
    /// Devices that connect within [`SPAN`], each of which is written to at once by somebody at another server.
    pub connects: usize,
    /// What everything else follows from.
    pub seed: u64,
}

/// What one experiment came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Devices that connected.
    pub connects: u64,
    /// Updates that were sent because of them.
    pub updates: u64,
    /// Messages to devices that have just connected.
    pub messages: u64,
    /// Of these, those for which no way was known when they came.
    pub stranded: u64,
    /// Of these, those that were reported offline or never arrived.
    pub lost: u64,
    /// From a message's arrival at its sender's server until it is written to its recipient, in microseconds, ascending.
    pub delays_us: Vec<u64>,
    /// The most records that one server holds.
    pub records_max: u64,
}

impl Outcome {
    /// The delay of so many of a thousand messages.
    pub fn delay_us(&self, thousandth: usize) -> u64 {
        let last = self.delays_us.len().saturating_sub(1);
        self.delays_us.get(last * thousandth / 1000).copied().unwrap_or(0)
    }

    /// Bytes of records at the server that holds most of them, if each server has this many devices.
    pub fn record_bytes(&self, plan: &Plan, devices_a_server: u64) -> u64 {
        let devices = plan.servers as u64 * devices_a_server;
        let share = u128::from(self.records_max) * u128::from(devices) / u128::from(self.connects.max(1));
        share as u64 * trunkline_core::presence::RECORD_BYTES as u64
    }
}

/// Plays one experiment.
pub fn run(design: Design, plan: &Plan) -> Outcome {
    let script = Script::new(plan);
    match design {
        Design::Regional => regional::run(plan, &script),
        Design::Global => global::run(plan, &script),
    }
}

/// One device's connect, and what follows.
#[derive(Clone, Copy, Debug)]
struct Connect {
    at: Instant,
    server: usize,
    /// Where its correspondent is.
    sender: usize,
    /// From the welcome until the correspondent's message is at that server: two ways over the devices' network, and a thought.
    answered_after: Duration,
}

/// What users do, the same for both designs.
struct Script {
    connects: Vec<Connect>,
}

impl Script {
    fn new(plan: &Plan) -> Script {
        let mut rng = Rng::with_seed(plan.seed);
        let mut wire = Wire::new(plan.seed ^ 0x6465_7669_6365);
        let connects = (0..plan.connects).map(|index| {
            let server = rng.usize(..plan.servers);
            let other = (server + rng.usize(1..plan.servers.max(2))) % plan.servers;
            let at = START + SPAN * index as u32 / plan.connects as u32;
            Connect {
                at,
                server,
                sender: other,
                answered_after: wire.travel() + wire.travel() + Duration::from_micros(rng.u64(..THOUGHT_MAX_US)),
            }
        });
        Script {
            connects: connects.collect(),
        }
    }
}

/// Delays of the network between hosts, and the order of what one sends to another.
struct Wire {
    rng: Rng,
    options: WorldOptions,
    last: BTreeMap<(usize, usize), Instant>,
    /// Until when each node is busy with what came.
    busy: BTreeMap<usize, Instant>,
}

impl Wire {
    fn new(seed: u64) -> Wire {
        Wire {
            rng: Rng::with_seed(seed),
            options: WorldOptions::default(),
            last: BTreeMap::new(),
            busy: BTreeMap::new(),
        }
    }

    /// How long one frame takes.
    fn travel(&mut self) -> Duration {
        let WorldOptions { latency, stall_max, .. } = self.options;
        let mut span = latency.base + self.up_to(latency.jitter);
        if self.rng.u32(..self.options.stall_one_in) == 0 {
            span += self.up_to(stall_max);
        }
        span
    }

    /// When the `nth` frame of those that leave at `now` is handled at the other end, behind what came there before.
    fn deliver(&mut self, now: Instant, nth: usize, from: usize, to: usize) -> Instant {
        let arrives = now + FRAME_COST * nth as u32 + self.travel();
        let last = self.last.entry((from, to)).or_insert(arrives);
        *last = arrives.max(*last);
        *last
    }

    /// When a frame that arrives at `at` has been handled.
    fn handle(&mut self, at: Instant, node: usize) -> Instant {
        let busy = self.busy.entry(node).or_insert(at);
        *busy = at.max(*busy) + FRAME_COST;
        *busy
    }

    fn up_to(&mut self, most: Duration) -> Duration {
        Duration::from_micros(self.rng.u64(..=most.as_micros() as u64))
    }
}

/// What happens when, in the order of time and then of scheduling.
struct Agenda<T> {
    due: BinaryHeap<Reverse<(Instant, u64)>>,
    what: BTreeMap<u64, T>,
    count: u64,
}

impl<T> Agenda<T> {
    fn new() -> Agenda<T> {
        Agenda {
            due: BinaryHeap::new(),
            what: BTreeMap::new(),
            count: 0,
        }
    }

    fn put(&mut self, at: Instant, what: T) {
        self.count += 1;
        self.due.push(Reverse((at, self.count)));
        self.what.insert(self.count, what);
    }

    fn next(&mut self) -> Option<(Instant, T)> {
        let Reverse((at, number)) = self.due.pop()?;
        Some((at, self.what.remove(&number)?))
    }
}

/// When users begin: what is set up before has come to rest.
const START: Instant = Instant::from_micros(2_000_000);
/// Within which all devices connect.
pub const SPAN: Duration = Duration::from_secs(1);
/// How long anything may take after that.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a correspondent thinks before it writes to somebody of whom it has just heard.
const THOUGHT_MAX_US: u64 = 1_000;
/// What a frame costs at either end; of the order of what the steps of a message cost by measurement.
const FRAME_COST: Duration = Duration::from_micros(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn play(design: Design, servers: usize) -> Outcome {
        let (connects, seed) = (200, 1);
        run(
            design,
            &Plan {
                servers,
                connects,
                seed,
            },
        )
    }

    #[test]
    fn our_updates_are_the_region_s_instances_and_the_other_s_grow_with_the_servers() {
        for servers in [16, 64] {
            let (ours, other) = (play(Design::Regional, servers), play(Design::Global, servers));
            assert_eq!(ours.updates, 2 * ours.connects, "{servers} servers");
            assert_eq!(
                other.updates,
                (servers as u64 - 1) * other.connects,
                "{servers} servers"
            );
        }
    }

    #[test]
    fn nobody_is_stranded_with_ours_and_some_are_with_the_other() {
        let (ours, other) = (play(Design::Regional, 256), play(Design::Global, 256));
        assert_eq!((ours.messages, ours.stranded, ours.lost), (200, 0, 0));
        assert_eq!(ours.delays_us.len(), 200);
        assert!(other.stranded > 0);
        assert_eq!(other.messages, 200);
    }

    #[test]
    fn a_seed_is_an_outcome() {
        assert_eq!(play(Design::Regional, 32), play(Design::Regional, 32));
        assert_eq!(play(Design::Global, 32), play(Design::Global, 32));
    }
}
