//! Records that can never be delivered, set aside durably: a commit log of their own, with their
//! own budget, below `<data_dir>/dead-letters`.
//!
//! ```text
//!  forwarder, sources ─ store ─▶ commit log ─▶ Kafka topic, if one is configured (best effort)
//!                                 │  ▲ tombstone: "these are gone"
//!               list, export ◀────┘  │
//!               delete ──────────────┤
//!               retry ─ main log, synced ─┘
//! ```
//!
//! - **D1** [`DeadLetters::store`] returns once the letter is synced; only then is what it stands
//!   for acknowledged, or passed over by the forwarder.
//! - **D2** A letter leaves by its budget (the oldest segment goes), by its age, or by a
//!   [`Tombstone`]; the first two are counted as `records_dropped_total` with the reason
//!   `dead_letters_full` or `dead_letters_age`, the third as `dead_letters_removed_total`. One that a
//!   tombstone names is neither counted nor shown again, also after a restart.
//! - **D3** A letter that is sent again is synced in the main log before its tombstone is written:
//!   a crash between the two repeats it, and never loses it.
//! - **D4** The committed offset moves over a leading run of letters that are gone, and frees their
//!   segments, but not over one whose record the forwarder may still read again: exactly-once
//!   delivery recognises it by its letter ([`DeadLetters::offsets_of`]).
//!
//! # Full budget, full disk
//! The budget is never exceeded and never stops anybody: the oldest segment gives way. A second
//! segment is made when the log is opened and kept from then on, so that this works on a disk
//! without a free byte too: letters go on being stored there, the oldest are dropped and counted. If
//! the disk was full when the log was opened, there is no second segment: once the first is full,
//! [`DeadLetters::store_blocking`] waits, told once and by `/health`, and with it the forwarder;
//! nothing is lost, and it goes on as soon as there is space. A gateway that is stopped meanwhile
//! closes the log of dead letters, which ends the wait: the record is still in the main log. A disk
//! that fails ends the process.
//!
//! # Opening
//! Reads all letters, twice, to know which are gone and how many are kept, in memory that does not
//! grow with them; their budget bounds the time. What can't be read is left out of the count.
//!
//! # Map
//! `letter` · [`gone`](Gone) · [`select`](Selection) · [`change`](Changed) delete and retry ·
//! [`control`] the socket by which a running gateway is asked to · [`copies`]

mod change;
pub mod control;
pub mod copies;
mod figures;
mod gone;
mod letter;
mod select;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tokio::sync::watch;

pub use change::{ChangeError, Changed, Left, Retry};
pub use figures::LetterFigures;
pub use gone::{Count, Fate, Gone, Tombstone};
pub use letter::{DeadLetter, Envelope};
pub use select::{RUNS_MAX, Selection};

use crate::clock::SystemClock;
use crate::commit_log::fs::{Fs, RealFs};
use crate::commit_log::{
    AppendError, CommitLog, CommitReport, Compression, Condition, Item, Observer, OpenError,
    Options, Progress, ReadError,
};
use crate::ingest::Ingest;
use crate::metrics::{Metrics, ReasonLabel, SourceReason};
use crate::pulse::Pulse;
use crate::record::{NewRecord, Offset, RecordView};
use copies::Copies;
use gone::{Tally, is_letter};

/// Name of the log's directory below the data directory.
pub const DIR_NAME: &str = "dead-letters";
/// One of them must hold the largest payload that is kept, twice.
const SEGMENT_BYTES: u64 = 4 << 20;
/// How often a thread that waits for the log looks whether it has failed.
const FULL_WAIT: Duration = Duration::from_millis(500);

/// What dead letters may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Most disk space; beyond it the oldest go, counted.
    pub bytes_max: u64,
    /// Older ones go, counted.
    pub age_max: Option<Duration>,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            bytes_max: 16 << 20,
            age_max: None,
        }
    }
}

/// The dead letters' log. Cheap to clone.
#[derive(Clone, Debug)]
pub struct DeadLetters {
    ingest: Ingest,
    log: CommitLog,
    tally: Tally,
    stored: Family<ReasonLabel, Counter<u64, AtomicU64>>,
    figures: LetterFigures,
    copies: Option<Copies>,
    /// Of a thread that may have to wait here.
    pulse: Pulse,
}

/// The dead letter could not be made durable: what it stands for must not be acknowledged.
#[derive(Debug, thiserror::Error)]
#[error("the dead letter could not be stored")]
pub struct NotStored;

/// Announces the log's progress.
#[derive(Debug)]
struct Announcer {
    progress: watch::Sender<Progress>,
    dropped: Family<SourceReason, Counter<u64, AtomicU64>>,
    tally: Tally,
}

impl Observer for Announcer {
    fn progress(&self, progress: Progress) {
        let before = self.progress.send_replace(progress);
        if before.condition != progress.condition {
            match progress.condition {
                Condition::Full => tracing::warn!(
                    "no space on the disk for another dead letter: delivery waits until there is"
                ),
                Condition::Running => tracing::info!("dead letters are stored again"),
                Condition::Poisoned => tracing::error!("the log of dead letters failed"),
                Condition::Closed => {}
            }
        }
    }

    fn committed(&self, _report: &CommitReport) {}

    fn misses(&self, record: &RecordView<'_>) -> bool {
        self.tally.drop_letter(record)
    }

    fn dropped(&self, source: &str, reason: &'static str, records: u64) {
        let (reason, why) = match reason {
            "age" => ("dead_letters_age", "they were too old"),
            _ => ("dead_letters_full", "to make room"),
        };
        tracing::error!(
            source,
            records,
            "the oldest dead letters were dropped: {why}"
        );
        let label = SourceReason {
            source: source.to_owned(),
            reason: reason.to_owned(),
        };
        self.dropped.get_or_create(&label).inc_by(records);
    }
}

impl DeadLetters {
    /// Opens the dead letters below `data_dir`, with the default budget.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(data_dir: &Path, owner: &str, metrics: &Metrics) -> Result<Self, OpenError> {
        Self::with_budget(data_dir, owner, metrics, Budget::default())
    }

    /// Opens the dead letters below `data_dir`.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn with_budget(
        data_dir: &Path,
        owner: &str,
        metrics: &Metrics,
        budget: Budget,
    ) -> Result<Self, OpenError> {
        let options = Options {
            dir: data_dir.join(DIR_NAME),
            bytes_max: budget.bytes_max,
            segment_bytes: SEGMENT_BYTES,
            commit_interval: Duration::ZERO,
            drop_oldest: true,
            reserve: false,
            age_max: budget.age_max,
            compression: Compression::None,
            clock: Arc::new(SystemClock::default()),
            owner: owner.to_owned(),
        };
        Self::open_on(Arc::new(RealFs), options, metrics)
    }

    fn open_on(fs: Arc<dyn Fs>, options: Options, metrics: &Metrics) -> Result<Self, OpenError> {
        let start = Progress {
            synced: Offset::ZERO,
            condition: Condition::Running,
        };
        let (announcer, progress) = watch::channel(start);
        let tally = Tally::new(metrics.letters.clone());
        let observer = Announcer {
            progress: announcer,
            dropped: metrics.dropped.clone(),
            tally: tally.clone(),
        };
        let opened = CommitLog::open(fs, options, Box::new(observer), tally.clone())?;
        for finding in &opened.recovery.findings {
            metrics.report(finding);
        }
        let letters = Self {
            ingest: Ingest::new(opened.log.clone(), progress),
            log: opened.log,
            tally,
            stored: metrics.dead_letters.clone(),
            figures: metrics.letters.clone(),
            copies: None,
            pulse: Pulse::default(),
        };
        if let Err(error) = letters.take_stock() {
            tracing::warn!(%error, "some dead letters can't be read and are not counted");
        }
        Ok(letters)
    }

    /// Beats this pulse while it keeps a thread waiting for space: that thread is alive.
    #[must_use]
    pub fn beating(self, pulse: Pulse) -> Self {
        Self { pulse, ..self }
    }

    /// Also copies each letter that is stored from now on.
    #[must_use]
    pub fn copied_to(self, copies: Copies) -> Self {
        Self {
            copies: Some(copies),
            ..self
        }
    }

    /// Learns which letters are gone, and how many are kept. Nothing is appended meanwhile.
    fn take_stock(&self) -> Result<(), ReadError> {
        let mut gone = Gone::below(self.log.committed());
        let mut count = Count::default();
        let mut read = self.each_record(self.log.committed(), |record| {
            if let Some(tombstone) = Tombstone::of(record) {
                gone.bury(&tombstone);
            }
        });
        if read.is_ok() {
            read = self.each_record(self.log.committed(), |record| {
                if is_letter(record) && !gone.has(record.offset) {
                    count.add(record);
                }
            });
        }
        self.tally.go_live(gone, count);
        read
    }

    /// Stores a dead letter of the log with the identity `log`, counts it, and returns once it is
    /// synced. Blocks the calling thread.
    ///
    /// # Errors
    /// [`NotStored`] if the log of dead letters has failed.
    pub fn store_blocking(&self, letter: &DeadLetter<'_>, log: &str) -> Result<(), NotStored> {
        let envelope = letter.envelope(Some(log));
        self.append_until(&letter.record(&envelope.to_bytes()), None)?;
        self.count_stored(letter, envelope);
        Ok(())
    }

    /// Appends a record and waits until it is synced and taken note of, for ever or until `give_up`: it
    /// may then still be synced later.
    fn append_until(
        &self,
        record: &NewRecord<'_>,
        give_up: Option<Instant>,
    ) -> Result<(), NotStored> {
        let is_over = || give_up.is_some_and(|give_up| Instant::now() >= give_up);
        let offset = loop {
            match self.log.append(record) {
                Ok(offset) => break offset,
                Err(AppendError::Full) if is_over() => return Err(NotStored),
                Err(AppendError::Full) => {
                    self.pulse.beat();
                    let _ = self.log.wait(self.log.progress().synced, FULL_WAIT);
                }
                Err(AppendError::TooLarge { .. } | AppendError::Closed) => return Err(NotStored),
            }
        };
        loop {
            self.pulse.beat();
            let progress = self.log.wait(offset, FULL_WAIT);
            if progress.synced > offset {
                self.tally.wait_for(offset);
                return Ok(());
            }
            match progress.condition {
                Condition::Running | Condition::Full if is_over() => return Err(NotStored),
                Condition::Running | Condition::Full => {}
                Condition::Poisoned | Condition::Closed => return Err(NotStored),
            }
        }
    }

    /// Stores a dead letter, counts it, and returns once it is synced.
    ///
    /// # Errors
    /// [`NotStored`] if the log of dead letters has failed.
    pub async fn store(&self, letter: &DeadLetter<'_>) -> Result<(), NotStored> {
        let envelope = letter.envelope(None);
        let bytes = envelope.to_bytes();
        let stored = self.ingest.append_synced(&letter.record(&bytes)).await;
        stored.map_err(|_| NotStored)?;
        self.count_stored(letter, envelope);
        Ok(())
    }

    /// All dead letters that are kept, oldest first.
    ///
    /// # Errors
    /// [`ReadError`]
    pub fn list(&self) -> Result<Vec<Envelope>, ReadError> {
        let mut letters = Vec::new();
        self.each(&Selection::default(), |_, letter| letters.push(letter))?;
        Ok(letters)
    }

    /// How many letters are kept.
    #[must_use]
    pub fn kept(&self) -> Count {
        self.tally.count()
    }

    /// Whether another letter can be stored.
    #[must_use]
    pub fn condition(&self) -> Condition {
        self.log.progress().condition
    }

    /// Offsets at and past `from` of those that come from the log with the identity `log`, gone or
    /// not (D4).
    ///
    /// # Errors
    /// [`ReadError`]
    pub fn offsets_of(&self, log: &str, from: Offset) -> Result<BTreeSet<Offset>, ReadError> {
        let mut offsets = BTreeSet::new();
        self.each_record(Offset::ZERO, |record| {
            let letter = Envelope::of(record).filter(|letter| letter.log.as_deref() == Some(log));
            let offset = letter.and_then(|letter| letter.offset).map(Offset::new);
            offsets.extend(offset.filter(|offset| *offset >= from));
        })?;
        Ok(offsets)
    }

    /// The letters that are kept and meant, with their records.
    fn each(
        &self,
        selection: &Selection,
        mut take: impl FnMut(&RecordView<'_>, Envelope),
    ) -> Result<(), ReadError> {
        self.each_record(self.log.committed(), |record| {
            if !selection.may_mean(record) || self.tally.has(record.offset) {
                return;
            }
            if let Some(letter) = Envelope::of(record).filter(|l| selection.means(record, l)) {
                take(record, letter);
            }
        })
    }

    fn each_record(
        &self,
        from: Offset,
        mut take: impl FnMut(&RecordView<'_>),
    ) -> Result<(), ReadError> {
        let mut cursor = self.log.cursor(from);
        while let Some(item) = cursor.next()? {
            match item {
                Item::Batch(batch) => batch.records().for_each(|record| take(&record)),
                Item::Hole(_) => {}
            }
        }
        Ok(())
    }

    /// Closes the log of dead letters. Blocks until done.
    pub fn close(&self) {
        self.log.close();
    }

    fn count_stored(&self, letter: &DeadLetter<'_>, envelope: Envelope) {
        let label = ReasonLabel {
            reason: letter.reason.to_owned(),
        };
        self.stored.get_or_create(&label).inc();
        tracing::warn!(
            source = %letter.source, subject = letter.subject, reason = letter.reason,
            detail = letter.detail, "record set aside as a dead letter"
        );
        if let Some(copies) = &self.copies {
            copies.take(letter, envelope);
        }
    }
}
