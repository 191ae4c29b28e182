//! A look at the head of every segment, before anything is changed: is it of this log, in a format
//! that is understood, and the segment that its name says?
//!
//! One page is read of each, so that opening costs hardly more with a large backlog; only a head
//! that claims something odd is checked by its checksum.

use std::path::{Path, PathBuf};

use super::super::OpenError;
use super::super::batch::{self, Claim, FORMAT_VERSION};
use super::super::fs::{File, Fs};
use super::super::outcome::Outcome;
use super::super::segment::{self, BatchReader, Look};
use super::super::shared::{Segment, StorageError};
use super::super::slots::Slot;
use super::other_format;
use crate::record::Offset;

/// What a segment begins with.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) segment: Segment,
    pub(super) path: PathBuf,
    /// What it says of itself, unchecked.
    pub(super) claim: Option<Claim>,
    /// All zero, or no bytes: never written.
    pub(super) blank: bool,
}

/// Reads the heads of all segments.
pub(super) fn read(
    fs: &dyn Fs,
    dir: &Path,
    segments: &[Segment],
) -> Result<Vec<Head>, StorageError> {
    segments
        .iter()
        .map(|&segment| {
            let path = segment::path(dir, segment.base);
            let mut reader = BatchReader::new(open(fs, &path)?, 0);
            let head = reader
                .head(0, segment.bytes.min(batch::HEADER_BYTES as u64))
                .map_err(StorageError::new("read", &path))?;
            Ok(Head {
                segment,
                claim: batch::claim(head),
                blank: head.iter().all(|byte| *byte == 0),
                path,
            })
        })
        .collect()
}

fn open(fs: &dyn Fs, path: &Path) -> Result<Box<dyn File>, StorageError> {
    fs.open(path, false)
        .map_err(StorageError::new("open", path))
}

/// Whose log this is: what the slots say, unless every segment disagrees; without slots what the
/// newest whole head says. The flag tells that the slots are of another log.
pub(super) fn identity(
    fs: &dyn Fs,
    heads: &[Head],
    slot: Option<&Slot>,
) -> Result<(Option<u64>, bool), OpenError> {
    if let Some(slot) = slot {
        let claims =
            |head: &Head| matches!(head.claim, Some(claim) if claim.identity == slot.identity);
        if heads.is_empty() || heads.iter().any(claims) {
            return Ok((Some(slot.identity), false));
        }
    }
    for head in heads.iter().rev() {
        if let Some(claim) = head.claim
            && is_whole(fs, head, claim.identity)?
        {
            return Ok((Some(claim.identity), slot.is_some()));
        }
    }
    Ok((slot.map(|slot| slot.identity), false))
}

/// Finds the segments that are to be set aside, and why.
///
/// # Errors
/// A format that isn't understood, or an I/O error. Nothing was changed.
pub(super) fn intruders(
    fs: &dyn Fs,
    heads: &[Head],
    identity: u64,
) -> Result<Vec<(usize, Outcome)>, OpenError> {
    let mut intruders = Vec::new();
    for (index, head) in heads.iter().enumerate() {
        let Some(claim) = head.claim else { continue };
        if claim.identity != identity {
            if is_whole(fs, head, claim.identity)? {
                intruders.push((index, Outcome::ForeignSegment));
            }
        } else if claim.version != FORMAT_VERSION {
            // Of an earlier life, it counts as little as one in our format.
            if claim.base == head.segment.base || is_copy(heads, head.segment.base, claim.base) {
                refuse_other_format(fs, head, identity)?;
            }
        } else if claim.base != head.segment.base
            && is_copy(heads, head.segment.base, claim.base)
            && is_whole(fs, head, identity)?
        {
            intruders.push((index, Outcome::DuplicateSegment));
        }
    }
    Ok(intruders)
}

/// A head with another base than its file's name: of the segment's earlier life, then that lies
/// below all that is there, or of another segment.
fn is_copy(heads: &[Head], name: Offset, base: Offset) -> bool {
    base > name || heads.iter().any(|head| head.segment.base == base)
}

fn refuse_other_format(fs: &dyn Fs, head: &Head, identity: u64) -> Result<(), OpenError> {
    let mut reader = BatchReader::new(open(fs, &head.path)?, identity);
    let look = reader.look(0, head.segment.bytes);
    match look.map_err(StorageError::new("read", &head.path))? {
        Look::Other(claim) => Err(other_format(&head.path, claim.version)),
        // Damaged: the version is not to be believed.
        Look::Batch(_) | Look::Nothing => Ok(()),
    }
}

/// Is the batch at the head whole, in whatever format?
fn is_whole(fs: &dyn Fs, head: &Head, identity: u64) -> Result<bool, OpenError> {
    let mut reader = BatchReader::new(open(fs, &head.path)?, identity);
    let look = reader.look(0, head.segment.bytes);
    Ok(match look.map_err(StorageError::new("read", &head.path))? {
        Look::Batch(_) | Look::Other(_) => true,
        Look::Nothing => false,
    })
}
