//! A length of one or two bytes, then so many bytes of payload.
//!
//! A length has nothing to be recognised by: a reader that is lost takes any byte for one. So a
//! silence in the middle of a frame ends it, and what comes next is a length again (F1). A device
//! that sends without a pause, on a line that drops bytes, wants another framing.

use std::time::Duration;

use super::{Assembly, FrameDecoder, Outcome, Rejection};

#[derive(Clone, Copy, Debug)]
enum State {
    Prefix {
        seen: u8,
        value: usize,
    },
    Body {
        left: usize,
    },
    /// A frame that is too long, to be passed over.
    Skip {
        left: usize,
    },
}

const START: State = State::Prefix { seen: 0, value: 0 };

/// Reads length-prefixed frames.
#[derive(Debug)]
pub struct LengthPrefixed {
    payload: Assembly,
    prefix_bytes: u8,
    gap: Duration,
    state: State,
}

impl LengthPrefixed {
    /// Frames behind a length of `prefix_bytes`, most significant first, of at most `bytes_max`
    /// bytes; a silence of `gap` ends one that isn't whole.
    #[must_use]
    pub fn new(prefix_bytes: u8, bytes_max: usize, gap: Duration) -> Self {
        Self {
            payload: Assembly::new(bytes_max),
            prefix_bytes,
            gap,
            state: START,
        }
    }

    fn length(&mut self, length: usize) -> Outcome {
        if length == 0 {
            self.state = START;
        } else if length > self.payload.bytes_max {
            self.state = State::Skip { left: length };
            return self.payload.reject(Rejection::TooLong);
        } else {
            self.state = State::Body { left: length };
        }
        Outcome::Pending
    }

    fn has_begun(&self) -> bool {
        match self.state {
            State::Prefix { seen, .. } => seen > 0,
            State::Body { .. } => true,
            // It was rejected already.
            State::Skip { .. } => false,
        }
    }
}

impl FrameDecoder for LengthPrefixed {
    fn push(&mut self, byte: u8) -> Outcome {
        self.payload.begin();
        match self.state {
            State::Prefix { seen, value } => {
                let (seen, value) = (seen + 1, value << 8 | usize::from(byte));
                if seen == self.prefix_bytes {
                    return self.length(value);
                }
                self.state = State::Prefix { seen, value };
                Outcome::Pending
            }
            State::Body { left } => {
                let room = self.payload.put(byte);
                debug_assert!(room, "the length was checked");
                if left == 1 {
                    self.state = START;
                    return self.payload.finish();
                }
                self.state = State::Body { left: left - 1 };
                Outcome::Pending
            }
            State::Skip { left } => {
                self.state = match left {
                    1 => START,
                    _ => State::Skip { left: left - 1 },
                };
                Outcome::Pending
            }
        }
    }

    fn frame(&self) -> &[u8] {
        self.payload.frame()
    }

    fn silence(&self) -> Option<Duration> {
        let waits = self.has_begun() || matches!(self.state, State::Skip { .. });
        waits.then_some(self.gap)
    }

    fn silent(&mut self) -> Outcome {
        if self.cut() {
            Outcome::Rejected(Rejection::Truncated)
        } else {
            Outcome::Pending
        }
    }

    fn cut(&mut self) -> bool {
        let had_begun = self.has_begun();
        self.payload.clear();
        self.state = START;
        had_begun
    }
}
