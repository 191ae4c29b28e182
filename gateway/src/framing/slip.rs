//! SLIP, RFC 1055: END between frames, END and ESC within them escaped.
//!
//! The RFC's own decoder lets an unknown escape pass; here it rejects the frame, since no sender
//! makes one and a damaged frame should not look like a good one.

use super::{Assembly, FrameDecoder, Outcome, Rejection};

const END: u8 = 0xc0;
const ESC: u8 = 0xdb;
const ESC_END: u8 = 0xdc;
const ESC_ESC: u8 = 0xdd;

#[derive(Clone, Copy, Debug)]
enum State {
    Run,
    /// Behind an ESC.
    Escaped,
    /// The rest of a frame already rejected.
    Skip,
}

/// Undoes SLIP.
#[derive(Debug)]
pub struct Slip {
    payload: Assembly,
    state: State,
}

impl Slip {
    /// Frames of at most `bytes_max` bytes of payload.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self {
            payload: Assembly::new(bytes_max),
            state: State::Run,
        }
    }

    fn end(&mut self) -> Outcome {
        match std::mem::replace(&mut self.state, State::Run) {
            State::Run => self.payload.finish(),
            State::Escaped => self.payload.reject(Rejection::Escape),
            State::Skip => Outcome::Pending,
        }
    }

    fn put(&mut self, byte: u8) -> Outcome {
        self.state = State::Run;
        if self.payload.put(byte) {
            Outcome::Pending
        } else {
            self.skip(Rejection::TooLong)
        }
    }

    fn skip(&mut self, rejection: Rejection) -> Outcome {
        self.state = State::Skip;
        self.payload.reject(rejection)
    }
}

impl FrameDecoder for Slip {
    fn push(&mut self, byte: u8) -> Outcome {
        self.payload.begin();
        match (self.state, byte) {
            (_, END) => self.end(),
            (State::Skip, _) => Outcome::Pending,
            (State::Run, ESC) => {
                self.state = State::Escaped;
                Outcome::Pending
            }
            (State::Run, _) => self.put(byte),
            (State::Escaped, ESC_END) => self.put(END),
            (State::Escaped, ESC_ESC) => self.put(ESC),
            (State::Escaped, _) => self.skip(Rejection::Escape),
        }
    }

    fn frame(&self) -> &[u8] {
        self.payload.frame()
    }

    fn cut(&mut self) -> bool {
        let escaped = matches!(self.state, State::Escaped);
        self.state = State::Run;
        self.payload.cut() || escaped
    }
}
