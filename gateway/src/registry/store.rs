//! The registry's copy on disk: what the keeper asks of a store, and sled as one.
//!
//! ```text
//! <data_dir>/registry/sealed        what sled left, see `seal`; missing while sled is open
//!                    /devices.sled/ sled's own files
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::devices::{Change, Device};
use super::keeper::BATCH_DEVICES;
use super::seal::Contents;

/// Memory sled may use for pages, in bytes; its default is 1 GiB.
const CACHE_BYTES: u64 = 1 << 20;
/// sled's file never shrinks: beyond this it is removed and written anew. All devices take a
/// fifth of it.
const STORE_BYTES_MAX: u64 = 32 << 20;
/// Least free space at which the registry writes (D5).
const FREE_BYTES_MIN: u64 = 16 << 20;

/// How long a lock on sled's file is waited for: its last holder, a process that is ending or a thread
/// of sled's, lets go of it a moment after it has closed the file.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(5);
const LOCK_LOOK: Duration = Duration::from_millis(5);

/// Why the store can't go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    /// Nothing was touched; it may be tried again.
    #[error("only {free} bytes of disk are free, the registry leaves {min} to the log")]
    NoSpace { free: u64, min: u64 },
    /// No seal: the process was killed while sled was at work.
    #[error("the files were not left whole")]
    Unclean,
    /// The seal says otherwise.
    #[error("the files are not as they were left")]
    Damaged,
    /// sled gave something that is no device.
    #[error("the store holds something that is no device")]
    Content,
    /// sled has lost some, or found more, and has not said so.
    #[error("the store holds {found} devices, and held {sealed} when it was closed")]
    Miscounted { found: u64, sealed: u64 },
    /// Grown out of bounds.
    #[error("the files have grown to {bytes} bytes, at most {bytes_max} are allowed")]
    TooLarge { bytes: u64, bytes_max: u64 },
    /// A file operation failed.
    #[error("cannot {what} {}", path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// sled says so.
    #[error("sled failed")]
    Sled(#[from] sled::Error),
    /// The keeper caught a panic.
    #[error("the store panicked on {0}")]
    Panicked(&'static str),
    /// The process that has sled says so.
    #[error("{text}")]
    Process { reason: &'static str, text: String },
    /// That process ended, or said what makes no sense.
    #[error("the store's process failed ({how})")]
    Ended {
        how: String,
        #[source]
        source: io::Error,
    },
}

impl StoreError {
    /// For the metric.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::NoSpace { .. } => "no_space",
            Self::Unclean => "unclean",
            Self::Damaged => "damaged",
            Self::Content | Self::Miscounted { .. } => "content",
            Self::TooLarge { .. } => "too_large",
            Self::Io { .. } => "io",
            Self::Sled(_) => "sled",
            Self::Panicked(_) => "panic",
            Self::Process { reason, text: _ } => reason,
            Self::Ended { .. } => "ended",
        }
    }

    pub(super) fn io<'p>(
        what: &'static str,
        path: &'p Path,
    ) -> impl FnOnce(io::Error) -> Self + 'p {
        move |source| Self::Io {
            what,
            path: path.to_path_buf(),
            source,
        }
    }
}

/// A device by its key.
pub(super) type StoredDevice = (String, Device);

/// Where a store lives. Any call may panic or hang: it is the keeper's business to survive that.
pub(super) trait Place: Send {
    /// Opens what was left there, or a new store where nothing is.
    fn open(&mut self) -> Result<Box<dyn Store>, StoreError>;

    /// Removes whatever is there.
    fn clear(&mut self) -> Result<(), StoreError>;

    /// Whether there is disk space to write.
    fn has_space(&self) -> Result<(), StoreError>;
}

/// An open store.
pub(super) trait Store {
    /// Gives every device to `take`, some at a time, which empties what it is given.
    fn load(&mut self, take: &mut dyn FnMut(&mut Vec<StoredDevice>)) -> Result<(), StoreError>;

    /// Takes changes; they are kept from [`Store::close`] on.
    fn write(&mut self, changes: &[Change]) -> Result<(), StoreError>;

    /// Ends; what was written then outlives the process, and if `sync` is set a power cut too.
    fn close(self: Box<Self>, sync: bool) -> Result<(), StoreError>;
}

/// A directory for a sled database.
#[derive(Clone, Debug)]
pub(super) struct SledPlace {
    pub(super) dir: PathBuf,
    pub(super) bytes_max: u64,
    pub(super) free_bytes_min: u64,
}

impl SledPlace {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            bytes_max: STORE_BYTES_MAX,
            free_bytes_min: FREE_BYTES_MIN,
        }
    }

    fn store_dir(&self) -> PathBuf {
        self.dir.join("devices.sled")
    }

    fn seal_path(&self) -> PathBuf {
        self.dir.join("sealed")
    }

    /// Makes the directory, and looks for space.
    pub(super) fn prepare(&self) -> Result<(), StoreError> {
        fs::create_dir_all(&self.dir).map_err(StoreError::io("make", &self.dir))?;
        self.has_space()
    }

    /// Opens what is there, once the directory is [prepared](Self::prepare).
    pub(super) fn open_prepared(&self) -> Result<SledStore, StoreError> {
        let sealed = self.check()?;
        self.break_seal()?;
        let config = sled::Config::new()
            .path(self.store_dir())
            .cache_capacity(CACHE_BYTES)
            // What is written is flushed at the end.
            .flush_every_ms(None);
        let give_up = Instant::now() + LOCK_WAIT_MAX;
        let db = loop {
            match config.open() {
                Err(error) if is_locked(&error) && Instant::now() < give_up => sleep(LOCK_LOOK),
                opened => break opened?,
            }
        };
        let place = self.clone();
        Ok(SledStore { db, place, sealed })
    }

    /// Whether what is there, if anything, is what sled left; and how many devices it said it holds.
    fn check(&self) -> Result<Option<u64>, StoreError> {
        let failed = StoreError::io("read the directory", &self.dir);
        if fs::read_dir(&self.dir).map_err(failed)?.next().is_none() {
            return Ok(None);
        }
        let seal = match fs::read(self.seal_path()) {
            Ok(seal) => seal,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(StoreError::Unclean);
            }
            Err(error) => return Err(StoreError::io("read", &self.seal_path())(error)),
        };
        let store_dir = self.store_dir();
        let leftover = StoreError::io("remove an unfinished snapshot of", &store_dir);
        remove_unfinished_snapshots(&store_dir).map_err(leftover)?;
        let failed = StoreError::io("read", &store_dir);
        let contents = Contents::read(&store_dir, self.bytes_max, false).map_err(failed)?;
        contents.sealed_by(&seal).ok_or(StoreError::Damaged)
    }

    fn break_seal(&self) -> Result<(), StoreError> {
        let seal = self.seal_path();
        remove_file_if_there(&seal).map_err(StoreError::io("remove", &seal))
    }

    fn seal(&self, devices: u64, sync: bool) -> Result<(), StoreError> {
        let (dir, path) = (self.store_dir(), self.seal_path());
        // Room to be measured beyond the bound.
        let read = Contents::read(&dir, 4 * self.bytes_max, sync);
        let contents = read.map_err(StoreError::io("read", &dir))?;
        if contents.bytes > self.bytes_max {
            return Err(StoreError::TooLarge {
                bytes: contents.bytes,
                bytes_max: self.bytes_max,
            });
        }
        contents
            .seal(devices, &path, sync)
            .map_err(StoreError::io("write", &path))
    }
}

impl Place for SledPlace {
    fn open(&mut self) -> Result<Box<dyn Store>, StoreError> {
        self.prepare()?;
        Ok(Box::new(self.open_prepared()?))
    }

    fn clear(&mut self) -> Result<(), StoreError> {
        let dir = &self.dir;
        // The directory itself may be a mount, or a link to one: it stays.
        if !dir.is_dir() {
            remove(dir).map_err(StoreError::io("remove", dir))?;
            return fs::create_dir_all(dir).map_err(StoreError::io("make", dir));
        }
        let failed = StoreError::io("read the directory", dir);
        for entry in fs::read_dir(dir).map_err(failed)? {
            let path = entry
                .map_err(StoreError::io("read the directory", dir))?
                .path();
            remove(&path).map_err(StoreError::io("remove", &path))?;
        }
        Ok(())
    }

    fn has_space(&self) -> Result<(), StoreError> {
        let failed = |error: rustix::io::Errno| {
            StoreError::io("ask for the free space of", &self.dir)(error.into())
        };
        let disk = rustix::fs::statvfs(&self.dir).map_err(failed)?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        let min = self.free_bytes_min;
        if free < min {
            return Err(StoreError::NoSpace { free, min });
        }
        Ok(())
    }
}

fn remove(path: &Path) -> io::Result<()> {
    let is_dir = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata.is_dir(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if is_dir {
        fs::remove_dir_all(path)
    } else {
        remove_file_if_there(path)
    }
}

fn remove_file_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// A full disk leaves one behind, and sled then refuses every later start.
fn remove_unfinished_snapshots(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "generating") {
            remove(&path)?;
        }
    }
    Ok(())
}

/// An open sled database. It has threads that stay until the process ends.
pub(super) struct SledStore {
    db: sled::Db,
    place: SledPlace,
    /// Devices that it held when it was closed last, if that is known.
    sealed: Option<u64>,
}

impl Store for SledStore {
    fn load(&mut self, take: &mut dyn FnMut(&mut Vec<StoredDevice>)) -> Result<(), StoreError> {
        let mut loaded = Vec::with_capacity(BATCH_DEVICES);
        let mut found = 0;
        for entry in self.db.iter() {
            let (key, value) = entry?;
            let key = std::str::from_utf8(&key).map_err(|_| StoreError::Content)?;
            let device = Device::from_bytes(&value).map_err(|_| StoreError::Content)?;
            loaded.push((key.to_owned(), device));
            found += 1;
            if loaded.len() == BATCH_DEVICES {
                take(&mut loaded);
            }
        }
        take(&mut loaded);
        match self.sealed {
            Some(sealed) if sealed != found => Err(StoreError::Miscounted { found, sealed }),
            Some(_) | None => Ok(()),
        }
    }

    fn write(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        let mut batch = sled::Batch::default();
        for (key, device) in changes {
            match device {
                Some(device) => batch.insert(key.as_bytes(), device.to_bytes()),
                None => batch.remove(key.as_bytes()),
            }
        }
        Ok(self.db.apply_batch(batch)?)
    }

    fn close(self: Box<Self>, sync: bool) -> Result<(), StoreError> {
        let Self { db, place, .. } = *self;
        db.flush()?;
        let devices = db.len() as u64;
        drop(db);
        place.seal(devices, sync)
    }
}

/// sled tells of a lock by words alone.
fn is_locked(error: &sled::Error) -> bool {
    match error {
        sled::Error::Io(error) => error.to_string().contains("could not acquire lock"),
        sled::Error::CollectionNotFound(_)
        | sled::Error::Unsupported(_)
        | sled::Error::ReportableBug(_)
        | sled::Error::Corruption { .. } => false,
    }
}
