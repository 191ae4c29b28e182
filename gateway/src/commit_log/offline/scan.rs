//! Reading every batch of a log's directory in order, and saying where one isn't whole.
//!
//! Each segment must lead, batch by batch, up to the first offset of the next. Where it does not,
//! that place is a [`Finding`], and the scan goes on with the next whole batch of the segment, as the
//! gateway does. The newest segment must lead up to the highest offset known to be synced; what lies
//! beyond is its tail, where a batch that isn't whole is none of anybody's business.

use std::io;
use std::path::Path;

use super::{LogDir, OfflineError, next_whole};
use crate::commit_log::batch::{Header, Kind};
use crate::commit_log::entry::Entries;
use crate::commit_log::recovery;
use crate::commit_log::segment::{self, BatchReader, Found, Look};
use crate::commit_log::shared::{Segment, StorageError};
use crate::record::{Offset, RecordView};

/// What a scan comes across.
#[derive(Debug)]
pub enum Event<'a> {
    /// A whole batch.
    Batch(BatchAt<'a>),
    /// Anything else.
    Finding(Finding),
}

/// A whole batch, and where it lies.
#[derive(Clone, Copy, Debug)]
pub struct BatchAt<'a> {
    content: &'a [u8],
    header: Header,
    /// First offset of its segment.
    pub segment: Offset,
    /// Its first byte in the segment's file.
    pub position: u64,
    /// Bytes up to the next batch.
    pub bytes: u64,
}

impl<'a> BatchAt<'a> {
    /// Its records. None for a checkpoint.
    pub fn records(&self) -> impl Iterator<Item = RecordView<'a>> + use<'a> {
        let content = match self.header.kind {
            Kind::Records => self.content,
            Kind::Checkpoint => &[],
        };
        Entries::new(content, self.header.base, self.header.written.boot_id).flatten()
    }

    /// Number of records it says it holds.
    #[must_use]
    pub fn count(&self) -> u64 {
        u64::from(self.header.count)
    }

    fn is_readable(&self) -> bool {
        self.records().count() as u64 == self.count()
    }

    /// Offset of its first record.
    #[must_use]
    pub fn base(&self) -> Offset {
        self.header.base
    }

    /// The boot whose monotonic clock its records count in.
    #[must_use]
    pub fn boot_id(&self) -> u64 {
        self.header.written.boot_id
    }

    pub(super) fn header(&self) -> &Header {
        &self.header
    }
}

/// A place in a log that is not a whole batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// First offset of the segment, which names its file.
    pub segment: Offset,
    /// First byte in the file.
    pub position: u64,
    /// How many bytes; 0 where the file ends too early.
    pub bytes: u64,
    /// First and last offset that are missing because of it; `None` if no record is.
    pub offsets: Option<(Offset, Offset)>,
    /// What it is.
    pub what: What,
}

impl Finding {
    /// Name of the file.
    #[must_use]
    pub fn file(&self) -> String {
        file_name(self.segment)
    }
}

/// What a [`Finding`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A batch that was synced is not whole.
    Bad,
    /// A segment without a batch of its own: damaged all over, or a copy of another one.
    NoBatches,
    /// A whole batch in which records can't be read, or are fewer than it says: a defect of the
    /// program that wrote it.
    Unreadable,
    /// The file can't be read from here on: an I/O error.
    ReadError,
    /// A segment that claims offsets which the one before it has.
    Overlap,
    /// Whole batches surround records that no file holds: known as lost, or dropped.
    Missing,
    /// Whole batches behind one that isn't, none of them known to be synced: a crash left them. The
    /// gateway cuts them when it opens the log.
    TornTail,
    /// The gateway reused or removed the segment while it was read.
    Recycled,
}

impl What {
    /// Whether it says that a file is damaged.
    #[must_use]
    pub fn is_damage(self) -> bool {
        match self {
            Self::Bad | Self::NoBatches | Self::Unreadable | Self::ReadError | Self::Overlap => {
                true
            }
            Self::Missing | Self::TornTail | Self::Recycled => false,
        }
    }

    /// A word for machines.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bad => "bad_batch",
            Self::NoBatches => "no_batches",
            Self::Unreadable => "unreadable_records",
            Self::ReadError => "read_error",
            Self::Overlap => "overlap",
            Self::Missing => "missing",
            Self::TornTail => "torn_tail",
            Self::Recycled => "recycled",
        }
    }
}

/// Reads a log's directory in order. See the module.
#[derive(Debug)]
pub struct Scan<'l> {
    log: &'l LogDir<'l>,
    /// The segment being read.
    index: usize,
    open: Option<OpenSegment>,
    /// Everything below was read, or reported.
    reach: Offset,
    passed_bytes: u64,
}

#[derive(Debug)]
struct OpenSegment {
    segment: Segment,
    reader: BatchReader,
    ends: Ends,
    /// Where the next batch is expected.
    position: u64,
    /// Open counter of the batch before.
    predecessor: u32,
}

/// Up to where a segment goes.
#[derive(Clone, Copy, Debug)]
struct Ends {
    /// First offset of the next segment that holds a batch: none of this one's are beyond.
    bound: Option<Offset>,
    /// Below this offset a batch that isn't whole is damage.
    synced: Offset,
}

impl Ends {
    /// A batch of records before the bound, or the empty one that a repair puts at the end.
    fn admit(&self, header: &Header) -> bool {
        let is_end =
            |bound| header.base == bound && header.count == 0 && header.kind == Kind::Records;
        self.bound
            .is_none_or(|bound| header.base < bound || is_end(bound))
    }
}

/// What comes next in a segment.
enum Step {
    Batch(Found),
    Finding(Finding),
    Again,
}

impl<'l> Scan<'l> {
    /// Begins at the segment with this index.
    pub(super) fn of(log: &'l LogDir<'l>, index: usize) -> Self {
        let base = log.segments.get(index).map_or(log.end, |first| first.base);
        let reach = if index == 0 {
            base.min(log.committed)
        } else {
            base
        };
        Self {
            log,
            index,
            open: None,
            reach,
            passed_bytes: 0,
        }
    }

    /// Offset behind everything that was read or reported.
    #[must_use]
    pub fn reach(&self) -> Offset {
        self.reach
    }

    /// Bytes of segments that lie behind the scan, of [`LogDir::segment_bytes`].
    #[must_use]
    pub fn passed_bytes(&self) -> u64 {
        self.passed_bytes + self.open.as_ref().map_or(0, |open| open.position)
    }

    /// Reads on; `None` at the end.
    ///
    /// # Errors
    /// A batch of a newer format. What can't be read is a [`Finding`].
    // Not an iterator: its items borrow from it.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<Event<'_>>, OfflineError> {
        loop {
            let step = if self.open.is_some() {
                self.step()?
            } else if self.index < self.log.segments.len() {
                self.open_segment()?
            } else {
                return Ok(None);
            };
            match step {
                Step::Again => {}
                Step::Finding(finding) => return Ok(Some(Event::Finding(finding))),
                Step::Batch(found) => return Ok(self.batch(&found).map(Event::Batch)),
            }
        }
    }

    fn batch(&mut self, found: &Found) -> Option<BatchAt<'_>> {
        let open = self.open.as_mut()?;
        Some(BatchAt {
            // What can't be unpacked shows as a batch whose records can't be read.
            content: open.reader.content(found).unwrap_or(&[]),
            header: found.header,
            segment: open.segment.base,
            position: found.position,
            bytes: found.bytes as u64,
        })
    }

    fn open_segment(&mut self) -> Result<Step, OfflineError> {
        let segment = self.log.segments[self.index];
        if self.reach < segment.base {
            let missing = self.finding(0, 0, segment.base, What::Missing);
            self.reach = segment.base;
            return Ok(Step::Finding(missing));
        }
        let ends = self.ends()?;
        let Ok(reader) = self.log.reader(&segment) else {
            return Ok(self.lost(0, segment.bytes, ends, What::ReadError));
        };
        if !self.log.is_live(self.index)? {
            // Begun and not yet written, or never: a gateway removes it.
            if ends.bound.is_none() && segment.base >= self.log.synced {
                self.close();
                return Ok(Step::Again);
            }
            return Ok(self.lost(0, segment.bytes, ends, What::NoBatches));
        }
        self.open = Some(OpenSegment {
            segment,
            reader,
            ends,
            position: 0,
            predecessor: 0,
        });
        if self.reach == segment.base {
            return Ok(Step::Again);
        }
        let mut overlap = self.finding(0, segment.bytes, segment.base, What::Overlap);
        overlap.offsets = span(segment.base, self.reach);
        Ok(Step::Finding(overlap))
    }

    /// The offset that the segment must lead up to: where the next one begins, whole or not, unless
    /// that one's name lies among what was read already.
    fn duty(&self, ends: Ends) -> Offset {
        let following = &self.log.segments[self.index + 1..];
        let next = following
            .iter()
            .map(|next| next.base)
            .find(|base| *base >= self.reach);
        match (ends.bound, next) {
            (Some(_), Some(next)) => next,
            (None, Some(next)) => next.min(ends.synced),
            (_, None) => ends.synced,
        }
    }

    fn ends(&self) -> Result<Ends, OfflineError> {
        let log = self.log;
        let mut bound = None;
        for index in self.index + 1..log.segments.len() {
            if log.is_live(index)? {
                bound = Some(log.segments[index].base);
                break;
            }
        }
        let synced = bound.unwrap_or(log.synced);
        Ok(Ends { bound, synced })
    }

    /// Looks at the next place of the open segment.
    fn step(&mut self) -> Result<Step, OfflineError> {
        let reach = self.reach;
        let Some(open) = &mut self.open else {
            return Ok(Step::Again);
        };
        let (segment, ends, predecessor) = (open.segment, open.ends, open.predecessor);
        let ours = |header: &Header| {
            header.base >= reach && header.open_counter >= predecessor && ends.admit(header)
        };
        // In a segment that overlaps: the way to what the one before it lacks.
        let precedes = |header: &Header| header.base >= segment.base && header.end() <= reach;
        match open.reader.look(open.position, segment.bytes) {
            Ok(Look::Batch(found)) if ours(&found.header) => Ok(self.take(&found)),
            Ok(Look::Batch(found)) if predecessor == 0 && precedes(&found.header) => {
                open.position += found.bytes as u64;
                Ok(Step::Again)
            }
            Ok(Look::Other(claim))
                if claim.base >= reach
                    && claim.open_counter >= predecessor
                    && ends.bound.is_none_or(|bound| claim.base < bound) =>
            {
                Err(self.log.other_format(&segment, claim.version))
            }
            Ok(Look::Batch(_) | Look::Other(_) | Look::Nothing) => Ok(self.not_whole(ours)),
            Err(_) => Ok(self.unreadable()),
        }
    }

    fn take(&mut self, found: &Found) -> Step {
        let base = found.header.base;
        if base > self.reach {
            // What is lacking here was lost before the batch was written.
            let missing = self.finding(found.position, 0, base, What::Missing);
            self.reach = base;
            return Step::Finding(missing);
        }
        let is_readable = self.batch(found).is_some_and(|batch| batch.is_readable());
        let bytes = found.bytes as u64;
        let unreadable = self.finding(found.position, bytes, found.header.end(), What::Unreadable);
        self.reach = found.header.end();
        if let Some(open) = &mut self.open {
            open.position = found.position + bytes;
            open.predecessor = found.header.open_counter;
        }
        if is_readable {
            Step::Batch(*found)
        } else {
            Step::Finding(unreadable)
        }
    }

    /// No batch that continues the log begins here.
    fn not_whole(&mut self, ours: impl Fn(&Header) -> bool) -> Step {
        let Some(open) = &mut self.open else {
            return Step::Again;
        };
        let (position, limit, ends) = (open.position, open.segment.bytes, open.ends);
        let found = match next_whole(&mut open.reader, position, limit, ours) {
            Ok(found) => found,
            Err(_) => return self.unreadable(),
        };
        let bytes = limit.saturating_sub(position);
        match found {
            Some(found) if self.reach < ends.synced => {
                if self.log.is_gone(&open.segment) {
                    return self.lost(position, bytes, ends, What::Bad);
                }
                open.position = found.position;
                let bytes = found.position - position;
                let bad = self.finding(position, bytes, found.header.base, What::Bad);
                self.reach = found.header.base;
                Step::Finding(bad)
            }
            Some(_) => {
                let tail = self.finding(position, bytes, self.reach, What::TornTail);
                self.close();
                Step::Finding(tail)
            }
            None if self.reach < self.duty(ends) => self.lost(position, bytes, ends, What::Bad),
            None => {
                self.close();
                Step::Again
            }
        }
    }

    fn unreadable(&mut self) -> Step {
        let Some(open) = &self.open else {
            return Step::Again;
        };
        let (position, ends) = (open.position, open.ends);
        let bytes = open.segment.bytes.saturating_sub(position);
        self.lost(position, bytes, ends, What::ReadError)
    }

    /// Gives up the rest of the segment.
    fn lost(&mut self, position: u64, bytes: u64, ends: Ends, what: What) -> Step {
        let end = self.duty(ends);
        let what = if self.log.is_gone(&self.log.segments[self.index]) {
            What::Recycled
        } else {
            what
        };
        let finding = self.finding(position, bytes, end, what);
        self.reach = self.reach.max(end);
        self.close();
        Step::Finding(finding)
    }

    fn close(&mut self) {
        self.passed_bytes += self.log.segments[self.index].bytes;
        self.open = None;
        self.index += 1;
    }

    /// Something in the segment at hand, because of which everything from `reach` to `end` lacks.
    fn finding(&self, position: u64, bytes: u64, end: Offset, what: What) -> Finding {
        Finding {
            segment: self.log.segments[self.index].base,
            position,
            bytes,
            offsets: span(self.reach, end),
            what,
        }
    }
}

/// First and last of the offsets from `from` to before `end`.
fn span(from: Offset, end: Offset) -> Option<(Offset, Offset)> {
    (from < end).then(|| (from, Offset::new(end.get() - 1)))
}

/// A segment's name in its directory.
pub(super) fn file_name(segment: Offset) -> String {
    segment::path(Path::new(""), segment).display().to_string()
}

impl LogDir<'_> {
    fn reader(&self, segment: &Segment) -> io::Result<BatchReader> {
        let path = segment::path(&self.dir, segment.base);
        let file = self.fs.open(&path, false)?;
        Ok(BatchReader::new(file, self.identity.unwrap_or(0)))
    }

    /// Whether the segment's name is gone: what was read of it may be of its next life.
    fn is_gone(&self, segment: &Segment) -> bool {
        let path = segment::path(&self.dir, segment.base);
        let opened = self.fs.open(&path, false);
        opened.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    }

    /// Whether the segment is what its name says: it begins with a batch of that offset, or where
    /// its head is damaged holds one of the offsets between this name and the next.
    fn is_live(&self, index: usize) -> Result<bool, OfflineError> {
        let segment = self.segments[index];
        let next = self.segments.get(index + 1).map(|next| next.base);
        let between = |header: &Header| {
            header.base >= segment.base && next.is_none_or(|next| header.base < next)
        };
        let Ok(mut reader) = self.reader(&segment) else {
            return Ok(false);
        };
        match reader.look(0, segment.bytes) {
            Ok(Look::Other(claim)) if claim.base == segment.base => {
                Err(self.other_format(&segment, claim.version))
            }
            Ok(Look::Other(_)) => Ok(false),
            Ok(Look::Batch(found)) => Ok(found.header.base == segment.base),
            // What can't be read holds nothing for us.
            Ok(Look::Nothing) => Ok(reader
                .search(0, segment.bytes, between)
                .is_ok_and(|found| found.is_some())),
            Err(_) => Ok(false),
        }
    }

    fn other_format(&self, segment: &Segment, found: u8) -> OfflineError {
        let path = segment::path(&self.dir, segment.base);
        OfflineError::Log(recovery::other_format(&path, found))
    }

    /// An error in a call on a file of this directory.
    pub(super) fn failed(
        &self,
        action: &'static str,
        name: &str,
    ) -> impl FnOnce(io::Error) -> StorageError + use<> {
        StorageError::new(action, &self.dir.join(name))
    }
}
