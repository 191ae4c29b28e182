//! One parked topic: its log, what it took, and when it is tried next.

use std::time::{Duration, Instant};

use rdkafka::error::RDKafkaErrorCode;

use super::super::encode::Outgoing;
use super::entry;
use super::store::{Store, Stored};
use super::{AppendError, CommitLog, Metrics, Offset, ParkedPosition, ParkedTopic, Ticket, clock};
use crate::cli::chain;
use crate::commit_log::Condition;

/// How long after a refusal a topic is tried again: doubling, within these.
const TRY_PAUSE_MIN: Duration = Duration::from_secs(1);
const TRY_PAUSE_MAX: Duration = Duration::from_secs(30);

/// A parking log.
#[derive(Debug)]
pub(super) enum Log {
    Open {
        log: CommitLog,
        taken: entry::Taken,
        /// The offset that the next record will have.
        next: Offset,
    },
    /// It can't be opened, or has failed.
    Unavailable { why: String },
}

/// What became of a record.
#[derive(Debug)]
pub(super) enum Taken {
    /// It is in the log, durable when the ticket says so.
    Now(Ticket),
    /// It was taken before (P3).
    Before(Ticket),
    /// The log's memory is full for a moment, or the last records are just going out.
    Soon,
    /// The budget has no room.
    NoRoom,
    /// Not while things are as they are.
    Never(String),
}

/// Whether the last parked records are going out, and the forwarder is to wait for that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Handover {
    No,
    Until(Instant),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Topic {
    log: Log,
    pub(super) refused: bool,
    why: String,
    /// On both clocks.
    since: Instant,
    since_ms: i64,
    pub(super) next_try: Instant,
    pause: Duration,
    pub(super) handover: Handover,
}

impl Log {
    pub(super) fn open(store: &Store, topic: &str, metrics: &Metrics) -> Self {
        match store.open(topic, metrics) {
            Ok(Stored { log, taken }) => Self::Open {
                next: log.progress().synced,
                log,
                taken,
            },
            Err(error) => {
                let why = format!("its parking log cannot be opened: {}", chain(&error));
                tracing::error!(topic, why, "parked records cannot be reached for now");
                Self::Unavailable { why }
            }
        }
    }

    fn log(&self) -> Option<&CommitLog> {
        match self {
            Self::Open { log, .. } => Some(log),
            Self::Unavailable { .. } => None,
        }
    }
}

impl Topic {
    /// A topic that was just refused.
    pub(super) fn new(log: Log, code: RDKafkaErrorCode) -> Self {
        let mut topic = Self::found(log);
        topic.refused_again(code);
        topic
    }

    /// A topic that was parked when the gateway ended: tried at once.
    pub(super) fn found(log: Log) -> Self {
        Self {
            log,
            refused: false,
            why: "it was parked when the gateway ended".to_owned(),
            since: Instant::now(),
            since_ms: clock::wall_ms(),
            next_try: Instant::now(),
            pause: TRY_PAUSE_MIN,
            handover: Handover::No,
        }
    }

    /// Takes a record, given by the identity of its log and its last offset too.
    pub(super) fn take(
        &mut self,
        (main, last): (&str, Offset),
        outgoing: &Outgoing<'_>,
        (has_room, bytes): (bool, &mut Vec<u8>),
    ) -> Taken {
        let (log, taken, next) = match &mut self.log {
            Log::Open { log, taken, next } => (log, taken, next),
            Log::Unavailable { why } => return Taken::Never(why.clone()),
        };
        let condition = log.progress().condition;
        if matches!(condition, Condition::Poisoned | Condition::Closed) {
            return Taken::Never("its parking log has failed".to_owned());
        }
        if taken.holds(main, last) {
            let newest = Offset::new(next.get().saturating_sub(1));
            return Taken::Before(Ticket {
                log: log.clone(),
                offset: newest,
            });
        }
        if matches!(self.handover, Handover::Until(until) if Instant::now() < until) {
            return Taken::Soon;
        }
        if !has_room {
            return Taken::NoRoom;
        }
        match entry::with_entry(outgoing, main, bytes, |record| log.append(record)) {
            Ok(offset) => {
                *taken = entry::Taken::new(main, last);
                *next = offset.plus(1);
                Taken::Now(Ticket {
                    log: log.clone(),
                    offset,
                })
            }
            Err(AppendError::Full) => match condition {
                Condition::Full => Taken::Never("the disk is full".to_owned()),
                Condition::Running | Condition::Poisoned | Condition::Closed => Taken::Soon,
            },
            Err(error @ (AppendError::TooLarge { .. } | AppendError::Closed)) => {
                Taken::Never(error.to_string())
            }
        }
    }

    /// Takes note of a refusal; returns when the first one was.
    pub(super) fn refused_again(&mut self, code: RDKafkaErrorCode) -> Instant {
        if !self.refused {
            self.refused = true;
            self.pause = TRY_PAUSE_MIN;
        }
        self.why = format!("Kafka refuses it: {code}");
        self.next_try = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(TRY_PAUSE_MAX);
        self.handover = Handover::No;
        self.since
    }

    /// Takes note that a record was delivered. True if that is news.
    pub(super) fn answers(&mut self) -> bool {
        "it takes records again".clone_into(&mut self.why);
        self.pause = TRY_PAUSE_MIN;
        std::mem::replace(&mut self.refused, false)
    }

    /// Half of the time at most the forwarder waits.
    pub(super) fn hand_over(&mut self, within: Duration) {
        let now = Instant::now();
        let may = match self.handover {
            Handover::No => true,
            Handover::Until(until) => now >= until + within,
        };
        if may {
            self.handover = Handover::Until(now + within);
        }
    }

    /// The log, opened anew if it could not be before or has failed.
    pub(super) fn reopen(
        &mut self,
        store: &Store,
        topic: &str,
        metrics: &Metrics,
    ) -> Option<CommitLog> {
        let failed = match self.log.log() {
            Some(log) => log.progress().condition == Condition::Poisoned,
            None => true,
        };
        if failed {
            self.close();
            self.log = Log::open(store, topic, metrics);
            if let Log::Unavailable { why } = &self.log {
                self.why.clone_from(why);
                self.next_try = Instant::now() + self.pause;
                self.pause = (self.pause * 2).min(TRY_PAUSE_MAX);
            }
        }
        self.log.log().cloned()
    }

    /// Whether everything parked was delivered, and nothing of it can come from the main log again.
    pub(super) fn is_returned(&self, floor: Option<(&str, Offset)>) -> bool {
        let Log::Open { log, next, .. } = &self.log else {
            return false;
        };
        let is_below = floor.is_none_or(|(main, floor)| self.is_below(main, floor));
        !self.refused && log.committed() >= *next && is_below
    }

    pub(super) fn is_below(&self, main: &str, floor: Offset) -> bool {
        match &self.log {
            Log::Open { taken, .. } => taken.is_below(main, floor),
            Log::Unavailable { .. } => false,
        }
    }

    pub(super) fn position(&self) -> Option<ParkedPosition> {
        let log = self.log.log()?;
        let offset = log.committed().get();
        (offset > 0).then(|| ParkedPosition {
            log: log.identity(),
            offset,
        })
    }

    pub(super) fn resume(&self, name: &str, positions: &[ParkedPosition], restored: bool) {
        let Log::Open { log, next, .. } = &self.log else {
            return;
        };
        let identity = log.identity();
        let known = positions.iter().find(|position| position.log == identity);
        let offset = known.map_or(Offset::ZERO, |known| Offset::new(known.offset));
        if !restored && offset <= *next {
            log.commit(offset);
        } else if log.renew_identity() {
            tracing::error!(
                topic = name,
                old = identity,
                new = log.identity(),
                "the parking log was restored from an old copy: what it holds is sent, and what Kafka \
                 has had of it comes a second time"
            );
        }
    }

    /// Records that wait.
    pub(super) fn records(&self) -> u64 {
        match &self.log {
            Log::Open { log, next, .. } => next.since(log.committed()),
            Log::Unavailable { .. } => 0,
        }
    }

    pub(super) fn disk_bytes(&self) -> u64 {
        self.log.log().map_or(0, |log| log.stats().disk_bytes)
    }

    pub(super) fn close(&self) {
        if let Some(log) = self.log.log() {
            log.close();
        }
    }

    pub(super) fn status(&self, name: &str) -> ParkedTopic {
        ParkedTopic {
            topic: name.to_owned(),
            why: self.why.clone(),
            returning: !self.refused && self.log.log().is_some(),
            records: self.records(),
            bytes: self.disk_bytes(),
            since_ms: self.since_ms,
        }
    }
}
