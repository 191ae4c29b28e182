//! Damaged segments, kept aside for whoever wants to look into them.
//!
//! A segment with a bad batch is read to its end and, once it is delivered, renamed rather than
//! reused: `{base}.damaged`, with a number where that name is taken, so that none is written over.
//! Renaming needs no free space. Such files count to the log's disk use, and they are the first to
//! go: at most [`FILES_MAX`] are kept, and when the log needs space for records, or the disk is
//! full, the oldest is removed. So they never stand in the way of a record (G8).

use std::io;
use std::path::{Path, PathBuf};

use super::fs::Fs;

/// Ending of a damaged segment's name.
pub(super) const DAMAGED: &str = "damaged";
/// Ending of a segment that belongs to another log: never removed, nor counted.
pub(super) const FOREIGN: &str = "foreign";
/// Most damaged files kept; enough to see a pattern, chosen by eye.
pub(super) const FILES_MAX: usize = 4;

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
}

/// The damaged files of one log, oldest first.
#[derive(Debug, Default)]
pub(super) struct Quarantine {
    files: Vec<Kept>,
}

/// Is this the name of a file in quarantine?
pub(super) fn is_kept(name: &str) -> bool {
    let segment = name.len() > 20 && name.as_bytes()[..20].iter().all(u8::is_ascii_digit);
    let ending = name.rsplit_once('.').map(|(_, ending)| ending);
    segment && ending == Some(DAMAGED)
}

/// Renames a file within its directory to a name with this ending that no other file has. The
/// caller syncs the directory.
pub(super) fn set_aside(fs: &dyn Fs, path: &Path, ending: &str) -> io::Result<PathBuf> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let taken = fs.list(dir)?;
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let mut name = format!("{stem}.{ending}");
    let mut number = 1_u64;
    while taken.contains(&name) {
        number += 1;
        name = format!("{stem}.{number}.{ending}");
    }
    let aside = dir.join(name);
    fs.rename(path, &aside)?;
    Ok(aside)
}

impl Quarantine {
    pub(super) fn new(mut files: Vec<Kept>) -> Self {
        // Offsets grow with time.
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Self { files }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Sets a damaged file aside; it is then the newest one here.
    pub(super) fn keep(&mut self, fs: &dyn Fs, path: &Path, bytes: u64) -> io::Result<()> {
        let path = set_aside(fs, path, DAMAGED)?;
        self.files.push(Kept { path, bytes });
        Ok(())
    }

    /// Removes the oldest file if more are kept than may be. Returns its size.
    pub(super) fn trim(&mut self, fs: &dyn Fs) -> io::Result<Option<u64>> {
        if self.files.len() <= FILES_MAX {
            return Ok(None);
        }
        self.give_up_oldest(fs)
    }

    /// Removes the oldest file, to make room. Returns its size, `None` if there is none.
    pub(super) fn give_up_oldest(&mut self, fs: &dyn Fs) -> io::Result<Option<u64>> {
        let Some(oldest) = self.files.first() else {
            return Ok(None);
        };
        match fs.remove(&oldest.path) {
            // Somebody took it to look into it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            removed => removed?,
        }
        Ok(Some(self.files.remove(0).bytes))
    }
}
