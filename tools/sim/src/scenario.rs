//! What a run is made of: the kinds of faults, and the named mixes of them.

use crate::cluster::Spec;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// An instance of a region dies.
    KillInstance,
    /// A connection or messaging server dies.
    KillServer,
    /// All instances of a region die.
    KillRegion,
    /// The control plane dies.
    KillControl,
    /// One that offers bad maps takes its place.
    ReplaceControl,
    /// A node, or control, can't write to its disk any more, and dies a moment later: what it did without a write is lost.
    CrashUnwritten,
    /// A server is told to go, as by SIGTERM.
    DrainServer,
    /// An instance is.
    DrainInstance,
    /// Two hosts can't reach each other.
    Cut,
    /// One can't reach the other.
    CutOneWay,
    /// A device can't reach its server, or the other way round.
    CutDevice,
    /// A node can't reach any other, but its devices can reach it.
    Isolate,
    /// The nodes fall into two parts.
    Split,
    /// All connections of a host are reset.
    Reset,
    /// All devices lose their connections at once.
    Storm,
    /// A process stands still.
    Pause,
    /// A device's does.
    PauseDevice,
    /// A device stands still for long, and much is sent to it.
    Mute,
    /// A device sends much at once.
    Flood,
    /// What goes between a node and the others takes long.
    SlowNode,
    /// What goes between a device and the servers takes long.
    SlowDevice,
    /// A wall clock jumps.
    ClockJump,
    /// A wall clock goes wrong.
    ClockDrift,
    /// A node has no descriptors left.
    Descriptors,
    /// A node's disk is full.
    DiskFull,
    /// The control plane's store fails once.
    StoreFails,
    /// A device's program ends and starts anew.
    Churn,
    /// A device starts anew at another server, and the old one doesn't hear of it from the device, or from anybody.
    Roam,
    /// Somebody connects and says what no library would.
    Stranger,
    /// Slots move to another region.
    MoveSlots,
    /// A device moves to another region by itself.
    MoveDevice,
    /// The latest move is given up, if it still can be.
    AbortMove,
    /// A node is no longer to be an instance of its region.
    RemoveInstance,
    /// One is to be an instance again, or of another region as well.
    AddInstance,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 34] = [
        Kind::KillInstance,
        Kind::KillServer,
        Kind::KillRegion,
        Kind::KillControl,
        Kind::CrashUnwritten,
        Kind::DrainServer,
        Kind::DrainInstance,
        Kind::Cut,
        Kind::CutOneWay,
        Kind::CutDevice,
        Kind::Isolate,
        Kind::Split,
        Kind::Reset,
        Kind::Storm,
        Kind::Pause,
        Kind::PauseDevice,
        Kind::Mute,
        Kind::Flood,
        Kind::SlowNode,
        Kind::SlowDevice,
        Kind::ClockJump,
        Kind::ClockDrift,
        Kind::Descriptors,
        Kind::DiskFull,
        Kind::StoreFails,
        Kind::Churn,
        Kind::Roam,
        Kind::Stranger,
        Kind::MoveSlots,
        Kind::MoveDevice,
        Kind::AbortMove,
        Kind::RemoveInstance,
        Kind::AddInstance,
        Kind::ReplaceControl,
    ];

    /// For people and reports.
    pub fn name(self) -> &'static str {
        match self {
            Kind::KillInstance => "kill instance",
            Kind::KillServer => "kill server",
            Kind::KillRegion => "kill region",
            Kind::KillControl => "kill control",
            Kind::ReplaceControl => "replace control",
            Kind::CrashUnwritten => "crash unwritten",
            Kind::DrainServer => "drain server",
            Kind::DrainInstance => "drain instance",
            Kind::Cut => "cut",
            Kind::CutOneWay => "cut one way",
            Kind::CutDevice => "cut device",
            Kind::Isolate => "isolate",
            Kind::Split => "split",
            Kind::Reset => "reset",
            Kind::Storm => "storm",
            Kind::Pause => "pause",
            Kind::PauseDevice => "pause device",
            Kind::Mute => "mute",
            Kind::Flood => "flood",
            Kind::SlowNode => "slow node",
            Kind::SlowDevice => "slow device",
            Kind::ClockJump => "clock jump",
            Kind::ClockDrift => "clock drift",
            Kind::Descriptors => "descriptors",
            Kind::DiskFull => "disk full",
            Kind::StoreFails => "store fails",
            Kind::Churn => "churn",
            Kind::Roam => "roam",
            Kind::Stranger => "stranger",
            Kind::MoveSlots => "move slots",
            Kind::MoveDevice => "move device",
            Kind::AbortMove => "abort move",
            Kind::RemoveInstance => "remove instance",
            Kind::AddInstance => "add instance",
        }
    }
}

/// A named mix of faults: `swarm` draws one of its own for each seed, the others look for trouble of one sort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scenario {
    /// On the command line.
    pub name: &'static str,
    /// For people.
    pub about: &'static str,
    /// What happens; of `swarm`, what may.
    pub kinds: &'static [Kind],
    /// Between two faults, on average, in milliseconds: at least, at most.
    pub every_ms: (u64, u64),
    /// What its clusters are like.
    shape: Shape,
}

/// What a scenario's clusters have that others needn't.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Drawn,
    OneInstance,
    TwoInstances,
    TwoRegions,
    TwoShards,
    NoControl,
    FewDevices,
}

/// What may happen in a swarm: all but what no operator would do to a cluster that is to go on as if nothing had been.
const SWARM: &[Kind] = Kind::ALL.split_last().expect("there are kinds").1;

impl Scenario {
    /// All of them; the first is the usual one.
    pub const ALL: &'static [Scenario] = &[
        Scenario {
            name: "swarm",
            about: "each seed its own mix of all kinds of faults",
            kinds: SWARM,
            every_ms: (300, 4_000),
            shape: Shape::Drawn,
        },
        Scenario {
            name: "roam",
            about: "devices come back elsewhere while their old servers are cut off, then heal",
            kinds: &[Kind::Roam, Kind::Roam, Kind::Churn, Kind::Isolate, Kind::CutDevice],
            every_ms: (150, 600),
            shape: Shape::TwoInstances,
        },
        Scenario {
            name: "deaths",
            about: "nodes of all kinds die and come back",
            kinds: &[
                Kind::KillInstance,
                Kind::KillServer,
                Kind::KillServer,
                Kind::KillRegion,
                Kind::Churn,
                Kind::Churn,
            ],
            every_ms: (400, 2_500),
            shape: Shape::Drawn,
        },
        Scenario {
            name: "partitions",
            about: "the network falls apart, wholly, partly and one way",
            kinds: &[
                Kind::Cut,
                Kind::CutOneWay,
                Kind::CutOneWay,
                Kind::Isolate,
                Kind::Split,
                Kind::Churn,
            ],
            every_ms: (300, 1_500),
            shape: Shape::Drawn,
        },
        Scenario {
            name: "pauses",
            about: "processes stand still and go on",
            kinds: &[Kind::Pause, Kind::Pause, Kind::PauseDevice, Kind::Churn],
            every_ms: (150, 600),
            shape: Shape::OneInstance,
        },
        Scenario {
            name: "clocks",
            about: "wall clocks jump and drift while devices come and go",
            kinds: &[Kind::ClockJump, Kind::ClockDrift, Kind::Churn, Kind::Roam, Kind::Storm],
            every_ms: (150, 800),
            shape: Shape::Drawn,
        },
        Scenario {
            name: "storms",
            about: "connections are reset, all at once and one by one",
            kinds: &[Kind::Storm, Kind::Reset, Kind::Reset, Kind::Churn, Kind::CutDevice],
            every_ms: (200, 1_000),
            shape: Shape::TwoShards,
        },
        Scenario {
            name: "slow",
            about: "devices that are slow, mute, or send too much",
            kinds: &[
                Kind::Mute,
                Kind::Flood,
                Kind::SlowDevice,
                Kind::PauseDevice,
                Kind::SlowNode,
            ],
            every_ms: (400, 1_500),
            shape: Shape::Drawn,
        },
        Scenario {
            name: "upgrade",
            about: "nodes are drained and come back, as when a cluster is upgraded",
            kinds: &[Kind::DrainServer, Kind::DrainInstance, Kind::Churn, Kind::KillControl],
            every_ms: (800, 3_000),
            shape: Shape::TwoInstances,
        },
        #[cfg(feature = "next-version")]
        Scenario {
            name: "mixed",
            about: "nodes, control and devices die, drain and come back as another version of the protocol, or as the same",
            kinds: &[
                Kind::KillInstance,
                Kind::KillServer,
                Kind::KillRegion,
                Kind::KillControl,
                Kind::DrainServer,
                Kind::DrainInstance,
                Kind::Isolate,
                Kind::Churn,
                Kind::Roam,
                Kind::MoveSlots,
            ],
            every_ms: (300, 2_000),
            shape: Shape::TwoInstances,
        },
        Scenario {
            name: "control",
            about: "the control plane, its store and the nodes' disks fail while nodes restart",
            kinds: &[
                Kind::KillControl,
                Kind::CrashUnwritten,
                Kind::StoreFails,
                Kind::DiskFull,
                Kind::KillServer,
                Kind::DrainServer,
            ],
            every_ms: (500, 2_500),
            shape: Shape::TwoInstances,
        },
        Scenario {
            name: "headless",
            about: "control is gone, and nodes of all kinds restart without it",
            kinds: &[
                Kind::KillInstance,
                Kind::KillServer,
                Kind::KillServer,
                Kind::Churn,
                Kind::Roam,
                Kind::Reset,
                Kind::Isolate,
            ],
            every_ms: (300, 2_000),
            shape: Shape::NoControl,
        },
        Scenario {
            name: "strangers",
            about: "somebody sends what no library would, and descriptors run out",
            kinds: &[Kind::Stranger, Kind::Stranger, Kind::Descriptors, Kind::Churn],
            every_ms: (100, 600),
            shape: Shape::Drawn,
        },
        Scenario {
            name: "moves",
            about: "slots and devices move between regions while nodes, regions and control die",
            kinds: &[
                Kind::MoveSlots,
                Kind::MoveSlots,
                Kind::MoveDevice,
                Kind::AbortMove,
                Kind::KillInstance,
                Kind::KillServer,
                Kind::KillRegion,
                Kind::KillControl,
                Kind::Isolate,
                Kind::Churn,
                Kind::Roam,
            ],
            every_ms: (200, 1_500),
            shape: Shape::TwoRegions,
        },
        Scenario {
            name: "members",
            about: "instances come and go, by order and by themselves, while nodes and control die and slots move",
            kinds: &[
                Kind::RemoveInstance,
                Kind::RemoveInstance,
                Kind::AddInstance,
                Kind::AddInstance,
                Kind::AbortMove,
                Kind::MoveSlots,
                Kind::KillInstance,
                Kind::DrainInstance,
                Kind::KillServer,
                Kind::KillControl,
                Kind::Isolate,
                Kind::Churn,
                Kind::Roam,
            ],
            every_ms: (200, 1_500),
            shape: Shape::TwoInstances,
        },
        Scenario {
            name: "overload",
            about: "more is sent than the servers can take, and then as much as before",
            kinds: &[Kind::Churn],
            every_ms: (2_000, 5_000),
            shape: Shape::FewDevices,
        },
        Scenario {
            name: "impostor",
            about: "one that offers bad maps takes control's place for a while",
            kinds: &[
                Kind::ReplaceControl,
                Kind::ReplaceControl,
                Kind::KillServer,
                Kind::KillInstance,
                Kind::MoveSlots,
                Kind::Churn,
            ],
            every_ms: (300, 2_000),
            shape: Shape::TwoRegions,
        },
    ];

    /// The usual one.
    pub fn swarm() -> &'static Scenario {
        &Scenario::ALL[0]
    }

    /// By its name.
    pub fn named(name: &str) -> Option<&'static Scenario> {
        Scenario::ALL.iter().find(|scenario| scenario.name == name)
    }

    /// Whether each seed takes some of the kinds only.
    pub(crate) fn is_drawn(&self) -> bool {
        self.name == Scenario::swarm().name
    }

    /// Whether control is gone from when all devices are connected.
    pub(crate) fn loses_control(&self) -> bool {
        self.shape == Shape::NoControl
    }

    /// Whether there is too much to do for a while.
    pub(crate) fn overloads(&self) -> bool {
        self.shape == Shape::FewDevices
    }

    pub(crate) fn shape(&self, spec: &mut Spec) {
        match self.shape {
            Shape::Drawn => {}
            Shape::OneInstance => spec.instances = 1,
            Shape::TwoInstances => spec.instances = 2,
            Shape::TwoRegions => spec.regions = 2,
            Shape::TwoShards => spec.two_shards_every = 1,
            // One that is alone would have nobody to answer while it restarts, with control or without.
            Shape::NoControl => spec.instances = 2,
            // Each sends much, and all that there is to do is at few shards.
            Shape::FewDevices => {
                spec.devices = spec.devices.min(8);
                spec.two_shards_every = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_scenario_of_its_own_and_names_are_unique() {
        for kind in Kind::ALL {
            let named = Scenario::ALL[1..].iter().any(|scenario| scenario.kinds.contains(&kind));
            assert!(named, "{}", kind.name());
        }
        let names: std::collections::BTreeSet<_> = Scenario::ALL.iter().map(|scenario| scenario.name).collect();
        assert_eq!(names.len(), Scenario::ALL.len());
        let kinds: std::collections::BTreeSet<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        assert_eq!(kinds.len(), Kind::ALL.len());
    }
}
