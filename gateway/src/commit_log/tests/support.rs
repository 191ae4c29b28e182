//! A log under test, and the oracle that says what it must hold.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::super::fs::Fs;
use super::super::{
    BadCheckpoint, CommitLog, CommitReport, Compression, Condition, DurableState, Hole, Item,
    Observer, OpenError, Opened, Options, Progress, SEGMENT_BYTES_MIN,
};
use super::sim_fs::SimFs;
use crate::clock::{Clock, Moment, SystemClock};
use crate::record::{NewRecord, Offset, Origin, PayloadKind, RecordView, SourceName, Stamp};

/// Longest wait for anything in these tests; reached only when something is broken.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// A state that notices a record applied twice, left out, or out of order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Digest {
    pub(super) next: u64,
    pub(super) hash: u64,
}

impl Digest {
    pub(super) fn of(records: u64) -> Self {
        let mut digest = Self::default();
        for number in 0..records {
            digest.add(number, &payload(number));
        }
        digest
    }

    fn add(&mut self, offset: u64, payload: &[u8]) {
        let crc = u64::from(crc32c::crc32c(payload));
        self.hash = self.hash.wrapping_mul(0x100_0000_01b3) ^ crc;
        self.next = offset + 1;
    }
}

impl DurableState for Digest {
    fn apply(&mut self, record: &RecordView<'_>) {
        self.add(record.offset.get(), record.payload);
    }

    fn checkpoint(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.next.to_le_bytes());
        out.extend_from_slice(&self.hash.to_le_bytes());
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), BadCheckpoint> {
        let (next, hash) = bytes.split_at_checked(8).ok_or(BadCheckpoint)?;
        self.next = u64::from_le_bytes(next.try_into().map_err(|_| BadCheckpoint)?);
        self.hash = u64::from_le_bytes(hash.try_into().map_err(|_| BadCheckpoint)?);
        Ok(())
    }
}

/// Keeps what the log tells.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    pub(super) dropped: Arc<AtomicU64>,
    pub(super) dropped_by: Arc<Mutex<BTreeMap<(String, &'static str), u64>>>,
    pub(super) commits: Arc<AtomicU64>,
    pub(super) last: Arc<Mutex<Option<Progress>>>,
}

impl Observer for Told {
    fn progress(&self, progress: Progress) {
        *self.last.lock().expect("told") = Some(progress);
    }

    fn committed(&self, _report: &CommitReport) {
        self.commits.fetch_add(1, Ordering::SeqCst);
    }

    fn dropped(&self, source: &str, reason: &'static str, records: u64) {
        let mut by = self.dropped_by.lock().expect("told");
        *by.entry((source.to_owned(), reason)).or_default() += records;
        self.dropped.fetch_add(records, Ordering::SeqCst);
    }
}

pub(super) fn dir() -> &'static Path {
    Path::new("/log")
}

pub(super) fn options() -> Options {
    Options {
        dir: PathBuf::from(dir()),
        bytes_max: 16 * SEGMENT_BYTES_MIN,
        segment_bytes: SEGMENT_BYTES_MIN,
        commit_interval: Duration::ZERO,
        drop_oldest: false,
        reserve: true,
        age_max: None,
        compression: Compression::None,
        clock: Arc::new(SystemClock::default()),
        owner: "test".to_owned(),
    }
}

pub(super) fn open(fs: &SimFs) -> Opened<Digest> {
    try_open(fs).expect("open")
}

pub(super) fn try_open(fs: &SimFs) -> Result<Opened<Digest>, OpenError> {
    open_with(Arc::new(fs.clone()), options(), Told::default())
}

pub(super) fn open_with(
    fs: Arc<dyn Fs>,
    options: Options,
    told: Told,
) -> Result<Opened<Digest>, OpenError> {
    CommitLog::open(fs, options, Box::new(told), Digest::default())
}

pub(super) fn open_sim(fs: &SimFs, options: Options) -> (Opened<Digest>, Told) {
    let told = Told::default();
    let opened = open_with(Arc::new(fs.clone()), options, told.clone());
    (opened.expect("open"), told)
}

/// The payload of the record with this number: 0 to 2999 bytes, different for each.
pub(super) fn payload(number: u64) -> Vec<u8> {
    let len = (number.wrapping_mul(7919) % 3000) as usize;
    (0..len)
        .map(|at| (number as usize * 31 + at) as u8)
        .collect()
}

/// Appends the record with this number, which must get it as its offset.
pub(super) fn append(log: &CommitLog, number: u64) -> bool {
    append_of("press", log, number)
}

/// The same, of a source.
pub(super) fn append_of(source: &str, log: &CommitLog, number: u64) -> bool {
    let source = SourceName::new(source).expect("valid");
    let record = NewRecord {
        source: &source,
        subject: "press/1",
        kind: PayloadKind::Opaque,
        origin: Origin::Line,
        received: Stamp {
            wall_ms: number as i64,
            mono_ms: number,
        },
        payload: &payload(number),
    };
    match log.append(&record) {
        Ok(offset) => {
            assert_eq!(offset, Offset::new(number), "offsets are dense");
            true
        }
        Err(_) => false,
    }
}

/// Appends records until `end` and waits until they are synced; false if the log fails on the way.
pub(super) fn append_synced(log: &CommitLog, numbers: std::ops::Range<u64>) -> bool {
    let end = numbers.end;
    for number in numbers {
        while !append(log, number) {
            let progress = log.progress();
            if matches!(progress.condition, Condition::Poisoned | Condition::Closed) {
                return false;
            }
            let _ = log.wait(progress.synced, PATIENCE);
        }
    }
    end == 0 || log.wait(Offset::new(end - 1), PATIENCE).synced >= Offset::new(end)
}

/// A clock that goes only when told to.
#[derive(Clone, Debug)]
pub(super) struct TestClock {
    now: Arc<Mutex<Moment>>,
    /// How often it was looked at.
    pub(super) looks: Arc<AtomicU64>,
}

impl TestClock {
    /// In the first minute of a boot.
    pub(super) fn boot(boot_id: u64, wall_s: u32, wall_synced: bool) -> Self {
        let now = Moment {
            boot_id,
            mono_ms: 20_000,
            wall_s,
            wall_synced,
        };
        Self {
            now: Arc::new(Mutex::new(now)),
            looks: Arc::default(),
        }
    }

    pub(super) fn pass(&self, seconds: u32) {
        let mut now = self.now.lock().expect("clock");
        now.mono_ms += u64::from(seconds) * 1000;
        now.wall_s += seconds;
    }
}

impl Clock for TestClock {
    fn moment(&self) -> Moment {
        self.looks.fetch_add(1, Ordering::SeqCst);
        *self.now.lock().expect("clock")
    }
}

/// Waits until `condition` holds.
pub(super) fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Everything that can be read from `from` on.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) offsets: Vec<u64>,
    pub(super) holes: Vec<Hole>,
}

/// Reads to the end, checking each record against its number.
pub(super) fn read(log: &CommitLog, from: Offset) -> Content {
    let mut content = Content::default();
    let mut cursor = log.cursor(from);
    let mut failures = 0;
    loop {
        let item = match cursor.next() {
            Ok(Some(item)) => item,
            Ok(None) => break,
            // An injected error: the cursor has not moved, and the call may be repeated.
            Err(_) if failures == 0 => {
                failures += 1;
                continue;
            }
            Err(error) => panic!("{error:?}"),
        };
        match item {
            Item::Batch(batch) => {
                for record in batch.records() {
                    let number = record.offset.get();
                    assert_eq!(record.payload, payload(number), "record {number}");
                    content.offsets.push(number);
                }
            }
            Item::Hole(hole) => content.holes.push(hole),
        }
        assert!(
            cursor.position() <= log.progress().synced,
            "I1: the cursor passed `synced`"
        );
    }
    content
}

/// Asserts that exactly `from..to` can be read.
pub(super) fn assert_holds(log: &CommitLog, from: u64, to: u64) {
    let content = read(log, Offset::new(from));
    assert_eq!(content.holes, Vec::new(), "no holes");
    assert_eq!(content.offsets, (from..to).collect::<Vec<_>>());
}
