//! Publishes at quality of service 2 that the broker has not released yet (no PUBREL seen).
//!
//! Within a connection a second publish with such an identifier and DUP is the same message: it is
//! answered, not stored. PUBREL is answered by PUBCOMP whether its identifier is known or not:
//! after a restart the gateway knows none, and a broker whose PUBREL stays unanswered repeats it
//! for ever. Across connections a repeated publish is stored again (in doubt a record is stored).

use std::collections::HashMap;

use super::acks::Durable;

/// What to do with a publish at quality of service 2.
#[derive(Debug)]
pub(super) enum Seen {
    /// Never seen: take it.
    New,
    /// Taken, its PUBREC is still due.
    Waiting,
    /// Taken and durable: PUBREC again.
    Recorded(Durable),
}

/// See the module. At most one entry for each of the 65,535 identifiers.
#[derive(Debug, Default)]
pub(super) struct Unreleased {
    taken: HashMap<u16, Option<Durable>>,
}

impl Unreleased {
    /// Tells a repeated publish from a new one. Without DUP it is a new one, whatever its
    /// identifier: in doubt a record is stored.
    pub(super) fn look_up(&self, packet_id: u16, dup: bool) -> Seen {
        match self.taken.get(&packet_id) {
            Some(Some(proof)) if dup => Seen::Recorded(*proof),
            Some(None) if dup => Seen::Waiting,
            Some(_) | None => Seen::New,
        }
    }

    /// The publish was taken.
    pub(super) fn taken(&mut self, packet_id: u16) {
        self.taken.insert(packet_id, None);
    }

    /// Its PUBREC is sent.
    pub(super) fn recorded(&mut self, packet_id: u16, proof: Durable) {
        if let Some(state) = self.taken.get_mut(&packet_id) {
            *state = Some(proof);
        }
    }

    /// PUBREL came.
    pub(super) fn released(&mut self, packet_id: u16) {
        self.taken.remove(&packet_id);
    }

    /// The connection has ended.
    pub(super) fn forget(&mut self) {
        self.taken.clear();
    }
}
