//! The producer of copies that nothing rests on: what it can't deliver is counted and given up, so
//! that it never waits for anybody.

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use rdkafka::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};

use super::producer::Message;
use super::properties::access;
use crate::config::Config;

type Count = Counter<u64, AtomicU64>;

/// How long a copy is tried.
const PATIENCE_MS: &str = "300000";
/// What waits for Kafka, in KiB and messages: beyond it copies are given up at once.
const QUEUE_KBYTES_MAX: &str = "8192";
const QUEUE_MESSAGES_MAX: &str = "10000";
/// Most events served in one go.
const EVENTS_SERVED_MAX: u32 = 64;

/// See the module. It belongs to one thread.
pub struct CopyProducer {
    inner: BaseProducer<Outcomes>,
}

impl fmt::Debug for CopyProducer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CopyProducer")
            .field("in_flight", &self.in_flight())
            .finish()
    }
}

/// Counts what became of copies.
struct Outcomes {
    delivered: Count,
    failed: Count,
}

impl ClientContext for Outcomes {
    // The forwarder's producer tells of the cluster; this one's troubles are counted.
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::trace!(target: "librdkafka", facility, "copies: {message}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "the producer of copies reports");
    }
}

impl ProducerContext for Outcomes {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        match result {
            Ok(_) => self.delivered.inc(),
            Err((error, _)) => {
                tracing::debug!(%error, "the copy of a dead letter was not delivered");
                self.failed.inc()
            }
        };
    }
}

impl CopyProducer {
    /// Makes a producer that counts what becomes of its messages. It connects by itself.
    ///
    /// # Errors
    /// A property that librdkafka refuses.
    pub fn new(config: &Config, delivered: Count, failed: Count) -> Result<Self, KafkaError> {
        let mut client = access(config);
        client
            .set("acks", "all")
            .set("enable.idempotence", "false")
            .set("message.timeout.ms", PATIENCE_MS)
            .set("compression.codec", &config.kafka.compression)
            .set("queue.buffering.max.kbytes", QUEUE_KBYTES_MAX)
            .set("queue.buffering.max.messages", QUEUE_MESSAGES_MAX)
            .set("partitioner", "murmur2_random");
        let outcomes = Outcomes { delivered, failed };
        let inner = BaseProducer::from_config_and_context(&client, outcomes)?;
        Ok(Self { inner })
    }

    /// Hands over a message. False if it was not taken.
    #[must_use]
    pub fn send(&self, message: Message<'_>) -> bool {
        let record = BaseRecord {
            topic: message.topic,
            partition: None,
            payload: Some(message.value),
            key: message.key,
            timestamp: message.timestamp_ms,
            headers: message.headers,
            delivery_opaque: (),
        };
        self.inner.send(record).is_ok()
    }

    /// Messages without a report.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        usize::try_from(self.inner.in_flight_count()).unwrap_or(0)
    }

    /// Takes the reports that have come, without waiting.
    pub fn serve(&self) {
        for _ in 0..EVENTS_SERVED_MAX {
            self.inner.poll(Duration::ZERO);
        }
    }
}
