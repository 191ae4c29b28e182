//! Logs go to standard error, as text for people or as one JSON object a line for machines.

use std::io::IsTerminal;

use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};

use crate::config::{Log, LogFormat};

/// The log could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// `[log] level` is no filter; the configuration's check refuses such a one.
    #[error("log.level is not a filter")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// Something in the process has set up a log already.
    #[error("there is a log already")]
    Taken(#[from] TryInitError),
}

/// Sets up the log for the whole process, once.
///
/// # Errors
/// [`LoggingError`]
pub fn start(config: &Log) -> Result<(), LoggingError> {
    let filter: Targets = config.level.parse()?;
    let filtered = tracing_subscriber::registry().with(filter);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match config.format {
        LogFormat::Text => filtered.with(lines).try_init()?,
        LogFormat::Json => filtered.with(lines.json().flatten_event(true)).try_init()?,
    }
    Ok(())
}
