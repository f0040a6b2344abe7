//! The first eight bytes of every connection, sent by who opened it: what it speaks, and in which versions.

/// The lowest protocol version that this build speaks.
pub const VERSION_MIN: u8 = 1;
/// The highest protocol version that this build speaks.
pub const VERSION_MAX: u8 = 1;

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
    /// The lowest version that the opener speaks; at least 1.
    pub version_min: u8,
    /// The highest version that the opener speaks; not below the lowest.
    pub version_max: u8,
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
    /// This build's preface for `side`.
    pub fn new(side: Side) -> Preface {
        Preface {
            side,
            version_min: VERSION_MIN,
            version_max: VERSION_MAX,
        }
    }

    /// Magic, side, lowest and highest version, a zero.
    pub fn encode(self) -> [u8; PREFACE_BYTES] {
        let [a, b, c, d] = MAGIC;
        let side = match self.side {
            Side::Device => 1,
            Side::Peer => 2,
            Side::Control => 3,
        };
        [a, b, c, d, side, self.version_min, self.version_max, 0]
    }

    /// Reads a preface.
    ///
    /// # Errors
    /// If the bytes are not one.
    pub fn decode(bytes: [u8; PREFACE_BYTES]) -> Result<Preface, PrefaceError> {
        let [magic @ .., side, version_min, version_max, zero] = bytes;
        if magic != MAGIC {
            return Err(PrefaceError::Magic);
        }
        let side = match side {
            1 => Side::Device,
            2 => Side::Peer,
            3 => Side::Control,
            _ => return Err(PrefaceError::Malformed),
        };
        if zero != 0 || version_min == 0 || version_min > version_max {
            return Err(PrefaceError::Malformed);
        }
        Ok(Preface {
            side,
            version_min,
            version_max,
        })
    }

    /// The highest version that both the opener and this build speak, if there is one.
    pub fn negotiate(self) -> Option<u8> {
        let version = self.version_max.min(VERSION_MAX);
        (version >= self.version_min.max(VERSION_MIN)).then_some(version)
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
