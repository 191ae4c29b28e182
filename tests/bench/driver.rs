//! A log driven to commits of exactly so many records.
//!
//! With no commit interval the writer thread takes what is there as soon as it wakes, which may be
//! one record of 32. So it is held back inside [`Observer::committed`], after it has told of a
//! commit, until all records of the next one were appended.
//!
//! Two ways of driving: in [`Driver::stream`] the next records are appended while the writer syncs,
//! as sources do in the gateway, from the moment on when it has taken those before (it then asks the
//! clock for the time that stands in the batch). In [`Driver::commit`] each commit is waited for.

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use edge_gateway::clock::{Clock, Moment, SystemClock};
use edge_gateway::commit_log::fs::RealFs;
use edge_gateway::commit_log::{
    AppendError, CommitLog, CommitReport, Compression, Condition, Observer, Options, Progress,
};
use edge_gateway::config::{self, Config};
use edge_gateway::record::{NewRecord, Offset};
use tokio::sync::watch;

use crate::error::BenchError;
use crate::telemetry::Telemetry;

/// Size of a segment: the default.
pub(crate) const SEGMENT_BYTES: u64 = 8 << 20;
/// Longest wait for a commit.
const PATIENCE: Duration = Duration::from_secs(30);

/// How the log under test is opened.
pub(crate) fn options(dir: &Path, bytes_max: u64) -> Options {
    Options {
        dir: dir.to_owned(),
        bytes_max,
        segment_bytes: SEGMENT_BYTES,
        commit_interval: Duration::ZERO,
        drop_oldest: false,
        reserve: false,
        age_max: None,
        compression: Compression::None,
        clock: Arc::new(SystemClock::default()),
        owner: "bench".to_owned(),
    }
}

/// An observer of no opinion.
#[derive(Debug)]
pub(crate) struct Deaf;

impl Observer for Deaf {
    fn progress(&self, _progress: Progress) {}

    fn committed(&self, _report: &CommitReport) {}

    fn dropped(&self, _source: &str, _reason: &'static str, _records: u64) {}
}

/// Tells others of the log's progress.
#[derive(Debug)]
pub(crate) struct Teller(watch::Sender<Progress>);

impl Teller {
    /// One for a log that is empty yet, and where it is heard.
    pub(crate) fn new() -> (Self, watch::Receiver<Progress>) {
        let (sender, heard) = watch::channel(Progress {
            synced: Offset::ZERO,
            condition: Condition::Running,
        });
        (Self(sender), heard)
    }
}

impl Observer for Teller {
    fn progress(&self, progress: Progress) {
        self.0.send_replace(progress);
    }

    fn committed(&self, _report: &CommitReport) {}

    fn dropped(&self, source: &str, _reason: &'static str, records: u64) {
        unreachable!("the log is large enough for all, and dropped {records} of {source}");
    }
}

/// A gateway's configuration.
pub(crate) fn config(text: &str) -> Config {
    let parsed = config::parse(text, Path::new("bench.toml"));
    parsed.unwrap_or_else(|error| panic!("a valid configuration: {error}"))
}

/// Holds the writer thread back, and counts.
#[derive(Debug, Default)]
struct Gate {
    inner: Mutex<Inner>,
    opened: Condvar,
    told: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    /// Commits that may begin.
    ready: u64,
    /// Commits that were told of, and their bytes.
    commits: u64,
    bytes: u64,
    /// Commits that were begun: what is appended now is not part of them.
    taken: u64,
    closing: bool,
}

/// Sees the writer begin a commit.
#[derive(Debug)]
struct Watched {
    gate: Arc<Gate>,
    clock: SystemClock,
}

impl Clock for Watched {
    fn moment(&self) -> Moment {
        self.gate.change(|inner| inner.taken = inner.commits + 1);
        self.clock.moment()
    }
}

#[derive(Debug)]
struct Watch(Arc<Gate>);

impl Observer for Watch {
    fn progress(&self, _progress: Progress) {}

    fn committed(&self, report: &CommitReport) {
        let mut inner = self.0.lock();
        inner.commits += 1;
        inner.bytes += report.bytes;
        self.0.told.notify_one();
        while inner.ready == 0 && !inner.closing {
            let woken = self.0.opened.wait(inner);
            inner = woken.unwrap_or_else(PoisonError::into_inner);
        }
        inner.ready = inner.ready.saturating_sub(1);
    }

    fn dropped(&self, _source: &str, _reason: &'static str, _records: u64) {}
}

impl Gate {
    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Inner)) {
        change(&mut self.lock());
        self.opened.notify_all();
    }
}

/// The log and what feeds it.
#[derive(Debug)]
pub(crate) struct Driver {
    log: CommitLog,
    gate: Arc<Gate>,
    telemetry: Telemetry,
    commits: u64,
}

impl Driver {
    /// Opens a new log, and has it commit one record.
    pub(crate) fn start(options: Options) -> Result<Self, BenchError> {
        let gate = Arc::new(Gate::default());
        let watch = Box::new(Watch(Arc::clone(&gate)));
        let clock = Arc::new(Watched {
            gate: Arc::clone(&gate),
            clock: SystemClock::default(),
        });
        let options = Options { clock, ..options };
        let log = CommitLog::open(Arc::new(RealFs), options, watch, ())?.log;
        let mut driver = Self {
            log,
            gate,
            telemetry: Telemetry::new(),
            commits: 1,
        };
        let first = driver.log.append(&driver.telemetry.record())?;
        synced(&driver.log, first)?;
        Ok(driver)
    }

    /// Commits `records` records as one batch, and then has them delivered if `deliver`.
    pub(crate) fn commit(&mut self, records: usize, deliver: bool) -> Result<(), BenchError> {
        let last = self.append(records)?;
        synced(&self.log, last)?;
        if deliver {
            self.log.commit(last.plus(1));
        }
        Ok(())
    }

    /// Commits `records` records as one batch `commits` times, each appended while the one before is
    /// synced, and delivered after it.
    pub(crate) fn stream(&mut self, records: usize, commits: u64) -> Result<(), BenchError> {
        let mut last = None;
        for _ in 0..commits {
            let next = self.append(records)?;
            if let Some(last) = last.replace(next) {
                synced(&self.log, last)?;
                self.log.commit(last.plus(1));
            }
            self.until_taken()?;
        }
        if let Some(last) = last {
            synced(&self.log, last)?;
            self.log.commit(last.plus(1));
        }
        Ok(())
    }

    fn append(&mut self, records: usize) -> Result<Offset, BenchError> {
        let mut last = self.log.append(&self.telemetry.record())?;
        for _ in 1..records {
            last = self.log.append(&self.telemetry.record())?;
        }
        self.gate.change(|inner| inner.ready += 1);
        self.commits += 1;
        Ok(last)
    }

    /// Waits until the writer has begun the last commit.
    fn until_taken(&self) -> Result<(), BenchError> {
        let inner = self.gate.lock();
        let waiting = |inner: &mut Inner| inner.taken < self.commits;
        let woken = self
            .gate
            .opened
            .wait_timeout_while(inner, PATIENCE, waiting);
        let (inner, _) = woken.unwrap_or_else(PoisonError::into_inner);
        if inner.taken < self.commits {
            return Err(BenchError::Stuck("no commit is begun".to_owned()));
        }
        Ok(())
    }

    /// Bytes of all batches so far. Waits for the last one's report, which comes after its sync.
    pub(crate) fn batch_bytes(&self) -> u64 {
        let mut inner = self.gate.lock();
        while inner.commits < self.commits {
            let woken = self.gate.told.wait(inner);
            inner = woken.unwrap_or_else(PoisonError::into_inner);
        }
        inner.bytes
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.gate.change(|inner| inner.closing = true);
        self.log.close();
    }
}

/// Appends a record, waiting for room.
pub(crate) fn append(log: &CommitLog, record: &NewRecord<'_>) -> Result<Offset, BenchError> {
    loop {
        match log.append(record) {
            Err(AppendError::Full) => synced(log, log.progress().synced)?,
            Err(error @ (AppendError::TooLarge { .. } | AppendError::Closed)) => {
                return Err(error.into());
            }
            Ok(offset) => return Ok(offset),
        }
    }
}

/// Waits until `offset` is durable.
pub(crate) fn synced(log: &CommitLog, offset: Offset) -> Result<(), BenchError> {
    let progress = log.wait(offset, PATIENCE);
    if progress.synced > offset {
        return Ok(());
    }
    let why = match (progress.condition, log.failure()) {
        (_, Some(failure)) => failure.to_string(),
        (Condition::Running, None) => "it is too slow".to_owned(),
        (Condition::Full, None) => "it is full".to_owned(),
        (Condition::Poisoned | Condition::Closed, None) => "it was closed".to_owned(),
    };
    Err(BenchError::Stuck(why))
}
