//! Bytes to lines of text: one for each frame, and one for each rejection with what was rejected.

use std::time::Duration;

use super::text;
use crate::framing::{self, Format, FrameDecoder, Framing, Outcome, Rejection, shim::Shim};

/// Bytes of a rejected frame that are kept to be shown.
const SHOWN_BYTES: usize = 64;

/// A line of text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) is_frame: bool,
    pub(super) text: String,
}

/// The shim link's frames have a header to show.
enum Decoder {
    Shim(Shim),
    Other(Box<dyn FrameDecoder>),
}

impl Decoder {
    fn inner(&self) -> &dyn FrameDecoder {
        match self {
            Self::Shim(shim) => shim,
            Self::Other(other) => other.as_ref(),
        }
    }

    fn inner_mut(&mut self) -> &mut dyn FrameDecoder {
        match self {
            Self::Shim(shim) => shim,
            Self::Other(other) => other.as_mut(),
        }
    }
}

/// Shows a line's frames.
pub(super) struct View {
    decoder: Decoder,
    /// What came since the last frame or rejection: its beginning, and how much of it there is.
    raw: Vec<u8>,
    raw_bytes: usize,
}

impl View {
    pub(super) fn new(format: &Format) -> Self {
        let decoder = match format.framing {
            Framing::Shim => Decoder::Shim(Shim::new(format.frame_bytes_max)),
            Framing::Lines
            | Framing::Cobs
            | Framing::Slip
            | Framing::LengthU8
            | Framing::LengthU16Be
            | Framing::Delimited { .. }
            | Framing::Idle(_) => Decoder::Other(framing::decoder(format)),
        };
        Self {
            decoder,
            raw: Vec::new(),
            raw_bytes: 0,
        }
    }

    /// Takes bytes that came at this time.
    pub(super) fn feed(&mut self, bytes: &[u8], wall_ms: i64) -> Vec<Line> {
        let mut lines = Vec::new();
        for &byte in bytes {
            self.raw_bytes += 1;
            if self.raw.len() < SHOWN_BYTES {
                self.raw.push(byte);
            }
            let outcome = self.decoder.inner_mut().push(byte);
            lines.extend(self.line(outcome, wall_ms));
        }
        lines
    }

    /// The silence that would change something now.
    pub(super) fn silence(&self) -> Option<Duration> {
        self.decoder.inner().silence()
    }

    /// The line was silent for that long.
    pub(super) fn silent(&mut self, wall_ms: i64) -> Option<Line> {
        self.silence()?;
        let outcome = self.decoder.inner_mut().silent();
        self.line(outcome, wall_ms)
    }

    fn line(&mut self, outcome: Outcome, wall_ms: i64) -> Option<Line> {
        let (is_frame, text) = match outcome {
            Outcome::Pending => return None,
            Outcome::Frame => (true, self.frame()),
            Outcome::Rejected(rejection) => (false, self.rejected(rejection)),
        };
        self.raw.clear();
        self.raw_bytes = 0;
        let time = text::time_of_day(wall_ms);
        Some(Line {
            is_frame,
            text: format!("{time}  {text}"),
        })
    }

    fn frame(&self) -> String {
        match &self.decoder {
            Decoder::Shim(shim) => text::link_frame(shim.header(), shim.frame()),
            Decoder::Other(other) => text::payload(other.frame()),
        }
    }

    fn rejected(&self, rejection: Rejection) -> String {
        let mut text = format!(
            "rejected: {} ({} bytes)  {}",
            rejection.reason(),
            self.raw_bytes,
            text::hex(&self.raw)
        );
        if self.raw_bytes > self.raw.len() {
            text.push_str(" …");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::framing::Checksum;
    use firmware_shim::frame::{self, Header, Kind};
    use firmware_shim::senml::{self, Number, Record};

    /// 2026-03-01T12:34:56.789Z
    const AT_MS: i64 = 1_772_368_496_789;

    fn view(framing: Framing, checksum: Option<Checksum>) -> View {
        View::new(&Format {
            framing,
            checksum,
            frame_bytes_max: 1024,
            baud_rate: 115_200,
        })
    }

    fn shown(view: &mut View, bytes: &[u8]) -> Vec<String> {
        let lines = view.feed(bytes, AT_MS);
        lines.into_iter().map(|line| line.text).collect()
    }

    fn frame(kind: Kind, payload: &[u8]) -> Vec<u8> {
        let header = Header {
            kind,
            address: 5,
            session: 7,
            sequence: 42,
            backlog: 3,
        };
        let mut bytes = vec![0; frame::FRAME_BYTES_MAX];
        let used = frame::encode(header, payload, &mut bytes).expect("fits");
        bytes.truncate(used);
        bytes
    }

    #[test]
    fn a_link_frame_is_shown_with_its_header_and_senml_as_text() {
        let pack = [
            Record {
                base_name: Some("urn:dev:ow:1/"),
                base_time: Some(Number::Unsigned(1_772_368_496)),
                name: Some("temperature"),
                unit: Some("Cel"),
                value: Some(Number::Float(21.5)),
                ..Record::default()
            },
            Record {
                name: Some("state"),
                string_value: Some("on\u{1b}[2J"),
                ..Record::default()
            },
        ];
        let mut payload = [0; 128];
        let used = senml::encode(&pack, &mut payload).expect("fits");
        let mut view = view(Framing::Shim, None);
        assert_eq!(
            shown(&mut view, &frame(Kind::Senml, &payload[..used])),
            [
                "12:34:56.789  address 5  session 7  sequence 42  backlog 3  urn:dev:ow:1/  \
                 temperature=21.5 Cel  state=\"on\\u{1b}[2J\""
            ]
        );
        assert_eq!(
            shown(&mut view, &frame(Kind::Opaque, b"\x01\xff")),
            ["12:34:56.789  address 5  session 7  sequence 42  backlog 3  2 bytes  01 ff"]
        );
        assert_eq!(
            shown(&mut view, &frame(Kind::Senml, b"no pack")),
            [
                "12:34:56.789  address 5  session 7  sequence 42  backlog 3  \
              no SenML at byte 7: 6e 6f 20 70 61 63 6b"
            ]
        );
        let ack = shown(&mut view, &frame(Kind::Ack, b""));
        assert_eq!(ack, ["12:34:56.789  address 5  session 7  ACK, next is 42"]);
        let time = frame(Kind::Time, &frame::time_payload(1_772_368_496_789));
        assert_eq!(
            shown(&mut view, &time),
            ["12:34:56.789  address 5  session 7  TIME 1772368496789 ms"]
        );
    }

    #[test]
    fn what_was_rejected_is_shown_in_hex_with_the_reason() {
        let mut view = view(Framing::Shim, None);
        assert_eq!(
            shown(&mut view, &[9, 1, 0]),
            ["12:34:56.789  rejected: cobs (3 bytes)  09 01 00"]
        );
        let mut damaged = frame(Kind::Opaque, &[7; 200]);
        damaged[100] ^= 1;
        let text = shown(&mut view, &damaged).remove(0);
        assert!(
            text.starts_with("12:34:56.789  rejected: crc (215 bytes)  0"),
            "{text}"
        );
        assert!(text.ends_with("07 …"), "{text}");
    }

    #[test]
    fn text_is_shown_as_text_and_anything_else_in_hex() {
        let mut lines = view(Framing::Lines, Some(Checksum::Nmea));
        assert_eq!(
            shown(&mut lines, b"$IIMTW,18.7,C*1D\r\nT=\xb0\n"),
            [
                "12:34:56.789  16 bytes  \"$IIMTW,18.7,C*1D\"",
                "12:34:56.789  rejected: checksum (4 bytes)  54 3d b0 0a"
            ]
        );
        let mut idle = view(Framing::Idle(Duration::from_millis(5)), None);
        assert_eq!(idle.silent(AT_MS), None);
        assert_eq!(shown(&mut idle, &[1, 2]), [""; 0]);
        let line = idle.silent(AT_MS).expect("a frame");
        assert_eq!(line.text, "12:34:56.789  2 bytes  01 02");
    }
}
