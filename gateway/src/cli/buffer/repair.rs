//! `buffer repair`: says what it would do, and does it with `--yes`.

use serde::Serialize;

use super::place::Place;
use super::progress::Progress;
use super::{CommandError, FindingLine, json, open, text};
use crate::cli::say;
use crate::commit_log::OpenError;
use crate::commit_log::offline::{LockState, LogDir, Mend, OfflineError, lock_state, plan, repair};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Arguments {
    #[command(flatten)]
    place: Place,
    /// Do it; without this, only say what would be done
    #[arg(long)]
    yes: bool,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    log: String,
    /// Whether it was done, rather than planned.
    done: bool,
    files: Vec<MendLine>,
}

#[derive(Debug, Serialize)]
struct MendLine {
    file: String,
    set_aside_as: String,
    replaced_by: Option<String>,
    records_kept: u64,
    findings: Vec<FindingLine>,
}

pub(super) fn run(arguments: &Arguments) -> Result<u8, CommandError> {
    let log = open(&arguments.place)?;
    // `--yes` takes the lock; a plan for a log in use would be out of date at once.
    if let LockState::Held(owner) = lock_state(log.dir()) {
        let dir = log.dir().to_owned();
        return Err(OfflineError::from(OpenError::InUse { dir, owner }).into());
    }
    let mut mends = planned(&log)?;
    let done = arguments.yes && !mends.is_empty();
    if done {
        let owner = format!("edge-gateway buffer repair, process {}", std::process::id());
        mends = repair(&log, &owner)?;
    }
    if arguments.json {
        say(&json(&report(&log, done, &mends)));
    } else {
        say(&plain(done, &mends));
    }
    Ok(0)
}

fn planned(log: &LogDir<'_>) -> Result<Vec<Mend>, CommandError> {
    let progress = Progress::over(log.segment_bytes());
    Ok(plan(log, &mut |bytes| progress.at(bytes))?)
}

fn report(log: &LogDir<'_>, done: bool, mends: &[Mend]) -> Report {
    let files = mends.iter().map(|mend| MendLine {
        file: mend.file.clone(),
        set_aside_as: mend.aside.clone(),
        replaced_by: mend.replaced_by.clone(),
        records_kept: mend.records_kept,
        findings: mend.findings.iter().map(FindingLine::of).collect(),
    });
    Report {
        log: log.dir().display().to_string(),
        done,
        files: files.collect(),
    }
}

fn plain(done: bool, mends: &[Mend]) -> String {
    if mends.is_empty() {
        return "nothing is damaged, nothing to do\n".to_owned();
    }
    let verb = if done { "was" } else { "would be" };
    let mut out = String::new();
    for mend in mends {
        for finding in &mend.findings {
            out.push_str(&text::finding(finding));
        }
        let aside = &mend.aside;
        out.push_str(&format!("{} {verb} set aside as {aside}", mend.file));
        if mend.replaced_by.is_some() {
            let records = text::counted(mend.records_kept, "record");
            out.push_str(&format!(
                ", a copy of its {records} that are whole put in its place"
            ));
        }
        out.push('\n');
    }
    if !done {
        out.push_str("nothing was changed; --yes does it\n");
    }
    out
}
