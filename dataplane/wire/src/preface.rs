//! The first eight bytes of every connection, sent by who opened it: what it speaks, and in which versions.
//!
//! The opener names the versions that it speaks, the other side chooses the highest that both do, and names it in its first answer.
//! Which versions a process speaks is an argument ([`Versions`]), so that two that speak different ones can meet in one test.

use std::fmt;

/// The lowest protocol version that this build speaks.
pub const VERSION_MIN: u8 = 1;
/// The highest protocol version that this build speaks. With the feature `next-version` it is one that no release speaks, by which
/// the meeting of two versions is tested.
pub const VERSION_MAX: u8 = if cfg!(feature = "next-version") { 2 } else { 1 };

/// The protocol versions that one side speaks: all from the lowest to the highest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    min: u8,
    max: u8,
}

impl Versions {
    /// All that this build speaks.
    pub const BUILD: Versions = Versions {
        min: VERSION_MIN,
        max: VERSION_MAX,
    };

    /// Those that this build speaks, up to `max`; `None` if that leaves none, or is more than it speaks.
    pub fn up_to(max: u8) -> Option<Versions> {
        let versions = Versions { min: VERSION_MIN, max };
        (VERSION_MIN..=VERSION_MAX).contains(&max).then_some(versions)
    }

    /// The highest.
    pub fn max(self) -> u8 {
        self.max
    }

    /// Whether `version` is among them.
    pub fn contains(self, version: u8) -> bool {
        (self.min..=self.max).contains(&version)
    }

    /// The highest version that both sides speak.
    ///
    /// # Errors
    /// If there is none: both ranges, for both ends' logs.
    pub fn common(self, theirs: Versions) -> Result<u8, NoCommonVersion> {
        let version = self.max.min(theirs.max);
        if version >= self.min.max(theirs.min) {
            Ok(version)
        } else {
            Err(NoCommonVersion { ours: self, theirs })
        }
    }
}

impl Default for Versions {
    fn default() -> Versions {
        Versions::BUILD
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.min, self.max) {
            (min, max) if min == max => write!(f, "{min}"),
            (min, max) => write!(f, "{min} to {max}"),
        }
    }
}

/// Two sides that can't talk. Who finds out sends it to the other, so that both can log the same line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no common protocol version: this side speaks {ours}, the other offers {theirs}; upgrade the older one first")]
pub struct NoCommonVersion {
    /// Of who finds out.
    pub ours: Versions,
    /// Of who opened the connection.
    pub theirs: Versions,
}

/// The preface's length, in bytes.
pub const PREFACE_BYTES: usize = 8;
/// How every connection starts.
pub const MAGIC: [u8; 4] = *b"TRKL";

/// Which of the three protocols a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// A device and a connection server.
    Device,
    /// Two nodes.
    Peer,
    /// A node, or an operator's tool, and the control plane.
    Control,
}

/// What a connection is to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preface {
    /// The protocol.
    pub side: Side,
    /// What the opener speaks; at least version 1.
    pub versions: Versions,
}

/// Why the first bytes are not a preface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrefaceError {
    /// The first four bytes are not `TRKL`.
    #[error("the connection does not start with TRKL: this port speaks Trunkline's protocol only")]
    Magic,
    /// It's ours, but not this port's protocol, or malformed.
    #[error("the preface is malformed")]
    Malformed,
}

impl Preface {
    /// For `side`, by who speaks all that this build does.
    pub fn new(side: Side) -> Preface {
        Preface::offering(side, Versions::BUILD)
    }

    /// For `side`, by who speaks `versions`.
    pub fn offering(side: Side, versions: Versions) -> Preface {
        Preface { side, versions }
    }

    /// Magic, side, lowest and highest version, a zero.
    pub fn encode(self) -> [u8; PREFACE_BYTES] {
        let [a, b, c, d] = MAGIC;
        let side = match self.side {
            Side::Device => 1,
            Side::Peer => 2,
            Side::Control => 3,
        };
        [a, b, c, d, side, self.versions.min, self.versions.max, 0]
    }

    /// Reads a preface.
    ///
    /// # Errors
    /// If the bytes are not one.
    pub fn decode(bytes: [u8; PREFACE_BYTES]) -> Result<Preface, PrefaceError> {
        let [magic @ .., side, min, max, zero] = bytes;
        if magic != MAGIC {
            return Err(PrefaceError::Magic);
        }
        let side = match side {
            1 => Side::Device,
            2 => Side::Peer,
            3 => Side::Control,
            _ => return Err(PrefaceError::Malformed),
        };
        if zero != 0 || min == 0 || min > max {
            return Err(PrefaceError::Malformed);
        }
        let versions = Versions { min, max };
        Ok(Preface { side, versions })
    }
}

/// Whether `bytes` can still become a preface: false as soon as one byte of the magic is wrong.
///
/// # Errors
/// [`PrefaceError::Magic`].
pub fn check_prefix(bytes: &[u8]) -> Result<(), PrefaceError> {
    let known = bytes.len().min(MAGIC.len());
    if bytes[..known] == MAGIC[..known] {
        Ok(())
    } else {
        Err(PrefaceError::Magic)
    }
}
