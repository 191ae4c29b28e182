//! The topic in which exactly-once delivery keeps its position: one compacted record a gateway.
//!
//! A record is read back up to the partition's *uncommitted* end: another gateway's open transaction
//! hides committed records behind the last stable offset, so a `read_committed` reader alone would
//! take an older record for the newest. The end is asked for first, without isolation; then the last
//! stable offset must reach it; then the records are read with isolation, which leaves aborted ones
//! out. (A client's `isolation.level` decides what it is told as the end, so it takes two.)
//!
//! A gateway reads the partition of its id alone, so that the fleet costs it nothing; only where
//! that holds no record of its own, since partitions may have been added, it reads the others too.
//!
//! Blocking calls on the caller's thread, each bounded; nothing is kept between them.

mod inspect;

use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};

use super::murmur2::partition_of;
use super::properties::access;
use super::wait_for;
use crate::config::Config;

pub use inspect::{Found, inspect};

/// Longest wait for one answer, over all tries: a slow link, or a busy cluster.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Longest try: between them a stop is seen.
const TRY_WITHIN: Duration = Duration::from_secs(1);
/// Longest wait for an answer that can be done without.
const POLICY_WITHIN: Duration = Duration::from_secs(3);
/// Longest wait for other gateways' open transactions, and for reading a partition; the caller
/// then tries again.
const READ_WITHIN: Duration = Duration::from_secs(30);
/// How often the last stable offset is looked at, and a stop is seen.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// What a topic of ours gets: enough that a fleet's load is spread. Chosen by eye, not measured.
const PARTITIONS: i32 = 8;
/// Small segments, since only closed ones are compacted: what a start reads stays short.
const TOPIC_CONFIG: [(&str, &str); 3] = [
    (POLICY, COMPACT),
    ("segment.bytes", "16777216"),
    ("segment.ms", "3600000"),
];
const POLICY: &str = "cleanup.policy";
const COMPACT: &str = "compact";

/// The offsets topic cannot be used for now.
#[derive(Debug, thiserror::Error)]
pub enum OffsetsError {
    /// No client: a property that librdkafka refuses.
    #[error("the client that reads the offsets topic cannot be made")]
    Client(#[source] KafkaError),
    /// The cluster does not answer.
    #[error("Kafka does not say where the offsets topic {topic:?} is")]
    NoAnswer {
        /// The topic.
        topic: String,
        /// What the client says.
        #[source]
        source: KafkaError,
    },
    /// We may not see it.
    #[error(
        "Kafka does not allow us to use the offsets topic {topic:?}: grant READ, WRITE and \
         DESCRIBE on it"
    )]
    Forbidden {
        /// The topic.
        topic: String,
        /// Kafka's code.
        #[source]
        code: Code,
    },
    /// It is absent and could not be created.
    #[error(
        "the offsets topic {topic:?} does not exist and Kafka refuses to create it for us: create \
         it with cleanup.policy=compact, or grant CREATE"
    )]
    NotCreated {
        /// The topic.
        topic: String,
        /// Kafka's code.
        #[source]
        code: Code,
    },
    /// It forgets.
    #[error(
        "the offsets topic {topic:?} has cleanup.policy={found}: with time Kafka would delete \
         what exactly-once delivery rests on. Set it to compact"
    )]
    NotCompacted {
        /// The topic.
        topic: String,
        /// Its policy.
        found: String,
    },
    /// Another gateway's transaction hides what comes after it.
    #[error(
        "another gateway's open transaction hides the newest records of {topic:?} partition \
         {partition}: stable up to {stable} of {end}. It ends by itself, in a minute or, by what \
         the cluster allows, in 15"
    )]
    OpenTransaction {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The last stable offset.
        stable: i64,
        /// The uncommitted end.
        end: i64,
    },
    /// Reading failed.
    #[error("cannot read partition {partition} of the offsets topic {topic:?}")]
    Read {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// What the client says.
        #[source]
        source: KafkaError,
    },
    /// The gateway stops.
    #[error("reading the offsets topic was broken off by a stop")]
    Stopped,
}

/// The offsets topic as one gateway uses it.
#[derive(Clone, Debug)]
pub struct OffsetsTopic<'c> {
    config: &'c Config,
    name: &'c str,
    partitions: i32,
    /// The partition of this gateway's record.
    pub partition: i32,
}

impl<'c> OffsetsTopic<'c> {
    /// Finds the topic, creates it if it is absent, and, if it is not `known` to be, checks that it
    /// is compacted. `over` says when to give up.
    ///
    /// # Errors
    /// [`OffsetsError`]: try again later.
    pub fn prepare(
        config: &'c Config,
        name: &'c str,
        known: bool,
        over: &mut dyn FnMut() -> bool,
    ) -> Result<Self, OffsetsError> {
        let admin: AdminClient<DefaultClientContext> =
            access(config).create().map_err(OffsetsError::Client)?;
        // A consumer, since a producer's question creates a topic that is absent, as the broker
        // likes it.
        let asker: BaseConsumer = access(config).create().map_err(OffsetsError::Client)?;
        let partitions = match count_partitions(&asker, name, over)? {
            Some(partitions) if known => partitions,
            Some(partitions) => {
                check_policy(&admin, name)?;
                partitions
            }
            None => create(&admin, name, Creation::Real)?,
        };
        Ok(Self {
            config,
            name,
            partitions,
            partition: partition_of(config.gateway.id.as_bytes(), partitions),
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &'c str {
        self.name
    }

    /// Gives every committed value of this gateway to `take`, oldest first, those of other
    /// partitions than its own only where its own has none. `over` says when to give up.
    ///
    /// # Errors
    /// [`OffsetsError`]; what was taken is then not all.
    pub fn read(
        &self,
        over: &mut dyn FnMut() -> bool,
        take: &mut dyn FnMut(&[u8]),
    ) -> Result<(), OffsetsError> {
        let mut reader = Reader::new(self)?;
        if reader.read(self.partition, over, take)? > 0 {
            return Ok(());
        }
        for partition in (0..self.partitions).filter(|other| *other != self.partition) {
            reader.read(partition, over, take)?;
        }
        Ok(())
    }
}

struct Reader<'t> {
    topic: &'t OffsetsTopic<'t>,
    uncommitted: BaseConsumer,
    committed: BaseConsumer,
}

impl<'t> Reader<'t> {
    fn new(topic: &'t OffsetsTopic<'t>) -> Result<Self, OffsetsError> {
        let consumer = |isolation: &str| {
            let mut client = access(topic.config);
            // A group is asked for though none is joined and nothing is committed.
            client
                .set(
                    "group.id",
                    format!("edge-gateway-{}", topic.config.gateway.id),
                )
                .set("enable.auto.commit", "false")
                .set("enable.partition.eof", "true")
                .set("auto.offset.reset", "error")
                .set("isolation.level", isolation)
                // The leader alone: a follower's end may lie behind.
                .set("client.rack", "")
                .set("queued.max.messages.kbytes", "4096");
            client.create().map_err(OffsetsError::Client)
        };
        Ok(Self {
            topic,
            uncommitted: consumer("read_uncommitted")?,
            committed: consumer("read_committed")?,
        })
    }

    /// Reads one partition; returns how many values of this gateway it had.
    fn read(
        &mut self,
        partition: i32,
        over: &mut dyn FnMut() -> bool,
        take: &mut dyn FnMut(&[u8]),
    ) -> Result<u64, OffsetsError> {
        let (begin, end) = self.watermarks(&self.uncommitted, partition)?;
        if begin >= end {
            return Ok(0);
        }
        self.until_stable(partition, end, over)?;
        let failed = |source| self.failed(partition, source);
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(self.topic.name, partition, Offset::Beginning)
            .map_err(failed)?;
        self.committed.assign(&list).map_err(failed)?;
        let count = self.take_below(end, partition, over, take)?;
        self.committed.unassign().map_err(failed)?;
        Ok(count)
    }

    fn until_stable(
        &self,
        partition: i32,
        end: i64,
        over: &mut dyn FnMut() -> bool,
    ) -> Result<(), OffsetsError> {
        let give_up = Instant::now() + READ_WITHIN;
        let mut told = false;
        loop {
            let (_, stable) = self.watermarks(&self.committed, partition)?;
            if stable >= end {
                return Ok(());
            }
            if over() {
                return Err(OffsetsError::Stopped);
            }
            if Instant::now() >= give_up {
                return Err(OffsetsError::OpenTransaction {
                    topic: self.topic.name.to_owned(),
                    partition,
                    stable,
                    end,
                });
            }
            if !told {
                told = true;
                tracing::info!(
                    topic = self.topic.name,
                    partition,
                    stable,
                    end,
                    "waiting for the open transactions of other gateways"
                );
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
    }

    /// Takes what lies below `end`. A partition that others write to all the time has no end to be
    /// reached: what comes from behind `end` tells as well that all before it was there.
    fn take_below(
        &self,
        end: i64,
        partition: i32,
        over: &mut dyn FnMut() -> bool,
        take: &mut dyn FnMut(&[u8]),
    ) -> Result<u64, OffsetsError> {
        let key = self.topic.config.gateway.id.as_bytes();
        let give_up = Instant::now() + READ_WITHIN;
        let mut count = 0;
        loop {
            match self.committed.poll(LOOK_INTERVAL) {
                Some(Ok(message)) if message.partition() != partition => {}
                Some(Ok(message)) => {
                    if message.key() == Some(key)
                        && let Some(value) = message.payload()
                    {
                        take(value);
                        count += 1;
                    }
                    if message.offset() + 1 >= end {
                        return Ok(count);
                    }
                }
                // Where the last ones below are markers or were aborted. The end as a
                // `read_committed` reader sees it is not below the one asked for.
                Some(Err(KafkaError::PartitionEOF(ended))) if ended == partition => {
                    return Ok(count);
                }
                Some(Err(error)) if is_of_the_partition(&error) => {
                    return Err(self.failed(partition, error));
                }
                // Connections that come and go.
                Some(Err(_)) | None => {}
            }
            if over() {
                return Err(OffsetsError::Stopped);
            }
            if Instant::now() >= give_up {
                let source = KafkaError::NoMessageReceived;
                return Err(self.failed(partition, source));
            }
        }
    }

    fn watermarks(
        &self,
        consumer: &BaseConsumer,
        partition: i32,
    ) -> Result<(i64, i64), OffsetsError> {
        let found = consumer.fetch_watermarks(self.topic.name, partition, ANSWER_WITHIN);
        found.map_err(|error| self.failed(partition, error))
    }

    fn failed(&self, partition: i32, source: KafkaError) -> OffsetsError {
        let topic = self.topic.name.to_owned();
        match source.rdkafka_error_code() {
            Some(code @ Code::TopicAuthorizationFailed) => OffsetsError::Forbidden { topic, code },
            Some(_) | None => OffsetsError::Read {
                topic,
                partition,
                source,
            },
        }
    }
}

/// Errors that a fetch of the partition has met, as opposed to those of connections and the group.
fn is_of_the_partition(error: &KafkaError) -> bool {
    let codes = [
        Code::TopicAuthorizationFailed,
        Code::UnknownTopicOrPartition,
        Code::UnknownTopic,
        Code::UnknownPartition,
        Code::AutoOffsetReset,
        Code::OffsetOutOfRange,
    ];
    error
        .rdkafka_error_code()
        .is_some_and(|code| codes.contains(&code))
}

/// How many partitions the topic has; `None` if it does not exist.
fn count_partitions(
    asker: &BaseConsumer,
    topic: &str,
    over: &mut dyn FnMut() -> bool,
) -> Result<Option<i32>, OffsetsError> {
    let name = || topic.to_owned();
    let give_up = Instant::now() + ANSWER_WITHIN;
    let metadata = loop {
        match asker.fetch_metadata(Some(topic), TRY_WITHIN) {
            Ok(metadata) => break metadata,
            Err(_) if over() => return Err(OffsetsError::Stopped),
            Err(source) if Instant::now() >= give_up => {
                let topic = name();
                return Err(OffsetsError::NoAnswer { topic, source });
            }
            // Where no broker is connected yet the client says so at once.
            Err(_) => std::thread::sleep(LOOK_INTERVAL),
        }
    };
    let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else {
        return Ok(None);
    };
    match found.error().map(Code::from) {
        Some(code @ (Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed)) => {
            Err(OffsetsError::Forbidden {
                topic: name(),
                code,
            })
        }
        Some(Code::UnknownTopicOrPartition | Code::UnknownTopic) => Ok(None),
        Some(code) => Err(OffsetsError::NoAnswer {
            topic: name(),
            source: KafkaError::MetadataFetch(code),
        }),
        None => {
            let count = i32::try_from(found.partitions().len()).unwrap_or(i32::MAX);
            Ok((count > 0).then_some(count))
        }
    }
}

/// Whether a topic is to be there afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Creation {
    Real,
    /// Kafka says whether it would do it.
    Trial,
}

fn create(
    admin: &AdminClient<DefaultClientContext>,
    topic: &str,
    creation: Creation,
) -> Result<i32, OffsetsError> {
    // -1: as many replicas as the cluster gives by default.
    let mut new = NewTopic::new(topic, PARTITIONS, TopicReplication::Fixed(-1));
    for (key, value) in TOPIC_CONFIG {
        new = new.set(key, value);
    }
    let options = options(ANSWER_WITHIN).validate_only(creation == Creation::Trial);
    let created = wait_for(admin.create_topics([&new], &options));
    let no_answer = |source| OffsetsError::NoAnswer {
        topic: topic.to_owned(),
        source,
    };
    let results = created.map_err(no_answer)?;
    match results.into_iter().next() {
        Some(Err((_, Code::TopicAlreadyExists))) | None => Err(no_answer(
            KafkaError::MetadataFetch(Code::TopicAlreadyExists),
        )),
        Some(Err((_, code))) => Err(OffsetsError::NotCreated {
            topic: topic.to_owned(),
            code,
        }),
        Some(Ok(_)) => {
            if creation == Creation::Real {
                tracing::info!(topic, partitions = PARTITIONS, "offsets topic created");
            }
            Ok(PARTITIONS)
        }
    }
}

/// What is known of the topic's cleanup policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Policy {
    /// It is as it must be.
    Compact,
    /// Kafka does not let us see it: the operator's word is taken for it.
    Unseen,
}

fn check_policy(
    admin: &AdminClient<DefaultClientContext>,
    topic: &str,
) -> Result<Policy, OffsetsError> {
    let described = wait_for(
        admin.describe_configs([&ResourceSpecifier::Topic(topic)], &options(POLICY_WITHIN)),
    );
    let described = described.map(|mut results| results.pop());
    let policy = match &described {
        Ok(Some(Ok(resource))) => resource.get(POLICY).and_then(|entry| entry.value.clone()),
        Ok(Some(Err(code))) => {
            tracing::info!(topic, %code, "whether the offsets topic is compacted cannot be seen");
            None
        }
        Ok(None) => None,
        Err(error) => {
            tracing::info!(topic, %error, "whether the offsets topic is compacted cannot be seen");
            None
        }
    };
    match policy {
        Some(found) if found != COMPACT => Err(OffsetsError::NotCompacted {
            topic: topic.to_owned(),
            found,
        }),
        Some(_) => Ok(Policy::Compact),
        None => Ok(Policy::Unseen),
    }
}

fn options(within: Duration) -> AdminOptions {
    AdminOptions::new()
        .request_timeout(Some(within))
        .operation_timeout(Some(within))
}
