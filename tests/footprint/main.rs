//! What the gateway takes from its board, against budgets for one with 512 MB: memory, threads,
//! wake-ups, growth, and the time it takes to start (`make footprint`; README.md has the figures).
//!
//! Here time is what is measured, so unlike in other tests it passes by the clock. The program is the
//! one that is packaged. Each test prints its table before it fails on what is over budget.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod backlog;
mod budget;
mod running;
mod samples;

use std::time::Duration;

/// For anything that takes seconds on an idle machine.
const SOON: Duration = Duration::from_secs(90);
