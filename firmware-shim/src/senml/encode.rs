//! Records to CBOR.
//!
//! Through `serde_cbor`, piece by piece, because it shortens every float that it can, and packs on
//! the wire carry 64-bit ones.

use serde::Serialize;
use serde::ser::Serializer as _;
use serde_cbor::Serializer;
use serde_cbor::ser::SliceWrite;

use super::{Error, Number, Record, label};

/// Writes a pack to the start of `out` and returns its size.
///
/// # Errors
/// [`Error::BufferTooSmall`]; what `out` holds then has no meaning.
pub fn encode(records: &[Record<'_>], out: &mut [u8]) -> Result<usize, Error> {
    let buffer_bytes = out.len();
    let mut writer = Writer { out, at: 0 };
    pack(&mut writer, records).map_err(|Full| Error::BufferTooSmall { buffer_bytes })?;
    Ok(writer.at)
}

fn pack(writer: &mut Writer<'_>, records: &[Record<'_>]) -> Result<(), Full> {
    writer.with(|cbor| cbor.serialize_seq(Some(records.len())).map(drop))?;
    for record in records {
        writer.with(|cbor| cbor.serialize_map(Some(fields(record))).map(drop))?;
        writer.text(label::BASE_NAME, record.base_name)?;
        writer.number(label::BASE_TIME, record.base_time)?;
        writer.text(label::BASE_UNIT, record.base_unit)?;
        writer.number(label::BASE_VALUE, record.base_value)?;
        writer.number(label::BASE_SUM, record.base_sum)?;
        writer.number(label::BASE_VERSION, record.base_version)?;
        writer.text(label::NAME, record.name)?;
        writer.number(label::TIME, record.time)?;
        writer.number(label::UPDATE_TIME, record.update_time)?;
        writer.text(label::UNIT, record.unit)?;
        writer.number(label::VALUE, record.value)?;
        writer.text(label::STRING_VALUE, record.string_value)?;
        writer.flag(label::BOOL_VALUE, record.bool_value)?;
        writer.bytes(label::DATA_VALUE, record.data_value)?;
        writer.number(label::SUM, record.sum)?;
    }
    Ok(())
}

fn fields(record: &Record<'_>) -> usize {
    let texts = [
        record.base_name,
        record.base_unit,
        record.name,
        record.unit,
        record.string_value,
    ];
    let numbers = [
        record.base_time,
        record.base_value,
        record.base_sum,
        record.base_version,
        record.time,
        record.update_time,
        record.value,
        record.sum,
    ];
    texts.iter().flatten().count()
        + numbers.iter().flatten().count()
        + usize::from(record.bool_value.is_some())
        + usize::from(record.data_value.is_some())
}

/// The buffer is.
struct Full;

struct Writer<'a> {
    out: &'a mut [u8],
    at: usize,
}

impl Writer<'_> {
    fn with(
        &mut self,
        write: impl FnOnce(&mut Serializer<SliceWrite<'_>>) -> serde_cbor::Result<()>,
    ) -> Result<(), Full> {
        let mut cbor = Serializer::new(SliceWrite::new(&mut self.out[self.at..]));
        // What is written are plain values, into a slice: it can only be too small.
        write(&mut cbor).map_err(|_| Full)?;
        self.at += cbor.into_inner().bytes_written();
        Ok(())
    }

    fn pair(&mut self, label: i64, value: impl Serialize) -> Result<(), Full> {
        self.with(|cbor| {
            label.serialize(&mut *cbor)?;
            value.serialize(cbor)
        })
    }

    fn text(&mut self, label: i64, text: Option<&str>) -> Result<(), Full> {
        text.map_or(Ok(()), |text| self.pair(label, text))
    }

    fn flag(&mut self, label: i64, flag: Option<bool>) -> Result<(), Full> {
        flag.map_or(Ok(()), |flag| self.pair(label, flag))
    }

    fn bytes(&mut self, label: i64, bytes: Option<&[u8]>) -> Result<(), Full> {
        let Some(bytes) = bytes else {
            return Ok(());
        };
        self.with(|cbor| {
            label.serialize(&mut *cbor)?;
            cbor.serialize_bytes(bytes)
        })
    }

    fn number(&mut self, label: i64, number: Option<Number>) -> Result<(), Full> {
        match number {
            None => Ok(()),
            Some(Number::Unsigned(n)) => self.pair(label, n),
            Some(Number::Negative(n)) => self.pair(label, n),
            Some(Number::Float(n)) => {
                self.with(|cbor| label.serialize(cbor))?;
                self.float(n)
            }
        }
    }

    /// Major type 7, additional information 27: a 64-bit float, whatever its value.
    fn float(&mut self, value: f64) -> Result<(), Full> {
        let place = self.out.get_mut(self.at..self.at + 9).ok_or(Full)?;
        place[0] = 0xfb;
        place[1..].copy_from_slice(&value.to_be_bytes());
        self.at += 9;
        Ok(())
    }
}
