//! Opening a log: what is there is checked, made durable, and only then counts.
//!
//! ```text
//! look     directory · slots · the head of every segment · the newest segment that holds a batch
//!          (another format, an I/O error: refused, and nothing was touched)
//! tidy     what isn't the log's is set aside, what a crash left half made is removed
//! restore  the state from the newest checkpoint and the batches behind it
//! durable  the tail is rewritten, cut, synced; then the slots are written
//! ```
//!
//! Only the newest segment that holds a batch is scanned, so opening costs the same whatever the
//! backlog (I4). At each place of it where a batch should begin and no whole one does:
//!
//! ```text
//! nothing whole and newer behind it          the end of the log
//! expected offset ≥ highest synced           a torn tail: cut here, with all behind it
//! expected offset < highest synced           corruption: a hole up to the next whole batch
//! ```
//!
//! The highest synced offset comes from the slots, the headers, and the names of segments, since a
//! segment is begun only when all before it is synced. A whole batch with a lower offset than
//! expected, or a lower open counter than its predecessor's, is stale: left from the segment's
//! earlier life, or from a tail that was cut. It ends the log.
//!
//! A batch in another format is judged by what every format's header says: stale, it is ignored; behind
//! a torn place it is cut; where the log goes on with it, opening is refused.
//!
//! Whole batches behind a cut are zeroed, since a later scan could take them for ours. So is what looks
//! like a batch of ours inside of a stale one, as when a record holds a copy of a segment: it would come
//! to light when the head of the stale one is written over, and could end a log that was sound. What
//! remains is a record that was made to look like a batch of this very log, in a segment that was reused
//! since, laid open by a crash: nothing but identity and checksum tells it from one. What was
//! accepted beyond the highest known synced offset is written again and synced before anything
//! rests on it (I5). An I/O error is neither of these: opening fails. Every case has a name
//! ([`Outcome`]), and what was found is told to whoever opens the log.
//!
//! A segment that was begun and never synced can't always be told from one that held records and
//! was lost wholly, all of it, while slots and neighbours know nothing of them: a blank file, or one
//! whose head is this log's, counts as begun; anything else is kept aside.

mod heads;
mod scan;

use std::path::Path;

use super::batch::{self, FORMAT_VERSION};
use super::drops::Drops;
use super::fs::{File, Fs};
use super::outcome::{Finding, Outcome};
use super::quarantine::{self, Kept, Quarantine};
use super::segment;
use super::shared::{Segment, StorageError};
use super::slots::{self, Slot, Slots};
use super::state::DurableState;
use super::{Hole, OpenError, drops};
use crate::record::Offset;
use heads::Head;
use scan::Scan;
pub(super) use scan::zero;

/// What the directory of a log holds.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Sorted by base.
    pub(super) segments: Vec<Segment>,
    pub(super) has_spare: bool,
    /// Files that are none of ours. They are left alone.
    pub(super) foreign: Vec<String>,
    damaged: Vec<Kept>,
    /// A spare that is half made, or of another configuration.
    odd_spare: bool,
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
    pub(super) findings: Vec<Finding>,
}

/// A log whose files are in order again.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) listing: Listing,
    pub(super) quarantine: Quarantine,
    pub(super) slots: Slots,
    /// What is known beside the tail. Without slots its offsets are 0.
    pub(super) slot: Slot,
    /// `None` if no segment holds anything: they are gone.
    pub(super) tail: Option<Tail>,
    /// What was found, but for the tail's.
    pub(super) findings: Vec<Finding>,
}

/// The error of a batch in another format than ours.
pub(super) fn other_format(path: &Path, found: u8) -> OpenError {
    let (path, supported) = (path.to_owned(), FORMAT_VERSION);
    if found > FORMAT_VERSION {
        OpenError::NewerFormat {
            path,
            found,
            supported,
        }
    } else {
        OpenError::OlderFormat {
            path,
            found,
            supported,
        }
    }
}

/// Puts the log of `dir` in order and brings `state` to its end. The slots are not written yet, nor
/// is the directory synced.
///
/// # Errors
/// A format that isn't understood: nothing was changed. An I/O error.
pub(super) fn recover(
    fs: &dyn Fs,
    dir: &Path,
    segment_bytes: u64,
    new_identity: fn() -> u64,
    state: &mut dyn DurableState,
) -> Result<Recovered, OpenError> {
    let mut listing = list(fs, dir, segment_bytes)?;
    let known = read_slot(fs, dir)?;
    let mut heads = heads::read(fs, dir, &listing.segments)?;
    let (identity, foreign_slots) = heads::identity(fs, &heads, known.as_ref())?;
    let intruders = heads::intruders(fs, &heads, identity.unwrap_or_default())?;
    let slot = match known.filter(|_| !foreign_slots) {
        Some(slot) => slot,
        None => Slot {
            identity: identity.unwrap_or_else(new_identity),
            open_counter: 0,
            committed: Offset::ZERO,
            synced: Offset::ZERO,
            lineage: 0,
        },
    };
    let intruders: Vec<(Head, Outcome)> = intruders
        .into_iter()
        .rev()
        .map(|(index, outcome)| (heads.remove(index), outcome))
        .collect();
    listing.segments = heads.iter().map(|head| head.segment).collect();
    let (tail, unread) = find_tail(fs, &heads, &slot)?;

    // What was found is understood: from here on files are changed.
    let mut tidying = Tidying {
        fs,
        dir,
        quarantine: Quarantine::new(std::mem::take(&mut listing.damaged)),
        findings: slot_findings(dir, known.as_ref(), foreign_slots, &listing.segments),
    };
    tidying.set_aside(intruders)?;
    tidying.note_files(&listing, &slot);
    listing.segments.truncate(listing.segments.len() - unread);
    let unread = heads.split_off(heads.len() - unread);
    let slots_path = slots::path(dir);
    let slots = Slots::open(fs, dir)
        .map_err(StorageError::new("open", &slots_path))?
        .0;
    if listing.odd_spare {
        let path = dir.join(segment::SPARE_NAME);
        fs.remove(&path)
            .map_err(StorageError::new("remove", &path))?;
    }
    let mut tail = match tail {
        Some(mut scan) => {
            scan.restore(fs, dir, &listing.segments, state)?;
            scan.second_pass(state)?;
            Some(scan.make_durable()?)
        }
        None => None,
    };
    tidying.settle_unread(unread, &slot, tail.as_mut())?;
    Ok(Recovered {
        listing,
        quarantine: tidying.quarantine,
        slots,
        slot,
        tail,
        findings: tidying.findings,
    })
}

/// The newest whole slot; nothing is changed. One that is being written meanwhile is not whole, the
/// other one then is.
pub(super) fn read_slot(fs: &dyn Fs, dir: &Path) -> Result<Option<Slot>, OpenError> {
    let path = slots::path(dir);
    match slots::peek(fs, dir).map_err(StorageError::new("read", &path))? {
        slots::Peeked::Slot(slot) => Ok(Some(slot)),
        slots::Peeked::None => Ok(None),
        slots::Peeked::OtherVersion(found) => Err(other_format(&path, found)),
    }
}

/// The identity of a log whose slots are lost: what the newest whole head of a segment says.
pub(super) fn identity_of(
    fs: &dyn Fs,
    dir: &Path,
    segments: &[Segment],
) -> Result<Option<u64>, OpenError> {
    Ok(heads::identity(fs, &heads::read(fs, dir, segments)?, None)?.0)
}

/// Lists a log's directory and opens every segment once, to know its size. The heads, which are read
/// next, are then on their way from the disk all at once: with a thousand segments one by one is
/// what would take the time.
fn list(fs: &dyn Fs, dir: &Path, segment_bytes: u64) -> Result<Listing, OpenError> {
    let names = fs.list(dir).map_err(StorageError::new("list", dir))?;
    let mut listing = Listing::default();
    for name in names {
        let path = dir.join(&name);
        if let Some(base) = segment::base_of(&name) {
            let bytes = size(fs, &path)?;
            listing.segments.push(Segment { base, bytes });
        } else if name == segment::SPARE_NAME {
            listing.has_spare = size(fs, &path)? == segment_bytes;
            listing.odd_spare = !listing.has_spare;
        } else if quarantine::is_kept(&name) {
            let bytes = size(fs, &path)?;
            listing.damaged.push(Kept { path, bytes });
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
    file.prefetch(batch::HEADER_BYTES as u64);
    file.size()
        .map_err(StorageError::new("read the size of", path))
}

/// The newest segment that holds a batch, after its first pass, and how many newer ones hold none.
fn find_tail(fs: &dyn Fs, heads: &[Head], slot: &Slot) -> Result<(Option<Scan>, usize), OpenError> {
    for (unread, head) in heads.iter().rev().enumerate() {
        let path = head.path.clone();
        let file = fs
            .open(&path, true)
            .map_err(StorageError::new("open", &path))?;
        let mut scan = Scan::new(file, head.segment, slot, path);
        scan.first_pass()?;
        if scan.found_any {
            // A record takes more than a byte, so a name further off is none that the log gave.
            let furthest = scan.segment.base.plus(scan.segment.bytes);
            let begun = heads[heads.len() - unread..].iter();
            let begun = begun.map(|head| head.segment.base);
            for base in begun.filter(|base| *base <= furthest) {
                scan.synced = scan.synced.max(base);
            }
            scan.refuse_other_format()?;
            return Ok((Some(scan), unread));
        }
    }
    Ok((None, heads.len()))
}

fn slot_findings(
    dir: &Path,
    known: Option<&Slot>,
    foreign: bool,
    segments: &[Segment],
) -> Vec<Finding> {
    let outcome = match known {
        Some(_) if foreign => Outcome::ForeignSlots,
        None if !segments.is_empty() => Outcome::SlotsLost,
        Some(_) | None => return Vec::new(),
    };
    vec![Finding::new(outcome, slots::path(dir))]
}

/// Putting the directory in order.
struct Tidying<'a> {
    fs: &'a dyn Fs,
    dir: &'a Path,
    quarantine: Quarantine,
    findings: Vec<Finding>,
}

impl Tidying<'_> {
    fn set_aside(&mut self, intruders: Vec<(Head, Outcome)>) -> Result<(), OpenError> {
        for (head, outcome) in intruders {
            self.findings.push(Finding::new(outcome, head.path.clone()));
            if outcome == Outcome::ForeignSegment {
                quarantine::set_aside(self.fs, &head.path, quarantine::FOREIGN)
                    .map_err(StorageError::new("set aside", &head.path))?;
            } else {
                self.keep(&head)?;
            }
        }
        Ok(())
    }

    fn keep(&mut self, head: &Head) -> Result<(), OpenError> {
        self.quarantine
            .keep(self.fs, &head.path, head.segment.bytes)
            .and_then(|()| self.quarantine.trim(self.fs))
            .map_err(StorageError::new("set aside", &head.path))?;
        Ok(())
    }

    fn note_files(&mut self, listing: &Listing, slot: &Slot) {
        for name in &listing.foreign {
            let path = self.dir.join(name);
            self.findings.push(Finding::new(Outcome::ForeignFile, path));
        }
        for pair in listing.segments.windows(2) {
            if pair[0].bytes == 0 {
                let path = segment::path(self.dir, pair[0].base);
                let last = Offset::new(pair[1].base.get() - 1);
                let mut finding = Finding::new(Outcome::ZeroLengthSegment, path);
                finding = finding.lost(pair[0].base, last);
                finding.clip(slot.committed);
                self.findings.push(finding);
            }
        }
    }

    /// The newest segments, of which nothing can be read: begun and never synced, or damaged.
    fn settle_unread(
        &mut self,
        unread: Vec<Head>,
        slot: &Slot,
        tail: Option<&mut Tail>,
    ) -> Result<(), OpenError> {
        let mut lost = lost_at_the_end(slot, tail);
        for head in unread.into_iter().rev() {
            let base = head.segment.base;
            let held_records = base < slot.synced;
            let ours = matches!(head.claim, Some(claim) if claim.identity == slot.identity);
            let outcome = match (held_records, head.segment.bytes) {
                (true, 0) => Outcome::ZeroLengthSegment,
                (true, _) => Outcome::UnreadableSegment,
                (false, _) if head.blank || ours => Outcome::BegunSegment,
                (false, _) => Outcome::UnreadableSegment,
            };
            let mut finding = Finding::new(outcome, head.path.clone());
            if held_records && let Some((first, last)) = lost.filter(|(_, last)| *last >= base) {
                finding = finding.lost(first.max(base), last);
                lost = (first < base).then(|| (first, Offset::new(base.get() - 1)));
            }
            self.findings.push(finding);
            if outcome == Outcome::UnreadableSegment {
                self.keep(&head)?;
            } else {
                self.fs
                    .remove(&head.path)
                    .map_err(StorageError::new("remove", &head.path))?;
            }
        }
        if let Some((first, last)) = lost {
            let finding = Finding::new(Outcome::MissingSegment, self.dir.to_owned());
            self.findings.push(finding.lost(first, last));
        }
        Ok(())
    }
}

/// Undelivered records that are known to have been synced behind all that can be read. Taken out of
/// the tail's findings where it was at a loss to say what became of them.
fn lost_at_the_end(slot: &Slot, tail: Option<&mut Tail>) -> Option<(Offset, Offset)> {
    let Some(tail) = tail else {
        return (slot.committed < slot.synced)
            .then(|| (slot.committed, Offset::new(slot.synced.get() - 1)));
    };
    let index = tail
        .findings
        .iter()
        .position(|finding| finding.outcome == Outcome::MissingSegment)?;
    tail.findings.remove(index).lost
}

/// All that was found, now that the committed offset is known: what was delivered is not lost.
pub(super) fn findings(
    recovered: &mut Recovered,
    dir: &Path,
    tail: &mut Tail,
    (committed, drops): (Offset, &Drops),
) -> Vec<Finding> {
    let mut findings = std::mem::take(&mut recovered.findings);
    findings.append(&mut tail.findings);
    let ends_early = |hole: &Hole| hole.last.plus(1) == tail.next && hole.first < committed;
    if tail.holes.last().is_some_and(ends_early) {
        let path = segment::path(dir, tail.segment.base);
        findings.push(Finding::new(Outcome::CommittedBeyondEnd, path));
    }
    let first = recovered.listing.segments.first();
    let start = first.map_or(tail.next, |segment| segment.base);
    let mut position = committed;
    while position < start {
        let hole = drops.hole(position, start);
        let told = |finding: &Finding| finding.lost.is_some_and(|(first, _)| first <= position);
        if hole.reason == "missing" && !findings.iter().any(told) {
            let finding = Finding::new(Outcome::CommittedBeforeStart, dir.to_owned());
            findings.push(finding.lost(hole.first, hole.last));
        }
        position = hole.last.plus(1);
    }
    for finding in &mut findings {
        finding.clip(committed);
    }
    tail.holes.retain(|hole| hole.last >= committed);
    findings
}
