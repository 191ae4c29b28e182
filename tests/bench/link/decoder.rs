//! How fast the decoder of the shim link reads clean frames and noise, on one core.
//!
//! Streams of 4 MiB, taken 2 KiB at a time as the gateway reads a port. A sample is the best of
//! several runs: on a shared machine the others measure the neighbours.

use std::time::Instant;

use crate::error::BenchError;
use crate::frames;
use crate::report::{Report, Target};

const STREAM_BYTES: usize = 4 << 20;
const RUNS: usize = 9;
const CLEAN_MB_PER_SECOND_MIN: f64 = 400.0;
/// Noise may cost four times as much.
const NOISE_RATIO_MIN: f64 = 0.25;
/// A reading, the records that the log is measured with, the largest there is.
const PAYLOADS_BYTES: [usize; 3] = [64, 200, 1024];

/// Adds a sample of each speed, and of noise beside the slowest of clean frames.
pub(super) fn measure(report: &mut Report) -> Result<(), BenchError> {
    let mut slowest = f64::INFINITY;
    for payload_bytes in PAYLOADS_BYTES {
        let clean = clean(payload_bytes);
        let (speed, frames) = speed(&clean.stream);
        if frames != clean.frames {
            return Err(BenchError::Lost {
                expected: clean.frames,
                found: frames,
            });
        }
        let what = format!("decoder, payloads of {payload_bytes} bytes: MB/s");
        report.add(&what, 0, Target::AtLeast(CLEAN_MB_PER_SECOND_MIN), speed);
        slowest = slowest.min(speed);
    }
    let (noise, _) = speed(&Random(2).bytes(STREAM_BYTES));
    report.add("decoder, noise: MB/s", 0, Target::None, noise);
    let ratio = noise / slowest;
    let target = Target::AtLeast(NOISE_RATIO_MIN);
    report.add("decoder, noise: of the slowest clean", 2, target, ratio);
    Ok(())
}

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

struct Clean {
    stream: Vec<u8>,
    frames: u64,
}

/// Frames with random payloads of this size.
fn clean(payload_bytes: usize) -> Clean {
    let mut random = Random(1);
    let mut stream = Vec::new();
    let mut sequence = 0;
    while stream.len() < STREAM_BYTES {
        frames::encode(sequence, &random.bytes(payload_bytes), &mut stream);
        sequence += 1;
    }
    Clean {
        stream,
        frames: u64::from(sequence),
    }
}

/// Megabytes a second, and how many frames there were.
fn speed(stream: &[u8]) -> (f64, u64) {
    let mut fastest = f64::INFINITY;
    let mut frames = 0;
    for _ in 0..RUNS {
        let began = Instant::now();
        frames = frames::decode(stream);
        fastest = fastest.min(began.elapsed().as_secs_f64());
    }
    (stream.len() as f64 / fastest / 1e6, frames)
}
