//! A frame ends when the line falls silent, as on Modbus-like buses.
//!
//! Silence is measured where bytes are read. A USB adapter holds bytes back for up to 16 ms and
//! hands them over together, so that a silence shorter than that is not seen behind one.

use std::time::Duration;

use super::{Assembly, FrameDecoder, Outcome, Rejection};

/// Cuts a byte stream at its silences.
#[derive(Debug)]
pub struct Idle {
    payload: Assembly,
    silence: Duration,
    /// The rest of a frame that was rejected.
    skipping: bool,
}

impl Idle {
    /// Frames of at most `bytes_max` bytes, `silence` apart.
    #[must_use]
    pub fn new(silence: Duration, bytes_max: usize) -> Self {
        Self {
            payload: Assembly::new(bytes_max),
            silence,
            skipping: false,
        }
    }
}

impl FrameDecoder for Idle {
    fn push(&mut self, byte: u8) -> Outcome {
        self.payload.begin();
        if self.skipping || self.payload.put(byte) {
            return Outcome::Pending;
        }
        self.skipping = true;
        self.payload.reject(Rejection::TooLong)
    }

    fn frame(&self) -> &[u8] {
        self.payload.frame()
    }

    fn silence(&self) -> Option<Duration> {
        (self.skipping || self.payload.has_begun()).then_some(self.silence)
    }

    fn silent(&mut self) -> Outcome {
        self.payload.begin();
        self.skipping = false;
        self.payload.finish()
    }

    fn cut(&mut self) -> bool {
        self.skipping = false;
        self.payload.cut()
    }
}
