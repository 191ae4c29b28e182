//! A disk in memory that keeps only what it was made to keep.
//!
//! # Fault model
//! - A write goes to a cache. A power cut keeps, of each unsynced 512-byte sector, either the old
//!   or the new content, each by itself.
//! - `sync_data` makes a file's content and length durable, `sync_dir` the names of a directory. Of
//!   the name changes since then a power cut keeps, as the seed says, the first few (a journal), any
//!   of them (independent blocks), or of each rename the new name, the loss of the old one, both or
//!   neither. A length that was not synced is kept or lost, whatever became of the content.
//! - Any call can fail, once or from then on; a failed sync leaves the cache clean and the disk as
//!   it was, as Linux does. A write that fails may have written its first half.
//! - The disk can be full: calls that need new space fail with `StorageFull`, writes into space that
//!   a file has already do not. It can also be full for whatever may need space on some file system,
//!   writes in place, syncs and renames included. Removing a file needs none.

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
    /// The length is not synced.
    grown: bool,
    /// Of the dirty sectors, those that a failed sync left clean: no later sync writes them.
    forgotten: BTreeSet<usize>,
}

#[derive(Clone, Debug)]
enum Change {
    Link(PathBuf, usize),
    Rename(PathBuf, PathBuf, usize),
    Unlink(PathBuf),
}

#[derive(Clone, Debug, Default)]
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
    /// From the call with this number on nothing finds space, until told otherwise.
    no_space_from: Option<u64>,
    /// The next sync of a file fails, once.
    fail_sync: bool,
    full: bool,
    locked: bool,
}

/// What a call may need of the disk.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Needs {
    /// Free space, on this file system or another.
    Space,
    Nothing,
}

/// A handle on the disk; clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct SimFs(Arc<Mutex<Disk>>);

/// Random bits from a seed: splitmix64.
#[derive(Debug)]
pub(crate) struct Bits(pub(super) u64);

impl Bits {
    pub(crate) fn next(&mut self) -> u64 {
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

    pub(crate) fn calls(&self) -> u64 {
        self.disk().calls
    }

    pub(crate) fn syncs(&self) -> u64 {
        self.disk().syncs
    }

    /// The power goes `calls` calls from now.
    pub(crate) fn power_off_in(&self, calls: u64) {
        let mut disk = self.disk();
        disk.power_off_at = Some(disk.calls + calls);
    }

    /// The call `calls` calls from now fails, and no other.
    pub(crate) fn fail_in(&self, calls: u64, kind: io::ErrorKind) {
        let mut disk = self.disk();
        disk.fail_at = Some((disk.calls + calls, kind));
    }

    /// From `calls` calls from now on nothing finds any space, not even in place.
    pub(crate) fn no_space_in(&self, calls: u64) {
        let mut disk = self.disk();
        disk.no_space_from = Some(disk.calls + calls);
    }

    pub(crate) fn space_returns(&self) {
        let mut disk = self.disk();
        disk.no_space_from = None;
        disk.full = false;
    }

    pub(crate) fn fail_next_sync(&self) {
        self.disk().fail_sync = true;
    }

    pub(crate) fn set_full(&self, full: bool) {
        self.disk().full = full;
    }

    /// The power is cut and comes back: what was not synced is kept or lost as `seed` says.
    pub(crate) fn power_cycle(&self, seed: u64) {
        let mut bits = Bits(seed);
        let disk = &mut *self.disk();
        let mut names = std::mem::take(&mut disk.durable_names);
        keep_some(&mut names, disk.changes.drain(..), &mut bits);
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
            if inode.grown && bits.next() & 1 == 1 {
                inode.durable.resize(inode.cached.len(), 0);
            }
            inode.grown = false;
            inode.dirty.clear();
            inode.forgotten.clear();
            inode.cached = inode.durable.clone();
        }
        disk.durable_names = names.clone();
        disk.names = names;
        disk.power_off_at = None;
        disk.fail_at = None;
        disk.no_space_from = None;
        disk.locked = false;
    }

    /// The process is killed and started again: the cache stays.
    pub(crate) fn process_restart(&self) {
        let mut disk = self.disk();
        disk.power_off_at = None;
        disk.fail_at = None;
        disk.locked = false;
    }

    /// Changes a file behind the log's back, in the cache and on the disk.
    pub(crate) fn tamper(&self, path: &Path, change: impl Fn(&mut Vec<u8>)) {
        let disk = &mut *self.disk();
        let inode = &mut disk.inodes[disk.names[path]];
        change(&mut inode.cached);
        change(&mut inode.durable);
    }

    /// Puts a file there, durably.
    pub(crate) fn put(&self, path: &Path, content: Vec<u8>) {
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

    pub(crate) fn content(&self, path: &Path) -> Vec<u8> {
        let disk = self.disk();
        disk.inodes[disk.names[path]].cached.clone()
    }

    /// All names and what is behind them.
    pub(crate) fn snapshot(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let disk = self.disk();
        let content = |inode: &usize| disk.inodes[*inode].cached.clone();
        let files = disk.names.iter();
        files
            .map(|(path, inode)| (path.clone(), content(inode)))
            .collect()
    }

    /// A disk of its own with the same content.
    pub(crate) fn copy(&self) -> Self {
        Self(Arc::new(Mutex::new(self.disk().clone())))
    }

    pub(crate) fn delete(&self, path: &Path) {
        let disk = &mut *self.disk();
        disk.names.remove(path);
        disk.durable_names.remove(path);
    }

    pub(crate) fn names(&self) -> Vec<String> {
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

/// What a power cut leaves of name changes that were not synced.
fn keep_some(
    names: &mut BTreeMap<PathBuf, usize>,
    changes: impl ExactSizeIterator<Item = Change>,
    bits: &mut Bits,
) {
    let first = bits.next() % (changes.len() as u64 + 1);
    // 0 and 1: a journal. 2: each by itself. 3: each half of a rename by itself.
    let mode = bits.next() % 4;
    for (number, change) in changes.enumerate() {
        let mut keep = || match mode {
            0 | 1 => (number as u64) < first,
            _ => bits.next() & 1 == 1,
        };
        match change {
            Change::Link(path, inode) => {
                if keep() {
                    names.insert(path, inode);
                }
            }
            Change::Rename(from, to, inode) => {
                let gone = keep();
                let there = if mode == 3 { keep() } else { gone };
                if gone {
                    names.remove(&from);
                }
                if there {
                    names.insert(to, inode);
                }
            }
            Change::Unlink(path) => {
                if keep() {
                    names.remove(&path);
                }
            }
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
    fn call(&mut self, needs: Needs) -> io::Result<()> {
        let number = self.calls;
        self.calls += 1;
        if self.power_off_at.is_some_and(|at| number >= at) {
            return Err(io::Error::other("the power is off"));
        }
        if needs == Needs::Space && self.no_space_from.is_some_and(|at| number >= at) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        match self.fail_at {
            // A call that needs no space can't fail for want of it: the next one that does, does.
            Some((at, io::ErrorKind::StorageFull)) if at == number && needs == Needs::Nothing => {
                self.fail_at = Some((at + 1, io::ErrorKind::StorageFull));
                Ok(())
            }
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
        self.disk().call(Needs::Nothing)
    }

    fn list(&self, _dir: &Path) -> io::Result<Vec<String>> {
        self.disk().call(Needs::Nothing)?;
        Ok(self.names())
    }

    fn open(&self, path: &Path, _write: bool) -> io::Result<Box<dyn File>> {
        let mut disk = self.disk();
        disk.call(Needs::Nothing)?;
        let inode = *disk.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(SimFile {
            fs: self.clone(),
            inode,
        }))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let mut disk = self.disk();
        disk.call(Needs::Space)?;
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
        disk.call(Needs::Space)?;
        let inode = disk.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        disk.names.insert(to.to_owned(), inode);
        disk.changes
            .push(Change::Rename(from.to_owned(), to.to_owned(), inode));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.call(Needs::Nothing)?;
        disk.names.remove(path).ok_or(io::ErrorKind::NotFound)?;
        disk.changes.push(Change::Unlink(path.to_owned()));
        Ok(())
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.call(Needs::Space)?;
        disk.durable_names = disk.names.clone();
        disk.changes.clear();
        Ok(())
    }

    fn lock(&self, _path: &Path, _owner: &str) -> io::Result<Result<Box<dyn LockGuard>, String>> {
        let mut disk = self.disk();
        disk.call(Needs::Nothing)?;
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
        disk.call(Needs::Nothing)?;
        let content = &disk.inodes[self.inode].cached;
        let from = (position as usize).min(content.len());
        let read = buffer.len().min(content.len() - from);
        buffer[..read].copy_from_slice(&content[from..from + read]);
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<usize> {
        let mut disk = self.fs.disk();
        let called = disk.call(Needs::Space);
        // Now and then only a part is taken, as the interface allows; and a call that fails may
        // have written a part of it.
        let powered = disk.power_off_at.is_none_or(|at| disk.calls <= at);
        let bytes = match &called {
            Err(_) if !powered || disk.calls.is_multiple_of(2) => &[],
            Err(_) => &bytes[..bytes.len() / 2],
            Ok(()) if disk.calls.is_multiple_of(5) => &bytes[..bytes.len().div_ceil(2)],
            Ok(()) => bytes,
        };
        let (from, to) = (position as usize, position as usize + bytes.len());
        if to > disk.inodes[self.inode].cached.len() {
            disk.space()?;
            disk.inodes[self.inode].cached.resize(to, 0);
            disk.inodes[self.inode].grown = true;
        }
        let inode = &mut disk.inodes[self.inode];
        inode.cached[from..to].copy_from_slice(bytes);
        for sector in from / SECTOR..to.div_ceil(SECTOR) {
            inode.dirty.insert(sector);
            inode.forgotten.remove(&sector);
        }
        called.map(|()| bytes.len())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut disk = self.fs.disk();
        disk.syncs += 1;
        let failed = match std::mem::take(&mut disk.fail_sync) {
            true => Err(io::Error::other("the disk gave up")),
            false => disk.call(Needs::Space),
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
        inode.grown = false;
        Ok(())
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        let mut disk = self.fs.disk();
        disk.call(Needs::Space)?;
        let bytes = bytes as usize;
        if disk.inodes[self.inode].cached.len() < bytes {
            disk.space()?;
            disk.inodes[self.inode].cached.resize(bytes, 0);
            disk.inodes[self.inode].grown = true;
        }
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        let mut disk = self.fs.disk();
        disk.call(Needs::Nothing)?;
        Ok(disk.inodes[self.inode].cached.len() as u64)
    }
}
