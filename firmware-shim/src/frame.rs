//! A frame of the link, and how it becomes bytes.
//!
//! ```text
//! on the line   COBS(body) 0x00
//! body  0  u8      version (high nibble) = 1 | kind (low nibble)
//!       1  u8      address   0 point to point, 1–254 a node on a shared bus
//!       2  u16 LE  session   chosen anew at every device boot
//!       4  u32 LE  sequence  DATA: number of the message; ACK: next sequence expected
//!       8  u8      backlog   DATA: how many older, unacknowledged messages the device holds
//!       9  …       payload   0–1024 bytes
//!   end-4  u32 LE  CRC-32C of all before it
//! ```
//!
//! COBS (consistent overhead byte stuffing) costs one byte in 254 and leaves 0x00 to mean nothing
//! but the end of a frame, so that a reader that is lost finds its place again. Encoding goes
//! straight into the caller's buffer; no copy of the body is made.

use crate::crc::Crc32c;

/// Protocol version, the high nibble of a body's first byte.
pub const VERSION: u8 = 1;
/// Bytes before the payload.
pub const HEADER_BYTES: usize = 9;
/// Bytes after the payload.
pub const CRC_BYTES: usize = 4;
/// Largest payload.
pub const PAYLOAD_BYTES_MAX: usize = 1024;
/// Largest body.
pub const BODY_BYTES_MAX: usize = body_bytes(PAYLOAD_BYTES_MAX);
/// Largest frame on the line, its 0x00 included.
pub const FRAME_BYTES_MAX: usize = frame_bytes_max(PAYLOAD_BYTES_MAX);

/// Size of the body of a frame with `payload_bytes` of payload.
#[must_use]
pub const fn body_bytes(payload_bytes: usize) -> usize {
    HEADER_BYTES + payload_bytes + CRC_BYTES
}

/// The most that a frame with `payload_bytes` of payload takes on the line, its 0x00 included.
#[must_use]
pub const fn frame_bytes_max(payload_bytes: usize) -> usize {
    let body = body_bytes(payload_bytes);
    body + body.div_ceil(COBS_RUN_MAX as usize) + 1
}

/// What a frame is for: the low nibble of a body's first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Telemetry: a `SenML` pack in CBOR. Device to gateway.
    Senml = 1,
    /// Telemetry: any bytes. Device to gateway.
    Opaque = 2,
    /// Everything below `sequence` is durable. Gateway to device.
    Ack = 8,
    /// The time, as Unix milliseconds. Gateway to device.
    Time = 9,
}

impl Kind {
    /// The kind with this number.
    #[must_use]
    pub const fn from_nibble(nibble: u8) -> Option<Self> {
        match nibble {
            1 => Some(Self::Senml),
            2 => Some(Self::Opaque),
            8 => Some(Self::Ack),
            9 => Some(Self::Time),
            _ => None,
        }
    }

    /// Whether it carries telemetry (DATA in the protocol's words).
    #[must_use]
    pub const fn is_data(self) -> bool {
        match self {
            Self::Senml | Self::Opaque => true,
            Self::Ack | Self::Time => false,
        }
    }
}

/// The fixed part of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the frame is for.
    pub kind: Kind,
    /// 0 point to point, 1–254 a node on a shared bus.
    pub address: u8,
    /// The device's boot.
    pub session: u16,
    /// DATA: number of this message in the session. ACK: next sequence expected.
    pub sequence: u32,
    /// DATA: how many older, unacknowledged messages the device still holds.
    pub backlog: u8,
}

impl Header {
    /// The header as it stands in the body.
    #[must_use]
    pub fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let session = self.session.to_le_bytes();
        let sequence = self.sequence.to_le_bytes();
        [
            VERSION << 4 | self.kind as u8,
            self.address,
            session[0],
            session[1],
            sequence[0],
            sequence[1],
            sequence[2],
            sequence[3],
            self.backlog,
        ]
    }

    /// Reads a header back; `None` if the kind is unknown. The version is the caller's to check.
    #[must_use]
    pub fn from_bytes(bytes: [u8; HEADER_BYTES]) -> Option<Self> {
        let [first, address, s0, s1, q0, q1, q2, q3, backlog] = bytes;
        Some(Self {
            kind: Kind::from_nibble(first & 0x0f)?,
            address,
            session: u16::from_le_bytes([s0, s1]),
            sequence: u32::from_le_bytes([q0, q1, q2, q3]),
            backlog,
        })
    }

    /// An ACK for a device: everything below `sequence` is durable.
    #[must_use]
    pub const fn ack(address: u8, session: u16, sequence: u32) -> Self {
        Self {
            kind: Kind::Ack,
            address,
            session,
            sequence,
            backlog: 0,
        }
    }

    /// The header of a TIME frame; its payload is [`time_payload`].
    #[must_use]
    pub const fn time(address: u8, session: u16) -> Self {
        Self {
            kind: Kind::Time,
            address,
            session,
            sequence: 0,
            backlog: 0,
        }
    }
}

/// The payload of a TIME frame.
#[must_use]
pub const fn time_payload(unix_ms: u64) -> [u8; 8] {
    unix_ms.to_le_bytes()
}

/// A frame, its payload borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The fixed part.
    pub header: Header,
    /// The rest, at most [`PAYLOAD_BYTES_MAX`].
    pub payload: &'a [u8],
}

impl Frame<'_> {
    /// Identity of the message: CRC-32C of header and payload with the backlog taken as 0.
    ///
    /// A device sends a message again with another backlog once older ones are acknowledged, so
    /// the checksum on the line does not tell whether two messages are the same. This does.
    #[must_use]
    pub fn message_crc(&self) -> u32 {
        let header = Header {
            backlog: 0,
            ..self.header
        };
        let mut crc = Crc32c::new();
        crc.update(&header.to_bytes());
        crc.update(self.payload);
        crc.finish()
    }

    /// The time that a TIME frame carries; `None` for other kinds and sizes.
    #[must_use]
    pub fn unix_ms(&self) -> Option<u64> {
        match self.header.kind {
            Kind::Time => Some(u64::from_le_bytes(self.payload.try_into().ok()?)),
            Kind::Senml | Kind::Opaque | Kind::Ack => None,
        }
    }
}

/// Why a frame was not encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncodeError {
    /// The payload is larger than [`PAYLOAD_BYTES_MAX`].
    PayloadTooLong {
        /// Its size.
        payload_bytes: usize,
    },
    /// The caller's buffer is too small; [`frame_bytes_max`] says what always suffices.
    BufferTooSmall {
        /// Its size.
        buffer_bytes: usize,
    },
}

impl core::fmt::Display for EncodeError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::PayloadTooLong { payload_bytes } => write!(
                f,
                "a payload of {payload_bytes} bytes is over the link's limit of {PAYLOAD_BYTES_MAX}"
            ),
            Self::BufferTooSmall { buffer_bytes } => {
                write!(f, "a frame does not fit a buffer of {buffer_bytes} bytes")
            }
        }
    }
}

impl core::error::Error for EncodeError {}

/// Writes a frame, its 0x00 included, to the start of `out` and returns its size.
///
/// # Errors
/// [`EncodeError`]; what `out` holds then has no meaning.
pub fn encode(header: Header, payload: &[u8], out: &mut [u8]) -> Result<usize, EncodeError> {
    if payload.len() > PAYLOAD_BYTES_MAX {
        return Err(EncodeError::PayloadTooLong {
            payload_bytes: payload.len(),
        });
    }
    let buffer_bytes = out.len();
    let header = header.to_bytes();
    let mut crc = Crc32c::new();
    crc.update(&header);
    crc.update(payload);
    let mut cobs = CobsWriter::new(out);
    for part in [&header[..], payload, &crc.finish().to_le_bytes()] {
        cobs.write(part);
    }
    cobs.finish()
        .ok_or(EncodeError::BufferTooSmall { buffer_bytes })
}

/// Longest run of bytes that one COBS code covers.
const COBS_RUN_MAX: u8 = 254;

/// COBS, straight into a buffer. It stops writing at the buffer's end and says so when finished.
struct CobsWriter<'a> {
    out: &'a mut [u8],
    /// Where the code of the current run goes.
    code_at: usize,
    /// Where the next byte goes.
    at: usize,
}

impl<'a> CobsWriter<'a> {
    fn new(out: &'a mut [u8]) -> Self {
        Self {
            out,
            code_at: 0,
            at: 1,
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            // A full run ends only when more follows, so that none is added at the very end.
            if self.run() == COBS_RUN_MAX {
                self.end_run();
            }
            if byte == 0 {
                self.end_run();
            } else {
                self.put(self.at, byte);
                self.at += 1;
            }
        }
    }

    fn finish(mut self) -> Option<usize> {
        self.end_run();
        self.put(self.code_at, 0);
        (self.at <= self.out.len()).then_some(self.at)
    }

    fn run(&self) -> u8 {
        u8::try_from(self.at - self.code_at - 1).expect("a run is ended at 254 bytes")
    }

    fn end_run(&mut self) {
        self.put(self.code_at, self.run() + 1);
        self.code_at = self.at;
        self.at += 1;
    }

    fn put(&mut self, at: usize, byte: u8) {
        if let Some(place) = self.out.get_mut(at) {
            *place = byte;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            kind: Kind::Opaque,
            address: 3,
            session: 0x0102,
            sequence: 0x0304_0506,
            backlog: 7,
        }
    }

    #[test]
    fn the_largest_frame_fits_the_size_promised_for_it_and_nothing_less() {
        let mut out = [0; FRAME_BYTES_MAX];
        let used = encode(header(), &[0xaa; PAYLOAD_BYTES_MAX], &mut out).expect("fits");
        assert!(used <= FRAME_BYTES_MAX);
        assert_eq!(
            encode(header(), &[0xaa; PAYLOAD_BYTES_MAX], &mut out[..used - 1]),
            Err(EncodeError::BufferTooSmall {
                buffer_bytes: used - 1
            })
        );
    }

    #[test]
    fn a_payload_over_the_limit_is_refused() {
        let payload = [0; PAYLOAD_BYTES_MAX + 1];
        assert_eq!(
            encode(header(), &payload, &mut [0; 2 * FRAME_BYTES_MAX]),
            Err(EncodeError::PayloadTooLong {
                payload_bytes: 1025
            })
        );
    }

    #[test]
    fn a_message_keeps_its_identity_when_the_backlog_before_it_shrinks() {
        let now = Frame {
            header: header(),
            payload: b"x",
        };
        let later = Frame {
            header: Header {
                backlog: 0,
                ..header()
            },
            ..now
        };
        let other = Frame {
            payload: b"y",
            ..now
        };
        assert_eq!(now.message_crc(), later.message_crc());
        assert_ne!(now.message_crc(), other.message_crc());
    }

    #[test]
    fn only_a_whole_time_frame_carries_the_time() {
        let payload = time_payload(1_700_000_000_123);
        let time = Frame {
            header: Header::time(0, 1),
            payload: &payload,
        };
        assert_eq!(time.unix_ms(), Some(1_700_000_000_123));
        let cut = Frame {
            payload: &payload[..7],
            ..time
        };
        assert_eq!(cut.unix_ms(), None);
        let other = Frame {
            header: header(),
            ..time
        };
        assert_eq!(other.unix_ms(), None);
    }
}
