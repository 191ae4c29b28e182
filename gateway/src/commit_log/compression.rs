//! Compression of a batch's content, so that telemetry costs less than its own size on flash.
//!
//! Whole batches are compressed, each by itself: a bad one takes no other with it. What doesn't get
//! smaller is stored plain. Checkpoints are always plain: one a segment is not worth it, and the
//! state can be read with the least code.
//!
//! Memory: the writer keeps a compressor (LZ4 16 KiB; Zstandard below 1 MiB, since its window is
//! bounded) and a second batch buffer; each reader that meets a compressed batch keeps one unpacked
//! batch, at most 1 MiB or the largest record, and 160 KiB for Zstandard.

use std::fmt;
use std::io;

use super::batch::HEADER_BYTES;

/// Fast enough for a board: higher levels take twice the time for a tenth of the size.
const ZSTD_LEVEL: i32 = 1;
/// Matches are sought in the last 256 KiB. Telemetry repeats itself much sooner.
const ZSTD_WINDOW_LOG: u32 = 18;

/// How batches are compressed before they are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// LZ4: least work.
    Lz4,
    /// Zstandard, level 1: about half of LZ4's size.
    Zstd,
}

/// A way of compressing, as a header tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    Lz4,
    Zstd,
}

impl Packing {
    pub(super) fn code(self) -> u8 {
        match self {
            Self::Lz4 => 1,
            Self::Zstd => 2,
        }
    }
}

/// How a batch's content is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    Plain,
    Packed { by: Packing, plain_bytes: u32 },
}

impl Content {
    /// What the two fields of a header say; `None` for a compression that is not known.
    pub(super) fn of_code(code: u8, plain_bytes: u32) -> Option<Self> {
        let packed = |by| Self::Packed { by, plain_bytes };
        match code {
            0 => Some(Self::Plain),
            1 => Some(packed(Packing::Lz4)),
            2 => Some(packed(Packing::Zstd)),
            _ => None,
        }
    }
}

/// Compresses batches, one after the other.
pub(super) enum Packer {
    None,
    Lz4,
    Zstd(zstd::bulk::Compressor<'static>),
}

impl fmt::Debug for Packer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "Packer::None",
            Self::Lz4 => "Packer::Lz4",
            Self::Zstd(_) => "Packer::Zstd",
        })
    }
}

impl Packer {
    /// # Errors
    /// No memory for it.
    pub(super) fn new(compression: Compression) -> io::Result<Self> {
        Ok(match compression {
            Compression::None => Self::None,
            Compression::Lz4 => Self::Lz4,
            Compression::Zstd => {
                let mut zstd = zstd::bulk::Compressor::new(ZSTD_LEVEL)?;
                zstd.set_parameter(zstd::zstd_safe::CParameter::WindowLog(ZSTD_WINDOW_LOG))?;
                Self::Zstd(zstd)
            }
        })
    }

    /// Compresses the content of `batch`, which begins at [`HEADER_BYTES`], into `out`, behind room
    /// for a header. If it doesn't get smaller, `out` is of no use and the content stays plain.
    pub(super) fn pack(&mut self, batch: &[u8], out: &mut Vec<u8>) -> Content {
        let plain = &batch[HEADER_BYTES..];
        let plain_bytes = u32::try_from(plain.len()).expect("a batch is below 4 GiB");
        let room = match self {
            Self::None => return Content::Plain,
            Self::Lz4 => lz4_flex::block::get_maximum_output_size(plain.len()),
            Self::Zstd(_) => plain.len(),
        };
        out.resize(HEADER_BYTES + room, 0);
        let room = &mut out[HEADER_BYTES..];
        let packed = match self {
            Self::None => None,
            Self::Lz4 => lz4_flex::block::compress_into(plain, room)
                .ok()
                .map(|bytes| (Packing::Lz4, bytes)),
            // An error is an output that doesn't fit, so one that is not worth having.
            Self::Zstd(zstd) => zstd
                .compress_to_buffer(plain, room)
                .ok()
                .map(|bytes| (Packing::Zstd, bytes)),
        };
        match packed {
            Some((by, bytes)) if bytes < plain.len() => {
                out.truncate(HEADER_BYTES + bytes);
                Content::Packed { by, plain_bytes }
            }
            Some(_) | None => Content::Plain,
        }
    }
}

/// Unpacks contents, one after the other.
#[derive(Default)]
pub(super) struct Unpacker {
    plain: Vec<u8>,
    zstd: Option<zstd::bulk::Decompressor<'static>>,
}

impl fmt::Debug for Unpacker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unpacker")
            .field("plain_bytes", &self.plain.len())
            .finish_non_exhaustive()
    }
}

impl Unpacker {
    /// The plain content, of exactly `plain_bytes`, which the caller has bounded.
    pub(super) fn unpack(&mut self, by: Packing, packed: &[u8], plain_bytes: u32) -> Option<&[u8]> {
        let plain_bytes = plain_bytes as usize;
        self.plain.resize(plain_bytes, 0);
        let unpacked = match by {
            Packing::Lz4 => lz4_flex::block::decompress_into(packed, &mut self.plain).ok(),
            Packing::Zstd => self.unpack_zstd(packed),
        };
        (unpacked? == plain_bytes).then_some(&self.plain)
    }

    fn unpack_zstd(&mut self, packed: &[u8]) -> Option<usize> {
        let zstd = match &mut self.zstd {
            Some(zstd) => zstd,
            none => none.insert(zstd::bulk::Decompressor::new().ok()?),
        };
        zstd.decompress_to_buffer(packed, self.plain.as_mut_slice())
            .ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn batch(content: &[u8]) -> Vec<u8> {
        let mut batch = vec![0; HEADER_BYTES];
        batch.extend_from_slice(content);
        batch
    }

    fn unpacked(content: Content, packed: &[u8]) -> Vec<u8> {
        let Content::Packed { by, plain_bytes } = content else {
            panic!("it was not packed");
        };
        let mut unpacker = Unpacker::default();
        let plain = unpacker.unpack(by, &packed[HEADER_BYTES..], plain_bytes);
        plain.expect("whole").to_vec()
    }

    #[test]
    fn what_repeats_itself_is_packed_and_comes_back() {
        let text = br#"{"device":"dev-1","sequence":1,"temperature":20.5}"#.repeat(30);
        for compression in [Compression::Lz4, Compression::Zstd] {
            let mut packer = Packer::new(compression).expect("memory");
            let mut out = Vec::new();
            for _ in 0..2 {
                let content = packer.pack(&batch(&text), &mut out);
                assert!(out.len() < text.len() / 2, "{compression:?}: {}", out.len());
                assert_eq!(unpacked(content, &out), text);
            }
        }
    }

    #[test]
    fn what_does_not_get_smaller_stays_plain() {
        let mix = |n: u64| (n ^ n >> 31).wrapping_mul(0x94d0_49bb_1331_11eb);
        let noise: Vec<u8> = (1..4000_u64)
            .map(|n| (mix(mix(n.wrapping_mul(0x9e37_79b9_7f4a_7c15))) >> 40) as u8)
            .collect();
        for compression in [Compression::None, Compression::Lz4, Compression::Zstd] {
            let mut packer = Packer::new(compression).expect("memory");
            for content in [&noise[..], b"x", b""] {
                let packed = packer.pack(&batch(content), &mut Vec::new());
                assert_eq!(packed, Content::Plain, "{compression:?}");
            }
        }
    }

    #[test]
    fn a_compressor_takes_less_than_a_mebibyte() {
        let Packer::Zstd(mut zstd) = Packer::new(Compression::Zstd).expect("memory") else {
            panic!("not zstd");
        };
        let content = b"telemetry".repeat(100_000);
        zstd.compress(&content).expect("room");
        let bytes = zstd.context_mut().sizeof();
        assert!(bytes < 1 << 20, "{bytes}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_unpacked_to_the_stated_length_or_refused(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            plain_bytes in 0_u32..5000,
        ) {
            for by in [Packing::Lz4, Packing::Zstd] {
                let mut unpacker = Unpacker::default();
                if let Some(plain) = unpacker.unpack(by, &bytes, plain_bytes) {
                    prop_assert_eq!(plain.len(), plain_bytes as usize);
                }
            }
        }
    }
}
