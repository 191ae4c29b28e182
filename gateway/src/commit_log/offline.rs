//! A log's directory as somebody else sees it: read without the writer, without a lock, and without
//! changing a byte, also while a gateway writes it.
//!
//! It exists because people want to look into a buffer that is in use, and into one whose gateway
//! does not start. Taking the lock was rejected, even for an instant: a gateway that starts just then
//! would be refused.
//!
//! # What a running gateway does meanwhile, and why it is never taken for damage
//! - *It writes the tail.* A batch that is not whole is damage only below an offset that was known
//!   to be synced *before* that batch was read. [`LogDir::read`] therefore learns that offset first,
//!   from the slots and the headers, and [`Scan`] reads afterwards.
//! - *It begins segments.* The slots' synced offset is read before the directory is listed, so that
//!   the files listed hold everything below it.
//! - *It reuses or drops segments.* Their names are gone before a byte of them is changed, and a
//!   name never comes back. So what looks damaged is damage only if the name is still there
//!   afterwards; otherwise it is [`What::Recycled`].
//! - *It changes the directory while it is listed.* The list is taken until two agree.
//!
//! What is found is a snapshot: records that are committed later may or may not be in it.

mod lock_state;
mod repair;
mod scan;

use std::io;
use std::path::{Path, PathBuf};

pub use lock_state::{LockState, lock_state};
pub use repair::{Mend, plan, repair};
pub use scan::{BatchAt, Event, Finding, Scan, What};

use super::batch::{FORMAT_VERSION, Header};
use super::fs::Fs;
use super::segment::{self, BatchReader, Found, Look};
use super::shared::{Segment, StorageError};
use super::slots::{self, Slot};
use super::{LOCK_NAME, OpenError, drops, recovery};
use crate::record::Offset;

/// Files whose name has this in it were set aside, by the gateway or by a repair.
const DAMAGED: &str = ".damaged";
/// How often the directory is listed until two lists agree. Reached only if segments come and go
/// faster than names are read.
const LISTINGS_MAX: usize = 16;

/// Why a directory could not be read.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// There is no such directory.
    #[error(
        "there is no commit log at {}: name the data directory, which holds log/, with --data-dir",
        dir.display()
    )]
    Missing {
        /// Where it was looked for.
        dir: PathBuf,
    },
    /// A file could not be read, another process has the log, or a newer gateway wrote it.
    #[error(transparent)]
    Log(#[from] OpenError),
}

impl From<StorageError> for OfflineError {
    fn from(error: StorageError) -> Self {
        Self::Log(OpenError::Storage(error))
    }
}

/// A file that is no segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherFile {
    /// Its name in the directory.
    pub name: String,
    /// Its size.
    pub bytes: u64,
}

/// What lies in a log's directory, as of one moment.
#[derive(Debug)]
pub struct LogDir<'f> {
    fs: &'f dyn Fs,
    dir: PathBuf,
    /// Sorted by base.
    segments: Vec<Segment>,
    spares: Vec<OtherFile>,
    quarantined: Vec<OtherFile>,
    foreign: Vec<OtherFile>,
    slot: Option<Slot>,
    notes_bytes: u64,
    /// `None` if neither slots nor any segment tell it; then nothing in the directory is whole.
    identity: Option<u64>,
    /// Every record below it was synced before any segment was read.
    synced: Offset,
    committed: Offset,
    open_counter: u32,
    end: Offset,
}

impl<'f> LogDir<'f> {
    /// Lists the directory, reads the slots, and scans the newest segment that holds a batch.
    ///
    /// # Errors
    /// [`OfflineError`]; nothing was changed.
    pub fn read(fs: &'f dyn Fs, dir: &Path) -> Result<Self, OfflineError> {
        let before = recovery::read_slot(fs, dir)?;
        let names = settled_list(fs, dir)?;
        // A segment is removed only after the slots say that it is delivered, so these, read after
        // the list, account for every segment that is not in it.
        let slot = recovery::read_slot(fs, dir)?;
        let mut log = Self {
            fs,
            dir: dir.to_owned(),
            segments: Vec::new(),
            spares: Vec::new(),
            quarantined: Vec::new(),
            foreign: Vec::new(),
            slot,
            notes_bytes: 0,
            identity: None,
            synced: before.map_or(Offset::ZERO, |slot| slot.synced),
            committed: slot.map_or(Offset::ZERO, |slot| slot.committed),
            open_counter: slot.map_or(0, |slot| slot.open_counter),
            end: Offset::ZERO,
        };
        for name in names {
            log.sort_in(name)?;
        }
        log.segments.sort_by_key(|segment| segment.base);
        log.identity = match slot {
            Some(slot) => Some(slot.identity),
            None => recovery::identity_of(fs, dir, &log.segments)?,
        };
        log.learn()?;
        Ok(log)
    }

    /// Puts a file where it belongs. One that has gone since it was listed is left out.
    fn sort_in(&mut self, name: String) -> Result<(), OfflineError> {
        if name == LOCK_NAME {
            return Ok(());
        }
        let path = self.dir.join(&name);
        let size = self.fs.open(&path, false).and_then(|file| file.size());
        let bytes = match size {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            // A directory, say.
            Err(_) if segment::base_of(&name).is_none() && name != slots::FILE_NAME => 0,
            Err(error) => return Err(StorageError::new("read the size of", &path)(error).into()),
        };
        if let Some(base) = segment::base_of(&name) {
            self.segments.push(Segment { base, bytes });
        } else if [slots::FILE_NAME, drops::FILE_NAME].contains(&&*name) {
            self.notes_bytes += bytes;
        } else {
            let files = if name.starts_with(segment::SPARE_NAME) {
                &mut self.spares
            } else if name.contains(DAMAGED) {
                &mut self.quarantined
            } else {
                &mut self.foreign
            };
            files.push(OtherFile { name, bytes });
        }
        Ok(())
    }

    /// Learns from the newest segment that holds a batch how far the log was synced and delivered,
    /// and then where it ends.
    fn learn(&mut self) -> Result<(), OfflineError> {
        self.end = self.synced;
        for index in (0..self.segments.len()).rev() {
            if !self.first_pass(index)? {
                continue;
            }
            let mut scan = Scan::of(self, index);
            while scan.next()?.is_some() {}
            let reach = scan.reach();
            self.end = self.end.max(reach);
            break;
        }
        Ok(())
    }

    /// Takes the offsets of the headers of one segment. False if it holds no batch.
    fn first_pass(&mut self, index: usize) -> Result<bool, OfflineError> {
        let segment = self.segments[index];
        let path = segment::path(&self.dir, segment.base);
        let mut reader = match self.fs.open(&path, false) {
            Ok(file) => BatchReader::new(file, self.identity.unwrap_or(0)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(StorageError::new("open", &path)(error).into()),
        };
        let (mut position, mut expected, mut predecessor) = (0, segment.base, 0);
        let mut found_any = false;
        loop {
            let ours =
                |header: &Header| header.base >= expected && header.open_counter >= predecessor;
            // What can't be read tells nothing; the scan reports it.
            let Ok(found) = next_whole(&mut reader, position, segment.bytes, ours) else {
                break;
            };
            let Some(found) = found else { break };
            found_any = true;
            position = found.position + found.bytes as u64;
            expected = found.header.end();
            predecessor = found.header.open_counter;
            self.synced = self.synced.max(found.header.synced);
            self.committed = self.committed.max(found.header.committed);
            self.open_counter = self.open_counter.max(predecessor);
        }
        Ok(found_any)
    }

    /// Reads the whole log, oldest first.
    #[must_use]
    pub fn scan(&self) -> Scan<'_> {
        Scan::of(self, 0)
    }

    /// Reads from the segment on that holds `offset`. (What lies before `offset` in that segment is
    /// read too.)
    #[must_use]
    pub fn scan_from(&self, offset: Offset) -> Scan<'_> {
        let behind = self
            .segments
            .partition_point(|segment| segment.base <= offset);
        Scan::of(self, behind.saturating_sub(1))
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The log's identity, 16 hexadecimal digits, if anything tells it.
    #[must_use]
    pub fn identity(&self) -> Option<String> {
        self.identity.map(|identity| format!("{identity:016x}"))
    }

    /// The format version of every batch that is read.
    #[must_use]
    pub fn format_version(&self) -> u8 {
        FORMAT_VERSION
    }

    /// How often the log has been opened.
    #[must_use]
    pub fn open_counter(&self) -> u32 {
        self.open_counter
    }

    /// Whether a whole slot was found. Without one a gateway takes what the batches say.
    #[must_use]
    pub fn has_slots(&self) -> bool {
        self.slot.is_some()
    }

    /// Every record below it is delivered.
    #[must_use]
    pub fn committed(&self) -> Offset {
        self.committed
    }

    /// Every record below it is known to have been synced.
    #[must_use]
    pub fn synced(&self) -> Offset {
        self.synced
    }

    /// First offset that the segments hold; [`LogDir::end`] if they hold none.
    #[must_use]
    pub fn first(&self) -> Offset {
        self.segments.first().map_or(self.end, |first| first.base)
    }

    /// Offset behind the last record that can be read.
    #[must_use]
    pub fn end(&self) -> Offset {
        self.end
    }

    /// Number of segments.
    #[must_use]
    pub fn segments(&self) -> usize {
        self.segments.len()
    }

    /// Bytes in segments.
    #[must_use]
    pub fn segment_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// Bytes of all files of the log: segments, spares, slots.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        let spares: u64 = self.spares.iter().map(|spare| spare.bytes).sum();
        self.segment_bytes() + spares + self.notes_bytes
    }

    /// Segments that wait to be written again.
    #[must_use]
    pub fn spares(&self) -> &[OtherFile] {
        &self.spares
    }

    /// Damaged files that were set aside.
    #[must_use]
    pub fn quarantined(&self) -> &[OtherFile] {
        &self.quarantined
    }

    /// Files that are none of the log's.
    #[must_use]
    pub fn foreign(&self) -> &[OtherFile] {
        &self.foreign
    }
}

/// The whole batch at `position`, or the next one behind it, that is `ours`.
fn next_whole(
    reader: &mut BatchReader,
    position: u64,
    limit: u64,
    ours: impl Fn(&Header) -> bool,
) -> io::Result<Option<Found>> {
    match reader.look(position, limit)? {
        Look::Batch(found) if ours(&found.header) => Ok(Some(found)),
        Look::Batch(_) | Look::Nothing | Look::Other(_) => reader.search(position, limit, ours),
    }
}

/// The names in the directory, sorted, once two lists agree.
fn settled_list(fs: &dyn Fs, dir: &Path) -> Result<Vec<String>, OfflineError> {
    let list = || match fs.list(dir) {
        Ok(mut names) => {
            names.sort_unstable();
            Ok(names)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(OfflineError::Missing {
            dir: dir.to_owned(),
        }),
        Err(error) => Err(StorageError::new("list", dir)(error).into()),
    };
    let mut names = list()?;
    for _ in 1..LISTINGS_MAX {
        let again = list()?;
        if again == names {
            break;
        }
        names = again;
    }
    Ok(names)
}
