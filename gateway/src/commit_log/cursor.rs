//! Reading synced records back, in order, from wherever the forwarder is.
//!
//! A cursor has a file of its own open and takes the log's mutex only to learn how far it may read.
//! It believes nothing that it hasn't checked: a batch with a bad checksum, or with other offsets
//! than expected, ends the readable part of its segment, and what the log lacks from there to the
//! next whole batch is reported as a [`Hole`]. So a segment that is dropped and written anew under
//! a reader's feet shows as a hole too, never as wrong records. What recovery takes for stale by its
//! open counter is stale here too.
//!
//! # Whose records a hole held
//! Of records that were dropped it is known ([`super::drops`] has counted them by source before they
//! went). Of a corrupt batch it is not, and [`Hole::losses`] is empty: its entries may still read well,
//! but one checksum covers them all, and a flipped bit in a name or a length would blame a source that
//! lost nothing, or hide one that did. Its neighbours say nothing, since all sources share a batch, and
//! the log keeps no other account of them: that would cost every commit for the sake of the rare hole.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use super::batch::{self, Header};
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
    /// Open counter of the batch before: one with a lower counter is stale, as for recovery.
    predecessor: u32,
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
        // All up to `end` can be read.
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
    /// A batch, and the offset up to which it counts.
    Found(Found, Offset),
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
        note(&mut self.findings, finding);
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
                Step::Found(found, end) if self.claim(end) => {
                    return Ok(Some(self.batch(&found, end)));
                }
                // Dropped just now.
                Step::Hole(_) | Step::Found(..) => self.open = None,
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

    /// Hands out the records of a batch up to `end`, as far as they can be read; if from the position
    /// on none can, the hole there.
    fn batch(&mut self, found: &Found, end: Offset) -> Item<'_> {
        let (from, position) = (self.position, found.position);
        self.position = end;
        let header = &found.header;
        let Some(open) = &mut self.open else {
            return Item::Hole(Hole::new(from, end, "corrupt"));
        };
        let segment = open.segment;
        let content = open.reader.content(found).unwrap_or(&[]);
        let readable = Entries::new(content, header.base, header.written.boot_id)
            .flatten()
            .count() as u64;
        let readable_end = header.base.plus(readable).min(end);
        if readable_end > from {
            if readable_end < end {
                // The next step comes upon this batch once more.
                self.position = readable_end;
                open.position = position;
            }
            return Item::Batch(Batch {
                content,
                base: header.base,
                end: readable_end,
                from,
                boot_id: header.written.boot_id,
                written_mono_ms: header.written.mono_ms,
            });
        }
        let hole = Hole::new(from, end, "corrupt");
        let path = segment::path(&self.shared.dir, segment.base);
        let finding = Finding::new(Outcome::UndecodableBatch, path).at(position);
        note(&mut self.findings, finding.lost(hole.first, hole.last));
        Item::Hole(hole)
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
                Ok(file) => self.open = Some(self.begin(segment, file)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Ok(self.gone(segment, path, end));
                }
                Err(error) => return Err(failed(error)),
            }
        }
        let Some(open) = &mut self.open else {
            return Ok(Step::Again);
        };
        // Whatever a batch claims, it can't reach beyond what is synced (I1).
        let next = open.next(position, limit, end, synced).map_err(failed)?;
        let Some(found) = next else {
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
        open.pass(&found);
        if found.header.end() > end {
            let finding = Finding::new(Outcome::OverlappingSegments, path);
            self.note(finding.at(found.position));
        }
        Ok(Step::Found(found, end.min(found.header.end())))
    }

    fn begin(&self, segment: Segment, file: Box<dyn File>) -> OpenSegment {
        OpenSegment {
            segment,
            reader: BatchReader::new(file, self.shared.identity),
            position: 0,
            predecessor: 0,
            read_limit: 0,
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

fn note(findings: &mut VecDeque<Finding>, finding: Finding) {
    if findings.len() < FINDINGS_MAX {
        findings.push_back(finding);
    }
}

fn unsupported(version: u8) -> io::Error {
    let text = format!("a batch has format version {version}, which this gateway does not read");
    io::Error::new(io::ErrorKind::Unsupported, text)
}

impl OpenSegment {
    /// The first batch from here on that holds the offset `offset`, or a later one below `end`, and
    /// none beyond `synced`. Those before it are passed over.
    fn next(
        &mut self,
        offset: Offset,
        limit: u64,
        end: Offset,
        synced: Offset,
    ) -> io::Result<Option<Found>> {
        if self.read_limit != limit {
            self.read_limit = limit;
            self.reader.forget();
        }
        let base = self.segment.base;
        loop {
            let predecessor = self.predecessor;
            let counts = |from: Offset, to: Offset, open_counter: u32| {
                let within = from >= base && from < end;
                within && to > offset && to <= synced && open_counter >= predecessor
            };
            let ours = |header: &Header| counts(header.base, header.end(), header.open_counter);
            match self.reader.look(self.position, limit)? {
                Look::Batch(found) if self.is_on_the_way(&found.header, offset) => {
                    self.pass(&found);
                }
                Look::Batch(found) if ours(&found.header) => return Ok(Some(found)),
                Look::Other(claim) if counts(claim.base, claim.end, claim.open_counter) => {
                    return Err(unsupported(claim.version));
                }
                // The segment may go on behind it.
                Look::Batch(_) | Look::Other(_) | Look::Nothing => {
                    return self.reader.search(self.position, limit, ours);
                }
            }
        }
    }

    /// A batch of this segment's life that ends at or before `offset`.
    fn is_on_the_way(&self, header: &Header, offset: Offset) -> bool {
        let precedes = header.base >= self.segment.base && header.end() <= offset;
        precedes && header.open_counter >= self.predecessor
    }

    fn pass(&mut self, found: &Found) {
        self.position = found.position + found.bytes as u64;
        self.predecessor = found.header.open_counter;
    }
}
