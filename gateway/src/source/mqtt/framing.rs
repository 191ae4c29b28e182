//! Cuts the broker's byte stream into packets, within a bound of memory.
//!
//! MQTT allows packets of 256 MiB. One over [`Framer`]'s limit is not kept: its head is, the rest
//! is counted and thrown away, and then the head comes out as a frame that says how long the packet
//! was. So a publish that no board could hold is set aside and acknowledged like any other that is
//! too large, in both versions of the protocol, and the session goes on.
//!
//! Sans-IO: [`Framer::space`] is where to read to, [`Framer::next`] what has come.

use bytes::{Buf, BytesMut};

use super::packet::WireError;

/// What is kept of a packet over the limit: the longest topic (64 KiB), as much payload, and some
/// properties.
const HEAD_BYTES: usize = 160 * 1024;

/// What the limit leaves, beside the payload, to topic (64 KiB at most) and properties.
const ENVELOPE_BYTES_MAX: usize = 192 * 1024;

/// Room for one read: some 300 publishes of 200 bytes. Larger ones gained nothing, chosen by eye.
const READ_BYTES: usize = 64 * 1024;

/// A buffer that has grown beyond this for one large packet is given back once it is empty.
const IDLE_BYTES_MAX: usize = 4 * READ_BYTES;

/// A packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    /// Type and flags.
    pub(super) first_byte: u8,
    /// All of it; cut off if it was over the limit.
    pub(super) packet: &'a [u8],
    /// What follows the fixed header; cut off likewise.
    pub(super) body: &'a [u8],
    /// Full length of the body.
    pub(super) body_bytes: u64,
}

impl Frame<'_> {
    /// Type PUBLISH.
    pub(super) fn is_publish(&self) -> bool {
        self.first_byte >> 4 == 3
    }

    /// The packet was over the limit, this is its head.
    pub(super) fn is_cut_off(&self) -> bool {
        self.body.len() as u64 != self.body_bytes
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Framer {
    buffer: BytesMut,
    /// Bytes at the buffer's start that belong to the frame handed out last.
    consumed: usize,
    packet_bytes_max: usize,
    cut_off: Option<CutOff>,
}

/// A packet over the limit, being read past.
#[derive(Debug)]
struct CutOff {
    header: FixedHeader,
    head: BytesMut,
    /// Bytes of it that are still to come.
    missing: usize,
}

#[derive(Clone, Copy, Debug)]
struct FixedHeader {
    bytes: usize,
    body_bytes: usize,
}

impl FixedHeader {
    fn packet_bytes(self) -> usize {
        self.bytes + self.body_bytes
    }

    /// `None` while it is incomplete.
    fn read(bytes: &[u8]) -> Result<Option<Self>, WireError> {
        let mut body_bytes = 0;
        for (index, shift) in [(1, 0), (2, 7), (3, 14), (4, 21)] {
            let Some(byte) = bytes.get(index) else {
                return Ok(None);
            };
            body_bytes |= usize::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Ok(Some(Self {
                    bytes: index + 1,
                    body_bytes,
                }));
            }
        }
        Err(WireError::Malformed {
            what: "remaining length",
        })
    }
}

impl Framer {
    /// Packets whose payload is no larger than `payload_bytes_max` come out whole.
    pub(super) fn new(payload_bytes_max: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            consumed: 0,
            packet_bytes_max: payload_bytes_max.saturating_add(ENVELOPE_BYTES_MAX),
            cut_off: None,
        }
    }

    /// The buffer to read to: with room for one large read, and never much longer than the limit.
    pub(super) fn space(&mut self) -> &mut BytesMut {
        self.forget_consumed();
        if self.buffer.is_empty() && self.buffer.capacity() > IDLE_BYTES_MAX {
            self.buffer = BytesMut::new();
        }
        if self.buffer.capacity() - self.buffer.len() < READ_BYTES / 4 {
            self.buffer.reserve(READ_BYTES);
        }
        &mut self.buffer
    }

    /// The next packet, `None` until more has been read.
    ///
    /// # Errors
    /// [`WireError::Malformed`]: the stream cannot be cut any more.
    pub(super) fn next(&mut self) -> Result<Option<Frame<'_>>, WireError> {
        self.forget_consumed();
        if self.cut_off.is_some() {
            return Ok(self.next_cut_off());
        }
        let Some(header) = FixedHeader::read(&self.buffer)? else {
            return Ok(None);
        };
        if header.packet_bytes() > self.packet_bytes_max {
            self.cut_off = Some(CutOff {
                header,
                head: BytesMut::new(),
                missing: header.packet_bytes(),
            });
            return Ok(self.next_cut_off());
        }
        if self.buffer.len() < header.packet_bytes() {
            return Ok(None);
        }
        self.consumed = header.packet_bytes();
        Ok(Some(frame(&self.buffer[..self.consumed], header)))
    }

    /// Reads past a packet over the limit; its head once all of it has gone by.
    fn next_cut_off(&mut self) -> Option<Frame<'_>> {
        let cut_off = self.cut_off.as_mut()?;
        let here = cut_off.missing.min(self.buffer.len());
        let kept = here.min(HEAD_BYTES - cut_off.head.len());
        cut_off.head.extend_from_slice(&self.buffer[..kept]);
        self.buffer.advance(here);
        cut_off.missing -= here;
        if cut_off.missing > 0 {
            return None;
        }
        let CutOff { header, head, .. } = self.cut_off.take()?;
        // The head goes before what has been read behind it, and out like any other packet.
        self.consumed = head.len();
        let behind = std::mem::replace(&mut self.buffer, head);
        self.buffer.extend_from_slice(&behind);
        Some(frame(&self.buffer[..self.consumed], header))
    }

    fn forget_consumed(&mut self) {
        self.buffer.advance(self.consumed);
        self.consumed = 0;
    }
}

fn frame(packet: &[u8], header: FixedHeader) -> Frame<'_> {
    Frame {
        first_byte: packet[0],
        packet,
        body: &packet[header.bytes..],
        body_bytes: header.body_bytes as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A packet whose body is `body_bytes` bytes of `fill`.
    fn packet(body_bytes: usize, fill: u8) -> Vec<u8> {
        let mut packet = vec![0x30];
        let mut left = body_bytes;
        loop {
            let low = u8::try_from(left % 128).unwrap();
            left /= 128;
            packet.push(if left > 0 { low | 0x80 } else { low });
            if left == 0 {
                break;
            }
        }
        packet.resize(packet.len() + body_bytes, fill);
        packet
    }

    /// Feeds `stream` in pieces; what comes out as (first byte of the body, kept, full length).
    fn frames(stream: &[u8], piece: usize, limit: usize) -> Vec<(Option<u8>, usize, u64)> {
        let mut framer = Framer::new(limit);
        let mut out = Vec::new();
        for piece in stream.chunks(piece) {
            framer.space().extend_from_slice(piece);
            while let Some(frame) = framer.next().unwrap() {
                let fill = frame.body.first().copied();
                assert!(frame.body.iter().all(|byte| Some(*byte) == fill));
                out.push((fill, frame.body.len(), frame.body_bytes));
            }
            assert!(framer.buffer.len() <= limit + ENVELOPE_BYTES_MAX + piece.len());
        }
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn packets_come_out_as_they_went_in_however_the_stream_is_cut(
            sizes in proptest::collection::vec(
                prop_oneof![0usize..300, 16_380usize..16_390, 180_000usize..400_000], 1..12),
            piece in prop_oneof![1usize..20, 1000usize..80_000],
        ) {
            // One byte at a time only where that is quick.
            let piece = if sizes.iter().sum::<usize>() > 100_000 { piece.max(997) } else { piece };
            let limit = 1000;
            let mut stream = Vec::new();
            let mut expected = Vec::new();
            for (number, &bytes) in sizes.iter().enumerate() {
                let fill = u8::try_from(number).unwrap() + 1;
                let whole = packet(bytes, fill);
                let kept = if whole.len() > limit + ENVELOPE_BYTES_MAX {
                    HEAD_BYTES - (whole.len() - bytes)
                } else {
                    bytes
                };
                expected.push(((bytes > 0).then_some(fill), kept, bytes as u64));
                stream.extend(whole);
            }
            prop_assert_eq!(frames(&stream, piece, limit), expected);
        }
    }

    #[test]
    fn a_packet_over_the_limit_is_not_kept_in_memory() {
        let mut framer = Framer::new(1000);
        let stream = packet(8 << 20, 1);
        for piece in stream.chunks(READ_BYTES) {
            framer.space().extend_from_slice(piece);
            let _ = framer.next().unwrap();
            assert!(framer.buffer.capacity() < 1 << 20);
        }
    }

    #[test]
    fn a_length_of_five_bytes_is_an_error() {
        let mut framer = Framer::new(1000);
        framer.space().extend_from_slice(&[0x30, 0xFF, 0xFF, 0xFF]);
        assert!(framer.next().unwrap().is_none());
        framer.space().extend_from_slice(&[0xFF]);
        assert!(framer.next().is_err());
    }
}
