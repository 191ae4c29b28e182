//! The slot pair: what must be known of a log beside its batches, written so that a torn write
//! leaves the older one (I7).
//!
//! ```text
//! file `slots`, 8192 bytes: slot 0 at 0, slot 1 at 4096, written in turn
//!  0  4  magic "EGLS"             24  4  open counter
//!  4  4  CRC-32C of bytes 8 to 64  28  1  format version, 1
//!                                 29  3  0
//!  8  8  write counter            32  8  committed offset
//! 16  8  log identity             40  8  synced offset
//!                                 48  8  lineage: what was added to the identity since, 0 at first
//!                                 56  8  0
//! ```
//!
//! Group commits carry the same offsets in their headers for nothing, so the slots are written only
//! when the log is opened, before a segment is removed, when the log falls idle, and when it is
//! closed. Both slots lost is no disaster: the batches tell all but the newest committed offset.

use std::io;
use std::path::{Path, PathBuf};

use super::batch::OFFSET_MAX;
use super::fs::{self, File, Fs};
use crate::record::Offset;

pub(super) const FILE_NAME: &str = "slots";
/// Bytes the slot file takes.
pub(super) const FILE_BYTES: u64 = 2 * SLOT_STRIDE;
/// A flash page apart, so that no single torn page takes both.
const SLOT_STRIDE: u64 = 4096;
const SLOT_BYTES: usize = 64;
const MAGIC: [u8; 4] = *b"EGLS";
const VERSION: u8 = super::batch::FORMAT_VERSION;

/// The content of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) identity: u64,
    pub(super) open_counter: u32,
    pub(super) committed: Offset,
    pub(super) synced: Offset,
    /// See [`super::CommitLog::renew_identity`].
    pub(super) lineage: u64,
}

/// What the slot file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peeked {
    /// The newest whole slot.
    Slot(Slot),
    /// No file, or no whole slot in it.
    None,
    /// A whole slot in another format version.
    OtherVersion(u8),
}

/// Reads the slots and changes nothing.
pub(super) fn peek(fs: &dyn Fs, dir: &Path) -> io::Result<Peeked> {
    let file = match fs.open(&path(dir), false) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Peeked::None),
        opened => opened?,
    };
    let newest = read(&*file)?;
    Ok(newest.map_or(Peeked::None, |(_, content)| match content {
        Content::Slot(slot) => Peeked::Slot(slot),
        Content::OtherVersion(found) => Peeked::OtherVersion(found),
    }))
}

/// What a whole slot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    Slot(Slot),
    OtherVersion(u8),
}

/// The open slot file.
#[derive(Debug)]
pub(super) struct Slots {
    file: Box<dyn File>,
    write_counter: u64,
}

impl Slots {
    /// Opens the slot file, making it if it is absent, and reads the newest whole slot. A new
    /// file's name is durable only after the caller has synced the directory.
    pub(super) fn open(fs: &dyn Fs, dir: &Path) -> io::Result<(Self, Option<Slot>)> {
        let path = path(dir);
        let file = match fs.open(&path, true) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => fs.create(&path)?,
            opened => opened?,
        };
        let newest = read(&*file)?;
        let size = file.size()?;
        if size < FILE_BYTES {
            file.allocate(FILE_BYTES)?;
            // Written once, so that later writes find their blocks there (I6).
            for position in [0, SLOT_STRIDE] {
                if size < position + SLOT_BYTES as u64 {
                    fs::write_all_at(&*file, &[0; SLOT_BYTES], position)?;
                }
            }
            file.sync_data()?;
        }
        let write_counter = newest.map_or(0, |(counter, _)| counter);
        let slot = newest.and_then(|(_, content)| match content {
            Content::Slot(slot) => Some(slot),
            Content::OtherVersion(_) => None,
        });
        Ok((
            Self {
                file,
                write_counter,
            },
            slot,
        ))
    }

    /// Writes the older slot. It is durable on return.
    pub(super) fn write(&mut self, slot: &Slot) -> io::Result<()> {
        let counter = self.write_counter.saturating_add(1);
        let position = (counter % 2) * SLOT_STRIDE;
        fs::write_all_at(&*self.file, &encode(counter, slot), position)?;
        self.file.sync_data()?;
        self.write_counter = counter;
        Ok(())
    }
}

/// Where a log's slots are.
pub(super) fn path(dir: &Path) -> PathBuf {
    dir.join(FILE_NAME)
}

fn read(file: &dyn File) -> io::Result<Option<(u64, Content)>> {
    let mut newest = None;
    for position in [0, SLOT_STRIDE] {
        let mut bytes = [0; SLOT_BYTES];
        if fs::read_up_to(file, &mut bytes, position)? == SLOT_BYTES {
            newest = newest.max_by_counter(decode(&bytes));
        }
    }
    Ok(newest)
}

trait MaxByCounter {
    fn max_by_counter(self, other: Self) -> Self;
}

impl MaxByCounter for Option<(u64, Content)> {
    fn max_by_counter(self, other: Self) -> Self {
        match (self, other) {
            (Some(a), Some(b)) => Some(if b.0 > a.0 { b } else { a }),
            (one, None) | (None, one) => one,
        }
    }
}

fn encode(counter: u64, slot: &Slot) -> [u8; SLOT_BYTES] {
    let mut bytes = [0; SLOT_BYTES];
    bytes[0..4].copy_from_slice(&MAGIC);
    bytes[8..16].copy_from_slice(&counter.to_le_bytes());
    bytes[16..24].copy_from_slice(&slot.identity.to_le_bytes());
    bytes[24..28].copy_from_slice(&slot.open_counter.to_le_bytes());
    bytes[28] = VERSION;
    bytes[32..40].copy_from_slice(&slot.committed.get().to_le_bytes());
    bytes[40..48].copy_from_slice(&slot.synced.get().to_le_bytes());
    bytes[48..56].copy_from_slice(&slot.lineage.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[8..]);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8; SLOT_BYTES]) -> Option<(u64, Content)> {
    let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    if bytes[0..4] != MAGIC || u32_at(4) != crc32c::crc32c(&bytes[8..]) {
        return None;
    }
    if bytes[28] != VERSION {
        return Some((u64_at(8), Content::OtherVersion(bytes[28])));
    }
    let slot = Slot {
        identity: u64_at(16),
        open_counter: u32_at(24),
        committed: Offset::new(u64_at(32)),
        synced: Offset::new(u64_at(40)),
        lineage: u64_at(48),
    };
    // As with batches, a good checksum is not enough.
    let possible = slot.committed <= slot.synced && slot.synced <= OFFSET_MAX;
    possible.then(|| (u64_at(8), Content::Slot(slot)))
}

#[cfg(test)]
mod tests {
    use super::super::fs::RealFs;
    use super::*;

    fn slot(committed: u64) -> Slot {
        let committed = Offset::new(committed);
        Slot {
            identity: 77,
            open_counter: 2,
            committed,
            synced: Offset::new(900),
            lineage: 5,
        }
    }

    #[test]
    fn the_newest_slot_is_read_back() {
        let dir = tempfile::tempdir().expect("temp dir");
        let (mut slots, found) = Slots::open(&RealFs, dir.path()).expect("open");
        assert_eq!(found, None);
        for committed in 1..=5 {
            slots.write(&slot(committed)).expect("write");
            let (_, found) = Slots::open(&RealFs, dir.path()).expect("open");
            assert_eq!(found, Some(slot(committed)));
        }
    }

    #[test]
    fn a_torn_slot_leaves_the_older_one() {
        let dir = tempfile::tempdir().expect("temp dir");
        let (mut slots, _) = Slots::open(&RealFs, dir.path()).expect("open");
        slots.write(&slot(1)).expect("write");
        slots.write(&slot(2)).expect("write");
        let file = RealFs.open(&path(dir.path()), true).expect("open");
        fs::write_all_at(&*file, &[0xff], 33).expect("damage slot 0, the newer");
        let (_, found) = Slots::open(&RealFs, dir.path()).expect("open");
        assert_eq!(found, Some(slot(1)));
    }

    #[test]
    fn a_slot_that_contradicts_itself_is_not_believed() {
        assert!(decode(&encode(1, &slot(900))).is_some());
        assert_eq!(
            decode(&encode(1, &slot(901))),
            None,
            "more delivered than synced"
        );
    }

    #[test]
    fn any_damage_to_both_slots_reads_as_none() {
        let dir = tempfile::tempdir().expect("temp dir");
        let (mut slots, _) = Slots::open(&RealFs, dir.path()).expect("open");
        slots.write(&slot(1)).expect("write");
        slots.write(&slot(2)).expect("write");
        for byte in 0..48 {
            let file = RealFs.open(&path(dir.path()), true).expect("open");
            for base in [0, SLOT_STRIDE] {
                let mut value = [0];
                fs::read_up_to(&*file, &mut value, base + byte).expect("read");
                fs::write_all_at(&*file, &[value[0] ^ 0x10], base + byte).expect("write");
            }
            let (_, found) = Slots::open(&RealFs, dir.path()).expect("open");
            assert_eq!(found, None, "byte {byte}");
            for base in [0, SLOT_STRIDE] {
                let mut value = [0];
                fs::read_up_to(&*file, &mut value, base + byte).expect("read");
                fs::write_all_at(&*file, &[value[0] ^ 0x10], base + byte).expect("write");
            }
        }
    }
}
