//! The commit log on real disks, under load: full to the last byte, killed at any instant, and
//! without power. What was acknowledged must be found in Kafka afterwards.
//!
//! Mosquitto is the witness of the acknowledgements: it sends again what the gateway did not
//! acknowledge, and nothing else, so that a record which was acknowledged and lost is missing at the
//! end. So are the devices of a serial line, which keep what the link has not acknowledged.
//!
//! These tests mount file systems and fail where that isn't permitted. `EDGE_GATEWAY_LONG=1` has
//! them cut and kill a hundred times rather than twenty; `EDGE_GATEWAY_SEED` repeats a run's choices.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod full;
mod killed;
mod load;
mod power_cut;

use std::time::Duration;

/// For anything that takes seconds on an idle machine.
const SOON: Duration = Duration::from_secs(120);

const BUFFERED: &str = "edge_gateway_buffer_records";
const DELIVERED: &str = "edge_gateway_records_delivered_total";
const COMMITTED: &str = "edge_gateway_records_committed_total";

/// The smallest segments there can be, so that new ones are begun and old ones retired all the time.
const SMALL_SEGMENTS: &str = "[buffer]\nsegment_bytes = \"256 KiB\"";

/// How many rounds a test runs that leaves its instants to chance.
fn rounds() -> u32 {
    if system_tests::is_long() { 100 } else { 20 }
}
