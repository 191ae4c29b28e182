//! Which framing a line speaks: each is tried on what was heard, and judged by how much of it came
//! out as good frames, and how much of a coincidence that would be.

use std::fmt::Write as _;
use std::time::Duration;

use super::text;
use crate::framing::{Checksum, Format, Framing, Outcome, decoder};

/// What is enough to guess from.
const ENOUGH_BYTES: usize = 4096;
/// A guess that explains less of what was heard is none.
const SCORE_MIN: f64 = 0.25;
/// Guesses told.
const TOLD: usize = 3;
/// Bytes that a frame may have around its payload, beside as many as the payload itself.
const OVERHEAD_BYTES: usize = 16;

/// What was heard, in portions with silences between them.
#[derive(Debug, Default)]
pub(super) struct Recording {
    portions: Vec<Vec<u8>>,
    /// The last portion may go on.
    goes_on: bool,
}

impl Recording {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        match self.portions.last_mut().filter(|_| self.goes_on) {
            Some(portion) => portion.extend_from_slice(bytes),
            None => self.portions.push(bytes.to_vec()),
        }
        self.goes_on = true;
    }

    pub(super) fn silence(&mut self) {
        self.goes_on = false;
    }

    pub(super) fn portions(&self) -> impl Iterator<Item = &[u8]> {
        self.portions.iter().map(Vec::as_slice)
    }

    pub(super) fn bytes(&self) -> usize {
        self.portions.iter().map(Vec::len).sum()
    }

    pub(super) fn is_full(&self) -> bool {
        self.bytes() >= ENOUGH_BYTES
    }
}

/// A framing that goes with what was heard.
#[derive(Clone, Debug)]
pub(super) struct Guess {
    pub(super) format: Format,
    /// As in a configuration.
    name: &'static str,
    frames: usize,
    /// 0 to 1.
    score: f64,
}

/// A framing to try, as it is written, and how much its success proves: 1 for a checksum, little
/// for a framing that anything goes with.
struct Candidate {
    name: &'static str,
    framing: Framing,
    checksum: Option<Checksum>,
    proof: f64,
}

fn candidates() -> Vec<Candidate> {
    let candidate = |name, framing, checksum, proof| Candidate {
        name,
        framing,
        checksum,
        proof,
    };
    let delimited = |start: &[u8], end: &[u8]| Framing::Delimited {
        start: start.to_owned(),
        end: end.to_owned(),
    };
    let idle = || Framing::Idle(Duration::from_millis(20));
    vec![
        candidate("framing = \"shim\"", Framing::Shim, None, 1.0),
        candidate(
            "framing = { start = \"/\", end = \"!\" }\n    checksum = \"dsmr\"",
            delimited(b"/", b"!"),
            Some(Checksum::Dsmr),
            1.0,
        ),
        candidate(
            "framing = { idle = \"20 ms\" }\n    checksum = \"modbus\"",
            idle(),
            Some(Checksum::Modbus),
            1.0,
        ),
        candidate(
            "framing = \"lines\"\n    checksum = \"nmea\"",
            Framing::Lines,
            Some(Checksum::Nmea),
            1.0,
        ),
        candidate(
            "framing = \"lines\"\n    checksum = \"csv-crc16\"",
            Framing::Lines,
            Some(Checksum::CsvCrc16),
            1.0,
        ),
        candidate(
            "framing = \"lines\"\n    checksum = \"csv-xor\"",
            Framing::Lines,
            Some(Checksum::CsvXor),
            0.99,
        ),
        candidate("framing = \"lines\"", Framing::Lines, None, 0.9),
        candidate(
            "framing = { start = \"\\u0002\", end = \"\\u0003\" }",
            delimited(b"\x02", b"\x03"),
            None,
            0.85,
        ),
        candidate("framing = \"cobs\"", Framing::Cobs, None, 0.8),
        candidate("framing = \"slip\"", Framing::Slip, None, 0.7),
        candidate(
            "framing = { end = \"\\r\" }",
            delimited(b"", b"\r"),
            None,
            0.6,
        ),
        candidate(
            "framing = \"length-u16-be\"",
            Framing::LengthU16Be,
            None,
            0.55,
        ),
        candidate("framing = \"length-u8\"", Framing::LengthU8, None, 0.5),
        candidate("framing = { idle = \"20 ms\" }", idle(), None, 0.3),
    ]
}

/// The framings that go with a recording, best first; `line` says the rest of the format.
pub(super) fn rank(recording: &Recording, line: &Format) -> Vec<Guess> {
    let mut guesses: Vec<Guess> = candidates()
        .into_iter()
        .map(|candidate| judge(candidate, recording, line))
        .filter(|guess| guess.score >= SCORE_MIN)
        .collect();
    guesses.sort_by(|a, b| b.score.total_cmp(&a.score));
    guesses
}

/// What to tell of guesses.
pub(super) fn report(guesses: &[Guess], recording: &Recording) -> String {
    let (bytes, portions) = (recording.bytes(), recording.portions.len());
    let mut told = format!("heard {bytes} bytes in {portions} portions\n");
    for (guess, word) in guesses.iter().take(TOLD).zip(["shown", "or", "or"]) {
        let percent = guess.score * 100.0;
        // Writing to a string does not fail.
        let _ = writeln!(
            told,
            "{word}: {percent:.0} % likely, {} frames\n    {}",
            guess.frames, guess.name
        );
    }
    told
}

/// What one framing made of a recording.
#[derive(Default)]
struct Tally {
    frames: usize,
    readable_frames: usize,
    rejected: usize,
    /// Bytes explained by good frames.
    covered: usize,
    /// Bytes since the last frame or rejection.
    open: usize,
}

impl Tally {
    fn note(&mut self, outcome: Outcome, frame: &[u8]) {
        match outcome {
            Outcome::Pending => return,
            Outcome::Frame => {
                self.frames += 1;
                let text = std::str::from_utf8(frame);
                self.readable_frames += usize::from(text.is_ok_and(text::is_readable));
                self.covered += self.open.min(2 * frame.len() + OVERHEAD_BYTES);
            }
            Outcome::Rejected(_) => self.rejected += 1,
        }
        self.open = 0;
    }
}

fn judge(candidate: Candidate, recording: &Recording, line: &Format) -> Guess {
    let format = Format {
        framing: candidate.framing,
        checksum: candidate.checksum,
        ..line.clone()
    };
    let tally = tally(&format, recording);
    Guess {
        score: candidate.proof * score(&tally, &format, recording.bytes()),
        name: candidate.name,
        frames: tally.frames,
        format,
    }
}

fn tally(format: &Format, recording: &Recording) -> Tally {
    let mut decoder = decoder(format);
    let mut tally = Tally::default();
    for portion in recording.portions() {
        for &byte in portion {
            tally.open += 1;
            let outcome = decoder.push(byte);
            tally.note(outcome, decoder.frame());
        }
        if decoder.silence().is_some() {
            let outcome = decoder.silent();
            tally.note(outcome, decoder.frame());
        }
    }
    tally
}

/// How well a framing explains a recording. Its first frame may be the end of one, its last the
/// beginning: these don't count against it.
#[expect(clippy::cast_precision_loss, reason = "thousands of bytes")]
fn score(tally: &Tally, format: &Format, bytes: usize) -> f64 {
    if tally.frames == 0 {
        return 0.0;
    }
    let rejected = tally.rejected.saturating_sub(1);
    let heard = (bytes - tally.open).max(1);
    let coverage = tally.covered as f64 / heard as f64;
    let good = tally.frames as f64 / (tally.frames + rejected) as f64;
    let is_text = matches!(format.framing, Framing::Lines | Framing::Delimited { .. });
    let readable = if is_text {
        tally.readable_frames as f64 / tally.frames as f64
    } else {
        1.0
    };
    coverage.min(1.0) * good * readable.powi(2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::framing::checksum::crc16;
    use firmware_shim::frame::{self, Header, Kind};

    fn line() -> Format {
        Format {
            framing: Framing::Shim,
            checksum: None,
            frame_bytes_max: 1024,
            baud_rate: 115_200,
        }
    }

    /// Forty frames of telemetry, each a portion; heard from the middle of the first to the middle
    /// of the last.
    fn recorded(frame: impl Fn(u32) -> Vec<u8>) -> Recording {
        let mut recording = Recording::default();
        for number in 0..40 {
            let bytes = frame(number);
            match number {
                0 => recording.push(&bytes[bytes.len() / 2..]),
                39 => recording.push(&bytes[..bytes.len() / 2]),
                _ => recording.push(&bytes),
            }
            recording.silence();
        }
        recording
    }

    fn best(frame: impl Fn(u32) -> Vec<u8>) -> (Framing, Option<Checksum>) {
        let recording = recorded(frame);
        let guesses = rank(&recording, &line());
        let best = guesses.first().expect("a guess");
        (best.format.framing.clone(), best.format.checksum)
    }

    /// Binary telemetry with every byte value now and then.
    fn payload(number: u32) -> Vec<u8> {
        let mut state = number.wrapping_mul(2_654_435_761);
        let byte = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        (0..12 + number % 9).map(byte).collect()
    }

    #[test]
    fn a_line_of_shim_frames_is_recognised() {
        let guess = best(|sequence| {
            let header = Header {
                kind: Kind::Opaque,
                address: 1,
                session: 2,
                sequence,
                backlog: 0,
            };
            let mut bytes = vec![0; frame::FRAME_BYTES_MAX];
            let used = frame::encode(header, &payload(sequence), &mut bytes).expect("fits");
            bytes.truncate(used);
            bytes
        });
        assert_eq!(guess, (Framing::Shim, None));
    }

    #[test]
    fn text_lines_are_recognised_with_and_without_a_checksum() {
        let plain = best(|number| format!("T{number}={}.5 C\r\n", number % 7).into_bytes());
        assert_eq!(plain, (Framing::Lines, None));
        let checked = best(|number| {
            let body = format!("IIMTW,{number}.7,C");
            let sum = body.bytes().fold(0, |sum, byte| sum ^ byte);
            format!("${body}*{sum:02X}\r\n").into_bytes()
        });
        assert_eq!(checked, (Framing::Lines, Some(Checksum::Nmea)));
    }

    #[test]
    fn a_modbus_line_is_recognised_by_its_silences_and_checksums() {
        let guess = best(|number| {
            let mut bytes = payload(number);
            bytes.extend(crc16(0xffff, &bytes).to_le_bytes());
            bytes
        });
        let idle = Framing::Idle(Duration::from_millis(20));
        assert_eq!(guess, (idle, Some(Checksum::Modbus)));
    }

    #[test]
    fn binary_framings_without_a_checksum_are_told_apart() {
        let slip = best(|number| {
            let escaped = payload(number).into_iter().flat_map(|byte| match byte {
                0xc0 => vec![0xdb, 0xdc],
                0xdb => vec![0xdb, 0xdd],
                _ => vec![byte],
            });
            escaped.chain([0xc0]).collect()
        });
        assert_eq!(slip, (Framing::Slip, None));
        let prefixed = best(|number| {
            let payload = payload(number);
            let length = u16::try_from(payload.len()).expect("short").to_be_bytes();
            [&length[..], &payload].concat()
        });
        assert_eq!(prefixed, (Framing::LengthU16Be, None));
    }

    #[test]
    fn one_portion_of_noise_is_no_framing_with_a_checksum() {
        let mut recording = Recording::default();
        for number in 0..200 {
            recording.push(&payload(number));
        }
        let guesses = rank(&recording, &line());
        assert!(
            guesses
                .iter()
                .all(|guess| guess.format.checksum.is_none()
                    && guess.format.framing != Framing::Shim),
            "{guesses:?}"
        );
    }
}
