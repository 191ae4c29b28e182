//! Text lines, ended by LF or CRLF. Bytes that aren't UTF-8 stay as they are.
//!
//! A line over the limit is rejected as soon as it is too long, and reading goes on behind its end.

use super::{Assembly, FrameDecoder, Outcome, Rejection};

/// Cuts a byte stream into lines, without their ends.
#[derive(Debug)]
pub struct Lines {
    line: Assembly,
    bytes_max: usize,
    /// The rest of a line that was rejected.
    skipping: bool,
}

impl Lines {
    /// Lines of at most `bytes_max` bytes.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self {
            // One byte more than allowed may be the CR of the line's end.
            line: Assembly::new(bytes_max + 1),
            bytes_max,
            skipping: false,
        }
    }

    fn end(&mut self) -> Outcome {
        if self.line.bytes.ends_with(b"\r") {
            self.line.bytes.pop();
        }
        if self.line.bytes.len() > self.bytes_max {
            return self.line.reject(Rejection::TooLong);
        }
        self.line.finish()
    }
}

impl FrameDecoder for Lines {
    fn push(&mut self, byte: u8) -> Outcome {
        self.line.begin();
        match (byte, self.skipping) {
            (b'\n', true) => {
                self.skipping = false;
                Outcome::Pending
            }
            (b'\n', false) => self.end(),
            (_, true) => Outcome::Pending,
            (_, false) if self.line.put(byte) => Outcome::Pending,
            (_, false) => {
                self.skipping = true;
                self.line.reject(Rejection::TooLong)
            }
        }
    }

    fn frame(&self) -> &[u8] {
        self.line.frame()
    }

    fn cut(&mut self) -> bool {
        self.skipping = false;
        self.line.cut()
    }
}
