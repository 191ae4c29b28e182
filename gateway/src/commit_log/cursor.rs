//! Reading synced records back, in order, from wherever the forwarder is.
//!
//! A cursor has a file of its own open and takes the log's mutex only to learn how far it may read.
//! It believes nothing that it hasn't checked: a batch with a bad checksum, or with other offsets
//! than expected, ends the readable part of its segment, and what the log lacks from there to the
//! next whole batch is reported as a [`Hole`]. So a segment that is dropped and written anew under
//! a reader's feet shows as a hole too, never as wrong records.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use super::entry::Entries;
use super::fs::Fs;
use super::segment::{self, BatchReader, Found, Look};
use super::shared::{Located, Segment, Shared};
use crate::record::{Offset, RecordView};

/// A reader of synced records, in order. It belongs to one thread.
#[derive(Debug)]
pub struct Cursor {
    shared: Arc<Shared>,
    fs: Arc<dyn Fs>,
    position: Offset,
    /// What it returns is sent to Kafka: a drop must not count it.
    delivers: bool,
    open: Option<OpenSegment>,
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
    from: Offset,
    /// The boot whose monotonic clock its records count in ([`crate::clock::boot_id`]).
    pub boot_id: u64,
    /// When it was written, in milliseconds since that boot.
    pub written_mono_ms: u64,
}

impl<'a> Batch<'a> {
    /// The records at and past the cursor's position.
    pub fn records(&self) -> impl Iterator<Item = RecordView<'a>> + use<'a> {
        let from = self.from;
        // The checksum was good, so an entry that can't be read is impossible but for a bug; the
        // offsets behind it would then be missing from the run, which the forwarder notices.
        Entries::new(self.content, self.base)
            .flatten()
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
        }
    }

    pub(super) fn delivering(self) -> Self {
        Self {
            delivers: true,
            ..self
        }
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
                Located::Sealed { segment, next } => self.read(segment, segment.bytes, next)?,
                Located::Tail { segment, position } => self.read(segment, position, synced)?,
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
    fn read(&mut self, segment: Segment, limit: u64, end: Offset) -> Result<Step, ReadError> {
        let position = self.position;
        let path = segment::path(&self.shared.dir, segment.base);
        let failed = |source| ReadError { path, source };
        let open = match &mut self.open {
            Some(open) if open.segment == segment => open,
            _ => match self
                .fs
                .open(&segment::path(&self.shared.dir, segment.base), false)
            {
                Ok(file) => {
                    let reader = BatchReader::new(file, self.shared.identity);
                    self.open.insert(OpenSegment {
                        segment,
                        reader,
                        position: 0,
                        read_limit: limit,
                    })
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    // Dropped just now, or removed by somebody else.
                    let still_there = self.shared.lock().segments.contains(&segment);
                    return Ok(if still_there {
                        Step::Hole(self.hole(end, "missing"))
                    } else {
                        Step::Again
                    });
                }
                Err(error) => return Err(failed(error)),
            },
        };
        if open.read_limit != limit {
            open.read_limit = limit;
            open.reader.forget();
        }
        let from_here = |header: &super::batch::Header| {
            header.base >= segment.base && header.base < end && header.end() > position
        };
        let found = match open.reader.look(open.position, limit).map_err(failed)? {
            Look::Batch(found) if header_precedes(&found, segment, position) => {
                open.position += found.bytes as u64;
                return Ok(Step::Again);
            }
            Look::Batch(found) if from_here(&found.header) => Some(found),
            Look::Batch(_) => None,
            Look::Nothing | Look::Newer(_) => {
                let path = segment::path(&self.shared.dir, segment.base);
                open.reader
                    .search(open.position, limit, from_here)
                    .map_err(|source| ReadError { path, source })?
            }
        };
        let Some(found) = found else {
            return Ok(self.segment_ends_early(segment, end));
        };
        if found.header.base > position {
            open.position = found.position;
            return Ok(Step::Hole(Hole::new(
                position,
                found.header.base,
                "corrupt",
            )));
        }
        open.position = found.position + found.bytes as u64;
        Ok(Step::Found(found))
    }

    fn segment_ends_early(&mut self, segment: Segment, end: Offset) -> Step {
        self.open = None;
        // A segment that was dropped meanwhile may have been written anew.
        let still_there = self.shared.lock().segments.contains(&segment);
        if still_there {
            Step::Hole(self.hole(end, "corrupt"))
        } else {
            Step::Again
        }
    }
}

/// A batch of this segment's life that ends at or before `position`: the way to it.
fn header_precedes(found: &Found, segment: Segment, position: Offset) -> bool {
    found.header.base >= segment.base && found.header.end() <= position
}
