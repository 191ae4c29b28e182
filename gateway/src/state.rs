//! State that guarantees rest on, derived from the records themselves (I9): link sessions.
//!
//! The commit log applies every record to it once the record is synced, and writes it whole at the
//! head of each segment.

use std::collections::HashMap;

use firmware_shim::link::LinkState;

/// What a source finds of its own after a restart.
#[derive(Clone, Debug, Default)]
pub struct RecoveredSource {
    /// Link sessions by address.
    pub links: HashMap<u8, LinkState>,
    /// The source has stored MQTT records before: a session is expected at the broker.
    pub mqtt_session_expected: bool,
}
