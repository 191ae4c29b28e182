//! Sources: what reads telemetry off a wire and acknowledges it.
//!
//! One contract for all kinds: a source is a future that runs until `stop` is cancelled, appends
//! through [`Ingest`], acknowledges its senders only with a ticket's
//! [`Committed`](crate::ingest::Committed), reconnects by itself for ever, and returns an error
//! only when the log has failed.

pub mod modbus;
pub mod mqtt;
pub mod serial;

use tokio_util::sync::CancellationToken;

use crate::dead_letters::DeadLetters;
use crate::ingest::Ingest;
use crate::metrics::SourceMetrics;
use crate::record::SourceName;
use crate::state::RecoveredSource;

/// What every source is given.
#[derive(Debug)]
pub struct SourceContext {
    /// Its name.
    pub name: SourceName,
    /// Into the log.
    pub ingest: Ingest,
    /// For what cannot become a record.
    pub dead_letters: DeadLetters,
    /// Its figures.
    pub metrics: SourceMetrics,
    /// What the log knows of it from earlier runs.
    pub recovered: RecoveredSource,
    /// Set to true once it has connected and subscribed, or opened its port, once (`/ready`).
    pub ready: tokio::sync::watch::Sender<bool>,
    /// Cancelled when the gateway drains: stop taking records, wait for the commit of what was
    /// taken, acknowledge it, return.
    pub stop: CancellationToken,
}

/// Why a source ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The log failed; the gateway exits so that its supervisor acts.
    #[error("source {source_name}: the commit log takes no more records")]
    LogFailed {
        /// The source.
        source_name: SourceName,
    },
}
