//! A sign of life: a thread beats each time it gets round its loop, whatever it waits for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts the beats. Clones share the count.
#[derive(Clone, Debug, Default)]
pub struct Pulse(Arc<AtomicU64>);

impl Pulse {
    /// Beats once.
    pub fn beat(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Beats so far.
    #[must_use]
    pub fn beats(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
