//! The parking logs: where the records of a topic wait that takes none, while all other topics go on.
//!
//! A topic that Kafka doesn't know, or forbids us, is no fault of its records: they are neither dropped
//! nor may they hold up others. From the first refusal on, that topic's records, this and all later
//! ones, move in order from the main log to a commit log of the topic's own, small, below
//! `<data_dir>/parking`. When the topic answers they go out first; later ones follow directly once that
//! log is empty. (One log for all topics was rejected: the topic that is refused longest would keep the
//! space of all others.)
//!
//! ```text
//!             refused                          a record is delivered
//!   direct ───────────▶ refused ─ try, 1…30 s ─────────────────▶ returning
//!     ▲                    ▲  ▲─────── refused again ───────────────│ │
//!     └── log empty, all delivered ───────────────────────────────────┘
//! ```
//!
//! - **P1** While a topic is parked, no record of it is sent but from its parking log, in order. So the
//!   order per key holds throughout.
//! - **P2** A record is settled in the main log only once its parking log has synced it.
//! - **P3** A parking log knows the newest offset of the main log that it took ([`entry`]): what is read
//!   again after a crash or an aborted transaction is not parked twice. All records of the topic up to
//!   there are delivered or in the log, since parking begins at the first undelivered one.
//! - **P4** A log leaves the disk when all it took is delivered; in exactly-once delivery that is when
//!   Kafka has a position behind all of it, so nothing of it can be read from the main log again.
//!
//! # When things fail
//! Budget full, too many topics, a log that is poisoned or can't be opened: the forwarder is held back at
//! that topic's next record, order kept, and says so ([`Parking::held`], `/health`). Damage of a parking
//! log is told and counted as damage of the main log is; the marker of the gap goes to the topic itself.
//! None of this stops the start. Crash: the logs are found again at the start and tried at once.
//!
//! With `topic_refused = "dead_letter"` the parked records become dead letters when the topic has been
//! refused for `topic_wait`, and later ones at each try.
//!
//! # Threads
//! All methods may be called from any thread; a lock is held for an append, and while a log is opened or
//! removed. In at-least-once delivery a second thread returns records ([`returning`]); in exactly-once
//! delivery they are part of the forwarder's own transactions.

pub(super) mod entry;
pub(super) mod returning;
mod store;
#[cfg(test)]
mod tests;
mod topic;
pub(super) mod unpark;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::error::RDKafkaErrorCode;

use super::encode::Outgoing;
use crate::clock;
use crate::commit_log::{AppendError, CommitLog, Condition};
use crate::config::{Config, TopicRefused};
use crate::metrics::Metrics;
use crate::record::Offset;
use store::Store;
use topic::{Handover, Log, Topic};

/// Most topics that are parked at one time: each has a thread and files of its own. Names of topics may
/// be made of what devices send.
const TOPICS_MAX: usize = 64;

/// A parked record's way to the disk.
#[derive(Debug)]
pub(super) struct Ticket {
    log: CommitLog,
    offset: Offset,
}

impl Ticket {
    /// Whether it is durable; `None` if it will never be.
    pub(super) fn is_synced(&self) -> Option<bool> {
        let progress = self.log.progress();
        if progress.synced > self.offset {
            return Some(true);
        }
        match progress.condition {
            Condition::Running | Condition::Full => Some(false),
            Condition::Poisoned | Condition::Closed => None,
        }
    }
}

/// What became of a record of a topic.
#[derive(Debug)]
pub(super) enum Take {
    /// The topic is not parked.
    Direct,
    /// In its log, durable when the ticket says so.
    Taken(Ticket),
    /// Not now, but soon: try again.
    Soon,
    /// Not before something changes ([`Parking::held`]): try again.
    Held,
}

/// What holds the forwarder back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The topic whose record is next.
    pub topic: String,
    /// Why it can't be parked.
    pub why: String,
    /// Since when, in milliseconds since the Unix epoch.
    pub since_ms: i64,
}

/// A parked topic, as the status shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParkedTopic {
    /// Its name.
    pub topic: String,
    /// Why Kafka takes none of its records, or why they can't be returned.
    pub why: String,
    /// It takes records again, and they are on their way.
    pub returning: bool,
    /// Records that wait.
    pub records: u64,
    /// Disk space they take.
    pub bytes: u64,
    /// Since when, in milliseconds since the Unix epoch; of a topic found at the start, the start.
    pub since_ms: i64,
}

/// The position of a parking log in Kafka.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct ParkedPosition {
    pub(super) log: String,
    pub(super) offset: u64,
}

/// See the module. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Parking {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    store: Store,
    policy: TopicRefused,
    topic_wait: Duration,
    metrics: Arc<Metrics>,
    /// How many topics are parked: where there are none a record costs one look at this.
    count: AtomicUsize,
    inner: Mutex<Inner>,
    /// A topic has been parked, or who waits for one need not any more.
    begun: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    topics: BTreeMap<String, Topic>,
    held: Option<Held>,
    /// Memory for entries.
    bytes: Vec<u8>,
}

impl Parking {
    /// Finds the logs of parked topics below the data directory. One that can't be opened is told and
    /// tried again; nothing here stops the start.
    #[must_use]
    pub fn open(config: &Config, owner: &str, metrics: Arc<Metrics>) -> Self {
        let store = Store::new(config, owner);
        let found = store.topics().unwrap_or_else(|error| {
            tracing::error!(%error, "the directory of parked topics cannot be read");
            Vec::new()
        });
        let topics = found.into_iter().map(|name| {
            let topic = Topic::found(Log::open(&store, &name, &metrics));
            tracing::info!(
                topic = name,
                records = topic.records(),
                "records of a topic are parked"
            );
            (name, topic)
        });
        let topics: BTreeMap<String, Topic> = topics.collect();
        let parking = Self {
            shared: Arc::new(Shared {
                store,
                policy: config.kafka.topic_refused,
                topic_wait: config.kafka.topic_wait,
                metrics,
                count: AtomicUsize::new(topics.len()),
                inner: Mutex::new(Inner {
                    topics,
                    ..Inner::default()
                }),
                begun: Condvar::new(),
            }),
        };
        parking.publish(&parking.lock());
        parking
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every critical section leaves the state whole at each of its steps.
        let locked = self.shared.inner.lock();
        locked.unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether any topic is parked.
    pub(super) fn has_any(&self) -> bool {
        self.shared.count.load(Ordering::Acquire) > 0
    }

    /// Whether a topic is parked.
    pub(super) fn is_parked(&self, topic: &str) -> bool {
        self.has_any() && self.lock().topics.contains_key(topic)
    }

    /// Parks a topic that was refused, or was refused again. False if it can't be parked: the
    /// forwarder is held back.
    pub(super) fn begin(&self, topic: &str, code: RDKafkaErrorCode) -> bool {
        let mut inner = self.lock();
        if inner.topics.contains_key(topic) {
            inner.refused(topic, code);
            return true;
        }
        let store = &self.shared.store;
        let log = if inner.topics.len() >= TOPICS_MAX {
            Err(format!("{TOPICS_MAX} topics are parked already"))
        } else if !inner.has_room(store) {
            Err(inner.full(store))
        } else {
            match Log::open(store, topic, &self.shared.metrics) {
                Log::Open { log, taken, next } => Ok(Log::Open { log, taken, next }),
                Log::Unavailable { why } => Err(why),
            }
        };
        let log = match log {
            Ok(log) => log,
            Err(why) => {
                inner.hold(topic, why);
                self.publish(&inner);
                return false;
            }
        };
        tracing::warn!(topic, %code, "the topic takes no records: they are parked until it does");
        inner.topics.insert(topic.to_owned(), Topic::new(log, code));
        inner.release(topic);
        self.publish(&inner);
        self.shared.begun.notify_all();
        true
    }

    /// Parks a record of the main log `log` if its topic is parked (P1).
    pub(super) fn take(&self, topic: &str, log: &str, outgoing: &Outgoing<'_>) -> Take {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let has_room = inner.has_room(&self.shared.store);
        let full = || Inner::full_text(self.shared.store.bytes_max);
        let Some(parked) = inner.topics.get_mut(topic) else {
            return Take::Direct;
        };
        let last = outgoing.span().last;
        let why = match parked.take((log, last), outgoing, (has_room, &mut inner.bytes)) {
            topic::Taken::Before(ticket) => {
                inner.release(topic);
                return Take::Taken(ticket);
            }
            topic::Taken::Now(ticket) => {
                self.shared.metrics.parked(topic);
                inner.release(topic);
                self.publish(inner);
                return Take::Taken(ticket);
            }
            topic::Taken::Soon => return Take::Soon,
            topic::Taken::NoRoom => full(),
            topic::Taken::Never(why) => why,
        };
        inner.hold(topic, why);
        self.publish(inner);
        Take::Held
    }

    /// A topic that is to be tried now.
    pub(super) fn due(&self) -> Option<String> {
        if !self.has_any() {
            return None;
        }
        let now = Instant::now();
        let inner = self.lock();
        let due = inner
            .topics
            .iter()
            .filter(|(_, topic)| topic.next_try <= now);
        let first = due.min_by_key(|(_, topic)| topic.next_try);
        first.map(|(name, _)| name.clone())
    }

    /// Waits until a topic may be due, at most `look_interval` while some are parked. Where none are it
    /// sleeps until one is, or [`Parking::wake`] is called once `over` is set.
    pub(super) fn wait(&self, look_interval: Duration, over: &AtomicBool) {
        let inner = self.lock();
        if over.load(Ordering::Acquire) {
            return;
        }
        let begun = &self.shared.begun;
        if inner.topics.is_empty() {
            drop(begun.wait(inner));
        } else {
            drop(begun.wait_timeout(inner, look_interval));
        }
    }

    /// Ends a [`Parking::wait`].
    pub(super) fn wake(&self) {
        // Who waits has looked at `over`, and sleeps, once the lock can be had.
        drop(self.lock());
        self.shared.begun.notify_all();
    }

    /// The log of a topic, to return its records from; opened if it could not be before.
    pub(super) fn log(&self, topic: &str) -> Option<CommitLog> {
        let mut inner = self.lock();
        let parked = inner.topics.get_mut(topic)?;
        parked.reopen(&self.shared.store, topic, &self.shared.metrics)
    }

    /// Whether the topic was refused when it was tried last.
    pub(super) fn is_refused(&self, topic: &str) -> bool {
        let inner = self.lock();
        inner.topics.get(topic).is_some_and(|parked| parked.refused)
    }

    /// The topic was tried in vain. True if its records are to become dead letters.
    pub(super) fn refused(&self, topic: &str, code: RDKafkaErrorCode) -> bool {
        let since = self.lock().refused(topic, code);
        match self.shared.policy {
            TopicRefused::Park => false,
            TopicRefused::DeadLetter => {
                since.is_some_and(|since| since.elapsed() >= self.shared.topic_wait)
            }
        }
    }

    /// The topic is tried again after `pause`.
    pub(super) fn later(&self, topic: &str, pause: Duration) {
        if let Some(parked) = self.lock().topics.get_mut(topic) {
            parked.next_try = Instant::now() + pause;
            parked.handover = Handover::No;
        }
    }

    /// The topic has taken a record.
    pub(super) fn answers(&self, topic: &str) {
        let mut inner = self.lock();
        if let Some(parked) = inner.topics.get_mut(topic)
            && parked.answers()
        {
            tracing::info!(
                topic,
                "the topic takes records again: parked ones are returned"
            );
        }
        self.publish(&inner);
    }

    /// Asks the forwarder to wait at the next record of the topic, for a moment, so that the last parked
    /// ones can go out.
    pub(super) fn hand_over(&self, topic: &str, within: Duration) {
        if let Some(parked) = self.lock().topics.get_mut(topic) {
            parked.hand_over(within);
        }
    }

    /// Ends the parking of a topic if all that was parked is delivered (P4); `floor` is what the log
    /// `log` must have passed, where that matters. True if it has ended.
    pub(super) fn finish(&self, topic: &str, floor: Option<(&str, Offset)>) -> bool {
        let mut inner = self.lock();
        let done = |topic: &Topic| topic.is_returned(floor);
        if !inner.topics.get(topic).is_some_and(done) {
            return false;
        }
        let Some(parked) = inner.topics.remove(topic) else {
            return false;
        };
        parked.close();
        if let Err(error) = self.shared.store.remove(topic) {
            tracing::warn!(topic, %error, "an emptied parking log cannot be removed");
        }
        tracing::info!(topic, "nothing of the topic is parked any more");
        self.publish(&inner);
        true
    }

    /// Whether all that a topic's log took lies below `floor` of the main log `log`.
    pub(super) fn is_below(&self, topic: &str, log: &str, floor: Offset) -> bool {
        let inner = self.lock();
        let parked = inner.topics.get(topic);
        parked.is_none_or(|parked| parked.is_below(log, floor))
    }

    /// Where the returned part of each log ends, for the position in Kafka.
    pub(super) fn positions(&self) -> Vec<ParkedPosition> {
        if self.shared.count.load(Ordering::Acquire) == 0 {
            return Vec::new();
        }
        let inner = self.lock();
        inner.topics.values().filter_map(Topic::position).collect()
    }

    /// Takes over what Kafka says has been returned. A log that ends below its position was restored
    /// from an old copy, as all are if `restored`: it goes on as a log of its own.
    pub(super) fn resume(&self, positions: &[ParkedPosition], restored: bool) {
        let inner = self.lock();
        for (name, topic) in &inner.topics {
            topic.resume(name, positions, restored);
        }
    }

    /// The forwarder moves on.
    pub(super) fn release(&self) {
        if self.shared.metrics.parking_held.get() != 0 {
            let mut inner = self.lock();
            inner.held = None;
            self.publish(&inner);
        }
    }

    /// Closes all logs; what is parked stays. Blocks until done.
    pub fn close(&self) {
        for topic in self.lock().topics.values() {
            topic.close();
        }
    }

    /// What holds the forwarder back, if anything.
    #[must_use]
    pub fn held(&self) -> Option<Held> {
        self.lock().held.clone()
    }

    /// All parked topics, by name.
    #[must_use]
    pub fn topics(&self) -> Vec<ParkedTopic> {
        let inner = self.lock();
        let topics = inner.topics.iter();
        topics.map(|(name, topic)| topic.status(name)).collect()
    }

    /// Disk space that parked records may take.
    #[must_use]
    pub fn bytes_max(&self) -> u64 {
        self.shared.store.bytes_max
    }

    /// Brings metrics, and the look that costs no lock, up to date.
    fn publish(&self, inner: &Inner) {
        let metrics = &self.shared.metrics;
        let level = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let topics = inner.topics.len();
        self.shared.count.store(topics, Ordering::Release);
        metrics.parking_topics.set(level(topics as u64));
        metrics.parking_bytes.set(level(inner.bytes_used()));
        let records = inner.topics.values().map(Topic::records).sum();
        metrics.parking_records.set(level(records));
        metrics.parking_held.set(i64::from(inner.held.is_some()));
    }
}

impl Inner {
    fn bytes_used(&self) -> u64 {
        self.topics.values().map(Topic::disk_bytes).sum()
    }

    /// Any log may begin a new segment.
    fn has_room(&self, store: &Store) -> bool {
        self.bytes_used() + store.segment_bytes <= store.bytes_max
    }

    fn full(&self, store: &Store) -> String {
        Self::full_text(store.bytes_max)
    }

    fn full_text(bytes_max: u64) -> String {
        format!(
            "the budget of parked records is full ([buffer].parking_bytes_max, {bytes_max} bytes)"
        )
    }

    fn refused(&mut self, topic: &str, code: RDKafkaErrorCode) -> Option<Instant> {
        let parked = self.topics.get_mut(topic)?;
        Some(parked.refused_again(code))
    }

    fn hold(&mut self, topic: &str, why: String) {
        if self.held.as_ref().is_some_and(|held| held.topic == topic) {
            return;
        }
        tracing::error!(
            topic,
            why,
            "the forwarder is held back: a record cannot be parked"
        );
        self.held = Some(Held {
            topic: topic.to_owned(),
            why,
            since_ms: clock::wall_ms(),
        });
    }

    fn release(&mut self, topic: &str) {
        if self.held.as_ref().is_some_and(|held| held.topic == topic) {
            tracing::info!(topic, "the forwarder is no longer held back");
            self.held = None;
        }
    }
}
