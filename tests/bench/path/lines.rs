//! Frames of the shim link over sixteen lines, as fast as the gateway takes them: beside a bare
//! reader of the same lines.
//!
//! A line is a pseudo-terminal. Its device keeps a window of unacknowledged messages full, as one
//! with a large ring would; the bare reader answers nothing, and its lines are written whenever
//! there is room. Frames are made in advance.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use firmware_shim::decoder::{Decoder, Outcome};
use firmware_shim::frame::{Kind, body_bytes};
use system_tests::gateway::Gateway;
use system_tests::ports;
use system_tests::pty::Pty;

use super::bare::{Bare, Running, Task};
use super::gateway::{self, COMMITTED, Counted};
use super::load::Load;
use super::run::{self, Measured};
use super::{Asked, World};
use crate::error::BenchError;
use crate::frames;
use crate::report::{Report, Target};
use crate::telemetry;

const LINES: usize = 16;
const RATE_MIN: f64 = 0.7;
/// Of all lines together two thousand: half of what the log buffers, so that none is refused.
const WINDOW: u64 = 128;
/// Once they are through, the device has booted anew: its numbers begin at 0.
const MESSAGES: u32 = 200_000;
/// Written in one call: less than a page.
const WRITE_FRAMES: u64 = 16;
const PAUSE: Duration = Duration::from_micros(200);

/// Adds a sample of each figure.
pub(super) fn measure(world: &World<'_>, report: &mut Report) -> Result<(), BenchError> {
    let asked = Asked {
        what: format!("shim frames over {LINES} lines"),
        ceiling: "bare reader",
        rate: Target::AtLeast(RATE_MIN),
        cpu: Target::None,
    };
    let (measured, ceiling) = world.in_turn(|| measured(world), || ceiling(world))?;
    asked.add(&measured, &ceiling, report);
    Ok(())
}

fn ceiling(world: &World<'_>) -> Result<Measured, BenchError> {
    let lines = lines();
    let ports = lines.iter().map(|line| line.path().to_owned()).collect();
    let bare = Running::start(&Bare::new(Task::Lines).lines(ports))?;
    bare.wait_ready();
    let devices = Devices::start(&lines, None)?;
    let measured = run::for_time(&bare, world.times(), &Arc::default())?;
    devices.finish()?;
    Ok(measured)
}

fn measured(world: &World<'_>) -> Result<Measured, BenchError> {
    let lines = lines();
    let data = gateway::data_dir(world.on)?;
    let nobody = format!("127.0.0.1:{}", ports::free());
    let settings = gateway::without_sources((&nobody, "telemetry"), data.path(), "");
    let settings = lines
        .iter()
        .enumerate()
        .fold(settings, |settings, (line, pty)| {
            settings.serial(&format!("line-{line}"), pty.path(), "shim")
        });
    let gateway = Gateway::start_ready(&settings);
    let devices = Devices::start(&lines, Some(WINDOW))?;
    let subject = Counted {
        gateway: &gateway,
        counter: COMMITTED,
    };
    let measured = run::for_time(&subject, world.times(), &Arc::default())?;
    devices.finish()?;
    Ok(measured)
}

fn lines() -> Vec<Pty> {
    std::iter::repeat_with(Pty::open).take(LINES).collect()
}

/// A thread that is the device of every line.
struct Devices {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<std::io::Result<()>>,
}

impl Devices {
    /// Begins to send, `window` messages beyond what was acknowledged at most.
    fn start(lines: &[Pty], window: Option<u64>) -> Result<Self, BenchError> {
        let stop: Arc<AtomicBool> = Arc::default();
        let told = Arc::clone(&stop);
        let devices: Result<Vec<Device>, BenchError> = lines.iter().map(Device::new).collect();
        let mut devices = devices?;
        let stream = stream();
        let thread = std::thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                let mut written = 0;
                for device in &mut devices {
                    written += device.turn(&stream, window)?;
                }
                if written == 0 {
                    std::thread::sleep(PAUSE);
                }
            }
            Ok(())
        });
        Ok(Self { stop, thread })
    }

    fn finish(self) -> Result<(), BenchError> {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.join().expect("sending does not panic");
        ended.map_err(BenchError::io("use a line"))
    }
}

/// The frames of all messages, each of the same length.
struct Stream {
    bytes: Vec<u8>,
    frame_bytes: u64,
}

fn stream() -> Stream {
    let Load {
        devices,
        payload_bytes,
    } = Load::USUAL;
    let messages = telemetry::messages(devices, payload_bytes);
    let mut bytes = Vec::new();
    for (sequence, (_, payload)) in (0..MESSAGES).zip(messages.iter().cycle()) {
        frames::encode(sequence, payload, &mut bytes);
    }
    Stream {
        frame_bytes: bytes.len() as u64 / u64::from(MESSAGES),
        bytes,
    }
}

/// A device, by what has become of its messages since it was switched on.
struct Device {
    line: File,
    decoder: Decoder<{ body_bytes(8) }>,
    written_bytes: u64,
    acknowledged: u64,
}

impl Device {
    fn new(pty: &Pty) -> Result<Self, BenchError> {
        let line = pty.device_end();
        rustix::io::ioctl_fionbio(&line, true)
            .map_err(|error| BenchError::io("prepare a line")(error.into()))?;
        Ok(Self {
            line,
            decoder: Decoder::new(),
            written_bytes: 0,
            acknowledged: 0,
        })
    }

    /// Writes some frames, as far as window and line allow; returns how many bytes.
    fn turn(&mut self, stream: &Stream, window: Option<u64>) -> std::io::Result<usize> {
        let mut room = WRITE_FRAMES * stream.frame_bytes;
        if let Some(window) = window {
            let sent = self.written_bytes / stream.frame_bytes;
            if sent + WRITE_FRAMES > self.acknowledged + window {
                self.hear(sent)?;
            }
            let may = (self.acknowledged + window) * stream.frame_bytes;
            room = room.min(may - self.written_bytes);
        }
        let from = (self.written_bytes % stream.bytes.len() as u64) as usize;
        let to = stream.bytes.len().min(from + room as usize);
        let written = none_yet(self.line.write(&stream.bytes[from..to]))?;
        self.written_bytes += written as u64;
        Ok(written)
    }

    /// Reads ACKs, of which each says how many messages are durable since the boot before last.
    fn hear(&mut self, sent: u64) -> std::io::Result<()> {
        let mut bytes = [0; 1024];
        let count = none_yet(self.line.read(&mut bytes))?;
        for byte in &bytes[..count] {
            if let Outcome::Frame(frame) = self.decoder.push(*byte)
                && frame.header.kind == Kind::Ack
            {
                let messages = u64::from(MESSAGES);
                let durable = sent - sent % messages + u64::from(frame.header.sequence);
                let of_this_boot = durable <= sent;
                let durable = if of_this_boot {
                    durable
                } else {
                    durable - messages
                };
                self.acknowledged = self.acknowledged.max(durable);
            }
        }
        Ok(())
    }
}

/// Nothing, where a call would have to wait.
fn none_yet(count: std::io::Result<usize>) -> std::io::Result<usize> {
    match count {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        other => other,
    }
}
