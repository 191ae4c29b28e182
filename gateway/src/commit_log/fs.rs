//! The file system as the log sees it: the few calls it makes, so that a test can put a file system
//! underneath that forgets, tears and fails. Only this module opens files of the log.
//!
//! All calls block. Errors are passed on as they are; nothing is retried but `EINTR`.

use std::fmt::Debug;
use std::fs;
use std::io::{self, Seek, Write};
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::Advice;

/// A file system.
pub trait Fs: Send + Sync + Debug {
    /// Makes a directory and its parents, durably; none of it is an error if it is there.
    ///
    /// # Errors
    /// As the system says.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;

    /// The names of the files in a directory, in any order. Names that are not UTF-8 are left out:
    /// none of ours.
    ///
    /// # Errors
    /// As the system says.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Opens an existing file for reading and, if `write`, for writing.
    ///
    /// # Errors
    /// As the system says.
    fn open(&self, path: &Path, write: bool) -> io::Result<Box<dyn File>>;

    /// Makes a new file and opens it for reading and writing.
    ///
    /// # Errors
    /// As the system says; `AlreadyExists` if it is there.
    fn create(&self, path: &Path) -> io::Result<Box<dyn File>>;

    /// Renames a file within its directory, atomically. Durable after [`Fs::sync_dir`].
    ///
    /// # Errors
    /// As the system says.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Gives a file a second name, which nothing may have yet. Durable after [`Fs::sync_dir`].
    ///
    /// # Errors
    /// `Unsupported` where a file can have one name only; else as the system says.
    fn link(&self, _from: &Path, _to: &Path) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Removes a file. Durable after [`Fs::sync_dir`].
    ///
    /// # Errors
    /// As the system says.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// As the system says.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Takes the lock file `path` for this process until the guard is dropped, and writes `owner`
    /// into it for the next one to read. The inner error is the owner that has it.
    ///
    /// # Errors
    /// As the system says.
    fn lock(&self, path: &Path, owner: &str) -> io::Result<Result<Box<dyn LockGuard>, String>>;
}

/// A lock that is held while this lives.
pub trait LockGuard: Send + Sync + Debug {}

/// An open file.
pub trait File: Send + Sync + Debug {
    /// Reads at a position; 0 at the end.
    ///
    /// # Errors
    /// As the system says.
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize>;

    /// Writes at a position, perhaps less than all.
    ///
    /// # Errors
    /// As the system says.
    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<usize>;

    /// Makes the content durable, and the metadata that is needed to read it.
    ///
    /// # Errors
    /// As the system says. The unsynced content must then be taken for lost.
    fn sync_data(&self) -> io::Result<()>;

    /// Reserves space for `bytes` from the start and makes the file that long.
    ///
    /// # Errors
    /// As the system says.
    fn allocate(&self, bytes: u64) -> io::Result<()>;

    /// Length in bytes.
    ///
    /// # Errors
    /// As the system says.
    fn size(&self) -> io::Result<u64>;

    /// A hint that the first `bytes` will be read soon. Returns at once.
    fn prefetch(&self, _bytes: u64) {}
}

/// Writes all of `bytes` at `position`.
///
/// # Errors
/// As the system says; what of it was written is unknown.
pub fn write_all_at(file: &dyn File, mut bytes: &[u8], mut position: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write_at(bytes, position) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                bytes = &bytes[written..];
                position += written as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Fills `buffer` from `position` as far as the file reaches; returns how far.
///
/// # Errors
/// As the system says.
pub fn read_up_to(file: &dyn File, buffer: &mut [u8], position: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], position + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Is this a full disk, which ends by itself, rather than a failing one (I3)?
#[must_use]
pub fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// The parent of a relative path of one name is the empty path.
fn name_or_here(dir: &Path) -> &Path {
    if dir.as_os_str().is_empty() {
        Path::new(".")
    } else {
        dir
    }
}

/// The file system of the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealFs;

impl Fs for RealFs {
    /// The names are synced even of what is there: whoever made it may have been killed before it
    /// came to that. A directory is made only once its parent's name is durable, so that looking one
    /// level up from what is there is enough.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let Some(parent) = dir.parent() else {
            return Ok(());
        };
        if dir.is_dir() {
            return match self.sync_dir(name_or_here(parent)) {
                // Not ours to read, so not ours to have been made.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
                synced => synced,
            };
        }
        self.create_dir_all(name_or_here(parent))?;
        match fs::create_dir(dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists || !dir.is_dir() => {
                return Err(error);
            }
            Ok(()) | Err(_) => {}
        }
        self.sync_dir(name_or_here(parent))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    }

    fn open(&self, path: &Path, write: bool) -> io::Result<Box<dyn File>> {
        let file = fs::OpenOptions::new().read(true).write(write).open(path)?;
        Ok(Box::new(RealFile(file)))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)?;
        Ok(Box::new(RealFile(file)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to).map_err(|error| match error.raw_os_error() {
            // What Linux says of a file system without hard links.
            Some(code) if code == rustix::io::Errno::PERM.raw_os_error() => {
                io::ErrorKind::Unsupported.into()
            }
            _ => error,
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        fs::File::open(dir)?.sync_all()
    }

    fn lock(&self, path: &Path, owner: &str) -> io::Result<Result<Box<dyn LockGuard>, String>> {
        let mut file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                return Ok(Err(fs::read_to_string(path)
                    .unwrap_or_default()
                    .trim()
                    .to_owned()));
            }
            Err(fs::TryLockError::Error(error)) => return Err(error),
        }
        // Only for the eyes of whoever finds the log locked: a full disk must not stop the start.
        let written = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(owner.as_bytes()));
        match written {
            Err(error) if !is_full(&error) => Err(error),
            Ok(()) | Err(_) => Ok(Ok(Box::new(RealLock { file }))),
        }
    }
}

#[derive(Debug)]
struct RealFile(fs::File);

impl File for RealFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        self.0.read_at(buffer, position)
    }

    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<usize> {
        self.0.write_at(bytes, position)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        use rustix::io::Errno;
        match rustix::fs::fallocate(&self.0, rustix::fs::FallocateFlags::empty(), 0, bytes) {
            // No preallocation on this file system: a sparse file of that length does, and a full
            // disk then shows at the write instead.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.0.set_len(bytes),
            result => result.map_err(io::Error::from),
        }
    }

    fn size(&self) -> io::Result<u64> {
        self.0.metadata().map(|metadata| metadata.len())
    }

    fn prefetch(&self, bytes: u64) {
        // Where it can't be done, the read takes as long as it takes.
        let _: rustix::io::Result<()> =
            rustix::fs::fadvise(&self.0, 0, NonZeroU64::new(bytes), Advice::WillNeed);
    }
}

/// Dropping it releases the lock.
#[derive(Debug)]
struct RealLock {
    file: fs::File,
}

impl Drop for RealLock {
    /// Closing it would do, but for a child that another thread is starting right now: until it runs
    /// its program, it has the file open as well.
    fn drop(&mut self) {
        // It is closed next.
        let _ = self.file.unlock();
    }
}

impl LockGuard for RealLock {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_made_with_their_parents_and_may_be_there() {
        let root = tempfile::tempdir().expect("temp dir");
        let dir = root.path().join("a/b/c");
        for _ in 0..2 {
            RealFs.create_dir_all(&dir).expect("made");
            assert!(dir.is_dir());
        }
        fs::write(dir.join("file"), "").expect("written");
        let below_a_file = dir.join("file/d");
        assert!(RealFs.create_dir_all(&below_a_file).is_err());
        RealFs.create_dir_all(Path::new("/")).expect("it is there");
        RealFs.create_dir_all(Path::new("src")).expect("it is here");
    }
}
