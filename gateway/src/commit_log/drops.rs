//! What was dropped and not yet told: which records, why, and how many of which source (I8).
//!
//! Segments are dropped oldest first, so that what is kept here is one unbroken run of offsets that
//! ends where the oldest segment begins. It is kept until the committed offset is past it, in memory
//! and in a file of its own, so that a gap marker can still say after a restart what was lost.
//!
//! ```text
//! file `drops`, 32 KiB: two copies, at 0 and at 16 KiB, written in turn, so that a torn write
//! leaves the older one
//!  0  4  magic "EGLD"                  16  8  log identity
//!  4  4  CRC-32C of all behind it      24  4  length of what follows
//!  8  8  write counter                 28  …  entries, oldest first
//! entry: first offset 8 · end offset 8 · reason 1 · counted 1 · sources 2
//!        · for each source: length of its name 1, name, records 8      (little-endian)
//! ```
//!
//! An entry is synced before its segment is removed. A crash in between leaves both: opening then
//! removes the segment, so that no record is both dropped and delivered. The file is written in full
//! when it is made, so that later writes need no space.
//!
//! # In flight
//! Records that a cursor has handed out for delivery when their segment goes will most likely be
//! delivered all the same. They are an entry of their own, not *counted* until a cursor comes by
//! again, because delivery began anew. So no record is counted both as dropped and as delivered.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};

use super::cursor::{Hole, Loss};
use super::fs::{self, File, Fs};
use super::segment;
use super::shared::{Segment, StorageError};
use crate::record::Offset;

pub(super) const FILE_NAME: &str = "drops";
/// Bytes the file takes.
pub(super) const FILE_BYTES: u64 = 2 * STRIDE;
const STRIDE: u64 = 16 * 1024;
const MAGIC: [u8; 4] = *b"EGLD";
const HEAD_BYTES: usize = 28;
/// Beyond this the oldest are merged: cheap to keep and to write.
const ENTRIES_MAX: usize = 32;
/// Beyond this the sources of an entry are taken together as unknown, so that an entry always fits.
const SOURCES_MAX: usize = 256;

/// Why records were dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DropReason {
    BufferFull,
    Age,
}

impl DropReason {
    /// As in the `reason` label of the metrics.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::BufferFull => "buffer_full",
            Self::Age => "age",
        }
    }
}

/// Records by source. An empty name stands for those whose source is unknown: they lay in damaged
/// batches.
pub(super) type Counts = Vec<(String, u64)>;

/// Dropped records `first..end`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Dropped {
    pub(super) first: Offset,
    pub(super) end: Offset,
    pub(super) reason: DropReason,
    /// Told to the observer.
    pub(super) counted: bool,
    pub(super) sources: Counts,
}

/// Everything that was dropped and is not yet below the committed offset, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Drops(VecDeque<Dropped>);

impl Drops {
    /// Offset behind the last dropped record.
    pub(super) fn end(&self) -> Option<Offset> {
        self.0.back().map(|dropped| dropped.end)
    }

    /// How many dropped records lie at or above `offset`.
    pub(super) fn records_from(&self, offset: Offset) -> u64 {
        let above = |dropped: &Dropped| dropped.end.since(dropped.first.max(offset));
        self.0.iter().map(above).sum()
    }

    /// Forgets what lies below `committed`.
    pub(super) fn prune(&mut self, committed: Offset) {
        self.0.retain(|dropped| dropped.end > committed);
    }

    /// Takes a drop behind all others. It becomes one with the entry before it if that is like it
    /// and lies above `handed_out`, where no cursor can be in the middle of it.
    pub(super) fn push(&mut self, dropped: Dropped, handed_out: Offset) {
        if dropped.first >= dropped.end {
            return;
        }
        if let Some(last) = self.0.back_mut()
            && last.end == dropped.first
            && last.first >= handed_out
            && (last.reason, last.counted) == (dropped.reason, dropped.counted)
        {
            last.merge(&dropped);
        } else {
            self.0.push_back(dropped);
        }
        if self.0.len() > ENTRIES_MAX
            && let (Some(mut first), Some(second)) = (self.0.pop_front(), self.0.front_mut())
        {
            first.merge(second);
            *second = first;
        }
    }

    /// The hole at `position`, which lies below `end`, the first offset that is still there.
    pub(super) fn hole(&self, position: Offset, end: Offset) -> Hole {
        let mut limit = end;
        for dropped in &self.0 {
            if (dropped.first..dropped.end).contains(&position) {
                return dropped.hole(position);
            }
            if dropped.first > position {
                limit = limit.min(dropped.first);
            }
        }
        Hole::new(position, limit, "missing")
    }

    /// The records at `position` that were not counted as dropped. They are now.
    pub(super) fn take_uncounted(&mut self, position: Offset) -> Option<(DropReason, Counts)> {
        let uncounted = |dropped: &&mut Dropped| {
            !dropped.counted && (dropped.first..dropped.end).contains(&position)
        };
        let dropped = self.0.iter_mut().find(uncounted)?;
        dropped.counted = true;
        let records = dropped.end.since(position);
        let left = |(source, count): &(String, u64)| (source.clone(), (*count).min(records));
        Some((dropped.reason, dropped.sources.iter().map(left).collect()))
    }
}

impl Dropped {
    fn merge(&mut self, later: &Self) {
        self.end = later.end;
        self.counted &= later.counted;
        for (source, records) in &later.sources {
            add(&mut self.sources, source, *records);
        }
    }

    fn hole(&self, position: Offset) -> Hole {
        // Of a part it is known whose the records were only if they all were of one source.
        let known = position == self.first || self.sources.len() == 1;
        let part = self.end.since(position);
        let loss = |(source, records): &(String, u64)| Loss {
            source: (!source.is_empty()).then(|| source.clone()),
            records: known.then_some(part.min(*records)),
        };
        Hole {
            losses: self.sources.iter().map(loss).collect(),
            ..Hole::new(position, self.end, self.reason.label())
        }
    }
}

/// Removes the segments that a crash left although they were noted as dropped.
pub(super) fn finish(
    drops: &Drops,
    fs: &dyn Fs,
    dir: &Path,
    segments: &mut Vec<Segment>,
) -> Result<(), StorageError> {
    let end = drops.end().unwrap_or(Offset::ZERO);
    while let [dropped, next, ..] = segments[..]
        && next.base <= end
    {
        let path = segment::path(dir, dropped.base);
        fs.remove(&path)
            .map_err(StorageError::new("remove", &path))?;
        segments.remove(0);
    }
    Ok(())
}

/// Counts `records` more of a source.
pub(super) fn add(counts: &mut Counts, source: &str, records: u64) {
    let known = counts.iter().position(|(name, _)| name == source);
    match known {
        Some(index) => counts[index].1 += records,
        None if records == 0 => {}
        None if counts.len() < SOURCES_MAX || source.is_empty() => {
            counts.push((source.to_owned(), records));
        }
        None => add(counts, "", records),
    }
}

/// The file.
#[derive(Debug)]
pub(super) struct DropFile {
    path: PathBuf,
    identity: u64,
    file: Option<Box<dyn File>>,
    write_counter: u64,
}

impl DropFile {
    /// Opens the file and reads it, or makes it if it is absent and `wanted`. A disk too full for it
    /// is no error: it is tried again when it is needed. A new file's name is durable only after the
    /// caller has synced the directory.
    pub(super) fn open(
        fs: &dyn Fs,
        dir: &Path,
        identity: u64,
        wanted: bool,
    ) -> io::Result<(Self, Drops)> {
        let mut this = Self {
            path: dir.join(FILE_NAME),
            identity,
            file: None,
            write_counter: 0,
        };
        match fs.open(&this.path, true) {
            Ok(file) => {
                let drops = this.read(&*file)?;
                if file.size()? >= FILE_BYTES {
                    this.file = Some(file);
                    return Ok((this, drops));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        if wanted {
            match this.make(fs) {
                Err(error) if !fs::is_full(&error) => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        Ok((this, Drops::default()))
    }

    /// Disk space it takes.
    pub(super) fn bytes(&self) -> u64 {
        self.file.as_ref().map_or(0, |_| FILE_BYTES)
    }

    /// Makes `drops` durable.
    ///
    /// # Errors
    /// As the system says; a full disk only where the file could not be made before.
    pub(super) fn write(&mut self, fs: &dyn Fs, dir: &Path, drops: &Drops) -> io::Result<()> {
        if self.file.is_none() {
            self.make(fs)?;
            fs.sync_dir(dir)?;
        }
        let counter = self.write_counter + 1;
        let bytes = encode(counter, self.identity, drops);
        let file = self.file.as_ref().expect("it was made above");
        fs::write_all_at(&**file, &bytes, counter % 2 * STRIDE)?;
        file.sync_data()?;
        self.write_counter = counter;
        Ok(())
    }

    fn make(&mut self, fs: &dyn Fs) -> io::Result<()> {
        let file = match fs.open(&self.path, true) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => fs.create(&self.path)?,
            opened => opened?,
        };
        file.allocate(FILE_BYTES)?;
        fs::write_all_at(&*file, &vec![0; FILE_BYTES as usize], 0)?;
        file.sync_data()?;
        self.file = Some(file);
        Ok(())
    }

    fn read(&mut self, file: &dyn File) -> io::Result<Drops> {
        let mut newest = Drops::default();
        for position in [0, STRIDE] {
            let mut bytes = vec![0; STRIDE as usize];
            let read = fs::read_up_to(file, &mut bytes, position)?;
            if let Some((counter, identity, drops)) = decode(&bytes[..read])
                && counter > self.write_counter
            {
                self.write_counter = counter;
                newest = if identity == self.identity {
                    drops
                } else {
                    Drops::default()
                };
            }
        }
        Ok(newest)
    }
}

fn encode(counter: u64, identity: u64, drops: &Drops) -> Vec<u8> {
    let mut kept = drops.0.clone();
    loop {
        let bytes = encode_entries(counter, identity, &kept);
        if bytes.len() <= STRIDE as usize {
            return bytes;
        }
        match (kept.pop_front(), kept.front_mut()) {
            (Some(mut first), Some(second)) => {
                first.merge(second);
                *second = first;
            }
            // SOURCES_MAX names of at most 32 bytes fit.
            (Some(_) | None, None) | (None, Some(_)) => return bytes,
        }
    }
}

fn encode_entries(counter: u64, identity: u64, kept: &VecDeque<Dropped>) -> Vec<u8> {
    let mut bytes = vec![0; HEAD_BYTES];
    for dropped in kept {
        bytes.extend(dropped.first.get().to_le_bytes());
        bytes.extend(dropped.end.get().to_le_bytes());
        bytes.push(match dropped.reason {
            DropReason::BufferFull => 0,
            DropReason::Age => 1,
        });
        bytes.push(u8::from(dropped.counted));
        bytes.extend((dropped.sources.len() as u16).to_le_bytes());
        for (source, records) in &dropped.sources {
            bytes.push(source.len() as u8);
            bytes.extend(source.as_bytes());
            bytes.extend(records.to_le_bytes());
        }
    }
    let len = (bytes.len() - HEAD_BYTES) as u32;
    bytes[0..4].copy_from_slice(&MAGIC);
    bytes[8..16].copy_from_slice(&counter.to_le_bytes());
    bytes[16..24].copy_from_slice(&identity.to_le_bytes());
    bytes[24..28].copy_from_slice(&len.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[8..]);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<(u64, u64, Drops)> {
    let mut head = bytes;
    let magic: [u8; 4] = take(&mut head)?;
    let crc = u32::from_le_bytes(take(&mut head)?);
    let counter = u64::from_le_bytes(take(&mut head)?);
    let identity = u64::from_le_bytes(take(&mut head)?);
    let len = u32::from_le_bytes(take(&mut head)?) as usize;
    let mut entries = head.get(..len)?;
    if magic != MAGIC || crc32c::crc32c(&bytes[8..HEAD_BYTES + len]) != crc {
        return None;
    }
    let mut drops = Drops::default();
    while !entries.is_empty() {
        drops.0.push_back(decode_entry(&mut entries)?);
    }
    Some((counter, identity, drops))
}

fn decode_entry(from: &mut &[u8]) -> Option<Dropped> {
    let first = Offset::new(u64::from_le_bytes(take(from)?));
    let end = Offset::new(u64::from_le_bytes(take(from)?));
    let [reason, counted] = take(from)?;
    let reason = match reason {
        0 => DropReason::BufferFull,
        1 => DropReason::Age,
        _ => return None,
    };
    let mut sources = Vec::new();
    for _ in 0..u16::from_le_bytes(take(from)?) {
        let [len] = take(from)?;
        let (name, rest) = from.split_at_checked(len.into())?;
        *from = rest;
        let records = u64::from_le_bytes(take(from)?);
        sources.push((String::from_utf8(name.to_vec()).ok()?, records));
    }
    (first < end).then_some(Dropped {
        first,
        end,
        reason,
        counted: counted != 0,
        sources,
    })
}

fn take<const N: usize>(from: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = from.split_at_checked(N)?;
    *from = rest;
    head.try_into().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::fs::RealFs;
    use super::*;

    fn dropped(first: u64, end: u64, counts: &[(&str, u64)]) -> Dropped {
        let owned = |(source, records): &(&str, u64)| ((*source).to_owned(), *records);
        Dropped {
            first: Offset::new(first),
            end: Offset::new(end),
            reason: DropReason::BufferFull,
            counted: true,
            sources: counts.iter().map(owned).collect(),
        }
    }

    fn losses(hole: &Hole) -> Vec<(Option<&str>, Option<u64>)> {
        hole.losses
            .iter()
            .map(|loss| (loss.source.as_deref(), loss.records))
            .collect()
    }

    #[test]
    fn drops_above_what_was_handed_out_are_one() {
        let mut drops = Drops::default();
        drops.push(dropped(0, 10, &[("a", 10)]), Offset::new(10));
        drops.push(dropped(10, 20, &[("a", 4), ("b", 6)]), Offset::new(10));
        drops.push(dropped(20, 30, &[("b", 10)]), Offset::new(10));
        let hole = drops.hole(Offset::ZERO, Offset::new(30));
        assert_eq!(hole.last, Offset::new(9));
        let hole = drops.hole(Offset::new(10), Offset::new(30));
        assert_eq!(hole.last, Offset::new(29));
        assert_eq!(losses(&hole), [(Some("a"), Some(4)), (Some("b"), Some(16))]);
        assert_eq!(drops.records_from(Offset::new(5)), 25);
        drops.prune(Offset::new(10));
        let hole = drops.hole(Offset::ZERO, Offset::new(30));
        assert_eq!((hole.last, hole.reason), (Offset::new(9), "missing"));
    }

    #[test]
    fn of_a_part_only_what_is_certain_is_said() {
        let mut drops = Drops::default();
        drops.push(dropped(0, 10, &[("a", 4), ("b", 6)]), Offset::ZERO);
        let hole = drops.hole(Offset::new(3), Offset::new(10));
        assert_eq!(losses(&hole), [(Some("a"), None), (Some("b"), None)]);
        let mut drops = Drops::default();
        drops.push(dropped(0, 10, &[("a", 10)]), Offset::ZERO);
        let hole = drops.hole(Offset::new(3), Offset::new(10));
        assert_eq!(losses(&hole), [(Some("a"), Some(7))]);
    }

    #[test]
    fn many_drops_of_many_sources_stay_bounded_and_lose_no_record() {
        let mut drops = Drops::default();
        for number in 0..2000_u64 {
            let name = format!("source-with-a-rather-long-na-{}", number % 700);
            let one = dropped(number, number + 1, &[(&name, 1)]);
            drops.push(one, Offset::new(number));
        }
        assert!(drops.0.len() <= ENTRIES_MAX);
        let bytes = encode(1, 7, &drops);
        assert!(bytes.len() <= STRIDE as usize, "{}", bytes.len());
        let (_, _, read) = decode(&bytes).expect("whole");
        let total: u64 = read
            .0
            .iter()
            .flat_map(|one| &one.sources)
            .map(|one| one.1)
            .sum();
        assert_eq!((total, read.end()), (2000, Some(Offset::new(2000))));
    }

    #[test]
    fn the_newest_copy_is_read_and_a_torn_one_leaves_the_older() {
        let dir = tempfile::tempdir().expect("temp dir");
        let (mut file, _) = DropFile::open(&RealFs, dir.path(), 7, true).expect("open");
        let mut drops = Drops::default();
        for number in 0..3 {
            let one = dropped(number, number + 1, &[("a", 1)]);
            drops.push(one, Offset::new(number + 1));
            file.write(&RealFs, dir.path(), &drops).expect("write");
            let (_, read) = DropFile::open(&RealFs, dir.path(), 7, true).expect("open");
            assert_eq!(read, drops);
        }
        let torn = RealFs
            .open(&dir.path().join(FILE_NAME), true)
            .expect("open");
        fs::write_all_at(&*torn, &[0xff], STRIDE + 30).expect("damage the third");
        let (_, read) = DropFile::open(&RealFs, dir.path(), 7, true).expect("open");
        assert_eq!(read.end(), Some(Offset::new(2)));
        let (_, read) = DropFile::open(&RealFs, dir.path(), 8, true).expect("open");
        assert_eq!(read, Drops::default(), "another log's");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut sealed = vec![0; HEAD_BYTES];
            sealed.extend(&bytes);
            sealed[0..4].copy_from_slice(&MAGIC);
            sealed[24..28].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
            let crc = crc32c::crc32c(&sealed[8..]);
            sealed[4..8].copy_from_slice(&crc.to_le_bytes());
            let _ = decode(&sealed);
            let _ = decode(&bytes);
        }
    }
}
