//! Devices that write one JSON text a line, and are never answered.

use bytes::{BufMut as _, BytesMut};

use super::line::Line;
use crate::fleet::Fleet;
use crate::message::{JsonDevice, Message};

/// Devices on a line without acknowledgements.
#[derive(Debug)]
pub struct LineDevices {
    devices: Vec<JsonDevice>,
    /// Lines that wait for their place.
    text: BytesMut,
}

impl LineDevices {
    /// The devices of a fleet, with payloads padded to `bytes_min`.
    #[must_use]
    pub fn new(fleet: Fleet, bytes_min: usize) -> Self {
        let devices = fleet
            .share(0, 1)
            .map(|index| JsonDevice::new(fleet, index, bytes_min))
            .collect();
        Self {
            devices,
            text: BytesMut::new(),
        }
    }

    /// Whether a message would be taken.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.text.is_empty()
    }

    /// Takes a message.
    pub fn push(&mut self, message: Message) {
        self.devices[message.slot].write(message.sequence, message.sent_ms, &mut self.text);
        self.text.put_u8(b'\n');
    }

    /// Puts what waits on the line.
    pub fn transmit(&mut self, line: &mut Line) {
        if !self.text.is_empty() {
            line.push(&self.text);
            self.text.clear();
        }
    }
}
