//! CBOR to records, handed to the caller one by one: there is no place to keep them all.

use core::fmt;

use serde::de::{
    Deserialize, DeserializeSeed, Deserializer as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_cbor::Deserializer;

use super::{Error, Number, Record, label};

/// Calls `each` with every record of a pack, in order, and returns how many there were.
///
/// # Errors
/// [`Error::Malformed`]; `each` has seen the records before that place.
pub fn for_each<'a>(payload: &'a [u8], each: impl FnMut(&Record<'a>)) -> Result<usize, Error> {
    let mut no_scratch = [0; 0];
    let mut cbor = Deserializer::from_slice_with_scratch(payload, &mut no_scratch);
    let count = cbor.deserialize_seq(Pack { each }).and_then(|count| {
        cbor.end()?;
        Ok(count)
    });
    count.map_err(|error| Error::Malformed {
        offset: error.offset(),
    })
}

/// The base name of a pack's first record; `None` if there is none, or an empty one. What comes
/// after the first record may be damaged.
#[must_use]
pub fn base_name(payload: &[u8]) -> Option<&str> {
    let (mut first, mut seen) = (None, false);
    let whole = for_each(payload, |record| {
        if !seen {
            first = record.base_name;
            seen = true;
        }
    });
    match whole {
        Ok(_) | Err(_) => first.filter(|name| !name.is_empty()),
    }
}

struct Pack<F> {
    each: F,
}

impl<'a, F: FnMut(&Record<'a>)> Visitor<'a> for Pack<F> {
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of records")
    }

    fn visit_seq<A: SeqAccess<'a>>(mut self, mut seq: A) -> Result<usize, A::Error> {
        let mut count = 0;
        while let Some(record) = seq.next_element_seed(RecordSeed)? {
            (self.each)(&record);
            count += 1;
        }
        Ok(count)
    }
}

struct RecordSeed;

impl<'a> DeserializeSeed<'a> for RecordSeed {
    type Value = Record<'a>;

    fn deserialize<D: serde::Deserializer<'a>>(self, cbor: D) -> Result<Record<'a>, D::Error> {
        cbor.deserialize_map(self)
    }
}

impl<'a> Visitor<'a> for RecordSeed {
    type Value = Record<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map with SenML labels")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<Record<'a>, A::Error> {
        let mut record = Record::default();
        while let Some(label) = map.next_key()? {
            field(&mut record, label, &mut map)?;
        }
        Ok(record)
    }
}

fn field<'a, A: MapAccess<'a>>(
    record: &mut Record<'a>,
    label: Label,
    map: &mut A,
) -> Result<(), A::Error> {
    match label {
        Label::Number(label::BASE_NAME) => record.base_name = Some(map.next_value()?),
        Label::Number(label::BASE_TIME) => record.base_time = Some(map.next_value()?),
        Label::Number(label::BASE_UNIT) => record.base_unit = Some(map.next_value()?),
        Label::Number(label::BASE_VALUE) => record.base_value = Some(map.next_value()?),
        Label::Number(label::BASE_SUM) => record.base_sum = Some(map.next_value()?),
        Label::Number(label::BASE_VERSION) => record.base_version = Some(map.next_value()?),
        Label::Number(label::NAME) => record.name = Some(map.next_value()?),
        Label::Number(label::TIME) => record.time = Some(map.next_value()?),
        Label::Number(label::UPDATE_TIME) => record.update_time = Some(map.next_value()?),
        Label::Number(label::UNIT) => record.unit = Some(map.next_value()?),
        Label::Number(label::VALUE) => record.value = Some(map.next_value()?),
        Label::Number(label::STRING_VALUE) => record.string_value = Some(map.next_value()?),
        Label::Number(label::BOOL_VALUE) => record.bool_value = Some(map.next_value()?),
        Label::Number(label::DATA_VALUE) => record.data_value = Some(map.next_value()?),
        Label::Number(label::SUM) => record.sum = Some(map.next_value()?),
        Label::Number(_) | Label::Text => {
            map.next_value::<IgnoredAny>()?;
        }
    }
    Ok(())
}

enum Label {
    Number(i64),
    Text,
}

impl<'a> Deserialize<'a> for Label {
    fn deserialize<D: serde::Deserializer<'a>>(cbor: D) -> Result<Self, D::Error> {
        cbor.deserialize_any(LabelVisitor)
    }
}

struct LabelVisitor;

impl Visitor<'_> for LabelVisitor {
    type Value = Label;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a SenML label that may be skipped")
    }

    fn visit_i64<E>(self, label: i64) -> Result<Label, E> {
        Ok(Label::Number(label))
    }

    fn visit_u64<E>(self, label: u64) -> Result<Label, E> {
        // No label that is known is as large as that.
        Ok(Label::Number(i64::try_from(label).unwrap_or(i64::MAX)))
    }

    fn visit_str<E: serde::de::Error>(self, label: &str) -> Result<Label, E> {
        if label.ends_with('_') {
            return Err(E::custom("a field that must be understood"));
        }
        Ok(Label::Text)
    }
}

impl<'a> Deserialize<'a> for Number {
    fn deserialize<D: serde::Deserializer<'a>>(cbor: D) -> Result<Self, D::Error> {
        cbor.deserialize_any(NumberVisitor)
    }
}

struct NumberVisitor;

impl Visitor<'_> for NumberVisitor {
    type Value = Number;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number")
    }

    fn visit_u64<E>(self, value: u64) -> Result<Number, E> {
        Ok(Number::from(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Number, E> {
        Ok(Number::from(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Number, E> {
        Ok(Number::from(value))
    }
}
