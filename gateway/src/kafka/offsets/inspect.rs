//! Whether the offsets topic is fit for use, without changing it: for `check --connect`, beside a
//! gateway that may be running.
//!
//! Reading shows itself. Creating is asked for as a trial, which Kafka answers and does not do. For
//! writing there is no such trial; but a compacted topic takes no record without a key, and Kafka says
//! so only to who may write.

use std::sync::Arc;
use std::time::Instant;

use rdkafka::admin::AdminClient;
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::BaseConsumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use super::{ANSWER_WITHIN, Creation, LOOK_INTERVAL, OffsetsError, OffsetsTopic, Policy, access};
use super::{check_policy, count_partitions, create, partition_of};
use crate::config::Config;
use crate::kafka::{Message, Mode, Producer};
use crate::metrics::Metrics;

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing: the gateway will create it, and may.
    Absent,
    /// A topic that it can read and write.
    Ready,
    /// One that it can read. What may be said of the rest Kafka does not show us.
    Readable,
}

/// Looks at the topic `name` as a gateway's first contact would.
///
/// # Errors
/// [`OffsetsError`]: what keeps exactly-once delivery from beginning.
pub fn inspect(config: &Config, name: &str) -> Result<Found, OffsetsError> {
    let mut never = || false;
    let admin: AdminClient<DefaultClientContext> =
        access(config).create().map_err(OffsetsError::Client)?;
    let asker: BaseConsumer = access(config).create().map_err(OffsetsError::Client)?;
    let Some(partitions) = count_partitions(&asker, name, &mut never)? else {
        create(&admin, name, Creation::Trial)?;
        return Ok(Found::Absent);
    };
    let policy = check_policy(&admin, name)?;
    let topic = OffsetsTopic {
        config,
        name,
        partitions,
        partition: partition_of(config.gateway.id.as_bytes(), partitions),
    };
    topic.read(&mut never, &mut |_| {})?;
    match policy {
        Policy::Compact => topic.may_be_written().map(|()| Found::Ready),
        Policy::Unseen => Ok(Found::Readable),
    }
}

impl OffsetsTopic<'_> {
    /// Sends what a compacted topic does not take.
    fn may_be_written(&self) -> Result<(), OffsetsError> {
        let metrics = Arc::new(Metrics::new());
        let producer =
            Producer::new(self.config, Mode::Single, metrics).map_err(OffsetsError::Client)?;
        let message = Message {
            topic: self.name,
            key: None,
            value: b"",
            timestamp_ms: None,
            headers: None,
        };
        let sent = producer.send_to(Some(self.partition), message, 0);
        match sent.map_err(|refused| refused.code) {
            Ok(()) => {}
            Err(code) => return Err(self.not_written(code)),
        }
        let give_up = Instant::now() + ANSWER_WITHIN;
        let mut reports = Vec::new();
        loop {
            producer.serve(&mut reports);
            match reports.first().map(|report| report.error) {
                Some(Some(Code::InvalidRecord) | None) => return Ok(()),
                Some(Some(code)) => return Err(self.not_written(code)),
                None if Instant::now() >= give_up => {
                    return Err(self.not_written(Code::MessageTimedOut));
                }
                None => std::thread::sleep(LOOK_INTERVAL),
            }
        }
    }

    fn not_written(&self, code: Code) -> OffsetsError {
        let topic = self.name.to_owned();
        match code {
            Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed => {
                OffsetsError::Forbidden { topic, code }
            }
            code => OffsetsError::NoAnswer {
                topic,
                source: KafkaError::MessageProduction(code),
            },
        }
    }
}
