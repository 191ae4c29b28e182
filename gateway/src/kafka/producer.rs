//! The idempotent producer. What it has of transactions is in `transactions`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::config::FromClientConfigAndContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::OwnedHeaders;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, PurgeConfig};

use super::context::{Context, Report};
use super::{Mode, properties};
use crate::config::Config;
use crate::metrics::Metrics;

/// Most events served in one go, so that a flood of log lines cannot keep the caller.
const EVENTS_SERVED_MAX: u32 = 64;

/// What Kafka's record format has for a record without a timestamp (its `RecordBatch` format's
/// `NO_TIMESTAMP`): a broker neither refuses it for its age nor expires it by it. Left out,
/// librdkafka would put the board's own clock there.
const NO_TIMESTAMP: i64 = -1;

/// A message as librdkafka takes it. It copies what is borrowed here.
#[derive(Debug)]
pub struct Message<'a> {
    /// Topic.
    pub topic: &'a str,
    /// Key; `None` for a message without one.
    pub key: Option<&'a str>,
    /// Value; empty rather than null where there is nothing.
    pub value: &'a [u8],
    /// Milliseconds since the Unix epoch; `None` for a record without a time of its own.
    pub timestamp_ms: Option<i64>,
    /// Headers, if any.
    pub headers: Option<OwnedHeaders>,
}

/// The message was not taken, and will get no report.
#[derive(Debug)]
pub struct SendRefused<'a> {
    /// Why.
    pub code: RDKafkaErrorCode,
    /// The message, unchanged.
    pub message: Message<'a>,
}

/// An idempotent producer. It belongs to one thread. Dropping it gives up what is in flight: that
/// may be delivered or not.
pub struct Producer {
    pub(super) inner: BaseProducer<Context>,
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer")
            .field("in_flight", &self.inner.in_flight_count())
            .finish()
    }
}

impl Producer {
    /// Makes a producer. It connects by itself; nothing is waited for.
    ///
    /// # Errors
    /// A property that librdkafka refuses.
    pub fn new(config: &Config, mode: Mode, metrics: Arc<Metrics>) -> Result<Self, KafkaError> {
        let inner = BaseProducer::from_config_and_context(
            &properties(config, mode),
            Context::new(metrics),
        )?;
        Ok(Self { inner })
    }

    /// Hands over a message, which is then in flight: neither sent nor delivered.
    ///
    /// # Errors
    /// [`SendRefused`]: nothing was taken. [`RDKafkaErrorCode::QueueFull`] ends when reports have
    /// been served; for the others see [`class`](super::class).
    #[allow(clippy::result_large_err)] // the message goes back to its owner, on a path never hot
    pub fn send<'a>(&self, message: Message<'a>, opaque: usize) -> Result<(), SendRefused<'a>> {
        self.send_to(None, message, opaque)
    }

    /// Like [`Producer::send`], to a partition of the caller's choice.
    ///
    /// # Errors
    /// As [`Producer::send`].
    #[allow(clippy::result_large_err)] // as above
    pub fn send_to<'a>(
        &self,
        partition: Option<i32>,
        message: Message<'a>,
        opaque: usize,
    ) -> Result<(), SendRefused<'a>> {
        let record = BaseRecord {
            topic: message.topic,
            partition,
            payload: Some(message.value),
            key: message.key,
            timestamp: Some(message.timestamp_ms.unwrap_or(NO_TIMESTAMP)),
            headers: message.headers,
            delivery_opaque: opaque,
        };
        self.inner
            .send(record)
            .map_err(|(error, record)| SendRefused {
                code: match error {
                    // Only a topic is made a C string of.
                    KafkaError::Nul(_) => RDKafkaErrorCode::InvalidTopic,
                    other => other
                        .rdkafka_error_code()
                        .unwrap_or(RDKafkaErrorCode::Unknown),
                },
                message: Message {
                    topic: message.topic,
                    key: message.key,
                    value: message.value,
                    timestamp_ms: message.timestamp_ms,
                    headers: record.headers,
                },
            })
    }

    /// Serves what librdkafka has to tell, without waiting, and adds the delivery reports to
    /// `reports`.
    pub fn serve(&self, reports: &mut Vec<Report>) {
        let context = self.inner.context();
        for _ in 0..EVENTS_SERVED_MAX {
            let before = context.events();
            self.inner.poll(Duration::ZERO);
            if context.events() == before {
                break;
            }
        }
        context.take_reports(reports);
    }

    /// What the cluster has against a topic, or why it did not say: `None` if the topic can be seen.
    /// Whether it can be written to only a message tells. Blocks for at most `within`.
    #[must_use]
    pub fn topic_error(&self, topic: &str, within: Duration) -> Option<RDKafkaErrorCode> {
        match self.inner.client().fetch_metadata(Some(topic), within) {
            Ok(metadata) => {
                let found = metadata.topics().iter().find(|known| known.name() == topic);
                found.and_then(|known| known.error().map(RDKafkaErrorCode::from))
            }
            Err(error) => {
                let code = error.rdkafka_error_code();
                Some(code.unwrap_or(RDKafkaErrorCode::Unknown))
            }
        }
    }

    /// The producer has stopped for good: what is still in flight gets its reports, nothing else
    /// is sent.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        self.inner.context().is_fatal()
    }

    /// Gives up messages that were not sent yet; their reports follow.
    pub fn purge_queued(&self) {
        self.inner.purge(PurgeConfig::default().queue());
    }

    /// Gives up all messages; their reports follow. Those on their way may be delivered all the
    /// same.
    pub fn purge_all(&self) {
        self.inner.purge(PurgeConfig::default().queue().inflight());
    }
}
