//! Who a node is, across its restarts: its id, which start this is, the cluster secret; and that no second process is it too.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use trunkline_wire::auth::{Secret, SecretTooShort};
use trunkline_wire::id::{Incarnation, NodeId};

use crate::storage::{Directory, Storage};

/// What a data directory says. The directory is this process's alone while it lives.
#[derive(Debug)]
pub struct Identity {
    /// [`NodeId::NONE`] until the control plane has given one.
    pub node: NodeId,
    /// Counted up, durably, by [`Identity::open`].
    pub incarnation: Incarnation,
    /// Where it's kept.
    pub directory: Directory,
    _lock: Flock<File>,
}

/// Why a node can't be who it is. One line, for the operator.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Another process uses the directory.
    #[error("{}: another process uses this data directory; stop it, or set another `data_dir`", .0.display())]
    InUse(PathBuf),
    /// The directory can't be used.
    #[error("{}: the data directory can't be used: {error}; check `data_dir` and its permissions", .path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A file in it makes no sense.
    #[error("{}: not a number; restore the file, or remove the whole data directory to join as a new node", .0.display())]
    Damaged(PathBuf),
    /// No secret.
    #[error(
        "{}: no cluster secret; copy it from another node of the cluster, or make one: \
         head -c 32 /dev/urandom | base64 > {}", .0.display(), .0.display()
    )]
    NoSecret(PathBuf),
    /// A secret that can't be read.
    #[error("{}: the secret can't be read: {error}", .path.display())]
    SecretUnreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A secret that is too short.
    #[error("{}: {error}", .path.display())]
    SecretShort {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: SecretTooShort,
    },
}

impl Identity {
    /// Takes the directory, and counts this start.
    ///
    /// # Errors
    /// If another process has it, or it can't be read and written.
    pub fn open(path: &Path) -> Result<Identity, IdentityError> {
        let failed = |error| IdentityError::Directory {
            path: path.to_owned(),
            error,
        };
        let directory = Directory::open(path).map_err(failed)?;
        let lock = lock(path)?;
        let node = number(&directory, NODE)?.unwrap_or(0);
        let node = u32::try_from(node).map_err(|_| IdentityError::Damaged(path.join(NODE)))?;
        let incarnation = number(&directory, INCARNATION)?.unwrap_or(0) + 1;
        write_number(&directory, INCARNATION, incarnation).map_err(failed)?;
        Ok(Identity {
            node: NodeId(node),
            incarnation: Incarnation(incarnation),
            directory,
            _lock: lock,
        })
    }
}

/// As [`Identity::open`] counts, without a directory to lock: for the simulator.
///
/// # Errors
/// If the storage fails, or holds something else.
pub fn next_start(storage: &impl Storage) -> io::Result<(NodeId, Incarnation)> {
    let read = |name| -> io::Result<u64> {
        let bytes = storage.read(name)?.unwrap_or(b"0".to_vec());
        parse(&bytes).ok_or_else(|| io::Error::from(ErrorKind::InvalidData))
    };
    let node = u32::try_from(read(NODE)?).map_err(|_| ErrorKind::InvalidData)?;
    let incarnation = read(INCARNATION)? + 1;
    write_number(storage, INCARNATION, incarnation)?;
    Ok((NodeId(node), Incarnation(incarnation)))
}

/// Keeps the id that the control plane has given.
pub(crate) fn keep_node(storage: &(impl Storage + ?Sized), node: NodeId) -> io::Result<()> {
    write_number(storage, NODE, node.0.into())
}

/// The rate of the drain that an operator has ordered and not taken back, as far as the node was told; `None` without one.
///
/// # Errors
/// If the storage fails, or holds something else.
pub(crate) fn read_drain(storage: &(impl Storage + ?Sized)) -> io::Result<Option<u32>> {
    let Some(bytes) = storage.read(DRAIN)? else {
        return Ok(None);
    };
    let said = std::str::from_utf8(&bytes).map_err(|_| ErrorKind::InvalidData)?;
    match said.trim().strip_prefix(DRAIN_ON) {
        None if said.trim() == DRAIN_OFF => Ok(None),
        None => Err(ErrorKind::InvalidData.into()),
        Some(rate) => match rate.trim().parse() {
            Ok(rate) => Ok(Some(rate)),
            Err(_) => Err(ErrorKind::InvalidData.into()),
        },
    }
}

/// Keeps what [`read_drain`] reads.
pub(crate) fn keep_drain(storage: &(impl Storage + ?Sized), rate: Option<u32>) -> io::Result<()> {
    let text = match rate {
        Some(rate) => format!("{DRAIN_ON} {rate}\n"),
        None => format!("{DRAIN_OFF}\n"),
    };
    storage.replace(DRAIN, text.as_bytes())
}

/// The secret in the file at `path`.
///
/// # Errors
/// If there is none, or it's too short.
pub fn read_secret(path: &Path) -> Result<Secret, IdentityError> {
    let path = path.to_owned();
    match std::fs::read(&path) {
        Ok(bytes) => Secret::new(&bytes).map_err(|error| IdentityError::SecretShort { path, error }),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(IdentityError::NoSecret(path)),
        Err(error) => Err(IdentityError::SecretUnreadable { path, error }),
    }
}

/// The secret in `directory`'s file `secret`; a new one, readable by its owner only, if there is none.
///
/// # Errors
/// If it can't be read or written.
pub fn read_or_make_secret(directory: &Path) -> Result<Secret, IdentityError> {
    let path = directory.join(SECRET);
    match read_secret(&path) {
        Err(IdentityError::NoSecret(_)) => {
            let secret = Secret::random();
            let directory = Directory::open(directory);
            let made = directory.and_then(|directory| directory.replace(SECRET, secret.bytes()));
            made.map_err(|error| IdentityError::Directory { path, error })?;
            Ok(secret)
        }
        other => other,
    }
}

/// The name of the secret's file in a data directory.
pub const SECRET: &str = "secret";
const NODE: &str = "node-id";
const INCARNATION: &str = "incarnation";
const LOCK: &str = "lock";
const DRAIN: &str = "drain";
const DRAIN_ON: &str = "on";
const DRAIN_OFF: &str = "off";

fn lock(path: &Path) -> Result<Flock<File>, IdentityError> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path.join(LOCK));
    let file = file.map_err(|error| IdentityError::Directory {
        path: path.to_owned(),
        error,
    })?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| IdentityError::InUse(path.to_owned()))
}

fn number(directory: &Directory, name: &str) -> Result<Option<u64>, IdentityError> {
    let bytes = directory.read(name).map_err(|error| IdentityError::Directory {
        path: directory.path().to_owned(),
        error,
    })?;
    match bytes {
        None => Ok(None),
        Some(bytes) => parse(&bytes)
            .map(Some)
            .ok_or_else(|| IdentityError::Damaged(directory.path().join(name))),
    }
}

fn parse(bytes: &[u8]) -> Option<u64> {
    std::str::from_utf8(bytes).ok()?.trim().parse().ok()
}

fn write_number(storage: &(impl Storage + ?Sized), name: &str, number: u64) -> io::Result<()> {
    storage.replace(name, format!("{number}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::storage::Memory;

    #[test]
    fn every_start_counts_and_the_id_is_kept() {
        let place = tempfile::tempdir().unwrap();
        let first = Identity::open(place.path()).unwrap();
        assert_eq!((first.node, first.incarnation), (NodeId::NONE, Incarnation(1)));
        keep_node(&first.directory, NodeId(7)).unwrap();
        drop(first);
        let second = Identity::open(place.path()).unwrap();
        assert_eq!((second.node, second.incarnation), (NodeId(7), Incarnation(2)));
    }

    #[test]
    fn a_start_without_a_directory_counts_the_same() {
        let memory = Memory::new();
        assert_eq!(next_start(&memory).unwrap(), (NodeId::NONE, Incarnation(1)));
        keep_node(&memory, NodeId(7)).unwrap();
        assert_eq!(next_start(&memory).unwrap(), (NodeId(7), Incarnation(2)));
    }

    #[test]
    fn two_processes_do_not_share_a_directory() {
        let place = tempfile::tempdir().unwrap();
        let _first = Identity::open(place.path()).unwrap();
        let error = Identity::open(place.path()).unwrap_err();
        assert!(matches!(error, IdentityError::InUse(_)));
        assert!(error.to_string().contains("another process uses this data directory"));
    }

    #[test]
    fn a_damaged_file_is_named() {
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join(NODE), "seven").unwrap();
        let error = Identity::open(place.path()).unwrap_err().to_string();
        assert!(error.contains("node-id: not a number"), "{error}");
        assert_eq!(error.lines().count(), 1);
    }

    #[test]
    fn a_secret_is_made_once_and_for_its_owner_only() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join(SECRET);
        let missing = read_secret(&path).unwrap_err().to_string();
        assert!(missing.contains("no cluster secret"), "{missing}");
        let made = read_or_make_secret(place.path()).unwrap();
        assert_eq!(read_or_make_secret(place.path()).unwrap(), made);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&path, "short").unwrap();
        let short = read_secret(&path).unwrap_err().to_string();
        assert!(short.contains("at least 16 bytes, this one has 5"), "{short}");
    }
}
