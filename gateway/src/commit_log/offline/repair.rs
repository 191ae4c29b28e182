//! Putting damaged segments aside, so that what is whole in them is delivered and the rest is kept
//! for whoever wants to try.
//!
//! A damaged segment keeps its bytes under another name, `<base>.damaged`. In its place comes a new
//! file with copies of its whole batches. Where its first records are lost, the copy begins with an
//! empty batch of the first offset; where its last ones are, it ends in an empty batch of the offset
//! that comes next: so the loss stays known and nothing looks damaged any more. Nothing is ever
//! deleted.
//!
//! # Crash
//! The copy is synced before anything is renamed, and the segment gets its second name before the
//! copy takes the first one; so a segment of that name is there at every instant. (On a file system
//! without hard links there is an instant in which the segment is there as `.damaged` only, and its
//! copy as `.salvaged`.)

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::scan::file_name;
use super::{BatchAt, Event, Finding, LogDir, OfflineError, What};
use crate::clock::Moment;
use crate::commit_log::batch::{self, HEADER_BYTES, Header, Kind};
use crate::commit_log::compression::Content;
use crate::commit_log::fs::{self, File};
use crate::commit_log::shared::StorageError;
use crate::commit_log::{LOCK_NAME, OpenError};
use crate::record::Offset;

/// Batches are copied in pieces of this size.
const PIECE_BYTES: usize = 256 * 1024;

/// What happens to one damaged segment.
#[derive(Debug)]
pub struct Mend {
    /// Name of its file.
    pub file: String,
    /// Its name afterwards.
    pub aside: String,
    /// Name of the file with copies of its whole batches, if there is anything to put in its place.
    pub replaced_by: Option<String>,
    /// Records in whole batches.
    pub records_kept: u64,
    /// What is wrong with it.
    pub findings: Vec<Finding>,
    /// The empty batch at the begin.
    head: Option<Header>,
    /// Runs of whole batches: position and bytes.
    kept: Vec<(u64, u64)>,
    /// The empty batch at the end.
    tail: Option<Header>,
}

/// One segment as the scan goes over it.
#[derive(Debug, Default)]
struct Gathered {
    damage: Vec<Finding>,
    kept: Vec<(u64, u64)>,
    first: Option<Header>,
    records: u64,
    /// Where its lost end leads up to, and the last whole batch before.
    lost_end: Option<(Offset, Option<Header>)>,
}

impl Gathered {
    fn keep(&mut self, batch: &BatchAt<'_>) {
        match self.kept.last_mut() {
            Some((position, bytes)) if *position + *bytes == batch.position => {
                *bytes += batch.bytes;
            }
            Some(_) | None => self.kept.push((batch.position, batch.bytes)),
        }
        self.first.get_or_insert(*batch.header());
        self.records += batch.count();
        self.lost_end = None;
    }

    fn note(&mut self, finding: Finding, before: Option<Header>) {
        if finding.what != What::Overlap {
            let end = finding.offsets.map(|(_, last)| last.plus(1));
            self.lost_end = end.map(|end| (end, before));
        }
        self.damage.push(finding);
    }
}

/// Reads the whole log and finds out what is to be done, oldest segment first: nothing if nothing
/// is damaged. Changes nothing. `passed` is told how many bytes of the segments are read.
///
/// # Errors
/// As [`super::Scan::next`].
pub fn plan(log: &LogDir<'_>, passed: &mut dyn FnMut(u64)) -> Result<Vec<Mend>, OfflineError> {
    let mut segments: BTreeMap<Offset, Gathered> = BTreeMap::new();
    let mut before = None;
    let mut scan = log.scan();
    while let Some(event) = scan.next()? {
        match event {
            Event::Batch(batch) => {
                before = Some(*batch.header());
                segments.entry(batch.segment).or_default().keep(&batch);
            }
            Event::Finding(finding) if finding.what.is_damage() => {
                let gathered = segments.entry(finding.segment).or_default();
                gathered.note(finding, before);
            }
            Event::Finding(_) => {}
        }
        passed(scan.passed_bytes());
    }
    let mut taken = names(log).collect();
    let damaged = segments
        .into_iter()
        .filter(|(_, gathered)| !gathered.damage.is_empty());
    Ok(damaged
        .map(|(base, gathered)| mend(log, base, gathered, &mut taken))
        .collect())
}

/// Does what is to be done, unless another process has the log: then nothing is changed. Returns
/// what was done, all of it durable.
///
/// # Errors
/// [`OpenError::InUse`]; [`OpenError::Storage`], whereupon the segment at hand has its name still.
pub fn repair(log: &LogDir<'_>, owner: &str) -> Result<Vec<Mend>, OfflineError> {
    let path = log.dir.join(LOCK_NAME);
    let locked = log.fs.lock(&path, owner);
    let locked = locked.map_err(StorageError::new("lock", &path))?;
    let _lock = locked.map_err(|owner| OpenError::InUse {
        dir: log.dir.clone(),
        owner,
    })?;
    // Planned again, since a gateway may have run until the lock was taken.
    let log = LogDir::read(log.fs, &log.dir)?;
    let mends = plan(&log, &mut |_| {})?;
    for mend in &mends {
        mend.apply(&log)?;
    }
    Ok(mends)
}

fn names<'l>(log: &'l LogDir<'_>) -> impl Iterator<Item = String> + use<'l> {
    let others = log.quarantined.iter().chain(&log.foreign);
    others.map(|file| file.name.clone())
}

/// An empty batch at `base`, as of the time of another batch. None without an identity: then no
/// batch would be ours.
fn empty_batch(log: &LogDir<'_>, base: Offset, like: Option<Header>) -> Option<Header> {
    Some(Header {
        kind: Kind::Records,
        identity: log.identity?,
        open_counter: like.map_or(1, |like| like.open_counter),
        count: 0,
        base,
        synced: base,
        committed: like.map_or(Offset::ZERO, |like| like.committed.min(base)),
        written: like.map_or(Moment::default(), |like| like.written),
        content: Content::Plain,
    })
}

fn mend(
    log: &LogDir<'_>,
    segment: Offset,
    gathered: Gathered,
    taken: &mut BTreeSet<String>,
) -> Mend {
    let file = file_name(segment);
    // What is left of an overlapping segment begins behind the one before it.
    let overlap = gathered
        .damage
        .iter()
        .find(|finding| finding.what == What::Overlap);
    let begin = overlap
        .and_then(|finding| finding.offsets)
        .map_or(segment, |(_, last)| last.plus(1));
    let tail = gathered
        .lost_end
        .and_then(|(end, before)| empty_batch(log, end, before));
    let is_free = begin == segment || log.segments.iter().all(|other| other.base != begin);
    let has_content = is_free && (!gathered.kept.is_empty() || tail.is_some());
    let first = gathered.first.or(tail);
    let head = first
        .filter(|first| first.base != begin)
        .and_then(|first| empty_batch(log, begin, Some(first)));
    Mend {
        aside: free_name(stem(&file), "damaged", taken),
        replaced_by: has_content.then(|| file_name(begin)),
        records_kept: gathered.records,
        findings: gathered.damage,
        head,
        kept: gathered.kept,
        tail,
        file,
    }
}

fn stem(file: &str) -> &str {
    file.split('.').next().unwrap_or(file)
}

/// `<stem>.<extension>`, or with a number behind it the first that nothing has.
fn free_name(stem: &str, extension: &str, taken: &mut BTreeSet<String>) -> String {
    let mut name = format!("{stem}.{extension}");
    let mut number = 1;
    while !taken.insert(name.clone()) {
        name = format!("{stem}.{extension}-{number}");
        number += 1;
    }
    name
}

impl Mend {
    fn apply(&self, log: &LogDir<'_>) -> Result<(), StorageError> {
        let (fs, dir) = (log.fs, &log.dir);
        let original = dir.join(&self.file);
        let aside = dir.join(&self.aside);
        let copy = match &self.replaced_by {
            Some(_) => Some(self.copy(log)?),
            None => None,
        };
        let linked = match fs.link(&original, &aside) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::Unsupported => false,
            Err(error) => return Err(log.failed("set aside", &self.file)(error)),
        };
        if !linked {
            fs.rename(&original, &aside)
                .map_err(log.failed("set aside", &self.file))?;
        }
        let sync_dir = || {
            fs.sync_dir(dir)
                .map_err(StorageError::new("sync the directory", dir))
        };
        sync_dir()?;
        if let (Some(copy), Some(place)) = (&copy, &self.replaced_by) {
            fs.rename(&dir.join(copy), &dir.join(place))
                .map_err(log.failed("put in place", copy))?;
        }
        if linked && self.replaced_by.as_ref() != Some(&self.file) {
            // Its other name stays.
            fs.remove(&original)
                .map_err(log.failed("set aside", &self.file))?;
        }
        sync_dir()
    }

    /// Writes the whole batches to a new file, synced on return, and returns its name.
    fn copy(&self, log: &LogDir<'_>) -> Result<String, StorageError> {
        let (fs, dir) = (log.fs, &log.dir);
        let name = free_name(stem(&self.file), "salvaged", &mut names(log).collect());
        let from = fs
            .open(&dir.join(&self.file), false)
            .map_err(log.failed("open", &self.file))?;
        let to = fs
            .create(&dir.join(&name))
            .map_err(log.failed("create", &name))?;
        let written = self.write(&*from, &*to);
        if let Err(error) = written {
            // A copy, and half of one. If it can't be removed, the first error says more.
            let _ = fs.remove(&dir.join(&name));
            return Err(log.failed("copy the whole batches to", &name)(error));
        }
        Ok(name)
    }

    fn write(&self, from: &dyn File, to: &dyn File) -> io::Result<()> {
        let mut end = 0;
        if let Some(head) = &self.head {
            end = write_empty(to, head, end)?;
        }
        let mut piece = vec![0; PIECE_BYTES];
        for &(position, bytes) in &self.kept {
            let mut done = 0;
            while done < bytes {
                let want = usize::try_from(bytes - done)
                    .unwrap_or(PIECE_BYTES)
                    .min(PIECE_BYTES);
                let mut read = fs::read_up_to(from, &mut piece[..want], position + done)?;
                if read == 0 {
                    if bytes - done >= batch::ALIGN {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    // The file ends within the padding of its last batch, which is whole.
                    piece[..want].fill(0);
                    read = want;
                }
                fs::write_all_at(to, &piece[..read], end)?;
                end += read as u64;
                done += read as u64;
            }
        }
        if let Some(tail) = &self.tail {
            write_empty(to, tail, end)?;
        }
        to.sync_data()
    }
}

/// Returns where the next batch goes.
fn write_empty(to: &dyn File, header: &Header, position: u64) -> io::Result<u64> {
    let mut empty = vec![0; HEADER_BYTES];
    batch::seal(header, &mut empty);
    fs::write_all_at(to, &empty, position)?;
    Ok(position + empty.len() as u64)
}
