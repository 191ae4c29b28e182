//! From bytes to frames, a byte at a time or many at once.
//!
//! ```text
//!          ┌──────── 0x00: frame, or rejected ───────┐
//!          ▼                                         │
//!   ┌─▶ Run{left: 0} ── code ──▶ Run{left: code-1} ──┤
//!   │      ▲                         │ byte          │ more than the buffer holds:
//!   │      └──────── left = 0 ───────┘               │ rejected `too_long`
//!   └────────────── 0x00 ───────────── Skip ◀────────┘
//! ```
//!
//! Whatever arrives, the next 0x00 begins a new frame (L2). A frame is rejected once: with 0x00, or
//! as soon as it is too long, since noise without a 0x00 would otherwise never be reported. Two
//! 0x00 in a row are an empty frame and say nothing.

use crate::crc::crc32c;
use crate::frame::{self, Frame, HEADER_BYTES, Header, VERSION};

/// Why a frame was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// A COBS code points past the frame's end.
    Cobs,
    /// No room for a checksum, or whole and too short for a header.
    TooShort,
    /// Longer than the decoder takes.
    TooLong,
    /// The checksum does not match.
    Crc,
    /// Another protocol version.
    Version,
    /// A kind this version does not know.
    Kind,
}

impl Rejection {
    /// The word for it in metrics.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Cobs => "cobs",
            Self::TooShort => "too_short",
            Self::TooLong => "too_long",
            Self::Crc => "crc",
            Self::Version => "version",
            Self::Kind => "kind",
        }
    }
}

/// What a byte brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome<'a> {
    /// Nothing yet.
    Pending,
    /// It ended a good frame.
    Frame(Frame<'a>),
    /// The frame it belongs to is no good.
    Rejected(Rejection),
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Inside a frame, or before one.
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

/// What a byte did; an [`Outcome`] that borrows nothing.
#[derive(Clone, Copy)]
enum Step {
    Pending,
    Rejected(Rejection),
    /// A body of this length is in the buffer.
    Body(usize),
}

/// A decoder whose buffer holds bodies of up to `BODY_MAX` bytes.
///
/// A gateway takes [`frame::BODY_BYTES_MAX`]; a device that hears nothing but ACK and TIME can do
/// with [`frame::body_bytes`]`(8)`.
#[derive(Clone, Debug)]
pub struct Decoder<const BODY_MAX: usize = { frame::BODY_BYTES_MAX }> {
    body: [u8; BODY_MAX],
    body_bytes_max: usize,
    len: usize,
    state: State,
}

impl<const BODY_MAX: usize> Default for Decoder<BODY_MAX> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const BODY_MAX: usize> Decoder<BODY_MAX> {
    /// A decoder at the start of a frame.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            body: [0; BODY_MAX],
            body_bytes_max: BODY_MAX,
            len: 0,
            state: START,
        }
    }

    /// A decoder that rejects payloads larger than `payload_bytes_max` as too long, if that is
    /// less than its buffer holds.
    #[must_use]
    pub const fn with_payload_max(payload_bytes_max: usize) -> Self {
        let mut decoder = Self::new();
        if payload_bytes_max < BODY_MAX && frame::body_bytes(payload_bytes_max) < BODY_MAX {
            decoder.body_bytes_max = frame::body_bytes(payload_bytes_max);
        }
        decoder
    }

    /// Forgets what it has of a frame, as after a line that was closed and opened again.
    pub const fn reset(&mut self) {
        self.len = 0;
        self.state = START;
    }

    /// Whether the last byte taken was neither the end of a frame nor between two.
    #[must_use]
    pub const fn is_within_frame(&self) -> bool {
        match self.state {
            State::Run { left: 0, zero_due } => zero_due || self.len > 0,
            State::Run { .. } | State::Skip => true,
        }
    }

    /// Takes the next byte of the line.
    pub fn push(&mut self, byte: u8) -> Outcome<'_> {
        let step = self.step(byte);
        self.outcome(step)
    }

    /// Takes bytes of the line up to the first that brings something. Returns how many it took, and
    /// what the last of them brought: [`Outcome::Pending`] only if it took all.
    ///
    /// As [`push`](Self::push) with each, and several times as fast.
    pub fn take(&mut self, bytes: &[u8]) -> (usize, Outcome<'_>) {
        let mut taken = 0;
        loop {
            taken += self.take_run(&bytes[taken..]);
            let Some(&byte) = bytes.get(taken) else {
                return (taken, Outcome::Pending);
            };
            taken += 1;
            match self.step(byte) {
                Step::Pending => {}
                step @ (Step::Rejected(_) | Step::Body(_)) => return (taken, self.outcome(step)),
            }
        }
    }

    /// Takes the bytes at the front that need no decision; may be none.
    fn take_run(&mut self, bytes: &[u8]) -> usize {
        match &mut self.state {
            State::Skip => zero_at(bytes),
            State::Run { left, .. } => {
                let room = self.body_bytes_max - self.len;
                let most = bytes.len().min(room).min(usize::from(*left));
                let count = zero_at(&bytes[..most]);
                self.body[self.len..][..count].copy_from_slice(&bytes[..count]);
                self.len += count;
                #[expect(clippy::cast_possible_truncation, reason = "at most `left`")]
                let count_u8 = count as u8;
                *left -= count_u8;
                count
            }
        }
    }

    fn outcome(&self, step: Step) -> Outcome<'_> {
        match step {
            Step::Pending => Outcome::Pending,
            Step::Rejected(rejection) => Outcome::Rejected(rejection),
            Step::Body(len) => match parse(&self.body[..len]) {
                Ok(frame) => Outcome::Frame(frame),
                Err(rejection) => Outcome::Rejected(rejection),
            },
        }
    }

    fn step(&mut self, byte: u8) -> Step {
        match self.state {
            _ if byte == 0 => self.end(),
            State::Skip => Step::Pending,
            State::Run { left: 0, zero_due } => {
                if zero_due && !self.put(0) {
                    return self.too_long();
                }
                self.state = State::Run {
                    left: byte - 1,
                    zero_due: byte != 0xff,
                };
                Step::Pending
            }
            State::Run { left, zero_due } => {
                if !self.put(byte) {
                    return self.too_long();
                }
                self.state = State::Run {
                    left: left - 1,
                    zero_due,
                };
                Step::Pending
            }
        }
    }

    fn put(&mut self, byte: u8) -> bool {
        let room = self.len < self.body_bytes_max;
        if room {
            self.body[self.len] = byte;
            self.len += 1;
        }
        room
    }

    fn too_long(&mut self) -> Step {
        self.state = State::Skip;
        Step::Rejected(Rejection::TooLong)
    }

    fn end(&mut self) -> Step {
        let (state, len) = (self.state, self.len);
        self.reset();
        match state {
            State::Skip => Step::Pending,
            State::Run { left: 1.., .. } => Step::Rejected(Rejection::Cobs),
            State::Run {
                left: 0,
                zero_due: false,
            } if len == 0 => Step::Pending,
            State::Run { left: 0, .. } => Step::Body(len),
        }
    }
}

/// Where the first 0x00 is, or the end. Most runs have none, and looking for one is quick.
fn zero_at(bytes: &[u8]) -> usize {
    if bytes.contains(&0) {
        bytes.iter().position(|&byte| byte == 0)
    } else {
        None
    }
    .unwrap_or(bytes.len())
}

/// Checks a body and reads it (L1).
///
/// The checksum comes first, even of a body too short for a header: a flipped bit that makes a
/// 0x00 cuts a frame in two, and the halves are damaged, not short.
fn parse(body: &[u8]) -> Result<Frame<'_>, Rejection> {
    let (checked, crc) = body.split_last_chunk().ok_or(Rejection::TooShort)?;
    if crc32c(checked) != u32::from_le_bytes(*crc) {
        return Err(Rejection::Crc);
    }
    let (header, payload) = checked
        .split_first_chunk::<HEADER_BYTES>()
        .ok_or(Rejection::TooShort)?;
    if header[0] >> 4 != VERSION {
        return Err(Rejection::Version);
    }
    let header = Header::from_bytes(*header).ok_or(Rejection::Kind)?;
    Ok(Frame { header, payload })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Kind, encode};
    use proptest::prelude::*;

    fn header() -> Header {
        Header {
            kind: Kind::Opaque,
            address: 0,
            session: 1,
            sequence: 2,
            backlog: 0,
        }
    }

    /// What came out of a stream: payloads, and rejections.
    fn decode<const N: usize>(
        decoder: &mut Decoder<N>,
        bytes: &[u8],
    ) -> (Vec<Vec<u8>>, Vec<Rejection>) {
        let (mut frames, mut rejections) = (Vec::new(), Vec::new());
        for &byte in bytes {
            match decoder.push(byte) {
                Outcome::Pending => {}
                Outcome::Frame(frame) => frames.push(frame.payload.to_vec()),
                Outcome::Rejected(rejection) => rejections.push(rejection),
            }
        }
        (frames, rejections)
    }

    fn encoded(payload: &[u8]) -> Vec<u8> {
        let mut out = vec![0; frame::FRAME_BYTES_MAX];
        let used = encode(header(), payload, &mut out).expect("fits");
        out.truncate(used);
        out
    }

    #[test]
    fn zeros_between_frames_say_nothing() {
        let mut stream = vec![0, 0, 0];
        stream.extend(encoded(b"a"));
        stream.extend([0, 0]);
        stream.extend(encoded(b"b"));
        let (frames, rejections) = decode(&mut Decoder::<1037>::new(), &stream);
        assert_eq!(frames, [b"a", b"b"]);
        assert_eq!(rejections, []);
    }

    #[test]
    fn a_frame_is_under_way_from_its_first_byte_to_its_last() {
        let mut decoder = Decoder::<1037>::new();
        for payload in [&b""[..], b"a", &[0; 300], &[7; 300]] {
            let mut stream = encoded(payload);
            assert_eq!(stream.pop(), Some(0));
            for byte in stream {
                decoder.push(byte);
                assert!(decoder.is_within_frame());
            }
            decoder.push(0);
            assert!(!decoder.is_within_frame());
        }
        decode(&mut decoder, &[0x55; 3000]);
        assert!(decoder.is_within_frame(), "noise has no end but a zero");
    }

    #[test]
    fn a_stream_without_a_zero_is_rejected_once_and_the_frame_after_it_is_decoded() {
        let mut stream = vec![0x55; 10_000];
        stream.push(0);
        stream.extend(encoded(b"good"));
        let (frames, rejections) = decode(&mut Decoder::<1037>::new(), &stream);
        assert_eq!(frames, [b"good"]);
        assert_eq!(rejections, [Rejection::TooLong]);
    }

    #[test]
    fn a_short_body_is_damaged_if_its_checksum_is_wrong_and_short_if_it_is_right() {
        let mut decoder = Decoder::<1037>::new();
        let crc = crc32c(&[0x11]).to_le_bytes();
        let whole = [6, 0x11, crc[0], crc[1], crc[2], crc[3], 0];
        assert!(!whole[1..6].contains(&0), "the test's COBS is one run");
        assert_eq!(decode(&mut decoder, &whole).1, [Rejection::TooShort]);
        let damaged = [6, 0x12, crc[0], crc[1], crc[2], crc[3], 0];
        assert_eq!(decode(&mut decoder, &damaged).1, [Rejection::Crc]);
        assert_eq!(decode(&mut decoder, &[1, 0]).1, [Rejection::TooShort]);
    }

    #[test]
    fn a_payload_limit_below_the_links_own_holds_to_the_byte() {
        let mut decoder: Decoder = Decoder::with_payload_max(16);
        assert_eq!(decode(&mut decoder, &encoded(&[0; 16])).0.len(), 1);
        assert_eq!(
            decode(&mut decoder, &encoded(&[0; 17])).1,
            [Rejection::TooLong]
        );
    }

    #[test]
    fn a_device_hears_acks_and_time_with_a_buffer_of_21_bytes() {
        let mut decoder = Decoder::<{ frame::body_bytes(8) }>::new();
        assert_eq!(decode(&mut decoder, &encoded(&[9; 8])).0.len(), 1);
        assert_eq!(
            decode(&mut decoder, &encoded(&[9; 9])).1,
            [Rejection::TooLong]
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..4000)) {
            decode(&mut Decoder::<64>::new(), &bytes);
            decode(&mut Decoder::<1037>::new(), &bytes);
        }

        #[test]
        fn many_bytes_at_once_bring_what_they_bring_one_by_one(
            pieces in proptest::collection::vec(
                (any::<bool>(), proptest::collection::vec(
                    prop_oneof![1 => Just(0), 9 => any::<u8>()], 0..400)),
                0..12),
            cuts in proptest::collection::vec(1_usize..700, 1..40),
        ) {
            let stream: Vec<u8> = pieces
                .iter()
                .flat_map(|(good, bytes)| if *good { encoded(bytes) } else { bytes.clone() })
                .collect();
            let mut decoder = Decoder::<300>::new();
            let mut cuts = cuts.iter().cycle();
            let mut at_once = (Vec::new(), Vec::new());
            let mut rest = &stream[..];
            while !rest.is_empty() {
                let portion = &rest[..rest.len().min(*cuts.next().expect("endless"))];
                let (taken, outcome) = decoder.take(portion);
                match outcome {
                    Outcome::Pending => prop_assert_eq!(taken, portion.len()),
                    Outcome::Frame(frame) => at_once.0.push(frame.payload.to_vec()),
                    Outcome::Rejected(rejection) => at_once.1.push(rejection),
                }
                rest = &rest[taken..];
            }
            prop_assert_eq!(at_once, decode(&mut Decoder::<300>::new(), &stream));
        }

        #[test]
        fn after_any_garbage_and_a_zero_the_next_frame_is_decoded(
            garbage in proptest::collection::vec(any::<u8>(), 0..3000),
            payload in proptest::collection::vec(any::<u8>(), 0..=frame::PAYLOAD_BYTES_MAX),
        ) {
            let mut decoder = Decoder::<1037>::new();
            decode(&mut decoder, &garbage);
            decoder.push(0);
            let (frames, rejections) = decode(&mut decoder, &encoded(&payload));
            prop_assert_eq!(frames, vec![payload]);
            prop_assert_eq!(rejections, vec![]);
        }

        #[test]
        fn a_frame_has_one_zero_at_its_end_and_comes_back_whole(
            payload in proptest::collection::vec(prop_oneof![Just(0), Just(0xff), any::<u8>()], 0..=frame::PAYLOAD_BYTES_MAX),
        ) {
            let bytes = encoded(&payload);
            prop_assert!(bytes.len() <= frame::frame_bytes_max(payload.len()));
            prop_assert_eq!(bytes.iter().position(|&b| b == 0), Some(bytes.len() - 1));
            prop_assert_eq!(decode(&mut Decoder::<1037>::new(), &bytes).0, vec![payload]);
        }

        #[test]
        fn a_changed_byte_never_yields_another_frame(
            payload in proptest::collection::vec(any::<u8>(), 0..100),
            at in any::<proptest::sample::Index>(),
            to in any::<u8>(),
        ) {
            let mut bytes = encoded(&payload);
            let at = at.index(bytes.len());
            prop_assume!(bytes[at] != to);
            bytes[at] = to;
            bytes.push(0);
            for frame in decode(&mut Decoder::<1037>::new(), &bytes).0 {
                prop_assert_eq!(frame, payload.clone());
            }
        }
    }
}
