//! Sources: what reads telemetry off a wire and acknowledges it.
//!
//! One contract for all kinds: a source is a future that runs until `stop` is cancelled, appends
//! through [`Ingest`], acknowledges its senders only with a ticket's
//! [`Committed`](crate::ingest::Committed), reconnects by itself for ever, and returns an error
//! only when the log has failed.

#[cfg(feature = "modbus")]
pub mod modbus;
#[cfg(feature = "mqtt")]
pub mod mqtt;
#[cfg(feature = "serial")]
pub mod serial;

use std::pin::Pin;
#[cfg(feature = "modbus")]
use std::{collections::HashMap, sync::Arc};

use tokio_util::sync::CancellationToken;

use crate::config::{self, SourceKind};
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

/// The Modbus buses, which sources share.
#[derive(Debug)]
pub struct Buses {
    #[cfg(feature = "modbus")]
    by_name: HashMap<String, Arc<modbus::Bus>>,
}

impl Buses {
    /// The buses of a configuration.
    #[must_use]
    #[cfg(feature = "modbus")]
    pub fn new(buses: &[config::Bus]) -> Self {
        let buses = buses.iter();
        let by_name = buses.map(|bus| (bus.name.clone(), Arc::new(modbus::Bus::new(bus.clone()))));
        Self {
            by_name: by_name.collect(),
        }
    }

    /// None: Modbus is left out.
    #[must_use]
    #[cfg(not(feature = "modbus"))]
    pub fn new(_: &[config::Bus]) -> Self {
        Self {}
    }
}

/// A source at work.
pub type Life = Pin<Box<dyn Future<Output = Result<(), SourceError>> + Send>>;

/// The future that is a source.
///
/// # Panics
/// For a kind that is left out, or a bus that is not there: no valid configuration names one.
#[must_use]
pub fn life(kind: SourceKind, context: SourceContext, buses: &Buses) -> Life {
    match kind {
        #[cfg(feature = "serial")]
        SourceKind::Serial(serial) => Box::pin(serial::run(*serial, context)),
        #[cfg(feature = "mqtt")]
        SourceKind::Mqtt(mqtt) => Box::pin(mqtt::run(*mqtt, context)),
        #[cfg(feature = "modbus")]
        SourceKind::Modbus(modbus) => {
            let bus = buses.by_name.get(&modbus.bus);
            let bus = bus.expect("a valid configuration has it");
            Box::pin(modbus::run(*modbus, Arc::clone(bus), context))
        }
        #[cfg(not(feature = "serial"))]
        SourceKind::Serial(_) => left_out(context, buses),
        #[cfg(not(feature = "mqtt"))]
        SourceKind::Mqtt(_) => left_out(context, buses),
        #[cfg(not(feature = "modbus"))]
        SourceKind::Modbus(_) => left_out(context, buses),
    }
}

#[cfg(not(all(feature = "serial", feature = "mqtt", feature = "modbus")))]
fn left_out(context: SourceContext, _: &Buses) -> Life {
    unreachable!("the configuration refuses source {}", context.name)
}
