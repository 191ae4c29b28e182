//! `buffer export`: records as JSON lines, one each, without loss.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};

use super::place::Place;
use super::progress::Progress;
use super::{CommandError, open, record, text};
use crate::cli::{EXIT_FAILURE, complain};
use crate::commit_log::offline::{BatchAt, Event, LogDir};
use crate::record::{Offset, RecordView};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Arguments {
    #[command(flatten)]
    place: Place,
    /// First offset [default: the first that is not delivered]
    #[arg(long, value_name = "OFFSET", conflicts_with = "all")]
    from: Option<u64>,
    /// Last offset [default: the last one synced]
    #[arg(long, value_name = "OFFSET")]
    to: Option<u64>,
    /// Only records of this source
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// Also records that are delivered and still on disk
    #[arg(long)]
    all: bool,
    /// A new file for the records [default: standard output]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Arguments {
    fn first(&self, log: &LogDir<'_>) -> Offset {
        match self.from {
            Some(from) => Offset::new(from),
            None if self.all => log.first(),
            None => log.committed(),
        }
    }

    fn wants(&self, record: &RecordView<'_>) -> bool {
        let source = self.source.as_deref();
        source.is_none_or(|source| source == record.source)
    }
}

/// Where the lines go.
pub(in crate::cli) enum Output {
    File(BufWriter<File>, PathBuf),
    Standard(BufWriter<io::StdoutLock<'static>>),
}

impl Output {
    pub(in crate::cli) fn open(path: Option<&Path>) -> Result<Self, CommandError> {
        let Some(path) = path else {
            return Ok(Self::Standard(BufWriter::new(io::stdout().lock())));
        };
        // Never over anything: it could be the log.
        let file = File::create_new(path).map_err(|source| CommandError::Output {
            to: path.display().to_string(),
            source,
        })?;
        Ok(Self::File(BufWriter::new(file), path.to_owned()))
    }

    pub(in crate::cli) fn write(&mut self, line: &str) -> io::Result<()> {
        match self {
            Self::File(file, _) => file.write_all(line.as_bytes()),
            Self::Standard(out) => out.write_all(line.as_bytes()),
        }
    }

    /// What was written is durable on return, if it is a file.
    pub(in crate::cli) fn finish(&mut self) -> io::Result<()> {
        match self {
            Self::File(file, _) => file.flush().and_then(|()| file.get_ref().sync_all()),
            Self::Standard(out) => out.flush(),
        }
    }

    pub(in crate::cli) fn name(&self) -> String {
        match self {
            Self::File(_, path) => path.display().to_string(),
            Self::Standard(_) => "standard output".to_owned(),
        }
    }
}

/// How it went.
#[derive(Debug, Default)]
struct Outcome {
    records: u64,
    damaged: u64,
}

pub(super) fn run(arguments: &Arguments) -> Result<u8, CommandError> {
    let log = open(&arguments.place)?;
    let mut output = Output::open(arguments.output.as_deref())?;
    let mut outcome = Outcome::default();
    let copied = copy(arguments, &log, &mut output, &mut outcome);
    let finished = copied.and_then(|()| output.finish().map_err(CopyError::Output));
    match finished {
        Ok(()) => {}
        // Whoever reads has enough.
        Err(CopyError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(0),
        Err(CopyError::Output(source)) => {
            let to = output.name();
            return Err(CommandError::Output { to, source });
        }
        Err(CopyError::Log(error)) => return Err(error),
    }
    if let Output::File(_, path) = &output {
        let records = text::counted(outcome.records, "record");
        complain(&format!("{records} written to {}", path.display()));
    }
    Ok(if outcome.damaged == 0 {
        0
    } else {
        EXIT_FAILURE
    })
}

enum CopyError {
    Output(io::Error),
    Log(CommandError),
}

fn copy(
    arguments: &Arguments,
    log: &LogDir<'_>,
    output: &mut Output,
    outcome: &mut Outcome,
) -> Result<(), CopyError> {
    let first = arguments.first(log);
    let last = arguments.to.map_or(Offset::new(u64::MAX), Offset::new);
    let progress = match output {
        Output::Standard(_) if io::stdout().is_terminal() => Progress::hidden(),
        Output::Standard(_) | Output::File(..) => Progress::over(log.segment_bytes()),
    };
    let mut scan = log.scan_from(first);
    loop {
        let event = scan.next().map_err(|error| CopyError::Log(error.into()))?;
        match event {
            None => return Ok(()),
            Some(Event::Batch(batch)) if batch.base() > last => return Ok(()),
            Some(Event::Batch(batch)) => {
                let records = batch.records();
                let wanted = records.filter(|r| r.offset >= first && r.offset <= last);
                for record in wanted.filter(|record| arguments.wants(record)) {
                    put(&record, &batch, output)?;
                    outcome.records += 1;
                }
            }
            Some(Event::Finding(finding)) => {
                let concerns = finding
                    .offsets
                    .is_some_and(|(from, to)| to >= first && from <= last);
                if concerns {
                    outcome.damaged += u64::from(finding.what.is_damage());
                    complain(text::finding(&finding).trim_end());
                }
            }
        }
        progress.at(scan.passed_bytes());
    }
}

fn put(record: &RecordView<'_>, batch: &BatchAt<'_>, output: &mut Output) -> Result<(), CopyError> {
    let line = record::json_line(record, batch);
    output.write(&line).map_err(CopyError::Output)
}
