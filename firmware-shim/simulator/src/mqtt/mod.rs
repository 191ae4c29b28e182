//! Devices that publish over MQTT: connections, each with its share of the devices.
//!
//! A device's messages go over one connection, in order. Nothing is dropped while the broker is
//! away: it is sent again, in order, with the DUP flag, once the session is resumed; new messages
//! wait and then catch up with the schedule.

pub mod connection;
pub mod publisher;
pub mod window;
pub mod wire;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::fleet::{Fleet, TopicTemplate};
use crate::message::JsonDevice;
use crate::run::Run;
use crate::schedule::Schedule;
use connection::{Address, TlsFiles};
use publisher::{Device, KEEP_ALIVE, Publisher, Settings};
use wire::{Hello, Protocol, Publish, Qos, WireError};

/// Why publishing failed.
#[derive(Debug, thiserror::Error)]
pub enum MqttError {
    /// The URL names no broker.
    #[error("{url:?} is not the URL of a broker: {reason}")]
    Url {
        /// What was given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A file with a certificate, key or password cannot be used.
    #[error("cannot use {}", path.display())]
    Credentials {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No connection.
    #[error("cannot connect to {host}:{port}")]
    Connect {
        /// Host of the broker.
        host: String,
        /// Port of the broker.
        port: u16,
        /// Why.
        source: io::Error,
    },
    /// The connection failed.
    #[error("the connection to the broker failed")]
    Io(#[source] io::Error),
    /// The broker closed the connection without a word.
    #[error("the broker closed the connection")]
    Closed,
    /// The broker closed the connection and said why.
    #[error("the broker closed the connection: {reason}")]
    Goodbye {
        /// Its reason.
        reason: String,
    },
    /// The broker refused the CONNECT.
    #[error("the broker refused the connection: {reason}")]
    Refused {
        /// Its reason.
        reason: String,
        /// Trying again cannot help.
        permanent: bool,
    },
    /// The broker did not answer.
    #[error("the broker did not answer for {seconds} s")]
    Unresponsive {
        /// How long was waited.
        seconds: u64,
    },
    /// The broker sent a packet that may not come at that place.
    #[error("the broker sent a packet out of turn")]
    OutOfTurn,
    /// Not MQTT, or not to be put in MQTT.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The broker was not there in time.
    #[error("the broker was never reached")]
    NeverConnected {
        /// The last attempt's failure.
        source: Box<Self>,
    },
    /// A connection's task panicked.
    #[error("a connection's task failed")]
    Task(#[source] tokio::task::JoinError),
}

impl MqttError {
    /// Whether trying again cannot help.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Url { .. } | Self::Credentials { .. } | Self::NeverConnected { .. } => true,
            Self::Refused { permanent, .. } => *permanent,
            Self::Task(_) => true,
            Self::Connect { .. }
            | Self::Io(_)
            | Self::Closed
            | Self::Goodbye { .. }
            | Self::Unresponsive { .. }
            | Self::OutOfTurn
            | Self::Wire(_) => false,
        }
    }
}

/// What to publish, and how.
#[derive(Clone, Debug)]
pub struct MqttOptions {
    /// URL of the broker.
    pub url: String,
    /// Files for TLS.
    pub tls: TlsFiles,
    /// Version of MQTT.
    pub protocol: Protocol,
    /// Quality of service.
    pub qos: Qos,
    /// Topics of the devices.
    pub topic: TopicTemplate,
    /// Connections to share the devices.
    pub connections: u32,
    /// Most messages in flight on a connection.
    pub in_flight_max: u16,
    /// What client ids begin with.
    pub client_id: String,
    /// User name and password.
    pub login: Option<(String, String)>,
    /// How long the first connection may take.
    pub connect_timeout: Duration,
    /// Payloads are padded to this.
    pub payload_bytes_min: usize,
}

/// Publishes the messages of a fleet; returns when all are acknowledged or the run is aborted.
///
/// # Errors
/// [`MqttError`] of the first connection that gave up.
pub async fn publish(options: &MqttOptions, fleet: Fleet, run: &Run) -> Result<(), MqttError> {
    let settings = Arc::new(Settings {
        address: Address::new(&options.url, &options.tls)?,
        protocol: options.protocol,
        qos: options.qos,
        in_flight_max: options.in_flight_max,
        connect_timeout: options.connect_timeout,
    });
    let connections = options.connections.clamp(1, fleet.devices);
    let mut publishers = JoinSet::new();
    for connection in 0..connections {
        let share = (connection, connections);
        let publisher = Publisher::new(
            Arc::clone(&settings),
            hello(options, connection),
            devices(options, fleet, share),
            schedule(run.schedule(), fleet, share),
            (run.counters(), run.phase()),
        );
        publishers.spawn(publisher.run());
    }
    while let Some(ended) = publishers.join_next().await {
        ended.map_err(MqttError::Task)??;
    }
    Ok(())
}

/// Client ids differ from run to run: a session that an earlier run left unfinished would take a
/// new `QoS` 2 publish for the old one that had its packet id.
fn hello(options: &MqttOptions, connection: u32) -> Hello {
    let moment = crate::message::wall_ms();
    Hello {
        client_id: format!(
            "{}-{moment:x}-{}-{connection}",
            options.client_id,
            std::process::id()
        ),
        clean: options.qos == Qos::AtMostOnce,
        keep_alive_s: u16::try_from(KEEP_ALIVE.as_secs()).expect("half a minute"),
        login: options.login.clone(),
    }
}

fn devices(options: &MqttOptions, fleet: Fleet, share: (u32, u32)) -> Vec<Device> {
    let indices = fleet.share(share.0, share.1);
    indices
        .map(|index| Device {
            json: JsonDevice::new(fleet, index, options.payload_bytes_min),
            publish: Publish::new(
                options.protocol,
                options.topic.topic(&fleet, index),
                options.qos,
            ),
        })
        .collect()
}

/// The part of a schedule that falls to a share of the devices.
fn schedule(whole: Schedule, fleet: Fleet, share: (u32, u32)) -> Schedule {
    let members = fleet.share(share.0, share.1).count();
    let part = f64::from(u32::try_from(members).unwrap_or(u32::MAX)) / f64::from(fleet.devices);
    Schedule {
        rate: whole.rate * part,
        count: whole
            .count
            .map(|count| fleet.share_of_count(count, share.0, share.1)),
        duration: whole.duration,
    }
}
