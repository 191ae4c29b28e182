//! A record as a line of JSON, without loss, and as a line for people.

use serde::Serialize;

use super::text;
use crate::commit_log::offline::BatchAt;
use crate::config::ValueFormat;
use crate::forwarder::base64;
use crate::forwarder::value::value;
use crate::record::{GapNote, Offset, Origin, PayloadKind, RecordView, SessionNote};

/// Most of a subject and of a payload that people are shown, in characters; chosen by eye.
const SUBJECT_SHOWN: usize = 120;
const PAYLOAD_SHOWN: usize = 160;

/// A record, for machines. Everything that the log holds of it is there.
#[derive(Debug, Serialize)]
struct Line<'a> {
    offset: u64,
    source: &'a str,
    subject: &'a str,
    kind: &'static str,
    origin: OriginLine,
    /// Null where the clock said a time beyond the calendar.
    received: Option<String>,
    received_wall_ms: i64,
    received_mono_ms: u64,
    /// The boot that `received_mono_ms` counts in.
    boot_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum OriginLine {
    Line,
    Link {
        address: u8,
        session: u16,
        sequence: u32,
        crc: u32,
    },
    Mqtt {
        qos: u8,
        packet_id: u16,
        dup: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        acknowledged_below: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        released_below: Option<u64>,
    },
}

impl OriginLine {
    fn of(origin: Origin) -> Self {
        match origin {
            Origin::Line => Self::Line,
            Origin::Link {
                address,
                session,
                sequence,
                crc,
            } => Self::Link {
                address,
                session,
                sequence,
                crc,
            },
            Origin::Mqtt {
                qos,
                packet_id,
                dup,
                settled,
            } => Self::Mqtt {
                qos,
                packet_id,
                dup,
                acknowledged_below: news(settled.acknowledged_below),
                released_below: news(settled.released_below),
            },
        }
    }
}

fn news(below: Offset) -> Option<u64> {
    (below > Offset::ZERO).then(|| below.get())
}

/// The record as a line of JSON.
pub(super) fn json_line(record: &RecordView<'_>, batch: &BatchAt<'_>) -> String {
    let (payload, payload_base64) = text_or_base64(record.payload);
    super::json(&Line {
        offset: record.offset.get(),
        source: record.source,
        subject: record.subject,
        kind: record.kind.name(),
        origin: OriginLine::of(record.origin),
        received: text::rfc3339(record.received.wall_ms),
        received_wall_ms: record.received.wall_ms,
        received_mono_ms: record.received.mono_ms,
        boot_id: format!("{:016x}", batch.boot_id()),
        payload,
        payload_base64,
    })
}

/// Bytes as text if they are UTF-8, else in base64.
pub(in crate::cli) fn text_or_base64(bytes: &[u8]) -> (Option<&str>, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (Some(text), None),
        Err(_) => {
            let mut encoded = Vec::new();
            base64::append_standard(bytes, &mut encoded);
            let encoded = String::from_utf8(encoded).expect("base64 is ASCII");
            (None, Some(encoded))
        }
    }
}

/// The record as a line for people.
pub(super) fn plain_line(record: &RecordView<'_>) -> String {
    let received = text::rfc3339(record.received.wall_ms);
    format!(
        "{}  {}  {}  {}  {}\n",
        record.offset,
        received.as_deref().unwrap_or("(no time)"),
        text::printable(record.source, SUBJECT_SHOWN),
        text::printable(record.subject, SUBJECT_SHOWN),
        payload(record),
    )
}

fn payload(record: &RecordView<'_>) -> String {
    let bytes = record.payload;
    let decoded = match record.kind {
        PayloadKind::Gap => gap(bytes),
        PayloadKind::SenmlCbor => senml(bytes),
        PayloadKind::Note => note(bytes),
        PayloadKind::Opaque => None,
    };
    match (decoded, std::str::from_utf8(bytes)) {
        (Some(decoded), _) => text::printable(&decoded, PAYLOAD_SHOWN),
        (None, Ok("")) => "(empty)".to_owned(),
        (None, Ok(plain)) => text::printable(plain, PAYLOAD_SHOWN),
        (None, Err(_)) => text::hex(bytes, PAYLOAD_SHOWN / 3),
    }
}

fn note(bytes: &[u8]) -> Option<String> {
    let note: SessionNote = serde_cbor::from_slice(bytes).ok()?;
    let (begun, filters) = (if note.is_new { "new " } else { "" }, note.filters);
    Some(format!("{begun}session {}: {filters:?}", note.session))
}

fn gap(bytes: &[u8]) -> Option<String> {
    let note: GapNote = serde_cbor::from_slice(bytes).ok()?;
    let records = note
        .records
        .map_or("unknown".to_owned(), |records| records.to_string());
    Some(format!("gap: {}, records: {records}", note.reason))
}

fn senml(bytes: &[u8]) -> Option<String> {
    let mut buffer = Vec::new();
    let (json, _) = value(
        ValueFormat::Json,
        PayloadKind::SenmlCbor,
        bytes,
        &mut buffer,
    )
    .ok()?;
    Some(String::from_utf8_lossy(json).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Offset, Stamp};

    fn view(kind: PayloadKind, payload: &[u8]) -> RecordView<'_> {
        RecordView {
            offset: Offset::new(7),
            source: "press",
            subject: "press/1",
            kind,
            origin: Origin::Line,
            received: Stamp {
                wall_ms: 1_700_000_000_123,
                mono_ms: 5,
            },
            boot_id: 0,
            payload,
        }
    }

    #[test]
    fn people_see_text_senml_as_json_gaps_in_words_and_other_bytes_in_hex() {
        let line = plain_line(&view(PayloadKind::Opaque, b"21.5"));
        assert_eq!(line, "7  2023-11-14T22:13:20.123Z  press  press/1  21.5\n");
        // [{0: "t", 2: 21}]
        let senml = b"\x81\xa2\x00\x61t\x02\x15";
        assert_eq!(
            payload(&view(PayloadKind::SenmlCbor, senml)),
            r#"[{"n":"t","v":21}]"#
        );
        assert_eq!(payload(&view(PayloadKind::SenmlCbor, b"\xff")), "hex ff");
        assert_eq!(payload(&view(PayloadKind::Opaque, b"")), "(empty)");
        let note = GapNote {
            reason: "session_lost".to_owned(),
            records: None,
        };
        let note = serde_cbor::to_vec(&note).expect("CBOR");
        assert_eq!(
            payload(&view(PayloadKind::Gap, &note)),
            "gap: session_lost, records: unknown"
        );
    }
}
