//! A serial line in any framing, and what must hold of it.

use std::time::Duration;

use edge_gateway::framing::checksum::crc16;
use edge_gateway::framing::{self, Checksum, Format, FrameDecoder, Framing, Outcome};
use firmware_shim::frame::{self, Header, Kind};

use crate::input::Input;

/// Small, so that frames are soon too long.
const FRAME_BYTES_MAX: usize = 64;
/// Digits behind a telegram's end.
const TRAILER_BYTES: usize = 4;
const PAYLOAD: &[u8] = b"ok";

/// Reads portions of an input with silences between them, then two good frames.
///
/// # Panics
/// If a frame is empty or too large (F3, F4), or the second good frame does not come out (F1).
pub(crate) fn holds(input: &mut Input<'_>) {
    let formats = formats();
    let format = &formats[usize::from(input.u8()) % formats.len()];
    let mut decoder = framing::decoder(format);
    while !input.is_empty() {
        let count = usize::from(input.u8());
        let portion = input.bytes(count);
        read(decoder.as_mut(), format, portion);
    }
    let (wire, payload) = good(format);
    read(decoder.as_mut(), format, &wire);
    let last = read(decoder.as_mut(), format, &wire);
    assert_eq!(last, Some(payload), "F1: {format:?}");
}

/// The last frame of a portion and the silence behind it.
fn read(decoder: &mut dyn FrameDecoder, format: &Format, portion: &[u8]) -> Option<Vec<u8>> {
    let mut last = None;
    for &byte in portion {
        let outcome = decoder.push(byte);
        last = frame(outcome, decoder, format).or(last);
    }
    if decoder.silence().is_some() {
        let outcome = decoder.silent();
        last = frame(outcome, decoder, format).or(last);
    }
    last
}

fn frame(outcome: Outcome, decoder: &dyn FrameDecoder, format: &Format) -> Option<Vec<u8>> {
    match outcome {
        Outcome::Pending | Outcome::Rejected(_) => None,
        Outcome::Frame => {
            let frame = decoder.frame().to_vec();
            assert!(
                !frame.is_empty() || format.framing == Framing::Shim,
                "F4: {format:?}"
            );
            assert!(
                frame.len() <= FRAME_BYTES_MAX + TRAILER_BYTES,
                "F3: {format:?}"
            );
            Some(frame)
        }
    }
}

fn formats() -> Vec<Format> {
    let delimited = |start: &[u8], end: &[u8]| Framing::Delimited {
        start: start.to_owned(),
        end: end.to_owned(),
    };
    let idle = || Framing::Idle(Duration::from_millis(5));
    [
        (Framing::Shim, None),
        (Framing::Lines, None),
        (Framing::Cobs, None),
        (Framing::Slip, None),
        (Framing::LengthU8, None),
        (Framing::LengthU16Be, None),
        (delimited(b"/", b"!"), None),
        (delimited(b"<<", b">>"), None),
        (delimited(b"", b"\r\n"), None),
        (delimited(b"/", b"!"), Some(Checksum::Dsmr)),
        (idle(), None),
        (idle(), Some(Checksum::Modbus)),
        (Framing::Lines, Some(Checksum::Nmea)),
        (Framing::Lines, Some(Checksum::CsvXor)),
        (Framing::Lines, Some(Checksum::CsvCrc16)),
    ]
    .map(|(framing, checksum)| Format {
        framing,
        checksum,
        frame_bytes_max: FRAME_BYTES_MAX,
        baud_rate: 115_200,
    })
    .into()
}

/// A good frame on the line, and its payload.
fn good(format: &Format) -> (Vec<u8>, Vec<u8>) {
    let plain = |wire: &[u8]| (wire.to_owned(), PAYLOAD.to_owned());
    let line = |text: &str| (format!("{text}\r\n").into_bytes(), text.into());
    match (&format.framing, format.checksum) {
        (Framing::Shim, _) => plain(&shim()),
        (Framing::Lines, Some(Checksum::Nmea)) => line("$ok*04"),
        (Framing::Lines, Some(Checksum::CsvXor)) => line("ok,04"),
        (Framing::Lines, Some(_)) => line(&format!("ok,{:04X}", crc16(0, PAYLOAD))),
        (Framing::Lines, None) => line("ok"),
        (Framing::Cobs, _) => plain(b"\x03ok\0"),
        (Framing::Slip, _) => plain(b"ok\xc0"),
        (Framing::LengthU8, _) => plain(b"\x02ok"),
        (Framing::LengthU16Be, _) => plain(b"\0\x02ok"),
        (Framing::Delimited { start, end }, checksum) => {
            let mut whole = [start, PAYLOAD, end].concat();
            if checksum.is_some() {
                whole.extend(format!("{:04X}", crc16(0, &whole)).bytes());
            }
            (whole.clone(), whole)
        }
        (Framing::Idle(_), checksum) => {
            let mut whole = PAYLOAD.to_owned();
            if checksum.is_some() {
                whole.extend(crc16(0xffff, &whole).to_le_bytes());
            }
            (whole.clone(), whole)
        }
    }
}

fn shim() -> Vec<u8> {
    let header = Header {
        kind: Kind::Opaque,
        address: 1,
        session: 2,
        sequence: 3,
        backlog: 0,
    };
    let mut out = vec![0; frame::FRAME_BYTES_MAX];
    let used = frame::encode(header, PAYLOAD, &mut out).expect("it fits");
    out.truncate(used);
    out
}
