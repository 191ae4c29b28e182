//! Setting aside what Kafka will never take, for both ways of delivery.

use rdkafka::error::RDKafkaErrorCode;

use super::ForwarderError;
use super::encode::{Outgoing, Undeliverable};
use crate::dead_letters::{DeadLetter, DeadLetters};
use crate::record::{RecordView, SourceName};

/// Why a record is set aside.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reason<'a> {
    /// A short word.
    pub(super) reason: &'a str,
    /// Kafka's word, if it was Kafka that refused it.
    pub(super) code: Option<RDKafkaErrorCode>,
    /// For a person.
    pub(super) detail: &'a str,
    /// The topic it was meant for, if it got that far.
    pub(super) topic: Option<&'a str>,
}

impl<'a> Reason<'a> {
    /// It can't be made a message.
    pub(super) fn undeliverable(why: &'a Undeliverable) -> Self {
        Self {
            reason: why.reason,
            code: None,
            detail: &why.detail,
            topic: None,
        }
    }

    /// Kafka, or its client, refuses it.
    pub(super) fn refused(reason: &'a str, code: RDKafkaErrorCode, detail: &'a str) -> Self {
        Self {
            reason,
            code: Some(code),
            detail,
            topic: None,
        }
    }
}

/// Makes a record of the log `log` a dead letter, durably.
///
/// # Errors
/// [`ForwarderError::DeadLetters`]
pub(super) fn set_aside(
    dead_letters: &DeadLetters,
    log: &str,
    outgoing: &Outgoing<'_>,
    reason: Reason<'_>,
) -> Result<(), ForwarderError> {
    match outgoing {
        Outgoing::Record(record) => {
            tracing::warn!(
                offset = %record.offset, reason = reason.reason, detail = reason.detail,
                "a record becomes a dead letter"
            );
            store(dead_letters, log, record, reason)
        }
        // It stands for nothing that could be kept.
        Outgoing::Hole { hole, .. } => {
            tracing::error!(
                first = %hole.first, last = %hole.last, reason = reason.reason,
                detail = reason.detail, "a gap marker cannot be sent"
            );
            Ok(())
        }
        Outgoing::Parked { log, item, .. } => set_aside(dead_letters, log, item, reason),
    }
}

fn store(
    dead_letters: &DeadLetters,
    log: &str,
    record: &RecordView<'_>,
    reason: Reason<'_>,
) -> Result<(), ForwarderError> {
    let source = SourceName::new(record.source)
        .expect("a source's name was checked before its record was appended");
    let code = reason.code.map(|code| format!("{code:?}"));
    let letter = DeadLetter {
        source: &source,
        subject: record.subject,
        reason: reason.reason,
        code: code.as_deref(),
        detail: reason.detail,
        topic: reason.topic,
        offset: Some(record.offset.get()),
        kind: record.kind,
        origin: record.origin,
        payload_bytes: record.payload.len() as u64,
        payload: record.payload,
        received: record.received,
        boot_id: record.boot_id,
    };
    dead_letters
        .store_blocking(&letter, log)
        .map_err(ForwarderError::DeadLetters)
}
