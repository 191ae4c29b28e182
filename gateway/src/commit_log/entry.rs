//! A record inside a batch: encoded once when it is appended, read back without copying.
//!
//! ```text
//! varint   bytes that follow
//! u8       entry kind (bits 0–1: 0 record) | payload kind (bits 2–3) | origin (bits 4–5)
//! varint   wall clock, milliseconds, zigzag
//! varint   milliseconds since boot
//! u8, …    source
//! varint,… subject
//! …        origin: line nothing · link u8 address, u16 session, u32 sequence, u32 crc
//!                  · mqtt u8 qos | dup << 2 | acknowledged << 3 | released << 4, u16 packet id,
//!                    and where these two are set, varint each               (little-endian)
//! …        payload, to the end
//! ```
//!
//! Integers are LEB128 varints. A decoder meets these bytes only behind a good checksum, yet checks
//! every length and value (G6): what it can't read is a [`BadEntry`], never a panic.

use crate::record::{NewRecord, Offset, Origin, PayloadKind, RecordView, Settled, Stamp};

const KIND_RECORD: u8 = 0;
const ORIGIN_LINE: u8 = 0;
const ORIGIN_LINK: u8 = 1;
const ORIGIN_MQTT: u8 = 2;
const MQTT_DUP: u8 = 1 << 2;
const MQTT_ACKNOWLEDGED: u8 = 1 << 3;
const MQTT_RELEASED: u8 = 1 << 4;
/// The longest origin: MQTT with two varints.
const ORIGIN_BYTES_MAX: usize = 1 + 2 + 10 + 10;
/// Most that an entry adds to source, subject and payload: two-length varints, tag, times, origin.
pub(super) const OVERHEAD_BYTES_MAX: usize = 10 + 1 + 10 + 10 + 1 + 10 + ORIGIN_BYTES_MAX;

/// The bytes at this place are no entry of this format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BadEntry;

/// Upper bound of what [`encode`] appends for `record`.
pub(super) fn encoded_bytes_max(record: &NewRecord<'_>) -> usize {
    OVERHEAD_BYTES_MAX + record.source.as_str().len() + record.subject.len() + record.payload.len()
}

/// Appends the encoded record to `out`.
pub(super) fn encode(record: &NewRecord<'_>, out: &mut Vec<u8>) {
    let source = record.source.as_str().as_bytes();
    let subject = record.subject.as_bytes();
    let wall = zigzag(record.received.wall_ms);
    let mut origin = Bytes::default();
    let origin_tag = encode_origin(record.origin, &mut origin);
    let len = 1
        + varint_len(wall)
        + varint_len(record.received.mono_ms)
        + 1
        + source.len()
        + varint_len(subject.len() as u64)
        + subject.len()
        + origin.len
        + record.payload.len();
    put_varint(out, len as u64);
    out.push(KIND_RECORD | (record.kind as u8) << 2 | origin_tag << 4);
    put_varint(out, wall);
    put_varint(out, record.received.mono_ms);
    // SourceName::BYTES_MAX is 32.
    out.push(source.len() as u8);
    out.extend_from_slice(source);
    put_varint(out, subject.len() as u64);
    out.extend_from_slice(subject);
    out.extend_from_slice(origin.written());
    out.extend_from_slice(record.payload);
}

/// A few bytes on the stack.
#[derive(Default)]
struct Bytes {
    bytes: [u8; ORIGIN_BYTES_MAX],
    len: usize,
}

impl Bytes {
    fn put(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    fn put_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.put(&[value as u8 | 0x80]);
            value >>= 7;
        }
        self.put(&[value as u8]);
    }

    fn written(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

fn encode_origin(origin: Origin, out: &mut Bytes) -> u8 {
    match origin {
        Origin::Line => ORIGIN_LINE,
        Origin::Link {
            address,
            session,
            sequence,
            crc,
        } => {
            out.put(&[address]);
            out.put(&session.to_le_bytes());
            out.put(&sequence.to_le_bytes());
            out.put(&crc.to_le_bytes());
            ORIGIN_LINK
        }
        Origin::Mqtt {
            qos,
            packet_id,
            dup,
            settled,
        } => {
            let news = [
                (MQTT_ACKNOWLEDGED, settled.acknowledged_below),
                (MQTT_RELEASED, settled.released_below),
            ];
            let mut flags = qos & 3 | if dup { MQTT_DUP } else { 0 };
            for (flag, below) in news {
                if below > Offset::ZERO {
                    flags |= flag;
                }
            }
            out.put(&[flags]);
            out.put(&packet_id.to_le_bytes());
            for (_, below) in news.iter().filter(|(flag, _)| flags & flag != 0) {
                out.put_varint(below.get());
            }
            ORIGIN_MQTT
        }
    }
}

/// The entries of one batch's content. Ends early, with [`BadEntry`], at one it can't read.
#[derive(Clone, Debug)]
pub(super) struct Entries<'a> {
    rest: &'a [u8],
    offset: Offset,
    boot_id: u64,
}

impl<'a> Entries<'a> {
    /// The entries of `content`, whose first one has the offset `base`, received in boot `boot_id`.
    pub(super) fn new(content: &'a [u8], base: Offset, boot_id: u64) -> Self {
        Self {
            rest: content,
            offset: base,
            boot_id,
        }
    }

    fn read(&mut self) -> Result<RecordView<'a>, BadEntry> {
        let len = usize::try_from(take_varint(&mut self.rest)?).map_err(|_| BadEntry)?;
        let mut entry = take(&mut self.rest, len)?;
        let view = decode(&mut entry, self.offset, self.boot_id)?;
        self.offset = self.offset.plus(1);
        Ok(view)
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<RecordView<'a>, BadEntry>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let entry = self.read();
        if entry.is_err() {
            self.rest = &[];
        }
        Some(entry)
    }
}

fn decode<'a>(
    entry: &mut &'a [u8],
    offset: Offset,
    boot_id: u64,
) -> Result<RecordView<'a>, BadEntry> {
    let tag = take_u8(entry)?;
    if tag & 3 != KIND_RECORD {
        return Err(BadEntry);
    }
    let kind = match tag >> 2 & 3 {
        0 => PayloadKind::Opaque,
        1 => PayloadKind::SenmlCbor,
        2 => PayloadKind::Gap,
        _ => PayloadKind::Note,
    };
    let received = Stamp {
        wall_ms: unzigzag(take_varint(entry)?),
        mono_ms: take_varint(entry)?,
    };
    let source_len = usize::from(take_u8(entry)?);
    let source = take_str(entry, source_len)?;
    let subject_len = usize::try_from(take_varint(entry)?).map_err(|_| BadEntry)?;
    let subject = take_str(entry, subject_len)?;
    let origin = decode_origin(tag >> 4 & 3, entry)?;
    Ok(RecordView {
        offset,
        source,
        subject,
        kind,
        origin,
        received,
        boot_id,
        payload: entry,
    })
}

fn decode_origin(tag: u8, entry: &mut &[u8]) -> Result<Origin, BadEntry> {
    match tag {
        ORIGIN_LINE => Ok(Origin::Line),
        ORIGIN_LINK => Ok(Origin::Link {
            address: take_u8(entry)?,
            session: u16::from_le_bytes(take_array(entry)?),
            sequence: u32::from_le_bytes(take_array(entry)?),
            crc: u32::from_le_bytes(take_array(entry)?),
        }),
        ORIGIN_MQTT => {
            let flags = take_u8(entry)?;
            let packet_id = u16::from_le_bytes(take_array(entry)?);
            let mut below = |flag| match flags & flag {
                0 => Ok(Offset::ZERO),
                _ => take_varint(entry).map(Offset::new),
            };
            let settled = Settled {
                acknowledged_below: below(MQTT_ACKNOWLEDGED)?,
                released_below: below(MQTT_RELEASED)?,
            };
            Ok(Origin::Mqtt {
                qos: flags & 3,
                packet_id,
                dup: flags & MQTT_DUP != 0,
                settled,
            })
        }
        _ => Err(BadEntry),
    }
}

fn take<'a>(from: &mut &'a [u8], len: usize) -> Result<&'a [u8], BadEntry> {
    let (head, rest) = from.split_at_checked(len).ok_or(BadEntry)?;
    *from = rest;
    Ok(head)
}

fn take_u8(from: &mut &[u8]) -> Result<u8, BadEntry> {
    take(from, 1).map(|bytes| bytes[0])
}

fn take_array<const N: usize>(from: &mut &[u8]) -> Result<[u8; N], BadEntry> {
    take(from, N)?.try_into().map_err(|_| BadEntry)
}

fn take_str<'a>(from: &mut &'a [u8], len: usize) -> Result<&'a str, BadEntry> {
    std::str::from_utf8(take(from, len)?).map_err(|_| BadEntry)
}

fn take_varint(from: &mut &[u8]) -> Result<u64, BadEntry> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = take_u8(from)?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(BadEntry)
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn varint_len(value: u64) -> usize {
    let bits = (64 - value.leading_zeros()).max(1) as usize;
    bits.div_ceil(7)
}

fn zigzag(value: i64) -> u64 {
    (value << 1 ^ value >> 63) as u64
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::record::SourceName;

    fn any_settled() -> impl Strategy<Value = Settled> {
        let offset = || prop_oneof![Just(0), any::<u64>()].prop_map(Offset::new);
        (offset(), offset()).prop_map(|(acknowledged_below, released_below)| Settled {
            acknowledged_below,
            released_below,
        })
    }

    fn any_origin() -> impl Strategy<Value = Origin> {
        prop_oneof![
            Just(Origin::Line),
            any::<(u8, u16, u32, u32)>().prop_map(|(address, session, sequence, crc)| {
                Origin::Link {
                    address,
                    session,
                    sequence,
                    crc,
                }
            }),
            (0_u8..3, any::<u16>(), any::<bool>(), any_settled()).prop_map(
                |(qos, packet_id, dup, settled)| Origin::Mqtt {
                    qos,
                    packet_id,
                    dup,
                    settled
                }
            ),
        ]
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_read_back_and_fits_its_bound(
            subject in ".{0,40}",
            payload in proptest::collection::vec(any::<u8>(), 0..600),
            origin in any_origin(),
            wall_ms in any::<i64>(),
            mono_ms in any::<u64>(),
            kind in prop_oneof![Just(PayloadKind::Opaque), Just(PayloadKind::SenmlCbor), Just(PayloadKind::Gap), Just(PayloadKind::Note)],
        ) {
            let source = SourceName::new("press-line").expect("valid");
            let received = Stamp { wall_ms, mono_ms };
            let record = NewRecord { source: &source, subject: &subject, kind, origin, received, payload: &payload };
            let mut bytes = Vec::new();
            encode(&record, &mut bytes);
            prop_assert!(bytes.len() <= encoded_bytes_max(&record));
            encode(&record, &mut bytes);
            let read: Vec<_> = Entries::new(&bytes, Offset::new(7), 3).collect();
            prop_assert_eq!(read.len(), 2);
            let offset = Offset::new(8);
            let expected = RecordView { offset, source: "press-line", subject: &subject, kind, origin, received, boot_id: 3, payload: &payload };
            prop_assert_eq!(read[1], Ok(expected));
        }

        #[test]
        fn any_bytes_are_read_without_a_panic_and_to_an_end(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(Entries::new(&bytes, Offset::ZERO, 3).count() <= bytes.len());
        }
    }
}
