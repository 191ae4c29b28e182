//! How messages are set apart on a line, other than by the shim link.

use std::fmt::Write as _;
use std::time::Duration;

use bytes::{BufMut as _, BytesMut};

use super::SerialError;

const STX: u8 = 0x02;
const ETX: u8 = 0x03;
const SLIP_END: u8 = 0xc0;
const SLIP_ESC: u8 = 0xdb;
const SLIP_ESC_END: u8 = 0xdc;
const SLIP_ESC_ESC: u8 = 0xdd;
/// Most bytes that one COBS code covers.
const COBS_RUN: usize = 254;
/// Silence after a frame that nothing but silence ends. Well above what a busy machine keeps a reader
/// from a line for.
const SILENCE: Duration = Duration::from_millis(200);

/// How messages are set apart on the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Framing {
    /// The shim link: COBS frames with checksum, acknowledged.
    Shim,
    /// One JSON text a line.
    Lines,
    /// JSON in consistent overhead byte stuffing, ended by 0x00.
    Cobs,
    /// JSON in RFC 1055's framing.
    Slip,
    /// JSON behind a byte that says how long it is.
    LengthU8,
    /// JSON behind two bytes, most significant first, that say how long it is.
    LengthU16Be,
    /// JSON between STX (0x02) and ETX (0x03).
    StxEtx,
    /// A DSMR P1 telegram with its CRC-16; the JSON is its text message, in hex.
    Dsmr,
    /// JSON and its CRC-16/MODBUS, then silence.
    Idle,
}

impl Framing {
    /// Largest payload that a frame takes.
    #[must_use]
    pub const fn payload_bytes_max(self) -> usize {
        match self {
            Self::Shim => firmware_shim::frame::PAYLOAD_BYTES_MAX,
            Self::LengthU8 => u8::MAX as usize,
            Self::LengthU16Be => u16::MAX as usize,
            Self::Lines | Self::Cobs | Self::Slip | Self::StxEtx | Self::Dsmr | Self::Idle => {
                usize::MAX
            }
        }
    }

    /// How long the line must be silent after a frame.
    #[must_use]
    pub const fn silence(self) -> Option<Duration> {
        match self {
            Self::Idle => Some(SILENCE),
            Self::Shim
            | Self::Lines
            | Self::Cobs
            | Self::Slip
            | Self::LengthU8
            | Self::LengthU16Be
            | Self::StxEtx
            | Self::Dsmr => None,
        }
    }

    /// Appends the frame of a JSON payload, as bytes on the line. The shim link's frames are made by
    /// its sender; here its payload stands as it is.
    ///
    /// # Errors
    /// [`SerialError::TooLong`] if no frame takes the payload.
    pub fn write(self, payload: &[u8], out: &mut BytesMut) -> Result<(), SerialError> {
        if payload.len() > self.payload_bytes_max() {
            return Err(SerialError::TooLong {
                payload_bytes: payload.len(),
                payload_bytes_max: self.payload_bytes_max(),
            });
        }
        match self {
            Self::Shim => out.put_slice(payload),
            Self::Lines => put_between(&[], payload, b"\n", out),
            Self::Cobs => put_cobs(payload, out),
            Self::Slip => put_slip(payload, out),
            Self::LengthU8 | Self::LengthU16Be => {
                let length = payload.len().to_be_bytes();
                let digits = if self == Self::LengthU8 { 1 } else { 2 };
                put_between(&length[length.len() - digits..], payload, &[], out);
            }
            Self::StxEtx => put_between(&[STX], payload, &[ETX], out),
            Self::Dsmr => put_telegram(payload, out),
            Self::Idle => put_between(&[], payload, &crc16(0xffff, payload).to_le_bytes(), out),
        }
        Ok(())
    }
}

fn put_between(head: &[u8], payload: &[u8], tail: &[u8], out: &mut BytesMut) {
    for part in [head, payload, tail] {
        out.put_slice(part);
    }
}

fn put_cobs(payload: &[u8], out: &mut BytesMut) {
    let mut parts = payload.split(|&byte| byte == 0).peekable();
    while let Some(mut part) = parts.next() {
        while part.len() >= COBS_RUN {
            let (run, rest) = part.split_at(COBS_RUN);
            out.put_u8(0xff);
            out.put_slice(run);
            part = rest;
            // A full run at the very end needs no code behind it.
            if part.is_empty() && parts.peek().is_none() {
                out.put_u8(0);
                return;
            }
        }
        out.put_u8(u8::try_from(part.len() + 1).expect("shorter than a run"));
        out.put_slice(part);
    }
    out.put_u8(0);
}

fn put_slip(payload: &[u8], out: &mut BytesMut) {
    for &byte in payload {
        match byte {
            SLIP_END => out.put_slice(&[SLIP_ESC, SLIP_ESC_END]),
            SLIP_ESC => out.put_slice(&[SLIP_ESC, SLIP_ESC_ESC]),
            plain => out.put_u8(plain),
        }
    }
    out.put_u8(SLIP_END);
}

/// A telegram of protocol version 5 with the least that one has, and a text message.
fn put_telegram(payload: &[u8], out: &mut BytesMut) {
    let start = out.len();
    out.put_slice(b"/SIM5\\2sensor-sim\r\n\r\n1-3:0.2.8(50)\r\n0-0:96.13.0(");
    for byte in payload {
        write!(out, "{byte:02X}").expect("a growing buffer takes all text");
    }
    out.put_slice(b")\r\n!");
    let crc = crc16(0, &out[start..]);
    write!(out, "{crc:04X}\r\n").expect("a growing buffer takes all text");
}

/// CRC-16, polynomial 0x8005, bits reversed, from `start`: 0 for ARC (DSMR), 0xFFFF for MODBUS.
fn crc16(start: u16, bytes: &[u8]) -> u16 {
    let mut crc = start;
    for &byte in bytes {
        crc ^= u16::from(byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xa001 & (crc & 1).wrapping_neg());
        }
    }
    crc
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(framing: Framing, payload: &[u8]) -> Vec<u8> {
        let mut out = BytesMut::from(&b"before"[..]);
        framing.write(payload, &mut out).unwrap();
        out.split_off(6).to_vec()
    }

    #[test]
    fn every_framing_puts_its_bytes_around_a_payload() {
        for (framing, payload, expected) in [
            (Framing::Shim, &b"{}"[..], &b"{}"[..]),
            (Framing::Lines, b"{}", b"{}\n"),
            (Framing::Cobs, b"a\0\0b", b"\x02a\x01\x02b\0"),
            (Framing::Cobs, b"", b"\x01\0"),
            (Framing::Slip, b"a\xc0\xdbb", b"a\xdb\xdc\xdb\xddb\xc0"),
            (Framing::LengthU8, b"{}", b"\x02{}"),
            (Framing::LengthU16Be, b"{}", b"\0\x02{}"),
            (Framing::StxEtx, b"{}", b"\x02{}\x03"),
            (Framing::Idle, b"123456789", b"123456789\x37\x4b"),
        ] {
            assert_eq!(written(framing, payload), expected, "{framing:?}");
        }
    }

    #[test]
    fn a_full_run_of_cobs_stands_for_no_zero() {
        let run = [7; COBS_RUN];
        let coded = [&[0xff], &run[..]].concat();
        let last = [&coded[..], &[0]].concat();
        assert_eq!(written(Framing::Cobs, &run), last);
        let zero = [&run[..], &[0]].concat();
        let behind = [&coded[..], &[1, 1, 0]].concat();
        assert_eq!(written(Framing::Cobs, &zero), behind);
    }

    #[test]
    fn a_telegram_carries_its_payload_in_hex_and_ends_in_its_crc() {
        assert_eq!(crc16(0, b"123456789"), 0xbb3d);
        let telegram = String::from_utf8(written(Framing::Dsmr, b"{}")).unwrap();
        let (checked, crc) = telegram.split_once('!').unwrap();
        assert!(checked.ends_with("0-0:96.13.0(7B7D)\r\n"), "{telegram}");
        let crc16 = crc16(0, format!("{checked}!").as_bytes());
        assert_eq!(crc, format!("{crc16:04X}\r\n"));
    }

    #[test]
    fn a_payload_that_no_length_can_say_is_refused() {
        let mut out = BytesMut::new();
        assert!(Framing::LengthU8.write(&[0; 255], &mut out).is_ok());
        let refused = Framing::LengthU8.write(&[0; 256], &mut out);
        assert!(matches!(refused, Err(SerialError::TooLong { .. })));
    }
}
