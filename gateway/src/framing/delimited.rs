//! Frames from a start to an end, both part of the frame: STX and ETX, or the telegram of a DSMR P1
//! meter from `/` to `!`, with the CRC behind it.
//!
//! ```text
//!            start              end                 four hex digits
//!  Outside ────────▶ Inside ──────────▶ (Trailer) ─────────────────▶ frame, Outside
//!     ▲                 │ too long           │ something else
//!     └─────────────────┴────────────────────┘ rejected
//! ```
//!
//! What lies between frames is passed over. A start within a frame is content, since texts hold any
//! character; so a frame whose end was lost takes the next one with it, and no more than that (F1).

use super::{Assembly, FrameDecoder, Outcome, Rejection};

/// Hex digits of a telegram's CRC-16.
const TRAILER_BYTES: usize = 4;

/// What follows behind the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trailer {
    /// Nothing that belongs to the frame.
    None,
    /// Four hex digits, part of the frame; whether they are right is checked elsewhere.
    Crc16,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Before a start; without one, behind a frame that was rejected and before its end.
    Outside,
    Inside,
    Trailer {
        left: usize,
    },
}

/// Cuts frames out from between their delimiters.
#[derive(Debug)]
pub struct Delimited {
    payload: Assembly,
    start: Vec<u8>,
    end: Vec<u8>,
    trailer: Trailer,
    bytes_max: usize,
    state: State,
}

impl Delimited {
    /// Frames from `start`, which may be empty, to `end`, of at most `bytes_max` bytes, trailer
    /// excluded.
    #[must_use]
    pub fn new(start: &[u8], end: &[u8], trailer: Trailer, bytes_max: usize) -> Self {
        let mut decoder = Self {
            payload: Assembly::new(bytes_max + TRAILER_BYTES),
            start: start.to_owned(),
            end: end.to_owned(),
            trailer,
            bytes_max,
            state: State::Outside,
        };
        decoder.state = decoder.first();
        decoder
    }

    /// Where a frame is looked for once the last one is over.
    fn first(&self) -> State {
        if self.start.is_empty() {
            State::Inside
        } else {
            State::Outside
        }
    }

    /// What ends the search: a start, or without one the end of a frame that was rejected.
    fn awaited(&self) -> &[u8] {
        if self.start.is_empty() {
            &self.end
        } else {
            &self.start
        }
    }

    fn outside(&mut self, byte: u8) -> Outcome {
        let awaited_bytes = self.awaited().len();
        self.payload.slide(byte, awaited_bytes);
        if self.payload.bytes == self.awaited() {
            if self.start.is_empty() {
                self.payload.clear();
            }
            self.state = State::Inside;
        }
        Outcome::Pending
    }

    fn inside(&mut self, byte: u8) -> Outcome {
        if self.payload.bytes.len() >= self.bytes_max {
            // What is looked for now may have begun already, or begin with this byte.
            self.state = State::Outside;
            self.outside(byte);
            return Outcome::Rejected(Rejection::TooLong);
        }
        self.payload.put(byte);
        let delimiters_bytes = self.start.len() + self.end.len();
        if self.payload.bytes.len() < delimiters_bytes || !self.payload.bytes.ends_with(&self.end) {
            return Outcome::Pending;
        }
        match self.trailer {
            Trailer::None => self.whole(),
            Trailer::Crc16 => {
                self.state = State::Trailer {
                    left: TRAILER_BYTES,
                };
                Outcome::Pending
            }
        }
    }

    fn trailer(&mut self, byte: u8, left: usize) -> Outcome {
        if !byte.is_ascii_hexdigit() {
            self.state = self.first();
            let rejected = self.payload.reject(Rejection::Checksum);
            // It may begin the next frame; one byte alone ends none.
            self.push(byte);
            return rejected;
        }
        self.payload.put(byte);
        if left == 1 {
            return self.whole();
        }
        self.state = State::Trailer { left: left - 1 };
        Outcome::Pending
    }

    fn whole(&mut self) -> Outcome {
        self.state = self.first();
        self.payload.finish()
    }
}

impl FrameDecoder for Delimited {
    fn push(&mut self, byte: u8) -> Outcome {
        self.payload.begin();
        match self.state {
            State::Outside => self.outside(byte),
            State::Inside => self.inside(byte),
            State::Trailer { left } => self.trailer(byte, left),
        }
    }

    fn frame(&self) -> &[u8] {
        self.payload.frame()
    }

    fn cut(&mut self) -> bool {
        let inside = !matches!(self.state, State::Outside);
        self.state = self.first();
        self.payload.cut() && inside
    }
}
