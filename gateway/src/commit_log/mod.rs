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
mod opening;
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
pub(crate) mod tests;
mod writer;

use std::path::PathBuf;
use std::sync::atomic::Ordering;
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
use crate::record::{NewRecord, Offset, RecordView};
use fs::Fs;
use shared::Shared;

const LOCK_NAME: &str = "lock";
/// Most bytes gathered for one commit: what comes while a slow card syncs, and little beside the memory of
/// a board, since as much again is being written meanwhile. A quarter of it is committed without waiting
/// for more: a sync is cheap beside that much, and senders whose windows are full are answered sooner
/// (sixteen lines brought 570,000 records a second instead of 210,000 with half of it).
const GATHER_BYTES_MAX: usize = 1024 * 1024;
/// How long others who go on appending put off a hastened commit.
const HASTE_MAX: Duration = Duration::from_millis(10);
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
    /// Begin with a second segment, filled, so that nobody waits while the first one ends.
    pub reserve: bool,
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

    /// An undelivered record is about to be dropped. False if nobody misses it: it is then not
    /// counted. Asked once for each record that can be read.
    fn misses(&self, _record: &RecordView<'_>) -> bool {
        true
    }

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
        opening::open(fs, options, observer, state)
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
    /// poisoned or closed, [`CommitLog::rouse`] is called, or `timeout` has passed. Returns how far the
    /// log is then.
    #[must_use]
    pub fn wait(&self, offset: Offset, timeout: Duration) -> Progress {
        self.shared.wait(offset, timeout)
    }

    /// Begins the group commit of `last` early, rather than at the end of [`Options::commit_interval`]:
    /// its caller has appended it, and knows that he has nothing more before it is durable. It begins now,
    /// or within 10 ms if others have appended since, who may not be through: of many whose bursts
    /// run side by side the last one's end begins the commit of all. Has no effect once `last` is being
    /// written.
    pub fn hasten(&self, last: Offset) {
        self.shared.hasten(last);
    }

    /// Longest wait for a group commit.
    #[must_use]
    pub fn commit_interval(&self) -> Duration {
        self.shared.commit_interval
    }

    /// Ends the [`CommitLog::wait`] of every thread that is in one.
    pub fn rouse(&self) {
        self.shared.rouse();
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
        self.shared.renew(opening::new_identity())
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
            unsynced: inner.next.since(inner.progress.synced),
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
    /// Records appended and not yet synced.
    pub unsynced: u64,
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
