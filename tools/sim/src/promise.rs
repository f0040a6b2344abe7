//! What a run may break: the promises that are checked, and how a broken one is told.

use std::fmt;

use trunkline_wire::time::Instant;

/// One of the project's promises, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Promise {
    /// Exactly one terminal report per confirmed message; delivered only if the device acknowledged it.
    OneReport = 1,
    /// What is shown is shown to its recipient, as it was sent.
    NoMisdelivery = 2,
    /// Every delivery has an earlier send.
    NoInvention = 3,
    /// A client library shows a message once.
    BoundedDuplicates = 4,
    /// One sender instance's messages are shown in the order of their numbers, unless marked late.
    Order = 5,
    /// Without a partition, at most one session of a device is open after the fencing time; an older one never wins.
    OneWinner = 6,
    /// Epochs never go back in any instance.
    EpochsNeverGoBack = 7,
    /// Removing a session changes something only if it is the one that is stored.
    ExactUnregister = 8,
    /// Map versions never go back at any node.
    MapVersions = 9,
    /// Every map in use is whole, the same wherever its version is in use, and not empty once one wasn't.
    MapValidity = 10,
    /// With the control plane gone, maps route as with it.
    StaticStability = 11,
    /// After the last fault all instances of a region agree with each other and with the sessions that live.
    Convergence = 12,
    /// No confirmed message is reported offline for want of propagated connection information.
    NoBlackout = 13,
    /// What came in has ended once or is in flight.
    Conservation = 14,
    /// Every queue, table and timer is within its bound; so are retries.
    Bounds = 15,
    /// No input ends a process.
    NoRemoteCrash = 16,
    /// No byte is lost, altered or credited to another connection.
    Driver = 17,
    /// The same seed makes the same trace.
    Determinism = 18,
    /// A slow, mute or flooding device costs others nothing.
    Isolation = 19,
    /// When a load or a fault is gone, so are its effects.
    NoMetastability = 20,
    /// Two versions of the protocol in one cluster keep all of the above, and each connection speaks what both ends can.
    MixedVersions = 21,
}

impl Promise {
    /// Its number in the list of promises.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// Its name in the list of promises.
    pub fn name(self) -> &'static str {
        match self {
            Promise::OneReport => "one report",
            Promise::NoMisdelivery => "no misdelivery",
            Promise::NoInvention => "no invention",
            Promise::BoundedDuplicates => "bounded duplicates",
            Promise::Order => "order",
            Promise::OneWinner => "one winner",
            Promise::EpochsNeverGoBack => "epochs never go back",
            Promise::ExactUnregister => "exact unregister",
            Promise::MapVersions => "map versions",
            Promise::MapValidity => "map validity",
            Promise::StaticStability => "static stability",
            Promise::Convergence => "convergence",
            Promise::NoBlackout => "no blackout",
            Promise::Conservation => "conservation",
            Promise::Bounds => "bounds",
            Promise::NoRemoteCrash => "no remote crash",
            Promise::Driver => "driver",
            Promise::Determinism => "determinism",
            Promise::Isolation => "isolation",
            Promise::NoMetastability => "no metastability",
            Promise::MixedVersions => "mixed versions",
        }
    }
}

/// A promise that did not hold.
#[derive(Clone, Debug)]
pub struct Violation {
    /// The seed of the run.
    pub seed: u64,
    /// Which promise.
    pub promise: Promise,
    /// When it was seen, in virtual time.
    pub at: Instant,
    /// What was seen.
    pub what: String,
    /// What is known of the message or the device concerned, in the order of time, one line each.
    pub history: Vec<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "seed {}: promise {} ({}) broken at {}: {}",
            self.seed,
            self.promise.number(),
            self.promise.name(),
            Stamp(self.at),
            self.what
        )?;
        for line in &self.history {
            write!(f, "\n  {line}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Violation {}

/// What a check comes to. Boxed: a violation is large, and rare.
pub type Checked<T = ()> = Result<T, Box<Violation>>;

/// A point in virtual time, for people.
#[derive(Clone, Copy, Debug)]
pub struct Stamp(pub Instant);

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.0.micros();
        write!(f, "{}.{:06}s", micros / 1_000_000, micros % 1_000_000)
    }
}
