//! Where the control plane keeps what it must never forget: records, each a key and a value, changed in batches.
//!
//! A [`Store`] knows nothing of what the records mean (that is [`crate::state`]). Two implementations: [`RedbStore`], one file that
//! survives a power cut, and [`MemoryStore`], for the simulator, which loses what was not committed and fails when told to.
//!
//! The rule that all else rests on: **nothing is published before [`Store::commit`] has returned `Ok`.** Whether a failed commit
//! reached the disk is unknown until [`Store::load`] says so; who sees one starts again from there.

mod backup;
mod memory;
mod redb;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

pub use self::backup::{Force, RESTORE_VERSION_STEP, Restored, backup, restore};
pub use self::memory::MemoryStore;
pub use self::redb::{RedbStore, STORE_FILE};

/// All records, by key.
pub type Records = BTreeMap<Vec<u8>, Vec<u8>>;

/// Changes that are on disk all, or not at all: the new value of each key, or `None` where the record goes.
pub type Batch = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// Durable records.
pub trait Store {
    /// Reads all records, as of the last commit. After a failed commit this opens the store anew.
    ///
    /// # Errors
    /// If they can't be read; asking again later may help.
    fn load(&mut self) -> Result<Records, StoreError>;

    /// Applies `batch`, durably when this returns.
    ///
    /// # Errors
    /// If it is not known to be durable. Until the next [`Store::load`] every further commit fails.
    fn commit(&mut self, batch: &Batch) -> Result<(), StoreError>;
}

/// Why the store failed. The operator's, or the disk's.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it open.
    #[error(
        "the store {0} is in use by another process: one control plane per data directory; stop the other one first"
    )]
    InUse(PathBuf),
    /// The file is there, and is not a store, or is damaged beyond repair.
    #[error("the store {path} can't be opened: {reason}; restore a backup with: trunkline control restore")]
    Open {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// Reading or writing failed.
    #[error("the store failed: {0}")]
    Failed(String),
    /// A record that can't be read: made by a newer version, or damaged.
    #[error("the store holds a record that can't be read ({0}): it was made by a newer version, or is damaged")]
    Record(String),
    /// A file of a backup, or around one.
    #[error("{what} {path}: {error}")]
    File {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Not a backup, or damaged.
    #[error("{path} is not a backup that can be restored: {reason}")]
    Backup {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: &'static str,
    },
    /// There is a store already.
    #[error("{0} holds a store already: use --force to replace it (it is kept beside, as control.redb.replaced)")]
    Occupied(PathBuf),
}
