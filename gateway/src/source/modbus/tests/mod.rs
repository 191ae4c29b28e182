//! The source on a pseudo-terminal and on TCP, with units that do as the test says.

#[allow(
    unreachable_pub,
    reason = "it is public in the harness of the system tests"
)]
#[path = "../../../../../tests/harness/modbus.rs"]
mod units;

mod answers;
mod buses;
mod log;
mod polls;
pub(super) mod support;
