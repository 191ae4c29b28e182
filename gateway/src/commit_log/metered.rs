//! A file system that counts what is written through it: flash wears by it.
//!
//! Whole pages are counted, since that is what a synced write costs the device, however few bytes of
//! a page have changed; a page that one write leaves half full and the next one fills is counted once
//! if no sync came between. What the file system adds for itself, its journal, is not seen from here.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::fs::{File, Fs, LockGuard};

/// What a device writes at least.
const PAGE_BYTES: u64 = 4096;

/// See the module.
#[derive(Debug)]
pub(super) struct Metered {
    fs: Arc<dyn Fs>,
    written_bytes: Arc<AtomicU64>,
}

impl Metered {
    pub(super) fn new(fs: Arc<dyn Fs>, written_bytes: Arc<AtomicU64>) -> Self {
        Self { fs, written_bytes }
    }

    fn file(&self, file: Box<dyn File>) -> Box<dyn File> {
        Box::new(MeteredFile {
            file,
            written_bytes: Arc::clone(&self.written_bytes),
            unsynced_end: AtomicU64::new(0),
        })
    }
}

impl Fs for Metered {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.fs.create_dir_all(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.fs.list(dir)
    }

    fn open(&self, path: &Path, write: bool) -> io::Result<Box<dyn File>> {
        self.fs.open(path, write).map(|file| self.file(file))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        self.fs.create(path).map(|file| self.file(file))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.fs.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.fs.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.fs.sync_dir(dir)
    }

    fn lock(&self, path: &Path, owner: &str) -> io::Result<Result<Box<dyn LockGuard>, String>> {
        self.fs.lock(path, owner)
    }
}

#[derive(Debug)]
struct MeteredFile {
    file: Box<dyn File>,
    written_bytes: Arc<AtomicU64>,
    /// Where the last write ended, 0 after a sync.
    unsynced_end: AtomicU64,
}

impl File for MeteredFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        self.file.read_at(buffer, position)
    }

    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<usize> {
        let written = self.file.write_at(bytes, position)?;
        let end = position + written as u64;
        let goes_on = self.unsynced_end.swap(end, Ordering::Relaxed) == position;
        let first = if goes_on {
            position.next_multiple_of(PAGE_BYTES)
        } else {
            position - position % PAGE_BYTES
        };
        let pages_bytes = end.next_multiple_of(PAGE_BYTES).saturating_sub(first);
        self.written_bytes.fetch_add(pages_bytes, Ordering::Relaxed);
        Ok(written)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.unsynced_end.store(0, Ordering::Relaxed);
        self.file.sync_data()
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.file.allocate(bytes)
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn prefetch(&self, bytes: u64) {
        self.file.prefetch(bytes);
    }
}
