//! `buffer verify`: reads everything.

use serde::Serialize;

use super::place::Place;
use super::progress::Progress;
use super::{CommandError, FindingLine, json, open, text};
use crate::cli::{EXIT_FAILURE, say};
use crate::commit_log::offline::{Event, LogDir};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Arguments {
    #[command(flatten)]
    place: Place,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Default, Serialize)]
struct Verdict {
    log: String,
    whole: bool,
    segments: usize,
    segment_bytes: u64,
    /// Whole ones, checkpoints included.
    batches: u64,
    records: u64,
    first_offset: u64,
    end_offset: u64,
    /// How many of the findings are damage.
    damaged: u64,
    findings: Vec<FindingLine>,
}

pub(super) fn run(arguments: &Arguments) -> Result<u8, CommandError> {
    let log = open(&arguments.place)?;
    let verdict = judge(&log, arguments.json)?;
    if arguments.json {
        say(&json(&verdict));
    } else {
        say(&plain(&verdict));
    }
    Ok(if verdict.whole { 0 } else { EXIT_FAILURE })
}

fn judge(log: &LogDir<'_>, json: bool) -> Result<Verdict, CommandError> {
    let mut verdict = Verdict {
        log: log.dir().display().to_string(),
        segments: log.segments(),
        segment_bytes: log.segment_bytes(),
        first_offset: log.first().get(),
        end_offset: log.end().get(),
        ..Verdict::default()
    };
    let progress = Progress::over(log.segment_bytes());
    let mut scan = log.scan();
    while let Some(event) = scan.next()? {
        match event {
            Event::Batch(batch) => {
                verdict.batches += 1;
                verdict.records += batch.count();
            }
            Event::Finding(finding) => {
                verdict.damaged += u64::from(finding.what.is_damage());
                if json {
                    verdict.findings.push(FindingLine::of(&finding));
                } else {
                    progress.say(&text::finding(&finding));
                }
            }
        }
        progress.at(scan.passed_bytes());
    }
    verdict.whole = verdict.damaged == 0;
    Ok(verdict)
}

fn plain(verdict: &Verdict) -> String {
    let read = format!(
        "{}, {} in {} ({}) of {}",
        text::counted(verdict.batches, "whole batch"),
        text::counted(verdict.records, "record"),
        text::counted(verdict.segments as u64, "segment"),
        text::size(verdict.segment_bytes),
        verdict.log,
    );
    if verdict.whole {
        format!("whole: {read}\n")
    } else {
        let places = text::counted(verdict.damaged, "place");
        format!("damaged: {places}; {read}\n`edge-gateway buffer repair` shows what can be done\n")
    }
}
