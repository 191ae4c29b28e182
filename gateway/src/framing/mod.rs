//! Framings: where a frame ends and the next begins in a serial byte stream.
//!
//! One trait, [`FrameDecoder`], a byte at a time. A decoder knows no port, no clock and no log: the
//! serial source, `sniff`, the benchmark and the fuzz target drive the same code.
//!
//! ```text
//!  shim        COBS(header payload CRC-32C) 0x00            ([`shim`]; the source reads it itself)
//!  lines       payload LF, payload CR LF                    ([`lines`])
//!  cobs        COBS(payload) 0x00                           ([`cobs`])
//!  slip        escaped payload 0xC0, RFC 1055               ([`slip`])
//!  length-…    u8 or u16 BE, payload                        ([`length`])
//!  start, end  start payload end, both part of the payload  ([`delimited`])
//!  idle        payload, silence                             ([`idle`])
//! ```
//!
//! # Invariants
//!
//! - **F1** After any garbage at most one good frame is lost. What ends the damage is the next
//!   delimiter; `length-…` and `idle` have none, and find their place in the next silence.
//! - **F2** A frame is rejected once, with a reason, as soon as it is known to be no good.
//! - **F3** Memory is `frame_bytes_max` and a few bytes; no input makes it grow or panic.
//! - **F4** An empty frame says nothing.

pub mod checksum;
pub mod cobs;
pub mod delimited;
pub mod idle;
pub mod length;
pub mod lines;
pub mod shim;
pub mod slip;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use checksum::Checksum;

/// A silence in the middle of a length-prefixed frame that ends it. Twice the 16 ms that a USB
/// adapter may hold bytes back would do on a fast line; chosen by eye beyond that, since devices
/// that compute while they send are common.
const FRAME_GAP_MIN: Duration = Duration::from_millis(100);
/// On a slow line it is so many bytes' time instead.
const FRAME_GAP_BYTES: u32 = 20;
/// Start bit, eight data bits, stop bit.
const BITS_PER_BYTE: u32 = 10;

/// How frames are found in a serial byte stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Shim link v1, with ACKs.
    Shim,
    /// Text lines, ended by LF or CRLF.
    Lines,
    /// Consistent overhead byte stuffing, ended by 0x00.
    Cobs,
    /// RFC 1055.
    Slip,
    /// One byte that says how many follow.
    LengthU8,
    /// Two bytes, most significant first, that say how many follow.
    LengthU16Be,
    /// From `start` to `end`, both part of the frame.
    Delimited {
        /// What a frame begins with; empty if it begins where the last one ended.
        start: Vec<u8>,
        /// What it ends with; never empty.
        end: Vec<u8>,
    },
    /// A frame ends when the line is silent for so long.
    Idle(Duration),
}

/// A framing with all that a decoder of it is made with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Format {
    /// How frames are found.
    pub framing: Framing,
    /// What they are checked with, beyond what the framing itself has.
    pub checksum: Option<Checksum>,
    /// Largest payload of a frame, in bytes.
    pub frame_bytes_max: usize,
    /// Bits a second, for what the line's speed means to a frame.
    pub baud_rate: u32,
}

/// Why a frame was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// More than `frame_bytes_max`.
    TooLong,
    /// It ended before its end: a silence, or a port that went.
    Truncated,
    /// An escape that the framing does not have.
    Escape,
    /// The checksum does not match, or isn't there.
    Checksum,
    /// As the shim link says; `cobs` also for plain COBS.
    Link(firmware_shim::decoder::Rejection),
}

impl Rejection {
    /// The word for it in metrics.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::TooLong => "too_long",
            Self::Truncated => "truncated",
            Self::Escape => "escape",
            Self::Checksum => "checksum",
            Self::Link(rejection) => rejection.reason(),
        }
    }
}

/// What a byte, or a silence, brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing yet.
    Pending,
    /// It ended a good frame; [`FrameDecoder::frame`] has it.
    Frame,
    /// The frame it belongs to is no good.
    Rejected(Rejection),
}

/// Cuts a byte stream into frames.
pub trait FrameDecoder: std::fmt::Debug + Send {
    /// Takes the next byte of the line.
    fn push(&mut self, byte: u8) -> Outcome;

    /// The payload of the frame that the last call ended; empty if it ended none.
    fn frame(&self) -> &[u8];

    /// The silence that would change something now, counted from the last byte.
    fn silence(&self) -> Option<Duration> {
        None
    }

    /// The line was silent for [`silence`](Self::silence).
    fn silent(&mut self) -> Outcome {
        Outcome::Pending
    }

    /// Forgets what it has of a frame, as after a port that was closed and opened again. Returns
    /// whether a frame had begun.
    fn cut(&mut self) -> bool;
}

/// A decoder at the start of a frame.
#[must_use]
pub fn decoder(format: &Format) -> Box<dyn FrameDecoder> {
    let bytes_max = format.frame_bytes_max;
    let gap = frame_gap(format.baud_rate);
    let plain: Box<dyn FrameDecoder> = match &format.framing {
        Framing::Shim => Box::new(shim::Shim::new(bytes_max)),
        Framing::Lines => Box::new(lines::Lines::new(bytes_max)),
        Framing::Cobs => Box::new(cobs::Cobs::new(bytes_max)),
        Framing::Slip => Box::new(slip::Slip::new(bytes_max)),
        Framing::LengthU8 => Box::new(length::LengthPrefixed::new(1, bytes_max, gap)),
        Framing::LengthU16Be => Box::new(length::LengthPrefixed::new(2, bytes_max, gap)),
        Framing::Delimited { start, end } => {
            let trailer = match format.checksum {
                Some(Checksum::Dsmr) => delimited::Trailer::Crc16,
                Some(Checksum::Nmea | Checksum::CsvXor | Checksum::CsvCrc16 | Checksum::Modbus)
                | None => delimited::Trailer::None,
            };
            Box::new(delimited::Delimited::new(start, end, trailer, bytes_max))
        }
        Framing::Idle(silence) => Box::new(idle::Idle::new(*silence, bytes_max)),
    };
    match format.checksum {
        Some(checksum) => Box::new(checksum::Checked::new(plain, checksum)),
        None => plain,
    }
}

/// The silence after which a frame does not go on.
fn frame_gap(baud_rate: u32) -> Duration {
    let byte_us = 1_000_000 * BITS_PER_BYTE / baud_rate.max(1);
    let bytes = Duration::from_micros(u64::from(byte_us)) * FRAME_GAP_BYTES;
    bytes.max(FRAME_GAP_MIN)
}

/// The bytes of a frame as they come in (F3).
#[derive(Debug)]
struct Assembly {
    bytes: Vec<u8>,
    bytes_max: usize,
    /// The frame is whole: the next byte begins another.
    whole: bool,
}

impl Assembly {
    fn new(bytes_max: usize) -> Self {
        Self {
            bytes: Vec::new(),
            bytes_max,
            whole: false,
        }
    }

    /// Forgets a frame that is whole; called before anything else with each byte.
    fn begin(&mut self) {
        if self.whole {
            self.clear();
        }
    }

    /// Adds a byte, if there is room for it.
    fn put(&mut self, byte: u8) -> bool {
        let room = self.bytes.len() < self.bytes_max;
        if room {
            self.bytes.push(byte);
        }
        room
    }

    /// Keeps the last `count` bytes that came.
    fn slide(&mut self, byte: u8, count: usize) {
        self.bytes.push(byte);
        let surplus = self.bytes.len().saturating_sub(count);
        self.bytes.drain(..surplus);
    }

    /// The frame is whole, and said unless it is empty (F4).
    fn finish(&mut self) -> Outcome {
        self.whole = true;
        if self.bytes.is_empty() {
            Outcome::Pending
        } else {
            Outcome::Frame
        }
    }

    fn reject(&mut self, rejection: Rejection) -> Outcome {
        self.clear();
        Outcome::Rejected(rejection)
    }

    fn frame(&self) -> &[u8] {
        if self.whole { &self.bytes } else { &[] }
    }

    /// Whether a frame has begun and is not whole.
    fn has_begun(&self) -> bool {
        !self.whole && !self.bytes.is_empty()
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.whole = false;
    }

    /// Forgets everything; returns whether a frame had begun.
    fn cut(&mut self) -> bool {
        let had_begun = self.has_begun();
        self.clear();
        had_begun
    }
}
