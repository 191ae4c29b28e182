//! Frames of the shim link: streams of them, and how many a decoder finds in one.

use std::hint::black_box;

use firmware_shim::decoder::{Decoder, Outcome};
use firmware_shim::frame::{self, FRAME_BYTES_MAX, Header, Kind};

/// As the gateway reads a port.
const READ_BYTES: usize = 2048;

/// Appends a device's message number `sequence`.
pub(crate) fn encode(sequence: u32, payload: &[u8], stream: &mut Vec<u8>) {
    let header = Header {
        kind: Kind::Opaque,
        address: 0,
        session: 1,
        sequence,
        backlog: 0,
    };
    let mut out = [0; FRAME_BYTES_MAX];
    let used = frame::encode(header, payload, &mut out).expect("the largest frame fits");
    stream.extend_from_slice(&out[..used]);
}

/// Counts the whole frames.
pub(crate) fn decode(stream: &[u8]) -> u64 {
    let mut decoder: Decoder = Decoder::new();
    let mut frames = 0;
    for mut rest in stream.chunks(READ_BYTES) {
        while !rest.is_empty() {
            let (taken, outcome) = decoder.take(rest);
            match outcome {
                Outcome::Pending | Outcome::Rejected(_) => {}
                Outcome::Frame(frame) => {
                    black_box(frame.payload);
                    frames += 1;
                }
            }
            rest = &rest[taken..];
        }
    }
    frames
}
