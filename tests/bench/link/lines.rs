//! Sixteen lines at 115,200 baud, all full of acknowledged frames: what they cost the gateway.
//!
//! Each line has a device that always has another message, and a window that covers the time of a
//! commit on a busy disk. A thread writes
//! what a millisecond of each line brings, 11 or 12 bytes, about what a UART's FIFO hands over at a
//! time: the gateway is woken as often as by real ports.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use firmware_shim::decoder::{Decoder, Outcome};
use firmware_shim::frame::{FRAME_BYTES_MAX, Kind, body_bytes};
use firmware_shim::link::sender::{Action, Config, Heard, Sender};
use system_tests::gateway::Gateway;
use system_tests::pty::Pty;

use super::Surroundings;
use crate::error::BenchError;
use crate::report::{Report, Target};

const LINES: u16 = 16;
const BITS_PER_SECOND: u32 = 115_200;
const BYTES_PER_SECOND: f64 = 11_520.0;
const TICK: Duration = Duration::from_millis(1);
/// Until the log is in steady state.
const WARM_UP: Duration = Duration::from_secs(3);
const MEASURED: Duration = Duration::from_secs(10);
const PAYLOAD_BYTES_MAX: usize = 200;
const RING_SLOTS: usize = 64;
const WINDOW: u8 = 32;
const CPU_PERCENT_MAX: f64 = 15.0;
/// A reading, and the records that the log is measured with.
const PAYLOADS_BYTES: [usize; 2] = [64, 200];

/// Adds a sample for each size of payload.
pub(super) fn measure(on: &Path, report: &mut Report) -> Result<(), BenchError> {
    for payload_bytes in PAYLOADS_BYTES {
        let surroundings = Surroundings::new(on)?;
        let mut lines = (0..LINES)
            .map(|line| Line::new(line, payload_bytes))
            .collect::<Result<Vec<_>, _>>()?;
        let settings = surroundings.settings(lines.iter().map(|line| &line.pty));
        let gateway = Gateway::start_ready(&settings);
        drive(&mut lines, WARM_UP)?;
        let before = (gateway.usage().cpu_seconds, acknowledged(&lines));
        let written = drive(&mut lines, MEASURED)?;
        let after = (gateway.usage().cpu_seconds, acknowledged(&lines));
        let name = format!("{LINES} lines, payloads of {payload_bytes} bytes");
        let seconds = written.took.as_secs_f64();
        let cpu = 100.0 * (after.0 - before.0) / seconds;
        let target = Target::AtMost(CPU_PERCENT_MAX);
        report.add(&format!("{name}: % of a core"), 1, target, cpu);
        let full = written.bytes as f64 / (seconds * BYTES_PER_SECOND * f64::from(LINES));
        report.add(
            &format!("{name}: how full they were"),
            2,
            Target::None,
            full,
        );
        let rate = (after.1 - before.1) as f64 / seconds;
        let what = format!("{name}: acknowledged messages/s");
        report.add(&what, 0, Target::None, rate);
    }
    Ok(())
}

fn acknowledged(lines: &[Line]) -> u64 {
    lines.iter().map(|line| line.acknowledged).sum()
}

struct Written {
    bytes: usize,
    took: Duration,
}

/// Keeps all lines full for so long.
fn drive(lines: &mut [Line], time: Duration) -> Result<Written, BenchError> {
    let start = Instant::now();
    let mut bytes = 0;
    let mut ticks = 0_u32;
    while start.elapsed() < time {
        for line in lines.iter_mut() {
            bytes += line
                .tick(start.elapsed())
                .map_err(BenchError::io("use a line"))?;
        }
        ticks += 1;
        std::thread::sleep((TICK * ticks).saturating_sub(start.elapsed()));
    }
    let took = start.elapsed();
    for line in lines {
        line.spent = 0.0;
    }
    Ok(Written { bytes, took })
}

/// A device and its line.
struct Line {
    pty: Pty,
    end: File,
    born: Instant,
    payload: Vec<u8>,
    sender: Sender<RING_SLOTS, PAYLOAD_BYTES_MAX>,
    decoder: Decoder<{ body_bytes(8) }>,
    out: Vec<u8>,
    written: usize,
    /// Bytes that the line has carried, or could have, since the drive began.
    spent: f64,
    acknowledged: u64,
}

impl Line {
    fn new(line: u16, payload_bytes: usize) -> Result<Self, BenchError> {
        let pty = Pty::open();
        let end = pty.device_end();
        rustix::io::ioctl_fionbio(&end, true)
            .map_err(|error| BenchError::io("prepare a line")(error.into()))?;
        let config = Config {
            bits_per_second: BITS_PER_SECOND,
            window: WINDOW,
            ..Config::new(0, 1 + line)
        };
        Ok(Self {
            pty,
            end,
            born: Instant::now(),
            payload: (0..payload_bytes).map(|at| (at % 251) as u8).collect(),
            sender: Sender::new(config),
            decoder: Decoder::new(),
            out: Vec::new(),
            written: 0,
            spent: 0.0,
            acknowledged: 0,
        })
    }

    /// Writes what the line carries until `elapsed`, and hears what came back. Returns the bytes
    /// written.
    fn tick(&mut self, elapsed: Duration) -> std::io::Result<usize> {
        self.hear()?;
        let due = (elapsed.as_secs_f64() * BYTES_PER_SECOND - self.spent).max(0.0) as usize;
        self.fill(due);
        let waiting = &self.out[self.written..];
        let count = match self.end.write(&waiting[..waiting.len().min(due)]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            other => other?,
        };
        self.written += count;
        // What a line with nothing to send could have carried is gone.
        self.spent += due as f64;
        if self.written == self.out.len() && count > 0 {
            self.out.clear();
            self.written = 0;
            let now_ms = self.now_ms();
            self.sender.transmitted(now_ms);
        }
        Ok(count)
    }

    /// Has `due` bytes ready, if the window allows.
    fn fill(&mut self, due: usize) {
        while !self.sender.is_full() {
            let pushed = self.sender.push(Kind::Opaque, &self.payload);
            pushed.expect("the payload is no larger than a slot");
        }
        let now_ms = self.now_ms();
        let mut frame = [0; FRAME_BYTES_MAX];
        while self.out.len() - self.written < due {
            let action = self.sender.poll(now_ms, &mut frame);
            match action.expect("the buffer holds the largest frame") {
                Action::Send(used) => self.out.extend_from_slice(&frame[..used]),
                Action::Wait(_) | Action::Idle => return,
            }
        }
    }

    fn hear(&mut self) -> std::io::Result<()> {
        let mut bytes = [0; 1024];
        let count = match self.end.read(&mut bytes) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            other => other?,
        };
        let now_ms = self.now_ms();
        for &byte in &bytes[..count] {
            if let Outcome::Frame(frame) = self.decoder.push(byte)
                && let Heard::Acknowledged(count) = self.sender.hear(&frame, now_ms)
            {
                self.acknowledged += u64::from(count);
            }
        }
        Ok(())
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}
