//! Reading synced records back, in order, from wherever the forwarder is.
//!
//! A cursor has a file of its own open and takes the log's mutex only to learn how far it may read.
//! It believes nothing that it hasn't checked: a batch with a bad checksum, or with other offsets
//! than expected, ends the readable part of its segment, and what the log lacks from there to the
//! next whole batch is reported as a [`Hole`]. So a segment that is dropped and written anew under
//! a reader's feet shows as a hole too, never as wrong records.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use super::batch;
use super::entry::Entries;
use super::fs::{File, Fs};
use super::outcome::{Finding, Outcome};
use super::segment::{self, BatchReader, Found, Look};
use super::shared::{Located, Segment, Shared};
use crate::record::{Offset, RecordView};

/// Most findings that wait to be taken. One step makes two at most.
const FINDINGS_MAX: usize = 8;

/// A reader of synced records, in order. It belongs to one thread.
#[derive(Debug)]
pub struct Cursor {
    shared: Arc<Shared>,
    fs: Arc<dyn Fs>,
    position: Offset,
    /// What it returns is sent to Kafka: a drop must not count it.
    delivers: bool,
    open: Option<OpenSegment>,
    /// Not taken yet; bounded, for readers that never take them.
    findings: VecDeque<Finding>,
}

#[derive(Debug)]
struct OpenSegment {
    segment: Segment,
    reader: BatchReader,
    /// Where the next batch begins.
    position: u64,
    /// Where what is read ahead may end: behind it the file may have changed since.
    read_limit: u64,
}

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
    /// Why, as in the `reason` label of the metrics: `corrupt`, `missing` (a segment file is gone),
    /// `buffer_full` (dropped by `when_full = "drop_oldest"`) or `age` (by `age_max`).
    pub reason: &'static str,
    /// Whose records they were, as far as it is known: empty if nothing is.
    pub losses: Vec<Loss>,
}

impl Hole {
    /// The hole `first..end`, of whose records nothing is known. It is not empty.
    pub(super) fn new(first: Offset, end: Offset, reason: &'static str) -> Self {
        Self {
            first,
            last: Offset::new(end.get().saturating_sub(1)),
            reason,
            losses: Vec::new(),
        }
    }
}

/// What one source lost in a [`Hole`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// Its name; `None` for records of damaged batches.
    pub source: Option<String>,
    /// How many; `None` where nobody can know.
    pub records: Option<u64>,
}

/// A verified batch.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    content: &'a [u8],
    base: Offset,
    end: Offset,
    from: Offset,
    /// The boot whose monotonic clock its records count in ([`crate::clock::boot_id`]).
    pub boot_id: u64,
    /// When it was written, in milliseconds since that boot.
    pub written_mono_ms: u64,
}

impl<'a> Batch<'a> {
    /// The records at and past the cursor's position.
    pub fn records(&self) -> impl Iterator<Item = RecordView<'a>> + use<'a> {
        let (from, end) = (self.from, self.end);
        // The checksum was good, so an entry that can't be read is impossible but for a bug; the
        // offsets behind it would then be missing from the run, which the forwarder notices.
        Entries::new(self.content, self.base, self.boot_id)
            .flatten()
            .take_while(move |record| record.offset < end)
            .filter(move |record| record.offset >= from)
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
    pub source: io::Error,
}

/// One step of the search for the next item.
enum Step {
    Found(Found),
    Hole(Hole),
    Again,
}

impl Cursor {
    pub(super) fn new(shared: Arc<Shared>, fs: Arc<dyn Fs>, position: Offset) -> Self {
        Self {
            shared,
            fs,
            position,
            delivers: false,
            open: None,
            findings: VecDeque::new(),
        }
    }

    pub(super) fn delivering(self) -> Self {
        Self {
            delivers: true,
            ..self
        }
    }

    /// What the steps before found amiss, if it wasn't reported before: the caller reports it. To
    /// be called after each [`Cursor::next`] by the one reader whose business that is.
    pub fn take_finding(&mut self) -> Option<Finding> {
        while let Some(finding) = self.findings.pop_front() {
            let mut inner = self.shared.lock();
            let damaged = inner.damage.note(&finding);
            let committed = inner.committed;
            let news = match finding.lost {
                Some(lost) => inner.damage.first_report(lost, committed),
                None => damaged,
            };
            if news {
                return Some(finding);
            }
        }
        None
    }

    fn note(&mut self, finding: Finding) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push_back(finding);
        }
    }

    fn note_hole(&mut self, outcome: Outcome, path: PathBuf, hole: &Hole) {
        let at = self.open.as_ref().map_or(0, |open| open.position);
        let finding = Finding::new(outcome, path).lost(hole.first, hole.last);
        self.note(match outcome {
            Outcome::CorruptBatch | Outcome::CorruptEnd => finding.at(at),
            _ => finding,
        });
    }

    /// Reads on: the next batch or hole, `None` if nothing synced lies beyond the position. The
    /// position is then behind what was returned.
    ///
    /// # Errors
    /// [`ReadError`]; the position is unchanged and the call may be repeated.
    // Not an iterator: its items borrow from it.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<Item<'_>>, ReadError> {
        loop {
            let inner = self.shared.lock();
            if self.position >= inner.progress.synced {
                return Ok(None);
            }
            let located = inner.locate(self.position);
            let synced = inner.progress.synced;
            drop(inner);
            if let Located::Removed { first } = located {
                return Ok(Some(Item::Hole(self.removed(first))));
            }
            let step = match located {
                Located::Nowhere | Located::Removed { .. } => return Ok(None),
                Located::Sealed { segment, next } => {
                    self.read(segment, segment.bytes, next, synced)?
                }
                Located::Tail { segment, position } => {
                    self.read(segment, position, synced, synced)?
                }
            };
            match step {
                Step::Again => {}
                Step::Hole(hole) if self.claim(hole.last.plus(1)) => {
                    self.position = hole.last.plus(1);
                    return Ok(Some(Item::Hole(hole)));
                }
                Step::Found(found) if self.claim(found.header.end()) => {
                    return Ok(Some(self.batch(&found)));
                }
                // Dropped just now.
                Step::Hole(_) | Step::Found(_) => self.open = None,
            }
        }
    }

    /// Offset of the next record to read.
    #[must_use]
    pub fn position(&self) -> Offset {
        self.position
    }

    /// Moves to `offset`, forwards or backwards (to no less than the committed offset).
    pub fn seek(&mut self, offset: Offset) {
        self.position = offset;
        self.open = None;
    }

    /// Hands out what lies at the position, up to `end`: a drop from now on does not count it. False
    /// if its segment was dropped before. While it is being dropped this waits.
    fn claim(&self, end: Offset) -> bool {
        if !self.delivers {
            return true;
        }
        let mut inner = self.shared.lock();
        loop {
            let base = match inner.locate(self.position) {
                Located::Nowhere | Located::Removed { .. } => return false,
                Located::Sealed { segment, .. } | Located::Tail { segment, .. } => segment.base,
            };
            if inner.dropping != Some(base) {
                inner.handed_out = inner.handed_out.max(end);
                return true;
            }
            let woken = self.shared.moved.wait(inner);
            inner = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The hole at the position, where all below `first` is gone.
    fn removed(&mut self, first: Offset) -> Hole {
        let mut inner = self.shared.lock();
        let hole = inner.drops.hole(self.position, first);
        if self.delivers {
            inner.handed_out = inner.handed_out.max(hole.last.plus(1));
            if let Some(uncounted) = inner.drops.take_uncounted(self.position) {
                inner.uncounted.push(uncounted);
                self.shared.work.notify_one();
            }
        }
        drop(inner);
        if hole.reason == "missing" {
            let dir = self.shared.dir.clone();
            self.note_hole(Outcome::MissingSegment, dir, &hole);
        }
        self.position = hole.last.plus(1);
        hole
    }

    fn batch(&mut self, found: &Found) -> Item<'_> {
        let from = self.position;
        self.position = found.header.end();
        let open = self.open.as_mut();
        match open.and_then(|open| open.reader.content(found)) {
            Some(content) => Item::Batch(Batch {
                content,
                base: found.header.base,
                end: found.header.end(),
                from,
                boot_id: found.header.written.boot_id,
                written_mono_ms: found.header.written.mono_ms,
            }),
            None => Item::Hole(Hole::new(from, found.header.end(), "corrupt")),
        }
    }

    fn hole(&self, end: Offset, reason: &'static str) -> Hole {
        Hole::new(self.position, end, reason)
    }

    /// Reads on in `segment`, whose readable part ends at `limit` and with offset `end`.
    fn read(
        &mut self,
        segment: Segment,
        limit: u64,
        end: Offset,
        synced: Offset,
    ) -> Result<Step, ReadError> {
        let position = self.position;
        let path = segment::path(&self.shared.dir, segment.base);
        let failed = |source| ReadError {
            path: path.clone(),
            source,
        };
        if self
            .open
            .as_ref()
            .is_none_or(|open| open.segment != segment)
        {
            self.leave_for(segment)?;
            match self.fs.open(&path, false) {
                Ok(file) => self.open = Some(self.begin(segment, file, limit)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Ok(self.gone(segment, path, end));
                }
                Err(error) => return Err(failed(error)),
            }
        }
        let Some(open) = &mut self.open else {
            return Ok(Step::Again);
        };
        if open.read_limit != limit {
            open.read_limit = limit;
            open.reader.forget();
        }
        let from_here = |header: &batch::Header| {
            // Whatever it claims, it can't reach beyond what is synced (I1).
            let within = header.base >= segment.base && header.base < end;
            within && header.end() > position && header.end() <= synced
        };
        let found = match open.reader.look(open.position, limit).map_err(failed)? {
            Look::Batch(found) if header_precedes(&found, segment, position) => {
                open.position += found.bytes as u64;
                return Ok(Step::Again);
            }
            Look::Batch(found) if from_here(&found.header) => Some(found),
            Look::Newer(version) | Look::Older(version) => {
                return Err(failed(unsupported(version)));
            }
            // The segment may go on behind it.
            Look::Batch(_) | Look::Nothing => {
                let found = open.reader.search(open.position, limit, from_here);
                found.map_err(failed)?
            }
        };
        let Some(found) = found else {
            return self.segment_ends_early(segment, path, end);
        };
        if found.header.base > position {
            let hole = self.hole(found.header.base, "corrupt");
            self.note_hole(Outcome::CorruptBatch, path, &hole);
            if let Some(open) = &mut self.open {
                open.position = found.position;
            }
            return Ok(Step::Hole(hole));
        }
        open.position = found.position + found.bytes as u64;
        Ok(Step::Found(found))
    }

    fn begin(&self, segment: Segment, file: Box<dyn File>, limit: u64) -> OpenSegment {
        OpenSegment {
            segment,
            reader: BatchReader::new(file, self.shared.identity),
            position: 0,
            read_limit: limit,
        }
    }

    /// Closes the segment that was read to its end. A whole batch that follows there, of offsets
    /// that the next segment holds, means that two logs were mixed.
    fn leave_for(&mut self, next: Segment) -> Result<(), ReadError> {
        let Some(mut left) = self.open.take() else {
            return Ok(());
        };
        let path = segment::path(&self.shared.dir, left.segment.base);
        left.reader.forget();
        let look = left.reader.look(left.position, left.segment.bytes);
        let look = look.map_err(|source| ReadError {
            path: path.clone(),
            source,
        })?;
        if let Look::Batch(found) = look
            && left.segment.base < next.base
            && found.header.base >= next.base
            // One that was removed meanwhile may have been written anew.
            && self.still_there(left.segment)
        {
            let finding = Finding::new(Outcome::OverlappingSegments, path);
            self.note(finding.at(found.position));
        }
        Ok(())
    }

    fn still_there(&self, segment: Segment) -> bool {
        self.shared.lock().segments.contains(&segment)
    }

    /// Its file is not there: dropped just now, or removed by somebody else.
    fn gone(&mut self, segment: Segment, path: PathBuf, end: Offset) -> Step {
        if !self.still_there(segment) {
            return Step::Again;
        }
        let hole = self.hole(end, "missing");
        self.note_hole(Outcome::MissingSegment, path, &hole);
        Step::Hole(hole)
    }

    /// Nothing whole follows in a segment that should go on.
    fn segment_ends_early(
        &mut self,
        segment: Segment,
        path: PathBuf,
        end: Offset,
    ) -> Result<Step, ReadError> {
        let Some(mut open) = self.open.take() else {
            return Ok(Step::Again);
        };
        let head = open.reader.head(open.position, segment.bytes);
        let claim = batch::claim(head.map_err(|source| ReadError {
            path: path.clone(),
            source,
        })?);
        let expected = |claim: &batch::Claim| claim.base == self.position;
        let outcome = match (open.position, segment.bytes) {
            (_, 0) => Outcome::ZeroLengthSegment,
            (0, _) => Outcome::UnreadableSegment,
            _ if claim.as_ref().is_some_and(expected) => Outcome::CorruptEnd,
            _ => Outcome::MissingSegment,
        };
        let missing = outcome == Outcome::MissingSegment;
        let hole = self.hole(end, if missing { "missing" } else { "corrupt" });
        // A segment that was dropped meanwhile may have been written anew.
        if !self.still_there(segment) {
            return Ok(Step::Again);
        }
        self.open = Some(open);
        self.note_hole(outcome, path, &hole);
        self.open = None;
        Ok(Step::Hole(hole))
    }
}

fn unsupported(version: u8) -> io::Error {
    let text = format!("a batch has format version {version}, which this gateway does not read");
    io::Error::new(io::ErrorKind::Unsupported, text)
}

/// A batch of this segment's life that ends at or before `position`: the way to it.
fn header_precedes(found: &Found, segment: Segment, position: Offset) -> bool {
    found.header.base >= segment.base && found.header.end() <= position
}
