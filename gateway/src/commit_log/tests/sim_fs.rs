//! A disk in memory that keeps only what it was made to keep.
//!
//! # Fault model
//! - A write goes to a cache. A power cut keeps, of each unsynced 512-byte sector, either the old
//!   or the new content, each by itself.
//! - `sync_data` makes a file's content durable, `sync_dir` the names of a directory. Of the name
//!   changes since then, a power cut keeps any number of the first ones.
//! - Any call can fail, once or from then on; a failed sync leaves the cache clean and the disk as
//!   it was, as Linux does.
//! - The disk can be full: calls that need new space fail with `StorageFull`, writes into space that
//!   a file has already do not.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use super::super::fs::{File, Fs, LockGuard};

const SECTOR: usize = 512;

#[derive(Clone, Debug, Default)]
struct Inode {
    cached: Vec<u8>,
    durable: Vec<u8>,
    dirty: BTreeSet<usize>,
    /// Of the dirty sectors, those that a failed sync left clean: no later sync writes them.
    forgotten: BTreeSet<usize>,
}

#[derive(Clone, Debug)]
enum Change {
    Link(PathBuf, usize),
    Rename(PathBuf, PathBuf),
    Unlink(PathBuf),
}

#[derive(Debug, Default)]
struct Disk {
    inodes: Vec<Inode>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    changes: Vec<Change>,
    calls: u64,
    syncs: u64,
    /// The call with this number and all later ones fail: the power is off.
    power_off_at: Option<u64>,
    /// The call with this number fails, once.
    fail_at: Option<(u64, io::ErrorKind)>,
    /// The next sync of a file fails, once.
    fail_sync: bool,
    full: bool,
    locked: bool,
}

/// A handle on the disk; clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct SimFs(Arc<Mutex<Disk>>);

/// Random bits from a seed: splitmix64.
#[derive(Debug)]
pub(super) struct Bits(pub(super) u64);

impl Bits {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl SimFs {
    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0
            .lock()
            .expect("no test panics while it holds the disk")
    }

    pub(super) fn calls(&self) -> u64 {
        self.disk().calls
    }

    pub(super) fn syncs(&self) -> u64 {
        self.disk().syncs
    }

    /// The power goes `calls` calls from now.
    pub(super) fn power_off_in(&self, calls: u64) {
        let mut disk = self.disk();
        disk.power_off_at = Some(disk.calls + calls);
    }

    /// The call `calls` calls from now fails, and no other.
    pub(super) fn fail_in(&self, calls: u64, kind: io::ErrorKind) {
        let mut disk = self.disk();
        disk.fail_at = Some((disk.calls + calls, kind));
    }

    pub(super) fn fail_next_sync(&self) {
        self.disk().fail_sync = true;
    }

    pub(super) fn set_full(&self, full: bool) {
        self.disk().full = full;
    }

    /// The power is cut and comes back: what was not synced is kept or lost as `seed` says.
    pub(super) fn power_cycle(&self, seed: u64) {
        let mut bits = Bits(seed);
        let disk = &mut *self.disk();
        let kept = match disk.changes.len() as u64 {
            0 => 0,
            changes => bits.next() % (changes + 1),
        };
        let mut names = std::mem::take(&mut disk.durable_names);
        for change in disk.changes.drain(..).take(kept as usize) {
            apply(&mut names, change);
        }
        // 0: all unsynced sectors are lost, 1: all are kept, 2 and 3: each by itself.
        let mode = bits.next() % 4;
        for inode in &mut disk.inodes {
            for &sector in &inode.dirty {
                let keep = match mode {
                    0 => false,
                    1 => true,
                    _ => bits.next() & 1 == 1,
                };
                if keep {
                    copy_sector(&inode.cached, &mut inode.durable, sector);
                }
            }
            inode.dirty.clear();
            inode.forgotten.clear();
            inode.cached = inode.durable.clone();
        }
        disk.durable_names = names.clone();
        disk.names = names;
        disk.power_off_at = None;
        disk.fail_at = None;
        disk.locked = false;
    }

    /// The process is killed and started again: the cache stays.
    pub(super) fn process_restart(&self) {
        let mut disk = self.disk();
        disk.power_off_at = None;
        disk.fail_at = None;
        disk.locked = false;
    }

    /// Changes a file behind the log's back, in the cache and on the disk.
    pub(super) fn tamper(&self, path: &Path, change: impl Fn(&mut Vec<u8>)) {
        let disk = &mut *self.disk();
        let inode = &mut disk.inodes[disk.names[path]];
        change(&mut inode.cached);
        change(&mut inode.durable);
    }

    /// Puts a file there, durably.
    pub(super) fn put(&self, path: &Path, content: Vec<u8>) {
        let disk = &mut *self.disk();
        let inode = Inode {
            durable: content.clone(),
            cached: content,
            ..Inode::default()
        };
        disk.inodes.push(inode);
        let index = disk.inodes.len() - 1;
        disk.names.insert(path.to_owned(), index);
        disk.durable_names.insert(path.to_owned(), index);
    }

    pub(super) fn delete(&self, path: &Path) {
        let disk = &mut *self.disk();
        disk.names.remove(path);
        disk.durable_names.remove(path);
    }

    pub(super) fn names(&self) -> Vec<String> {
        let disk = self.disk();
        disk.names
            .keys()
            .map(|path| {
                path.file_name()
                    .expect("name")
                    .to_string_lossy()
                    .into_owned()
            })
            .collect()
    }
}

fn apply(names: &mut BTreeMap<PathBuf, usize>, change: Change) {
    match change {
        Change::Link(path, inode) => {
            names.insert(path, inode);
        }
        Change::Rename(from, to) => {
            if let Some(inode) = names.remove(&from) {
                names.insert(to, inode);
            }
        }
        Change::Unlink(path) => {
            names.remove(&path);
        }
    }
}

fn copy_sector(from: &[u8], to: &mut Vec<u8>, sector: usize) {
    let begin = sector * SECTOR;
    let end = (begin + SECTOR).min(from.len());
    if to.len() < end {
        to.resize(end, 0);
    }
    to[begin..end].copy_from_slice(&from[begin..end]);
}

impl Disk {
    fn call(&mut self) -> io::Result<()> {
        let number = self.calls;
        self.calls += 1;
        if self.power_off_at.is_some_and(|at| number >= at) {
            return Err(io::Error::other("the power is off"));
        }
        match self.fail_at {
            Some((at, kind)) if at == number => Err(kind.into()),
            Some(_) | None => Ok(()),
        }
    }

    fn space(&self) -> io::Result<()> {
        if self.full {
            Err(io::ErrorKind::StorageFull.into())
        } else {
            Ok(())
        }
    }
}

impl Fs for SimFs {
    fn create_dir_all(&self, _dir: &Path) -> io::Result<()> {
        self.disk().call()
    }

    fn list(&self, _dir: &Path) -> io::Result<Vec<String>> {
        self.disk().call()?;
        Ok(self.names())
    }

    fn open(&self, path: &Path, _write: bool) -> io::Result<Box<dyn File>> {
        let mut disk = self.disk();
        disk.call()?;
        let inode = *disk.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(SimFile {
            fs: self.clone(),
            inode,
        }))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let mut disk = self.disk();
        disk.call()?;
        disk.space()?;
        if disk.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        disk.inodes.push(Inode::default());
        let inode = disk.inodes.len() - 1;
        disk.names.insert(path.to_owned(), inode);
        disk.changes.push(Change::Link(path.to_owned(), inode));
        Ok(Box::new(SimFile {
            fs: self.clone(),
            inode,
        }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.call()?;
        let inode = disk.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        disk.names.insert(to.to_owned(), inode);
        disk.changes
            .push(Change::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.call()?;
        disk.names.remove(path).ok_or(io::ErrorKind::NotFound)?;
        disk.changes.push(Change::Unlink(path.to_owned()));
        Ok(())
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.call()?;
        disk.durable_names = disk.names.clone();
        disk.changes.clear();
        Ok(())
    }

    fn lock(&self, _path: &Path, _owner: &str) -> io::Result<Result<Box<dyn LockGuard>, String>> {
        let mut disk = self.disk();
        disk.call()?;
        if disk.locked {
            return Ok(Err("another".to_owned()));
        }
        disk.locked = true;
        Ok(Ok(Box::new(SimLock(self.clone()))))
    }
}

#[derive(Debug)]
struct SimLock(SimFs);

impl LockGuard for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.0.disk().locked = false;
    }
}

#[derive(Debug)]
struct SimFile {
    fs: SimFs,
    inode: usize,
}

impl File for SimFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let mut disk = self.fs.disk();
        disk.call()?;
        let content = &disk.inodes[self.inode].cached;
        let from = (position as usize).min(content.len());
        let read = buffer.len().min(content.len() - from);
        buffer[..read].copy_from_slice(&content[from..from + read]);
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<usize> {
        let mut disk = self.fs.disk();
        disk.call()?;
        // Now and then only a part is taken, as the interface allows.
        let bytes = if disk.calls.is_multiple_of(5) {
            &bytes[..bytes.len().div_ceil(2)]
        } else {
            bytes
        };
        let (from, to) = (position as usize, position as usize + bytes.len());
        if to > disk.inodes[self.inode].cached.len() {
            disk.space()?;
            disk.inodes[self.inode].cached.resize(to, 0);
        }
        let inode = &mut disk.inodes[self.inode];
        inode.cached[from..to].copy_from_slice(bytes);
        for sector in from / SECTOR..to.div_ceil(SECTOR) {
            inode.dirty.insert(sector);
            inode.forgotten.remove(&sector);
        }
        Ok(bytes.len())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut disk = self.fs.disk();
        disk.syncs += 1;
        let failed = match std::mem::take(&mut disk.fail_sync) {
            true => Err(io::Error::other("the disk gave up")),
            false => disk.call(),
        };
        let inode = &mut disk.inodes[self.inode];
        if failed.is_err() {
            inode.forgotten = inode.dirty.clone();
            return failed;
        }
        let written: Vec<usize> = inode.dirty.difference(&inode.forgotten).copied().collect();
        for sector in written {
            copy_sector(&inode.cached, &mut inode.durable, sector);
            inode.dirty.remove(&sector);
        }
        let size = inode.cached.len();
        inode.durable.resize(size, 0);
        Ok(())
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        let mut disk = self.fs.disk();
        disk.call()?;
        let bytes = bytes as usize;
        if disk.inodes[self.inode].cached.len() < bytes {
            disk.space()?;
            disk.inodes[self.inode].cached.resize(bytes, 0);
        }
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        let mut disk = self.fs.disk();
        disk.call()?;
        Ok(disk.inodes[self.inode].cached.len() as u64)
    }
}
