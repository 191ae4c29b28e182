//! Counts records by their `ce_id`, which names the gateway's log and the offset in it: the measure of
//! exactly-once delivery, whatever the senders repeat.
//!
//! Offsets are in the order of receipt. So each must be there once, and those of one key must ascend.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};

/// What was counted of one log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IdCounts {
    /// Different offsets.
    pub distinct: u64,
    /// Records whose offset was seen before.
    pub duplicates: u64,
    /// Records below another one of their key.
    pub out_of_order: u64,
    /// Offset behind the highest.
    pub end: u64,
}

#[derive(Debug, Default)]
struct Log {
    counts: IdCounts,
    seen: Vec<bool>,
    highest_by_key: HashMap<Vec<u8>, u64>,
}

/// A member of a consumer group of its own, isolated from open and aborted transactions.
pub struct CeIds {
    consumer: BaseConsumer,
    logs: BTreeMap<String, Log>,
    unreadable: u64,
    /// By partition, behind what was read: a group that begins anew reads some of it again.
    positions: HashMap<i32, i64>,
}

impl std::fmt::Debug for CeIds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CeIds")
            .field("logs", &self.logs.keys())
            .finish_non_exhaustive()
    }
}

impl CeIds {
    /// Joins the group `group` and reads `topic` from its beginning.
    ///
    /// # Panics
    /// If the client cannot be made.
    #[must_use]
    pub fn new(bootstrap: &str, group: &str, topic: &str) -> Self {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap)
            .set("group.id", group)
            .set("auto.offset.reset", "earliest")
            .set("isolation.level", "read_committed")
            .set("queued.max.messages.kbytes", "16384")
            .set("reconnect.backoff.max.ms", "1000")
            .set("session.timeout.ms", "60000")
            .set("log_level", "2")
            .create()
            .expect("the settings are valid");
        consumer.subscribe(&[topic]).expect("a topic is valid");
        Self {
            consumer,
            logs: BTreeMap::new(),
            unreadable: 0,
            positions: HashMap::new(),
        }
    }

    /// Takes what arrives for `time`.
    pub fn read_for(&mut self, time: Duration) {
        let deadline = Instant::now() + time;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.consumer.poll(left) {
                Some(Ok(message)) => {
                    let position = self.positions.entry(message.partition()).or_insert(0);
                    if message.offset() < *position {
                        continue;
                    }
                    *position = message.offset() + 1;
                    match ce_id(&message) {
                        Some((log, offset)) => {
                            let key = message.key().unwrap_or_default();
                            self.logs.entry(log).or_default().enter(key, offset);
                        }
                        None => self.unreadable += 1,
                    }
                }
                Some(Err(_)) if !left.is_zero() => {}
                Some(Err(_)) | None => return,
            }
        }
    }

    /// Counts of each log, by its identity.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<String, IdCounts> {
        let logs = self.logs.iter();
        logs.map(|(name, log)| (name.clone(), log.counts)).collect()
    }

    /// The counts of the only log there is, once it has at least `sent` different offsets and whatever
    /// follows within a second; in order. Duplicates are for the caller to judge. (Offsets that hold no
    /// record for Kafka are not there, so what is lost is told by an [`Oracle`](crate::oracle::Oracle).)
    ///
    /// # Panics
    /// If they are not there `within` that time, or not in order, or of several logs.
    pub fn expect_all(&mut self, sent: u64, within: Duration) -> IdCounts {
        let deadline = Instant::now() + within;
        let distinct = |ids: &Self| {
            ids.logs
                .values()
                .map(|log| log.counts.distinct)
                .sum::<u64>()
        };
        while distinct(self) < sent {
            let found = distinct(self);
            assert!(Instant::now() < deadline, "{found} of {sent} records");
            self.read_for(Duration::from_millis(200));
        }
        self.read_for(Duration::from_secs(1));
        let counts = self.counts();
        assert_eq!((counts.len(), self.unreadable), (1, 0), "{counts:?}");
        let counts = counts.into_values().next().expect("one");
        assert_eq!(counts.out_of_order, 0, "{counts:?}");
        counts
    }
}

impl Log {
    fn enter(&mut self, key: &[u8], offset: u64) {
        let index = usize::try_from(offset).expect("a test's log is short");
        if self.seen.len() <= index {
            self.seen.resize(index + 1, false);
        }
        if std::mem::replace(&mut self.seen[index], true) {
            self.counts.duplicates += 1;
            return;
        }
        self.counts.distinct += 1;
        self.counts.end = self.counts.end.max(offset + 1);
        let highest = self.highest_by_key.entry(key.to_vec()).or_insert(offset);
        self.counts.out_of_order += u64::from(offset < *highest);
        *highest = offset.max(*highest);
    }
}

/// Log identity and offset.
fn ce_id(message: &BorrowedMessage<'_>) -> Option<(String, u64)> {
    let mut headers = message.headers()?.iter();
    let value = headers.find(|header| header.key == "ce_id")?.value?;
    let mut parts = std::str::from_utf8(value).ok()?.rsplitn(3, ':');
    let offset = parts.next()?.parse().ok()?;
    Some((parts.next()?.to_owned(), offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_offset_counts_once_and_those_of_a_key_ascend() {
        let mut log = Log::default();
        for (key, offset) in [("a", 0), ("b", 2), ("a", 1), ("b", 2), ("a", 4), ("a", 3)] {
            log.enter(key.as_bytes(), offset);
        }
        let expected = IdCounts {
            distinct: 5,
            duplicates: 1,
            out_of_order: 1,
            end: 5,
        };
        assert_eq!(log.counts, expected);
    }
}
