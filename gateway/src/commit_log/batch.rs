//! The record batch: the unit that is written, checksummed and read (I2).
//!
//! ```text
//!  0  4  magic "EGLB"
//!  4  4  CRC-32C of everything behind it, content included
//!  8  4  length of the content in bytes
//! 12  1  format version, 1
//! 13  1  kind: 0 records · 1 checkpoint (no records; the content is the durable state, I9)
//! 14  1  compression of the content: 0 none · 1 LZ4 block · 2 Zstandard frame
//! 15  1  1 if the wall clock at 76 was known to be right, else 0
//! 16  8  log identity
//! 24  4  open counter: how often the log had been opened when this was written
//! 28  4  count of records
//! 32  8  base offset: offset of the first record
//! 40  8  synced: every offset below it was durable when this was written
//! 48  8  committed: every offset below it was delivered when this was written
//! 56  8  boot identity: the boot whose monotonic clock the records count in
//! 64  8  milliseconds since that boot when this was written
//! 72  4  length of the content before compression
//! 76  4  wall clock when this was written, in seconds since the Unix epoch
//! 80  …  content: entries (see `entry`), or the state
//! ```
//!
//! Integers are little-endian. Batches follow each other at multiples of 8 bytes, so that a reader
//! who has lost the thread finds the next one in an eighth of the places.

use super::compression::Content;
use crate::clock::Moment;
use crate::record::Offset;

/// Bytes of a header.
pub(super) const HEADER_BYTES: usize = 80;
/// Batches begin at multiples of this.
pub(super) const ALIGN: u64 = 8;
/// The format that this code writes, and the newest it reads.
pub(super) const FORMAT_VERSION: u8 = 1;
/// The first bytes of a batch.
pub(super) const MAGIC: [u8; 4] = *b"EGLB";

/// No log gets as far: a million records a second for a thousand centuries.
pub(super) const OFFSET_MAX: Offset = Offset::new(1 << 62);

/// What a batch holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Records,
    Checkpoint,
}

/// A header's fields, as they were found or are to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) identity: u64,
    pub(super) open_counter: u32,
    pub(super) count: u32,
    pub(super) base: Offset,
    pub(super) synced: Offset,
    pub(super) committed: Offset,
    pub(super) written: Moment,
    pub(super) content: Content,
}

impl Header {
    /// Offset behind the last record.
    pub(super) fn end(&self) -> Offset {
        self.base.plus(u64::from(self.count))
    }

    /// Whether a log can have written this: delivered is at most what was synced, synced is what
    /// lies before the batch, numbers have room to grow, and a checkpoint holds no records. A good
    /// checksum doesn't promise it: a board's bad memory is sealed with the rest.
    fn is_possible(&self) -> bool {
        let holds_its_kind = self.kind == Kind::Records || self.count == 0;
        let in_order = self.committed <= self.synced && self.synced <= self.base;
        in_order && self.base <= OFFSET_MAX && holds_its_kind
    }
}

/// What lies at a place where a batch may begin.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed<'a> {
    /// A batch of this log whose checksum is good.
    Whole {
        header: Header,
        content: &'a [u8],
        bytes: usize,
    },
    /// It looks like a batch, of so many bytes in all, and more of it must be read to know.
    Needs(usize),
    /// No batch of this log, or one whose checksum is bad.
    Nothing,
    /// A batch of this log in a format of the future, or in one that is no longer read. Its checksum
    /// is good.
    Other(Claim),
}

/// What a header says in every format: these fields, and the magic and the checksum, keep their places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) identity: u64,
    pub(super) version: u8,
    pub(super) open_counter: u32,
    pub(super) base: Offset,
    /// Offset behind the last record.
    pub(super) end: Offset,
    pub(super) synced: Offset,
    /// Bytes of the whole batch.
    pub(super) bytes: u64,
}

impl Claim {
    /// See [`Header::is_possible`].
    fn is_possible(&self) -> bool {
        self.synced <= self.base && self.base <= OFFSET_MAX
    }
}

/// Writes the header in front of a content that begins at [`HEADER_BYTES`] of `batch`, and pads the
/// whole to [`ALIGN`].
pub(super) fn seal(header: &Header, batch: &mut Vec<u8>) {
    let content_len = u32::try_from(batch.len() - HEADER_BYTES).expect("a batch is below 4 GiB");
    let head = &mut batch[..HEADER_BYTES];
    head.fill(0);
    head[0..4].copy_from_slice(&MAGIC);
    head[8..12].copy_from_slice(&content_len.to_le_bytes());
    head[12] = FORMAT_VERSION;
    head[13] = match header.kind {
        Kind::Records => 0,
        Kind::Checkpoint => 1,
    };
    let plain_len = match header.content {
        Content::Plain => content_len,
        Content::Packed { by, plain_bytes } => {
            head[14] = by.code();
            plain_bytes
        }
    };
    head[15] = u8::from(header.written.wall_synced);
    head[16..24].copy_from_slice(&header.identity.to_le_bytes());
    head[24..28].copy_from_slice(&header.open_counter.to_le_bytes());
    head[28..32].copy_from_slice(&header.count.to_le_bytes());
    head[32..40].copy_from_slice(&header.base.get().to_le_bytes());
    head[40..48].copy_from_slice(&header.synced.get().to_le_bytes());
    head[48..56].copy_from_slice(&header.committed.get().to_le_bytes());
    head[56..64].copy_from_slice(&header.written.boot_id.to_le_bytes());
    head[64..72].copy_from_slice(&header.written.mono_ms.to_le_bytes());
    head[72..76].copy_from_slice(&plain_len.to_le_bytes());
    head[76..80].copy_from_slice(&header.written.wall_s.to_le_bytes());
    let crc = crc32c::crc32c(&batch[8..]);
    batch[4..8].copy_from_slice(&crc.to_le_bytes());
    batch.resize(aligned(batch.len()), 0);
}

/// Reads what begins at `bytes[0]`. `room` is how many bytes the segment has from there: a length
/// beyond it is not believed.
pub(super) fn parse(bytes: &[u8], room: u64, identity: u64) -> Parsed<'_> {
    if bytes.len() < HEADER_BYTES {
        return if room < HEADER_BYTES as u64 {
            Parsed::Nothing
        } else {
            Parsed::Needs(HEADER_BYTES)
        };
    }
    if bytes[0..4] != MAGIC || u64_at(bytes, 16) != identity {
        return Parsed::Nothing;
    }
    let len = HEADER_BYTES as u64 + u64::from(u32_at(bytes, 8));
    if len > room {
        return Parsed::Nothing;
    }
    // It fits the segment, whose size fits memory.
    let len = len as usize;
    if bytes.len() < len {
        return Parsed::Needs(len);
    }
    if crc32c::crc32c(&bytes[8..len]) != u32_at(bytes, 4) {
        return Parsed::Nothing;
    }
    if bytes[12] != FORMAT_VERSION {
        return match claim(bytes) {
            Some(claim) if claim.is_possible() => Parsed::Other(claim),
            Some(_) | None => Parsed::Nothing,
        };
    }
    let kind = match bytes[13] {
        0 => Kind::Records,
        1 => Kind::Checkpoint,
        _ => return Parsed::Nothing,
    };
    let Some(content) = Content::of_code(bytes[14], u32_at(bytes, 72)) else {
        return Parsed::Nothing;
    };
    let header = Header {
        kind,
        identity,
        open_counter: u32_at(bytes, 24),
        count: u32_at(bytes, 28),
        base: Offset::new(u64_at(bytes, 32)),
        synced: Offset::new(u64_at(bytes, 40)),
        committed: Offset::new(u64_at(bytes, 48)),
        written: Moment {
            boot_id: u64_at(bytes, 56),
            mono_ms: u64_at(bytes, 64),
            wall_s: u32_at(bytes, 76),
            wall_synced: bytes[15] == 1,
        },
        content,
    };
    if !header.is_possible() {
        return Parsed::Nothing;
    }
    Parsed::Whole {
        header,
        content: &bytes[HEADER_BYTES..len],
        bytes: aligned(len),
    }
}

/// What the header at `bytes[0]` claims, if there is one. The checksum is not checked here; [`parse`]
/// does that.
pub(super) fn claim(bytes: &[u8]) -> Option<Claim> {
    (bytes.len() >= HEADER_BYTES && bytes[0..4] == MAGIC).then(|| Claim {
        identity: u64_at(bytes, 16),
        version: bytes[12],
        open_counter: u32_at(bytes, 24),
        base: Offset::new(u64_at(bytes, 32)),
        end: Offset::new(u64_at(bytes, 32)).plus(u64::from(u32_at(bytes, 28))),
        synced: Offset::new(u64_at(bytes, 40)),
        bytes: (HEADER_BYTES as u64 + u64::from(u32_at(bytes, 8))).next_multiple_of(ALIGN),
    })
}

/// The next multiple of [`ALIGN`].
pub(super) fn aligned(len: usize) -> usize {
    len.next_multiple_of(ALIGN as usize)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: u64 = 0x1122_3344_5566_7788;

    fn header() -> Header {
        Header {
            kind: Kind::Records,
            identity: IDENTITY,
            open_counter: 3,
            count: 2,
            base: Offset::new(40),
            synced: Offset::new(40),
            committed: Offset::new(12),
            written: Moment {
                boot_id: 9,
                mono_ms: 1234,
                wall_s: 0x6500_0001,
                wall_synced: true,
            },
            content: Content::Plain,
        }
    }

    fn sealed(content: &[u8]) -> Vec<u8> {
        let mut batch = vec![0; HEADER_BYTES];
        batch.extend_from_slice(content);
        seal(&header(), &mut batch);
        batch
    }

    /// The format on disk. If this fails, do not change the test: boards in the field hold it.
    #[test]
    fn the_format_is_what_boards_in_the_field_have_on_disk() {
        let hex: String = sealed(b"telemetry")
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let expected = concat!(
            "45474c42",
            "435e3501",
            "09000000",
            "01000001",
            "8877665544332211",
            "03000000",
            "02000000",
            "2800000000000000",
            "2800000000000000",
            "0c00000000000000",
            "0900000000000000",
            "d204000000000000",
            "09000000",
            "01000065",
            "74656c656d65747279",
            "00000000000000",
        );
        assert_eq!(hex[..8], expected[..8]);
        assert_eq!(hex[16..], expected[16..]);
        assert_eq!(hex[8..16], expected[8..16], "checksum");
    }

    #[test]
    fn a_sealed_batch_is_parsed_whole() {
        let batch = sealed(b"telemetry");
        let parsed = parse(&batch, batch.len() as u64, IDENTITY);
        let bytes = batch.len();
        assert_eq!(
            parsed,
            Parsed::Whole {
                header: header(),
                content: b"telemetry",
                bytes
            }
        );
    }

    #[test]
    fn every_single_flipped_bit_is_noticed() {
        let batch = sealed(b"telemetry");
        let covered = HEADER_BYTES + b"telemetry".len();
        for bit in 0..covered * 8 {
            let mut damaged = batch.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let parsed = parse(&damaged, damaged.len() as u64, IDENTITY);
            assert!(
                matches!(parsed, Parsed::Nothing | Parsed::Needs(_)),
                "bit {bit}: {parsed:?}"
            );
        }
    }

    #[test]
    fn a_length_beyond_the_segment_is_not_believed() {
        let batch = sealed(b"telemetry");
        assert_eq!(
            parse(&batch, HEADER_BYTES as u64 + 8, IDENTITY),
            Parsed::Nothing
        );
    }

    #[test]
    fn a_batch_of_another_log_is_nothing() {
        let batch = sealed(b"telemetry");
        assert_eq!(
            parse(&batch, batch.len() as u64, IDENTITY ^ 1),
            Parsed::Nothing
        );
    }

    #[test]
    fn a_header_that_contradicts_itself_is_not_believed() {
        let changes: [fn(&mut Header); 4] = [
            |header| header.committed = header.synced.plus(1),
            |header| header.synced = header.base.plus(1),
            |header| header.base = Offset::new(u64::MAX - 1),
            |header| header.kind = Kind::Checkpoint,
        ];
        for change in changes {
            let mut header = header();
            change(&mut header);
            let mut batch = vec![0; HEADER_BYTES];
            seal(&header, &mut batch);
            let parsed = parse(&batch, batch.len() as u64, IDENTITY);
            assert_eq!(parsed, Parsed::Nothing, "{header:?}");
        }
    }

    fn of_version(version: u8, change: impl Fn(&mut Header)) -> Vec<u8> {
        let mut header = header();
        change(&mut header);
        let mut batch = vec![0; HEADER_BYTES];
        batch.extend_from_slice(b"telemetry");
        seal(&header, &mut batch);
        batch[12] = version;
        let covered = HEADER_BYTES + b"telemetry".len();
        let crc = crc32c::crc32c(&batch[8..covered]);
        batch[4..8].copy_from_slice(&crc.to_le_bytes());
        batch
    }

    #[test]
    fn other_formats_are_told_apart_and_say_where_in_the_log_they_lie() {
        for version in [0, FORMAT_VERSION + 1] {
            let batch = of_version(version, |_| {});
            let expected = Claim {
                identity: IDENTITY,
                version,
                open_counter: 3,
                base: Offset::new(40),
                end: Offset::new(42),
                synced: Offset::new(40),
                bytes: batch.len() as u64,
            };
            let parsed = parse(&batch, batch.len() as u64, IDENTITY);
            assert_eq!(parsed, Parsed::Other(expected));
        }
    }

    #[test]
    fn another_format_that_contradicts_itself_is_not_believed() {
        let batch = of_version(FORMAT_VERSION + 1, |header| header.synced = Offset::new(41));
        let parsed = parse(&batch, batch.len() as u64, IDENTITY);
        assert_eq!(parsed, Parsed::Nothing);
    }
}
