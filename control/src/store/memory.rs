//! A store in memory, for the simulator: a clone of the handle survives the "crash" of its user, what was not committed doesn't.

use std::sync::{Arc, Mutex};

use super::{Batch, Records, Store, StoreError};

/// A store whose "disk" is shared by all clones.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    disk: Arc<Mutex<Disk>>,
}

#[derive(Debug, Default)]
struct Disk {
    records: Records,
    commits: u64,
    failure: Option<Failure>,
    /// A commit failed, and nothing was loaded since.
    broken: bool,
}

/// What is to go wrong at a commit.
#[derive(Clone, Copy, Debug)]
struct Failure {
    at_commit: u64,
    reaches_disk: bool,
}

impl MemoryStore {
    /// An empty one.
    pub fn new() -> MemoryStore {
        MemoryStore::default()
    }

    /// Makes the commit after the next `later` ones fail, once. With `reaches_disk` its changes are there after a
    /// [`Store::load`] nevertheless, as when only the answer of the disk was lost.
    pub fn fail_commit(&self, later: u64, reaches_disk: bool) {
        let mut disk = self.lock();
        let at_commit = disk.commits + later;
        disk.failure = Some(Failure {
            at_commit,
            reaches_disk,
        });
    }

    /// How many commits were tried.
    pub fn commits(&self) -> u64 {
        self.lock().commits
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Disk> {
        self.disk.lock().expect("no holder of the lock panics")
    }
}

impl Store for MemoryStore {
    fn load(&mut self) -> Result<Records, StoreError> {
        let mut disk = self.lock();
        disk.broken = false;
        Ok(disk.records.clone())
    }

    fn commit(&mut self, batch: &Batch) -> Result<(), StoreError> {
        let mut disk = self.lock();
        let commit = disk.commits;
        let failure = disk.failure.take_if(|failure| failure.at_commit == commit);
        disk.commits += 1;
        if disk.broken {
            return Err(StoreError::Failed("an earlier commit failed".into()));
        }
        if failure.is_none_or(|failure| failure.reaches_disk) {
            apply(&mut disk.records, batch);
        }
        if failure.is_some() {
            disk.broken = true;
            return Err(StoreError::Failed("injected".into()));
        }
        Ok(())
    }
}

fn apply(records: &mut Records, batch: &Batch) {
    for (key, value) in batch {
        match value {
            Some(value) => records.insert(key.clone(), value.clone()),
            None => records.remove(key),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str) -> Batch {
        Batch::from([(key.into(), Some(b"x".to_vec()))])
    }

    #[test]
    fn a_crash_keeps_what_was_committed() {
        let mut store = MemoryStore::new();
        let mut after = store.clone();
        store.commit(&put("a")).unwrap();
        drop(store);
        assert_eq!(after.load().unwrap().len(), 1);
    }

    #[test]
    fn an_injected_failure_breaks_the_store_until_it_is_loaded() {
        let mut store = MemoryStore::new();
        store.fail_commit(1, false);
        store.commit(&put("a")).unwrap();
        store.commit(&put("b")).unwrap_err();
        store.commit(&put("c")).unwrap_err();
        assert_eq!(store.load().unwrap().len(), 1);
        store.commit(&put("d")).unwrap();
        store.fail_commit(0, true);
        store.commit(&put("e")).unwrap_err();
        assert_eq!(store.load().unwrap().len(), 3);
    }
}
