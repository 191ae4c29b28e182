//! From the log to Kafka.

pub mod route;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::commit_log::CommitLog;
use crate::config::Config;
use crate::dead_letters::DeadLetters;
use crate::metrics::Metrics;

/// What the forwarder works with.
#[derive(Debug)]
pub struct ForwarderContext {
    /// Where records come from.
    pub log: CommitLog,
    /// Where undeliverable ones go.
    pub dead_letters: DeadLetters,
    /// Figures.
    pub metrics: Arc<Metrics>,
    /// Set when the gateway drains: deliver what is synced for `shutdown_grace`, then end.
    pub stop: Arc<AtomicBool>,
}

/// Why the forwarder ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum ForwarderError {
    /// Kafka's client could not be made: a property it refuses.
    #[error("cannot make the Kafka producer")]
    Producer(#[source] rdkafka::error::KafkaError),
    /// The log of dead letters failed.
    #[error("the log of dead letters failed")]
    DeadLetters(#[source] crate::dead_letters::NotStored),
    /// Reading the log failed for good.
    #[error("the commit log cannot be read")]
    Read(#[source] crate::commit_log::ReadError),
}

/// Runs the forwarder on the calling thread until `stop` is set and everything synced is
/// delivered or the grace period is over.
///
/// # Errors
/// See [`ForwarderError`].
pub fn run(
    _config: &Config,
    _context: ForwarderContext,
    _grace: Duration,
) -> Result<(), ForwarderError> {
    unimplemented!()
}
