//! The disk as a FUSE file system: each request is done under one lock, so each is before a power
//! cut or after it. Nothing of it is cached by the kernel.

use std::ffi::OsStr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};

use crate::disk::{Cut, Dir, Disk, File, Node};

const NOT_CACHED: Duration = Duration::ZERO;
const NO_HANDLE: FileHandle = FileHandle(0);
const GENERATION: Generation = Generation(0);
const BLOCK_BYTES: u32 = 4096;
/// What it says it has in space and files; nobody fills it.
const PLENTY: u64 = 1 << 20;

/// The disk, shared with whoever cuts its power.
#[derive(Clone, Debug)]
pub(crate) struct Shared(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    disk: Mutex<Disk>,
    power: Condvar,
}

impl Shared {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Inner {
            disk: Mutex::new(Disk::new()),
            power: Condvar::new(),
        }))
    }

    pub(crate) fn arm(&self, cut: Cut) {
        self.lock().arm(cut);
    }

    pub(crate) fn power_on(&self) {
        self.lock().power_on();
    }

    /// Waits for the power to fail; false if it has not `within` that time.
    pub(crate) fn wait_for_cut(&self, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        let mut disk = self.lock();
        while disk.has_power() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let woken = self.0.power.wait_timeout(disk, left);
            disk = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.0.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something that changes the disk, and tells those who wait for the power to fail.
    fn change<T>(&self, change: impl FnOnce(&mut Disk) -> Result<T, Errno>) -> Result<T, Errno> {
        let mut disk = self.lock();
        let done = change(&mut disk);
        if !disk.has_power() {
            self.0.power.notify_all();
        }
        done
    }

    fn attributes(&self, number: u64) -> Result<FileAttr, Errno> {
        let disk = self.lock();
        Ok(attributes(number, disk.node(number)?))
    }
}

fn attributes(number: u64, node: &Node) -> FileAttr {
    let (kind, size) = match node {
        Node::File(file) => (FileType::RegularFile, file.content.len() as u64),
        Node::Dir(_) => (FileType::Directory, 0),
    };
    FileAttr {
        ino: INodeNo(number),
        size,
        blocks: size.div_ceil(512),
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind,
        perm: 0o700,
        nlink: 1,
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        rdev: 0,
        blksize: BLOCK_BYTES,
        flags: 0,
    }
}

fn text(name: &OsStr) -> Result<&str, Errno> {
    name.to_str().ok_or(Errno::EINVAL)
}

fn answer(done: Result<(), Errno>, reply: ReplyEmpty) {
    match done {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

impl Filesystem for Shared {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = text(name).and_then(|name| self.lock().lookup(parent.0, name));
        match found.and_then(|number| self.attributes(number)) {
            Ok(attr) => reply.entry(&NOT_CACHED, &attr, GENERATION),
            Err(error) => reply.error(error),
        }
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(number.0) {
            Ok(attr) => reply.attr(&NOT_CACHED, &attr),
            Err(error) => reply.error(error),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        number: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let sized = size.map_or(Ok(()), |bytes| {
            self.change(|disk| disk.set_size(number.0, bytes, false))
        });
        match sized.and_then(|()| self.attributes(number.0)) {
            Ok(attr) => reply.attr(&NOT_CACHED, &attr),
            Err(error) => reply.error(error),
        }
    }

    fn mkdir(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let node = Node::Dir(Dir::default());
        let made = text(name).and_then(|name| self.change(|disk| disk.add(parent.0, name, node)));
        match made.and_then(|number| self.attributes(number)) {
            Ok(attr) => reply.entry(&NOT_CACHED, &attr, GENERATION),
            Err(error) => reply.error(error),
        }
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let node = Node::File(File::default());
        let made = text(name).and_then(|name| self.change(|disk| disk.add(parent.0, name, node)));
        match made.and_then(|number| self.attributes(number)) {
            Ok(attr) => {
                let flags = FopenFlags::FOPEN_DIRECT_IO;
                reply.created(&NOT_CACHED, &attr, GENERATION, NO_HANDLE, flags);
            }
            Err(error) => reply.error(error),
        }
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let done = text(name).and_then(|name| self.change(|disk| disk.remove(parent.0, name)));
        answer(done, reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let remove = |disk: &mut Disk, name: &str| {
            let number = disk.lookup(parent.0, name)?;
            if disk.dir(number)?.entries.is_empty() {
                disk.remove(parent.0, name)
            } else {
                Err(Errno::ENOTEMPTY)
            }
        };
        let done = text(name).and_then(|name| self.change(|disk| remove(disk, name)));
        answer(done, reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        _flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let rename = || {
            let (from, to) = (text(name)?, text(new_name)?);
            if parent != new_parent {
                return Err(Errno::EXDEV);
            }
            self.change(|disk| disk.rename(parent.0, from, to))
        };
        answer(rename(), reply);
    }

    fn open(&self, _: &Request, number: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.attributes(number.0) {
            Ok(_) => reply.opened(NO_HANDLE, FopenFlags::FOPEN_DIRECT_IO),
            Err(error) => reply.error(error),
        }
    }

    fn read(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        position: u64,
        size: u32,
        _flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let disk = self.lock();
        match disk.file(number.0) {
            Ok(file) => {
                let bytes = file.content.len();
                let clamp = |at: u64| usize::try_from(at).unwrap_or(bytes).min(bytes);
                let (from, to) = (clamp(position), clamp(position + u64::from(size)));
                reply.data(&file.content[from..to]);
            }
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        position: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let written = self.change(|disk| disk.write(number.0, position, data));
        match written.and_then(|()| u32::try_from(data.len()).map_err(|_| Errno::EINVAL)) {
            Ok(bytes) => reply.written(bytes),
            Err(error) => reply.error(error),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, number: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        answer(self.change(|disk| disk.sync(number.0)), reply);
    }

    fn fsyncdir(&self, _: &Request, number: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        answer(self.change(|disk| disk.sync(number.0)), reply);
    }

    fn readdir(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let disk = self.lock();
        let dir = match disk.dir(number.0) {
            Ok(dir) => dir,
            Err(error) => return reply.error(error),
        };
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        for (index, (name, entry)) in dir.entries.iter().enumerate().skip(start) {
            let kind = match disk.node(*entry) {
                Ok(Node::Dir(_)) => FileType::Directory,
                Ok(Node::File(_)) | Err(_) => FileType::RegularFile,
            };
            if reply.add(INodeNo(*entry), index as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        reply.statfs(
            PLENTY,
            PLENTY,
            PLENTY,
            PLENTY,
            PLENTY,
            BLOCK_BYTES,
            255,
            BLOCK_BYTES,
        );
    }

    fn fallocate(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        if mode != 0 {
            return reply.error(Errno::EOPNOTSUPP);
        }
        answer(
            self.change(|disk| disk.set_size(number.0, offset + length, true)),
            reply,
        );
    }
}
