//! Which filters the broker's session has, and what SUBSCRIBE and UNSUBSCRIBE have to wait for.
//!
//! MQTT offers no list of a session's subscriptions, and one that an earlier configuration made
//! would bring its messages for ever. So the log keeps the filters that the session may have (a
//! [`SessionNote`]), and those that the configuration no longer has are unsubscribed from.
//!
//! ```text
//! connected ─▶ a note is due: new session, or a filter that the log does not know
//!           ─▶ synced (or the log is full) ─▶ UNSUBSCRIBE · SUBSCRIBE ─▶ UNSUBACK ─▶ a note is due
//! ```
//!
//! - **U1** SUBSCRIBE goes out when the log's note names all its filters, and knows of a session that
//!   is new: no message of that session can come before, so none meets the redelivery window of the
//!   one before it.
//! - A full log does not hold SUBSCRIBE back: the broker could not queue what it has no subscription
//!   for. A crash in that state may forget a filter, or compare a message with records of the
//!   session before.
//!
//! Sans-IO; the session appends and writes.

use std::collections::BTreeSet;

use crate::commit_log::{Condition, Progress};
use crate::config::Mqtt;
use crate::ingest::Ticket;
use crate::record::SessionNote;
use crate::state::RecoveredSource;

/// See the module.
#[derive(Debug)]
pub(super) struct Subscriptions {
    /// Which session this is: broker and client id.
    session: String,
    wanted: BTreeSet<String>,
    /// What the broker's session may have.
    known: BTreeSet<String>,
    /// To be appended.
    note: Option<SessionNote>,
    /// Of the last note that was.
    ticket: Option<Ticket>,
    is_due: bool,
}

impl Subscriptions {
    pub(super) fn new(config: &Mqtt, recovered: &RecoveredSource) -> Self {
        let session = session_name(config);
        let is_same = recovered.mqtt_session == session;
        let wanted = config.subscriptions.iter().map(|s| s.filter.clone());
        Self {
            wanted: wanted.collect(),
            known: match is_same {
                true => recovered.mqtt_filters.clone(),
                false => BTreeSet::new(),
            },
            session,
            note: None,
            ticket: None,
            is_due: false,
        }
    }

    /// A connection begins.
    pub(super) fn connected(&mut self, session_present: bool) {
        self.is_due = true;
        if !session_present {
            self.known.clone_from(&self.wanted);
            self.take_note(true);
        } else if !self.wanted.is_subset(&self.known) {
            self.known.extend(self.wanted.iter().cloned());
            self.take_note(false);
        }
    }

    /// The connection has ended.
    pub(super) fn disconnected(&mut self) {
        self.is_due = false;
    }

    /// The broker has taken the filters away that are not wanted any more.
    pub(super) fn unsubscribed(&mut self) {
        self.known.clone_from(&self.wanted);
        self.take_note(false);
    }

    fn take_note(&mut self, is_new: bool) {
        let was_new = self.note.take().is_some_and(|note| note.is_new);
        self.note = Some(SessionNote {
            session: self.session.clone(),
            is_new: is_new || was_new,
            filters: self.known.iter().cloned().collect(),
        });
    }

    /// What the log is to know.
    pub(super) fn note(&self) -> Option<&SessionNote> {
        self.note.as_ref()
    }

    /// Something is to be done as soon as the log has moved on.
    pub(super) fn waits_for_log(&self) -> bool {
        self.is_due || self.note.is_some()
    }

    /// The note was appended.
    pub(super) fn noted(&mut self, ticket: Ticket) {
        self.note = None;
        self.ticket = Some(ticket);
    }

    /// Whether SUBSCRIBE is to be sent now (U1). True once a connection.
    pub(super) fn take_due(&mut self, progress: &Progress) -> bool {
        let is_full = progress.condition == Condition::Full;
        let is_synced = self.note.is_none()
            && self
                .ticket
                .is_none_or(|ticket| matches!(ticket.outcome(progress), Some(Ok(_))));
        if self.is_due && (is_synced || is_full) {
            self.is_due = false;
            return true;
        }
        false
    }

    /// Filters to unsubscribe from.
    pub(super) fn unwanted(&self) -> Vec<String> {
        self.known.difference(&self.wanted).cloned().collect()
    }
}

/// What tells a session from those of other brokers and clients.
pub(super) fn session_name(config: &Mqtt) -> String {
    format!("{} at {}:{}", config.client_id, config.host, config.port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Subscription;
    use crate::record::Offset;

    fn subscriptions(wanted: &[&str], known: &[&str]) -> Subscriptions {
        let mut config = crate::source::mqtt::tests::config();
        config.subscriptions = wanted
            .iter()
            .map(|filter| Subscription {
                filter: (*filter).to_owned(),
                qos: 1,
            })
            .collect();
        let recovered = RecoveredSource {
            mqtt_session: session_name(&config),
            mqtt_filters: known.iter().map(|filter| (*filter).to_owned()).collect(),
            ..RecoveredSource::default()
        };
        Subscriptions::new(&config, &recovered)
    }

    fn progress(synced: u64, condition: Condition) -> Progress {
        Progress {
            synced: Offset::new(synced),
            condition,
        }
    }

    const RUNNING: Progress = Progress {
        synced: Offset::ZERO,
        condition: Condition::Running,
    };

    #[test]
    fn a_known_session_with_known_filters_is_subscribed_at_once_and_once() {
        let mut known = subscriptions(&["a"], &["a"]);
        assert!(!known.take_due(&RUNNING), "there is no connection");
        known.connected(true);
        assert_eq!(known.note(), None);
        assert!(known.take_due(&RUNNING));
        assert!(!known.take_due(&RUNNING));
        assert_eq!(known.unwanted(), Vec::<String>::new());
    }

    #[test]
    fn a_new_filter_is_subscribed_to_once_the_log_knows_it() {
        let mut more = subscriptions(&["a", "b"], &["a", "old"]);
        more.connected(true);
        let note = more.note().expect("due").clone();
        assert!(!note.is_new);
        assert_eq!(note.filters, ["a", "b", "old"]);
        assert!(!more.take_due(&RUNNING), "not appended");
        more.noted(Ticket::at(Offset::new(4)));
        assert!(!more.take_due(&progress(4, Condition::Running)), "unsynced");
        assert!(more.take_due(&progress(5, Condition::Running)));
        assert_eq!(more.unwanted(), ["old"]);
        more.unsubscribed();
        assert_eq!(more.note().expect("due").filters, ["a", "b"]);
        assert_eq!(more.unwanted(), Vec::<String>::new());
    }

    #[test]
    fn a_new_session_is_noted_even_if_its_note_had_to_wait_for_a_connection_or_two() {
        let mut new = subscriptions(&["a"], &["a", "old"]);
        new.connected(false);
        new.disconnected();
        new.connected(true);
        let note = new.note().expect("due");
        assert!(note.is_new);
        assert_eq!(note.filters, ["a"]);
        assert!(!new.take_due(&RUNNING));
    }

    #[test]
    fn a_full_log_holds_no_subscription_back() {
        let mut new = subscriptions(&["a"], &[]);
        new.connected(false);
        assert!(new.take_due(&progress(0, Condition::Full)));
        new.disconnected();
        new.connected(true);
        new.noted(Ticket::at(Offset::new(4)));
        assert!(new.take_due(&progress(0, Condition::Full)));
    }

    #[test]
    fn another_session_has_none_of_the_filters_of_the_one_before() {
        let config = crate::source::mqtt::tests::config();
        let recovered = RecoveredSource {
            mqtt_session: "gw at elsewhere:1883".to_owned(),
            mqtt_filters: BTreeSet::from(["old".to_owned()]),
            ..RecoveredSource::default()
        };
        let mut other = Subscriptions::new(&config, &recovered);
        other.connected(true);
        assert_eq!(other.unwanted(), Vec::<String>::new());
        assert!(other.note().is_some());
    }
}
