//! `buffer stat`: what is in the log, from the slots and the newest segment. Reading it all takes
//! `--by-source`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use super::place::Place;
use super::progress::Progress;
use super::{CommandError, FindingLine, json, open, text};
use crate::cli::say;
use crate::clock;
use crate::commit_log::offline::{
    BatchAt, Event, Finding, LockState, LogDir, OtherFile, What, lock_state,
};
use crate::record::RecordView;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Arguments {
    #[command(flatten)]
    place: Place,
    /// Also read all records that are not delivered: count them by source, and name what is missing
    #[arg(long)]
    by_source: bool,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Stat {
    log: String,
    /// Null where it cannot be known.
    in_use: Option<bool>,
    owner: Option<String>,
    identity: Option<String>,
    format_version: u8,
    open_counter: u32,
    has_slots: bool,
    segments: usize,
    first_offset: u64,
    committed_offset: u64,
    synced_offset: u64,
    end_offset: u64,
    /// Offsets from committed to end; what is missing among them is counted too.
    undelivered: u64,
    oldest: Option<Oldest>,
    segment_bytes: u64,
    disk_bytes: u64,
    spare_files: Vec<FileLine>,
    quarantined_files: Vec<FileLine>,
    foreign_files: Vec<FileLine>,
    #[serde(skip_serializing_if = "Option::is_none")]
    undelivered_by_source: Option<BTreeMap<String, u64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    findings: Option<Vec<FindingLine>>,
}

/// The oldest record that is not delivered.
#[derive(Debug, Serialize)]
struct Oldest {
    offset: u64,
    received: Option<String>,
    /// Null where the clock was wrong then or is now.
    age_seconds: Option<u64>,
}

#[derive(Debug, Serialize)]
struct FileLine {
    name: String,
    bytes: u64,
}

pub(super) fn run(arguments: &Arguments) -> Result<u8, CommandError> {
    let log = open(&arguments.place)?;
    let mut stat = summary(&log);
    let mut findings = Vec::new();
    if arguments.by_source {
        let sources;
        (sources, findings) = read_all(&log, &mut stat.oldest)?;
        stat.undelivered_by_source = Some(sources);
    } else {
        stat.oldest = oldest(&log)?;
    }
    if arguments.json {
        if arguments.by_source {
            stat.findings = Some(findings.iter().map(FindingLine::of).collect());
        }
        say(&json(&stat));
    } else {
        say(&plain(&stat, &findings));
    }
    Ok(0)
}

fn summary(log: &LogDir<'_>) -> Stat {
    let (in_use, owner) = match lock_state(log.dir()) {
        LockState::Free => (Some(false), None),
        LockState::Held(owner) => (Some(true), Some(owner)),
        LockState::Unknown => (None, None),
    };
    Stat {
        log: log.dir().display().to_string(),
        in_use,
        owner,
        identity: log.identity(),
        format_version: log.format_version(),
        open_counter: log.open_counter(),
        has_slots: log.has_slots(),
        segments: log.segments(),
        first_offset: log.first().get(),
        committed_offset: log.committed().get(),
        synced_offset: log.synced().get(),
        end_offset: log.end().get(),
        undelivered: log.end().since(log.committed()),
        oldest: None,
        segment_bytes: log.segment_bytes(),
        disk_bytes: log.disk_bytes(),
        spare_files: lines(log.spares()),
        quarantined_files: lines(log.quarantined()),
        foreign_files: lines(log.foreign()),
        undelivered_by_source: None,
        findings: None,
    }
}

fn lines(files: &[OtherFile]) -> Vec<FileLine> {
    let lines = files.iter().map(|file| FileLine {
        name: file.name.clone(),
        bytes: file.bytes,
    });
    lines.collect()
}

fn oldest(log: &LogDir<'_>) -> Result<Option<Oldest>, CommandError> {
    let mut scan = log.scan_from(log.committed());
    while let Some(event) = scan.next()? {
        if let Event::Batch(batch) = event
            && let Some(record) = batch
                .records()
                .find(|record| record.offset >= log.committed())
        {
            return Ok(Some(described(&record, &batch)));
        }
    }
    Ok(None)
}

fn described(record: &RecordView<'_>, batch: &BatchAt<'_>) -> Oldest {
    let received = record.received;
    let same_boot = batch.boot_id() != 0 && batch.boot_id() == clock::boot_id();
    let age_ms = if same_boot {
        clock::mono_ms().checked_sub(received.mono_ms)
    } else {
        u64::try_from(clock::wall_ms().saturating_sub(received.wall_ms)).ok()
    };
    Oldest {
        offset: record.offset.get(),
        received: text::rfc3339(received.wall_ms),
        age_seconds: age_ms.map(|ms| ms / 1000),
    }
}

type Sources = BTreeMap<String, u64>;

fn read_all(
    log: &LogDir<'_>,
    oldest: &mut Option<Oldest>,
) -> Result<(Sources, Vec<Finding>), CommandError> {
    let progress = Progress::over(log.segment_bytes());
    let mut sources = Sources::new();
    let mut findings = Vec::new();
    let mut scan = log.scan_from(log.committed());
    while let Some(event) = scan.next()? {
        match event {
            Event::Batch(batch) => {
                let undelivered = batch.records().filter(|r| r.offset >= log.committed());
                for record in undelivered {
                    oldest.get_or_insert_with(|| described(&record, &batch));
                    match sources.get_mut(record.source) {
                        Some(count) => *count += 1,
                        None => drop(sources.insert(record.source.to_owned(), 1)),
                    }
                }
            }
            Event::Finding(finding) => {
                let concerns = finding
                    .offsets
                    .is_some_and(|(_, last)| last >= log.committed());
                if concerns && finding.what != What::Recycled {
                    findings.push(finding);
                }
            }
        }
        progress.at(scan.passed_bytes());
    }
    Ok((sources, findings))
}

fn plain(stat: &Stat, findings: &[Finding]) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a string does not fail.
        let _ = writeln!(out, "{name:<12} {value}");
    };
    line("log", stat.log.clone());
    let in_use = match (stat.in_use, &stat.owner) {
        (Some(true), Some(owner)) => text::printable(owner, 200),
        (Some(true), None) => "somebody".to_owned(),
        (Some(false), _) => "nobody".to_owned(),
        (None, _) => "unknown: the system shows no locks".to_owned(),
    };
    line("in use by", in_use);
    line("identity", identity(stat));
    let Stat {
        committed_offset: committed,
        end_offset: end,
        ..
    } = *stat;
    line("undelivered", range(stat.undelivered, committed, end));
    if let Some(oldest) = &stat.oldest {
        line("oldest", oldest_line(oldest));
    }
    let on_disk = range(
        end.saturating_sub(stat.first_offset),
        stat.first_offset,
        end,
    );
    let segments = text::counted(stat.segments as u64, "segment");
    line("on disk", format!("{on_disk}, in {segments}"));
    line("committed", format!("below offset {committed}"));
    line("synced", format!("below offset {}", stat.synced_offset));
    line("disk space", text::size(stat.disk_bytes));
    for (name, files) in [
        ("spare", &stat.spare_files),
        ("set aside", &stat.quarantined_files),
        ("foreign", &stat.foreign_files),
    ] {
        for file in files {
            let bytes = text::size(file.bytes);
            line(
                name,
                format!("{}, {bytes}", text::printable(&file.name, 80)),
            );
        }
    }
    for (source, records) in stat.undelivered_by_source.iter().flatten() {
        let source = text::printable(source, 80);
        line(
            "source",
            format!("{source}: {}", text::counted(*records, "record")),
        );
    }
    for finding in findings {
        line("missing", text::finding(finding).trim_end().to_owned());
    }
    out
}

fn identity(stat: &Stat) -> String {
    let slots = if stat.has_slots {
        ""
    } else {
        ", no whole slot"
    };
    format!(
        "{}, format version {}, opened {}{slots}",
        stat.identity.as_deref().unwrap_or("none"),
        stat.format_version,
        text::counted(u64::from(stat.open_counter), "time"),
    )
}

fn range(count: u64, from: u64, end: u64) -> String {
    match end.checked_sub(1) {
        Some(last) if count > 0 => {
            format!(
                "{}, offsets {from} to {last}",
                text::counted(count, "record")
            )
        }
        Some(_) | None => "nothing".to_owned(),
    }
}

fn oldest_line(oldest: &Oldest) -> String {
    let received = oldest.received.as_deref().unwrap_or("at an unknown time");
    let age = oldest.age_seconds.map_or("age unknown".to_owned(), |age| {
        format!("{} ago", text::age(age))
    });
    format!("offset {}, received {received}, {age}", oldest.offset)
}
