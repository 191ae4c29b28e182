//! How the copy on disk is, for the status.

use std::time::{Duration, Instant};

/// After this time a call of the store is shown as stuck.
const STUCK_AFTER: Duration = Duration::from_millis(if cfg!(test) { 50 } else { 30_000 });

/// What the copy on disk is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Being opened and read.
    Opening,
    /// As of the last write.
    Ready,
    /// Being written.
    Writing,
    /// Waits until it is begun anew.
    Waiting,
    /// A call has not come back for half a minute.
    Stuck,
    /// Ended, or never begun.
    Off,
}

/// How the copy on disk is.
#[derive(Clone, Debug)]
pub struct StoreStatus {
    condition: Condition,
    since: Instant,
    /// Why it was last begun anew, or waits.
    pub last_error: Option<String>,
}

impl StoreStatus {
    pub(super) fn off() -> Self {
        Self {
            condition: Condition::Off,
            since: Instant::now(),
            last_error: None,
        }
    }

    /// What it is doing.
    #[must_use]
    pub fn condition(&self) -> Condition {
        let is_busy = matches!(self.condition, Condition::Opening | Condition::Writing);
        if is_busy && self.since.elapsed() > STUCK_AFTER {
            return Condition::Stuck;
        }
        self.condition
    }

    pub(super) fn becomes(&mut self, condition: Condition, error: Option<String>) {
        self.condition = condition;
        self.since = Instant::now();
        if error.is_some() {
            self.last_error = error;
        }
    }
}

impl Condition {
    /// One word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Ready => "ready",
            Self::Writing => "writing",
            Self::Waiting => "waiting",
            Self::Stuck => "stuck",
            Self::Off => "off",
        }
    }
}
