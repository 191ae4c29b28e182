//! The one way into the commit log, for sources: append, get a ticket, acknowledge with its proof.
//!
//! Many records share one group commit, so nobody waits for a record of his own. A source keeps
//! its unacknowledged records in a queue, watches [`Progress`], and asks each ticket for its
//! outcome. Only a [`Committed`] lets it acknowledge the sender: the type makes an early PUBACK or
//! link ACK (G1) impossible to write.
//!
//! What is appended and not yet synced lives in the log's batch buffer, which is bounded in bytes;
//! an append beyond it is refused with [`AppendError::Full`] and tried again when the log has
//! moved on.

use std::time::Duration;

use tokio::sync::watch;

use crate::commit_log::{AppendError, CommitLog, Condition, Progress};
use crate::record::{NewRecord, Offset};
use crate::registry::Watch;

/// A handle on the log for sources. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Ingest {
    log: CommitLog,
    progress: watch::Receiver<Progress>,
    devices: Option<Watch>,
}

/// A place in the log that is not durable yet.
#[must_use = "a record is acknowledged with its ticket's outcome"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    offset: Offset,
}

/// Proof that a record, and everything before it, is synced to disk (I1).
#[derive(Clone, Copy, Debug)]
pub struct Committed(());

/// The record will not become durable in this run: it must not be acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the commit log failed before the record was synced")]
pub struct NotCommitted;

impl Ticket {
    /// The ticket of a record that is in the log already: in this run, or recovered from an earlier
    /// one.
    pub(crate) fn at(offset: Offset) -> Self {
        Self { offset }
    }

    /// The offset the record has in the log.
    #[must_use]
    pub fn offset(&self) -> Offset {
        self.offset
    }

    /// What has become of the record: `None` while that is open.
    #[must_use]
    pub fn outcome(&self, progress: &Progress) -> Option<Result<Committed, NotCommitted>> {
        if progress.synced > self.offset {
            return Some(Ok(Committed(())));
        }
        match progress.condition {
            Condition::Running | Condition::Full => None,
            Condition::Poisoned | Condition::Closed => Some(Err(NotCommitted)),
        }
    }
}

impl Ingest {
    /// Joins a log with the channel on which its progress is announced.
    #[must_use]
    pub fn new(log: CommitLog, progress: watch::Receiver<Progress>) -> Self {
        Self {
            log,
            progress,
            devices: None,
        }
    }

    /// Also tells the device registry of each record that the log takes.
    #[must_use]
    pub fn watched_by(self, devices: Watch) -> Self {
        Self {
            devices: Some(devices),
            ..self
        }
    }

    /// Buffers a record.
    ///
    /// # Errors
    /// See [`AppendError`]; nothing was taken.
    pub fn try_append(&self, record: &NewRecord<'_>) -> Result<Ticket, AppendError> {
        let offset = self.log.append(record)?;
        if let Some(devices) = &self.devices {
            devices.note(record);
        }
        Ok(Ticket { offset })
    }

    /// Buffers a record, waiting for room.
    ///
    /// # Errors
    /// [`AppendError::TooLarge`] or [`AppendError::Closed`].
    ///
    /// # Cancel safety
    /// If the future is dropped before it is ready, nothing was appended.
    pub async fn append(&self, record: &NewRecord<'_>) -> Result<Ticket, AppendError> {
        let mut progress = self.progress.clone();
        loop {
            progress.mark_unchanged();
            match self.try_append(record) {
                Err(AppendError::Full) => {
                    progress.changed().await.map_err(|_| AppendError::Closed)?;
                }
                taken_or_refused => return taken_or_refused,
            }
        }
    }

    /// Buffers a record and waits until it is durable. For rare records; a source in full flow
    /// keeps tickets instead.
    ///
    /// # Errors
    /// [`AppendError`]; [`AppendError::Closed`] also if the log fails while waiting.
    pub async fn append_synced(&self, record: &NewRecord<'_>) -> Result<Committed, AppendError> {
        let ticket = self.append(record).await?;
        let mut progress = self.progress.clone();
        loop {
            let now = *progress.borrow_and_update();
            match ticket.outcome(&now) {
                Some(outcome) => return outcome.map_err(|NotCommitted| AppendError::Closed),
                None => progress.changed().await.map_err(|_| AppendError::Closed)?,
            }
        }
    }

    /// See [`CommitLog::hasten`].
    pub fn hasten(&self, last: Ticket) {
        self.log.hasten(last.offset);
    }

    /// See [`CommitLog::commit_interval`].
    #[must_use]
    pub fn commit_interval(&self) -> Duration {
        self.log.commit_interval()
    }

    /// A receiver of the log's progress of its own.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }
}
