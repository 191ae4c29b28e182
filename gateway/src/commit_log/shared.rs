//! What appenders, readers and the writer thread share, behind one mutex that nobody holds during
//! I/O.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::batch::HEADER_BYTES;
use super::drops::{Counts, DropReason, Drops};
use super::outcome::{Finding, Outcome};
use super::slots::Slot;
use super::{AppendError, Condition, Options, Progress, entry, segment};
use crate::record::{NewRecord, Offset};

/// A call on the log's files failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
pub struct StorageError {
    /// What was tried.
    pub action: &'static str,
    /// On which file.
    pub path: PathBuf,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

impl StorageError {
    pub(super) fn new(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self {
            action,
            path,
            source,
        }
    }
}

/// A segment file that holds data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) base: Offset,
    pub(super) bytes: u64,
}

/// Records being gathered for the next group commit, encoded, behind room for the header.
#[derive(Debug)]
pub(super) struct Gathered {
    pub(super) bytes: Vec<u8>,
    pub(super) count: u32,
    pub(super) base: Offset,
}

impl Gathered {
    pub(super) fn new() -> Self {
        Self {
            bytes: vec![0; HEADER_BYTES],
            count: 0,
            base: Offset::ZERO,
        }
    }

    pub(super) fn reset(&mut self) {
        self.bytes.truncate(HEADER_BYTES);
        self.count = 0;
    }
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) gathering: Gathered,
    /// When the first record of `gathering` came.
    pub(super) gathering_since: Option<Instant>,
    /// When `gathering` is committed at the latest, where [`super::CommitLog::hasten`] asked for it.
    pub(super) hastened: Option<Instant>,
    /// The offset the next record gets.
    pub(super) next: Offset,
    pub(super) progress: Progress,
    pub(super) committed: Offset,
    /// Oldest first; the last one is being written.
    pub(super) segments: VecDeque<Segment>,
    /// Where the next batch goes in the last segment. Everything before is synced.
    pub(super) tail_position: u64,
    /// Disk space in use, spare segment and slots included.
    pub(super) disk_bytes: u64,
    /// What was dropped and is not yet told.
    pub(super) drops: Drops,
    /// The segment that is being dropped: nothing is handed out of it any more.
    pub(super) dropping: Option<Offset>,
    /// Everything below was handed out for delivery.
    pub(super) handed_out: Offset,
    /// Dropped records that the observer is to be told of.
    pub(super) uncounted: Vec<(DropReason, Counts)>,
    pub(super) damage: Damage,
    /// What tells the log's identity from the one its batches carry; durable.
    pub(super) lineage: u64,
    /// What it is to become.
    pub(super) lineage_wanted: u64,
    pub(super) closing: bool,
    /// The writer waits until it is woken, however long.
    pub(super) sleeps: bool,
    /// The writer looks by itself at what is gathered before a record that comes now has waited too long.
    pub(super) looks: bool,
    /// How often who waits was roused.
    pub(super) roused: u64,
    pub(super) failure: Option<Arc<StorageError>>,
}

/// What is known to be damaged.
#[derive(Debug, Default)]
pub(super) struct Damage {
    /// Lost offsets that were reported, first and last; those that are passed are forgotten.
    reported: Vec<(Offset, Offset)>,
    /// Segments with something in them that is to be looked into.
    segments: BTreeSet<Offset>,
}

impl Damage {
    /// What opening found: its caller reports it.
    pub(super) fn known(findings: &[Finding]) -> Self {
        let mut damage = Self::default();
        for finding in findings {
            damage.note(finding);
            damage.reported.extend(finding.lost);
        }
        damage
    }

    /// Takes note that a segment is damaged, for the time when it is removed. True if that is news.
    pub(super) fn note(&mut self, finding: &Finding) -> bool {
        let base = match finding.outcome {
            Outcome::CorruptBatch
            | Outcome::UndecodableBatch
            | Outcome::CorruptEnd
            | Outcome::UnreadableSegment
            | Outcome::OverlappingSegments => {
                let name = finding.path.file_name().and_then(|name| name.to_str());
                name.and_then(segment::base_of)
            }
            Outcome::EarlierLife
            | Outcome::CutRemains
            | Outcome::TornTail
            | Outcome::TailMadeDurable
            | Outcome::BegunSegment
            | Outcome::ZeroLengthSegment
            | Outcome::MissingSegment
            | Outcome::DuplicateSegment
            | Outcome::ForeignSegment
            | Outcome::ForeignFile
            | Outcome::ForeignSlots
            | Outcome::SlotsLost
            | Outcome::CheckpointDamaged
            | Outcome::CommittedBeforeStart
            | Outcome::CommittedBeyondEnd => None,
        };
        base.is_some_and(|base| self.segments.insert(base))
    }

    /// Is this loss reported for the first time? Then it counts as reported.
    pub(super) fn first_report(&mut self, lost: (Offset, Offset), committed: Offset) -> bool {
        let covers = |known: &(Offset, Offset)| known.0 <= lost.0 && lost.1 <= known.1;
        let known = self.reported.iter().any(covers);
        self.reported.retain(|known| known.1 >= committed);
        if !known {
            self.reported.push(lost);
        }
        !known
    }

    /// Was the segment damaged? It is forgotten.
    pub(super) fn take(&mut self, base: Offset) -> bool {
        self.segments.remove(&base)
    }
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) dir: PathBuf,
    pub(super) identity: u64,
    /// Most bytes gathered for one commit (unless a single record is larger).
    pub(super) gather_bytes_max: usize,
    /// So many gathered bytes are committed without waiting for more.
    pub(super) commit_bytes: usize,
    pub(super) record_bytes_max: usize,
    pub(super) commit_interval: Duration,
    /// Bytes written to the files of the log, in whole pages.
    pub(super) written_bytes: Arc<AtomicU64>,
    inner: Mutex<Inner>,
    /// Signals the writer thread.
    pub(super) work: Condvar,
    /// Signals threads in [`Shared::wait`].
    pub(super) moved: Condvar,
}

impl Shared {
    pub(super) fn new(
        identity: u64,
        options: &Options,
        written_bytes: Arc<AtomicU64>,
        inner: Inner,
    ) -> Self {
        let segment_bytes = usize::try_from(options.segment_bytes).unwrap_or(usize::MAX);
        let gather_bytes_max = (segment_bytes / 8).min(super::GATHER_BYTES_MAX);
        Self {
            dir: options.dir.clone(),
            identity,
            gather_bytes_max,
            commit_bytes: gather_bytes_max / 4,
            record_bytes_max: segment_bytes / 2,
            commit_interval: options.commit_interval,
            written_bytes,
            inner: Mutex::new(inner),
            work: Condvar::new(),
            moved: Condvar::new(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every critical section leaves the state whole at each of its steps.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn append(&self, record: &NewRecord<'_>) -> Result<Offset, AppendError> {
        let bytes = entry::encoded_bytes_max(record);
        if bytes > self.record_bytes_max {
            return Err(AppendError::TooLarge {
                bytes,
                bytes_max: self.record_bytes_max,
            });
        }
        let mut inner = self.lock();
        match inner.progress.condition {
            Condition::Running | Condition::Full if !inner.closing => {}
            Condition::Running | Condition::Full | Condition::Poisoned | Condition::Closed => {
                return Err(AppendError::Closed);
            }
        }
        let gathered = inner.gathering.bytes.len();
        if inner.gathering.count > 0 && gathered + bytes > self.gather_bytes_max {
            return Err(AppendError::Full);
        }
        let offset = inner.next;
        if inner.gathering.count == 0 {
            inner.gathering.base = offset;
            inner.gathering_since = Some(Instant::now());
            if !inner.looks {
                self.work.notify_one();
            }
        } else if gathered < self.commit_bytes && gathered + bytes >= self.commit_bytes {
            self.work.notify_one();
        }
        entry::encode(record, &mut inner.gathering.bytes);
        inner.gathering.count += 1;
        inner.next = offset.plus(1);
        Ok(offset)
    }

    /// See [`super::CommitLog::wait`].
    pub(super) fn wait(&self, offset: Offset, timeout: Duration) -> Progress {
        let deadline = Instant::now() + timeout;
        let mut inner = self.lock();
        let roused = inner.roused;
        loop {
            let over = inner.roused != roused
                || match inner.progress.condition {
                    Condition::Running | Condition::Full => false,
                    Condition::Poisoned | Condition::Closed => true,
                };
            let left = deadline.saturating_duration_since(Instant::now());
            if over || left.is_zero() || inner.progress.synced > offset {
                return inner.progress;
            }
            let woken = self.moved.wait_timeout(inner, left);
            inner = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// See [`super::CommitLog::hasten`].
    pub(super) fn hasten(&self, last: Offset) {
        let mut inner = self.lock();
        let Some(since) = inner.gathering_since else {
            return;
        };
        if last < inner.gathering.base {
            return;
        }
        let now = Instant::now();
        let is_last = inner.next == last.plus(1);
        let due = if is_last { now } else { now + super::HASTE_MAX };
        let due_so_far = inner.hastened.unwrap_or(since + self.commit_interval);
        if due < due_so_far {
            inner.hastened = Some(due);
            self.work.notify_one();
        }
    }

    /// See [`super::CommitLog::rouse`].
    pub(super) fn rouse(&self) {
        self.lock().roused += 1;
        self.moved.notify_all();
    }

    pub(super) fn commit(&self, offset: Offset) {
        let mut inner = self.lock();
        let offset = offset.min(inner.progress.synced);
        if offset <= inner.committed {
            return;
        }
        inner.committed = offset;
        // The writer looks by itself when it next commits, or writes the slots. It is woken where it
        // waits for neither, and where there is a segment to retire.
        if inner.sleeps || inner.retired().is_some() {
            self.work.notify_one();
        }
    }

    /// See [`super::CommitLog::renew_identity`].
    pub(super) fn renew(&self, lineage: u64) -> bool {
        let mut inner = self.lock();
        inner.lineage_wanted = lineage;
        self.work.notify_one();
        while inner.lineage != lineage {
            match inner.progress.condition {
                Condition::Running | Condition::Full => {}
                Condition::Poisoned | Condition::Closed => return false,
            }
            inner = self
                .moved
                .wait(inner)
                .unwrap_or_else(PoisonError::into_inner);
        }
        true
    }

    /// Blocks until the writer thread has closed the log.
    pub(super) fn request_close(&self) {
        self.lock().closing = true;
        self.work.notify_one();
    }
}

impl Inner {
    /// A log that was opened and has these segments, of which the last is written from `position` on.
    pub(super) fn new(slot: &Slot, segments: Vec<Segment>, position: u64) -> Self {
        Self {
            gathering: Gathered::new(),
            gathering_since: None,
            hastened: None,
            next: slot.synced,
            progress: Progress {
                synced: slot.synced,
                condition: Condition::Running,
            },
            committed: slot.committed,
            segments: segments.into(),
            tail_position: position,
            disk_bytes: 0,
            drops: Drops::default(),
            dropping: None,
            handed_out: slot.committed,
            uncounted: Vec::new(),
            damage: Damage::default(),
            lineage: slot.lineage,
            lineage_wanted: slot.lineage,
            closing: false,
            sleeps: false,
            looks: false,
            roused: 0,
            failure: None,
        }
    }

    /// The oldest segment, if every record of it is delivered and it is not the last one (I9).
    pub(super) fn retired(&self) -> Option<Segment> {
        let second = self.segments.get(1)?;
        (self.committed >= second.base).then(|| self.segments[0])
    }

    /// The segment that holds `offset`, and where its readable part ends.
    pub(super) fn locate(&self, offset: Offset) -> Located {
        let Some(first) = self.segments.front() else {
            return Located::Nowhere;
        };
        if offset < first.base {
            return Located::Removed { first: first.base };
        }
        let index = self
            .segments
            .partition_point(|segment| segment.base <= offset)
            - 1;
        let segment = self.segments[index];
        match self.segments.get(index + 1) {
            Some(next) => Located::Sealed {
                segment,
                next: next.base,
            },
            None => Located::Tail {
                segment,
                position: self.tail_position,
            },
        }
    }
}

/// Where an offset is to be read.
#[derive(Clone, Copy, Debug)]
pub(super) enum Located {
    /// The log has no segments.
    Nowhere,
    /// Below the first segment.
    Removed { first: Offset },
    /// In a segment that is no longer written; `next` is the base of the one behind it.
    Sealed { segment: Segment, next: Offset },
    /// In the segment that is being written, up to `position`.
    Tail { segment: Segment, position: u64 },
}
