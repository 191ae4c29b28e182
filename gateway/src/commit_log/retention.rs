//! What leaves the log: delivered segments, and undelivered ones that `drop_oldest` or `age_max`
//! drop, always the oldest first and never the newest (I8, I9).
//!
//! # Reuse
//! One segment that left is kept as the spare, so that a steady stream neither makes nor removes
//! files. More would not pay: an empty log may take two segments, so a second spare would have to go
//! and come back each time delivery falls a segment behind, which is what it was to save.
//!
//! # Age
//! A segment's age is the time since the next one was begun: all of its records are older than that.
//! Where that is not known (a damaged checkpoint, a clock that was not set across boots:
//! [`crate::clock::Moment::since`]) it is at least the age of any later segment; where that isn't
//! known either the segment stays. A segment is ended early after a quarter of `age_max`, so that a
//! slow stream, or none, leaves too: records go at 1 to 1.25 times `age_max`. The segment that was
//! written when the gateway stopped counts from its next start.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use super::batch::Kind;
use super::drops::{self, Counts, DropReason, Dropped};
use super::entry::Entries;
use super::segment::{self, BatchReader, Look};
use super::shared::{Inner, Segment, StorageError};
use super::writer::{Refused, Writer, unless_full};
use super::{fs, slots};
use crate::clock::Moment;
use crate::record::{Offset, PayloadKind};

/// How often ages are looked at, at most and at least.
const EXPIRY_INTERVAL_MIN: Duration = Duration::from_millis(if cfg!(test) { 2 } else { 1000 });
const EXPIRY_INTERVAL_MAX: Duration = Duration::from_millis(if cfg!(test) { 2 } else { 60_000 });

/// How much of a segment is read first to find its checkpoint.
const BEGIN_BYTES: u64 = 16 * 1024;

/// Watches the age of segments.
#[derive(Debug)]
pub(super) struct Expiry {
    age_max: Duration,
    pub(super) due: Instant,
    /// When segments were begun, the oldest ones as far as they were looked at; `None` if that can't
    /// be read.
    begun: BTreeMap<Offset, Option<Moment>>,
}

impl Expiry {
    pub(super) fn new(age_max: Duration) -> Self {
        Self {
            age_max,
            due: Instant::now(),
            begun: BTreeMap::new(),
        }
    }

    fn again_later(&mut self) {
        let interval = (self.age_max / 16).clamp(EXPIRY_INTERVAL_MIN, EXPIRY_INTERVAL_MAX);
        self.due = Instant::now() + interval;
    }
}

impl Writer {
    /// Reuses or removes the oldest segment, all of which is delivered. The committed offset is
    /// durable before: without that, the missing segment would look like a loss after a crash.
    pub(super) fn retire(&mut self, segment: Segment) -> Result<(), StorageError> {
        let durably_committed = self.is_durably_committed(&self.shared.lock());
        if !durably_committed {
            // The slots own their space. Where a file system needs some all the same, removing this
            // segment is what makes it; after a crash right then a gap is told that is none.
            unless_full(self.write_slot())?;
        }
        self.remove_oldest(segment)
    }

    /// Is it on disk that the oldest segment is delivered, in the slots or in the last batch?
    pub(super) fn is_durably_committed(&self, inner: &Inner) -> bool {
        let committed = self.slot_written.committed.max(self.committed_in_log);
        let second = inner.segments.get(1);
        second.is_some_and(|second| committed >= second.base)
    }

    /// The removal isn't durable on return. Nothing rests on it: a segment that comes back in a power
    /// cut is delivered, or noted as dropped. A spare gets its new name durably before its new content.
    fn remove_oldest(&mut self, segment: Segment) -> Result<(), StorageError> {
        let path = segment::path(&self.options.dir, segment.base);
        let damaged = self.shared.lock().damage.take(segment.base);
        let kept = if damaged {
            self.keep_damaged(&path, segment)?
        } else if !self.has_spare && segment.bytes == self.options.segment_bytes {
            let spare = self.options.dir.join(segment::SPARE_NAME);
            self.has_spare = unless_no_space(self.fs.rename(&path, &spare))
                .map_err(StorageError::new("retire", &path))?;
            self.has_spare
        } else {
            false
        };
        if !kept {
            self.fs
                .remove(&path)
                .map_err(StorageError::new("remove", &path))?;
        }
        let mut inner = self.shared.lock();
        inner.segments.pop_front();
        let committed = inner.committed;
        inner.drops.prune(committed);
        if !kept {
            inner.disk_bytes -= segment.bytes;
        }
        Ok(())
    }

    /// Sets a damaged segment aside, for whoever wants to look into it. False if it can't be.
    fn keep_damaged(&mut self, path: &Path, segment: Segment) -> Result<bool, StorageError> {
        let failed = StorageError::new("set aside", path);
        let kept = self.quarantine.keep(&*self.fs, path, segment.bytes);
        let trimmed = match unless_no_space(kept) {
            Ok(false) => return Ok(false),
            Ok(true) => self.quarantine.trim(&*self.fs),
            Err(error) => Err(error),
        };
        let bytes = trimmed.map_err(failed)?;
        self.shared.lock().disk_bytes -= bytes.unwrap_or(0);
        Ok(true)
    }

    /// Removes the oldest damaged segment that is kept aside: records need the space. False if
    /// there is none.
    pub(super) fn give_up_damaged(&mut self) -> Result<bool, StorageError> {
        let removed = self.quarantine.give_up_oldest(&*self.fs);
        let bytes = removed.map_err(StorageError::new("remove from", &self.options.dir))?;
        self.shared.lock().disk_bytes -= bytes.unwrap_or(0);
        Ok(bytes.is_some())
    }

    /// Makes room by dropping the oldest segment, or by retiring it if it is delivered. False if it
    /// is the only one.
    pub(super) fn drop_oldest(&mut self, reason: DropReason) -> Result<bool, StorageError> {
        let mut inner = self.shared.lock();
        let (Some(&oldest), Some(&second)) = (inner.segments.front(), inner.segments.get(1)) else {
            return Ok(false);
        };
        if inner.committed >= second.base {
            drop(inner);
            return self.retire(oldest).map(|()| true);
        }
        // From here on no cursor hands anything out of it.
        inner.dropping = Some(oldest.base);
        let from = inner.committed.max(oldest.base);
        let handed_out = inner.handed_out.clamp(from, second.base);
        drop(inner);
        let in_flight = self.dropped(oldest, from..handed_out, reason);
        let waiting = self.dropped(oldest, handed_out..second.base, reason);
        let counted = waiting.sources.clone();
        self.note_drops([in_flight, waiting])?;
        self.remove_oldest(oldest)?;
        self.shared.lock().dropping = None;
        self.shared.moved.notify_all();
        self.tell_dropped(reason, &counted);
        Ok(true)
    }

    /// Makes it durable what is about to be dropped. A disk so full that the file for it can't be
    /// made does not keep the drop from making room; gap markers then say less after a restart.
    fn note_drops(&mut self, new: [Dropped; 2]) -> Result<(), StorageError> {
        let mut inner = self.shared.lock();
        let (committed, handed_out) = (inner.committed, inner.handed_out);
        inner.drops.prune(committed);
        let [in_flight, waiting] = new;
        inner.drops.push(
            Dropped {
                counted: false,
                ..in_flight
            },
            handed_out,
        );
        inner.drops.push(waiting, handed_out);
        let drops = inner.drops.clone();
        drop(inner);
        let before = self.drop_file.bytes();
        let dir = &self.options.dir;
        match self.drop_file.write(&*self.fs, dir, &drops) {
            Err(error) if fs::is_full(&error) => {
                tracing::warn!(
                    "no room for the list of dropped records; it is kept in memory only"
                );
            }
            written => {
                let path = dir.join(drops::FILE_NAME);
                written.map_err(StorageError::new("write", &path))?;
            }
        }
        self.shared.lock().disk_bytes += self.drop_file.bytes() - before;
        Ok(())
    }

    pub(super) fn tell_dropped(&self, reason: DropReason, counts: &Counts) {
        for (source, records) in counts {
            let source = if source.is_empty() { "unknown" } else { source };
            self.observer.dropped(source, reason.label(), *records);
        }
    }

    /// The records of `range`, which lies in `segment`, by source. What can't be read is counted as
    /// of an unknown source: it is dropped all the same.
    fn dropped(
        &self,
        segment: Segment,
        range: std::ops::Range<Offset>,
        reason: DropReason,
    ) -> Dropped {
        let (mut sources, mut unmissed) = (Counts::new(), 0);
        if range.start < range.end
            && let Err(error) = self.count(segment, &range, &mut sources, &mut unmissed)
        {
            tracing::warn!(segment = %segment.base, %error, "a segment to be dropped can't be read");
        }
        let counted: u64 = sources.iter().map(|(_, records)| records).sum();
        let known = unmissed + counted;
        drops::add(
            &mut sources,
            "",
            range.end.since(range.start).saturating_sub(known),
        );
        Dropped {
            first: range.start,
            end: range.end,
            reason,
            counted: true,
            sources,
        }
    }

    fn count(
        &self,
        segment: Segment,
        range: &std::ops::Range<Offset>,
        counts: &mut Counts,
        unmissed: &mut u64,
    ) -> std::io::Result<()> {
        let path = segment::path(&self.options.dir, segment.base);
        let mut reader = BatchReader::new(self.fs.open(&path, false)?, self.shared.identity);
        let (mut position, mut expected) = (0, segment.base);
        while expected < range.end {
            // Remains of the segment's earlier life have lower offsets.
            let next = reader.search(position, segment.bytes, |header| header.base >= expected)?;
            let Some(found) = next.filter(|found| found.header.end() <= range.end) else {
                break;
            };
            position = found.position + found.bytes as u64;
            expected = found.header.end();
            if found.header.kind == Kind::Checkpoint {
                continue;
            }
            let content = reader.content(&found).unwrap_or(&[]);
            let records =
                Entries::new(content, found.header.base, found.header.written.boot_id).flatten();
            for record in records.filter(|record| record.offset >= range.start) {
                // Nobody misses a source's note about itself: the state knows what it said.
                if record.kind != PayloadKind::Note && self.observer.misses(&record) {
                    drops::add(counts, record.source, 1);
                } else {
                    *unmissed += 1;
                }
            }
        }
        Ok(())
    }

    /// Drops what is older than `age_max`, and ends the active segment if it has been written for a
    /// quarter of that.
    pub(super) fn expire(&mut self) -> Result<(), StorageError> {
        let Some(mut expiry) = self.expiry.take() else {
            return Ok(());
        };
        let done = self.expire_with(&mut expiry);
        expiry.again_later();
        self.expiry = Some(expiry);
        done
    }

    fn expire_with(&mut self, expiry: &mut Expiry) -> Result<(), StorageError> {
        let inner = self.shared.lock();
        let (active, synced) = (inner.segments.back().copied(), inner.progress.synced);
        drop(inner);
        if let Some(active) = active
            && synced > active.base
            && self.age(expiry, active) > Some(expiry.age_max / 4)
        {
            match self.roll(synced) {
                // On a full disk it is as well to wait.
                Ok(()) | Err(Refused::Full) => {}
                Err(Refused::Failed(error)) => return Err(error),
            }
        }
        while self.oldest_age(expiry) > Some(expiry.age_max) {
            if !self.drop_oldest(DropReason::Age)? {
                break;
            }
        }
        let first = self.shared.lock().segments.front().copied();
        if let Some(first) = first {
            expiry.begun = expiry.begun.split_off(&first.base);
        }
        Ok(())
    }

    /// At least how old all records of the oldest segment are, if that is known.
    fn oldest_age(&self, expiry: &mut Expiry) -> Option<Duration> {
        let mut index = 1;
        loop {
            let segment = self.shared.lock().segments.get(index).copied()?;
            let age = self.age(expiry, segment);
            if age.is_some() {
                return age;
            }
            index += 1;
        }
    }

    /// How long ago a segment was begun.
    fn age(&self, expiry: &mut Expiry, segment: Segment) -> Option<Duration> {
        let begun = expiry.begun.entry(segment.base);
        let begun = *begun.or_insert_with(|| self.begun(segment));
        self.options.clock.moment().since(&begun?)
    }

    /// When a segment was begun, as its checkpoint says.
    fn begun(&self, segment: Segment) -> Option<Moment> {
        let path = segment::path(&self.options.dir, segment.base);
        let file = self.fs.open(&path, false).ok()?;
        let mut reader = BatchReader::new(file, self.shared.identity);
        // Most checkpoints are small, and many segments may have to be looked at.
        for limit in [BEGIN_BYTES.min(segment.bytes), segment.bytes] {
            match reader.look(0, limit).ok()? {
                Look::Batch(found) if found.header.base == segment.base => {
                    return Some(found.header.written);
                }
                Look::Batch(_) | Look::Nothing | Look::Other(_) => {}
            }
        }
        None
    }

    pub(super) fn write_slot(&mut self) -> Result<(), StorageError> {
        let inner = self.shared.lock();
        let slot = slots::Slot {
            committed: inner.committed,
            synced: inner.progress.synced,
            lineage: inner.lineage_wanted,
            ..self.slot_written
        };
        drop(inner);
        if slot == self.slot_written {
            return Ok(());
        }
        let path = slots::path(&self.options.dir);
        self.slots
            .write(&slot)
            .map_err(StorageError::new("write", &path))?;
        self.slot_written = slot;
        self.shared.lock().lineage = slot.lineage;
        self.shared.moved.notify_all();
        Ok(())
    }
}

/// Whether a call was done: false if the disk had no space for it.
fn unless_no_space(result: std::io::Result<()>) -> std::io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if fs::is_full(&error) => Ok(false),
        Err(error) => Err(error),
    }
}
