//! Records that can never be delivered, set aside durably: a commit log of their own, with their
//! own budget, below `<data_dir>/dead-letters`.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::clock::SystemClock;
use crate::commit_log::fs::RealFs;
use crate::commit_log::{
    AppendError, CommitLog, CommitReport, Compression, Condition, Item, Observer, OpenError,
    Options, Progress, ReadError,
};
use crate::ingest::Ingest;
use crate::metrics::{Metrics, ReasonLabel, SourceReason};
use crate::record::{NewRecord, Offset, Origin, PayloadKind, SourceName, Stamp};

/// Disk space for dead letters; beyond it the oldest go, counted.
const BYTES_MAX: u64 = 16 << 20;
/// One of them must hold the largest payload that is kept, twice.
const SEGMENT_BYTES: u64 = 4 << 20;
/// Longest part of a payload that is kept: what Kafka refuses as too large is often a little over
/// its limit of 1 MiB.
const PAYLOAD_BYTES_KEPT: usize = 1 << 20;
/// How often a thread that waits for the log looks whether it has failed.
const FULL_WAIT: Duration = Duration::from_millis(500);

/// A record that is set aside.
#[derive(Clone, Debug)]
pub struct DeadLetter<'a> {
    /// Source that received it.
    pub source: &'a SourceName,
    /// Its subject.
    pub subject: &'a str,
    /// Why, as in the `reason` label of the metrics.
    pub reason: &'a str,
    /// Text for a person: what was refused, by whom, with which code.
    pub detail: &'a str,
    /// Kafka topic it was meant for, if it got that far.
    pub topic: Option<&'a str>,
    /// Offset in the main log, if it got that far.
    pub offset: Option<u64>,
    /// Full size of the payload in bytes.
    pub payload_bytes: u64,
    /// The payload, or its head.
    pub payload: &'a [u8],
    /// Time of receipt.
    pub received: Stamp,
}

/// The dead letters' log. Cheap to clone.
#[derive(Clone, Debug)]
pub struct DeadLetters {
    ingest: Ingest,
    log: CommitLog,
    stored: Family<ReasonLabel, Counter<u64, AtomicU64>>,
}

/// The dead letter could not be made durable: what it stands for must not be acknowledged.
#[derive(Debug, thiserror::Error)]
#[error("the dead letter could not be stored")]
pub struct NotStored;

/// A dead letter as it is kept: the payload of a record, in CBOR.
#[derive(Debug, Serialize, Deserialize)]
pub struct Envelope {
    /// See [`DeadLetter::reason`].
    pub reason: String,
    /// See [`DeadLetter::detail`].
    pub detail: String,
    /// See [`DeadLetter::topic`].
    pub topic: Option<String>,
    /// See [`DeadLetter::offset`].
    pub offset: Option<u64>,
    /// Identity of the log that `offset` is of.
    #[serde(default)]
    pub log: Option<String>,
    /// See [`DeadLetter::payload_bytes`].
    pub payload_bytes: u64,
    /// See [`DeadLetter::payload`].
    #[serde(with = "bytes_as_bytes")]
    pub payload: Vec<u8>,
}

/// A payload as a CBOR byte string, rather than an array of numbers.
mod bytes_as_bytes {
    use serde::de::{Deserializer, Visitor};
    use serde::ser::Serializer;

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(bytes)
    }

    pub(super) fn deserialize<'d, D: Deserializer<'d>>(from: D) -> Result<Vec<u8>, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Vec<u8>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a byte string")
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }
        }
        from.deserialize_bytes(Bytes)
    }
}

/// Announces the log's progress.
#[derive(Debug)]
struct Announcer {
    progress: watch::Sender<Progress>,
    dropped: Family<SourceReason, Counter<u64, AtomicU64>>,
}

impl Observer for Announcer {
    fn progress(&self, progress: Progress) {
        self.progress.send_replace(progress);
    }

    fn committed(&self, _report: &CommitReport) {}

    fn dropped(&self, source: &str, _reason: &'static str, records: u64) {
        tracing::error!(
            source,
            records,
            "the oldest dead letters were dropped to make room"
        );
        let reason = "dead_letters_full".to_owned();
        let label = SourceReason {
            source: source.to_owned(),
            reason,
        };
        self.dropped.get_or_create(&label).inc_by(records);
    }
}

impl DeadLetters {
    /// Opens the dead letters below `data_dir`.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(data_dir: &Path, owner: &str, metrics: &Metrics) -> Result<Self, OpenError> {
        let start = Progress {
            synced: Offset::ZERO,
            condition: Condition::Running,
        };
        let (announcer, progress) = watch::channel(start);
        let options = Options {
            dir: data_dir.join("dead-letters"),
            bytes_max: BYTES_MAX,
            segment_bytes: SEGMENT_BYTES,
            commit_interval: Duration::ZERO,
            drop_oldest: true,
            age_max: None,
            compression: Compression::None,
            clock: Arc::new(SystemClock::default()),
            owner: owner.to_owned(),
        };
        let observer = Announcer {
            progress: announcer,
            dropped: metrics.dropped.clone(),
        };
        let opened = CommitLog::open(Arc::new(RealFs), options, Box::new(observer), ())?;
        for finding in &opened.recovery.findings {
            metrics.report(finding);
        }
        Ok(Self {
            ingest: Ingest::new(opened.log.clone(), progress),
            log: opened.log,
            stored: metrics.dead_letters.clone(),
        })
    }

    /// Stores a dead letter of the log with the identity `log`, counts it, and returns once it is
    /// synced. Blocks the calling thread.
    ///
    /// # Errors
    /// [`NotStored`] if the log of dead letters has failed.
    pub fn store_blocking(&self, letter: &DeadLetter<'_>, log: &str) -> Result<(), NotStored> {
        let payload = envelope(letter, Some(log));
        let offset = loop {
            match self.log.append(&record(letter, &payload)) {
                Ok(offset) => break offset,
                Err(AppendError::Full) => {
                    let _ = self.log.wait(self.log.progress().synced, FULL_WAIT);
                }
                Err(AppendError::TooLarge { .. } | AppendError::Closed) => return Err(NotStored),
            }
        };
        loop {
            let progress = self.log.wait(offset, FULL_WAIT);
            if progress.synced > offset {
                break;
            }
            match progress.condition {
                Condition::Running | Condition::Full => {}
                Condition::Poisoned | Condition::Closed => return Err(NotStored),
            }
        }
        self.count(letter);
        Ok(())
    }

    /// Stores a dead letter, counts it, and returns once it is synced.
    ///
    /// # Errors
    /// [`NotStored`] if the log of dead letters has failed.
    pub async fn store(&self, letter: &DeadLetter<'_>) -> Result<(), NotStored> {
        let payload = envelope(letter, None);
        let stored = self.ingest.append_synced(&record(letter, &payload)).await;
        stored.map_err(|_| NotStored)?;
        self.count(letter);
        Ok(())
    }

    /// All dead letters that are kept, oldest first.
    ///
    /// # Errors
    /// [`ReadError`]
    pub fn list(&self) -> Result<Vec<Envelope>, ReadError> {
        let mut letters = Vec::new();
        self.each(|letter| letters.push(letter))?;
        Ok(letters)
    }

    /// Offsets at and past `from` of those that come from the log with the identity `log`.
    ///
    /// # Errors
    /// [`ReadError`]
    pub fn offsets_of(&self, log: &str, from: Offset) -> Result<BTreeSet<Offset>, ReadError> {
        let mut offsets = BTreeSet::new();
        self.each(|letter| {
            let offset = letter.offset.map(Offset::new);
            offsets.extend(offset.filter(|o| *o >= from && letter.log.as_deref() == Some(log)));
        })?;
        Ok(offsets)
    }

    fn each(&self, mut take: impl FnMut(Envelope)) -> Result<(), ReadError> {
        let mut cursor = self.log.cursor(Offset::ZERO);
        while let Some(item) = cursor.next()? {
            match item {
                Item::Batch(batch) => batch
                    .records()
                    .filter_map(|letter| serde_cbor::from_slice(letter.payload).ok())
                    .for_each(&mut take),
                Item::Hole(_) => {}
            }
        }
        Ok(())
    }

    /// Closes the log of dead letters. Blocks until done.
    pub fn close(&self) {
        self.log.close();
    }

    fn count(&self, letter: &DeadLetter<'_>) {
        let label = ReasonLabel {
            reason: letter.reason.to_owned(),
        };
        self.stored.get_or_create(&label).inc();
        tracing::warn!(
            source = %letter.source, subject = letter.subject, reason = letter.reason,
            detail = letter.detail, "record set aside as a dead letter"
        );
    }
}

fn envelope(letter: &DeadLetter<'_>, log: Option<&str>) -> Vec<u8> {
    let kept = letter.payload.len().min(PAYLOAD_BYTES_KEPT);
    let envelope = Envelope {
        reason: letter.reason.to_owned(),
        detail: letter.detail.to_owned(),
        topic: letter.topic.map(str::to_owned),
        offset: letter.offset,
        log: log.map(str::to_owned),
        payload_bytes: letter.payload_bytes,
        payload: letter.payload[..kept].to_vec(),
    };
    serde_cbor::to_vec(&envelope).expect("texts, numbers and bytes are always CBOR")
}

fn record<'a>(letter: &DeadLetter<'a>, payload: &'a [u8]) -> NewRecord<'a> {
    NewRecord {
        source: letter.source,
        subject: letter.subject,
        kind: PayloadKind::Opaque,
        origin: Origin::Line,
        received: letter.received,
        payload,
    }
}
