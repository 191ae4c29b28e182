//! Why a log can't be opened, and why it doesn't take a record.

use std::io;
use std::path::PathBuf;

use super::shared::StorageError;

/// Why a log could not be opened. Nothing was changed but what a torn tail needs.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("{} is in use by {owner}", dir.display())]
    InUse {
        /// The log's directory.
        dir: PathBuf,
        /// What that process says of itself.
        owner: String,
    },
    /// A newer gateway wrote it. It was left untouched.
    #[error(
        "{} has format version {found}, this gateway reads up to {supported}: install the newer \
         gateway again, or let it deliver everything and move the directory away", path.display()
    )]
    NewerFormat {
        /// The segment.
        path: PathBuf,
        /// Its version.
        found: u8,
        /// Ours.
        supported: u8,
    },
    /// An older gateway wrote it, in a format that is no longer read. It was left untouched.
    #[error(
        "{} has format version {found}, this gateway reads {supported}: let the gateway that wrote \
         it deliver everything, then move the directory away", path.display()
    )]
    OlderFormat {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u8,
        /// Ours.
        supported: u8,
    },
    /// A size is out of bounds.
    #[error("the log's {what} is {found} bytes, it must be {expected}")]
    Size {
        /// Which size.
        what: &'static str,
        /// What it is.
        found: u64,
        /// What it must be.
        expected: &'static str,
    },
    /// A file could not be read or written.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// No thread.
    #[error("cannot start the log's writer thread")]
    Thread(#[source] io::Error),
}

/// Why a record was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// No room in memory for now, because the disk is slow, or full ([`Condition::Full`]). Wait
    /// for the next [`Progress`] and try again.
    #[error("no room for the record until the log has moved on")]
    Full,
    /// Larger than a segment can hold. It will never fit.
    #[error("a record of {bytes} bytes does not fit the log, which takes up to {bytes_max}")]
    TooLarge {
        /// Encoded size.
        bytes: usize,
        /// Largest encoded size.
        bytes_max: usize,
    },
    /// The log is poisoned (I3) or closed: nothing more will become durable.
    #[error("the commit log takes no more records")]
    Closed,
}
