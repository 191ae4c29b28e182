//! What becomes of a payload: Kafka's value and its content type.
//!
//! `value = "payload"` sends the bytes as received. `value = "json"` sends JSON: `SenML` in CBOR
//! is rewritten as `SenML` in JSON (RFC 8428, sections 5 and 6), JSON stays byte for byte, and
//! other bytes become `{"base64": …}`. An empty payload is an empty value either way.
//!
//! Numbers stay what they were: integers of any size keep their digits, a decimal fraction
//! `[exponent, mantissa]` becomes `mantissa e exponent`, and a binary float the shortest decimal
//! that reads back as the same double. What JSON cannot say (NaN, an infinity) makes the record
//! undeliverable.

use std::borrow::Cow;
use std::fmt;
use std::io::Write;

use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::base64;
use crate::config::ValueFormat;
use crate::record::PayloadKind;

/// Media type of `SenML` in CBOR (RFC 8428, section 12.3).
pub(super) const SENML_CBOR: &str = "application/senml+cbor";
/// Media type of JSON (RFC 8259).
pub(super) const JSON: &str = "application/json";
/// Media type of bytes that nobody knows more about.
pub(super) const BYTES: &str = "application/octet-stream";

/// The payload is no `SenML`, or holds what JSON cannot say.
#[derive(Debug, thiserror::Error)]
#[error("the payload cannot be written as SenML-JSON")]
pub(crate) struct NotJson(#[from] serde_cbor::Error);

/// The value for a payload, made in `buffer` where it isn't the payload itself, and its media
/// type.
///
/// # Errors
/// [`NotJson`] where JSON is asked for.
pub(crate) fn value<'a>(
    format: ValueFormat,
    kind: PayloadKind,
    payload: &'a [u8],
    buffer: &'a mut Vec<u8>,
) -> Result<(&'a [u8], &'static str), NotJson> {
    if payload.is_empty() {
        return Ok((payload, BYTES));
    }
    match (format, kind) {
        (ValueFormat::Payload, PayloadKind::SenmlCbor) => Ok((payload, SENML_CBOR)),
        (ValueFormat::Payload, PayloadKind::Opaque | PayloadKind::Gap | PayloadKind::Note) => {
            Ok((payload, guessed_type(payload)))
        }
        (ValueFormat::Json, PayloadKind::SenmlCbor) => {
            buffer.clear();
            append_senml_json(payload, buffer)?;
            Ok((buffer, JSON))
        }
        (ValueFormat::Json, PayloadKind::Opaque | PayloadKind::Gap | PayloadKind::Note) => {
            if is_json(payload) {
                return Ok((payload, JSON));
            }
            buffer.clear();
            buffer.extend_from_slice(br#"{"base64":""#);
            base64::append_standard(payload, buffer);
            buffer.extend_from_slice(br#""}"#);
            Ok((buffer, JSON))
        }
    }
}

/// A look at the first byte: parsing every payload to be sure would cost more than it tells.
fn guessed_type(payload: &[u8]) -> &'static str {
    match payload.first() {
        Some(b'{' | b'[') => JSON,
        Some(_) | None => BYTES,
    }
}

fn is_json(payload: &[u8]) -> bool {
    // From text, since serde_json skips over strings without a look at their encoding.
    std::str::from_utf8(payload).is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok())
}

/// Appends a `SenML` pack in CBOR as JSON.
fn append_senml_json(payload: &[u8], out: &mut Vec<u8>) -> Result<(), NotJson> {
    let mut cbor = serde_cbor::Deserializer::from_slice(payload);
    let level = Level::Pack;
    Rewrite { out, level }.deserialize(&mut cbor)?;
    cbor.end()?;
    Ok(())
}

/// Where in a pack we are, which says what may stand there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    /// The array of records.
    Pack,
    /// A map with labels.
    Record,
    /// The value of a numeric label, where an array is a decimal fraction (RFC 8949, 3.4.4).
    Number,
    /// Any other value.
    Other,
}

/// Writes what it is shown as JSON, item by item, so that no tree is built.
struct Rewrite<'o> {
    out: &'o mut Vec<u8>,
    level: Level,
}

impl<'o> Rewrite<'o> {
    fn scalar<E: Error>(self) -> Result<&'o mut Vec<u8>, E> {
        match self.level {
            Level::Pack | Level::Record => Err(E::custom("not a SenML pack")),
            Level::Number | Level::Other => Ok(self.out),
        }
    }

    fn integer<E: Error>(self, value: impl fmt::Display) -> Result<(), E> {
        write!(self.scalar()?, "{value}").map_err(E::custom)
    }

    fn decimal_fraction<'de, A: SeqAccess<'de>>(self, mut parts: A) -> Result<(), A::Error> {
        let (Some(exponent), Some(mantissa), None) = (
            parts.next_element::<i64>()?,
            parts.next_element::<i64>()?,
            parts.next_element::<IgnoredAny>()?,
        ) else {
            return Err(A::Error::custom("not a decimal fraction"));
        };
        write!(self.out, "{mantissa}e{exponent}").map_err(A::Error::custom)
    }

    fn array<'de, A: SeqAccess<'de>>(self, mut items: A, level: Level) -> Result<(), A::Error> {
        let out = self.out;
        out.push(b'[');
        let mut first = true;
        loop {
            let before = out.len();
            if !first {
                out.push(b',');
            }
            first = false;
            let item = Rewrite { out, level };
            if items.next_element_seed(item)?.is_none() {
                out.truncate(before);
                out.push(b']');
                return Ok(());
            }
        }
    }
}

impl<'de> DeserializeSeed<'de> for Rewrite<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Rewrite<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.level {
            Level::Pack => "an array of SenML records",
            Level::Record => "a SenML record",
            Level::Number => "a number",
            Level::Other => "a value",
        })
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.integer(value)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.integer(value)
    }

    fn visit_i128<E: Error>(self, value: i128) -> Result<(), E> {
        self.integer(value)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.integer(value)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        if !value.is_finite() {
            return Err(E::custom("a number that JSON cannot say"));
        }
        serde_json::to_writer(self.scalar()?, &value).map_err(E::custom)
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        serde_json::to_writer(self.scalar()?, value).map_err(E::custom)
    }

    fn visit_bytes<E: Error>(self, value: &[u8]) -> Result<(), E> {
        let out = self.scalar()?;
        out.push(b'"');
        base64::append_url_safe(value, out);
        out.push(b'"');
        Ok(())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.scalar()?.extend_from_slice(b"null");
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<(), A::Error> {
        match self.level {
            Level::Pack => self.array(items, Level::Record),
            Level::Record => Err(A::Error::custom("not a SenML record")),
            Level::Number => self.decimal_fraction(items),
            Level::Other => self.array(items, Level::Other),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        if self.level == Level::Pack {
            return Err(A::Error::custom("not a SenML pack"));
        }
        let labels = self.level == Level::Record;
        self.out.push(b'{');
        let mut first = true;
        while let Some(key) = entries.next_key::<Key<'_>>()? {
            if !first {
                self.out.push(b',');
            }
            first = false;
            let (name, numeric) = key.name(labels);
            serde_json::to_writer(&mut *self.out, &name).map_err(A::Error::custom)?;
            self.out.push(b':');
            entries.next_value_seed(Rewrite {
                out: self.out,
                level: if numeric { Level::Number } else { Level::Other },
            })?;
        }
        self.out.push(b'}');
        Ok(())
    }
}

/// A map's key: a label by number (RFC 8428, table 4), or a name.
enum Key<'de> {
    Label(i128),
    Name(Cow<'de, str>),
}

impl<'de> Key<'de> {
    /// The name in JSON, and whether its value is a number.
    fn name(self, labels: bool) -> (Cow<'de, str>, bool) {
        let label = match self {
            Self::Name(name) => return (name, false),
            Self::Label(label) => label,
        };
        let known = match label {
            -6 => ("bs", true),
            -5 => ("bv", true),
            -4 => ("bu", false),
            -3 => ("bt", true),
            -2 => ("bn", false),
            -1 => ("bver", true),
            0 => ("n", false),
            1 => ("u", false),
            2 => ("v", true),
            3 => ("vs", false),
            4 => ("vb", false),
            5 => ("s", true),
            6 => ("t", true),
            7 => ("ut", true),
            8 => ("vd", false),
            _ => return (Cow::Owned(label.to_string()), false),
        };
        if labels {
            (Cow::Borrowed(known.0), known.1)
        } else {
            (Cow::Owned(label.to_string()), false)
        }
    }
}

impl<'de> serde::Deserialize<'de> for Key<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;

        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = Key<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a label")
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<Key<'de>, E> {
                Ok(Key::Label(value.into()))
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<Key<'de>, E> {
                Ok(Key::Label(value.into()))
            }

            fn visit_i128<E: Error>(self, value: i128) -> Result<Key<'de>, E> {
                Ok(Key::Label(value))
            }

            fn visit_borrowed_str<E: Error>(self, value: &'de str) -> Result<Key<'de>, E> {
                Ok(Key::Name(Cow::Borrowed(value)))
            }

            fn visit_str<E: Error>(self, value: &str) -> Result<Key<'de>, E> {
                Ok(Key::Name(Cow::Owned(value.to_owned())))
            }
        }

        deserializer.deserialize_any(KeyVisitor)
    }
}

#[cfg(test)]
mod tests;
