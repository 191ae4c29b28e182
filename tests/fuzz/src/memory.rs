//! A file system in memory that never fails: whatever goes wrong above it is the log's doing.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use edge_gateway::commit_log::fs::{File, Fs, LockGuard};

type Content = Arc<Mutex<Vec<u8>>>;

/// The file system; clones share it.
#[derive(Clone, Debug, Default)]
pub struct MemoryFs(Arc<Mutex<BTreeMap<PathBuf, Content>>>);

impl MemoryFs {
    /// Puts a file there.
    pub fn put(&self, path: &Path, content: Vec<u8>) {
        let content = Arc::new(Mutex::new(content));
        locked(&self.0).insert(path.to_owned(), content);
    }

    /// All files: path and content.
    #[must_use]
    pub fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let files = locked(&self.0);
        files
            .iter()
            .map(|(path, content)| (path.clone(), locked(content).clone()))
            .collect()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Fs for MemoryFs {
    fn create_dir_all(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let files = locked(&self.0);
        let names = files.keys().filter_map(|path| path.strip_prefix(dir).ok());
        Ok(names
            .map(|name| name.to_string_lossy().into_owned())
            .collect())
    }

    fn open(&self, path: &Path, _write: bool) -> io::Result<Box<dyn File>> {
        let files = locked(&self.0);
        let content = files.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(MemoryFile(Arc::clone(content))))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        if locked(&self.0).contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.put(path, Vec::new());
        self.open(path, true)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut files = locked(&self.0);
        let content = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), content);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let removed = locked(&self.0).remove(path);
        removed
            .map(|_| ())
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self, _path: &Path, _owner: &str) -> io::Result<Result<Box<dyn LockGuard>, String>> {
        Ok(Ok(Box::new(NoLock)))
    }
}

#[derive(Debug)]
struct NoLock;

impl LockGuard for NoLock {}

#[derive(Debug)]
struct MemoryFile(Content);

/// A position as an index; beyond memory it is beyond every file.
fn index(position: u64) -> usize {
    usize::try_from(position).unwrap_or(usize::MAX)
}

impl File for MemoryFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let content = locked(&self.0);
        let rest = content.get(index(position)..).unwrap_or(&[]);
        let read = buffer.len().min(rest.len());
        buffer[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<usize> {
        let mut content = locked(&self.0);
        let from = index(position);
        let to = from + bytes.len();
        if content.len() < to {
            content.resize(to, 0);
        }
        content[from..to].copy_from_slice(bytes);
        Ok(bytes.len())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        let mut content = locked(&self.0);
        let len = content.len().max(index(bytes));
        content.resize(len, 0);
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(locked(&self.0).len() as u64)
    }
}
