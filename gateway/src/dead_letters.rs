//! Records that can never be delivered, set aside durably: a commit log of their own, with their
//! own budget, below `<data_dir>/dead-letters`.

use crate::record::{SourceName, Stamp};

/// A record that is set aside.
#[derive(Clone, Debug)]
pub struct DeadLetter<'a> {
    /// Source that received it.
    pub source: &'a SourceName,
    /// Its subject.
    pub subject: &'a str,
    /// Why, as in the `reason` label of the metrics.
    pub reason: &'a str,
    /// Text for a person: what was refused, by whom, with which code.
    pub detail: &'a str,
    /// Kafka topic it was meant for, if it got that far.
    pub topic: Option<&'a str>,
    /// Offset in the main log, if it got that far.
    pub offset: Option<u64>,
    /// Full size of the payload in bytes.
    pub payload_bytes: u64,
    /// The payload, or its head.
    pub payload: &'a [u8],
    /// Time of receipt.
    pub received: Stamp,
}

/// The dead letters' log. Cheap to clone.
#[derive(Clone, Debug)]
pub struct DeadLetters {}

/// The dead letter could not be made durable: what it stands for must not be acknowledged.
#[derive(Debug, thiserror::Error)]
#[error("the dead letter could not be stored")]
pub struct NotStored;

impl DeadLetters {
    /// Stores a dead letter, counts it, and returns once it is synced. Blocks the calling thread.
    ///
    /// # Errors
    /// [`NotStored`] if the log of dead letters has failed.
    pub fn store_blocking(&self, _letter: &DeadLetter<'_>) -> Result<(), NotStored> {
        unimplemented!()
    }

    /// Stores a dead letter, counts it, and returns once it is synced.
    ///
    /// # Errors
    /// [`NotStored`] if the log of dead letters has failed.
    pub async fn store(&self, _letter: &DeadLetter<'_>) -> Result<(), NotStored> {
        unimplemented!()
    }
}
