//! Text lines, ended by LF or CRLF: nothing acknowledges them, so nothing may be read that has no
//! place.
//!
//! While the log is full, the line that found no room is kept, the bytes behind it too, and no more
//! are read: the kernel's buffer fills and flow control, where there is any, holds the sender.
//! Bytes that aren't UTF-8 stay as they are. A line over the limit is rejected once, as soon as it
//! is too long, and reading goes on behind its end. An empty line says nothing.

use std::collections::VecDeque;

use super::line::{Intake, LogFailed, Sink};
use crate::clock;
use crate::commit_log::{AppendError, Progress};
use crate::ingest::{Committed, NotCommitted, Ticket};
use crate::record::{NewRecord, Origin, PayloadKind, serial_subject};

/// Cuts a byte stream into lines.
#[derive(Debug)]
struct LineDecoder {
    line: Vec<u8>,
    bytes_max: usize,
    /// The rest of a line that was rejected.
    skipping: bool,
}

/// What a byte brought.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Pending,
    /// [`LineDecoder::line`] is a line, without its end.
    Line,
    TooLong,
}

impl LineDecoder {
    fn new(bytes_max: usize) -> Self {
        Self {
            line: Vec::new(),
            bytes_max,
            skipping: false,
        }
    }

    fn push(&mut self, byte: u8) -> Outcome {
        match (byte, self.skipping) {
            (b'\n', true) => {
                self.clear();
                Outcome::Pending
            }
            (b'\n', false) => self.end(),
            (_, true) => Outcome::Pending,
            (_, false) => {
                self.line.push(byte);
                self.check()
            }
        }
    }

    /// One byte more than allowed may be the CR of the line's end.
    fn check(&mut self) -> Outcome {
        let over = self.line.len().saturating_sub(self.bytes_max);
        if over == 0 || over == 1 && self.line.ends_with(b"\r") {
            return Outcome::Pending;
        }
        self.line.clear();
        self.skipping = true;
        Outcome::TooLong
    }

    fn end(&mut self) -> Outcome {
        if self.line.ends_with(b"\r") {
            self.line.pop();
        }
        if self.line.is_empty() {
            Outcome::Pending
        } else {
            Outcome::Line
        }
    }

    fn clear(&mut self) {
        self.line.clear();
        self.skipping = false;
    }
}

/// A line of text lines.
#[derive(Debug)]
pub(super) struct Lines {
    intake: Intake,
    subject: String,
    decoder: LineDecoder,
    /// The decoder holds a whole line that found no room.
    blocked: bool,
    /// Bytes read behind it; at most one read's worth.
    rest: VecDeque<u8>,
    /// Appended and not known to be durable. As many as the log's own buffer holds.
    uncommitted: VecDeque<Ticket>,
}

impl Lines {
    pub(super) fn new(intake: Intake, frame_bytes_max: usize) -> Self {
        let subject = serial_subject(&intake.name, intake.name.as_str());
        Self {
            intake,
            subject,
            decoder: LineDecoder::new(frame_bytes_max),
            blocked: false,
            rest: VecDeque::new(),
            uncommitted: VecDeque::new(),
        }
    }

    /// Whether there is room for what is read.
    pub(super) fn wants_bytes(&self) -> bool {
        !self.blocked
    }

    pub(super) fn feed(&mut self, bytes: &[u8], sink: &Sink<'_>) -> Result<(), LogFailed> {
        self.rest.extend(bytes);
        self.go_on(sink)
    }

    /// Tries the line that found no room again, and goes on with the bytes behind it.
    pub(super) fn go_on(&mut self, sink: &Sink<'_>) -> Result<(), LogFailed> {
        if self.blocked {
            self.append(sink)?;
        }
        while !self.blocked {
            let Some(byte) = self.rest.pop_front() else {
                return Ok(());
            };
            match self.decoder.push(byte) {
                Outcome::Pending => {}
                Outcome::Line => self.append(sink)?,
                Outcome::TooLong => self.intake.metrics.frame_rejected("too_long"),
            }
        }
        Ok(())
    }

    fn append(&mut self, sink: &Sink<'_>) -> Result<(), LogFailed> {
        let appended = sink(&NewRecord {
            source: &self.intake.name,
            subject: &self.subject,
            kind: PayloadKind::Opaque,
            origin: Origin::Line,
            received: clock::now(),
            payload: &self.decoder.line,
        });
        self.blocked = false;
        match appended {
            Ok(ticket) => {
                self.intake.metrics.received.inc();
                self.uncommitted.push_back(ticket);
            }
            Err(AppendError::Full) => {
                self.blocked = true;
                return Ok(());
            }
            // No segment will ever hold it.
            Err(AppendError::TooLarge { .. }) => self.intake.metrics.frame_rejected("too_long"),
            Err(AppendError::Closed) => return Err(LogFailed),
        }
        self.decoder.clear();
        Ok(())
    }

    /// Counts what has become durable.
    pub(super) fn resolve(&mut self, progress: &Progress) -> Result<(), NotCommitted> {
        while let Some(outcome) = self.uncommitted.front().and_then(|t| t.outcome(progress)) {
            let _proof: Committed = outcome?;
            self.uncommitted.pop_front();
            self.intake.metrics.committed.inc();
        }
        Ok(())
    }

    pub(super) fn all_committed(&self) -> bool {
        self.uncommitted.is_empty()
    }

    /// The port is gone, and with it the end of a line that had begun.
    pub(super) fn line_lost(&mut self) {
        if !self.blocked && !self.decoder.line.is_empty() {
            self.intake.metrics.frame_rejected("truncated");
        }
        if !self.blocked {
            self.decoder.clear();
        }
    }

    /// The gateway stops: what was read and found no room is lost, and counted.
    pub(super) fn give_up(&mut self) {
        let whole = self.rest.drain(..).filter(|&byte| byte == b'\n').count();
        let lines = whole as u64 + u64::from(self.blocked);
        if lines > 0 {
            self.intake.metrics.dropped("shutdown", lines);
        }
        self.blocked = false;
        self.decoder.clear();
    }
}
