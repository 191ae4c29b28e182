//! State that is derived from the records and as durable as they are (I9).

use std::fmt::Debug;

use crate::record::RecordView;

/// What a log keeps up to date from its records, and writes whole at the head of each segment, so
/// that one segment's scan brings it back after any crash, also when all records are delivered and
/// gone.
pub trait DurableState: Send + Debug {
    /// Takes note of a record that is now durable. Called once for each record, in order, on the
    /// log's writer thread.
    fn apply(&mut self, record: &RecordView<'_>);

    /// Appends the whole state to `out`. It must stay below a sixteenth of a segment.
    fn checkpoint(&self, out: &mut Vec<u8>);

    /// Replaces the state by one that [`DurableState::checkpoint`] wrote.
    ///
    /// # Errors
    /// [`BadCheckpoint`] if `bytes` can't be read; the state is then empty.
    fn restore(&mut self, bytes: &[u8]) -> Result<(), BadCheckpoint>;
}

/// A checkpoint with a good checksum that can't be read: written by another program version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the checkpoint of the log's state cannot be read")]
pub struct BadCheckpoint;

/// No state: for a log that only stores.
impl DurableState for () {
    fn apply(&mut self, _record: &RecordView<'_>) {}

    fn checkpoint(&self, _out: &mut Vec<u8>) {}

    fn restore(&mut self, _bytes: &[u8]) -> Result<(), BadCheckpoint> {
        Ok(())
    }
}
