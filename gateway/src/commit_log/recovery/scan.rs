//! The scan of one segment: what in it counts, what is stale, torn or corrupt (I4), and making the
//! part that counts durable (I5).
//!
//! It goes over the segment twice. The first pass changes nothing and finds the highest offset
//! known to have been synced; with it the second one decides at each place where a batch should
//! begin and no whole one does.

use std::io;
use std::path::{Path, PathBuf};

use super::super::batch::{self, ALIGN, Claim, Kind};
use super::super::entry::Entries;
use super::super::fs::{self, File, Fs};
use super::super::outcome::{Finding, Outcome};
use super::super::segment::{self, BatchReader, Found, Look};
use super::super::shared::{Segment, StorageError};
use super::super::slots::Slot;
use super::super::state::DurableState;
use super::super::{Hole, OpenError};
use super::{Tail, other_format};
use crate::record::Offset;

/// Zeroes are written, and tails rewritten, in pieces of this size.
const PIECE_BYTES: usize = 64 * 1024;

pub(super) struct Scan {
    reader: BatchReader,
    pub(super) segment: Segment,
    path: PathBuf,
    pub(super) found_any: bool,
    has_checkpoint: bool,
    /// Highest offset known to have been synced.
    pub(super) synced: Offset,
    committed: Offset,
    open_counter: u32,
    /// Where the next batch is expected, and with which offset.
    position: u64,
    expected: Offset,
    /// Open counter of the batch before.
    predecessor: u32,
    /// Where nothing whole and newer follows.
    end: Option<u64>,
    /// The first batch in another format that is not stale.
    other: Option<OtherFormat>,
    /// First accepted batch that may be in the page cache alone.
    unsynced_from: Option<u64>,
    /// End of what is cut.
    cut_end: Option<u64>,
    cut_bytes: u64,
    holes: Vec<Hole>,
    findings: Vec<Finding>,
}

/// What is to be done at a position of the scan.
enum Step {
    Accept(Found),
    /// Nothing whole begins here, but this follows later.
    Skip(Found),
    /// The next that is whole and not stale is in another format, and begins at this position.
    Other(Claim, u64),
    End,
}

/// A batch in another format, as the first pass has come upon it.
#[derive(Clone, Copy)]
struct OtherFormat {
    claim: Claim,
    /// The offset that was expected.
    expected: Offset,
    /// Nothing but it begins where a batch was expected.
    in_place: bool,
}

impl Scan {
    pub(super) fn new(file: Box<dyn File>, segment: Segment, slot: &Slot, path: PathBuf) -> Self {
        Self {
            reader: BatchReader::new(file, slot.identity),
            segment,
            path,
            found_any: false,
            has_checkpoint: false,
            // A segment is begun when all before it is synced.
            synced: slot.synced.max(segment.base),
            committed: slot.committed,
            open_counter: slot.open_counter,
            position: 0,
            expected: segment.base,
            predecessor: 0,
            end: None,
            other: None,
            unsynced_from: None,
            cut_end: None,
            cut_bytes: 0,
            holes: Vec::new(),
            findings: Vec::new(),
        }
    }

    /// Reads all of it and changes nothing, neither here nor on the disk.
    pub(super) fn first_pass(&mut self) -> Result<(), OpenError> {
        loop {
            match self.step()? {
                Step::Accept(found) | Step::Skip(found) => {
                    let header = &found.header;
                    self.has_checkpoint |= header.kind == Kind::Checkpoint;
                    self.synced = self.synced.max(header.synced);
                    self.committed = self.committed.max(header.committed);
                    self.open_counter = self.open_counter.max(header.open_counter);
                    self.advance(&found);
                }
                Step::Other(claim, position) => self.note_other(claim, position),
                Step::End => break,
            }
            self.found_any = true;
        }
        (self.position, self.expected, self.predecessor) = (0, self.segment.base, 0);
        Ok(())
    }

    fn note_other(&mut self, claim: Claim, position: u64) {
        self.other.get_or_insert(OtherFormat {
            claim,
            expected: self.expected,
            in_place: position == self.position,
        });
        self.synced = self.synced.max(claim.synced);
        self.position = position + claim.bytes;
        self.expected = claim.end;
        self.predecessor = claim.open_counter;
    }

    /// To be called once the highest synced offset is known, before anything is changed.
    ///
    /// # Errors
    /// A batch in another format is part of the log. It is none behind a torn place: it is cut like one
    /// of ours.
    pub(super) fn refuse_other_format(&self) -> Result<(), OpenError> {
        match self.other {
            Some(other)
                if other.in_place
                    || other.claim.base == other.expected
                    || other.expected < self.synced =>
            {
                Err(other_format(&self.path, other.claim.version))
            }
            Some(_) | None => Ok(()),
        }
    }

    pub(super) fn second_pass(&mut self, state: &mut dyn DurableState) -> Result<(), OpenError> {
        loop {
            match self.step()? {
                Step::Accept(found) => self.accept(&found, state),
                // Where no offset is missing in between, what can't be read is a checkpoint, and
                // that was synced before anything was written behind it.
                Step::Skip(found)
                    if self.expected >= self.synced && found.header.base > self.expected =>
                {
                    self.torn_tail();
                    break;
                }
                Step::Skip(found) => self.accept(&found, state),
                // Only behind a torn place, or it would have been refused.
                Step::Other(..) => {
                    self.torn_tail();
                    break;
                }
                Step::End => {
                    self.at_end()?;
                    break;
                }
            }
        }
        self.cut_remains()
    }

    fn step(&mut self) -> Result<Step, OpenError> {
        let mut position = self.position;
        while self.end != Some(self.position)
            && position + (batch::HEADER_BYTES as u64) <= self.segment.bytes
        {
            let look = self.reader.look(position, self.segment.bytes);
            match look.map_err(self.read_failed())? {
                Look::Batch(found)
                    if self.is_ours(found.header.base, found.header.open_counter) =>
                {
                    return Ok(match position == self.position {
                        true => Step::Accept(found),
                        false => Step::Skip(found),
                    });
                }
                // The log may go on behind it, where the disk has lost a write it had confirmed.
                Look::Batch(found) => {
                    self.note_stale(found.header.base, position);
                    position += found.bytes as u64;
                }
                Look::Other(claim) if self.is_ours(claim.base, claim.open_counter) => {
                    return Ok(Step::Other(claim, position));
                }
                Look::Other(claim) => {
                    self.note_stale(claim.base, position);
                    position += claim.bytes;
                }
                Look::Nothing => position += ALIGN,
            }
        }
        self.end = Some(self.position);
        Ok(Step::End)
    }

    /// A batch at its expected offset or beyond, and no older than the one before: stale ones
    /// aren't.
    fn is_ours(&self, base: Offset, open_counter: u32) -> bool {
        base >= self.expected && open_counter >= self.predecessor
    }

    fn note_stale(&mut self, base: Offset, position: u64) {
        let outcome = match base < self.expected {
            true => Outcome::EarlierLife,
            false => Outcome::CutRemains,
        };
        if !self.findings.iter().any(|known| known.outcome == outcome) {
            let finding = Finding::new(outcome, self.path.clone());
            self.findings.push(finding.at(position));
        }
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
            self.hole_up_to(found.header.base, Outcome::CorruptBatch);
        }
        if found.header.kind == Kind::Records {
            self.apply(found, state);
        }
        match found.header.kind {
            // Synced before anything is written behind it, so in doubt only if it is the last.
            Kind::Checkpoint => self.unsynced_from = Some(found.position),
            Kind::Records if self.expected == self.segment.base => self.unsynced_from = None,
            Kind::Records => {}
        }
        if found.header.end() > self.synced {
            if self.unsynced_from.is_none() {
                let finding = Finding::new(Outcome::TailMadeDurable, self.path.clone());
                self.findings.push(finding.at(found.position));
            }
            self.unsynced_from.get_or_insert(found.position);
        }
        self.advance(found);
    }

    fn apply(&mut self, found: &Found, state: &mut dyn DurableState) {
        let header = &found.header;
        let content = self.reader.content(found).unwrap_or(&[]);
        let mut readable_end = header.base;
        let records = Entries::new(content, header.base, header.written.boot_id).flatten();
        for record in records.take_while(|record| record.offset < header.end()) {
            state.apply(&record);
            readable_end = record.offset.plus(1);
        }
        if readable_end < header.end() {
            let last = Offset::new(header.end().get() - 1);
            let finding = Finding::new(Outcome::UndecodableBatch, self.path.clone());
            let finding = finding.at(found.position).lost(readable_end, last);
            self.findings.push(finding);
        }
    }

    fn hole_up_to(&mut self, end: Offset, outcome: Outcome) {
        let (first, last) = (self.expected, Offset::new(end.get() - 1));
        let missing = outcome == Outcome::MissingSegment;
        let reason = if missing { "missing" } else { "corrupt" };
        self.holes.push(Hole::new(first, end, reason));
        let finding = Finding::new(outcome, self.path.clone()).at(self.position);
        self.findings.push(finding.lost(first, last));
        self.expected = end;
    }

    /// Nothing whole follows. What lies here instead?
    fn at_end(&mut self) -> Result<(), OpenError> {
        let claimed = self.claimed_here()?;
        if self.expected < self.synced {
            // The last batches are known to have been synced, and they are gone.
            let outcome = match claimed {
                Some(_) => Outcome::CorruptEnd,
                None => Outcome::MissingSegment,
            };
            self.hole_up_to(self.synced, outcome);
            // Not written over: somebody may want to look into it.
            self.position += claimed.unwrap_or(0);
        } else if let Some(bytes) = claimed {
            let finding = Finding::new(Outcome::TornTail, self.path.clone());
            self.findings.push(finding.at(self.position));
            self.cut_bytes = bytes;
            self.cut_end = Some(self.position + bytes);
        }
        Ok(())
    }

    /// Length of the damaged batch that claims to be the expected one, as far as the segment goes.
    fn claimed_here(&mut self) -> Result<Option<u64>, OpenError> {
        let failed = self.read_failed();
        let head = self.reader.head(self.position, self.segment.bytes);
        let claim = batch::claim(head.map_err(failed)?);
        let room = self.segment.bytes.saturating_sub(self.position);
        Ok(claim
            .filter(|claim| claim.identity == self.reader.identity() && claim.base == self.expected)
            .map(|claim| claim.bytes.min(room)))
    }

    fn torn_tail(&mut self) {
        let finding = Finding::new(Outcome::TornTail, self.path.clone());
        self.findings.push(finding.at(self.position));
    }

    /// Notes what behind the end a later scan could take for a part of the log, to have it zeroed:
    /// whole batches behind a torn place, and what looks like one inside of a stale batch, and would
    /// come to light when that is written over.
    fn cut_remains(&mut self) -> Result<(), OpenError> {
        let (expected, predecessor) = (self.expected, self.predecessor);
        let counts = |claim: &Claim| claim.base >= expected && claim.open_counter >= predecessor;
        let mut position = self.position;
        loop {
            let next = self
                .reader
                .search_inside(position, self.segment.bytes, counts);
            let Some((from, to)) = next.map_err(self.read_failed())? else {
                return Ok(());
            };
            let known = self.cut_end.unwrap_or(from).max(from);
            self.cut_bytes += to.saturating_sub(known);
            self.cut_end = self.cut_end.max(Some(to));
            position = from + ALIGN;
        }
    }

    /// Brings the state to the head of this segment: from its checkpoint, or if that is damaged
    /// from the segment before.
    pub(super) fn restore(
        &mut self,
        fs: &dyn Fs,
        dir: &Path,
        segments: &[Segment],
        state: &mut dyn DurableState,
    ) -> Result<(), OpenError> {
        if self.has_checkpoint && self.restore_here(state)? {
            return Ok(());
        }
        let finding = Finding::new(Outcome::CheckpointDamaged, self.path.clone());
        self.findings.push(finding.at(0));
        let Some(previous) = segments.len().checked_sub(2).map(|index| segments[index]) else {
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
            lineage: 0,
        };
        let mut scan = Self::new(file, previous, &slot, path);
        scan.restore_here(state)?;
        scan.second_pass(state)
    }

    /// False if the checkpoint can't be read.
    fn restore_here(&mut self, state: &mut dyn DurableState) -> Result<bool, OpenError> {
        let look = self.reader.look(0, self.segment.bytes);
        match look.map_err(self.read_failed())? {
            Look::Batch(found)
                if found.header.kind == Kind::Checkpoint
                    && found.header.base == self.segment.base =>
            {
                let content = self.reader.content(&found);
                Ok(content.is_some_and(|content| state.restore(content).is_ok()))
            }
            Look::Batch(_) | Look::Nothing | Look::Other(_) => Ok(false),
        }
    }

    /// Rewrites and zeroes what needs it, and syncs. What it returns is durable.
    pub(super) fn make_durable(mut self) -> Result<Tail, OpenError> {
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
            findings: self.findings,
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
            // A file cut short inside the padding of its last batch, which was whole when read.
            return Ok(());
        }
        fs::write_all_at(file, &piece[..read], from)?;
        from += read as u64;
    }
    Ok(())
}

/// Writes zeroes over a range of a file.
pub(in super::super) fn zero(file: &dyn File, mut from: u64, to: u64) -> io::Result<()> {
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
