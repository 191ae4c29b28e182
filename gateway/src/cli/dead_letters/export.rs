//! `dead-letters export`: JSON lines with everything that is kept.

use std::io;
use std::path::PathBuf;

use serde::Serialize;

use super::filter::Filter;
use super::list::Line;
use super::reading::{self, Flow};
use super::{LettersError, filter};
use crate::cli::buffer::export::Output;
use crate::cli::buffer::place::DataDir;
use crate::cli::buffer::record::text_or_base64;
use crate::cli::buffer::{CommandError, json, text};
use crate::cli::{EXIT_FAILURE, complain};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Arguments {
    /// Only these offsets: 7, or 7-12
    #[arg(value_name = "OFFSETS", value_parser = filter::offsets)]
    offsets: Vec<(u64, u64)>,
    #[command(flatten)]
    filter: Filter,
    /// A new file for the letters [default: standard output]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    data: DataDir,
}

#[derive(Debug, Serialize)]
struct FullLine<'a> {
    #[serde(flatten)]
    line: Line<'a>,
    received_mono_ms: u64,
    /// The boot that `received_mono_ms` counts in.
    boot_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
}

pub(super) fn run(arguments: &Arguments) -> Result<u8, LettersError> {
    let selection = arguments.filter.selection(&arguments.offsets)?;
    let data_dir = arguments.data.path()?;
    let mut output = Output::open(arguments.output.as_deref())?;
    let mut letters = 0;
    let mut failed = None;
    let damaged = reading::each(&data_dir, &selection, |record, letter| {
        let (payload, payload_base64) = text_or_base64(&letter.payload);
        let line = json(&FullLine {
            line: Line::of(record, &letter),
            received_mono_ms: record.received.mono_ms,
            boot_id: letter.boot_id.map(|boot| format!("{boot:016x}")),
            payload,
            payload_base64,
        });
        failed = output.write(&line).err();
        letters += 1;
        Ok(if failed.is_none() {
            Flow::Continue
        } else {
            Flow::Enough
        })
    })?;
    let finished = failed.map_or_else(|| output.finish(), Err);
    match finished {
        Ok(()) => {}
        // Whoever reads has enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(0),
        Err(source) => {
            let to = output.name();
            return Err(CommandError::Output { to, source }.into());
        }
    }
    if arguments.output.is_some() {
        let counted = text::counted(letters, "dead letter");
        complain(&format!("{counted} written to {}", output.name()));
    }
    Ok(if damaged == 0 { 0 } else { EXIT_FAILURE })
}
