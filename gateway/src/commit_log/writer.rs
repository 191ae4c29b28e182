//! The writer thread: the only one that writes the log's files.
//!
//! It waits for records to be gathered, writes them as one batch, syncs once, and tells everybody.
//! Between commits it retires segments that are delivered, drops those that are too old
//! ([`super::retention`]), and writes the slots when the log falls idle. A failed write or sync ends it: the log is poisoned (I3). A full disk or a used-up budget
//! does not: the batch in hand waits, and is tried again when records were delivered, or after
//! [`FULL_RETRY`], since others may have made space.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::batch::{self, HEADER_BYTES, Header, Kind};
use super::compression::{Content, Packer};
use super::drops::{Counts, DropFile, DropReason};
use super::entry::Entries;
use super::fs::{self, File, Fs, LockGuard};
use super::quarantine::Quarantine;
use super::retention::Expiry;
use super::segment;
use super::shared::{Gathered, Segment, Shared, StorageError};
use super::slots::{Slot, Slots};
use super::state::DurableState;
use super::{CommitReport, Condition, Observer, Options, recovery};
use crate::record::Offset;

/// How long a full disk is left alone before the next try, if nothing was delivered meanwhile.
const FULL_RETRY: Duration = Duration::from_millis(if cfg!(test) { 10 } else { 500 });
/// How long offsets may be known to memory alone while no batch is written. Bounds the duplicates
/// of a crash in a quiet moment; one page of flash each time.
const SLOT_INTERVAL: Duration = Duration::from_secs(2);

/// Why a batch was not written.
pub(super) enum Refused {
    /// No space, for now. Nothing of the batch counts.
    Full,
    Failed(StorageError),
}

/// What the thread has to do next.
enum Work {
    Commit,
    Retire(Segment),
    WriteSlot,
    /// Drop what is too old.
    Expire,
    /// Tell the observer of drops that have come to count.
    TellDropped(Vec<(DropReason, Counts)>),
    Close,
}

/// A batch that is being written, behind room for its header.
struct Sealing<'a> {
    bytes: &'a mut Vec<u8>,
    /// Where its content ends; padding follows.
    end: usize,
    header: Header,
}

#[derive(Debug)]
pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) fs: Arc<dyn Fs>,
    pub(super) options: Options,
    pub(super) open_counter: u32,
    pub(super) active: Box<dyn File>,
    pub(super) active_bytes: u64,
    pub(super) position: u64,
    pub(super) has_spare: bool,
    /// Batches in the active segment.
    pub(super) active_batches: u64,
    pub(super) slots: Slots,
    pub(super) quarantine: Quarantine,
    pub(super) drop_file: DropFile,
    pub(super) expiry: Option<Expiry>,
    pub(super) packer: Packer,
    /// The batch in hand, compressed.
    pub(super) packed: Vec<u8>,
    pub(super) slot_written: Slot,
    /// The committed offset that the last synced batch names.
    pub(super) committed_in_log: Offset,
    /// When the last group commit had ended.
    pub(super) committed_at: Instant,
    pub(super) state: Box<dyn DurableState>,
    pub(super) observer: Box<dyn Observer>,
    /// Held as long as the files are written.
    pub(super) _lock: Box<dyn LockGuard>,
}

impl Writer {
    /// Runs until the log is closed or poisoned.
    pub(super) fn run(mut self) {
        // Without the thread nobody would be told, and sources would wait for ever (G6).
        let ended = catch_unwind(AssertUnwindSafe(|| self.serve())).unwrap_or_else(|_| {
            let source = std::io::Error::other("the writer thread panicked");
            Err(StorageError {
                action: "go on writing",
                path: self.options.dir.clone(),
                source,
            })
        });
        let mut inner = self.shared.lock();
        inner.progress.condition = match ended {
            Ok(()) => Condition::Closed,
            Err(error) => {
                inner.failure = Some(Arc::new(error));
                Condition::Poisoned
            }
        };
        // A cursor may wait for the end of a drop that failed.
        inner.dropping = None;
        let progress = inner.progress;
        drop(inner);
        self.shared.moved.notify_all();
        self.observer.progress(progress);
    }

    fn serve(&mut self) -> Result<(), StorageError> {
        let mut batch = Gathered::new();
        let mut slot_due = Instant::now() + SLOT_INTERVAL;
        loop {
            match self.next_work(&mut batch, slot_due) {
                Work::Commit => {
                    if !self.commit(&mut batch)? {
                        // Closing on a full disk: what is in hand was never acknowledged.
                        return unless_full(self.write_slot());
                    }
                }
                Work::Retire(segment) => self.retire(segment)?,
                Work::WriteSlot => unless_full(self.write_slot())?,
                Work::Expire => {
                    self.expire()?;
                    continue;
                }
                Work::TellDropped(dropped) => {
                    for (reason, counts) in dropped {
                        self.tell_dropped(reason, &counts);
                    }
                    continue;
                }
                Work::Close => return unless_full(self.write_slot()),
            }
            slot_due = Instant::now() + SLOT_INTERVAL;
        }
    }

    /// Blocks until there is something to do. For [`Work::Commit`], what was gathered is in `batch`.
    fn next_work(&self, batch: &mut Gathered, slot_due: Instant) -> Work {
        let mut inner = self.shared.lock();
        inner.looks = false;
        // Where records keep coming the end of one commit begins the wait for the next, so that the first
        // record has nobody to wake.
        let look = self.committed_at + self.options.commit_interval;
        loop {
            let now = Instant::now();
            // The next batch names the committed offset, which saves a flush of the slots.
            if let Some(segment) = inner.retired()
                && (inner.gathering_since.is_none() || self.is_durably_committed(&inner))
            {
                return Work::Retire(segment);
            }
            if inner.lineage != inner.lineage_wanted {
                return Work::WriteSlot;
            }
            if !inner.uncounted.is_empty() {
                return Work::TellDropped(std::mem::take(&mut inner.uncounted));
            }
            let expiry_due = self.expiry.as_ref().map(|expiry| expiry.due);
            if expiry_due.is_some_and(|due| now >= due) {
                return Work::Expire;
            }
            let wake = match inner.gathering_since {
                Some(since) => {
                    let mut due = since + self.options.commit_interval;
                    if inner.looks {
                        due = due.min(look);
                    }
                    due = inner.hastened.map_or(due, |hastened| due.min(hastened));
                    let large = inner.gathering.bytes.len() >= self.shared.commit_bytes;
                    if now >= due || large || inner.closing {
                        batch.reset();
                        std::mem::swap(batch, &mut inner.gathering);
                        inner.gathering_since = None;
                        inner.hastened = None;
                        return Work::Commit;
                    }
                    Some(due)
                }
                None if inner.closing => return Work::Close,
                None => {
                    let slot = (inner.committed, inner.progress.synced);
                    let stale = slot != (self.slot_written.committed, self.slot_written.synced);
                    if stale && now >= slot_due {
                        return Work::WriteSlot;
                    }
                    let slot_due = stale.then_some(slot_due);
                    let look = (now < look).then_some(look);
                    slot_due.into_iter().chain(look).min()
                }
            };
            let wake = wake.into_iter().chain(expiry_due).min();
            inner.sleeps = wake.is_none();
            inner.looks = now < look && (inner.looks || inner.gathering_since.is_none());
            inner = match wake {
                None => self
                    .shared
                    .work
                    .wait(inner)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(at) => {
                    let left = at.saturating_duration_since(now);
                    let woken = self.shared.work.wait_timeout(inner, left);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Makes a batch durable, waiting for space if there is none. False if the log was closed
    /// while it waited.
    fn commit(&mut self, batch: &mut Gathered) -> Result<bool, StorageError> {
        let began = Instant::now();
        let content_end = batch.bytes.len();
        let mut packed = std::mem::take(&mut self.packed);
        let content = self.packer.pack(&batch.bytes, &mut packed);
        let bytes = match content {
            Content::Plain => &mut batch.bytes,
            Content::Packed { .. } => &mut packed,
        };
        let mut sealing = Sealing {
            end: bytes.len(),
            bytes,
            header: Header {
                content,
                ..self.header(Kind::Records, batch.count, batch.base)
            },
        };
        let written = self.write_patiently(&mut sealing)?;
        let written_bytes = sealing.bytes.len() as u64;
        let committed = sealing.header.committed;
        self.packed = packed;
        if written {
            self.committed_in_log = committed;
            self.committed_at = Instant::now();
            self.announce(batch, content_end, (written_bytes, began.elapsed()));
        }
        Ok(written)
    }

    /// Writes a batch, waiting for space if there is none. False if the log was closed meanwhile.
    fn write_patiently(&mut self, batch: &mut Sealing<'_>) -> Result<bool, StorageError> {
        while let Err(refused) = self.write(batch) {
            match refused {
                Refused::Failed(error) => return Err(error),
                Refused::Full if self.give_up_damaged()? => {}
                Refused::Full
                    if self.options.drop_oldest && self.drop_oldest(DropReason::BufferFull)? => {}
                Refused::Full => {
                    self.expire()?;
                    if !self.wait_for_space()? {
                        return Ok(false);
                    }
                }
            }
        }
        Ok(true)
    }

    /// One try to write and sync a batch.
    fn write(&mut self, batch: &mut Sealing<'_>) -> Result<(), Refused> {
        let bytes = batch::aligned(batch.end) as u64;
        if self.position + bytes > self.active_bytes {
            let active = self.shared.lock().segments.back().copied();
            match active {
                // It holds no record yet, and is shorter than a segment of today: begun by a
                // configuration with smaller ones, or cut short by a crash.
                Some(segment) if segment.base == batch.header.base => self.extend(segment)?,
                Some(_) | None => self.roll(batch.header.base)?,
            }
        }
        batch.bytes.truncate(batch.end);
        batch::seal(&batch.header, batch.bytes);
        fs::write_all_at(&*self.active, batch.bytes, self.position)
            .map_err(|error| refused(error, "write", self.active_path()))?;
        // A sync that finds the disk full is tried again with the write before it, so that nothing
        // rests on pages which it may have left clean.
        self.active
            .sync_data()
            .map_err(|error| refused(error, "sync", self.active_path()))?;
        self.position += bytes;
        self.active_batches += 1;
        Ok(())
    }

    fn header(&self, kind: Kind, count: u32, base: Offset) -> Header {
        let inner = self.shared.lock();
        Header {
            kind,
            identity: self.shared.identity,
            open_counter: self.open_counter,
            count,
            base,
            synced: inner.progress.synced,
            committed: inner.committed,
            written: self.options.clock.moment(),
            content: Content::Plain,
        }
    }

    /// Begins a new segment with the checkpoint of the state. The new segment and its name are
    /// durable on return (I1); on error the old segment is still the active one.
    pub(super) fn roll(&mut self, base: Offset) -> Result<(), Refused> {
        let path = segment::path(&self.options.dir, base);
        let file = if self.has_spare {
            let spare = self.options.dir.join(segment::SPARE_NAME);
            self.reuse(&spare, &path)
                .map_err(|error| refused(error, "reuse a segment as", path.clone()))?
        } else {
            if self.shared.lock().disk_bytes + self.options.segment_bytes > self.options.bytes_max {
                return Err(Refused::Full);
            }
            self.fs
                .create(&path)
                .map_err(|error| refused(error, "create", path.clone()))?
        };
        let header = self.header(Kind::Checkpoint, 0, base);
        let segment_bytes = self.options.segment_bytes;
        let fill = fills(self.active_batches, segment_bytes);
        // The name goes first: a spare's new content under the name that it had in its earlier life
        // would look like a segment out of place.
        let begun = make_room(&*file, segment_bytes, fill)
            .and_then(|()| self.fs.sync_dir(&self.options.dir))
            .and_then(|()| begin_segment(&*file, &header, &*self.state));
        match begun {
            Ok(position) => {
                let bytes = segment_bytes;
                self.switch_to(Segment { base, bytes }, file, position);
                Ok(())
            }
            Err(error) => {
                // Half a segment would be in the way of the next try. If it can't be removed, that
                // try says so.
                let removed = self
                    .fs
                    .remove(&path)
                    .and(Err(error))
                    .unwrap_or_else(|error| error);
                self.forget_spare();
                Err(refused(removed, "begin the segment", path))
            }
        }
    }

    /// Gives the spare segment its new name and opens it. On error it has its old one.
    fn reuse(&self, spare: &Path, path: &Path) -> std::io::Result<Box<dyn File>> {
        self.fs.rename(spare, path)?;
        self.fs
            .open(path, true)
            .or_else(|error| self.fs.rename(path, spare).and(Err(error)))
    }

    fn switch_to(&mut self, segment: Segment, file: Box<dyn File>, position: u64) {
        self.active = file;
        self.active_bytes = segment.bytes;
        self.position = position;
        self.active_batches = 0;
        let mut inner = self.shared.lock();
        inner.segments.push_back(segment);
        inner.tail_position = position;
        if !self.has_spare {
            inner.disk_bytes += segment.bytes;
        }
        drop(inner);
        self.has_spare = false;
    }

    /// Makes the active segment as long as segments are now. Durable on return.
    fn extend(&mut self, segment: Segment) -> Result<(), Refused> {
        let more = self.options.segment_bytes.saturating_sub(segment.bytes);
        if self.shared.lock().disk_bytes + more > self.options.bytes_max {
            return Err(Refused::Full);
        }
        self.active
            .allocate(self.options.segment_bytes)
            .and_then(|()| self.active.sync_data())
            .map_err(|error| refused(error, "extend", self.active_path()))?;
        self.active_bytes = segment.bytes + more;
        let mut inner = self.shared.lock();
        inner.disk_bytes += more;
        if let Some(last) = inner.segments.back_mut() {
            last.bytes += more;
        }
        Ok(())
    }

    fn forget_spare(&mut self) {
        if self.has_spare {
            self.has_spare = false;
            self.shared.lock().disk_bytes -= self.options.segment_bytes;
        }
    }

    /// Tells appenders, readers and the observer of a synced batch, and then applies it to the state,
    /// for which nobody waits.
    fn announce(&mut self, batch: &Gathered, content_end: usize, cost: (u64, Duration)) {
        let end = batch.base.plus(u64::from(batch.count));
        let mut inner = self.shared.lock();
        inner.progress.synced = end;
        inner.progress.condition = Condition::Running;
        inner.tail_position = self.position;
        let progress = inner.progress;
        drop(inner);
        self.shared.moved.notify_all();
        self.observer.progress(progress);
        let content = &batch.bytes[HEADER_BYTES..content_end];
        for record in Entries::new(content, batch.base, self.options.clock.boot_id()).flatten() {
            self.state.apply(&record);
        }
        self.observer.committed(&CommitReport {
            records: u64::from(batch.count),
            bytes: cost.0,
            duration: cost.1,
        });
    }

    /// Waits until it is worth trying again. False if the log is being closed.
    fn wait_for_space(&mut self) -> Result<bool, StorageError> {
        let mut inner = self.shared.lock();
        if inner.progress.condition != Condition::Full {
            inner.progress.condition = Condition::Full;
            let progress = inner.progress;
            drop(inner);
            self.shared.moved.notify_all();
            self.observer.progress(progress);
            inner = self.shared.lock();
        }
        let deadline = Instant::now() + FULL_RETRY;
        while inner.retired().is_none() {
            if inner.lineage != inner.lineage_wanted {
                // Who waits for it is who makes space.
                drop(inner);
                return self.write_slot().map(|()| true);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if inner.closing {
                return Ok(false);
            }
            if left.is_zero() {
                return Ok(true);
            }
            let woken = self.shared.work.wait_timeout(inner, left);
            inner = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        let retired = inner.retired();
        drop(inner);
        retired
            .map_or(Ok(()), |segment| self.retire(segment))
            .map(|()| true)
    }

    fn active_path(&self) -> PathBuf {
        let base = self
            .shared
            .lock()
            .segments
            .back()
            .map_or(Offset::ZERO, |segment| segment.base);
        segment::path(&self.options.dir, base)
    }
}

fn refused(error: std::io::Error, action: &'static str, path: PathBuf) -> Refused {
    if fs::is_full(&error) {
        Refused::Full
    } else {
        Refused::Failed(StorageError {
            action,
            path,
            source: error,
        })
    }
}

/// A full disk is no failure where the call is made again anyway (I3).
pub(super) fn unless_full(result: Result<(), StorageError>) -> Result<(), StorageError> {
    match result {
        Err(error) if fs::is_full(&error.source) => Ok(()),
        done => done,
    }
}

/// Whether a new segment is worth filling with zeroes, going by how many batches the one before took.
///
/// In space that was only reserved each sync also writes the file system's journal, to say that it is
/// in use now: three pages and a second flush. Measured on ext4 at 32 records of 200 bytes a commit,
/// bytes to the device per byte: 3.1 so, 1.5 in a filled segment, which costs 1.0 once; at 512
/// records 1.13 and 1.03. A segment is reused again and again, so this is paid once in its life.
fn fills(batches: u64, segment_bytes: u64) -> bool {
    const JOURNAL_BYTES: u64 = 3 * 4096;
    batches.saturating_mul(JOURNAL_BYTES) > segment_bytes
}

/// Reserves the space of a segment if it is not there yet, and fills it with zeroes if `fill`.
pub(super) fn make_room(file: &dyn File, segment_bytes: u64, fill: bool) -> std::io::Result<()> {
    if file.size()? == segment_bytes {
        return Ok(());
    }
    file.allocate(segment_bytes)?;
    if fill {
        recovery::zero(file, 0, segment_bytes)?;
    }
    Ok(())
}

/// Writes the checkpoint of the state at the head of a segment. The content is durable on return,
/// the name not yet. Returns where the first batch goes.
pub(super) fn begin_segment(
    file: &dyn File,
    header: &Header,
    state: &dyn DurableState,
) -> std::io::Result<u64> {
    let mut checkpoint = vec![0; HEADER_BYTES];
    state.checkpoint(&mut checkpoint);
    batch::seal(header, &mut checkpoint);
    fs::write_all_at(file, &checkpoint, 0)?;
    file.sync_data()?;
    Ok(checkpoint.len() as u64)
}
