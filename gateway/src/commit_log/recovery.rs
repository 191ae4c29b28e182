//! Opening a log: what is there is checked, made durable, and only then counts.
//!
//! Only the newest segment that holds a batch is scanned, so opening costs the same whatever the
//! backlog (I4). The scan goes over it twice. The first pass finds the highest offset known to have
//! been synced, from the headers and the slots. With it the second one tells apart, at each place
//! where a batch should begin and no whole one does:
//!
//! ```text
//! nothing whole and newer behind it          the end of the log
//! expected offset ≥ highest synced           a torn tail: cut here, with all behind it
//! expected offset < highest synced           corruption: a hole up to the next whole batch
//! ```
//!
//! A whole batch with a lower offset than expected, or a lower open counter than its predecessor's,
//! is stale: left from the segment's earlier life, or from a tail that was cut. It ends the log.
//!
//! Whole batches behind a cut are zeroed, since a later scan could take them for ours. What was
//! accepted beyond the highest known synced offset is written again and synced before anything
//! rests on it (I5). An I/O error is neither of these: opening fails and nothing is changed.

use std::io;
use std::path::{Path, PathBuf};

use super::batch::{self, FORMAT_VERSION, Header, Kind};
use super::entry::Entries;
use super::fs::{self, File, Fs};
use super::segment::{self, BatchReader, Found, Look};
use super::shared::{Segment, StorageError};
use super::slots::{self, Slot};
use super::state::DurableState;
use super::{Hole, OpenError, drops};
use crate::record::Offset;

/// Zeroes are written, and tails rewritten, in pieces of this size.
const PIECE_BYTES: usize = 64 * 1024;

/// What the directory of a log holds.
#[derive(Debug)]
pub(super) struct Listing {
    /// Sorted by base.
    pub(super) segments: Vec<Segment>,
    pub(super) has_spare: bool,
    /// Files that are none of ours. They are left alone.
    pub(super) foreign: Vec<String>,
}

/// What the scan of the newest segment found.
#[derive(Debug)]
pub(super) struct Tail {
    pub(super) segment: Segment,
    pub(super) file: Box<dyn File>,
    /// Where the next batch goes.
    pub(super) position: u64,
    /// The offset the next record gets.
    pub(super) next: Offset,
    /// Highest committed offset in the headers.
    pub(super) committed: Offset,
    pub(super) open_counter: u32,
    /// Bytes of whole batches that were cut off, never acknowledged.
    pub(super) cut_bytes: u64,
    pub(super) holes: Vec<Hole>,
}

/// Lists a log's directory and opens every segment once, to know its size.
pub(super) fn list(fs: &dyn Fs, dir: &Path, segment_bytes: u64) -> Result<Listing, OpenError> {
    let names = fs.list(dir).map_err(StorageError::new("list", dir))?;
    let mut listing = Listing {
        segments: Vec::new(),
        has_spare: false,
        foreign: Vec::new(),
    };
    for name in names {
        if let Some(base) = segment::base_of(&name) {
            let bytes = size(fs, &dir.join(&name))?;
            listing.segments.push(Segment { base, bytes });
        } else if name == segment::SPARE_NAME {
            let path = dir.join(&name);
            if size(fs, &path)? == segment_bytes {
                listing.has_spare = true;
            } else {
                // Half made, or of another configuration.
                fs.remove(&path)
                    .map_err(StorageError::new("remove", &path))?;
            }
        } else if ![slots::FILE_NAME, drops::FILE_NAME, super::LOCK_NAME].contains(&&*name) {
            listing.foreign.push(name);
        }
    }
    listing.segments.sort_by_key(|segment| segment.base);
    Ok(listing)
}

fn size(fs: &dyn Fs, path: &Path) -> Result<u64, StorageError> {
    let file = fs
        .open(path, false)
        .map_err(StorageError::new("open", path))?;
    file.size()
        .map_err(StorageError::new("read the size of", path))
}

/// The identity of a log whose slots are lost: what the batch at the head of a segment says, if its
/// checksum is good.
pub(super) fn identity_of(
    fs: &dyn Fs,
    dir: &Path,
    segments: &[Segment],
) -> Result<Option<u64>, OpenError> {
    for segment in segments.iter().rev() {
        let path = segment::path(dir, segment.base);
        let file = fs
            .open(&path, false)
            .map_err(StorageError::new("open", &path))?;
        let mut head = [0; batch::HEADER_BYTES];
        let read = fs::read_up_to(&*file, &mut head, 0);
        let read = read.map_err(StorageError::new("read", &path))?;
        let Some(identity) = batch::claimed_identity(&head[..read]) else {
            continue;
        };
        let look = BatchReader::new(file, identity).look(0, segment.bytes);
        if let Look::Batch(_) = look.map_err(StorageError::new("read", &path))? {
            return Ok(Some(identity));
        }
    }
    Ok(None)
}

/// Finds the end of the log, brings the state up to it, and makes all of it durable.
///
/// Segments behind the newest one that holds a batch were begun and never synced: they are removed
/// from `segments` and from the disk; one that is known to have held synced records is set aside as
/// `<base>.damaged` instead. `None` if no segment holds anything.
pub(super) fn recover_tail(
    fs: &dyn Fs,
    dir: &Path,
    segments: &mut Vec<Segment>,
    slot: &Slot,
    state: &mut dyn DurableState,
) -> Result<Option<Tail>, OpenError> {
    while let Some(&segment) = segments.last() {
        let path = segment::path(dir, segment.base);
        let file = fs
            .open(&path, true)
            .map_err(StorageError::new("open", &path))?;
        let mut scan = Scan::new(file, segment, slot, path.clone());
        scan.first_pass()?;
        if scan.found_any {
            scan.restore(fs, dir, segments, state)?;
            scan.second_pass(state)?;
            return scan.make_durable().map(Some);
        }
        if segment.base < slot.synced {
            // It held synced records, and nothing of it can be read: kept for whoever wants to try.
            let aside = path.with_extension("damaged");
            fs.rename(&path, &aside)
                .map_err(StorageError::new("set aside", &path))?;
        } else {
            fs.remove(&path)
                .map_err(StorageError::new("remove", &path))?;
        }
        segments.pop();
    }
    Ok(None)
}

struct Scan {
    reader: BatchReader,
    segment: Segment,
    path: PathBuf,
    found_any: bool,
    has_checkpoint: bool,
    /// Highest offset known to have been synced.
    synced: Offset,
    committed: Offset,
    open_counter: u32,
    /// Where the next batch is expected, and with which offset.
    position: u64,
    expected: Offset,
    /// Open counter of the batch before.
    predecessor: u32,
    /// First accepted batch that may be in the page cache alone.
    unsynced_from: Option<u64>,
    /// End of the last whole batch behind a cut.
    cut_end: Option<u64>,
    cut_bytes: u64,
    holes: Vec<Hole>,
}

/// What is to be done at a position of the scan.
enum Step {
    Accept(Found),
    /// Nothing whole begins here, but this follows later.
    Skip(Found),
    End,
}

impl Scan {
    fn new(file: Box<dyn File>, segment: Segment, slot: &Slot, path: PathBuf) -> Self {
        Self {
            reader: BatchReader::new(file, slot.identity),
            segment,
            path,
            found_any: false,
            has_checkpoint: false,
            synced: slot.synced,
            committed: slot.committed,
            open_counter: slot.open_counter,
            position: 0,
            expected: segment.base,
            predecessor: 0,
            unsynced_from: None,
            cut_end: None,
            cut_bytes: 0,
            holes: Vec::new(),
        }
    }

    fn first_pass(&mut self) -> Result<(), OpenError> {
        while let Step::Accept(found) | Step::Skip(found) = self.step()? {
            let header = &found.header;
            self.found_any = true;
            self.has_checkpoint |= header.kind == Kind::Checkpoint;
            self.synced = self.synced.max(header.synced);
            self.committed = self.committed.max(header.committed);
            self.open_counter = self.open_counter.max(header.open_counter);
            self.advance(&found);
        }
        (self.position, self.expected, self.predecessor) = (0, self.segment.base, 0);
        Ok(())
    }

    fn second_pass(&mut self, state: &mut dyn DurableState) -> Result<(), OpenError> {
        loop {
            match self.step()? {
                Step::Accept(found) => self.accept(&found, state),
                Step::Skip(found) if self.expected >= self.synced => {
                    self.cut(&found)?;
                    break;
                }
                Step::Skip(found) => self.accept(&found, state),
                Step::End => break,
            }
        }
        if self.expected < self.synced {
            // The last batches are known to have been synced, and they are gone.
            self.hole_up_to(self.synced);
        }
        Ok(())
    }

    fn step(&mut self) -> Result<Step, OpenError> {
        let limit = self.segment.bytes;
        let (expected, predecessor) = (self.expected, self.predecessor);
        let ours = |header: &Header| header.base >= expected && header.open_counter >= predecessor;
        let look = self
            .reader
            .look(self.position, limit)
            .map_err(self.read_failed())?;
        match look {
            Look::Batch(found) if ours(&found.header) => return Ok(Step::Accept(found)),
            Look::Batch(_) => return Ok(Step::End),
            Look::Newer(found) => {
                let path = self.path.clone();
                return Err(OpenError::NewerFormat {
                    path,
                    found,
                    supported: FORMAT_VERSION,
                });
            }
            Look::Nothing => {}
        }
        // A batch at its expected offset or beyond: stale ones lie below.
        let next = self
            .reader
            .search(self.position + batch::ALIGN, limit, ours);
        Ok(next
            .map_err(self.read_failed())?
            .map_or(Step::End, Step::Skip))
    }

    fn read_failed(&self) -> impl FnOnce(io::Error) -> StorageError + use<> {
        StorageError::new("read", &self.path)
    }

    fn advance(&mut self, found: &Found) {
        self.position = found.position + found.bytes as u64;
        self.expected = found.header.end();
        self.predecessor = found.header.open_counter;
    }

    fn accept(&mut self, found: &Found, state: &mut dyn DurableState) {
        if found.header.base > self.expected {
            self.hole_up_to(found.header.base);
        }
        if found.header.kind == Kind::Records {
            let content = self.reader.content(found).unwrap_or(&[]);
            for record in Entries::new(content, found.header.base).flatten() {
                state.apply(&record);
            }
        }
        match found.header.kind {
            // Synced before anything is written behind it, so in doubt only if it is the last.
            Kind::Checkpoint => self.unsynced_from = Some(found.position),
            Kind::Records if self.expected == self.segment.base => self.unsynced_from = None,
            Kind::Records => {}
        }
        if found.header.end() > self.synced {
            self.unsynced_from.get_or_insert(found.position);
        }
        self.advance(found);
    }

    fn hole_up_to(&mut self, end: Offset) {
        self.holes.push(Hole::new(self.expected, end, "corrupt"));
        self.expected = end;
    }

    /// Notes how far whole batches go behind the cut at the scan's position.
    fn cut(&mut self, first: &Found) -> Result<(), OpenError> {
        let (expected, limit) = (self.expected, self.segment.bytes);
        let mut behind = Some(*first);
        while let Some(found) = behind {
            let end = found.position + found.bytes as u64;
            self.cut_bytes += found.bytes as u64;
            self.cut_end = Some(end);
            let next = self
                .reader
                .search(end, limit, |header| header.base >= expected);
            behind = next.map_err(self.read_failed())?;
        }
        Ok(())
    }

    /// Brings the state to the head of this segment: from its checkpoint, or if that is damaged
    /// from the segment before.
    fn restore(
        &mut self,
        fs: &dyn Fs,
        dir: &Path,
        segments: &[Segment],
        state: &mut dyn DurableState,
    ) -> Result<(), OpenError> {
        if self.has_checkpoint {
            return self.restore_here(state);
        }
        let Some(previous) = segments.len().checked_sub(2).map(|index| segments[index]) else {
            tracing::error!(segment = %self.path.display(), "checkpoint damaged: link sessions and \
                the redelivery window begin anew, duplicates are possible");
            return Ok(());
        };
        let path = segment::path(dir, previous.base);
        let file = fs
            .open(&path, false)
            .map_err(StorageError::new("open", &path))?;
        let slot = Slot {
            identity: self.reader.identity(),
            open_counter: 0,
            committed: Offset::ZERO,
            synced: self.segment.base,
        };
        let mut scan = Self::new(file, previous, &slot, path);
        scan.restore_here(state)?;
        scan.second_pass(state)
    }

    fn restore_here(&mut self, state: &mut dyn DurableState) -> Result<(), OpenError> {
        let look = self
            .reader
            .look(0, self.segment.bytes)
            .map_err(self.read_failed())?;
        if let Look::Batch(found) = look
            && found.header.kind == Kind::Checkpoint
            && found.header.base == self.segment.base
            && let Err(error) = state.restore(self.reader.content(&found).unwrap_or(&[]))
        {
            tracing::error!(segment = %self.path.display(), %error, "link sessions and the \
                redelivery window begin anew, duplicates are possible");
        }
        Ok(())
    }

    fn make_durable(mut self) -> Result<Tail, OpenError> {
        self.reader.forget();
        let failed = |action| StorageError::new(action, &self.path);
        let file = self.reader.into_file();
        let mut touched = false;
        if let Some(from) = self.unsynced_from {
            rewrite(&*file, from, self.position).map_err(failed("rewrite the tail of"))?;
            touched = true;
        }
        if let Some(end) = self.cut_end {
            zero(&*file, self.position, end).map_err(failed("cut the torn tail of"))?;
            touched = true;
        }
        if touched {
            file.sync_data().map_err(failed("sync"))?;
        }
        Ok(Tail {
            segment: self.segment,
            file,
            position: self.position,
            next: self.expected,
            committed: self.committed,
            open_counter: self.open_counter,
            cut_bytes: self.cut_bytes,
            holes: self.holes,
        })
    }
}

/// Writes a range of a file with its own content, so that the next sync can't find it clean.
fn rewrite(file: &dyn File, mut from: u64, to: u64) -> io::Result<()> {
    let mut piece = vec![0; PIECE_BYTES];
    while from < to {
        let want = usize::try_from(to - from)
            .unwrap_or(PIECE_BYTES)
            .min(PIECE_BYTES);
        let read = fs::read_up_to(file, &mut piece[..want], from)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        fs::write_all_at(file, &piece[..read], from)?;
        from += read as u64;
    }
    Ok(())
}

/// Writes zeroes over a range of a file.
pub(super) fn zero(file: &dyn File, mut from: u64, to: u64) -> io::Result<()> {
    let piece = vec![0; PIECE_BYTES];
    while from < to {
        let bytes = usize::try_from(to - from)
            .unwrap_or(PIECE_BYTES)
            .min(PIECE_BYTES);
        fs::write_all_at(file, &piece[..bytes], from)?;
        from += bytes as u64;
    }
    Ok(())
}
