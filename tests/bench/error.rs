//! Why a benchmark ended without its table.

use std::error::Error;
use std::io;

use edge_gateway::commit_log::{AppendError, OpenError, ReadError};

/// Why it ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BenchError {
    /// A call failed.
    #[error("cannot {action}")]
    Io {
        action: &'static str,
        #[source]
        source: io::Error,
    },
    /// A program said no: a mount that isn't permitted, most likely.
    #[error("{program} failed: {said}")]
    Program { program: String, said: String },
    /// A figure of the kernel's is not where it should be.
    #[error("{what} is not readable: {found:?}")]
    Figure { what: &'static str, found: String },
    /// The log did not open.
    #[error("the log did not open")]
    Open(#[from] OpenError),
    /// The log did not take a record.
    #[error("the log took no more records")]
    Append(#[from] AppendError),
    /// The log could not be read.
    #[error("the log could not be read")]
    Read(#[from] ReadError),
    /// What is measured failed, or is slower than anything worth measuring.
    #[error("it did not go on: {0}")]
    Stuck(String),
    /// What was read back is not what was written.
    #[error("{found} records were read back, {expected} were written")]
    Lost { expected: u64, found: u64 },
}

impl BenchError {
    pub(crate) fn io(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, source }
    }
}

/// The error and what caused it, in a line.
pub(crate) fn chain(error: &BenchError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
