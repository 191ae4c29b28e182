//! Every framing but the shim link's: nothing acknowledges these frames, so nothing may be read that
//! has no place.
//!
//! While the log is full, the frame that found no room is kept, the bytes behind it too, and no more
//! are read: the kernel's buffer fills and flow control, where there is any, holds the sender.

use std::collections::VecDeque;
use std::time::Duration;

use super::line::{Intake, LogFailed, Sink};
use crate::clock;
use crate::commit_log::{AppendError, Progress};
use crate::framing::{self, Format, FrameDecoder, Outcome, Rejection};
use crate::ingest::{Committed, NotCommitted, Ticket};
use crate::record::{NewRecord, Origin, PayloadKind, serial_subject};

/// A line of frames that aren't acknowledged.
#[derive(Debug)]
pub(super) struct Framed {
    intake: Intake,
    subject: String,
    decoder: Box<dyn FrameDecoder>,
    /// The decoder holds a whole frame that found no room.
    blocked: bool,
    /// Bytes read behind it; at most one read's worth.
    rest: VecDeque<u8>,
    /// Appended and not known to be durable. As many as the log's own buffer holds.
    uncommitted: VecDeque<Ticket>,
}

impl Framed {
    pub(super) fn new(intake: Intake, format: &Format) -> Self {
        let subject = serial_subject(&intake.name, intake.name.as_str());
        Self {
            intake,
            subject,
            decoder: framing::decoder(format),
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

    /// Tries the frame that found no room again, and goes on with the bytes behind it.
    pub(super) fn go_on(&mut self, sink: &Sink<'_>) -> Result<(), LogFailed> {
        if self.blocked {
            self.append(sink)?;
        }
        while !self.blocked {
            let Some(byte) = self.rest.pop_front() else {
                return Ok(());
            };
            let outcome = self.decoder.push(byte);
            self.judge(outcome, sink)?;
        }
        Ok(())
    }

    /// The silence that would change something now. While nothing is read there is none to hear.
    pub(super) fn silence(&self) -> Option<Duration> {
        self.decoder.silence().filter(|_| !self.blocked)
    }

    /// The line was silent for that long.
    pub(super) fn silent(&mut self, sink: &Sink<'_>) -> Result<(), LogFailed> {
        let outcome = self.decoder.silent();
        self.judge(outcome, sink)
    }

    fn judge(&mut self, outcome: Outcome, sink: &Sink<'_>) -> Result<(), LogFailed> {
        match outcome {
            Outcome::Pending => Ok(()),
            Outcome::Frame => self.append(sink),
            Outcome::Rejected(rejection) => {
                self.reject(rejection);
                Ok(())
            }
        }
    }

    fn reject(&self, rejection: Rejection) {
        self.intake.metrics.frame_rejected(rejection.reason());
    }

    fn append(&mut self, sink: &Sink<'_>) -> Result<(), LogFailed> {
        let appended = sink(&NewRecord {
            source: &self.intake.name,
            subject: &self.subject,
            kind: PayloadKind::Opaque,
            origin: Origin::Line,
            received: clock::now(),
            payload: self.decoder.frame(),
        });
        self.blocked = false;
        match appended {
            Ok(ticket) => {
                self.intake.metrics.received.inc();
                self.uncommitted.push_back(ticket);
            }
            Err(AppendError::Full) => self.blocked = true,
            // No segment will ever hold it.
            Err(AppendError::TooLarge { .. }) => self.reject(Rejection::TooLong),
            Err(AppendError::Closed) => return Err(LogFailed),
        }
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

    pub(super) fn uncommitted(&self) -> usize {
        self.uncommitted.len()
    }

    /// The port is gone, and with it the end of a frame that had begun.
    pub(super) fn line_lost(&mut self) {
        if !self.blocked && self.decoder.cut() {
            self.reject(Rejection::Truncated);
        }
    }

    /// The gateway stops: what was read and found no room is lost, and counted.
    pub(super) fn give_up(&mut self) {
        let mut frames = u64::from(self.blocked);
        for byte in self.rest.drain(..) {
            frames += u64::from(self.decoder.push(byte) == Outcome::Frame);
        }
        if frames > 0 {
            self.intake.metrics.dropped("shutdown", frames);
        }
        self.blocked = false;
        self.decoder.cut();
    }
}
