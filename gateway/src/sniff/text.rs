//! Frames as text. What a wire sends may hold anything: control characters are escaped, so that no
//! device writes to somebody's terminal.

use std::fmt::Write as _;

use firmware_shim::frame::{Header, Kind};
use firmware_shim::senml::{self, Number, Record};

const DAY_MS: i64 = 86_400_000;

/// Hours to milliseconds, UTC.
pub(super) fn time_of_day(wall_ms: i64) -> String {
    let ms = wall_ms.rem_euclid(DAY_MS);
    let (hours, minutes) = (ms / 3_600_000, ms / 60_000 % 60);
    let (seconds, ms) = (ms / 1000 % 60, ms % 1000);
    format!("{hours:02}:{minutes:02}:{seconds:02}.{ms:03}")
}

/// Bytes as two digits each.
pub(super) fn hex(bytes: &[u8]) -> String {
    let digits: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    digits.join(" ")
}

/// A payload: quoted if it is text, else in hex.
pub(super) fn payload(bytes: &[u8]) -> String {
    let content = match std::str::from_utf8(bytes) {
        Ok(text) if is_readable(text) => format!("{text:?}"),
        Ok(_) | Err(_) => hex(bytes),
    };
    format!("{} bytes  {content}", bytes.len())
}

/// Whether text has no control characters but those of its lines.
pub(super) fn is_readable(text: &str) -> bool {
    text.chars()
        .all(|c| !c.is_control() || matches!(c, '\r' | '\n' | '\t'))
}

/// A frame of the shim link.
pub(super) fn link_frame(header: Option<Header>, content: &[u8]) -> String {
    let Some(header) = header else {
        return payload(content);
    };
    let from = format!("address {}  session {}", header.address, header.session);
    let place = format!("sequence {}  backlog {}", header.sequence, header.backlog);
    match header.kind {
        Kind::Senml => format!("{from}  {place}  {}", pack(content)),
        Kind::Opaque => format!("{from}  {place}  {}", payload(content)),
        Kind::Ack => format!("{from}  ACK, next is {}", header.sequence),
        Kind::Time => match content.first_chunk() {
            Some(ms) => format!("{from}  TIME {} ms", u64::from_le_bytes(*ms)),
            None => format!("{from}  TIME {}", payload(content)),
        },
    }
}

/// A `SenML` pack as names, values and units.
fn pack(content: &[u8]) -> String {
    let mut text = String::new();
    match senml::for_each(content, |record| add(record, &mut text)) {
        Ok(_) => text,
        Err(senml::Error::Malformed { offset }) => {
            format!("no SenML at byte {offset}: {}", hex(content))
        }
        Err(other) => format!("no SenML, {other}: {}", hex(content)),
    }
}

fn add(record: &Record<'_>, text: &mut String) {
    if let Some(name) = record.base_name {
        text.push_str(&name.escape_debug().to_string());
    }
    if !text.is_empty() {
        text.push_str("  ");
    }
    let name = record.name.unwrap_or_default().escape_debug();
    // Writing to a string does not fail.
    let _ = write!(text, "{name}={}", value(record));
    if let Some(unit) = record.unit {
        let _ = write!(text, " {}", unit.escape_debug());
    }
}

fn value(record: &Record<'_>) -> String {
    let number = record.value.or(record.sum);
    match (number, record.string_value, record.bool_value) {
        (Some(Number::Unsigned(value)), _, _) => value.to_string(),
        (Some(Number::Negative(value)), _, _) => value.to_string(),
        (Some(Number::Float(value)), _, _) => value.to_string(),
        (None, Some(text), _) => format!("{text:?}"),
        (None, None, Some(truth)) => truth.to_string(),
        (None, None, None) => record.data_value.map(hex).unwrap_or_default(),
    }
}
