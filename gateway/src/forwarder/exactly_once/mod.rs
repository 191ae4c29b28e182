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
//!   until then, and after the coordinator's own timeout, it begins anew, not without leaving a
//!   rival the time for its claim.
//!
//! A transaction takes what comes within `transaction_interval`, at most [`RECORDS_MAX`] records, of which
//! no more lack a report at a time than in at-least-once delivery. One refused record fails all of it, so after a refusal records go out one each in a request of its own, in
//! transactions of few, up to the last refused one; what is refused then is set aside, and its
//! transaction is sent again without it.
//!
//! Records of a topic that is refused are parked: the transaction is sent again without them, and its
//! position moves over them once the parking log has synced them. They return in transactions of their
//! own ([`returns`]). A transaction that fails before its messages were sent does not say for which
//! topic: then the cluster is asked, and if that doesn't help records go out alone until one is refused.
//!
//! What the cluster refuses to the gateway itself (the offsets topic, the transactional id) is
//! waited for, told once: records are safe on disk meanwhile.
//!
//! [`RECORDS_MAX`]: sender::RECORDS_MAX

mod connect;
mod failure;
mod position;
mod returns;
mod sender;
mod transaction;

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::reader::{Read, Reader};
use super::{Flow, ForwarderContext, ForwarderError, IDLE_WAIT};
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
    let metrics = Arc::clone(&context.metrics);
    let reader = Reader::new(context.log.clone(), metrics).in_rounds(config.kafka.linger);
    let sender = Sender::new(config, transactions, context, grace);
    ExactlyOnce { reader, sender }.run()
}

/// How often a record that can be neither sent nor parked is tried.
const HELD_WAIT: Duration = Duration::from_millis(200);

struct ExactlyOnce<'c> {
    reader: Reader,
    sender: Sender<'c>,
}

impl ExactlyOnce<'_> {
    fn run(mut self) -> Result<(), ForwarderError> {
        loop {
            if self.sender.stop.is_over() {
                self.sender.abandon();
                return Ok(());
            }
            if !self.sender.is_connected() {
                if !self.sender.connect()? {
                    return Ok(());
                }
                self.reader.seek(self.sender.floor());
            }
            self.sender.serve();
            if let Some(failure) = self.sender.take_failure() {
                self.sender.recover(failure)?;
                self.reader.seek(self.sender.floor());
                continue;
            }
            if self.sender.take_held() {
                self.hold();
                continue;
            }
            if let Some(topic) = self.sender.parking.due() {
                self.sender.return_parked(&topic)?;
                continue;
            }
            let sender = &mut self.sender;
            if sender.encoder.clock_was_set() {
                sender.take_back();
                continue;
            }
            if sender.stop.requested() {
                self.reader.hurry();
            }
            let read = self
                .reader
                .forward_next(|outgoing| sender.forward(outgoing))?;
            if read == Read::Nothing && self.rest() {
                return Ok(());
            }
        }
    }

    /// The next record can be neither sent nor parked: all before it is committed, and it is tried again
    /// soon. Meanwhile parked records may be returned.
    fn hold(&mut self) {
        if self.sender.commit() == Flow::Continue {
            self.reader.seek(self.sender.floor());
            thread::sleep(HELD_WAIT);
        }
    }

    /// Nothing is there to be sent: commits what is due, and waits. True if nothing is left to do.
    fn rest(&mut self) -> bool {
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
        self.reader.wait(wait);
        false
    }
}
