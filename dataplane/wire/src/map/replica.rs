//! What a node does with an offered map. Pure: compare here and apply in one step, with the map at hand held fast meanwhile.

use super::{Map, MapId};

/// How an offered map is to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// All of it comes: [`Map::decode`].
    Snapshot,
    /// The difference to the map at hand comes: [`Map::apply`].
    Delta,
}

/// Why an offered map is not taken. The one at hand stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Version 0 is "no map", and never replaces one.
    #[error("version 0 was offered, which is no map")]
    Blank,
    /// It's the one at hand: acknowledge it once more.
    #[error("version {0} is held already")]
    Held(u64),
    /// A version never goes back.
    #[error("version {offered} was offered, which is not newer than version {have}")]
    NotNewer {
        /// The version at hand.
        have: u64,
        /// The version that was offered.
        offered: u64,
    },
    /// One version of one store, and two contents: the store was copied or restored behind the cluster's back.
    #[error(
        "version {0} was offered with another digest than the version {0} that is held: two stores claim one lineage"
    )]
    Fork(u64),
    /// The map comes from another store.
    #[error(
        "lineage {offered:016x} was offered, and the map at hand is of lineage {have:016x}: it needs the operator's consent"
    )]
    OtherLineage {
        /// The lineage at hand.
        have: u64,
        /// The lineage that was offered.
        offered: u64,
    },
    /// A delta to another map than the one at hand: ask for a snapshot.
    #[error("a delta to version {base} was offered, and version {have} is held: a snapshot is needed")]
    WrongBase {
        /// The version at hand.
        have: u64,
        /// The version to which the delta is.
        base: u64,
    },
}

impl Refusal {
    /// One word for logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Refusal::Blank => "blank",
            Refusal::Held(_) => "held",
            Refusal::NotNewer { .. } => "not_newer",
            Refusal::Fork(_) => "fork",
            Refusal::OtherLineage { .. } => "other_lineage",
            Refusal::WrongBase { .. } => "wrong_base",
        }
    }

    /// Whether a snapshot would be taken instead.
    pub fn wants_snapshot(self) -> bool {
        match self {
            Refusal::WrongBase { .. } => true,
            Refusal::Blank
            | Refusal::Held(_)
            | Refusal::NotNewer { .. }
            | Refusal::Fork(_)
            | Refusal::OtherLineage { .. } => false,
        }
    }
}

/// Whether `offered` may replace `current`, and how it is to be made. `base` has version 0 if all of the map is offered.
///
/// The empty map is replaced by any. With the operator's consent to another lineage, ask with [`Map::empty`] as the current one: what
/// follows has to be a snapshot then.
///
/// # Errors
/// If the map at hand stays.
pub fn accept(current: &Map, offered: MapId, base: MapId) -> Result<Plan, Refusal> {
    let have = current.id();
    if offered.version == 0 {
        return Err(Refusal::Blank);
    }
    if have.version != 0 {
        if offered.lineage != have.lineage && !crate::planted!(ForeignMapTaken) {
            return Err(Refusal::OtherLineage {
                have: have.lineage,
                offered: offered.lineage,
            });
        }
        if offered == have {
            return Err(Refusal::Held(have.version));
        }
        if offered.version == have.version && !crate::planted!(ForkTaken) {
            return Err(Refusal::Fork(have.version));
        }
        if offered.version < have.version && !crate::planted!(OlderMapTaken) {
            return Err(Refusal::NotNewer {
                have: have.version,
                offered: offered.version,
            });
        }
    }
    if base.version == 0 {
        return Ok(Plan::Snapshot);
    }
    if base != have {
        return Err(Refusal::WrongBase {
            have: have.version,
            base: base.version,
        });
    }
    Ok(Plan::Delta)
}
