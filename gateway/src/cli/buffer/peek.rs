//! `buffer peek`: some records, on a line each.

use std::collections::VecDeque;

use super::place::Place;
use super::{CommandError, open, record};
use crate::cli::say;
use crate::commit_log::offline::{BatchAt, Event, LogDir};
use crate::record::{Offset, RecordView};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Arguments {
    #[command(flatten)]
    place: Place,
    /// How many records
    #[arg(long, value_name = "N", default_value_t = 10)]
    count: usize,
    /// The newest ones rather than the oldest that are not delivered
    #[arg(long, conflicts_with = "from")]
    last: bool,
    /// First offset; may be delivered already, as long as it is on disk
    #[arg(long, value_name = "OFFSET")]
    from: Option<u64>,
    /// Only records of this source
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// JSON lines, as export writes them
    #[arg(long)]
    json: bool,
}

impl Arguments {
    fn line(&self, record: &RecordView<'_>, batch: &BatchAt<'_>) -> String {
        if self.json {
            record::json_line(record, batch)
        } else {
            record::plain_line(record)
        }
    }

    fn first(&self, log: &LogDir<'_>) -> Offset {
        match (self.from, &self.source) {
            (Some(from), _) => Offset::new(from),
            // Offsets are dense, so that the last records are those before the end, but for holes.
            (None, None) if self.last => {
                let count = u64::try_from(self.count).unwrap_or(u64::MAX);
                Offset::new(log.end().get().saturating_sub(count))
            }
            (None, Some(_)) if self.last => log.first(),
            (None, _) => log.committed(),
        }
    }
}

pub(super) fn run(arguments: &Arguments) -> Result<u8, CommandError> {
    let log = open(&arguments.place)?;
    let first = arguments.first(&log);
    let mut newest = VecDeque::new();
    let mut shown = 0;
    let mut scan = log.scan_from(first);
    'scan: while let Some(event) = scan.next()? {
        let Event::Batch(batch) = event else {
            continue;
        };
        let wanted = batch.records().filter(|record| {
            let source = arguments.source.as_deref();
            record.offset >= first && source.is_none_or(|source| source == record.source)
        });
        for record in wanted {
            if arguments.last {
                newest.push_back(arguments.line(&record, &batch));
                if newest.len() > arguments.count {
                    newest.pop_front();
                }
            } else if shown < arguments.count {
                say(&arguments.line(&record, &batch));
                shown += 1;
            } else {
                break 'scan;
            }
        }
    }
    for line in newest {
        say(&line);
    }
    Ok(0)
}
