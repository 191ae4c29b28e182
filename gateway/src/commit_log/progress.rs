//! How far a log is: what its writer thread tells everybody else.

use crate::record::Offset;

/// How far the log is, as of one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Every record below this offset is durable (I1). Never goes back.
    pub synced: Offset,
    /// Whether it can go on.
    pub condition: Condition,
}

/// Whether the log can take more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Yes.
    Running,
    /// Not until space returns: the budget is used up, or the file system is full. What was
    /// appended waits in memory, unsynced.
    Full,
    /// A write or a sync failed (I3): nothing more becomes durable until the log is opened again.
    Poisoned,
    /// Closed in order; everything appended before was synced.
    Closed,
}
