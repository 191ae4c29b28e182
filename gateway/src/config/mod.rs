//! The validated configuration: what the rest of the gateway may rely on.
//!
//! Values here have been checked: ranges, cross-references, and topic filters. Everything that can
//! be wrong in a file is reported by [`load`], all mistakes in one run.

mod dead_letters;
mod filter;
mod kafka;
mod load;
mod modbus;
mod mqtt;
mod nearest;
mod properties;
mod report;
mod routes;
mod serial;
mod sources;
mod tree;
mod units;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

pub use load::{load, parse, parse_serial};
pub use modbus::{
    Bus, BusKind, Modbus, ModbusUnit, Register, RegisterKind, RtuLine, Scale, TcpAddress,
    ValueType, WordOrder,
};
pub use report::{ConfigError, Mistake};
pub use serial::{Device, FlowControl, Parity, Rs485, Serial, UsbMatch};

use crate::commit_log::Compression;
use crate::dead_letters::Budget;
use crate::forwarder::DeviceTimeWindow;
use crate::forwarder::route::{Route, Template};
use crate::record::SourceName;

/// A whole, valid configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Identity and directories.
    pub gateway: Gateway,
    /// At least one, names unique, in the order of their names.
    pub sources: Vec<Source>,
    /// What Modbus sources poll on, each used by one at least, in the order of their names.
    pub buses: Vec<Bus>,
    /// The commit log's budget and policy.
    pub buffer: Buffer,
    /// Where records go.
    pub kafka: Kafka,
    /// In the order of the file: the first match wins.
    pub routes: Vec<Route>,
    /// What becomes of records that Kafka will never take.
    pub dead_letters: DeadLettersConfig,
    /// Health, metrics and status.
    pub http: Http,
    /// Logging.
    pub log: Log,
}

/// `[gateway]`
#[derive(Clone, Debug)]
pub struct Gateway {
    /// `[A-Za-z0-9._-]{1,64}`
    pub id: String,
    /// `log/`, `dead-letters/` and `registry/` live below.
    pub data_dir: PathBuf,
    /// What SIGTERM leaves Kafka to take what is in flight.
    pub shutdown_grace: Duration,
}

/// `[sources.<name>]`
#[derive(Clone, Debug)]
pub struct Source {
    /// Its key in the file.
    pub name: SourceName,
    /// Its `type` and what belongs to it.
    pub kind: SourceKind,
}

/// The kinds of sources.
#[derive(Clone, Debug)]
pub enum SourceKind {
    /// `type = "serial"`
    Serial(Box<Serial>),
    /// `type = "mqtt"`
    Mqtt(Box<Mqtt>),
    /// `type = "modbus"`
    Modbus(Box<Modbus>),
}

/// A subscription to an MQTT broker.
#[derive(Clone, Debug)]
pub struct Mqtt {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Set for `mqtts://`.
    pub tls: Option<MqttTls>,
    /// MQTT version.
    pub protocol: MqttProtocol,
    /// At least one.
    pub subscriptions: Vec<Subscription>,
    /// Default `<gateway id>-<source>`.
    pub client_id: String,
    /// User name.
    pub username: Option<String>,
    /// File whose content, less a line end, is the password. Read at every connect.
    pub password_file: Option<PathBuf>,
    /// How long the broker keeps the session while we are away.
    pub session_expiry: Duration,
    /// Largest payload that becomes a record; a larger one becomes a dead letter.
    pub payload_bytes_max: usize,
    /// Publishes in flight from the broker (v5 `Receive Maximum`).
    pub receive_maximum: u16,
    /// Keep-alive interval.
    pub keep_alive: Duration,
    /// Publishes that the broker sends again are recognised and stored once.
    pub dedupe: bool,
}

/// TLS files of an MQTT source, PEM. Readable when the configuration was checked.
#[derive(Clone, Debug, Default)]
pub struct MqttTls {
    /// CA certificates; the system's where absent.
    pub ca_file: Option<PathBuf>,
    /// Client certificate chain.
    pub cert_file: Option<PathBuf>,
    /// Its key, PKCS#8.
    pub key_file: Option<PathBuf>,
}

/// MQTT version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MqttProtocol {
    /// MQTT 3.1.1.
    V311,
    /// MQTT 5.0.
    V5,
}

/// A subscription: a valid filter and the highest quality of service asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// Topic filter, `$share/group/…` allowed.
    pub filter: String,
    /// 0 to 2.
    pub qos: u8,
}

/// `[buffer]`
#[derive(Clone, Debug)]
pub struct Buffer {
    /// Most disk space the log may use.
    pub bytes_max: u64,
    /// Size of one segment; at most a quarter of `bytes_max`.
    pub segment_bytes: u64,
    /// Longest wait for a group commit.
    pub commit_interval: Duration,
    /// What a full buffer does.
    pub when_full: WhenFull,
    /// Undelivered records older than this are dropped, whole segments of them, counted.
    pub age_max: Option<Duration>,
    /// How records are stored.
    pub compression: Compression,
    /// Most disk space that records may use whose topic Kafka refuses.
    pub parking_bytes_max: u64,
}

/// What a full buffer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// Sources wait, unacknowledged.
    Block,
    /// The oldest segment goes, counted.
    DropOldest,
}

/// `[kafka]`
#[derive(Clone)]
pub struct Kafka {
    /// `host:port`, at least one.
    pub brokers: Vec<String>,
    /// Topic where no route matches; the topic of gap markers.
    pub topic: String,
    /// Key where no route says otherwise.
    pub key: Template,
    /// What a record becomes.
    pub value: ValueFormat,
    /// Which headers it carries.
    pub headers: HeaderSet,
    /// librdkafka's `compression.codec`.
    pub compression: String,
    /// How far apart rounds of forwarding are: a record waits for others no longer than that once it is
    /// durable, and the first after a quiet time not at all.
    pub linger: Duration,
    /// librdkafka properties of `properties` and `properties_file`, none that a guarantee rests on.
    /// May hold secrets: never logged.
    pub properties: BTreeMap<String, String>,
    /// When a device's own time is believed.
    pub device_time: DeviceTimeWindow,
    /// How long an unknown topic is waited for.
    pub topic_wait: Duration,
    /// What becomes of records whose topic Kafka refuses.
    pub topic_refused: TopicRefused,
    /// What a crash may do to the newest records.
    pub delivery: Delivery,
}

/// `topic_refused`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopicRefused {
    /// They wait on disk until the topic takes them.
    Park,
    /// They do so for `topic_wait`, then they become dead letters.
    DeadLetter,
}

/// `delivery`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Never lost, after a failure perhaps twice.
    AtLeastOnce,
    /// In transactions: once to a `read_committed` consumer (G4).
    ExactlyOnce(Transactions),
}

/// What belongs to `delivery = "exactly_once"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transactions {
    /// Longest time a transaction takes records.
    pub interval: Duration,
    /// Compacted topic that keeps every gateway's committed offset.
    pub offsets_topic: String,
}

impl fmt::Debug for Kafka {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let properties: Vec<&String> = self.properties.keys().collect();
        f.debug_struct("Kafka")
            .field("brokers", &self.brokers)
            .field("topic", &self.topic)
            .field("compression", &self.compression)
            .field("properties", &properties)
            .finish_non_exhaustive()
    }
}

/// `value`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueFormat {
    /// The payload as it is.
    Payload,
    /// `SenML`-CBOR becomes `SenML`-JSON, JSON stays, other bytes become `{"base64": …}`.
    Json,
}

/// `headers`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderSet {
    /// `CloudEvents` 1.0, binary mode.
    CloudEvents,
    /// `ce_id` alone.
    Id,
    /// None.
    None,
}

/// `[dead_letters]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLettersConfig {
    /// What they may take on disk.
    pub budget: Budget,
    /// Topic that each is copied to.
    pub topic: Option<String>,
}

/// `[http]`
#[derive(Clone, Debug)]
pub struct Http {
    /// Address to listen on.
    pub listen: std::net::SocketAddr,
}

/// `[log]`
#[derive(Clone, Debug)]
pub struct Log {
    /// A `tracing` filter: a level, or directives.
    pub level: String,
    /// Text or JSON.
    pub format: LogFormat,
}

/// `format`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

#[cfg(test)]
mod tests;
