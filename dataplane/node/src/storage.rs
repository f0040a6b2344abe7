//! Where a node keeps what has to outlive it: a few small files, each replaced whole.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// A place for named values. After a crash a value is the old one or the new one, whole.
pub trait Storage {
    /// The value of `name`, or `None` if there is none.
    ///
    /// # Errors
    /// What the system said.
    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>>;

    /// Replaces the value of `name`; when this returns, it's durable.
    ///
    /// # Errors
    /// What the system said; the old value is still there.
    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()>;
}

/// A directory with a file for each name.
#[derive(Clone, Debug)]
pub struct Directory {
    path: PathBuf,
}

impl Directory {
    /// The directory at `path`, made if it isn't there.
    ///
    /// # Errors
    /// What the system said.
    pub fn open(path: &Path) -> io::Result<Directory> {
        fs::create_dir_all(path)?;
        let path = path.to_owned();
        Ok(Directory { path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Storage for Directory {
    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.path.join(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        use std::os::unix::fs::OpenOptionsExt;

        let new = self.path.join(format!("{name}.new"));
        // Nobody else reads what a node keeps: a secret may be among it.
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        drop(file);
        fs::rename(&new, self.path.join(name))?;
        // The rename itself is durable only with the directory.
        File::open(&self.path)?.sync_all()
    }
}

/// Values in memory, for the simulator: clones share them, so that they outlive the node.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    inner: Arc<Mutex<MemoryInner>>,
}

#[derive(Debug, Default)]
struct MemoryInner {
    values: BTreeMap<String, Vec<u8>>,
    full: bool,
}

impl Memory {
    /// Without values.
    pub fn new() -> Memory {
        Memory::default()
    }

    /// From now on, whether every write fails as on a full disk.
    pub fn set_full(&self, full: bool) {
        self.lock().full = full;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, MemoryInner> {
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Storage for Memory {
    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        Ok(self.lock().values.get(name).cloned())
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut inner = self.lock();
        if inner.full {
            return Err(ErrorKind::StorageFull.into());
        }
        inner.values.insert(name.to_owned(), bytes.to_owned());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_replaced_whole_and_nothing_else_is_left() {
        let place = tempfile::tempdir().unwrap();
        let directory = Directory::open(&place.path().join("a/b")).unwrap();
        assert_eq!(directory.read("map").unwrap(), None);
        directory.replace("map", b"one").unwrap();
        directory.replace("map", b"two").unwrap();
        assert_eq!(directory.read("map").unwrap().unwrap(), b"two");
        let files: Vec<_> = fs::read_dir(directory.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(files, ["map"]);
    }

    #[test]
    fn a_failed_write_leaves_the_old_value() {
        let memory = Memory::new();
        memory.replace("map", b"one").unwrap();
        memory.set_full(true);
        assert!(memory.replace("map", b"two").is_err());
        assert_eq!(memory.clone().read("map").unwrap().unwrap(), b"one");
    }
}
