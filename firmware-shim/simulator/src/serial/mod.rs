//! Devices on a serial line: a pseudo-terminal, a thread that drives it.
//!
//! One thread does all of it, around one `poll(2)`: it makes messages when they are due, hands
//! them to the devices, writes what the line takes, and hears acknowledgements. A gateway that is
//! not there is no error: devices hold what they have and try again.

pub mod framing;
pub mod line;
pub mod lines;
pub mod pty;
pub mod shim;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::fleet::Fleet;
use crate::message::{Message, wall_ms};
use crate::progress::Counters;
use crate::run::{Phase, Run};
use crate::schedule::Schedule;
pub use framing::Framing;
use line::Line;
use lines::LineDevices;
use pty::Pty;
use shim::ShimDevices;

/// Longest wait without a look at the phase.
const WAIT_MAX: Duration = Duration::from_millis(50);
/// Most messages made between two looks at the line.
const BATCH_MESSAGES: u64 = 1024;
/// How often a line with a speed is written to.
const PACE: Duration = Duration::from_millis(1);
/// How often the claim of a gateway that may be gone is lifted.
const CLAIM_INTERVAL: Duration = Duration::from_secs(1);
/// How long the line must have been empty before it counts as read by the gateway: the kernel
/// moves bytes from buffer to buffer, and between two they are counted nowhere.
const SETTLED_AFTER: Duration = Duration::from_millis(200);

/// Why a serial line failed.
#[derive(Debug, thiserror::Error)]
pub enum SerialError {
    /// No pseudo-terminal.
    #[error("cannot make a pseudo-terminal")]
    Pty(#[source] io::Error),
    /// No link to it.
    #[error("cannot link {} to the pseudo-terminal", link.display())]
    Link {
        /// Where the link should be.
        link: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The pseudo-terminal failed.
    #[error("the pseudo-terminal failed")]
    Io(#[from] io::Error),
    /// No randomness for a session number.
    #[error("the system has no randomness")]
    Random(#[source] io::Error),
    /// A message that no frame can hold.
    #[error("a message cannot be packed")]
    Payload(#[source] firmware_shim::senml::Error),
    /// A payload that no frame of this framing can hold.
    #[error("a payload of {payload_bytes} bytes is over the framing's {payload_bytes_max}")]
    TooLong {
        /// Its size.
        payload_bytes: usize,
        /// Size of the largest.
        payload_bytes_max: usize,
    },
    /// The thread that drives the line panicked.
    #[error("the line's thread failed")]
    Thread(#[source] tokio::task::JoinError),
}

/// What kind of line, and where.
#[derive(Clone, Debug)]
pub struct SerialOptions {
    /// Path at which the far end is to appear.
    pub link: PathBuf,
    /// How messages are set apart.
    pub framing: Framing,
    /// Devices wait for acknowledgements and send again (shim framing).
    pub acknowledged: bool,
    /// Devices give up their oldest message rather than wait.
    pub overwrite: bool,
    /// Most frames of a device in flight.
    pub window: u8,
    /// Speed in bits per second; 0 for as fast as it goes.
    pub baud: u32,
    /// Probability that a frame is damaged.
    pub noise: f64,
    /// Payloads are padded to this.
    pub payload_bytes_min: usize,
}

/// Sends the messages of a fleet down a line; returns when all are acknowledged, or read where
/// nothing is acknowledged, or the run is aborted.
///
/// # Errors
/// [`SerialError`]; a gateway that is not there is none.
pub async fn send(options: &SerialOptions, fleet: Fleet, run: &Run) -> Result<(), SerialError> {
    let mut driver = Driver::new(options, fleet, run)?;
    let thread = tokio::task::spawn_blocking(move || driver.drive());
    thread.await.map_err(SerialError::Thread)?
}

enum Devices {
    Shim(Box<ShimDevices>),
    Lines(LineDevices),
}

struct Driver {
    pty: Pty,
    devices: Devices,
    devices_count: u64,
    line: Line,
    damaged: u64,
    schedule: Schedule,
    started: Instant,
    made: u64,
    counters: Arc<Counters>,
    phase: watch::Receiver<Phase>,
    /// Since when the line has been seen empty, all the time.
    empty_since: Option<Instant>,
    claim_due: Instant,
}

impl Driver {
    fn new(options: &SerialOptions, fleet: Fleet, run: &Run) -> Result<Self, SerialError> {
        let devices = match options.framing {
            Framing::Shim => Devices::Shim(Box::new(ShimDevices::new(fleet, options)?)),
            framing @ (Framing::Lines
            | Framing::Cobs
            | Framing::Slip
            | Framing::LengthU8
            | Framing::LengthU16Be
            | Framing::StxEtx
            | Framing::Dsmr
            | Framing::Idle) => {
                Devices::Lines(LineDevices::new(fleet, framing, options.payload_bytes_min))
            }
        };
        let now = Instant::now();
        Ok(Self {
            pty: Pty::open(&options.link)?,
            devices,
            devices_count: u64::from(fleet.devices),
            line: Line::new(options.baud, options.noise, fleet.seed),
            damaged: 0,
            schedule: run.schedule(),
            started: now,
            made: 0,
            counters: run.counters(),
            phase: run.phase(),
            empty_since: None,
            claim_due: now,
        })
    }

    fn drive(&mut self) -> Result<(), SerialError> {
        loop {
            let phase = *self.phase.borrow();
            if phase == Phase::Aborted {
                return Ok(());
            }
            let sending_is_over =
                phase != Phase::Sending || self.schedule.is_over(self.made, self.started.elapsed());
            if !sending_is_over {
                self.make()?;
            }
            let wake_ms = self.transmit()?;
            let written = self.write()?;
            if sending_is_over && self.is_done()? {
                return Ok(());
            }
            if written == 0 {
                self.wait(wake_ms, sending_is_over)?;
            }
            self.hear()?;
            self.lift_claim()?;
        }
    }

    fn make(&mut self) -> Result<(), SerialError> {
        let due = self.schedule.due(self.started.elapsed());
        let due = due.min(self.made.saturating_add(BATCH_MESSAGES));
        while self.made < due && self.may_make() {
            let message = Message {
                slot: self.slot(),
                sequence: self.made / self.devices_count,
                sent_ms: wall_ms(),
            };
            match &mut self.devices {
                Devices::Shim(devices) => devices.push(message, &self.counters)?,
                Devices::Lines(devices) => devices.push(message)?,
            }
            self.made += 1;
            Counters::add(&self.counters.sent, 1);
        }
        Ok(())
    }

    /// Device whose turn it is.
    fn slot(&self) -> usize {
        usize::try_from(self.made % self.devices_count).expect("below the number of devices")
    }

    fn may_make(&self) -> bool {
        match &self.devices {
            Devices::Shim(devices) => devices.has_room(self.slot()),
            Devices::Lines(devices) => devices.has_room(),
        }
    }

    fn transmit(&mut self) -> Result<Option<u64>, SerialError> {
        let now_ms = self.now_ms();
        let wake_ms = match &mut self.devices {
            Devices::Shim(devices) => devices.transmit(now_ms, &mut self.line),
            Devices::Lines(devices) => {
                // A pseudo-terminal keeps no time between bytes: the silence begins when all is read.
                let busy =
                    !self.line.is_empty() || devices.need_silence() && self.pty.unread()? > 0;
                if busy {
                    devices.heard(now_ms);
                    None
                } else {
                    devices.transmit(now_ms, &mut self.line)
                }
            }
        };
        Counters::add(&self.counters.damaged, self.line.damaged() - self.damaged);
        self.damaged = self.line.damaged();
        Ok(wake_ms)
    }

    fn write(&mut self) -> Result<usize, SerialError> {
        let due = self.line.due(self.started.elapsed());
        if due.is_empty() {
            return Ok(0);
        }
        let written = self.pty.write(due)?;
        self.line.wrote(written);
        if self.line.is_empty() {
            let now_ms = self.now_ms();
            match &mut self.devices {
                Devices::Shim(devices) => devices.transmitted(now_ms),
                Devices::Lines(devices) => devices.heard(now_ms),
            }
        }
        Ok(written)
    }

    fn wait(&self, wake_ms: Option<u64>, sending_is_over: bool) -> Result<(), SerialError> {
        let elapsed = self.started.elapsed();
        let mut until = elapsed + WAIT_MAX;
        if let Some(wake_ms) = wake_ms {
            until = until.min(Duration::from_millis(wake_ms));
        }
        if !sending_is_over && self.may_make() {
            until = until.min(self.schedule.due_at(self.made));
        }
        let waiting = !self.line.is_empty();
        if waiting && self.line.is_paced() {
            until = until.min(elapsed + PACE);
        }
        let for_room = waiting && !self.line.is_paced();
        Ok(self.pty.wait(for_room, until.saturating_sub(elapsed))?)
    }

    fn hear(&mut self) -> Result<(), SerialError> {
        let mut buffer = [0; 4096];
        let count = self.pty.read(&mut buffer)?;
        let now_ms = self.now_ms();
        match &mut self.devices {
            Devices::Shim(devices) => {
                devices.hear(&buffer[..count], now_ms, &self.counters)?;
                devices.count_resent(&self.counters);
            }
            // Whatever is said to such devices, they do not listen.
            Devices::Lines(_) => {}
        }
        Ok(())
    }

    /// Whether nothing is left: neither with a device nor on the line. What the gateway has not
    /// read would be lost with the pseudo-terminal.
    fn is_done(&mut self) -> Result<bool, SerialError> {
        let held = match &self.devices {
            Devices::Shim(devices) => !devices.is_empty(),
            Devices::Lines(devices) => !devices.has_room(),
        };
        if held || !self.line.is_empty() || self.pty.unread()? > 0 {
            self.empty_since = None;
            return Ok(false);
        }
        let since = *self.empty_since.get_or_insert_with(Instant::now);
        Ok(since.elapsed() >= SETTLED_AFTER)
    }

    fn lift_claim(&mut self) -> Result<(), SerialError> {
        let now = Instant::now();
        if now >= self.claim_due {
            self.claim_due = now + CLAIM_INTERVAL;
            self.pty.lift_claim()?;
        }
        Ok(())
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}
