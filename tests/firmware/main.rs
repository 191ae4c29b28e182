//! Firmware at the other end of the line: the example node on an emulated microcontroller, and the
//! shim's C interface.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod c_api;
mod node;

use std::time::Duration;

/// For anything that takes seconds on an idle machine.
const SOON: Duration = Duration::from_secs(120);

const COMMITTED: &str = "edge_gateway_records_committed_total";
const GAPS: &str = "edge_gateway_link_gap_records_total";
