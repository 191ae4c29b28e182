//! The client's properties: defaults that suit a small board, then the user's, then those that
//! guarantees rest on.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;

use crate::config::Config;

/// librdkafka's own copies of messages, in KiB: for a board with 512 MB of memory.
const QUEUE_KBYTES_MAX: u32 = 32 * 1024;
/// Above what the forwarder ever has in flight, so that its bound is the one that holds.
const QUEUE_MESSAGES_MAX: u32 = 100_000;
/// A batch of so many messages is sent without waiting for more. With no more than 8,000 in flight a batch
/// of librdkafka's own 10,000 never fills, so each would linger: a backlog drained a sixth slower.
const BATCH_MESSAGES_MAX: u32 = 500;
/// A broker that was away for days is found again within two seconds; a try costs one SYN.
const RECONNECT_BACKOFF_MS_MAX: u32 = 2_000;
/// How long a batch waits to fill, in milliseconds, unless `linger` is shorter: what the forwarder hands over
/// together ([`crate::forwarder`]) goes together. The rest of `linger` passes before that.
const BATCH_WAIT_MS_MAX: u128 = 1;
/// zstd's own default clears 0.8 MB of tables for every batch, which costs more than the compression
/// where a batch is a few records; the fastest level takes a tenth of that.
const ZSTD_LEVEL: &str = "1";
/// How often the state of connections is looked at where nothing is sent. An outage under way
/// shows sooner, by errors.
const STATISTICS_INTERVAL_MS: u32 = 5_000;
/// Longest wait for an unknown topic before its records are parked, where they wait on: others would
/// wait with them here.
const TOPIC_WAIT_MS_MAX: u128 = 5_000;

/// How a producer is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Many messages in flight; the first that is refused stops all behind it (K2).
    Streaming,
    /// One message in flight at a time, without delay; a refusal concerns it alone.
    Single,
    /// In transactions, many messages in flight.
    Transactions,
    /// In transactions, one message in flight at a time, without delay.
    SingleInTransactions,
}

/// How long the broker lets a transaction be open: what a gateway that died leaves open hides
/// later records of its partitions from `read_committed` consumers until then, or until it is back.
/// Far above what a transaction takes, and what most clusters allow at most is 15 minutes.
pub const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(60);
const SOCKET_TIMEOUT: &str = "socket.timeout.ms";

/// What any client needs to reach the cluster: the user's properties, and who we are.
pub(super) fn access(config: &Config) -> ClientConfig {
    let kafka = &config.kafka;
    let mut client = ClientConfig::new();
    for (key, value) in &kafka.properties {
        client.set(key, value);
    }
    client
        .set("client.id", client_id(config))
        .set("bootstrap.servers", kafka.brokers.join(","))
        .set_log_level(RDKafkaLogLevel::Notice);
    client
}

fn client_id(config: &Config) -> String {
    format!("edge-gateway-{}", config.gateway.id)
}

/// The properties of a producer. They may hold secrets: never to be logged.
#[must_use]
pub fn properties(config: &Config, mode: Mode) -> ClientConfig {
    let kafka = &config.kafka;
    let mut client = ClientConfig::new();
    client
        .set("client.id", client_id(config))
        .set("compression.codec", &kafka.compression)
        .set(
            "queue.buffering.max.ms",
            kafka.linger.as_millis().min(BATCH_WAIT_MS_MAX).to_string(),
        )
        .set("queue.buffering.max.kbytes", QUEUE_KBYTES_MAX.to_string())
        .set("batch.num.messages", BATCH_MESSAGES_MAX.to_string())
        .set(
            "reconnect.backoff.max.ms",
            RECONNECT_BACKOFF_MS_MAX.to_string(),
        )
        .set("socket.keepalive.enable", "true")
        .set("log.connection.close", "false");
    if kafka.compression == "zstd" {
        client.set("compression.level", ZSTD_LEVEL);
    }
    for (key, value) in &kafka.properties {
        client.set(key, value);
    }
    let topic_wait_ms = kafka.topic_wait.as_millis().min(TOPIC_WAIT_MS_MAX);
    client
        .set("bootstrap.servers", kafka.brokers.join(","))
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("message.timeout.ms", "0")
        .set("partitioner", "murmur2_random")
        .set(
            "queue.buffering.max.messages",
            QUEUE_MESSAGES_MAX.to_string(),
        )
        .set(
            "topic.metadata.propagation.max.ms",
            topic_wait_ms.to_string(),
        )
        .set("statistics.interval.ms", STATISTICS_INTERVAL_MS.to_string())
        .set_log_level(RDKafkaLogLevel::Notice);
    match mode {
        Mode::Streaming => client.set("enable.gapless.guarantee", "true"),
        Mode::Single => client.set("queue.buffering.max.ms", "0"),
        Mode::Transactions => transactional(&mut client, config),
        Mode::SingleInTransactions => {
            transactional(&mut client, config).set("queue.buffering.max.ms", "0")
        }
    };
    client
}

/// What transactions ask for. A refused message makes the transaction one to abort, so K2 holds
/// without the gapless guarantee.
fn transactional<'c>(client: &'c mut ClientConfig, config: &Config) -> &'c mut ClientConfig {
    let timeout_ms = TRANSACTION_TIMEOUT.as_millis();
    // librdkafka refuses one that outlasts a transaction.
    let socket_ms = client.get(SOCKET_TIMEOUT).and_then(|ms| ms.parse().ok());
    if socket_ms.is_some_and(|ms: u128| ms > timeout_ms) {
        client.set(SOCKET_TIMEOUT, timeout_ms.to_string());
    }
    client
        .set("transactional.id", &config.gateway.id)
        .set("transaction.timeout.ms", timeout_ms.to_string())
}
