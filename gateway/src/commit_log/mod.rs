//! The commit log: what makes a record durable before its sender is acknowledged, and keeps it
//! until Kafka has it.
//!
//! A segmented log of our own. Embedded stores were measured and rejected: they write four to ten
//! bytes to flash for each byte of telemetry, lose committed data in a power cut, or can't drain on
//! a full disk (`gateway/README.md` has the figures). This one appends batches to preallocated or
//! reused segments in place, and in steady state costs one device flush a commit.
//!
//! ```text
//! append ─▶ gathered batch ─▶ writer thread: write · sync ─▶ progress ─▶ acknowledgements
//!            (memory, bounded)          │                        └─────▶ cursor ─▶ forwarder
//!                                       ▼                                            │
//!            00000000000000000000.seg  …  00000000000000123456.seg     slots ◀─ commit(offset)
//!            └ checkpoint, batch, batch, …  └ the last one is written
//! ```
//!
//! # Invariants
//! - **I1** [`Progress::synced`] passes a record only after the batch that holds it, and everything
//!   before it, is synced; the directory too, when a file was created or renamed. A [`Cursor`]
//!   never passes it.
//! - **I2** Every batch carries format version, log identity, open counter, base offset, count,
//!   length and the offset that was durable when it was written, under one CRC-32C ([`batch`]).
//! - **I3** After a failed write or sync the log is [`Condition::Poisoned`]: nothing more becomes
//!   durable until it is opened again. A full disk is [`Condition::Full`], which ends by itself.
//! - **I4** Opening scans one segment; stale bytes, a torn tail and corruption are told apart
//!   ([`recovery`]).
//! - **I5** What recovery accepted beyond the last known sync is rewritten and synced before
//!   [`CommitLog::open`] returns.
//! - **I6** Draining and removing segments need no free space. Offsets are dense, never reused once
//!   synced, and survive an emptied log.
//! - **I7** The committed offset lies in a pair of checksummed slots, and in every batch header.
//! - **I8** `drop_oldest` and `age_max` drop whole segments and count their undelivered records by
//!   source; what was dropped stays known until it is told ([`drops`]). A record of unknown age is
//!   never dropped for age ([`retention`]).
//! - **I9** Each segment begins with a checkpoint of the [`DurableState`]; the newest segment is
//!   never removed.
//!
//! # When things fail
//! Crash: at most what was never acknowledged is gone. Full disk: appends wait or the oldest segment
//! goes, draining goes on. Corruption: that batch becomes a [`Hole`]. I/O error on write or sync:
//! poisoned, and the process ends so that its supervisor acts.
//!
//! # Threads
//! [`CommitLog`] may be used from any thread; nothing but [`CommitLog::wait`] and
//! [`CommitLog::close`] blocks on I/O or time. One thread of the log's own writes. This module
//! knows nothing of tokio, MQTT or Kafka.
//!
//! # Layout, bottom-up
//! [`fs`] · `metered` · `entry` a record's bytes · [`compression`] · [`batch`] · `segment` · `slots` ·
//! [`drops`] · `outcome` · `quarantine` · `shared` · [`recovery`] · `writer` · [`retention`] ·
//! `cursor` · [`offline`] the directory as others see it

mod batch;
mod compression;
mod cursor;
mod drops;
mod entry;
mod error;
pub mod fs;
mod metered;
pub mod offline;
mod outcome;
mod progress;
mod quarantine;
mod recovery;
mod retention;
mod segment;
mod shared;
mod slots;
mod state;
#[cfg(test)]
mod tests;
mod writer;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

pub use compression::Compression;
pub use cursor::{Batch, Cursor, Hole, Item, Loss, ReadError};
pub use error::{AppendError, OpenError};
pub use outcome::{Finding, Outcome, Severity};
pub use progress::{Condition, Progress};
pub use shared::StorageError;
pub use state::{BadCheckpoint, DurableState};

use crate::clock::Clock;
use crate::record::{NewRecord, Offset};
use batch::{Header, Kind};
use compression::{Content, Packer};
use drops::{DropFile, Drops};
use fs::{Fs, LockGuard};
use metered::Metered;
use recovery::{Recovered, Tail};
use retention::Expiry;
use shared::{Damage, Gathered, Inner, Segment, Shared};
use slots::Slot;
use writer::Writer;

const LOCK_NAME: &str = "lock";
/// Most bytes gathered for one commit: enough that a sync is cheap beside the write, little beside
/// the memory of a board, since as much again is being written meanwhile.
const GATHER_BYTES_MAX: usize = 1024 * 1024;
/// Smallest segment: a checkpoint and the largest batch must fit. (Shrunk under test, where logs of
/// many segments are to be made of few records.)
pub const SEGMENT_BYTES_MIN: u64 = if cfg!(test) { 16 * 1024 } else { 256 * 1024 };

/// How a log is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its directory; made if absent.
    pub dir: PathBuf,
    /// Most disk space it may use; at least two segments.
    pub bytes_max: u64,
    /// Size of one segment: a multiple of 4096, at least [`SEGMENT_BYTES_MIN`]. A record may be
    /// half as large.
    pub segment_bytes: u64,
    /// Longest wait for a group commit.
    pub commit_interval: Duration,
    /// Drop the oldest segment when full, rather than let appends wait.
    pub drop_oldest: bool,
    /// Drop segments whose records are all older than this.
    pub age_max: Option<Duration>,
    /// How batches are stored.
    pub compression: Compression,
    /// Where time comes from.
    pub clock: Arc<dyn Clock>,
    /// Who opens it, for the one who finds it in use: gateway id and process id, say.
    pub owner: String,
}

/// What a log tells of its own accord. Called on the writer thread: return soon.
pub trait Observer: Send + std::fmt::Debug {
    /// `synced` or the condition has changed.
    fn progress(&self, progress: Progress);

    /// A batch was written and synced.
    fn committed(&self, report: &CommitReport);

    /// Undelivered records of `source` were dropped.
    fn dropped(&self, source: &str, reason: &'static str, records: u64);
}

/// One group commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitReport {
    /// Records in the batch.
    pub records: u64,
    /// Bytes written.
    pub bytes: u64,
    /// Time of write and sync, and of waiting for space.
    pub duration: Duration,
}

/// What opening found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Records that are there and not delivered yet, holes included.
    pub undelivered: u64,
    /// Bytes of a torn tail that was cut; never acknowledged.
    pub cut_bytes: u64,
    /// Records known to have been synced that are gone, in the newest segment. (Holes elsewhere
    /// show when they are read.)
    pub holes: Vec<Hole>,
    /// Files in the directory that are none of the log's. They were left alone.
    pub foreign: Vec<String>,
    /// All that was amiss, by name. To be reported by whoever opened the log.
    pub findings: Vec<Finding>,
}

/// An opened log.
#[derive(Debug)]
pub struct Opened<S> {
    /// The handle.
    pub log: CommitLog,
    /// The state as of the last synced record.
    pub state: S,
    /// What was found.
    pub recovery: Recovery,
}

/// A handle on an open log. Clones share it; when the last one is dropped the log is closed.
#[derive(Clone, Debug)]
pub struct CommitLog {
    shared: Arc<Shared>,
    fs: Arc<dyn Fs>,
    thread: Arc<WriterThread>,
}

/// Closes the log with its last handle.
#[derive(Debug)]
struct WriterThread {
    shared: Arc<Shared>,
    handle: Mutex<Option<JoinHandle<()>>>,
}

impl WriterThread {
    fn close(&self) {
        self.shared.request_close();
        let handle = self
            .handle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(handle) = handle
            && handle.join().is_err()
        {
            tracing::error!(dir = %self.shared.dir.display(), "the log's writer thread panicked");
        }
    }
}

impl Drop for WriterThread {
    fn drop(&mut self) {
        self.close();
    }
}

impl CommitLog {
    /// Opens the log of `options.dir`, making it if it is not there. On return everything that
    /// recovery found is durable, and the writer thread runs.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open<S: DurableState + Clone + 'static>(
        fs: Arc<dyn Fs>,
        options: Options,
        observer: Box<dyn Observer>,
        state: S,
    ) -> Result<Opened<S>, OpenError> {
        check(&options)?;
        let written_bytes = Arc::new(AtomicU64::new(0));
        let fs: Arc<dyn Fs> = Arc::new(Metered::new(fs, Arc::clone(&written_bytes)));
        let dir = &options.dir;
        fs.create_dir_all(dir)
            .map_err(StorageError::new("make the directory", dir))?;
        let lock = lock(&*fs, &options)?;
        Opening {
            fs,
            options,
            lock,
            state,
            written_bytes,
        }
        .run(observer)
    }

    /// Puts a record into the batch being gathered and returns the offset it will have. The record
    /// is *buffered* only: it is durable once [`Progress::synced`] is past that offset.
    ///
    /// # Errors
    /// See [`AppendError`]; nothing was taken.
    pub fn append(&self, record: &NewRecord<'_>) -> Result<Offset, AppendError> {
        self.shared.append(record)
    }

    /// Largest encoded record in bytes. Encoding adds less than 128 bytes to source, subject and
    /// payload.
    #[must_use]
    pub fn record_bytes_max(&self) -> usize {
        self.shared.record_bytes_max
    }

    /// How far the log is now.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.shared.lock().progress
    }

    /// Blocks the calling thread until `synced` is past `offset`, the condition changes to
    /// poisoned or closed, or `timeout` has passed. Returns how far the log is then.
    #[must_use]
    pub fn wait(&self, offset: Offset, timeout: Duration) -> Progress {
        self.shared.wait(offset, timeout)
    }

    /// The committed offset: every record below it is delivered.
    #[must_use]
    pub fn committed(&self) -> Offset {
        self.shared.lock().committed
    }

    /// Says that every record below `offset` is delivered. It becomes durable with the next group
    /// commit, or within two seconds; segments below it are then reused or removed. Going backwards
    /// has no effect, nor has going past what is synced.
    pub fn commit(&self, offset: Offset) {
        self.shared.commit(offset);
    }

    /// The reader whose records are delivered: drops leave out what it has handed out. There is one.
    #[must_use]
    pub fn delivery_cursor(&self, from: Offset) -> Cursor {
        self.cursor(from).delivering()
    }

    /// A reader that starts at `from`.
    #[must_use]
    pub fn cursor(&self, from: Offset) -> Cursor {
        Cursor::new(Arc::clone(&self.shared), Arc::clone(&self.fs), from)
    }

    /// The log's random identity, 16 hexadecimal digits, made with it or by
    /// [`CommitLog::renew_identity`].
    #[must_use]
    pub fn identity(&self) -> String {
        let lineage = self.shared.lock().lineage;
        format!("{:016x}", self.shared.identity ^ lineage)
    }

    /// Gives the log a new identity, for one that was restored from an old copy: its offsets name
    /// other records than those the world knows under the old one. Offsets and records stay. Blocks
    /// until the new identity is durable; false if the log has failed or was closed, the old one
    /// then stays.
    #[must_use]
    pub fn renew_identity(&self) -> bool {
        self.shared.renew(new_identity())
    }

    /// Figures for metrics and status.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let inner = self.shared.lock();
        Stats {
            undelivered: inner
                .progress
                .synced
                .since(inner.committed)
                .saturating_sub(inner.drops.records_from(inner.committed)),
            committed: inner.committed,
            progress: inner.progress,
            disk_bytes: inner.disk_bytes,
            segments: inner.segments.len(),
            written_bytes: self.shared.written_bytes.load(Ordering::Relaxed),
        }
    }

    /// Why the log is poisoned.
    #[must_use]
    pub fn failure(&self) -> Option<Arc<StorageError>> {
        self.shared.lock().failure.clone()
    }

    /// Syncs what was appended, writes the slots, and ends the writer thread. Appends are refused
    /// from now on; cursors go on reading. Blocks until done. If the disk is full, what was
    /// appended and not synced is given up: it was not acknowledged.
    pub fn close(&self) {
        self.thread.close();
    }
}

/// A log's figures at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Synced and not yet delivered records. Dropped ones are not among them; those lost in other
    /// holes are, until they are read.
    pub undelivered: u64,
    /// See [`CommitLog::committed`].
    pub committed: Offset,
    /// See [`CommitLog::progress`].
    pub progress: Progress,
    /// Disk space in use.
    pub disk_bytes: u64,
    /// Segments that hold data.
    pub segments: usize,
    /// Bytes written to the log's files by and since opening, in whole pages: batches, checkpoints,
    /// slots, zeroes.
    pub written_bytes: u64,
}

fn check(options: &Options) -> Result<(), OpenError> {
    let Options {
        segment_bytes,
        bytes_max,
        ..
    } = *options;
    if segment_bytes < SEGMENT_BYTES_MIN || segment_bytes % 4096 != 0 || segment_bytes >= 1 << 32 {
        return Err(OpenError::Size {
            what: "segment size",
            found: segment_bytes,
            expected: "a multiple of 4096, from 256 KiB to below 4 GiB",
        });
    }
    if bytes_max < 2 * segment_bytes + slots::FILE_BYTES + drops::FILE_BYTES {
        return Err(OpenError::Size {
            what: "budget",
            found: bytes_max,
            expected: "at least two segments and 40 KiB",
        });
    }
    Ok(())
}

fn lock(fs: &dyn Fs, options: &Options) -> Result<Box<dyn LockGuard>, OpenError> {
    let path = options.dir.join(LOCK_NAME);
    let locked = fs
        .lock(&path, &options.owner)
        .map_err(StorageError::new("lock", &path))?;
    locked.map_err(|owner| OpenError::InUse {
        dir: options.dir.clone(),
        owner,
    })
}

/// The steps of opening, in order.
struct Opening<S> {
    fs: Arc<dyn Fs>,
    options: Options,
    lock: Box<dyn LockGuard>,
    state: S,
    written_bytes: Arc<AtomicU64>,
}

/// What opening has found out when the writer starts.
struct Found {
    recovered: Recovered,
    slot: Slot,
    tail: Tail,
    drop_file: DropFile,
    drops: Drops,
}

impl<S: DurableState + Clone + 'static> Opening<S> {
    fn run(mut self, observer: Box<dyn Observer>) -> Result<Opened<S>, OpenError> {
        let dir = self.options.dir.clone();
        let mut recovered = recovery::recover(
            &*self.fs,
            &dir,
            self.options.segment_bytes,
            new_identity,
            &mut self.state,
        )?;
        let slot = recovered.slot;
        let tail = recovered.tail.take();
        let open_counter = tail
            .as_ref()
            .map_or(slot.open_counter, |tail| tail.open_counter)
            .saturating_add(1);
        let tail = match tail {
            Some(tail) => tail,
            None => self.first_segment(&slot, open_counter, &mut recovered.listing.segments)?,
        };
        let committed = tail.committed.min(tail.next);
        let wanted = self.options.drop_oldest || self.options.age_max.is_some();
        let (drop_file, mut drops) = DropFile::open(&*self.fs, &dir, slot.identity, wanted)
            .map_err(StorageError::new("open", &dir.join(drops::FILE_NAME)))?;
        drops::finish(&drops, &*self.fs, &dir, &mut recovered.listing.segments)?;
        drops.prune(committed);
        self.reserve(&mut recovered)?;
        self.fs
            .sync_dir(&dir)
            .map_err(StorageError::new("sync the directory", &dir))?;
        let slot = Slot {
            identity: slot.identity,
            open_counter,
            committed,
            synced: tail.next,
            lineage: slot.lineage,
        };
        let slots_path = slots::path(&dir);
        recovered
            .slots
            .write(&slot)
            .map_err(StorageError::new("write", &slots_path))?;
        let found = Found {
            recovered,
            slot,
            tail,
            drop_file,
            drops,
        };
        self.start(found, observer)
    }

    /// A log that drops its oldest segment when full, as dead letters do, always has a second one
    /// to go on in, so that a full disk stops nothing (I6). Without space for it now, it does
    /// without.
    fn reserve(&self, recovered: &mut Recovered) -> Result<(), OpenError> {
        let listing = &mut recovered.listing;
        if !self.options.drop_oldest || listing.has_spare || listing.segments.len() > 1 {
            return Ok(());
        }
        let path = self.options.dir.join(segment::SPARE_NAME);
        let made = self
            .fs
            .create(&path)
            .and_then(|file| file.allocate(self.options.segment_bytes));
        match made {
            Ok(()) => listing.has_spare = true,
            // What there is of it goes with the next opening.
            Err(error) if fs::is_full(&error) => {}
            Err(error) => return Err(StorageError::new("reserve", &path)(error).into()),
        }
        Ok(())
    }

    /// Begins a log that has no segment: a new one, or one whose segments are all gone; offsets
    /// then go on where the slots say they were (I6).
    fn first_segment(
        &self,
        slot: &Slot,
        open_counter: u32,
        segments: &mut Vec<Segment>,
    ) -> Result<Tail, OpenError> {
        let path = segment::path(&self.options.dir, slot.synced);
        let file = self
            .fs
            .create(&path)
            .map_err(StorageError::new("create", &path))?;
        let bytes = self.options.segment_bytes;
        let header = Header {
            kind: Kind::Checkpoint,
            identity: slot.identity,
            open_counter,
            count: 0,
            base: slot.synced,
            synced: slot.synced,
            committed: slot.committed,
            written: self.options.clock.moment(),
            content: Content::Plain,
        };
        let position = writer::make_room(&*file, bytes, true)
            .and_then(|()| writer::begin_segment(&*file, &header, &self.state))
            .map_err(StorageError::new("begin the segment", &path))?;
        let segment = Segment {
            base: slot.synced,
            bytes,
        };
        segments.push(segment);
        Ok(Tail {
            segment,
            file,
            position,
            next: slot.synced,
            committed: slot.committed,
            open_counter,
            cut_bytes: 0,
            holes: Vec::new(),
            findings: Vec::new(),
        })
    }

    fn start(self, found: Found, observer: Box<dyn Observer>) -> Result<Opened<S>, OpenError> {
        let Found {
            mut recovered,
            slot,
            mut tail,
            drop_file,
            drops,
        } = found;
        let dir = &self.options.dir;
        let known = (slot.committed, &drops);
        let findings = recovery::findings(&mut recovered, dir, &mut tail, known);
        let Recovered {
            listing,
            quarantine,
            slots,
            ..
        } = recovered;
        let segment_bytes = self.options.segment_bytes;
        let spare_bytes = if listing.has_spare { segment_bytes } else { 0 };
        let data_bytes: u64 = listing.segments.iter().map(|segment| segment.bytes).sum();
        let inner = Inner {
            gathering: Gathered::new(),
            gathering_since: None,
            next: tail.next,
            progress: Progress {
                synced: tail.next,
                condition: Condition::Running,
            },
            committed: slot.committed,
            segments: listing.segments.into(),
            tail_position: tail.position,
            disk_bytes: data_bytes
                + spare_bytes
                + quarantine.bytes()
                + slots::FILE_BYTES
                + drop_file.bytes(),
            drops,
            dropping: None,
            handed_out: slot.committed,
            uncounted: Vec::new(),
            lineage: slot.lineage,
            lineage_wanted: slot.lineage,
            damage: Damage::known(&findings),
            closing: false,
            failure: None,
        };
        let dir = self.options.dir.clone();
        let packer = Packer::new(self.options.compression)
            .map_err(StorageError::new("prepare compression for", &dir))?;
        let shared = Arc::new(Shared::new(
            dir,
            slot.identity,
            segment_bytes,
            self.written_bytes,
            inner,
        ));
        let writer = Writer {
            shared: Arc::clone(&shared),
            fs: Arc::clone(&self.fs),
            open_counter: slot.open_counter,
            active: tail.file,
            active_bytes: tail.segment.bytes,
            position: tail.position,
            has_spare: listing.has_spare,
            // Unknown, so taken for many.
            active_batches: segment_bytes,
            slots,
            quarantine,
            drop_file,
            expiry: self.options.age_max.map(Expiry::new),
            packer,
            packed: Vec::new(),
            slot_written: slot,
            state: Box::new(self.state.clone()),
            observer,
            options: self.options,
            _lock: self.lock,
        };
        let handle = std::thread::Builder::new()
            .name("commit-log".to_owned())
            .spawn(move || writer.run())
            .map_err(OpenError::Thread)?;
        let recovery = Recovery {
            undelivered: tail.next.since(slot.committed),
            cut_bytes: tail.cut_bytes,
            holes: tail.holes,
            foreign: listing.foreign,
            findings,
        };
        let thread = Arc::new(WriterThread {
            shared: Arc::clone(&shared),
            handle: Mutex::new(Some(handle)),
        });
        let log = CommitLog {
            shared,
            fs: self.fs,
            thread,
        };
        Ok(Opened {
            log,
            state: self.state,
            recovery,
        })
    }
}

/// A random 64-bit identity. From the kernel; a board so early in its boot that it has no entropy
/// waits for it.
fn new_identity() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    let mut bytes = [0; 8];
    match rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()) {
        Ok(8) => u64::from_le_bytes(bytes),
        // Interrupted: the standard library's hash keys are random too.
        Ok(_) | Err(_) => std::collections::hash_map::RandomState::new()
            .build_hasher()
            .finish(),
    }
}
