//! Reads Kafka back and counts what arrived.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::{Offset, TopicPartitionList};

use crate::tally::{Counts, Tally};

const METADATA_WITHIN: Duration = Duration::from_secs(20);

/// A record as a consumer gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// Milliseconds since the Unix epoch, if it has a timestamp.
    pub timestamp_ms: Option<i64>,
    /// Key.
    pub key: Option<Vec<u8>>,
    /// Value; `None` is Kafka's null.
    pub value: Option<Vec<u8>>,
    /// Headers by name.
    pub headers: HashMap<String, String>,
}

/// A consumer of whole topics from their beginnings, with a [`Tally`] a topic.
pub struct Oracle {
    consumer: BaseConsumer,
    tallies: HashMap<String, Tally>,
}

impl std::fmt::Debug for Oracle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Oracle")
            .field("tallies", &self.tallies)
            .finish_non_exhaustive()
    }
}

impl Oracle {
    /// Reads `topics`, which exist, of the cluster at `bootstrap`.
    ///
    /// # Panics
    /// If the cluster does not say where the topics are.
    #[must_use]
    pub fn new(bootstrap: &str, topics: &[&str]) -> Self {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap)
            .set("group.id", "oracle")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "false")
            .set("isolation.level", "read_committed")
            .set("auto.offset.reset", "error")
            .set("queued.max.messages.kbytes", "16384")
            .set("reconnect.backoff.max.ms", "1000")
            .set("log_level", "2")
            .create()
            .expect("the settings are valid");
        let mut assignment = TopicPartitionList::new();
        for topic in topics {
            for partition in partitions(&consumer, topic) {
                assignment
                    .add_partition_offset(topic, partition, Offset::Beginning)
                    .expect("the offset is valid");
            }
        }
        consumer.assign(&assignment).expect("the list is valid");
        let tallies = topics
            .iter()
            .map(|topic| ((*topic).to_owned(), Tally::default()))
            .collect();
        Self { consumer, tallies }
    }

    /// What has been counted in `topic`.
    ///
    /// # Panics
    /// If `topic` is not one of those read.
    #[must_use]
    pub fn counts(&self, topic: &str) -> Counts {
        self.tallies
            .get(topic)
            .expect("a topic that is read")
            .counts()
    }

    /// Takes what has arrived, for at most `within`; returns how many records.
    pub fn read_for(&mut self, within: Duration) -> u64 {
        let deadline = Instant::now() + within;
        let mut records = 0;
        while let Some(message) = next(&self.consumer, deadline) {
            let topic = message.topic();
            let tally = self
                .tallies
                .get_mut(topic)
                .expect("only these are assigned");
            let payload = message.payload().unwrap_or_default();
            tally.enter(message.partition(), payload, id(&message));
            records += 1;
        }
        records
    }

    /// Reads until `topic` has `sent` different records, then once more whatever follows within a
    /// second, and checks that none is lost, out of order, of another partition or beyond reading.
    /// Returns the counts: duplicates are for the caller to judge.
    ///
    /// # Panics
    /// If one is, or the records do not arrive `within` that time.
    pub fn expect_all(&mut self, topic: &str, sent: u64, within: Duration) -> Counts {
        let deadline = Instant::now() + within;
        while self.counts(topic).distinct < sent {
            let counts = self.counts(topic);
            assert!(
                Instant::now() < deadline,
                "{topic}: {} of {sent} records lost: {counts:?}",
                sent - counts.distinct
            );
            self.read_for(Duration::from_millis(200));
        }
        self.read_for(Duration::from_secs(1));
        let counts = self.counts(topic);
        let verdict = Counts {
            records: counts.records,
            duplicates: counts.duplicates,
            stored_again: counts.stored_again,
            devices: counts.devices,
            distinct: sent,
            ..Counts::default()
        };
        assert_eq!(counts, verdict, "{topic}: {sent} sent");
        counts
    }

    /// Reads `count` records as they are, without counting them.
    ///
    /// # Panics
    /// If they do not arrive `within` that time.
    pub fn take(&mut self, count: usize, within: Duration) -> Vec<Received> {
        let deadline = Instant::now() + within;
        let mut taken = Vec::new();
        while taken.len() < count {
            let Some(message) = next(&self.consumer, deadline) else {
                panic!(
                    "{} of {count} records within {within:?}: {taken:?}",
                    taken.len()
                );
            };
            taken.push(received(&message));
        }
        taken
    }
}

/// The next record; errors of the connection are waited through.
fn next(consumer: &BaseConsumer, deadline: Instant) -> Option<BorrowedMessage<'_>> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match consumer.poll(left) {
            Some(Ok(message)) => return Some(message),
            Some(Err(_)) if !left.is_zero() => {}
            Some(Err(_)) | None => return None,
        }
    }
}

/// The id that the gateway gave a record.
fn id<'m>(message: &'m BorrowedMessage<'_>) -> Option<&'m [u8]> {
    let headers = message.headers()?;
    headers
        .iter()
        .find(|header| header.key == "ce_id")
        .and_then(|header| header.value)
}

fn received(message: &BorrowedMessage<'_>) -> Received {
    let mut headers = HashMap::new();
    if let Some(all) = message.headers() {
        for header in all.iter() {
            let value = String::from_utf8_lossy(header.value.unwrap_or_default());
            headers.insert(header.key.to_owned(), value.into_owned());
        }
    }
    Received {
        topic: message.topic().to_owned(),
        partition: message.partition(),
        timestamp_ms: message.timestamp().to_millis(),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        headers,
    }
}

fn partitions(consumer: &BaseConsumer, topic: &str) -> Vec<i32> {
    let metadata = consumer
        .fetch_metadata(Some(topic), METADATA_WITHIN)
        .unwrap_or_else(|e| panic!("metadata of {topic}: {e}"));
    let known = metadata.topics().iter().find(|t| t.name() == topic);
    let ids: Vec<i32> = known
        .map(|t| t.partitions().iter().map(|p| p.id()).collect())
        .unwrap_or_default();
    assert!(!ids.is_empty(), "topic {topic} does not exist");
    ids
}
