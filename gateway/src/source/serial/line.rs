//! What every framing is to the loop: bytes go in, records go to the log, and what has become
//! durable comes back. Nothing here waits.

use std::collections::HashMap;

use firmware_shim::link::LinkState;

use super::lines::Lines;
use super::shim::ShimLine;
use super::wall::Look;
use crate::commit_log::{AppendError, Progress};
use crate::config::{Framing, Serial};
use crate::ingest::{NotCommitted, Ticket};
use crate::metrics::SourceMetrics;
use crate::record::{NewRecord, SourceName};

/// Where records go; it never waits.
pub(super) type Sink<'a> = dyn Fn(&NewRecord<'_>) -> Result<Ticket, AppendError> + 'a;

/// What both framings are made with.
#[derive(Clone, Debug)]
pub(super) struct Intake {
    pub(super) name: SourceName,
    pub(super) metrics: SourceMetrics,
}

/// The log takes no more records.
#[derive(Debug)]
pub(super) struct LogFailed;

impl From<NotCommitted> for LogFailed {
    fn from(_: NotCommitted) -> Self {
        Self
    }
}

/// How the byte stream becomes records.
#[derive(Debug)]
pub(super) enum Line {
    Shim(Box<ShimLine>),
    Lines(Box<Lines>),
}

impl Line {
    pub(super) fn new(config: &Serial, intake: Intake, links: &HashMap<u8, LinkState>) -> Self {
        let bytes_max = config.frame_bytes_max;
        match config.framing {
            Framing::Shim => Self::Shim(Box::new(ShimLine::new(intake, bytes_max, links))),
            Framing::Lines => Self::Lines(Box::new(Lines::new(intake, bytes_max))),
        }
    }

    pub(super) fn wants_bytes(&self) -> bool {
        match self {
            Self::Shim(_) => true,
            Self::Lines(lines) => lines.wants_bytes(),
        }
    }

    pub(super) fn feed(&mut self, bytes: &[u8], sink: &Sink<'_>) -> Result<(), LogFailed> {
        match self {
            Self::Shim(shim) => shim.feed(bytes, sink),
            Self::Lines(lines) => lines.feed(bytes, sink),
        }
    }

    /// The log has moved on: learns what is durable, and tries again what found no room.
    pub(super) fn advance(
        &mut self,
        progress: &Progress,
        sink: &Sink<'_>,
    ) -> Result<(), LogFailed> {
        match self {
            Self::Shim(shim) => shim.resolve(progress).map_err(LogFailed::from),
            Self::Lines(lines) => {
                lines.resolve(progress)?;
                lines.go_on(sink)
            }
        }
    }

    /// As [`advance`](Self::advance), but takes nothing more.
    pub(super) fn settle(&mut self, progress: &Progress) -> Result<(), LogFailed> {
        match self {
            Self::Shim(shim) => shim.resolve(progress)?,
            Self::Lines(lines) => lines.resolve(progress)?,
        }
        Ok(())
    }

    pub(super) fn all_committed(&self) -> bool {
        match self {
            Self::Shim(shim) => shim.all_committed(),
            Self::Lines(lines) => lines.all_committed(),
        }
    }

    pub(super) fn clock_stepped(&mut self) {
        match self {
            Self::Shim(shim) => shim.clock_stepped(),
            Self::Lines(_) => {}
        }
    }

    pub(super) fn answer(&mut self, look: &Look, out: &mut Vec<u8>) {
        match self {
            Self::Shim(shim) => shim.answer(look, out),
            Self::Lines(_) => {}
        }
    }

    pub(super) fn answer_due_ms(&self, look: &Look) -> Option<u64> {
        match self {
            Self::Shim(shim) => shim.answer_due_ms(look),
            Self::Lines(_) => None,
        }
    }

    pub(super) fn line_lost(&mut self) {
        match self {
            Self::Shim(shim) => shim.line_lost(),
            Self::Lines(lines) => lines.line_lost(),
        }
    }

    pub(super) fn give_up(&mut self) {
        match self {
            Self::Shim(_) => {}
            Self::Lines(lines) => lines.give_up(),
        }
    }
}
