//! Exactly-once delivery (G4): records in Kafka transactions, and in the same transaction the
//! position behind them, in the offsets topic.
//!
//! ```text
//!  begin ─ records, gap markers ─ position ─ all reported ─ commit ─▶ log.commit(position)
//!    ▲                                          │ refused      │ failed, or no answer
//!    ├──────── from the floor again ◀── abort ──┘              ▼
//!    └──────── from the position ◀───── new producer, position read back
//! ```
//!
//! - **E1** The committed offset of the log moves only after a commit that Kafka has confirmed, or
//!   to a position that was read back from Kafka.
//! - **E2** After a commit whose outcome is not known nothing is sent before the position was read
//!   back: it is in Kafka with its records, or neither is.
//! - **E3** A record that became a dead letter is never sent again, across a crash too: dead letters
//!   are found by log identity and offset.
//! - **E4** Two gateways of one id never write at the same time: the newer fences the older. The
//!   older ends if the newer has committed its claim, a transaction of nothing but the position;
//!   until then, and after the coordinator's own timeout, it begins anew.
//!
//! A transaction takes up to [`RECORDS_MAX`] records, 16 MiB, or `transaction_interval`. One refused
//! record fails all of it, so after a refusal records go out one each in a request of its own, in
//! transactions of few, up to the last refused one; what is refused then is set aside, and its
//! transaction is sent again without it.
//!
//! What the cluster refuses to the gateway itself (the offsets topic, the transactional id) is
//! waited for, told once: records are safe on disk meanwhile.
//!
//! [`RECORDS_MAX`]: sender::RECORDS_MAX

mod connect;
mod failure;
mod position;
mod sender;
mod transaction;

use std::thread;
use std::time::{Duration, Instant};

use super::backoff::FailedReads;
use super::encode::Outgoing;
use super::{Flow, ForwarderContext, ForwarderError, IDLE_WAIT, Read};
use crate::commit_log::{CommitLog, Condition, Cursor, Item};
use crate::config::{Config, Transactions};
use sender::Sender;

/// Longest wait for new records while a transaction is open: reports are served between.
const OPEN_WAIT: Duration = Duration::from_millis(50);

/// Runs until a stop was asked for and everything synced is committed, or the grace period is over.
///
/// # Errors
/// See [`ForwarderError`].
pub(super) fn run(
    config: &Config,
    transactions: &Transactions,
    context: ForwarderContext,
    grace: Duration,
) -> Result<(), ForwarderError> {
    let log = context.log.clone();
    let sender = Sender::new(config, transactions, context, grace);
    let failed_reads = FailedReads::default();
    let forwarder = ExactlyOnce {
        log,
        sender,
        failed_reads,
    };
    forwarder.run()
}

struct ExactlyOnce<'c> {
    log: CommitLog,
    sender: Sender<'c>,
    failed_reads: FailedReads,
}

impl ExactlyOnce<'_> {
    fn run(mut self) -> Result<(), ForwarderError> {
        let mut cursor = self.log.cursor(self.log.committed());
        loop {
            if self.sender.stop.is_over() {
                self.sender.abandon();
                return Ok(());
            }
            if !self.sender.is_connected() {
                if !self.sender.connect()? {
                    return Ok(());
                }
                cursor.seek(self.sender.floor());
            }
            self.sender.serve();
            if let Some(failure) = self.sender.take_failure() {
                self.sender.recover(failure);
                cursor.seek(self.sender.floor());
                continue;
            }
            if self.forward_next(&mut cursor)? == Read::Nothing && self.rest(&cursor) {
                return Ok(());
            }
        }
    }

    /// Sends what the cursor finds next.
    fn forward_next(&mut self, cursor: &mut Cursor) -> Result<Read, ForwarderError> {
        while let Some(finding) = cursor.take_finding() {
            self.sender.metrics.report(&finding);
        }
        let item = match cursor.next() {
            Ok(item) => item,
            Err(error) => {
                self.failed_reads.another(error)?;
                return Ok(Read::Some);
            }
        };
        self.failed_reads.end();
        match item {
            None => return Ok(Read::Nothing),
            Some(Item::Hole(hole)) => {
                for marker in Outgoing::markers(&hole) {
                    if self.sender.forward(&marker)? == Flow::Break {
                        break;
                    }
                }
            }
            Some(Item::Batch(batch)) => {
                for record in batch.records() {
                    if self.sender.forward(&Outgoing::Record(&record))? == Flow::Break {
                        break;
                    }
                }
            }
        }
        Ok(Read::Some)
    }

    /// Nothing is there to be sent: commits what is due, and waits. True if nothing is left to do.
    fn rest(&mut self, cursor: &Cursor) -> bool {
        let draining = self.sender.stop.requested();
        let wait = match self.sender.due() {
            Some(due) => {
                let left = due.saturating_duration_since(Instant::now());
                if draining || left.is_zero() {
                    // What failed is met by the next turn.
                    let _: Flow = self.sender.commit();
                    return false;
                }
                left.min(OPEN_WAIT)
            }
            None if draining => return true,
            None => IDLE_WAIT,
        };
        let position = cursor.position();
        let progress = self.log.wait(position, wait);
        match progress.condition {
            Condition::Running | Condition::Full => {}
            // The log no longer makes us wait.
            Condition::Poisoned | Condition::Closed => {
                if progress.synced <= position {
                    thread::sleep(wait);
                }
            }
        }
        false
    }
}
