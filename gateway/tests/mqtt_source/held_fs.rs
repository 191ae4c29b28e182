//! The machine's file system, with a gate in front of every sync.

use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use edge_gateway::commit_log::fs::{File, Fs, LockGuard, RealFs};

/// Whether syncs go through. Open at first.
#[derive(Debug)]
pub(crate) struct Gate {
    is_open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            is_open: Mutex::new(true),
            opened: Condvar::new(),
        })
    }

    pub(crate) fn close(&self) {
        *self.is_open.lock().unwrap_or_else(PoisonError::into_inner) = false;
    }

    pub(crate) fn open(&self) {
        *self.is_open.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.opened.notify_all();
    }

    fn pass(&self) {
        let closed = self.is_open.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = self.opened.wait_while(closed, |is_open| !*is_open);
        drop(passed.unwrap_or_else(PoisonError::into_inner));
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct HeldFs(pub(crate) Arc<Gate>);

impl HeldFs {
    fn held(&self, file: Box<dyn File>) -> Box<dyn File> {
        Box::new(HeldFile {
            file,
            gate: Arc::clone(&self.0),
        })
    }
}

impl Fs for HeldFs {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        RealFs.create_dir_all(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        RealFs.list(dir)
    }

    fn open(&self, path: &Path, write: bool) -> io::Result<Box<dyn File>> {
        RealFs.open(path, write).map(|file| self.held(file))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        RealFs.create(path).map(|file| self.held(file))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealFs.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        RealFs.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.pass();
        RealFs.sync_dir(dir)
    }

    fn lock(&self, path: &Path, owner: &str) -> io::Result<Result<Box<dyn LockGuard>, String>> {
        RealFs.lock(path, owner)
    }
}

#[derive(Debug)]
struct HeldFile {
    file: Box<dyn File>,
    gate: Arc<Gate>,
}

impl File for HeldFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        self.file.read_at(buffer, position)
    }

    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<usize> {
        self.file.write_at(bytes, position)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.gate.pass();
        self.file.sync_data()
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.file.allocate(bytes)
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }
}
