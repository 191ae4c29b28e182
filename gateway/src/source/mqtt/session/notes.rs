//! What the session tells the log about itself, and asks the broker for that.

use std::time::Duration;

use tokio::time::Instant;

use super::Session;
use crate::clock;
use crate::commit_log::{AppendError, Progress};
use crate::ingest::Ticket;
use crate::record::{NewRecord, Origin, PayloadKind};
use crate::source::SourceError;

/// How long a stopping source waits for the commit of its last note: some group commits. Without
/// it, what the broker sends again after the next start is compared with a little more.
const LAST_NOTE_TIMEOUT: Duration = Duration::from_secs(1);

impl Session {
    /// Half a keep-alive interval has passed: pings. News for the log do not wait for ever.
    pub(in crate::source::mqtt) fn tick(&mut self) -> Result<(), SourceError> {
        self.ping();
        if self.redelivery.has_old_news(Instant::now()) {
            self.append_note(&[])?;
        }
        Ok(())
    }

    fn ping(&mut self) {
        self.redelivery.pinged();
        self.wire.ping(&mut self.out);
    }

    /// PINGRESP came.
    pub(in crate::source::mqtt) fn ponged(&mut self) {
        self.redelivery.ponged();
        self.ask_for_arrivals();
    }

    /// Sends a ping behind the acknowledgements whose arrival the log is to know of.
    pub(super) fn ask_for_arrivals(&mut self) {
        if self.is_connected && self.redelivery.wants_ping() {
            self.ping();
        }
    }

    /// Whether SUBSCRIBE is to be sent now, and what is to be unsubscribed from before it.
    pub(in crate::source::mqtt) fn take_subscription(&mut self) -> Option<Vec<String>> {
        let progress = *self.progress.borrow();
        let is_due = self.subscriptions.take_due(&progress);
        is_due.then(|| self.subscriptions.unwanted())
    }

    /// UNSUBACK came.
    pub(in crate::source::mqtt) fn unsubscribed(&mut self) -> Result<(), SourceError> {
        self.subscriptions.unsubscribed();
        self.append_session_note()
    }

    /// Tells the log of session and filters, if it has room; if not, the next progress does it.
    pub(super) fn append_session_note(&mut self) -> Result<(), SourceError> {
        let Some(note) = self.subscriptions.note() else {
            return Ok(());
        };
        let payload = serde_cbor::to_vec(note).expect("a session note is plain data");
        if let Some(ticket) = self.append_note(&payload)? {
            self.subscriptions.noted(ticket);
        }
        Ok(())
    }

    /// Appends a record that nobody but the log's state reads, with the news. `None` if the log has
    /// no room.
    fn append_note(&mut self, payload: &[u8]) -> Result<Option<Ticket>, SourceError> {
        let appended = self.ingest.try_append(&NewRecord {
            source: &self.source,
            subject: self.source.as_str(),
            kind: PayloadKind::Note,
            origin: Origin::Mqtt {
                qos: 0,
                packet_id: 0,
                dup: false,
                settled: self.redelivery.news(),
            },
            received: clock::now(),
            payload,
        });
        match appended {
            Ok(ticket) => {
                self.redelivery.told();
                Ok(Some(ticket))
            }
            // A budget too small for its name and filters is too small for any record.
            Err(AppendError::Full | AppendError::TooLarge { .. }) => Ok(None),
            Err(AppendError::Closed) => Err(self.log_failed()),
        }
    }

    /// The source has stopped: tells the log what was acknowledged last, and waits a little for
    /// that.
    pub(in crate::source::mqtt) async fn leave(&mut self) -> Result<(), SourceError> {
        if !self.redelivery.has_news() {
            return Ok(());
        }
        let Some(ticket) = self.append_note(&[])? else {
            return Ok(());
        };
        let mut progress = self.progress.clone();
        let is_over = |now: &Progress| ticket.outcome(now).is_some();
        match tokio::time::timeout(LAST_NOTE_TIMEOUT, progress.wait_for(is_over)).await {
            Ok(Ok(now)) if matches!(ticket.outcome(&now), Some(Ok(_))) => Ok(()),
            Ok(_) => Err(self.log_failed()),
            // Full, or very slow. Nothing is lost but the news.
            Err(_elapsed) => Ok(()),
        }
    }
}
