//! Devices that speak the shim link: each with a sender of its own, all on one line.
//!
//! One device is point to point and has address 0; more share the line as addresses 1, 2, …. A
//! device waits for room in its ring rather than give up a message, so that the far end can demand
//! that nothing is lost; a real one would overwrite its oldest, which `overwrite` asks for.

use std::io;

use firmware_shim::decoder::{Decoder, Outcome};
use firmware_shim::frame::{FRAME_BYTES_MAX, Kind, PAYLOAD_BYTES_MAX};
use firmware_shim::link::sender::{Action, Config, Heard, Sender};
use firmware_shim::senml::{self, Number, Record};
use rustix::rand::{GetRandomFlags, getrandom};

use super::line::Line;
use super::{SerialError, SerialOptions};
use crate::fleet::Fleet;
use crate::message::Message;
use crate::profile::READINGS;
use crate::progress::Counters;

/// Messages that a device holds; the window may be as large.
pub const RING_SLOTS: usize = 64;
/// Most devices on a line: the addresses of the link.
pub const DEVICES_MAX: u32 = 254;
/// Bytes put on an unlimited line together; about what a PTY holds.
const BATCH_BYTES: usize = 4096;
/// Records of a pack: sequence, source, readings, padding.
const RECORDS_MAX: usize = READINGS + 3;

struct Device {
    sender: Sender<RING_SLOTS, PAYLOAD_BYTES_MAX>,
    index: u32,
    base_name: String,
    /// A frame of it is on the line and not written to its end.
    transmitting: bool,
}

/// The devices of one line.
pub struct ShimDevices {
    fleet: Fleet,
    source: String,
    devices: Vec<Device>,
    decoder: Decoder,
    /// Device that sends next, so that none starves.
    turn: usize,
    overwrite: bool,
    /// No frame is added to a line with as much on it.
    line_bytes_max: usize,
    bytes_min: usize,
    /// What padding is taken from.
    padding: String,
    resent: u64,
}

impl ShimDevices {
    /// The devices of a fleet, each at the start of a session.
    ///
    /// # Errors
    /// [`SerialError::Random`] if the system has no randomness for session numbers.
    pub fn new(fleet: Fleet, options: &SerialOptions) -> Result<Self, SerialError> {
        let single = fleet.devices == 1;
        let device = |(at, index)| {
            let address = if single { 0 } else { at };
            let config = Config {
                window: options.window,
                bits_per_second: options.baud,
                one_way: !options.acknowledged,
                ..Config::new(address, session()?)
            };
            let base_name = format!("urn:dev:sim:{}/", fleet.device_name(index));
            Ok(Device {
                sender: Sender::new(config),
                index,
                base_name,
                transmitting: false,
            })
        };
        let devices = (1..=u8::MAX).zip(fleet.share(0, 1)).map(device);
        Ok(Self {
            fleet,
            source: fleet.source(),
            devices: devices.collect::<Result<_, SerialError>>()?,
            decoder: Decoder::new(),
            turn: 0,
            overwrite: options.overwrite,
            line_bytes_max: if options.baud > 0 { 1 } else { BATCH_BYTES },
            bytes_min: options.payload_bytes_min,
            padding: "x".repeat(PAYLOAD_BYTES_MAX),
            resent: 0,
        })
    }

    /// Whether a message of the device in `slot` would be taken.
    #[must_use]
    pub fn has_room(&self, slot: usize) -> bool {
        self.overwrite || !self.devices[slot].sender.is_full()
    }

    /// Takes a message; with `overwrite` the device's oldest may have to go.
    ///
    /// # Errors
    /// [`SerialError::Payload`] if a frame cannot hold it.
    pub fn push(&mut self, message: Message, counters: &Counters) -> Result<(), SerialError> {
        let mut payload = [0; PAYLOAD_BYTES_MAX];
        let used = self
            .pack(message, &mut payload)
            .map_err(SerialError::Payload)?;
        let sender = &mut self.devices[message.slot].sender;
        let pushed = sender.push(Kind::Senml, &payload[..used]);
        let pushed = pushed.expect("a pack that fits the buffer fits a slot, and is data");
        Counters::add(
            &counters.overwritten,
            u64::from(pushed.overwritten.is_some()),
        );
        Ok(())
    }

    /// Puts frames on the line, of one device after the other, while the line is short of them.
    /// Returns when to do so again, in milliseconds, if nothing else happens.
    pub fn transmit(&mut self, now_ms: u64, line: &mut Line) -> Option<u64> {
        let mut frame = [0; FRAME_BYTES_MAX];
        let mut wake = None;
        let mut idle = 0;
        while idle < self.devices.len() {
            if line.len() >= self.line_bytes_max {
                return wake;
            }
            let device = &mut self.devices[self.turn];
            let action = device.sender.poll(now_ms, &mut frame);
            match action.expect("the buffer holds the largest frame") {
                Action::Send(used) => {
                    line.push(&frame[..used]);
                    device.transmitting = true;
                    idle = 0;
                }
                Action::Wait(at) => {
                    wake = Some(wake.map_or(at, |wake: u64| wake.min(at)));
                    idle += 1;
                }
                Action::Idle => idle += 1,
            }
            self.turn = (self.turn + 1) % self.devices.len();
        }
        wake
    }

    /// Tells the devices that the line has been written to its end.
    pub fn transmitted(&mut self, now_ms: u64) {
        for device in self.devices.iter_mut().filter(|device| device.transmitting) {
            device.transmitting = false;
            device.sender.transmitted(now_ms);
        }
    }

    /// Takes bytes from the gateway.
    ///
    /// # Errors
    /// [`SerialError::Random`] if a device needs a new session and there is no randomness for it.
    pub fn hear(
        &mut self,
        bytes: &[u8],
        now_ms: u64,
        counters: &Counters,
    ) -> Result<(), SerialError> {
        for &byte in bytes {
            let frame = match self.decoder.push(byte) {
                Outcome::Frame(frame) => frame,
                Outcome::Pending | Outcome::Rejected(_) => continue,
            };
            let slot = usize::from(frame.header.address.saturating_sub(1));
            let Some(device) = self.devices.get_mut(slot) else {
                continue;
            };
            match device.sender.hear(&frame, now_ms) {
                Heard::Acknowledged(count) => {
                    Counters::add(&counters.acknowledged, u64::from(count));
                }
                Heard::SessionClash => device.sender.restart(session()?),
                Heard::Time(_) | Heard::Ignored => {}
            }
        }
        Ok(())
    }

    /// Whether no device holds a message.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.devices.iter().all(|device| device.sender.held() == 0)
    }

    /// Counts the frames sent again since the last call.
    pub fn count_resent(&mut self, counters: &Counters) {
        let resent = self
            .devices
            .iter()
            .map(|device| device.sender.resent())
            .sum();
        Counters::add(&counters.resent, resent - self.resent);
        self.resent = resent;
    }

    /// A message as a pack: sequence, source, readings; padded to within a byte.
    fn pack(&self, message: Message, out: &mut [u8]) -> Result<usize, senml::Error> {
        let device = &self.devices[message.slot];
        let mut records = [Record::default(); RECORDS_MAX];
        records[0] = Record {
            base_name: Some(&device.base_name),
            base_time: Some(Number::Float(seconds(message.sent_ms))),
            name: Some("sequence"),
            value: Some(Number::Unsigned(message.sequence)),
            ..Record::default()
        };
        records[1] = Record {
            name: Some("source"),
            string_value: Some(&self.source),
            ..Record::default()
        };
        let readings = self
            .fleet
            .profile
            .readings(self.fleet.seed, device.index, message.sequence);
        for (record, reading) in records[2..].iter_mut().zip(readings) {
            record.name = Some(reading.name);
            record.unit = Some(reading.unit);
            record.value = Some(Number::Float(reading.value));
        }
        let used = senml::encode(&records[..RECORDS_MAX - 1], out)?;
        let Some(padding) = self.bytes_min.checked_sub(used).and_then(padding_bytes) else {
            return Ok(used);
        };
        let last = &mut records[RECORDS_MAX - 1];
        last.name = Some("pad");
        last.string_value = self.padding.get(..padding);
        senml::encode(&records, out)
    }
}

/// Length of the text that makes a padding record of `bytes`; `None` if that is too little for
/// one. Around the text are 7 bytes of record and the text's own head.
const fn padding_bytes(bytes: usize) -> Option<usize> {
    match bytes {
        0..8 => None,
        8..32 => Some(bytes - 8),
        32..265 => Some(bytes - 9),
        _ => Some(bytes - 10),
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "milliseconds of this age fit 53 bits"
)]
const fn seconds(unix_ms: i64) -> f64 {
    unix_ms as f64 / 1000.0
}

/// A session number: randomness, since a simulated device boots with every run.
fn session() -> Result<u16, SerialError> {
    let mut bytes = [0; 2];
    match getrandom(&mut bytes, GetRandomFlags::empty()) {
        Ok(_) => Ok(u16::from_le_bytes(bytes)),
        Err(error) => Err(SerialError::Random(io::Error::from(error))),
    }
}
