//! `edge-gateway buffer`: looking into a log on disk, whether a gateway runs or not.
//!
//! Everything but `repair --yes` only reads ([`crate::commit_log::offline`]). People get text,
//! `--json` gives machines stable names; `gateway/README.md` lists them.

pub(super) mod export;
mod peek;
pub(super) mod place;
mod progress;
pub(super) mod record;
mod repair;
mod stat;
pub(super) mod text;
mod verify;

use std::io;
use std::path::PathBuf;

use clap::Subcommand;

use super::{EXIT_CONFIG, EXIT_FAILURE, chain, complain};
use crate::commit_log::fs::RealFs;
use crate::commit_log::offline::{Finding, LogDir, OfflineError};
use crate::config::ConfigError;
use place::Place;

/// The commands of `edge-gateway buffer`.
#[derive(Debug, Subcommand)]
pub(super) enum Buffer {
    /// Say what is in the log: offsets, records, disk space, who has it open
    Stat(stat::Arguments),
    /// Read everything and name every batch that is not whole; exit code 0 only if all are
    Verify(verify::Arguments),
    /// Show some records
    Peek(peek::Arguments),
    /// Write records as JSON lines
    Export(export::Arguments),
    /// Put damaged segments aside, with their whole batches copied into place
    Repair(repair::Arguments),
}

/// Why a command could not do its work.
#[derive(Debug, thiserror::Error)]
pub(super) enum CommandError {
    /// See [`ConfigError`].
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The configuration tells no data directory.
    #[error("{} does not say where the data is: {what}; use --data-dir", path.display())]
    NoDataDir { path: PathBuf, what: String },
    /// See [`OfflineError`].
    #[error(transparent)]
    Log(#[from] OfflineError),
    /// The output could not be written.
    #[error("cannot write {to}")]
    Output {
        to: String,
        #[source]
        source: io::Error,
    },
}

impl CommandError {
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::NoDataDir { .. } => EXIT_CONFIG,
            Self::Log(_) | Self::Output { .. } => EXIT_FAILURE,
        }
    }
}

/// Does what the arguments say; returns the exit code.
pub(super) fn perform(command: &Buffer) -> u8 {
    let done = match command {
        Buffer::Stat(arguments) => stat::run(arguments),
        Buffer::Verify(arguments) => verify::run(arguments),
        Buffer::Peek(arguments) => peek::run(arguments),
        Buffer::Export(arguments) => export::run(arguments),
        Buffer::Repair(arguments) => repair::run(arguments),
    };
    done.unwrap_or_else(|error| {
        complain(&chain(&error));
        error.exit_code()
    })
}

fn open(place: &Place) -> Result<LogDir<'static>, CommandError> {
    Ok(LogDir::read(&RealFs, &place.dir()?)?)
}

/// A finding, for machines.
#[derive(Debug, serde::Serialize)]
struct FindingLine {
    file: String,
    position: u64,
    bytes: u64,
    what: &'static str,
    is_damage: bool,
    first_offset: Option<u64>,
    last_offset: Option<u64>,
}

impl FindingLine {
    fn of(finding: &Finding) -> Self {
        Self {
            file: finding.file(),
            position: finding.position,
            bytes: finding.bytes,
            what: finding.what.name(),
            is_damage: finding.what.is_damage(),
            first_offset: finding.offsets.map(|(first, _)| first.get()),
            last_offset: finding.offsets.map(|(_, last)| last.get()),
        }
    }
}

/// One line of JSON.
pub(super) fn json(value: &impl serde::Serialize) -> String {
    let mut line = serde_json::to_string(value).expect("texts and numbers are always JSON");
    line.push('\n');
    line
}
