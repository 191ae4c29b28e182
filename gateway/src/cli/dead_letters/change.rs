//! `dead-letters delete` and `retry`.

use std::path::Path;

use super::LettersError;
use super::filter::{self, Filter};
use crate::cli::buffer::place::DataDir;
use crate::cli::buffer::{json, text};
use crate::cli::{EXIT_FAILURE, complain, say};
use crate::commit_log::OpenError;
use crate::commit_log::fs::RealFs;
use crate::commit_log::offline::LogDir;
use crate::dead_letters::control::{self, Answer, AskError, Request};
use crate::dead_letters::{Budget, Changed, DIR_NAME, DeadLetters, Selection};
use crate::metrics::Metrics;

/// Room for a tombstone, so that none of the letters must give way for it.
const TOMBSTONE_BYTES: u64 = 16 << 20;

/// Arguments of both.
#[derive(Debug, clap::Args)]
struct Common {
    /// These offsets: 7, or 7-12
    #[arg(value_name = "OFFSETS", value_parser = filter::offsets)]
    offsets: Vec<(u64, u64)>,
    #[command(flatten)]
    filter: Filter,
    /// All of them, where neither offsets nor a filter are given
    #[arg(long)]
    all: bool,
    /// One JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    data: DataDir,
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Delete {
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Retry {
    #[command(flatten)]
    common: Common,
}

impl Common {
    fn selection(&self) -> Result<Selection, LettersError> {
        let selection = self.filter.selection(&self.offsets)?;
        if selection.is_everything() && !self.all {
            return Err(LettersError::Everything);
        }
        Ok(selection)
    }
}

pub(super) fn retry(arguments: &Retry) -> Result<u8, LettersError> {
    let common = &arguments.common;
    let selection = common.selection()?;
    let request = Request::Retry { selection };
    let changed = match control::ask(&common.data.path()?, &request) {
        Ok(answer) => done(answer)?,
        Err(error @ AskError::NoGateway { .. }) => return Err(LettersError::NotRunning(error)),
        Err(error @ AskError::NoAnswer { .. }) => return Err(LettersError::Ask(error)),
    };
    Ok(tell(common, &changed, "sent again"))
}

pub(super) fn delete(arguments: &Delete) -> Result<u8, LettersError> {
    let common = &arguments.common;
    let selection = common.selection()?;
    let data_dir = common.data.path()?;
    let request = Request::Delete {
        selection: selection.clone(),
    };
    let changed = match control::ask(&data_dir, &request) {
        Ok(answer) => done(answer)?,
        Err(error @ AskError::NoGateway { .. }) => delete_here(&data_dir, &selection, error)?,
        Err(error @ AskError::NoAnswer { .. }) => return Err(LettersError::Ask(error)),
    };
    Ok(tell(common, &changed, "deleted"))
}

fn done(answer: Answer) -> Result<Changed, LettersError> {
    match answer {
        Answer::Done(changed) => Ok(changed),
        Answer::Error(what) => Err(LettersError::Refused { what }),
    }
}

/// Without a gateway: it can't start meanwhile, since the log is locked.
fn delete_here(
    data_dir: &Path,
    selection: &Selection,
    unasked: AskError,
) -> Result<Changed, LettersError> {
    // One that isn't there is not to be made.
    let log = LogDir::read(&RealFs, &data_dir.join(DIR_NAME))?;
    let default = Budget::default();
    let budget = Budget {
        bytes_max: default.bytes_max.max(log.disk_bytes()) + TOMBSTONE_BYTES,
        age_max: None,
    };
    let owner = format!("edge-gateway dead-letters, process {}", std::process::id());
    let letters = match DeadLetters::with_budget(data_dir, &owner, &Metrics::new(), budget) {
        Ok(letters) => letters,
        Err(OpenError::InUse { owner, .. }) => {
            let source = unasked;
            return Err(LettersError::Unreachable { owner, source });
        }
        Err(error) => return Err(LettersError::Open(error)),
    };
    let deleted = letters.delete(selection);
    letters.close();
    Ok(deleted?)
}

fn tell(common: &Common, changed: &Changed, what: &str) -> u8 {
    if common.json {
        say(&json(changed));
    } else {
        let counted = text::counted(changed.letters, "dead letter");
        say(&format!(
            "{counted} {what} ({})\n",
            text::size(changed.bytes)
        ));
        for left in &changed.left {
            complain(&format!("{} stays: {}", left.offset, left.why));
        }
        if changed.left_more > 0 {
            complain(&format!("and {} more", changed.left_more));
        }
    }
    if changed.left.is_empty() {
        0
    } else {
        EXIT_FAILURE
    }
}
