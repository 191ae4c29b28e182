//! Consistent overhead byte stuffing: 0x00 means nothing but the end of a frame.
//!
//! There is no checksum: a flipped bit within a run goes unnoticed. Devices of one's own are better
//! served by the shim link.

use firmware_shim::decoder::Rejection as Link;

use super::{Assembly, FrameDecoder, Outcome, Rejection};

/// A code that covers 254 bytes and stands for no zero.
const FULL_RUN: u8 = 0xff;

#[derive(Clone, Copy, Debug)]
enum State {
    Run {
        /// Bytes that the last code still covers.
        left: u8,
        /// The last code stood for a zero, due before whatever follows.
        zero_due: bool,
    },
    /// The rest of a frame already rejected.
    Skip,
}

const START: State = State::Run {
    left: 0,
    zero_due: false,
};

/// Undoes COBS.
#[derive(Debug)]
pub struct Cobs {
    payload: Assembly,
    state: State,
}

impl Cobs {
    /// Frames of at most `bytes_max` bytes of payload.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self {
            payload: Assembly::new(bytes_max),
            state: START,
        }
    }

    fn end(&mut self) -> Outcome {
        match std::mem::replace(&mut self.state, START) {
            State::Skip => Outcome::Pending,
            State::Run { left: 1.., .. } => self.payload.reject(Rejection::Link(Link::Cobs)),
            State::Run { left: 0, .. } => self.payload.finish(),
        }
    }

    fn put(&mut self, byte: u8, next: State) -> Outcome {
        self.state = next;
        if self.payload.put(byte) {
            return Outcome::Pending;
        }
        self.state = State::Skip;
        self.payload.reject(Rejection::TooLong)
    }
}

impl FrameDecoder for Cobs {
    fn push(&mut self, byte: u8) -> Outcome {
        self.payload.begin();
        match self.state {
            _ if byte == 0 => self.end(),
            State::Skip => Outcome::Pending,
            State::Run { left: 0, zero_due } => {
                let next = State::Run {
                    left: byte - 1,
                    zero_due: byte != FULL_RUN,
                };
                if zero_due {
                    return self.put(0, next);
                }
                self.state = next;
                Outcome::Pending
            }
            State::Run { left, zero_due } => {
                let left = left - 1;
                self.put(byte, State::Run { left, zero_due })
            }
        }
    }

    fn frame(&self) -> &[u8] {
        self.payload.frame()
    }

    fn cut(&mut self) -> bool {
        self.state = START;
        self.payload.cut()
    }
}
