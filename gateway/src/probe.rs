//! `check --connect`: whether every endpoint answers, without disturbing a gateway that runs.
//!
//! An MQTT broker is asked with a client id of its own and a clean session, so that the gateway's
//! session stays as it is. Kafka is asked for its metadata. A serial port is opened and closed,
//! and a Modbus server connected to; units are asked nothing.
//! With `exactly_once` it is asked for the transactional id too, which a running gateway keeps, and
//! for the offsets topic, which stays as it is.
//! Each answer is waited for within [`TIMEOUT`]; all of it blocks the calling thread.

mod kafka;
#[cfg(feature = "mqtt")]
mod mqtt;

use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use crate::config::{Bus, BusKind, Config, Delivery, Source, SourceKind, TcpAddress};
use crate::kafka::offsets::{self, Found, OffsetsError};
use crate::kafka::rights::{self, RightsError};
#[cfg(feature = "serial")]
use crate::source::serial::port::{self, OpenError, Settings};

/// Longest wait for one answer. Chosen by eye: a broker that takes longer is not healthy.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Why an endpoint is no good.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The serial port cannot be opened.
    #[cfg(feature = "serial")]
    #[error(transparent)]
    Serial(#[from] OpenError),
    /// The MQTT broker did not take the connection.
    #[cfg(feature = "mqtt")]
    #[error(transparent)]
    Mqtt(#[from] mqtt::MqttProbeError),
    /// The Modbus server took no connection.
    #[error("cannot connect to the Modbus server")]
    Modbus(#[source] std::io::Error),
    /// Kafka did not answer.
    #[error(transparent)]
    Kafka(#[from] kafka::KafkaProbeError),
    /// There would be no transactions.
    #[error(transparent)]
    Transactions(#[from] RightsError),
    /// Exactly-once delivery could not keep its position.
    #[error(transparent)]
    Offsets(#[from] OffsetsError),
}

/// Tries all endpoints in turn; each with its name and what came of it.
pub fn all(config: &Config) -> impl Iterator<Item = (String, Result<String, ProbeError>)> {
    let sources = config.sources.iter().filter_map(|source| {
        let answer = probe(source)?;
        Some((format!("source {}", source.name), answer))
    });
    let buses = config
        .buses
        .iter()
        .map(|bus| (format!("bus {}", bus.name), probe_bus(bus)));
    let kafka = std::iter::once_with(|| {
        let answer = kafka::probe(&config.kafka).map_err(ProbeError::from);
        ("kafka".to_owned(), answer)
    });
    let transactions = match &config.kafka.delivery {
        Delivery::AtLeastOnce => None,
        Delivery::ExactlyOnce(transactions) => Some(transactions),
    };
    let exactly_once = transactions
        .into_iter()
        .flat_map(|transactions| exactly_once(config, &transactions.offsets_topic));
    sources.chain(buses).chain(kafka).chain(exactly_once)
}

/// What exactly-once delivery needs beside brokers that answer.
fn exactly_once(config: &Config, offsets_topic: &str) -> [(String, Result<String, ProbeError>); 2] {
    let id = &config.gateway.id;
    let allowed = rights::inspect(config).map(|()| format!("the id {id:?} is allowed"));
    let found = offsets::inspect(config, offsets_topic).map(|found| match found {
        Found::Absent => "will be created",
        Found::Ready => "compacted, readable, writable",
        Found::Readable => "readable; whether it is compacted and writable is not shown to us",
    });
    [
        (
            "kafka transactions".to_owned(),
            allowed.map_err(ProbeError::from),
        ),
        (
            format!("kafka offsets topic {offsets_topic}"),
            found.map(str::to_owned).map_err(ProbeError::from),
        ),
    ]
}

/// A Modbus source has no endpoint but its bus.
fn probe(source: &Source) -> Option<Result<String, ProbeError>> {
    match &source.kind {
        #[cfg(feature = "serial")]
        SourceKind::Serial(serial) => Some(open(serial.as_ref().into())),
        #[cfg(feature = "mqtt")]
        SourceKind::Mqtt(mqtt) => Some(mqtt::probe(mqtt).map_err(ProbeError::from)),
        // Where they are left out no valid configuration has one.
        #[cfg(not(feature = "serial"))]
        SourceKind::Serial(_) => None,
        #[cfg(not(feature = "mqtt"))]
        SourceKind::Mqtt(_) => None,
        SourceKind::Modbus(_) => None,
    }
}

fn probe_bus(bus: &Bus) -> Result<String, ProbeError> {
    match &bus.kind {
        #[cfg(feature = "serial")]
        BusKind::Rtu(line) => open(line.into()),
        #[cfg(not(feature = "serial"))]
        BusKind::Rtu(line) => unreachable!("the configuration refuses {}", line.device),
        BusKind::Tcp(address) => connect(address).map_err(ProbeError::Modbus),
    }
}

#[cfg(feature = "serial")]
fn open(settings: Settings<'_>) -> Result<String, ProbeError> {
    port::probe(settings).map_err(ProbeError::from)
}

/// Connects to the first of the server's addresses that answers.
fn connect(address: &TcpAddress) -> std::io::Result<String> {
    let mut failure = std::io::Error::from(std::io::ErrorKind::AddrNotAvailable);
    for found in (address.host.as_str(), address.port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&found, TIMEOUT) {
            Ok(_) => return Ok(format!("{found} answers")),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}
