//! The durable store. (head follows)

mod progress;

use std::path::PathBuf;
use std::time::Duration;

pub use progress::{Condition, Progress};

use crate::record::{NewRecord, Offset, RecordView};

/// How a log is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its directory; made if absent.
    pub dir: PathBuf,
    /// Most disk space it may use.
    pub bytes_max: u64,
    /// Size of one segment.
    pub segment_bytes: u64,
    /// Longest wait for a group commit.
    pub commit_interval: Duration,
    /// Drop the oldest segment when full, rather than let appends wait.
    pub drop_oldest: bool,
}

/// A handle on an open log. Clones share it. All methods may be called from any thread.
#[derive(Clone, Debug)]
pub struct CommitLog {}

/// Why a record was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// No room in memory for now, because the disk is slow, or full ([`Condition::Full`]). Wait
    /// for the next [`Progress`] and try again.
    #[error("no room for the record until the log has moved on")]
    Full,
    /// Larger than a segment can hold. It will never fit.
    #[error("a record of {bytes} bytes does not fit a segment, which holds {bytes_max}")]
    TooLarge {
        /// Encoded size.
        bytes: usize,
        /// Largest encoded size.
        bytes_max: usize,
    },
    /// The log is poisoned (I3) or closed: nothing more will become durable.
    #[error("the commit log takes no more records")]
    Closed,
}

impl CommitLog {
    /// Puts a record into the batch being gathered and returns the offset it will have. The record
    /// is *buffered* only: it is durable once [`Progress::synced`] is past that offset.
    ///
    /// # Errors
    /// See [`AppendError`].
    pub fn append(&self, _record: &NewRecord<'_>) -> Result<Offset, AppendError> {
        unimplemented!()
    }

    /// How far the log is now.
    #[must_use]
    pub fn progress(&self) -> Progress {
        unimplemented!()
    }

    /// Blocks the calling thread until `synced` is past `offset`, the condition changes to
    /// poisoned or closed, or `timeout` has passed. Returns how far the log is then.
    #[must_use]
    pub fn wait(&self, _offset: Offset, _timeout: Duration) -> Progress {
        unimplemented!()
    }

    /// The committed offset: every record below it is delivered.
    #[must_use]
    pub fn committed(&self) -> Offset {
        unimplemented!()
    }

    /// Says that every record below `offset` is delivered. It becomes durable with the next group
    /// commit, or within a second; segments below it are then reused or removed. Going backwards
    /// has no effect.
    pub fn commit(&self, _offset: Offset) {
        unimplemented!()
    }

    /// A reader that starts at `from`.
    #[must_use]
    pub fn cursor(&self, _from: Offset) -> Cursor {
        unimplemented!()
    }

    /// The log's random identity, 16 hexadecimal digits, made with it.
    #[must_use]
    pub fn identity(&self) -> String {
        unimplemented!()
    }
}

/// A reader of synced records, in order. It belongs to one thread.
#[derive(Debug)]
pub struct Cursor {}

/// What a cursor found.
#[derive(Debug)]
pub enum Item<'a> {
    /// Records, in order, the first one at the cursor's position.
    Batch(Batch<'a>),
    /// Records that are no longer there (I4, I8).
    Hole(Hole),
}

/// Offsets `first..=last` are missing from the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hole {
    /// First missing offset.
    pub first: Offset,
    /// Last missing offset.
    pub last: Offset,
    /// Why, as in the `reason` label of the metrics: `corrupt`, `dropped_oldest`.
    pub reason: &'static str,
}

/// A verified batch.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    #[allow(dead_code)]
    content: &'a [u8],
}

impl<'a> Batch<'a> {
    /// The records at and past the cursor's position.
    pub fn records(&self) -> impl Iterator<Item = RecordView<'a>> + use<'a> {
        std::iter::empty()
    }
}

/// Why reading failed: an I/O error, not corruption.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {}", path.display())]
pub struct ReadError {
    /// The file.
    pub path: PathBuf,
    /// What the system said.
    #[source]
    pub source: std::io::Error,
}

impl Cursor {
    /// Reads on: the next batch or hole, `None` if nothing synced lies beyond the position. The
    /// position is then behind what was returned.
    ///
    /// # Errors
    /// [`ReadError`]; the position is unchanged and the call may be repeated.
    pub fn next(&mut self) -> Result<Option<Item<'_>>, ReadError> {
        unimplemented!()
    }

    /// Offset of the next record to read.
    #[must_use]
    pub fn position(&self) -> Offset {
        unimplemented!()
    }

    /// Moves to `offset`, forwards or backwards (to no less than the committed offset).
    pub fn seek(&mut self, _offset: Offset) {
        unimplemented!()
    }
}
