//! Copies of a store: one portable file, whole by its checksum, taken while the control plane runs.
//!
//! ```text
//! "TRKLBKUP"  u32 format  u64 records  { u32 key length, key, u32 value length, value }  32 bytes SHA-256 of all before
//! ```
//!
//! Versions of the map never go back, and a backup is older than the cluster: nodes hold versions that were published after it was
//! taken. So a restored store goes on [`RESTORE_VERSION_STEP`] above the backup's version. That the step is larger than what was
//! published since is assumed, not known: at the most that the control plane publishes (one version each 50 ms) it lasts for 14
//! hours without a pause, in practice for years. A node that holds a higher version nevertheless is refused with a text that says
//! so, and keeps what it has. The old control plane must not run on beside the restored one: they share a lineage.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use trunkline_wire::codec::Reader;

use super::redb::{STORE_FILE, sync_directory_of};
use super::{Batch, Records, RedbStore, Store, StoreError};
use crate::state::State;

/// How far above a backup's version a restored store goes on.
pub const RESTORE_VERSION_STEP: u64 = 1_000_000;

const MAGIC: [u8; 8] = *b"TRKLBKUP";
const FORMAT: u32 = 1;
const CHECKSUM_BYTES: usize = 32;
/// Above any store: 2^20 devices at less than 200 bytes, and the rest.
const BACKUP_BYTES_MAX: u64 = 1 << 30;

/// What a restore put in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The store's lineage: the backup's.
    pub lineage: u64,
    /// The version that the backup was taken at.
    pub version_backup: u64,
    /// The version that the restored store goes on from.
    pub version: u64,
}

/// Writes `records` to the new file `path`: synced, and there either whole or not at all.
///
/// # Errors
/// If the file exists already, or can't be written.
pub fn backup(records: &Records, path: &Path) -> Result<(), StoreError> {
    let file_error = |what, error| StoreError::File {
        what,
        path: path.to_owned(),
        error,
    };
    if path.exists() {
        let error = std::io::ErrorKind::AlreadyExists.into();
        return Err(file_error("choose another path, a backup replaces nothing:", error));
    }
    let partial = beside(path, ".partial");
    let write = || {
        let mut file = File::create(&partial)?;
        file.write_all(&encode(records))?;
        file.sync_all()?;
        fs::rename(&partial, path)
    };
    write().map_err(|error| file_error("can't write the backup", error))?;
    sync_directory_of(path).map_err(|error| StoreError::Failed(error.to_string()))
}

/// Makes the store of the data directory `data` from the backup in `path`, which is checked whole first.
///
/// # Errors
/// If the backup is damaged; if there is a store already and `force` is not given; if a control plane runs on `data`.
pub fn restore(path: &Path, data: &Path, force: Force) -> Result<Restored, StoreError> {
    let records = read(path)?;
    let mut state = State::from_records(&records)?;
    let version_backup = state.version;
    let version = if version_backup == 0 {
        0
    } else {
        version_backup + RESTORE_VERSION_STEP
    };
    state.version = version;
    let batch: Batch = state
        .records()
        .into_iter()
        .map(|(key, value)| (key, Some(value)))
        .collect();

    let target = data.join(STORE_FILE);
    let occupied = target.exists() && !RedbStore::open(data)?.load()?.is_empty();
    if occupied && force == Force::No {
        return Err(StoreError::Occupied(data.to_owned()));
    }
    let file_error = |what| {
        let path = target.clone();
        move |error| StoreError::File { what, path, error }
    };
    fs::create_dir_all(data).map_err(file_error("can't make the directory of"))?;
    let partial = beside(&target, ".restoring");
    if partial.exists() {
        fs::remove_file(&partial).map_err(file_error("can't remove what an earlier restore left beside"))?;
    }
    let mut store = RedbStore::open_file(&partial)?;
    store.commit(&batch)?;
    drop(store);
    if occupied {
        fs::rename(&target, beside(&target, ".replaced")).map_err(file_error("can't set aside"))?;
    }
    fs::rename(&partial, &target).map_err(file_error("can't put in place"))?;
    sync_directory_of(&target).map_err(|error| StoreError::Failed(error.to_string()))?;
    Ok(Restored {
        lineage: state.lineage,
        version_backup,
        version,
    })
}

/// Whether to replace a store that holds something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Force {
    /// Refuse.
    No,
    /// Set it aside.
    Yes,
}

fn read(path: &Path) -> Result<Records, StoreError> {
    let refused = |reason| StoreError::Backup {
        path: path.to_owned(),
        reason,
    };
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(BACKUP_BYTES_MAX).read_to_end(&mut bytes))
        .map_err(|error| StoreError::File {
            what: "can't read the backup",
            path: path.to_owned(),
            error,
        })?;
    if !bytes.starts_with(&MAGIC) {
        return Err(refused("it does not start as a backup does"));
    }
    let (body, checksum) = bytes
        .split_last_chunk::<CHECKSUM_BYTES>()
        .ok_or(refused("it is truncated"))?;
    if Sha256::digest(body)[..] != checksum[..] {
        return Err(refused("its checksum does not match: it is truncated or damaged"));
    }
    decode(&body[MAGIC.len()..]).ok_or(refused("it was made by a newer version"))
}

fn encode(records: &Records) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.extend_from_slice(&FORMAT.to_le_bytes());
    out.extend_from_slice(&(records.len() as u64).to_le_bytes());
    for part in records.iter().flat_map(|(key, value)| [key, value]) {
        out.extend_from_slice(&(part.len() as u32).to_le_bytes());
        out.extend_from_slice(part);
    }
    let checksum = Sha256::digest(&out);
    out.extend_from_slice(&checksum);
    out
}

fn decode(body: &[u8]) -> Option<Records> {
    let mut reader = Reader::new(body);
    if reader.u32().ok()? != FORMAT {
        return None;
    }
    let count = reader.u64().ok()?;
    let mut records = Records::new();
    for _ in 0..count {
        let mut part = || {
            let length = reader.u32().ok()?;
            reader.slice(length as usize).ok()
        };
        let (key, value) = (part()?, part()?);
        records.insert(key.to_vec(), value.to_vec());
    }
    reader.finish().ok()?;
    Some(records)
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
