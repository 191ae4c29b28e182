//! The link's sender and receiver as state machines without I/O.

pub mod sender;
mod state;

pub use state::LinkState;
