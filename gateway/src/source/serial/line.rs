//! What every framing is to the loop: bytes go in, records go to the log, and what has become
//! durable comes back. Nothing here waits.

use std::collections::BTreeMap;
use std::time::Duration;

use firmware_shim::link::LinkState;

use super::framed::Framed;
use super::shim::ShimLine;
use super::wall::Look;
use crate::commit_log::{AppendError, Progress};
use crate::config::Serial;
use crate::framing::Framing;
use crate::ingest::{NotCommitted, Ticket};
use crate::metrics::SourceMetrics;
use crate::record::{NewRecord, SourceName};

/// Where records go; it never waits.
pub(super) type Sink<'a> = dyn Fn(&NewRecord<'_>) -> Result<Ticket, AppendError> + 'a;

/// What every framing is made with.
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
    Framed(Box<Framed>),
}

impl Line {
    pub(super) fn new(config: &Serial, intake: Intake, links: &BTreeMap<u8, LinkState>) -> Self {
        let format = config.format();
        match config.framing {
            Framing::Shim => Self::Shim(Box::new(ShimLine::new(
                intake,
                format.frame_bytes_max,
                links,
            ))),
            Framing::Lines
            | Framing::Cobs
            | Framing::Slip
            | Framing::LengthU8
            | Framing::LengthU16Be
            | Framing::Delimited { .. }
            | Framing::Idle(_) => Self::Framed(Box::new(Framed::new(intake, &format))),
        }
    }

    pub(super) fn wants_bytes(&self) -> bool {
        match self {
            Self::Shim(_) => true,
            Self::Framed(framed) => framed.wants_bytes(),
        }
    }

    pub(super) fn feed(&mut self, bytes: &[u8], sink: &Sink<'_>) -> Result<(), LogFailed> {
        match self {
            Self::Shim(shim) => shim.feed(bytes, sink),
            Self::Framed(framed) => framed.feed(bytes, sink),
        }
    }

    /// Whether the rest of a frame is sure to come, and nothing is to be learnt from when.
    pub(super) fn is_within_frame(&self) -> bool {
        match self {
            Self::Shim(shim) => shim.is_within_frame(),
            Self::Framed(_) => false,
        }
    }

    /// The silence that would change something now.
    pub(super) fn silence(&self) -> Option<Duration> {
        match self {
            Self::Shim(_) => None,
            Self::Framed(framed) => framed.silence(),
        }
    }

    /// The line was silent for that long.
    pub(super) fn silent(&mut self, sink: &Sink<'_>) -> Result<(), LogFailed> {
        match self {
            Self::Shim(_) => Ok(()),
            Self::Framed(framed) => framed.silent(sink),
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
            Self::Framed(framed) => {
                framed.resolve(progress)?;
                framed.go_on(sink)
            }
        }
    }

    /// As [`advance`](Self::advance), but takes nothing more.
    pub(super) fn settle(&mut self, progress: &Progress) -> Result<(), LogFailed> {
        match self {
            Self::Shim(shim) => shim.resolve(progress)?,
            Self::Framed(framed) => framed.resolve(progress)?,
        }
        Ok(())
    }

    pub(super) fn all_committed(&self) -> bool {
        self.uncommitted() == 0
    }

    /// Records that are not committed yet.
    pub(super) fn uncommitted(&self) -> usize {
        match self {
            Self::Shim(shim) => shim.uncommitted(),
            Self::Framed(framed) => framed.uncommitted(),
        }
    }

    /// How many messages a device waits to have acknowledged, and the last of them.
    pub(super) fn unacknowledged(&self) -> Option<(usize, Ticket)> {
        match self {
            Self::Shim(shim) => shim.unacknowledged(),
            Self::Framed(_) => None,
        }
    }

    /// Whether there is something to do when the log has moved on.
    pub(super) fn waits_for_log(&self) -> bool {
        !self.all_committed() || !self.wants_bytes()
    }

    pub(super) fn clock_stepped(&mut self) {
        match self {
            Self::Shim(shim) => shim.clock_stepped(),
            Self::Framed(_) => {}
        }
    }

    pub(super) fn answer(&mut self, look: &Look, out: &mut Vec<u8>) {
        match self {
            Self::Shim(shim) => shim.answer(look, out),
            Self::Framed(_) => {}
        }
    }

    pub(super) fn answer_due_ms(&self, look: &Look) -> Option<u64> {
        match self {
            Self::Shim(shim) => shim.answer_due_ms(look),
            Self::Framed(_) => None,
        }
    }

    pub(super) fn line_lost(&mut self) {
        match self {
            Self::Shim(shim) => shim.line_lost(),
            Self::Framed(framed) => framed.line_lost(),
        }
    }

    pub(super) fn give_up(&mut self) {
        match self {
            Self::Shim(_) => {}
            Self::Framed(framed) => framed.give_up(),
        }
    }
}
