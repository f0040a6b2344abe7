//! Which fault comes next, and what an operator changes meanwhile, by seed: first each kind of fault once, in a random order; then any.

use std::time::Duration;

use fastrand::Rng;

use super::change::{Change, Changes};
use super::network::End;
use crate::cluster::{REGIONS, is_edge, names};

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Kind {
    /// SIGKILL of a node, which is started again.
    Kill,
    /// SIGKILL of all instances of a region at once.
    Region,
    /// SIGSTOP of a node, then SIGCONT.
    Pause,
    /// A node's cable is taken out.
    Unplug,
    /// Two ends don't reach each other.
    Cut,
    /// One end doesn't reach the other, which reaches it.
    OneWay,
    /// What a node sends is slow.
    Slow,
    /// SIGKILL of control; it is started again.
    Control,
    /// The disk of a node or of control is full.
    Disk,
    /// A connection server has no descriptors left, and mute connections ask for more.
    Descriptors,
    /// A connection server is drained, and taken back.
    Drain,
    /// SIGTERM of a node, which is started again.
    Restart,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 12] = [
        Kind::Kill,
        Kind::Region,
        Kind::Pause,
        Kind::Unplug,
        Kind::Cut,
        Kind::OneWay,
        Kind::Slow,
        Kind::Control,
        Kind::Disk,
        Kind::Descriptors,
        Kind::Drain,
        Kind::Restart,
    ];
}

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// See [`Kind::Kill`] and [`Kind::Region`].
    Kill(Vec<String>),
    /// See [`Kind::Pause`].
    Pause(String),
    /// See [`Kind::Unplug`].
    Unplug(String),
    /// See [`Kind::Cut`].
    Cut(End, End),
    /// See [`Kind::OneWay`]: from the first to the second.
    OneWay(End, End),
    /// See [`Kind::Slow`].
    Slow(String),
    /// See [`Kind::Control`].
    Control,
    /// See [`Kind::Disk`].
    Disk(String),
    /// See [`Kind::Descriptors`].
    Descriptors(String),
    /// See [`Kind::Drain`].
    Drain(String),
    /// See [`Kind::Restart`].
    Restart(String),
}

/// A fault, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Round {
    /// What.
    pub fault: Fault,
    /// What is begun just before.
    pub change: Change,
    /// Which kind it was drawn as.
    pub kind: Kind,
    /// How long it lasts.
    pub hold: Duration,
}

/// The faults of a run.
pub struct Plan {
    rng: Rng,
    kinds: Vec<Kind>,
    /// Kinds that have not been drawn yet.
    first: Vec<Kind>,
    changes: Changes,
}

impl Plan {
    /// Of these kinds.
    pub fn new(seed: u64, kinds: &[Kind]) -> Plan {
        let mut rng = Rng::with_seed(seed);
        let mut first = kinds.to_vec();
        rng.shuffle(&mut first);
        Plan {
            rng,
            kinds: kinds.to_vec(),
            first,
            changes: Changes::default(),
        }
    }

    /// The next one.
    pub fn round(&mut self) -> Round {
        let kind = match self.first.pop() {
            Some(kind) => kind,
            None => self.kinds[self.rng.usize(..self.kinds.len())],
        };
        // Shorter than the ten seconds after which a silent node may be called gone, so that nobody may be called offline for it.
        let hold = Duration::from_millis(self.rng.u64(500..=HOLD_MS_MAX));
        Round {
            change: self.changes.next(&mut self.rng),
            fault: self.fault(kind),
            kind,
            hold,
        }
    }

    fn fault(&mut self, kind: Kind) -> Fault {
        match kind {
            Kind::Kill => Fault::Kill(vec![self.node()]),
            Kind::Region => {
                let region = REGIONS[self.rng.usize(..REGIONS.len())];
                Fault::Kill(names().filter(|name| name.starts_with(region)).collect())
            }
            Kind::Pause => Fault::Pause(self.node()),
            Kind::Unplug => Fault::Unplug(self.node()),
            Kind::Cut => {
                let (a, b) = self.pair();
                Fault::Cut(a, b)
            }
            Kind::OneWay => {
                let (a, b) = self.pair();
                Fault::OneWay(a, b)
            }
            Kind::Slow => Fault::Slow(self.node()),
            Kind::Control => Fault::Control,
            Kind::Disk => {
                let place = self.rng.usize(..=names().count());
                Fault::Disk(names().nth(place).unwrap_or_else(|| "control".into()))
            }
            Kind::Descriptors => Fault::Descriptors(self.edge()),
            Kind::Drain => Fault::Drain(self.edge()),
            Kind::Restart => Fault::Restart(self.node()),
        }
    }

    fn node(&mut self) -> String {
        let place = self.rng.usize(..names().count());
        names().nth(place).expect("within the count")
    }

    fn edge(&mut self) -> String {
        let edges: Vec<String> = names().filter(|name| is_edge(name)).collect();
        edges[self.rng.usize(..edges.len())].clone()
    }

    /// Two different ends that talk to each other.
    fn pair(&mut self) -> (End, End) {
        let edge = self.edge();
        let other = if self.rng.u8(..4) == 0 {
            End::Devices
        } else {
            let others: Vec<String> = names().filter(|name| *name != edge).collect();
            End::Process(others[self.rng.usize(..others.len())].clone())
        };
        let edge = End::Process(edge);
        if self.rng.bool() { (edge, other) } else { (other, edge) }
    }
}

/// The longest fault, in milliseconds.
const HOLD_MS_MAX: u64 = 5_000;

impl Fault {
    /// The connection servers that it cuts off from their devices, wholly or in part.
    pub fn edges(&self) -> Vec<String> {
        let named: Vec<&String> = match self {
            // A device learns of that by a reset, or is told, at once.
            Fault::Kill(_) | Fault::Drain(_) | Fault::Restart(_) => Vec::new(),
            Fault::Pause(name) | Fault::Unplug(name) | Fault::Slow(name) | Fault::Descriptors(name) => vec![name],
            Fault::Cut(End::Devices, End::Process(name)) | Fault::Cut(End::Process(name), End::Devices) => vec![name],
            Fault::OneWay(End::Devices, End::Process(name)) | Fault::OneWay(End::Process(name), End::Devices) => {
                vec![name]
            }
            Fault::Cut(..) | Fault::OneWay(..) | Fault::Control | Fault::Disk(_) => Vec::new(),
        };
        named.into_iter().filter(|name| is_edge(name)).cloned().collect()
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Fault::Kill(names) => write!(f, "SIGKILL of {}", names.join(" and ")),
            Fault::Pause(name) => write!(f, "SIGSTOP of {name}"),
            Fault::Unplug(name) => write!(f, "{name} unplugged"),
            Fault::Cut(a, b) => write!(f, "{a} and {b} cut apart"),
            Fault::OneWay(from, to) => write!(f, "nothing from {from} to {to}"),
            Fault::Slow(name) => write!(f, "{name} sends slowly"),
            Fault::Control => write!(f, "control down"),
            Fault::Disk(name) => write!(f, "the disk of {name} full"),
            Fault::Descriptors(name) => write!(f, "{name} out of descriptors"),
            Fault::Drain(name) => write!(f, "{name} drained"),
            Fault::Restart(name) => write!(f, "SIGTERM of {name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_comes_once_before_any_comes_twice_and_a_seed_makes_the_same_plan() {
        for seed in 0..20 {
            let (mut plan, mut same) = (Plan::new(seed, &Kind::ALL), Plan::new(seed, &Kind::ALL));
            let mut kinds = Vec::new();
            for _ in 0..Kind::ALL.len() {
                let round = plan.round();
                assert_eq!(round, same.round());
                assert!(round.hold <= Duration::from_millis(HOLD_MS_MAX));
                kinds.push(round.kind);
            }
            kinds.sort_unstable();
            assert_eq!(kinds, Kind::ALL);
            for _ in 0..100 {
                plan.round();
            }
        }
    }
}
