//! Getting ready to send: the offsets topic, the transactional id, the position, the claim.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::parking::unpark::Known;
use super::super::{Flow, ForwarderError};
use super::failure::Failure;
use super::position::{self, History, LogFacts, Resume};
use super::sender::{Sender, Session, Verdict};
use crate::cli::chain;
use crate::commit_log::Item;
use crate::kafka::offsets::{OffsetsError, OffsetsTopic};
use crate::kafka::{Mode, Producer, TransactionClass};
use crate::record::Offset;

/// Longest call that takes over the transactional id: between them a stop is seen.
const INIT_CALL: Duration = Duration::from_secs(1);
/// How long that may take in all before it is begun anew: a transaction that was left open in the
/// middle of its commit is waited for.
const INIT_WITHIN: Duration = Duration::from_secs(60);

/// Why sending can't begin.
enum Obstacle {
    /// To be waited for.
    Passing(String),
    /// A stop.
    Stop,
    /// For good.
    End(ForwarderError),
}

impl From<OffsetsError> for Obstacle {
    fn from(error: OffsetsError) -> Self {
        match error {
            OffsetsError::Stopped => Self::Stop,
            OffsetsError::Client(source) => Self::End(ForwarderError::Producer(source)),
            OffsetsError::NoAnswer { .. }
            | OffsetsError::Forbidden { .. }
            | OffsetsError::NotCreated { .. }
            | OffsetsError::NotCompacted { .. }
            | OffsetsError::OpenTransaction { .. }
            | OffsetsError::Read { .. } => Self::Passing(chain(&error)),
        }
    }
}

impl From<ForwarderError> for Obstacle {
    fn from(error: ForwarderError) -> Self {
        Self::End(error)
    }
}

impl Sender<'_> {
    /// Connects, waiting for whatever passes by itself. False if the gateway stops before.
    pub(super) fn connect(&mut self) -> Result<bool, ForwarderError> {
        loop {
            let nothing_to_send = self.log.committed() >= self.log.progress().synced;
            if self.stop.is_over() || (self.stop.requested() && nothing_to_send) {
                return Ok(false);
            }
            match self.try_connect() {
                Ok(()) => return Ok(true),
                Err(Obstacle::Stop) => return Ok(false),
                Err(Obstacle::End(error)) => return Err(error),
                Err(Obstacle::Passing(text)) => {
                    self.session = None;
                    if self.told != text {
                        tracing::warn!("exactly-once delivery has to wait: {text}");
                        self.told = text;
                    }
                    self.backoff.wait(&mut self.stop);
                }
            }
        }
    }

    fn try_connect(&mut self) -> Result<(), Obstacle> {
        let config = self.config;
        let name = &self.transactions.offsets_topic;
        let stop = &mut self.stop;
        let known = std::mem::take(&mut self.topic_is_known);
        let prepared = OffsetsTopic::prepare(config, name, known, &mut || stop.is_over());
        if let Err(OffsetsError::NoAnswer { .. }) = prepared {
            // No producer is there that would notice.
            self.metrics.kafka_connected.set(0);
        }
        let topic = prepared?;
        if self.fenced {
            // Before anything else: to take the id over would fence the rival in its turn (E4).
            let history = self.read(&topic)?;
            self.yield_to_rival(&history)?;
        }
        let single = self.floor < self.alone_until;
        let mode = if single {
            Mode::SingleInTransactions
        } else {
            Mode::Transactions
        };
        let producer = Producer::new(config, mode, Arc::clone(&self.metrics))
            .map_err(ForwarderError::Producer)?;
        self.take_over(&producer)?;
        let history = self.read(&topic)?;
        self.yield_to_rival(&history)?;
        self.resume(&history)?;
        self.session = Some(Session {
            producer,
            topic,
            single,
        });
        self.claim()
    }

    fn take_over(&mut self, producer: &Producer) -> Result<(), Obstacle> {
        let give_up = Instant::now() + INIT_WITHIN;
        loop {
            let error = match producer.init_transactions(INIT_CALL) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            producer.serve(&mut Vec::new());
            if self.stop.is_over() {
                return Err(Obstacle::Stop);
            }
            match error.class {
                TransactionClass::Again if Instant::now() < give_up => {}
                TransactionClass::Again
                | TransactionClass::Abort
                | TransactionClass::Fenced
                | TransactionClass::Fatal => {
                    let id = &self.config.gateway.id;
                    return Err(Obstacle::Passing(error.explained(id)));
                }
            }
        }
    }

    fn read(&mut self, topic: &OffsetsTopic<'_>) -> Result<History, Obstacle> {
        let mut history = History::default();
        let mut unreadable = 0_u64;
        let stop = &mut self.stop;
        topic.read(&mut || stop.is_over(), &mut |value| {
            unreadable += u64::from(!history.take(value));
        })?;
        if unreadable > 0 {
            tracing::warn!(
                topic = topic.name(),
                unreadable,
                "positions of this gateway in the offsets topic that cannot be read"
            );
        }
        Ok(history)
    }

    /// Ends this gateway if another one of its id has written since it claimed the id.
    fn yield_to_rival(&mut self, history: &History) -> Result<(), Obstacle> {
        let Some(newest) = &history.newest else {
            return Ok(());
        };
        if newest.instance == self.instance {
            self.claimed = true;
        }
        if !self.claimed || newest.instance == self.instance {
            return Ok(());
        }
        // A commit whose outcome was not known may be in Kafka (E2).
        if let Some(known) = history.of(&self.log_identity) {
            self.log.commit(Offset::new(known.offset));
        }
        Err(Obstacle::End(ForwarderError::Rival {
            instance: newest.instance.clone(),
            host: newest.host.clone(),
            time: newest.time.clone(),
        }))
    }

    /// Sets out where to go on from, and says so where that is not plain.
    fn resume(&mut self, history: &History) -> Result<(), Obstacle> {
        let synced = self.log.progress().synced;
        let facts = LogFacts {
            identity: &self.log_identity,
            committed: self.log.committed(),
            // What this process has written itself is no older than its log.
            opened_at: if self.claimed {
                synced
            } else {
                self.received_here_from
            },
        };
        let mut restored = false;
        match position::resume(history, facts) {
            Resume::Local => {}
            Resume::Unknown if self.claimed => {
                tracing::warn!(offset = %facts.committed, "the offsets topic has lost this \
                    gateway's position; going on from its own");
            }
            Resume::Unknown => {
                tracing::info!(offset = %facts.committed, "Kafka has no position of this gateway; \
                    going on from its own");
            }
            Resume::Replaced => self.tell_replaced(history, facts.committed),
            Resume::Ahead {
                offset,
                fingerprint,
            } => {
                if self.claimed || self.is_before(offset, fingerprint)? {
                    self.log.commit(offset);
                } else {
                    self.restored(offset)?;
                    restored = true;
                }
            }
            Resume::Restored { offset } => {
                self.restored(offset)?;
                restored = true;
            }
        }
        self.log_identity = self.log.identity();
        self.superseded = history.superseded_by(&self.log_identity);
        if self.floor != self.log.committed() {
            self.fingerprint = None;
        }
        self.floor = self.log.committed();
        self.encoder.set_log_identity(&self.log_identity);
        let newest = history.newest.as_ref();
        let positions = newest.map_or(&[][..], |newest| &newest.parking);
        self.parking.resume(positions, restored);
        self.known = Known::default();
        let set_aside = self
            .dead_letters
            .offsets_of(&self.log_identity, self.floor)
            .map_err(ForwarderError::Read)?;
        let verdicts = set_aside
            .into_iter()
            .map(|offset| (offset, Verdict::SetAside));
        self.verdicts.extend(verdicts);
        tracing::info!(
            offset = %self.floor, log = self.log_identity, instance = self.instance,
            "exactly-once delivery goes on from here"
        );
        Ok(())
    }

    fn tell_replaced(&self, history: &History, committed: Offset) {
        let Some(newest) = &history.newest else {
            return;
        };
        tracing::warn!(
            known = newest.log, known_offset = newest.offset, known_host = newest.host,
            log = self.log_identity, offset = %committed,
            "Kafka knows this gateway with another log: its data directory was emptied or replaced. \
             What the other log still held is not here; going on with this one"
        );
    }

    /// Whether the record before `offset` is the one that was delivered; yes where that can't be
    /// told.
    fn is_before(&self, offset: Offset, fingerprint: Option<u32>) -> Result<bool, ForwarderError> {
        let (Some(expected), Some(before)) = (fingerprint, offset.get().checked_sub(1)) else {
            return Ok(true);
        };
        let mut cursor = self.log.cursor(Offset::new(before));
        let found = match cursor.next().map_err(ForwarderError::Read)? {
            Some(Item::Batch(batch)) => batch.records().next().map(|r| position::fingerprint(&r)),
            Some(Item::Hole(_)) | None => None,
        };
        Ok(found.is_none_or(|found| found == expected))
    }

    /// The log is an older copy of one that was delivered from: it becomes a log of its own, and
    /// what it holds is sent as such.
    fn restored(&self, offset: Offset) -> Result<(), ForwarderError> {
        let old = self.log.identity();
        if !self.log.renew_identity() {
            return Err(ForwarderError::Identity);
        }
        let (committed, end) = (self.log.committed(), self.received_here_from);
        tracing::error!(
            old, new = self.log.identity(), delivered = %offset, from = %committed, end = %end,
            "the data directory was restored from an old copy: Kafka has had more from this log than \
             it holds. It has a new identity; its undelivered records are sent, and those that Kafka \
             has had under the old identity come a second time"
        );
        Ok(())
    }

    /// Makes it known, in a transaction of its own, that this process has the id (E4).
    fn claim(&mut self) -> Result<(), Obstacle> {
        if !self.claimed && (self.begin(self.floor) == Flow::Break || self.commit() == Flow::Break)
        {
            if self.stop.is_over() {
                return Err(Obstacle::Stop);
            }
            let text = match self.take_failure() {
                Some(Failure::Anew { text, fenced, .. }) => {
                    self.fenced |= fenced;
                    text
                }
                Some(Failure::Abort(trouble)) => trouble.code.to_string(),
                None => "no answer".to_owned(),
            };
            self.forget_open();
            return Err(Obstacle::Passing(format!(
                "no position can be written to the offsets topic: {text}"
            )));
        }
        self.claimed = true;
        self.topic_is_known = true;
        self.fenced = false;
        Ok(())
    }
}

/// A name that no other process has.
pub(super) fn random_name() -> String {
    use std::hash::{BuildHasher, Hasher};
    // The standard library's hash keys are random for each process.
    let hash = std::collections::hash_map::RandomState::new()
        .build_hasher()
        .finish();
    format!("{hash:016x}")
}

pub(super) fn host_name() -> String {
    let name = rustix::system::uname();
    name.nodename().to_string_lossy().into_owned()
}
