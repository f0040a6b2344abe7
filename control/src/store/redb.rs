//! The store on disk: one redb file, every commit synced before it returns.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use redb::{
    Builder, Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, StorageBackend, StorageError,
};
use redb::{TableDefinition, TableError};

use super::{Batch, Records, Store, StoreError};

/// The store's file in the data directory.
pub const STORE_FILE: &str = "control.redb";

const RECORDS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("records");

/// All of a store fits in this, but for the largest: 16 MiB.
const CACHE_BYTES: usize = 16 << 20;

/// A store in a file.
pub struct RedbStore {
    path: PathBuf,
    open: Box<dyn FnMut() -> Result<Database, DatabaseError> + Send>,
    /// `None` after a failure, until the next load.
    database: Option<Database>,
}

impl std::fmt::Debug for RedbStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedbStore")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl RedbStore {
    /// Opens the store of a data directory, or makes both.
    ///
    /// # Errors
    /// If another process has it open, or it is not a store.
    pub fn open(data: &Path) -> Result<RedbStore, StoreError> {
        fs::create_dir_all(data).map_err(|error| StoreError::File {
            what: "can't make the data directory",
            path: data.to_owned(),
            error,
        })?;
        RedbStore::open_file(&data.join(STORE_FILE))
    }

    /// Opens the store in `path`, whose directory exists.
    pub(super) fn open_file(path: &Path) -> Result<RedbStore, StoreError> {
        let file = path.to_owned();
        let open = move || {
            let database = builder().create(&file)?;
            sync_directory_of(&file)?;
            Ok(database)
        };
        RedbStore::with(path, Box::new(open))
    }

    /// A store on a backend of the caller's, made anew by `open` after each failure: for injecting failures below redb.
    ///
    /// # Errors
    /// As [`RedbStore::open`].
    pub fn with_backend<B: StorageBackend>(
        mut open: impl FnMut() -> B + Send + 'static,
    ) -> Result<RedbStore, StoreError> {
        let open = move || builder().create_with_backend(open());
        RedbStore::with(Path::new("(backend)"), Box::new(open))
    }

    fn with(
        path: &Path,
        open: Box<dyn FnMut() -> Result<Database, DatabaseError> + Send>,
    ) -> Result<RedbStore, StoreError> {
        let mut store = RedbStore {
            path: path.to_owned(),
            open,
            database: None,
        };
        store.database()?;
        Ok(store)
    }

    fn database(&mut self) -> Result<&Database, StoreError> {
        if self.database.is_none() {
            let database = (self.open)().map_err(|error| match error {
                DatabaseError::DatabaseAlreadyOpen => StoreError::InUse(self.path.clone()),
                error => StoreError::Open {
                    path: self.path.clone(),
                    reason: error.to_string(),
                },
            })?;
            self.database = Some(database);
        }
        Ok(self.database.as_ref().expect("opened above"))
    }
}

impl Store for RedbStore {
    fn load(&mut self) -> Result<Records, StoreError> {
        let records = read(self.database()?);
        if records.is_err() {
            self.database = None;
        }
        records.map_err(failed)
    }

    fn commit(&mut self, batch: &Batch) -> Result<(), StoreError> {
        let database = self
            .database
            .as_ref()
            .ok_or_else(|| StoreError::Failed("an earlier commit failed".into()))?;
        let written = write(database, batch);
        if written.is_err() {
            // redb refuses everything after an I/O error; and what is on the disk has to be read again in any case.
            self.database = None;
        }
        written.map_err(failed)
    }
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

fn read(database: &Database) -> Result<Records, redb::Error> {
    let transaction = database.begin_read()?;
    let table = match transaction.open_table(RECORDS) {
        Ok(table) => table,
        // Nothing was ever committed.
        Err(TableError::TableDoesNotExist(_)) => return Ok(Records::new()),
        Err(error) => return Err(error.into()),
    };
    let mut records = Records::new();
    for entry in table.iter()? {
        let (key, value) = entry?;
        records.insert(key.value().to_vec(), value.value().to_vec());
    }
    Ok(records)
}

fn write(database: &Database, batch: &Batch) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    {
        let mut table = transaction.open_table(RECORDS)?;
        for (key, value) in batch {
            match value {
                Some(value) => table.insert(&key[..], &value[..])?,
                None => table.remove(&key[..])?,
            };
        }
    }
    transaction.commit()?;
    Ok(())
}

fn failed(error: redb::Error) -> StoreError {
    StoreError::Failed(error.to_string())
}

/// A new file is only there after a power cut if its directory was synced too.
pub(super) fn sync_directory_of(path: &Path) -> Result<(), StorageError> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    };
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(StorageError::Io)
}

impl From<StoreError> for io::Error {
    fn from(error: StoreError) -> io::Error {
        io::Error::other(error.to_string())
    }
}
