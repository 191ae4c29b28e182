//! A bare reader of serial lines: bytes, of which it counts the ends of frames.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::tell;
use crate::error::BenchError;

/// What a terminal hands over at once, at most.
const READ_BYTES: usize = 4096;
const PAUSE: Duration = Duration::from_micros(200);
const TELL_INTERVAL: Duration = Duration::from_millis(10);

/// Reads until the process is ended.
pub(super) fn read(ports: &[PathBuf]) -> Result<(), BenchError> {
    let failed = BenchError::io("open a line");
    let open = |path: &PathBuf| {
        let line = File::open(path)?;
        rustix::io::ioctl_fionbio(&line, true)?;
        Ok(line)
    };
    let lines: std::io::Result<Vec<File>> = ports.iter().map(open).collect();
    let mut lines = lines.map_err(failed)?;
    tell(0);
    let (mut frames, mut told) = (0, Instant::now());
    let mut bytes = [0; READ_BYTES];
    loop {
        let before = frames;
        for line in &mut lines {
            let count = match line.read(&mut bytes) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
                other => other.map_err(BenchError::io("read a line"))?,
            };
            let ends = bytes[..count].iter().filter(|byte| **byte == 0);
            frames += ends.count() as u64;
        }
        if frames == before {
            std::thread::sleep(PAUSE);
        }
        if told.elapsed() > TELL_INTERVAL {
            told = Instant::now();
            tell(frames);
        }
    }
}
