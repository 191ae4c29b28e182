//! Asks Kafka for its metadata, with the properties of the configuration.

use std::sync::Mutex;

use rdkafka::error::KafkaError;
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, Producer, ProducerContext};
use rdkafka::{ClientConfig, ClientContext};

use super::TIMEOUT;
use crate::config::Kafka;

/// Kafka did not answer.
#[derive(Debug, thiserror::Error)]
pub enum KafkaProbeError {
    /// The client refuses the properties.
    #[error("the Kafka client cannot be made")]
    Client(#[source] KafkaError),
    /// No broker answered.
    #[error("no broker answered{}", reason(reasons))]
    NoAnswer {
        /// What the client said of its attempts.
        reasons: Vec<String>,
        /// How the request ended.
        #[source]
        source: KafkaError,
    },
}

fn reason(reasons: &[String]) -> String {
    reasons
        .first()
        .map_or(String::new(), |reason| format!(" ({reason})"))
}

/// Keeps what the client says of failed connections: the request itself only times out.
#[derive(Default)]
struct Listener {
    reasons: Mutex<Vec<String>>,
}

impl ClientContext for Listener {
    fn error(&self, _error: KafkaError, reason: &str) {
        if let Ok(mut reasons) = self.reasons.lock() {
            reasons.push(reason.to_owned());
        }
    }
}

impl ProducerContext for Listener {
    type DeliveryOpaque = ();

    fn delivery(&self, _result: &DeliveryResult<'_>, _opaque: ()) {}
}

/// Says how many brokers there are.
pub(super) fn probe(kafka: &Kafka) -> Result<String, KafkaProbeError> {
    let mut client = ClientConfig::new();
    for (name, value) in &kafka.properties {
        client.set(name, value);
    }
    client.set("bootstrap.servers", kafka.brokers.join(","));
    let producer: BaseProducer<Listener> = client
        .create_with_context(Listener::default())
        .map_err(KafkaProbeError::Client)?;
    match producer.client().fetch_metadata(None, TIMEOUT) {
        Ok(metadata) => Ok(format!("{} broker(s)", metadata.brokers().len())),
        Err(source) => {
            // Errors of connections wait to be handed out by a poll.
            producer.poll(TIMEOUT / 50);
            let reasons = producer.context().reasons.lock();
            let reasons = reasons.map(|reasons| reasons.clone()).unwrap_or_default();
            Err(KafkaProbeError::NoAnswer { reasons, source })
        }
    }
}
