//! Checksums that frames carry in their payload, and a decoder that rejects what they don't match.
//!
//! A checksum is looked at and left where it is: the record is what the device sent.

use super::{FrameDecoder, Outcome, Rejection};
use std::time::Duration;

/// CRC-16 with polynomial 0x8005, bits reversed, as DSMR and Modbus have it.
const POLYNOMIAL: u16 = 0xa001;

/// How a frame is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// `$…*hh` or `!…*hh`: XOR of what is between, in hex (NMEA 0183).
    Nmea,
    /// `…,hh`: XOR of what is before the last comma, in hex.
    CsvXor,
    /// `…,hhhh`: CRC-16/ARC of what is before the last comma, in hex.
    CsvCrc16,
    /// `/…!hhhh`: CRC-16/ARC of what is before the digits (DSMR P1).
    Dsmr,
    /// Two bytes, least significant first: CRC-16/MODBUS of what is before them.
    Modbus,
}

impl Checksum {
    /// Whether the frame carries the right checksum.
    #[must_use]
    pub fn holds(self, frame: &[u8]) -> bool {
        self.matches(frame).unwrap_or(false)
    }

    /// `None` if the frame carries none.
    fn matches(self, frame: &[u8]) -> Option<bool> {
        match self {
            Self::Nmea => {
                let (head, digits) = frame.split_last_chunk::<2>()?;
                let (checked, star) = head.split_last_chunk::<1>()?;
                let (lead, checked) = checked.split_first()?;
                let marked = star == b"*" && matches!(lead, b'$' | b'!');
                Some(marked && hex(digits)? == u16::from(xor(checked)))
            }
            Self::CsvXor => {
                let (checked, digits) = frame.split_last_chunk::<2>()?;
                Some(hex(digits)? == u16::from(xor(checked.strip_suffix(b",")?)))
            }
            Self::CsvCrc16 => {
                let (checked, digits) = frame.split_last_chunk::<4>()?;
                Some(hex(digits)? == crc16(0, checked.strip_suffix(b",")?))
            }
            Self::Dsmr => {
                let (checked, digits) = frame.split_last_chunk::<4>()?;
                Some(hex(digits)? == crc16(0, checked))
            }
            Self::Modbus => {
                let (checked, crc) = frame.split_last_chunk()?;
                Some(!checked.is_empty() && u16::from_le_bytes(*crc) == crc16(0xffff, checked))
            }
        }
    }
}

fn xor(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum ^ byte)
}

fn hex(digits: &[u8]) -> Option<u16> {
    digits.iter().try_fold(0, |number, &digit| {
        let value = char::from(digit).to_digit(16)?;
        Some(number << 4 | u16::try_from(value).ok()?)
    })
}

/// CRC-16 from `start`: 0 for ARC, 0xFFFF for MODBUS.
#[must_use]
pub fn crc16(start: u16, bytes: &[u8]) -> u16 {
    bytes.iter().fold(start, |crc, &byte| {
        (0..8).fold(crc ^ u16::from(byte), |crc, _| {
            let shifted = crc >> 1;
            if crc & 1 == 1 {
                shifted ^ POLYNOMIAL
            } else {
                shifted
            }
        })
    })
}

/// A decoder that passes on only frames with the right checksum.
#[derive(Debug)]
pub struct Checked {
    decoder: Box<dyn FrameDecoder>,
    checksum: Checksum,
}

impl Checked {
    /// Checks what `decoder` yields.
    #[must_use]
    pub fn new(decoder: Box<dyn FrameDecoder>, checksum: Checksum) -> Self {
        Self { decoder, checksum }
    }

    fn check(&self, outcome: Outcome) -> Outcome {
        if outcome == Outcome::Frame && !self.checksum.holds(self.decoder.frame()) {
            return Outcome::Rejected(Rejection::Checksum);
        }
        outcome
    }
}

impl FrameDecoder for Checked {
    fn push(&mut self, byte: u8) -> Outcome {
        let outcome = self.decoder.push(byte);
        self.check(outcome)
    }

    fn frame(&self) -> &[u8] {
        self.decoder.frame()
    }

    fn silence(&self) -> Option<Duration> {
        self.decoder.silence()
    }

    fn silent(&mut self) -> Outcome {
        let outcome = self.decoder.silent();
        self.check(outcome)
    }

    fn cut(&mut self) -> bool {
        self.decoder.cut()
    }
}
