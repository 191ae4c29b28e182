//! How fast the decoder reads clean frames and noise, on one core:
//! `cargo bench -p firmware-shim --features std`.
//!
//! Streams of 4 MiB, taken 2 KiB at a time as the gateway reads a port; the best of 25 runs, since
//! on a shared machine the others measure the neighbours. It fails where a figure is below its target.

use std::hint::black_box;
use std::process::ExitCode;
use std::time::Instant;

use firmware_shim::decoder::{Decoder, Outcome};
use firmware_shim::frame::{self, Header, Kind};

const STREAM_BYTES: usize = 4 << 20;
const READ_BYTES: usize = 2048;
const RUNS: usize = 25;
const CLEAN_MB_PER_SECOND_MIN: f64 = 400.0;
/// Noise may cost four times as much.
const NOISE_MB_PER_SECOND_MIN: f64 = CLEAN_MB_PER_SECOND_MIN / 4.0;

/// A xorshift generator: the same bytes in every run.
struct Random(u64);

impl Random {
    fn byte(&mut self) -> u8 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.to_le_bytes()[3]
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.byte()).collect()
    }
}

/// Frames with random payloads of this size.
fn clean(payload_bytes: usize) -> Vec<u8> {
    let mut random = Random(1);
    let mut stream = Vec::new();
    let mut sequence = 0;
    while stream.len() < STREAM_BYTES {
        let header = Header {
            kind: Kind::Opaque,
            address: 0,
            session: 1,
            sequence,
            backlog: 0,
        };
        let mut out = [0; frame::FRAME_BYTES_MAX];
        let payload = random.bytes(payload_bytes);
        let used = frame::encode(header, &payload, &mut out).expect("the largest frame fits");
        stream.extend_from_slice(&out[..used]);
        sequence += 1;
    }
    stream
}

/// Megabytes a second, and how many frames there were.
fn speed(stream: &[u8]) -> (f64, usize) {
    let mut fastest = f64::INFINITY;
    let mut frames = 0;
    for _ in 0..RUNS {
        let began = Instant::now();
        frames = decode(stream);
        fastest = fastest.min(began.elapsed().as_secs_f64());
    }
    (stream.len() as f64 / fastest / 1e6, frames)
}

fn decode(stream: &[u8]) -> usize {
    let mut decoder: Decoder = Decoder::new();
    let mut frames = 0;
    for read in stream.chunks(READ_BYTES) {
        let mut rest = read;
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

fn main() -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for (name, stream, least) in [
        ("payloads of 64 bytes", clean(64), CLEAN_MB_PER_SECOND_MIN),
        ("payloads of 200 bytes", clean(200), CLEAN_MB_PER_SECOND_MIN),
        (
            "payloads of 1024 bytes",
            clean(1024),
            CLEAN_MB_PER_SECOND_MIN,
        ),
        (
            "noise",
            Random(2).bytes(STREAM_BYTES),
            NOISE_MB_PER_SECOND_MIN,
        ),
    ] {
        let (speed, frames) = speed(&stream);
        let verdict = if speed < least { "NOT met" } else { "met" };
        println!("{name}: {speed:.0} MB/s, {frames} frames; at least {least:.0}: {verdict}");
        if speed < least {
            code = ExitCode::FAILURE;
        }
    }
    code
}
