//! Which version of the protocol everybody speaks, and what must come of it where two meet.
//!
//! A build speaks one version only, unless it has the feature `next-version`: then each run draws a [`Course`], and every start of a
//! process, node, control plane or device's program, is of the version that the course says. A node that dies or is drained and comes
//! back as the other version is an upgrade, or a downgrade. What is drawn here comes from numbers of its own, so that a run in which
//! all speak the released version is the run of the released build.

use std::collections::BTreeSet;

use fastrand::Rng;
use trunkline_wire::preface::{VERSION_MAX, VERSION_MIN, Versions};

use crate::journal::DeviceNo;
use crate::node::NodeNo;

/// How a cluster's versions go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Course {
    /// Each seed draws one of the others but the first.
    Drawn,
    /// All speak the lowest version.
    Lowest,
    /// Each start draws.
    Mixed,
    /// All begin with the lowest version, and who starts anew speaks the highest.
    Upgrade,
    /// The other way round.
    Downgrade,
}

impl Course {
    /// All of them.
    pub const ALL: [Course; 5] = [
        Course::Drawn,
        Course::Lowest,
        Course::Mixed,
        Course::Upgrade,
        Course::Downgrade,
    ];

    /// On the command line.
    pub fn name(self) -> &'static str {
        match self {
            Course::Drawn => "drawn",
            Course::Lowest => "lowest",
            Course::Mixed => "mixed",
            Course::Upgrade => "upgrade",
            Course::Downgrade => "downgrade",
        }
    }
}

/// Whose process starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Who {
    Control,
    Node(NodeNo),
    Device(DeviceNo),
}

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Mix {
    rng: Rng,
    course: Course,
    started: BTreeSet<Who>,
}

impl Mix {
    pub(crate) fn new(seed: u64, course: Course) -> Mix {
        let mut rng = Rng::with_seed(seed ^ 0x0076_6572_7369_6f6e);
        let course = match course {
            // Control may be upgraded first or last: what is upgraded when is up to the faults.
            Course::Drawn => [Course::Mixed, Course::Upgrade, Course::Downgrade][rng.usize(..3)],
            Course::Lowest | Course::Mixed | Course::Upgrade | Course::Downgrade => course,
        };
        let started = BTreeSet::new();
        Mix { rng, course, started }
    }

    /// What a process that starts now speaks.
    pub(crate) fn draw(&mut self, who: Who) -> Versions {
        let is_first = self.started.insert(who);
        let max = match self.course {
            Course::Lowest => VERSION_MIN,
            Course::Mixed | Course::Drawn => self.rng.u8(VERSION_MIN..=VERSION_MAX),
            Course::Upgrade if is_first => VERSION_MIN,
            Course::Upgrade => VERSION_MAX,
            Course::Downgrade if is_first => VERSION_MAX,
            Course::Downgrade => VERSION_MIN,
        };
        Versions::up_to(max).expect("this build speaks it")
    }
}

/// What is checked where two versions can meet.
#[cfg(feature = "next-version")]
mod checks {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use trunkline_client::Welcomed;
    use trunkline_wire::id::NodeId;
    use trunkline_wire::next;
    use trunkline_wire::preface::Versions;

    use crate::cluster::Cluster;
    use crate::journal::DeviceNo;
    use crate::node::{NodeNo, Process};
    use crate::promise::{Checked, Promise};

    /// How far a run has come.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum When {
        /// Something may be on its way.
        Underway,
        /// Nothing is.
        AtRest,
    }

    impl Cluster {
        fn process_of(&self, node: NodeId) -> Option<&Process> {
            let host = self.nodes.iter().find(|host| host.node == node)?;
            host.process.as_ref()
        }

        /// Each connection speaks the highest version that both sides do, and what only the next one has is there if it is that one,
        /// and only then.
        pub(crate) fn check_versions(&self, when: When) -> Checked {
            let fail = |what| {
                Err(self
                    .ledger
                    .violation(self.now(), Promise::MixedVersions, what, None, &[]))
            };
            for (index, host) in self.nodes.iter().enumerate() {
                let (Some(process), name) = (&host.process, &host.spec.name) else {
                    continue;
                };
                // Without strangers, who says what can't be read is one of us.
                let malformed = self.counter(NodeNo(index), "links_malformed");
                if malformed > 0 && !self.strangers {
                    return fail(format!("{name} could not read what another node said"));
                }
                let links = process.shards.iter().flat_map(|shard| shard.links().status(self.now()));
                for link in links {
                    let other = self.process_of(link.node);
                    let other = other.filter(|other| link.incarnation == Some(other.incarnation));
                    // A connection with a process that is gone may be taken for open for a while.
                    let (Some(other), Some(version)) = (other, link.version) else {
                        continue;
                    };
                    let expected = common(process.versions, other.versions);
                    let between = format!("{name} and node {}", link.node);
                    if version != expected {
                        return fail(format!("between {between} version {version} is spoken, not {expected}"));
                    }
                    let owed = (expected >= next::VERSION).then_some(other.build.as_str());
                    let late = when == When::Underway && link.build.is_none();
                    if link.build.as_deref() != owed && !late {
                        let what = format!("between {between} the build {:?} was said, not {owed:?}", link.build);
                        return fail(what);
                    }
                }
                let spoken = self.control_logic().and_then(|logic| logic.spoken(host.node));
                let Some((peer, build)) = spoken.filter(|(peer, _)| peer.incarnation == process.incarnation) else {
                    continue;
                };
                let expected = common(process.versions, self.control_versions);
                if peer.version != expected {
                    let version = peer.version;
                    return fail(format!("{name} and control speak version {version}, not {expected}"));
                }
                let owed = (expected >= next::VERSION).then_some(process.build.as_str());
                if build != owed {
                    return fail(format!("{name} said the build {build:?} to control, not {owed:?}"));
                }
            }
            Ok(())
        }

        /// A device was let in by a server: both speak the highest version that they can.
        pub(crate) fn check_welcome(&self, device: DeviceNo, welcomed: &Welcomed) -> Checked {
            let Some(process) = self.process_of(welcomed.node) else {
                return Ok(());
            };
            // The welcome may be that of the process before.
            if self.now().since(process.started) < WELCOME_MAX {
                return Ok(());
            }
            let expected = common(process.versions, self.devices[device.0 as usize].versions);
            if welcomed.version == expected {
                return Ok(());
            }
            let what = format!("{device} is welcomed in version {}, not {expected}", welcomed.version);
            let now = self.now();
            Err(self
                .ledger
                .violation(now, Promise::MixedVersions, what, None, &[device]))
        }

        /// How many links between nodes speak each version, each counted at both ends.
        pub(crate) fn links_by_version(&self) -> BTreeMap<u8, u64> {
            let mut links = BTreeMap::new();
            let processes = self.nodes.iter().filter_map(|host| host.process.as_ref());
            for shard in processes.flat_map(|process| &process.shards) {
                for version in shard
                    .links()
                    .status(self.now())
                    .into_iter()
                    .filter_map(|link| link.version)
                {
                    *links.entry(version).or_default() += 1;
                }
            }
            links
        }
    }

    fn common(a: Versions, b: Versions) -> u8 {
        a.max().min(b.max())
    }

    /// A library gives an attempt up before.
    const WELCOME_MAX: Duration = Duration::from_secs(15);
}

#[cfg(feature = "next-version")]
pub(crate) use checks::When;
