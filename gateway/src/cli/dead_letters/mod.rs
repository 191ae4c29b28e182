//! `edge-gateway dead-letters`: what could not be delivered.
//!
//! `list` and `export` only read, whether a gateway runs or not. `delete` and `retry` ask the gateway
//! that runs ([`control`](crate::dead_letters::control)); without one, `delete` opens the log itself,
//! and `retry` can't be done. People get text, `--json` gives machines stable names;
//! `gateway/README.md` lists them.

mod change;
mod export;
mod filter;
mod list;
mod reading;

use clap::Subcommand;

use super::buffer::CommandError;
use super::{EXIT_FAILURE, EXIT_STORAGE, EXIT_USAGE, chain, complain};
use crate::commit_log::OpenError;
use crate::commit_log::offline::OfflineError;
use crate::dead_letters::ChangeError;
use crate::dead_letters::control::AskError;

/// The commands of `edge-gateway dead-letters`.
#[derive(Debug, Subcommand)]
pub(super) enum DeadLetters {
    /// Show dead letters, oldest first: offset, time, source, subject, reason, topic, size
    List(list::Arguments),
    /// Write dead letters as JSON lines, payloads included
    Export(export::Arguments),
    /// Have the running gateway send dead letters again, once what refused them is mended
    Retry(change::Retry),
    /// Delete dead letters for good
    Delete(change::Delete),
}

/// Why a command could not do its work.
#[derive(Debug, thiserror::Error)]
enum LettersError {
    /// Place, configuration or output.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The log can't be read.
    #[error(transparent)]
    Log(#[from] OfflineError),
    /// The log can't be opened to change it.
    #[error(transparent)]
    Open(OpenError),
    /// A gateway has the log, and can't be asked.
    #[error(
        "{owner} has the dead letters and can't be asked: its log says why it has no control socket; \
         it can be stopped, and letters deleted then"
    )]
    Unreachable {
        /// Who.
        owner: String,
        /// What asking brought.
        #[source]
        source: AskError,
    },
    /// No gateway runs.
    #[error("a gateway must run to send dead letters again")]
    NotRunning(#[source] AskError),
    /// The gateway was asked, and did not answer.
    #[error(transparent)]
    Ask(AskError),
    /// The gateway says why not.
    #[error("the gateway could not do it: {what}")]
    Refused {
        /// Its words.
        what: String,
    },
    /// What was done without a gateway failed.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// Neither offsets nor a filter.
    #[error("name offsets, a filter (--reason, --source, --topic), or --all")]
    Everything,
    /// Too many offsets.
    #[error("{given} offsets and ranges are more than {most}: use ranges, or several commands")]
    TooMany {
        /// How many.
        given: usize,
        /// How many may be.
        most: usize,
    },
}

impl LettersError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Command(error) => error.exit_code(),
            Self::Everything | Self::TooMany { .. } => EXIT_USAGE,
            Self::Change(ChangeError::NotStored(_)) => EXIT_STORAGE,
            Self::Log(_)
            | Self::Open(_)
            | Self::Unreachable { .. }
            | Self::NotRunning(_)
            | Self::Ask(_)
            | Self::Refused { .. }
            | Self::Change(_) => EXIT_FAILURE,
        }
    }
}

/// Does what the arguments say; returns the exit code.
pub(super) fn perform(command: &DeadLetters) -> u8 {
    let done = match command {
        DeadLetters::List(arguments) => list::run(arguments),
        DeadLetters::Export(arguments) => export::run(arguments),
        DeadLetters::Retry(arguments) => change::retry(arguments),
        DeadLetters::Delete(arguments) => change::delete(arguments),
    };
    done.unwrap_or_else(|error| {
        complain(&chain(&error));
        error.exit_code()
    })
}
