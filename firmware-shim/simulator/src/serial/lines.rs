//! Devices that write one JSON text a frame, and are never answered.

use bytes::BytesMut;

use super::SerialError;
use super::framing::Framing;
use super::line::Line;
use crate::fleet::Fleet;
use crate::message::{JsonDevice, Message};

/// Devices on a line without acknowledgements.
#[derive(Debug)]
pub struct LineDevices {
    devices: Vec<JsonDevice>,
    framing: Framing,
    /// A frame that waits for its place.
    frame: BytesMut,
    /// The next frame goes no earlier.
    silent_until_ms: u64,
}

impl LineDevices {
    /// The devices of a fleet, with payloads padded to `bytes_min`.
    #[must_use]
    pub fn new(fleet: Fleet, framing: Framing, bytes_min: usize) -> Self {
        let devices = fleet
            .share(0, 1)
            .map(|index| JsonDevice::new(fleet, index, bytes_min))
            .collect();
        Self {
            devices,
            framing,
            frame: BytesMut::new(),
            silent_until_ms: 0,
        }
    }

    /// Whether a message would be taken.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.frame.is_empty()
    }

    /// Takes a message.
    ///
    /// # Errors
    /// [`SerialError::TooLong`] if a frame cannot hold it.
    pub fn push(&mut self, message: Message) -> Result<(), SerialError> {
        let mut payload = BytesMut::new();
        self.devices[message.slot].write(message.sequence, message.sent_ms, &mut payload);
        self.framing.write(&payload, &mut self.frame)
    }

    /// Puts what waits on a line that is empty. Returns when to do so, in milliseconds, if a silence
    /// comes first.
    pub fn transmit(&mut self, now_ms: u64, line: &mut Line) -> Option<u64> {
        if self.frame.is_empty() {
            return None;
        }
        if now_ms < self.silent_until_ms {
            return Some(self.silent_until_ms);
        }
        line.push(&self.frame);
        self.frame.clear();
        None
    }

    /// Tells of a time at which bytes were on the line, or not read yet.
    pub fn heard(&mut self, now_ms: u64) {
        if let Some(silence) = self.framing.silence() {
            let silence_ms = u64::try_from(silence.as_millis()).unwrap_or(u64::MAX);
            self.silent_until_ms = now_ms.saturating_add(silence_ms);
        }
    }

    /// Whether a silence matters to them.
    #[must_use]
    pub const fn need_silence(&self) -> bool {
        self.framing.silence().is_some()
    }
}
