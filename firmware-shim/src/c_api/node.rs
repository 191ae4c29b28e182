//! What a node for C is made of, in safe code.

use super::Status;
use crate::decoder::{Decoder, Outcome};
use crate::frame::{self, EncodeError, Kind};
use crate::link::sender::{Action, Config, Heard, PushError, Sender};
use crate::senml::{self, Number, Record};

/// Messages that a node holds: the variable `FIRMWARE_SHIM_RING_SLOTS` of the build, or 8.
pub const RING_SLOTS: usize = figure(option_env!("FIRMWARE_SHIM_RING_SLOTS"), 8);
/// Most bytes of a message: the variable `FIRMWARE_SHIM_PAYLOAD_BYTES_MAX` of the build, or 128.
pub const PAYLOAD_BYTES_MAX: usize = figure(option_env!("FIRMWARE_SHIM_PAYLOAD_BYTES_MAX"), 128);
/// Most bytes of a frame of a node.
pub const FRAME_BYTES_MAX: usize = frame::frame_bytes_max(PAYLOAD_BYTES_MAX);

/// Readings in a message: as many as the one-byte head of a CBOR array counts.
pub(super) const READINGS_MAX: usize = 23;
/// What the memory of a node begins with, so that other memory is not taken for one.
pub(super) const MARK: u64 = u64::from_le_bytes(*b"shim\x01\xe5\x9a\xd2");

/// The header's formula for the memory of a node; it has to suffice.
const _: () = assert!(
    size_of::<Node>() <= (192 + RING_SLOTS * (PAYLOAD_BYTES_MAX + 6)) / 8 * 8,
    "the header's firmware_shim_node is too small"
);
const _: () = assert!(align_of::<Node>() <= align_of::<u64>());

/// A decimal figure from the environment of the build.
const fn figure(text: Option<&str>, default: usize) -> usize {
    let Some(text) = text else {
        return default;
    };
    let digits = text.as_bytes();
    let (mut value, mut at) = (0, 0);
    while at < digits.len() {
        assert!(digits[at].is_ascii_digit(), "not a decimal number");
        value = value * 10 + (digits[at] - b'0') as usize;
        at += 1;
    }
    value
}

/// A device's end of the link, in memory of a C program.
#[derive(Debug)]
#[repr(C)]
pub struct Node {
    pub(super) mark: u64,
    /// Unix time at 0 of the caller's clock; 0 if the gateway has not told it.
    epoch_ms: u64,
    lost: u32,
    decoder: Decoder<{ frame::body_bytes(8) }>,
    sender: Sender<RING_SLOTS, PAYLOAD_BYTES_MAX>,
}

/// A reading whose texts have been checked.
pub(super) struct Value<'a> {
    pub(super) name: &'a str,
    pub(super) unit: Option<&'a str>,
    pub(super) value: f64,
}

impl Node {
    /// A node at its beginning. A constant, to be copied from flash to its place: made on the stack
    /// it would take as much of that as the ring is large.
    pub(super) const NEW: Self = Self {
        mark: MARK,
        epoch_ms: 0,
        lost: 0,
        decoder: Decoder::new(),
        sender: Sender::new(Config::new(0, 0)),
    };

    pub(super) const fn configure(&mut self, config: Config) {
        self.sender.configure(config);
    }

    /// Keeps `count` values as one pack.
    pub(super) fn push_values<'a>(
        &mut self,
        base_name: Option<&str>,
        unix_s: f64,
        count: usize,
        values: impl Iterator<Item = Result<Value<'a>, Status>>,
    ) -> Result<(), Status> {
        let mut pack = [0; PAYLOAD_BYTES_MAX];
        let mut used = 1;
        for (at, value) in values.enumerate() {
            let value = value?;
            let record = Record {
                base_name: base_name.filter(|_| at == 0),
                base_time: (at == 0 && unix_s > 0.0).then_some(Number::Float(unix_s)),
                name: Some(value.name),
                unit: value.unit,
                value: Some(Number::Float(value.value)),
                ..Record::default()
            };
            used = append(&record, &mut pack, used)?;
        }
        pack[0] = array_head(count)?;
        self.push(Kind::Senml, &pack[..used])
    }

    pub(super) fn push_bytes(&mut self, bytes: &[u8]) -> Result<(), Status> {
        self.push(Kind::Opaque, bytes)
    }

    fn push(&mut self, kind: Kind, payload: &[u8]) -> Result<(), Status> {
        match self.sender.push(kind, payload) {
            Ok(pushed) => {
                let lost = u32::from(pushed.overwritten.is_some());
                self.lost = self.lost.saturating_add(lost);
                Ok(())
            }
            Err(PushError::PayloadTooLong { .. } | PushError::NotData { .. }) => {
                Err(Status::PayloadTooLong)
            }
        }
    }

    /// Size of the frame written to `out`; 0 if none is to be sent now.
    pub(super) fn poll(&mut self, now_ms: u64, out: &mut [u8]) -> Result<i32, Status> {
        match self.sender.poll(now_ms, out) {
            Ok(Action::Send(bytes)) => i32::try_from(bytes).map_err(|_| Status::BufferTooSmall),
            Ok(Action::Wait(_) | Action::Idle) => Ok(0),
            Err(EncodeError::BufferTooSmall { .. } | EncodeError::PayloadTooLong { .. }) => {
                Err(Status::BufferTooSmall)
            }
        }
    }

    pub(super) fn transmitted(&mut self, now_ms: u64) {
        self.sender.transmitted(now_ms);
    }

    /// Messages that `bytes` acknowledged.
    pub(super) fn feed(&mut self, now_ms: u64, bytes: &[u8]) -> i32 {
        let mut acknowledged = 0_i32;
        for &byte in bytes {
            let frame = match self.decoder.push(byte) {
                Outcome::Frame(frame) => frame,
                Outcome::Pending | Outcome::Rejected(_) => continue,
            };
            match self.sender.hear(&frame, now_ms) {
                Heard::Acknowledged(count) => {
                    acknowledged = acknowledged.saturating_add(i32::from(count));
                }
                Heard::Time(unix_ms) => self.epoch_ms = unix_ms.saturating_sub(now_ms),
                Heard::SessionClash => self.sender.restart(self.sender.session().wrapping_add(1)),
                Heard::Ignored => {}
            }
        }
        acknowledged
    }

    pub(super) fn held(&self) -> u32 {
        u32::try_from(self.sender.held()).unwrap_or(u32::MAX)
    }

    pub(super) const fn lost(&self) -> u32 {
        self.lost
    }

    pub(super) const fn unix_ms(&self, now_ms: u64) -> u64 {
        match self.epoch_ms {
            0 => 0,
            epoch_ms => epoch_ms.saturating_add(now_ms),
        }
    }
}

/// Head of a CBOR array of `count` items.
fn array_head(count: usize) -> Result<u8, Status> {
    match u8::try_from(count) {
        Ok(count @ 1..=23) => Ok(0x80 | count),
        Ok(_) | Err(_) => Err(Status::ReadingCount),
    }
}

/// Writes `record` to `pack` from `used` on and returns where it ends.
///
/// Records go one by one, since 23 of them are several KiB of stack. Each is encoded as a pack of its
/// own, whose head, one byte, is written over by the byte that was there.
fn append(record: &Record<'_>, pack: &mut [u8], used: usize) -> Result<usize, Status> {
    let head_at = used - 1;
    let kept = pack[head_at];
    let written = senml::encode(core::slice::from_ref(record), &mut pack[head_at..])
        .map_err(|_| Status::PayloadTooLong)?;
    pack[head_at] = kept;
    Ok(head_at + written)
}
