//! `check --connect`: whether every endpoint answers, without disturbing a gateway that runs.
//!
//! An MQTT broker is asked with a client id of its own and a clean session, so that the gateway's
//! session stays as it is. Kafka is asked for its metadata. A serial port is opened and closed.
//! Each attempt ends within [`TIMEOUT`]; all of it blocks the calling thread.

mod kafka;
mod mqtt;

use std::time::Duration;

use crate::config::{Config, Source, SourceKind};
use crate::source;
use crate::source::serial::port::OpenError;

/// Longest wait for one answer. Chosen by eye: a broker that takes longer is not healthy.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Why an endpoint is no good.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The serial port cannot be opened.
    #[error(transparent)]
    Serial(#[from] OpenError),
    /// The MQTT broker did not take the connection.
    #[error(transparent)]
    Mqtt(#[from] mqtt::MqttProbeError),
    /// Kafka did not answer.
    #[error(transparent)]
    Kafka(#[from] kafka::KafkaProbeError),
}

/// Tries all endpoints in turn; each with its name and what came of it.
pub fn all(config: &Config) -> impl Iterator<Item = (String, Result<String, ProbeError>)> {
    let sources = config
        .sources
        .iter()
        .map(|source| (format!("source {}", source.name), probe(source)));
    let kafka = std::iter::once_with(|| {
        let answer = kafka::probe(&config.kafka).map_err(ProbeError::from);
        ("kafka".to_owned(), answer)
    });
    sources.chain(kafka)
}

fn probe(source: &Source) -> Result<String, ProbeError> {
    match &source.kind {
        SourceKind::Serial(serial) => Ok(source::serial::port::probe(serial)?),
        SourceKind::Mqtt(mqtt) => Ok(mqtt::probe(mqtt)?),
    }
}
