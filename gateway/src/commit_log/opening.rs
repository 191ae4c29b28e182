//! The steps of opening a log, in order: lock, read the slots, recover the tail, finish a drop that a
//! crash cut short, and start the writer.
//!
//! What recovery finds is durable before [`open`] returns (I5). On an error nothing was changed but
//! what a torn tail needs.

use std::io::ErrorKind;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::batch::{Header, Kind};
use super::compression::{Content, Packer};
use super::drops::{self, DropFile, Drops};
use super::fs::{self, Fs, LockGuard};
use super::metered::Metered;
use super::recovery::{self, Recovered, Tail};
use super::retention::Expiry;
use super::segment;
use super::shared::{Damage, Inner, Segment, Shared};
use super::slots::{self, Slot};
use super::writer::{self, Writer};
use super::{
    CommitLog, DurableState, LOCK_NAME, Observer, OpenError, Opened, Options, Recovery,
    SEGMENT_BYTES_MIN, StorageError, WriterThread,
};

/// See [`CommitLog::open`].
pub(super) fn open<S: DurableState + Clone + 'static>(
    fs: Arc<dyn Fs>,
    options: Options,
    observer: Box<dyn Observer>,
    state: S,
) -> Result<Opened<S>, OpenError> {
    check(&options)?;
    let written_bytes = Arc::new(AtomicU64::new(0));
    let fs: Arc<dyn Fs> = Arc::new(Metered::new(fs, Arc::clone(&written_bytes)));
    let dir = &options.dir;
    fs.create_dir_all(dir)
        .map_err(StorageError::new("make the directory", dir))?;
    let lock = lock(&*fs, &options)?;
    let opening = Opening {
        fs,
        options,
        lock,
        state,
        written_bytes,
    };
    opening.run(observer)
}

fn check(options: &Options) -> Result<(), OpenError> {
    let Options {
        segment_bytes,
        bytes_max,
        ..
    } = *options;
    if segment_bytes < SEGMENT_BYTES_MIN || segment_bytes % 4096 != 0 || segment_bytes >= 1 << 32 {
        return Err(OpenError::Size {
            what: "segment size",
            found: segment_bytes,
            expected: "a multiple of 4096, from 256 KiB to below 4 GiB",
        });
    }
    if bytes_max < 2 * segment_bytes + slots::FILE_BYTES + drops::FILE_BYTES {
        return Err(OpenError::Size {
            what: "budget",
            found: bytes_max,
            expected: "at least two segments and 40 KiB",
        });
    }
    Ok(())
}

fn lock(fs: &dyn Fs, options: &Options) -> Result<Box<dyn LockGuard>, OpenError> {
    let path = options.dir.join(LOCK_NAME);
    let locked = fs
        .lock(&path, &options.owner)
        .map_err(StorageError::new("lock", &path))?;
    locked.map_err(|owner| OpenError::InUse {
        dir: options.dir.clone(),
        owner,
    })
}

/// The steps of opening, in order.
struct Opening<S> {
    fs: Arc<dyn Fs>,
    options: Options,
    lock: Box<dyn LockGuard>,
    state: S,
    written_bytes: Arc<AtomicU64>,
}

/// What opening has found out when the writer starts.
struct Found {
    recovered: Recovered,
    slot: Slot,
    tail: Tail,
    drop_file: DropFile,
    drops: Drops,
}

impl<S: DurableState + Clone + 'static> Opening<S> {
    fn run(mut self, observer: Box<dyn Observer>) -> Result<Opened<S>, OpenError> {
        let dir = self.options.dir.clone();
        let mut recovered = recovery::recover(
            &*self.fs,
            &dir,
            self.options.segment_bytes,
            new_identity,
            &mut self.state,
        )?;
        let slot = recovered.slot;
        let tail = recovered.tail.take();
        let open_counter = tail
            .as_ref()
            .map_or(slot.open_counter, |tail| tail.open_counter)
            .saturating_add(1);
        let is_empty = tail.is_none();
        let tail = match tail {
            Some(tail) => tail,
            None => self.first_segment(&slot, open_counter, &mut recovered.listing.segments)?,
        };
        let committed = tail.committed.min(tail.next);
        let wanted = self.options.drop_oldest || self.options.age_max.is_some();
        let (drop_file, mut drops) = DropFile::open(&*self.fs, &dir, slot.identity, wanted)
            .map_err(StorageError::new("open", &dir.join(drops::FILE_NAME)))?;
        drops::finish(&drops, &*self.fs, &dir, &mut recovered.listing.segments)?;
        drops.prune(committed);
        self.reserve(&mut recovered, is_empty)?;
        self.give_up_damaged(&mut recovered, &drop_file)?;
        self.fs
            .sync_dir(&dir)
            .map_err(StorageError::new("sync the directory", &dir))?;
        let slot = Slot {
            identity: slot.identity,
            open_counter,
            committed,
            synced: tail.next,
            lineage: slot.lineage,
        };
        let slots_path = slots::path(&dir);
        recovered
            .slots
            .write(&slot)
            .map_err(StorageError::new("write", &slots_path))?;
        let found = Found {
            recovered,
            slot,
            tail,
            drop_file,
            drops,
        };
        self.start(found, observer)
    }

    /// With [`Options::reserve`] a log that begins without a segment gets a second one, filled: who sends
    /// while the first one ends would wait for a segment of zeroes. From then on an old one is used again,
    /// unless Kafka is away. One that drops its oldest segment when full, as dead letters do, always has a
    /// second one, so that a full disk stops nothing (I6). Without space for it now, it does without.
    fn reserve(&self, recovered: &mut Recovered, is_empty: bool) -> Result<(), OpenError> {
        let listing = &mut recovered.listing;
        let fill = is_empty && self.options.reserve;
        if !(fill || self.options.drop_oldest) || listing.has_spare || listing.segments.len() > 1 {
            return Ok(());
        }
        let path = self.options.dir.join(segment::SPARE_NAME);
        let made = self.fs.create(&path).and_then(|file| {
            writer::make_room(&*file, self.options.segment_bytes, fill)?;
            if fill { file.sync_data() } else { Ok(()) }
        });
        match made {
            Ok(()) => listing.has_spare = true,
            // What there is of it takes space that the log may need.
            Err(error) if fs::is_full(&error) => match self.fs.remove(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(StorageError::new("remove", &path)(error).into()),
            },
            Err(error) => return Err(StorageError::new("reserve", &path)(error).into()),
        }
        Ok(())
    }

    /// Removes damaged files that are kept aside as long as the log is beyond its budget: that was
    /// made smaller, and a steady stream asks for no space, so that they would stay.
    fn give_up_damaged(
        &self,
        recovered: &mut Recovered,
        drop_file: &DropFile,
    ) -> Result<(), OpenError> {
        while self.disk_bytes(recovered, drop_file) > self.options.bytes_max {
            let removed = recovered.quarantine.give_up_oldest(&*self.fs);
            let removed = removed.map_err(StorageError::new("remove from", &self.options.dir))?;
            if removed.is_none() {
                break;
            }
        }
        Ok(())
    }

    /// Disk space in use.
    fn disk_bytes(&self, recovered: &Recovered, drop_file: &DropFile) -> u64 {
        let listing = &recovered.listing;
        let segments = listing.segments.iter().map(|segment| segment.bytes);
        let spare = listing.has_spare.then_some(self.options.segment_bytes);
        let data_bytes: u64 = segments.chain(spare).sum();
        data_bytes + recovered.quarantine.bytes() + slots::FILE_BYTES + drop_file.bytes()
    }

    /// Begins a log that has no segment: a new one, or one whose segments are all gone; offsets
    /// then go on where the slots say they were (I6).
    fn first_segment(
        &self,
        slot: &Slot,
        open_counter: u32,
        segments: &mut Vec<Segment>,
    ) -> Result<Tail, OpenError> {
        let path = segment::path(&self.options.dir, slot.synced);
        let file = self
            .fs
            .create(&path)
            .map_err(StorageError::new("create", &path))?;
        let bytes = self.options.segment_bytes;
        let header = Header {
            kind: Kind::Checkpoint,
            identity: slot.identity,
            open_counter,
            count: 0,
            base: slot.synced,
            synced: slot.synced,
            committed: slot.committed,
            written: self.options.clock.moment(),
            content: Content::Plain,
        };
        let position = writer::make_room(&*file, bytes, true)
            .and_then(|()| writer::begin_segment(&*file, &header, &self.state))
            .map_err(StorageError::new("begin the segment", &path))?;
        let segment = Segment {
            base: slot.synced,
            bytes,
        };
        segments.push(segment);
        Ok(Tail {
            segment,
            file,
            position,
            next: slot.synced,
            committed: slot.committed,
            open_counter,
            cut_bytes: 0,
            holes: Vec::new(),
            findings: Vec::new(),
        })
    }

    fn start(self, found: Found, observer: Box<dyn Observer>) -> Result<Opened<S>, OpenError> {
        let Found {
            mut recovered,
            slot,
            mut tail,
            drop_file,
            drops,
        } = found;
        let dir = self.options.dir.clone();
        let known = (slot.committed, &drops);
        let findings = recovery::findings(&mut recovered, &dir, &mut tail, known);
        let disk_bytes = self.disk_bytes(&recovered, &drop_file);
        let Recovered {
            listing,
            quarantine,
            slots,
            ..
        } = recovered;
        let recovery = Recovery {
            undelivered: tail.next.since(slot.committed),
            cut_bytes: tail.cut_bytes,
            holes: tail.holes,
            foreign: listing.foreign,
            findings,
        };
        let segment_bytes = self.options.segment_bytes;
        let inner = Inner {
            disk_bytes,
            drops,
            damage: Damage::known(&recovery.findings),
            ..Inner::new(&slot, listing.segments, tail.position)
        };
        let packer = Packer::new(self.options.compression)
            .map_err(StorageError::new("prepare compression for", &dir))?;
        let written_bytes = self.written_bytes;
        let shared = Shared::new(slot.identity, &self.options, written_bytes, inner);
        let shared = Arc::new(shared);
        let writer = Writer {
            shared: Arc::clone(&shared),
            fs: Arc::clone(&self.fs),
            open_counter: slot.open_counter,
            active: tail.file,
            active_bytes: tail.segment.bytes,
            position: tail.position,
            has_spare: listing.has_spare,
            // Unknown, so taken for many.
            active_batches: segment_bytes,
            slots,
            quarantine,
            drop_file,
            expiry: self.options.age_max.map(Expiry::new),
            packer,
            packed: Vec::new(),
            slot_written: slot,
            committed_in_log: slot.committed,
            committed_at: Instant::now(),
            state: Box::new(self.state.clone()),
            observer,
            options: self.options,
            _lock: self.lock,
        };
        Ok(Opened {
            log: run(writer, shared, self.fs)?,
            state: self.state,
            recovery,
        })
    }
}

/// Starts the writer thread and hands out the log.
fn run(writer: Writer, shared: Arc<Shared>, fs: Arc<dyn Fs>) -> Result<CommitLog, OpenError> {
    let handle = std::thread::Builder::new()
        .name("commit-log".to_owned())
        .spawn(move || writer.run())
        .map_err(OpenError::Thread)?;
    let thread = Arc::new(WriterThread {
        shared: Arc::clone(&shared),
        handle: Mutex::new(Some(handle)),
    });
    Ok(CommitLog { shared, fs, thread })
}

/// A random 64-bit identity. From the kernel; a board so early in its boot that it has no entropy
/// waits for it.
pub(super) fn new_identity() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    let mut bytes = [0; 8];
    match rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()) {
        Ok(8) => u64::from_le_bytes(bytes),
        // Interrupted: the standard library's hash keys are random too.
        Ok(_) | Err(_) => std::collections::hash_map::RandomState::new()
            .build_hasher()
            .finish(),
    }
}
