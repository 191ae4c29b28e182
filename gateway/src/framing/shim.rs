//! The shim link's frames as any other framing's: payload and header.
//!
//! For those who look at a line. The serial source needs what goes back to the devices as well and
//! drives the link's own decoder.

use firmware_shim::decoder::{self, Decoder};
use firmware_shim::frame::Header;

use super::{FrameDecoder, Outcome, Rejection};

/// Reads frames of the shim link.
#[derive(Debug)]
pub struct Shim {
    decoder: Box<Decoder>,
    header: Option<Header>,
    payload: Vec<u8>,
}

impl Shim {
    /// Frames of at most `bytes_max` bytes of payload.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self {
            decoder: Box::new(Decoder::with_payload_max(bytes_max)),
            header: None,
            payload: Vec::new(),
        }
    }

    /// The header of the frame that the last byte ended.
    #[must_use]
    pub fn header(&self) -> Option<Header> {
        self.header
    }
}

impl FrameDecoder for Shim {
    fn push(&mut self, byte: u8) -> Outcome {
        self.header = None;
        self.payload.clear();
        match self.decoder.push(byte) {
            decoder::Outcome::Pending => Outcome::Pending,
            decoder::Outcome::Frame(frame) => {
                self.header = Some(frame.header);
                self.payload.extend_from_slice(frame.payload);
                Outcome::Frame
            }
            decoder::Outcome::Rejected(rejection) => Outcome::Rejected(Rejection::Link(rejection)),
        }
    }

    fn frame(&self) -> &[u8] {
        &self.payload
    }

    fn cut(&mut self) -> bool {
        self.decoder.reset();
        self.header = None;
        self.payload.clear();
        false
    }
}
