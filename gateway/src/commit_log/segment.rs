//! Segment files: their names, and reading batches out of one.

use std::io;
use std::path::{Path, PathBuf};

use super::batch::{self, ALIGN, Claim, Header, Parsed};
use super::compression::{Content, Unpacker};
use super::fs::{self, File};
use crate::record::Offset;

/// A retired segment that waits to be written again. It is whole, preallocated, and full of stale
/// batches.
pub(super) const SPARE_NAME: &str = "spare";
const EXTENSION: &str = ".seg";
/// How much is read ahead. Large enough that a backlog is read in few calls, small beside the
/// memory of a board; chosen by eye, not measured.
const READ_AHEAD_BYTES: usize = 256 * 1024;

/// Where the segment is whose first offset is `base`.
pub(super) fn path(dir: &Path, base: Offset) -> PathBuf {
    dir.join(format!("{:020}{EXTENSION}", base.get()))
}

/// The first offset of the segment with this file name; `None` for any other file.
pub(super) fn base_of(name: &str) -> Option<Offset> {
    let digits = name.strip_suffix(EXTENSION)?;
    let canonical = digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit());
    canonical
        .then(|| digits.parse().ok().map(Offset::new))
        .flatten()
}

/// A batch where it was found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) header: Header,
    pub(super) position: u64,
    /// Bytes of the content.
    pub(super) content_bytes: usize,
    /// Bytes from this batch's begin to the next one's.
    pub(super) bytes: usize,
}

/// What lies at a position.
#[derive(Clone, Copy, Debug)]
pub(super) enum Look {
    Batch(Found),
    /// No whole batch of this log begins here.
    Nothing,
    /// A whole batch of this log in another format.
    Other(Claim),
}

/// Reads batches of one segment, with read-ahead.
#[derive(Debug)]
pub(super) struct BatchReader {
    file: Box<dyn File>,
    identity: u64,
    /// Bytes of the file from `buffer_position` on.
    buffer: Vec<u8>,
    buffer_position: u64,
    unpacker: Unpacker,
}

impl BatchReader {
    pub(super) fn new(file: Box<dyn File>, identity: u64) -> Self {
        Self {
            file,
            identity,
            buffer: Vec::new(),
            buffer_position: 0,
            unpacker: Unpacker::default(),
        }
    }

    pub(super) fn identity(&self) -> u64 {
        self.identity
    }

    pub(super) fn into_file(self) -> Box<dyn File> {
        self.file
    }

    /// Looks at what begins at `position`; nothing at or behind `limit` is read or believed.
    pub(super) fn look(&mut self, position: u64, limit: u64) -> io::Result<Look> {
        let room = limit.saturating_sub(position);
        let mut want = batch::HEADER_BYTES;
        loop {
            self.fill(position, want, limit)?;
            let bytes = self.at(position);
            match batch::parse(bytes, room, self.identity) {
                // The file ends before the batch does.
                Parsed::Needs(_) if bytes.len() < want => return Ok(Look::Nothing),
                Parsed::Needs(more) => want = more,
                Parsed::Nothing => return Ok(Look::Nothing),
                Parsed::Other(claim) => return Ok(Look::Other(claim)),
                Parsed::Whole {
                    header,
                    content,
                    bytes,
                } => {
                    let content_bytes = content.len();
                    return Ok(Look::Batch(Found {
                        header,
                        position,
                        content_bytes,
                        bytes,
                    }));
                }
            }
        }
    }

    /// The bytes at `position` where a header would be, fewer if `limit` or the file ends before.
    pub(super) fn head(&mut self, position: u64, limit: u64) -> io::Result<&[u8]> {
        self.fill(position, batch::HEADER_BYTES, limit)?;
        let bytes = self.at(position);
        Ok(&bytes[..bytes.len().min(batch::HEADER_BYTES)])
    }

    /// Finds the next whole batch at or behind `position` that `accept`s.
    pub(super) fn search(
        &mut self,
        mut position: u64,
        limit: u64,
        accept: impl Fn(&Header) -> bool,
    ) -> io::Result<Option<Found>> {
        position = position.next_multiple_of(ALIGN);
        loop {
            position = self.next_magic(position, limit)?;
            if position + (batch::HEADER_BYTES as u64) > limit {
                return Ok(None);
            }
            match self.look(position, limit)? {
                Look::Batch(found) if accept(&found.header) => return Ok(Some(found)),
                Look::Batch(found) => position += found.bytes as u64,
                Look::Nothing | Look::Other(_) => position += ALIGN,
            }
        }
    }

    /// Finds the next whole batch of any format that `accept`s, also inside of other batches' content.
    /// Returns where it begins and where it ends.
    pub(super) fn search_inside(
        &mut self,
        mut position: u64,
        limit: u64,
        accept: impl Fn(&Claim) -> bool,
    ) -> io::Result<Option<(u64, u64)>> {
        let identity = self.identity;
        loop {
            position = self.next_magic(position.next_multiple_of(ALIGN), limit)?;
            if position + (batch::HEADER_BYTES as u64) > limit {
                return Ok(None);
            }
            // Most are not worth a checksum.
            let claim = batch::claim(self.head(position, limit)?);
            if claim.is_some_and(|claim| claim.identity == identity && accept(&claim)) {
                match self.look(position, limit)? {
                    Look::Batch(found) => {
                        return Ok(Some((position, position + found.bytes as u64)));
                    }
                    Look::Other(claim) => return Ok(Some((position, position + claim.bytes))),
                    Look::Nothing => {}
                }
            }
            position += ALIGN;
        }
    }

    /// The first place from `position` on that begins like a batch, `limit` if there is none. Most
    /// of what is searched is empty, or inside of batches: not worth a full look at each place.
    fn next_magic(&mut self, mut position: u64, limit: u64) -> io::Result<u64> {
        const PLACE: usize = ALIGN as usize;
        while position + (batch::HEADER_BYTES as u64) <= limit {
            self.fill(position, batch::HEADER_BYTES, limit)?;
            let mut places = self.at(position).chunks_exact(PLACE);
            let skipped = places.len();
            if let Some(found) = places.position(|place| place.starts_with(&batch::MAGIC)) {
                return Ok(position + (found * PLACE) as u64);
            }
            if skipped == 0 {
                // The file is shorter than it was.
                return Ok(limit);
            }
            position += (skipped * PLACE) as u64;
        }
        Ok(limit)
    }

    /// The content of the batch that the last [`BatchReader::look`] has found, unpacked. `None` if
    /// it can't be unpacked, in spite of its good checksum: as bad as a bad one.
    pub(super) fn content(&mut self, found: &Found) -> Option<&[u8]> {
        let from = self.index(found.position)? + batch::HEADER_BYTES;
        let stored = self.buffer.get(from..from + found.content_bytes)?;
        match found.header.content {
            Content::Plain => Some(stored),
            Content::Packed { by, plain_bytes } => {
                // No batch was larger than its segment: what says so is not believed, and memory
                // stays bounded.
                let fits = self
                    .file
                    .size()
                    .is_ok_and(|size| size >= plain_bytes.into());
                fits.then_some(())?;
                self.unpacker.unpack(by, stored, plain_bytes)
            }
        }
    }

    /// Forgets what was read ahead: the file may have been written since.
    pub(super) fn forget(&mut self) {
        self.buffer.clear();
    }

    fn at(&self, position: u64) -> &[u8] {
        let from = self.index(position);
        from.and_then(|from| self.buffer.get(from..)).unwrap_or(&[])
    }

    fn index(&self, position: u64) -> Option<usize> {
        let from = position.checked_sub(self.buffer_position)?;
        usize::try_from(from).ok()
    }

    /// Makes `want` bytes at `position` present in the buffer, as far as the file has them.
    fn fill(&mut self, position: u64, want: usize, limit: u64) -> io::Result<()> {
        if self.at(position).len() >= want {
            return Ok(());
        }
        let room = usize::try_from(limit.saturating_sub(position)).unwrap_or(usize::MAX);
        let bytes = want.max(READ_AHEAD_BYTES).min(room);
        self.buffer.resize(bytes, 0);
        let read = fs::read_up_to(&*self.file, &mut self.buffer, position);
        self.buffer_position = position;
        self.buffer.truncate(*read.as_ref().unwrap_or(&0));
        read.map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_canonical_names_are_segments() {
        assert_eq!(base_of("00000000000000000042.seg"), Some(Offset::new(42)));
        for name in [
            "42.seg",
            "slots",
            "00000000000000000042.seg.bak",
            "+0000000000000000042.seg",
        ] {
            assert_eq!(base_of(name), None, "{name}");
        }
        assert_eq!(base_of("99999999999999999999.seg"), None, "beyond 64 bits");
        let base = Offset::new(u64::MAX);
        let name = path(Path::new("d"), base)
            .file_name()
            .expect("name")
            .to_owned();
        assert_eq!(base_of(name.to_str().expect("ascii")), Some(base));
    }
}
