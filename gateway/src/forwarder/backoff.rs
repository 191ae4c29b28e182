//! When to stop, and how to wait for what must pass by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::ForwarderError;
use crate::commit_log::ReadError;
use crate::pulse::Pulse;

/// Waits between attempts to go on after trouble that must pass by itself.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// How often, and how far apart, a read of the log is repeated before it counts as failed.
const READ_ATTEMPTS: u32 = 5;
const READ_RETRY_WAIT: Duration = Duration::from_millis(200);

/// When to stop: asked for by the flag, over once the grace period has passed. Every wait of the
/// forwarder asks it, so asking is also the forwarder's sign of life.
#[derive(Debug)]
pub(super) struct Stop {
    flag: Arc<AtomicBool>,
    pulse: Pulse,
    grace: Duration,
    deadline: Option<Instant>,
    /// When a turn of limited time is over.
    turn_ends: Option<Instant>,
}

impl Stop {
    pub(super) fn new(flag: Arc<AtomicBool>, pulse: Pulse, grace: Duration) -> Self {
        Self {
            flag,
            pulse,
            grace,
            deadline: None,
            turn_ends: None,
        }
    }

    /// Begins a turn: unless another begins, all is over after `turn`. `None`: for as long as it takes.
    pub(super) fn begin_turn(&mut self, turn: Option<Duration>) {
        self.turn_ends = turn.map(|turn| Instant::now() + turn);
    }

    pub(super) fn requested(&self) -> bool {
        self.pulse.beat();
        self.flag.load(Ordering::Relaxed)
    }

    /// The grace period, which begins when this is first called after the request, is over.
    pub(super) fn is_over(&mut self) -> bool {
        if self.turn_ends.is_some_and(|ends| Instant::now() >= ends) {
            return true;
        }
        if !self.requested() {
            return false;
        }
        let grace = self.grace;
        let now = Instant::now();
        now >= *self.deadline.get_or_insert_with(|| now + grace)
    }
}

/// Waits that grow until something goes well.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(super) fn new() -> Self {
        Self { next: BACKOFF_MIN }
    }

    pub(super) fn reset(&mut self) {
        self.next = BACKOFF_MIN;
    }

    /// Waits, or until the grace period is over.
    pub(super) fn wait(&mut self, stop: &mut Stop) {
        self.wait_at_least(Duration::ZERO, stop);
    }

    /// Likewise, and no less than `least`.
    pub(super) fn wait_at_least(&mut self, least: Duration, stop: &mut Stop) {
        let until = Instant::now() + self.next.max(least);
        while Instant::now() < until && !stop.is_over() {
            thread::sleep(BACKOFF_MIN.min(until.saturating_duration_since(Instant::now())));
        }
        self.next = (self.next * 2).min(BACKOFF_MAX);
    }
}

/// Reads of the log that failed in a row. A disk may recover.
#[derive(Debug, Default)]
pub(super) struct FailedReads {
    count: u32,
}

impl FailedReads {
    /// A read went well.
    pub(super) fn end(&mut self) {
        self.count = 0;
    }

    /// Waits before the read is repeated.
    ///
    /// # Errors
    /// [`ForwarderError::Read`] if it has failed too often.
    pub(super) fn another(&mut self, error: ReadError) -> Result<(), ForwarderError> {
        self.count += 1;
        if self.count >= READ_ATTEMPTS {
            return Err(ForwarderError::Read(error));
        }
        tracing::warn!(%error, "the commit log cannot be read; trying again");
        thread::sleep(READ_RETRY_WAIT);
        Ok(())
    }
}
