//! The bytes on their way to the gateway: noise, the line's speed, what is not written yet.

use std::time::Duration;

use crate::random::Random;

/// Start bit, eight data bits, stop bit.
const BITS_PER_BYTE: f64 = 10.0;
/// Bytes that a line may send at once after a pause, as from a UART's FIFO.
const FIFO_BYTES: f64 = 16.0;

/// What is on its way down the line.
#[derive(Debug)]
pub struct Line {
    bytes: Vec<u8>,
    written: usize,
    speed: Option<Speed>,
    noise: f64,
    random: Random,
    damaged: u64,
}

/// The pace of a line.
#[derive(Debug)]
struct Speed {
    bytes_per_second: f64,
    /// Bytes written, or not used in time.
    spent: f64,
}

impl Speed {
    /// Bytes that may be written at `elapsed`.
    fn allowance(&mut self, elapsed: Duration) -> f64 {
        let earned = elapsed.as_secs_f64() * self.bytes_per_second;
        self.spent = self.spent.max(earned - FIFO_BYTES);
        earned - self.spent
    }
}

impl Line {
    /// A line of `bits_per_second` (0 for no limit), on which a frame is damaged with probability
    /// `noise`, by a generator with this seed.
    #[must_use]
    pub fn new(bits_per_second: u32, noise: f64, seed: u64) -> Self {
        let bytes_per_second = f64::from(bits_per_second) / BITS_PER_BYTE;
        Self {
            bytes: Vec::new(),
            written: 0,
            speed: (bits_per_second > 0).then_some(Speed {
                bytes_per_second,
                spent: 0.0,
            }),
            noise,
            random: Random::new(seed),
            damaged: 0,
        }
    }

    /// Puts a frame on the line, damaged if it is its turn.
    pub fn push(&mut self, frame: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(frame);
        if !frame.is_empty() && self.random.chance(self.noise) {
            self.damaged += 1;
            self.damage(start);
        }
    }

    /// Flips a bit of one byte, drops it, inserts one before it, or drops the frame's last, so that it
    /// merges with the next.
    fn damage(&mut self, start: usize) {
        let at = start + self.random.below(self.bytes.len() - start);
        let [byte, ..] = self.random.bits().to_le_bytes();
        match self.random.below(4) {
            0 => self.bytes[at] ^= 1 << (byte % 8),
            1 => drop(self.bytes.remove(at)),
            2 => drop(self.bytes.pop()),
            _ => self.bytes.insert(at, byte),
        }
    }

    /// Whether all is written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.written == self.bytes.len()
    }

    /// Bytes not written yet.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len() - self.written
    }

    /// Whether the line has a speed to keep.
    #[must_use]
    pub const fn is_paced(&self) -> bool {
        self.speed.is_some()
    }

    /// What may be written at `elapsed` since the line's beginning.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an allowance is neither negative nor near 2^32"
    )]
    pub fn due(&mut self, elapsed: Duration) -> &[u8] {
        let waiting = &self.bytes[self.written..];
        let allowed = match &mut self.speed {
            None => waiting.len(),
            Some(speed) => speed.allowance(elapsed) as usize,
        };
        &waiting[..waiting.len().min(allowed)]
    }

    /// Notes that `count` bytes were written.
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53 bytes")]
    pub fn wrote(&mut self, count: usize) {
        self.written += count;
        if let Some(speed) = &mut self.speed {
            speed.spent += count as f64;
        }
        if self.is_empty() {
            self.bytes.clear();
            self.written = 0;
        }
    }

    /// Frames damaged so far.
    #[must_use]
    pub const fn damaged(&self) -> u64 {
        self.damaged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_keeps_its_speed_however_often_it_is_asked() {
        let mut line = Line::new(9_600, 0.0, 0);
        line.push(&[1; 100_000]);
        let mut total = 0;
        for step in 0..=10_000_u64 {
            let count = line.due(Duration::from_millis(step)).len();
            line.wrote(count);
            total += count;
        }
        assert!(
            (9_590..=9_600).contains(&total),
            "{total} bytes in 10 s at 960 bytes/s"
        );
    }

    #[test]
    fn a_pause_earns_no_more_than_a_fifo() {
        let mut line = Line::new(9_600, 0.0, 0);
        line.push(&[1; 1_000]);
        assert_eq!(line.due(Duration::from_secs(3_600)).len(), 16);
    }

    #[test]
    fn frames_lose_a_byte_gain_one_change_one_or_lose_their_end() {
        let mut line = Line::new(0, 1.0, 5);
        let mut seen = [false; 4];
        for _ in 0..200 {
            line.push(b"frame\0");
            let kind = match line.due(Duration::ZERO) {
                b"frame" => 0,
                damaged => damaged.len() - 4,
            };
            seen[kind] = true;
            line.wrote(line.len());
        }
        assert_eq!(seen, [true; 4], "merged, one less, changed, one more");
    }

    #[test]
    fn noise_damages_the_asked_share_of_frames_and_nothing_else() {
        let mut line = Line::new(0, 0.25, 5);
        for _ in 0..4_000 {
            line.push(b"frame\0");
            let damaged = line.due(Duration::ZERO) != b"frame\0";
            let counted = line.damaged();
            line.wrote(line.len());
            assert!(!damaged || counted > 0);
        }
        assert!((900..1_100).contains(&line.damaged()), "{}", line.damaged());
        let mut clean = Line::new(0, 0.0, 5);
        clean.push(b"frame\0");
        assert_eq!(clean.due(Duration::ZERO), b"frame\0");
    }
}
