//! The link's sender and receiver as state machines without I/O.

pub mod receiver;
pub mod sender;
mod state;

#[cfg(test)]
mod same_session_tests;
#[cfg(test)]
mod tests;

pub use state::LinkState;
