//! Who decides which links there are.

mod linked;
mod lru;
mod scored;

use std::fmt;
use std::str::FromStr;

use trunkline_core::archive::Archive;
use trunkline_core::constants::{AFFINITY_LISTS_MAX, LOCATIONS_MAX};
use trunkline_core::location::Locations;
use trunkline_core::predictor::{Affinity, FORESEEN, Foresight, Habits, Predictor};
use trunkline_wire::affinity::AffinityVersion;
use trunkline_wire::id::{DeviceKey, Epoch, NodeId, PartnerKey};

use self::linked::Caches;
use self::lru::Lru;
use self::scored::Histories;
pub use self::scored::Scorer;
use crate::model::{Setup, World};

/// What may be played.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// No links.
    None,
    /// Dials after each miss; the link that was longest without a message goes.
    Lru,
    /// All links, from the start, whatever the budget says.
    Mesh,
    /// What nodes run.
    Predictor,
    /// One idea alone, over the same link cache.
    Scored(Scorer),
}

impl Policy {
    /// All of them, in the order of a table.
    pub fn all() -> impl Iterator<Item = Policy> {
        let known = [Policy::None, Policy::Mesh, Policy::Lru];
        let scored = Scorer::ALL.into_iter().map(Policy::Scored);
        known.into_iter().chain(scored).chain([Policy::Predictor])
    }

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Policy::None => "none",
            Policy::Lru => "lru",
            Policy::Mesh => "mesh",
            Policy::Predictor => "predictor",
            Policy::Scored(scorer) => scorer.name(),
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Policy {
    type Err = String;

    fn from_str(text: &str) -> Result<Policy, String> {
        Policy::all().find(|policy| policy.name() == text).ok_or_else(|| {
            let names: Vec<&str> = Policy::all().map(Policy::name).collect();
            format!("use one of {}", names.join(", "))
        })
    }
}

/// A policy at work, at all nodes.
pub(crate) enum Rules {
    Fixed,
    Lru(Lru),
    Predictor(Box<Nodes>),
    Scored(Box<Histories>),
}

impl Rules {
    pub(crate) fn new(setup: &Setup, devices: usize, world: &mut World) -> Rules {
        match setup.policy {
            Policy::None => Rules::Fixed,
            Policy::Lru => Rules::Lru(Lru::new(setup)),
            Policy::Mesh => {
                for a in 0..setup.nodes {
                    for b in a + 1..setup.nodes {
                        world.network.dial(a, b);
                    }
                }
                Rules::Fixed
            }
            Policy::Predictor => Rules::Predictor(Box::new(Nodes::new(setup, devices))),
            Policy::Scored(scorer) => Rules::Scored(Box::new(Histories::new(setup, scorer, devices))),
        }
    }

    /// A device has attached; it was at `left` before.
    pub(crate) fn attached(&mut self, now: u64, device: usize, left: Option<usize>, world: &mut World) {
        match self {
            Rules::Fixed | Rules::Lru(_) => {}
            Rules::Predictor(nodes) => nodes.attached(now, device, left, world),
            Rules::Scored(histories) => histories.decide(now, device, world),
        }
    }

    /// A message has gone its way.
    pub(crate) fn message(&mut self, now: u64, sender: usize, recipient: usize, world: &mut World) {
        match self {
            Rules::Fixed => {}
            Rules::Lru(lru) => lru.message(now, sender, recipient, world),
            Rules::Predictor(nodes) => nodes.message(now, sender, recipient, world),
            Rules::Scored(histories) => histories.message(now, sender, recipient, world),
        }
    }

    /// Whether `node` knows that `device` is at `place`.
    pub(crate) fn knows(&self, node: usize, device: usize, place: usize) -> bool {
        match self {
            Rules::Fixed | Rules::Lru(_) | Rules::Scored(_) => false,
            Rules::Predictor(nodes) => nodes.knows(node, device, place),
        }
    }
}

/// What nodes run: a predictor, a link cache and the locations that were learnt, at each of them.
pub(crate) struct Nodes {
    predictors: Vec<Predictor>,
    locations: Vec<Locations>,
    caches: Caches,
    /// What the devices' regions remember of them.
    archive: Archive,
    /// By device; what its region handed out when it attached, and what its session has learnt since.
    habits: Vec<Habits>,
    foresights: Vec<Foresight>,
}

impl Nodes {
    fn new(setup: &Setup, devices: usize) -> Nodes {
        Nodes {
            predictors: vec![Predictor::new(); setup.nodes],
            locations: (0..setup.nodes).map(|_| Locations::new(LOCATIONS_MAX)).collect(),
            caches: Caches::new(setup),
            archive: Archive::new(AFFINITY_LISTS_MAX),
            habits: vec![Habits::default(); devices],
            foresights: Vec::new(),
        }
    }

    fn attached(&mut self, now: u64, device: usize, left: Option<usize>, world: &mut World) {
        let time = seconds(now);
        if let Some(left) = left {
            self.predictors[left].detached(time, &mut self.habits[device], &mut self.foresights);
            // The trace goes by seconds: there is time between any two messages.
            self.predictors[left].learn();
            for foresight in self.foresights.drain(..) {
                if let Some(node) = world.places[device_of(foresight.device)] {
                    self.caches.withdraw(left, node, key(device));
                }
            }
            let version = AffinityVersion {
                clock: world.sessions,
                counter: 0,
            };
            let told = self.habits[device].affinity().digest();
            self.archive.keep(key(device), version, &told);
        }
        // The region hands out what it remembers, and nothing else.
        self.habits[device] = Habits::default();
        if let Some((version, list)) = self.archive.recall(key(device)) {
            self.habits[device].recall(version, &Affinity::recall(&list));
        }
        let node = world.places[device].expect("it has just attached");
        self.predictors[node].attached(time, &mut self.habits[device], &mut self.foresights);
        self.act(now, node, device, world);
    }

    fn message(&mut self, now: u64, sender: usize, recipient: usize, world: &mut World) {
        let [from, to] = [sender, recipient].map(|device| world.places[device].expect("it has appeared"));
        if from != to {
            self.caches.used(from, to);
            // The region's hint, if it went that way.
            self.learn(from, recipient, to, world);
        }
        let time = seconds(now);
        self.predictors[from].sent(
            time,
            &mut self.habits[sender],
            key(recipient).partner(),
            &mut self.foresights,
        );
        self.act(now, from, sender, world);
        self.predictors[from].learn();
        self.predictors[to].delivered(
            time,
            &mut self.habits[recipient],
            key(sender).partner(),
            &mut self.foresights,
        );
        self.act(now, to, recipient, world);
    }

    /// Finds out where the foreseen devices are, and wishes for links there.
    fn act(&mut self, now: u64, node: usize, device: usize, world: &mut World) {
        let half_life = self.predictors[node].half_life();
        for at in 0..self.foresights.len() {
            let Foresight {
                device: foreseen,
                worth,
            } = self.foresights[at];
            let Some(place) = world.places[device_of(foreseen)] else {
                continue;
            };
            self.learn(node, device_of(foreseen), place, world);
            if place != node && worth >= FORESEEN {
                self.caches
                    .wish(now, (node, place), worth, half_life, Some(key(device)), world);
            }
        }
        self.foresights.clear();
    }

    fn learn(&mut self, node: usize, device: usize, place: usize, world: &World) {
        let epoch = Epoch {
            clock: world.sessions,
            node: NodeId(place as u32),
        };
        self.locations[node].learn(key(device), epoch);
    }

    fn knows(&self, node: usize, device: usize, place: usize) -> bool {
        let known = self.locations[node].peek(key(device));
        known.is_some_and(|epoch| epoch.node == NodeId(place as u32))
    }
}

/// A device's key in the model: different devices have different ones.
fn key(device: usize) -> DeviceKey {
    DeviceKey(device as u128 + 1)
}

fn device_of(key: PartnerKey) -> usize {
    key.0 as usize - 1
}

fn seconds(now: u64) -> u32 {
    u32::try_from(now).unwrap_or(u32::MAX)
}
