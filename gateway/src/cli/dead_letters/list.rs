//! `dead-letters list`: a line each.

use serde::Serialize;

use super::filter::Filter;
use super::reading::{self, Flow};
use super::{LettersError, filter};
use crate::cli::buffer::place::DataDir;
use crate::cli::buffer::{json, text};
use crate::cli::{EXIT_FAILURE, say};
use crate::dead_letters::Envelope;
use crate::record::RecordView;

/// Most of a text that people are shown, in characters; chosen by eye.
const SHOWN: usize = 60;
/// Lines that are made as wide as each other; chosen by eye.
const LINES_ALIGNED: usize = 1_000;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Arguments {
    /// Only these offsets: 7, or 7-12
    #[arg(value_name = "OFFSETS", value_parser = filter::offsets)]
    offsets: Vec<(u64, u64)>,
    #[command(flatten)]
    filter: Filter,
    /// At most so many, the oldest first
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// JSON lines
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    data: DataDir,
}

/// A dead letter, for machines, without its payload.
#[derive(Debug, Serialize)]
pub(super) struct Line<'a> {
    offset: u64,
    /// When it was set aside; null where the clock said a time beyond the calendar.
    time: Option<String>,
    received: Option<String>,
    received_wall_ms: i64,
    source: &'a str,
    subject: &'a str,
    kind: Option<&'a str>,
    reason: &'a str,
    code: Option<&'a str>,
    detail: &'a str,
    topic: Option<&'a str>,
    log: Option<&'a str>,
    log_offset: Option<u64>,
    payload_bytes: u64,
    payload_bytes_kept: u64,
}

impl<'a> Line<'a> {
    pub(super) fn of(record: &RecordView<'a>, letter: &'a Envelope) -> Self {
        Self {
            offset: record.offset.get(),
            time: letter.set_aside_ms.and_then(text::rfc3339),
            received: text::rfc3339(record.received.wall_ms),
            received_wall_ms: record.received.wall_ms,
            source: record.source,
            subject: record.subject,
            kind: letter.kind.as_deref(),
            reason: &letter.reason,
            code: letter.code.as_deref(),
            detail: &letter.detail,
            topic: letter.topic.as_deref(),
            log: letter.log.as_deref(),
            log_offset: letter.offset,
            payload_bytes: letter.payload_bytes,
            payload_bytes_kept: letter.payload.len() as u64,
        }
    }
}

pub(super) fn run(arguments: &Arguments) -> Result<u8, LettersError> {
    let selection = arguments.filter.selection(&arguments.offsets)?;
    let limit = arguments.limit.unwrap_or(u64::MAX);
    let (mut letters, mut bytes) = (0, 0);
    let mut table = Table::default();
    let damaged = reading::each(&arguments.data.path()?, &selection, |record, letter| {
        if letters == limit {
            return Ok(Flow::Enough);
        }
        letters += 1;
        bytes += letter.payload.len() as u64;
        if arguments.json {
            say(&json(&Line::of(record, &letter)));
        } else {
            table.push(row(record, &letter));
        }
        Ok(Flow::Continue)
    })?;
    if !arguments.json {
        table.flush();
        let counted = text::counted(letters, "dead letter");
        say(&format!("{counted}, payloads of {}\n", text::size(bytes)));
    }
    Ok(if damaged == 0 { 0 } else { EXIT_FAILURE })
}

const COLUMNS: usize = 7;
const HEADINGS: [&str; COLUMNS] = [
    "OFFSET", "TIME", "SOURCE", "SUBJECT", "REASON", "TOPIC", "SIZE",
];

fn row(record: &RecordView<'_>, letter: &Envelope) -> [String; COLUMNS] {
    let time = text::rfc3339(record.received.wall_ms);
    let size = text::size(letter.payload_bytes);
    [
        record.offset.to_string(),
        time.unwrap_or_else(|| "(no time)".to_owned()),
        text::printable(record.source, SHOWN),
        text::printable(record.subject, SHOWN),
        text::printable(&letter.reason, SHOWN),
        text::printable(letter.topic.as_deref().unwrap_or("-"), SHOWN),
        if letter.is_whole() {
            size
        } else {
            format!("{size} (head kept)")
        },
    ]
}

/// Lines of columns, so many at a time.
#[derive(Debug, Default)]
struct Table {
    rows: Vec<[String; COLUMNS]>,
    has_headings: bool,
}

impl Table {
    fn push(&mut self, row: [String; COLUMNS]) {
        self.rows.push(row);
        if self.rows.len() == LINES_ALIGNED {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if self.rows.is_empty() {
            return;
        }
        if !self.has_headings {
            self.has_headings = true;
            self.rows.insert(0, HEADINGS.map(str::to_owned));
        }
        let width = |column: usize| {
            let cells = self.rows.iter().map(|row| row[column].chars().count());
            cells.max().unwrap_or(0)
        };
        let widths: [usize; COLUMNS] = std::array::from_fn(width);
        for row in self.rows.drain(..) {
            let cells = row.iter().zip(widths);
            let padded = cells.map(|(cell, width)| format!("{cell:width$}"));
            let line = padded.collect::<Vec<_>>().join("  ");
            say(&format!("{}\n", line.trim_end()));
        }
    }
}
