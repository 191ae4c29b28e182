//! The node: what is sampled, what is kept, what is on the line.
//!
//! A sample becomes a `SenML` pack and goes into the link's ring, where it stays until the gateway has
//! acknowledged it. The ring is 8 deep: with a sample every 2 s that is 16 s, enough for 4 s without a
//! gateway and the wait for the next attempt after them. In longer outages the oldest is given up for
//! the newest, which is counted, told with every later sample (`lost`), and shown: the LED blinks
//! until everything still held has been acknowledged.

use firmware_shim::decoder::{Decoder, Outcome};
use firmware_shim::frame::{Frame, Kind, body_bytes, frame_bytes_max};
use firmware_shim::link::sender::{Action, Config, Heard, Sender};
use firmware_shim::senml::{self, Number, Record};

use crate::board::BAUD;
use crate::sensor::Thermometer;

/// Time between samples.
const SAMPLE_MS: u64 = 2_000;
/// Messages kept.
const RING_SLOTS: usize = 8;
/// In flight at most: half of the ring. The rest is what comes while an acknowledgement is late.
const WINDOW: u8 = 4;
/// A pack of this node takes up to 88 bytes.
const PAYLOAD_BYTES_MAX: usize = 96;
/// The LED is on, and off, for this long.
const BLINK_MS: u64 = 250;
/// Who this is: the prefix of every name in its packs.
const BASE_NAME: &str = "urn:dev:mac:0024befffe804ff1/";

/// All of the node's memory.
pub(crate) struct Node {
    sender: Sender<RING_SLOTS, PAYLOAD_BYTES_MAX>,
    /// What comes down the line is ACK and TIME: 8 bytes of payload at most.
    decoder: Decoder<{ body_bytes(8) }>,
    thermometer: Thermometer,
    frame: [u8; frame_bytes_max(PAYLOAD_BYTES_MAX)],
    frame_len: usize,
    /// How much of the frame has gone to the UART.
    written: usize,
    /// A frame is on the line, not all of it known to have left.
    transmitting: bool,
    next_sample_ms: u64,
    samples: u32,
    /// Messages given up.
    lost: u32,
    /// The LED blinks.
    alarm: bool,
    /// Unix time at the start of the clock, once the gateway has told the time.
    epoch_ms: Option<u64>,
}

impl Node {
    /// A node that has not begun.
    pub(crate) const fn new() -> Self {
        let config = Config {
            window: WINDOW,
            bits_per_second: BAUD,
            ..Config::new(0, 0)
        };
        Self {
            sender: Sender::new(config),
            decoder: Decoder::new(),
            thermometer: Thermometer::new(),
            frame: [0; frame_bytes_max(PAYLOAD_BYTES_MAX)],
            frame_len: 0,
            written: 0,
            transmitting: false,
            next_sample_ms: 0,
            samples: 0,
            lost: 0,
            alarm: false,
            epoch_ms: None,
        }
    }

    /// Numbers the messages of this boot.
    pub(crate) fn begin_session(&mut self, session: u16) {
        self.sender.restart(session);
    }

    /// Takes a byte from the line.
    pub(crate) fn hear(&mut self, byte: u8, now_ms: u64) {
        match self.decoder.push(byte) {
            Outcome::Frame(frame) => {
                hear_frame(&mut self.sender, &mut self.epoch_ms, &frame, now_ms)
            }
            // Noise: whatever was damaged is sent again by whoever misses the answer.
            Outcome::Pending | Outcome::Rejected(_) => {}
        }
        self.alarm = self.alarm && self.sender.held() > 0;
    }

    /// Samples, if it is time to.
    pub(crate) fn sample(&mut self, now_ms: u64) {
        if now_ms < self.next_sample_ms {
            return;
        }
        self.next_sample_ms += SAMPLE_MS;
        let mut payload = [0; PAYLOAD_BYTES_MAX];
        let used = self.pack(now_ms, &mut payload);
        self.samples = self.samples.wrapping_add(1);
        let pushed = used.map(|used| self.sender.push(Kind::Senml, &payload[..used]));
        if !matches!(pushed, Some(Ok(pushed)) if pushed.overwritten.is_none()) {
            self.lost = self.lost.wrapping_add(1);
            self.alarm = true;
        }
    }

    /// The next byte for the line; `None` if there is nothing to send now.
    pub(crate) fn next_byte(&mut self, now_ms: u64) -> Option<u8> {
        if self.written == self.frame_len {
            if self.transmitting {
                return None;
            }
            match self.sender.poll(now_ms, &mut self.frame) {
                Ok(Action::Send(len)) => {
                    self.frame_len = len;
                    self.written = 0;
                    self.transmitting = true;
                }
                // The buffer holds the largest frame: an error cannot be.
                Ok(Action::Wait(_) | Action::Idle) | Err(_) => return None,
            }
        }
        let byte = *self.frame.get(self.written)?;
        self.written += 1;
        Some(byte)
    }

    /// The UART has nothing left to send.
    pub(crate) fn line_idle(&mut self, now_ms: u64) {
        if self.transmitting && self.written == self.frame_len {
            self.transmitting = false;
            self.sender.transmitted(now_ms);
        }
    }

    /// Whether the LED is to be on.
    pub(crate) fn led(&self, now_ms: u64) -> bool {
        self.alarm && (now_ms / BLINK_MS).is_multiple_of(2)
    }

    /// The sample as a pack; `None` if it does not fit.
    fn pack(&mut self, now_ms: u64, out: &mut [u8]) -> Option<usize> {
        let celsius = f64::from(self.thermometer.sample()) / 100.0;
        let unix_ms = self.epoch_ms.map(|epoch_ms| epoch_ms + now_ms);
        let records = [
            Record {
                base_name: Some(BASE_NAME),
                base_time: unix_ms.map(|ms| Number::Float(ms as f64 / 1000.0)),
                name: Some("sequence"),
                value: Some(Number::Unsigned(u64::from(self.samples))),
                ..Record::default()
            },
            Record {
                name: Some("temperature"),
                unit: Some("Cel"),
                value: Some(Number::Float(celsius)),
                ..Record::default()
            },
            Record {
                name: Some("lost"),
                value: Some(Number::Unsigned(u64::from(self.lost))),
                ..Record::default()
            },
        ];
        senml::encode(&records, out).ok()
    }
}

fn hear_frame<const SLOTS: usize, const BYTES: usize>(
    sender: &mut Sender<SLOTS, BYTES>,
    epoch_ms: &mut Option<u64>,
    frame: &Frame<'_>,
    now_ms: u64,
) {
    match sender.hear(frame, now_ms) {
        Heard::Time(unix_ms) => *epoch_ms = Some(unix_ms.saturating_sub(now_ms)),
        Heard::SessionClash => sender.restart(sender.session().wrapping_add(1)),
        Heard::Acknowledged(_) | Heard::Ignored => {}
    }
}
