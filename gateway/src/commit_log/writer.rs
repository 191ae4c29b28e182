//! The writer thread: the only one that writes the log's files.
//!
//! It waits for records to be gathered, writes them as one batch, syncs once, and tells everybody.
//! Between commits it retires segments that are delivered, and writes the slots when the log falls
//! idle. A failed write or sync ends it: the log is poisoned (I3). A full disk or a used-up budget
//! does not: the batch in hand waits, and is tried again when records were delivered, or after
//! [`FULL_RETRY`], since others may have made space.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::batch::{self, HEADER_BYTES, Header, Kind};
use super::entry::Entries;
use super::fs::{self, File, Fs, LockGuard};
use super::segment::{self, BatchReader, Look};
use super::shared::{Gathered, Segment, Shared, StorageError};
use super::slots::{self, Slot, Slots};
use super::state::DurableState;
use super::{CommitReport, Condition, Observer, Options};
use crate::clock;
use crate::record::Offset;

/// How long a full disk is left alone before the next try, if nothing was delivered meanwhile.
const FULL_RETRY: Duration = Duration::from_millis(500);
/// How long offsets may be known to memory alone while no batch is written. Bounds the duplicates
/// of a crash in a quiet moment; one page of flash each time.
const SLOT_INTERVAL: Duration = Duration::from_secs(2);

/// Why a batch was not written.
enum Refused {
    /// No space, for now. Nothing of the batch counts.
    Full,
    Failed(StorageError),
}

/// What the thread has to do next.
enum Work {
    Commit,
    Retire(Segment),
    WriteSlot,
    Close,
}

#[derive(Debug)]
pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) fs: Arc<dyn Fs>,
    pub(super) options: Options,
    pub(super) open_counter: u32,
    pub(super) boot_id: u64,
    pub(super) active: Box<dyn File>,
    pub(super) active_bytes: u64,
    pub(super) position: u64,
    pub(super) has_spare: bool,
    pub(super) slots: Slots,
    pub(super) slot_written: Slot,
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
                        return self.write_slot();
                    }
                }
                Work::Retire(segment) => self.retire(segment)?,
                Work::WriteSlot => self.write_slot()?,
                Work::Close => return self.write_slot(),
            }
            slot_due = Instant::now() + SLOT_INTERVAL;
        }
    }

    /// Blocks until there is something to do. For [`Work::Commit`], what was gathered is in `batch`.
    fn next_work(&self, batch: &mut Gathered, slot_due: Instant) -> Work {
        let mut inner = self.shared.lock();
        loop {
            let now = Instant::now();
            if let Some(segment) = inner.retired() {
                return Work::Retire(segment);
            }
            let wake = match inner.gathering_since {
                Some(since) => {
                    let due = since + self.options.commit_interval;
                    let large = inner.gathering.bytes.len() >= self.shared.gather_bytes_max / 2;
                    if now >= due || large || inner.closing {
                        batch.reset();
                        std::mem::swap(batch, &mut inner.gathering);
                        inner.gathering_since = None;
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
                    stale.then_some(slot_due)
                }
            };
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
        while let Err(refused) = self.write(batch, content_end) {
            match refused {
                Refused::Failed(error) => return Err(error),
                Refused::Full if self.options.drop_oldest && self.drop_oldest()? => {}
                Refused::Full => {
                    if !self.wait_for_space()? {
                        return Ok(false);
                    }
                }
            }
        }
        self.announce(batch, content_end, began.elapsed());
        Ok(true)
    }

    /// One try to write and sync a batch.
    fn write(&mut self, batch: &mut Gathered, content_end: usize) -> Result<(), Refused> {
        let bytes = batch::aligned(content_end) as u64;
        if self.position + bytes > self.active_bytes {
            let active = self.shared.lock().segments.back().copied();
            match active {
                // It holds no record yet, and is shorter than a segment of today: begun by a
                // configuration with smaller ones, or cut short by a crash.
                Some(segment) if segment.base == batch.base => self.extend(segment)?,
                Some(_) | None => self.roll(batch.base)?,
            }
        }
        batch.bytes.truncate(content_end);
        batch::seal(
            &self.header(Kind::Records, batch.count, batch.base),
            &mut batch.bytes,
        );
        fs::write_all_at(&*self.active, &batch.bytes, self.position)
            .map_err(|error| refused(error, "write", self.active_path()))?;
        // A sync that finds the disk full is tried again with the write before it, so that nothing
        // rests on pages which it may have left clean.
        self.active
            .sync_data()
            .map_err(|error| refused(error, "sync", self.active_path()))?;
        self.position += bytes;
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
            boot_id: self.boot_id,
            written_mono_ms: clock::mono_ms(),
        }
    }

    /// Begins a new segment with the checkpoint of the state. The new segment and its name are
    /// durable on return (I1); on error the old segment is still the active one.
    fn roll(&mut self, base: Offset) -> Result<(), Refused> {
        let path = segment::path(&self.options.dir, base);
        let file = if self.has_spare {
            let spare = self.options.dir.join(segment::SPARE_NAME);
            self.fs
                .rename(&spare, &path)
                .and_then(|()| self.fs.open(&path, true))
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
        match begin_segment(&*file, self.options.segment_bytes, &header, &*self.state) {
            Ok(position) => self.switch_to(
                Segment {
                    base,
                    bytes: self.options.segment_bytes,
                },
                file,
                position,
            ),
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

    fn switch_to(
        &mut self,
        segment: Segment,
        file: Box<dyn File>,
        position: u64,
    ) -> Result<(), Refused> {
        let dir = &self.options.dir;
        let synced = self.fs.sync_dir(dir);
        synced
            .map_err(StorageError::new("sync the directory", dir))
            .map_err(Refused::Failed)?;
        self.active = file;
        self.active_bytes = segment.bytes;
        self.position = position;
        let mut inner = self.shared.lock();
        inner.segments.push_back(segment);
        inner.tail_position = position;
        inner.written_bytes += position;
        if !self.has_spare {
            inner.disk_bytes += segment.bytes;
        }
        drop(inner);
        self.has_spare = false;
        Ok(())
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

    /// Applies a synced batch to the state and tells appenders, readers and the observer.
    fn announce(&mut self, batch: &Gathered, content_end: usize, duration: Duration) {
        let end = batch.base.plus(u64::from(batch.count));
        let content = &batch.bytes[HEADER_BYTES..content_end];
        for record in Entries::new(content, batch.base).flatten() {
            self.state.apply(&record);
        }
        let mut inner = self.shared.lock();
        inner.progress.synced = end;
        inner.progress.condition = Condition::Running;
        inner.tail_position = self.position;
        inner.written_bytes += batch.bytes.len() as u64;
        let progress = inner.progress;
        drop(inner);
        self.shared.moved.notify_all();
        self.observer.progress(progress);
        self.observer.committed(&CommitReport {
            records: u64::from(batch.count),
            bytes: batch.bytes.len() as u64,
            duration,
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

    /// Reuses or removes the oldest segment, all of which is delivered. The committed offset is
    /// durable before: without that, the missing segment would look like a loss after a crash.
    fn retire(&mut self, segment: Segment) -> Result<(), StorageError> {
        if self.slot_written.committed < self.shared.lock().segments[1].base {
            self.write_slot()?;
        }
        self.remove_oldest(segment)
    }

    fn remove_oldest(&mut self, segment: Segment) -> Result<(), StorageError> {
        let path = segment::path(&self.options.dir, segment.base);
        let reuse = !self.has_spare && segment.bytes == self.options.segment_bytes;
        if reuse {
            let spare = self.options.dir.join(segment::SPARE_NAME);
            self.fs
                .rename(&path, &spare)
                .map_err(StorageError::new("retire", &path))?;
            self.has_spare = true;
        } else {
            self.fs
                .remove(&path)
                .map_err(StorageError::new("remove", &path))?;
        }
        let dir = &self.options.dir;
        self.fs
            .sync_dir(dir)
            .map_err(StorageError::new("sync the directory", dir))?;
        let mut inner = self.shared.lock();
        inner.segments.pop_front();
        if !reuse {
            inner.disk_bytes -= segment.bytes;
        }
        Ok(())
    }

    /// Drops the oldest segment, counted by source (I8). False if only one is left.
    fn drop_oldest(&mut self) -> Result<bool, StorageError> {
        let inner = self.shared.lock();
        let (oldest, committed) = (inner.segments[0], inner.committed);
        let Some(second) = inner.segments.get(1).copied() else {
            return Ok(false);
        };
        drop(inner);
        self.count_dropped(oldest, committed.max(oldest.base), second.base)?;
        let mut inner = self.shared.lock();
        inner.dropped_below = second.base;
        drop(inner);
        self.remove_oldest(oldest)?;
        Ok(true)
    }

    fn count_dropped(
        &self,
        segment: Segment,
        from: Offset,
        end: Offset,
    ) -> Result<(), StorageError> {
        let path = segment::path(&self.options.dir, segment.base);
        let failed = |error| StorageError {
            action: "read",
            path: path.clone(),
            source: error,
        };
        let file = self.fs.open(&path, false).map_err(failed)?;
        let mut reader = BatchReader::new(file, self.shared.identity);
        let mut counts: Vec<(String, u64)> = Vec::new();
        let mut position = 0;
        while let Look::Batch(found) = reader.look(position, segment.bytes).map_err(failed)? {
            if found.header.base >= end || found.header.base < segment.base {
                break;
            }
            let content = match found.header.kind {
                Kind::Records => reader.content(&found),
                Kind::Checkpoint => &[],
            };
            let records = Entries::new(content, found.header.base).flatten();
            for record in records.filter(|record| record.offset >= from) {
                match counts
                    .iter_mut()
                    .find(|(source, _)| source == record.source)
                {
                    Some((_, count)) => *count += 1,
                    None => counts.push((record.source.to_owned(), 1)),
                }
            }
            position += found.bytes as u64;
        }
        for (source, records) in counts {
            self.observer.dropped(&source, "buffer_full", records);
        }
        Ok(())
    }

    fn write_slot(&mut self) -> Result<(), StorageError> {
        let inner = self.shared.lock();
        let (committed, synced) = (inner.committed, inner.progress.synced);
        drop(inner);
        let slot = Slot {
            committed,
            synced,
            ..self.slot_written
        };
        if slot == self.slot_written {
            return Ok(());
        }
        let path = slots::path(&self.options.dir);
        self.slots
            .write(&slot)
            .map_err(StorageError::new("write", &path))?;
        self.slot_written = slot;
        self.shared.lock().written_bytes += slots::WRITE_BYTES;
        Ok(())
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

/// Preallocates a segment and writes the checkpoint of the state at its head. The content is
/// durable on return, the name not yet. Returns where the first batch goes.
pub(super) fn begin_segment(
    file: &dyn File,
    segment_bytes: u64,
    header: &Header,
    state: &dyn DurableState,
) -> std::io::Result<u64> {
    if file.size()? != segment_bytes {
        file.allocate(segment_bytes)?;
    }
    let mut checkpoint = vec![0; HEADER_BYTES];
    state.checkpoint(&mut checkpoint);
    batch::seal(header, &mut checkpoint);
    fs::write_all_at(file, &checkpoint, 0)?;
    file.sync_data()?;
    Ok(checkpoint.len() as u64)
}
