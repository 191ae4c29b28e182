//! The disk: files and directories in memory, each as it reads now and as a power cut leaves it.
//!
//! What a program may rely on is what POSIX promises, and no more: content is durable after `fsync`
//! or `fdatasync` of the file, a name after `fsync` of its directory. A real file system keeps more
//! than that, one time or another, and which; so a power cut keeps everything, nothing, or a part
//! chosen by a seed, of what was not synced: sectors of 512 bytes and changes of names, each on its
//! own.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;

use fuser::Errno;
use system_tests::random::Random;

/// What a disk writes as one.
const SECTOR_BYTES: usize = 512;

/// Number of the topmost directory, as FUSE has it.
pub(crate) const ROOT: u64 = 1;

/// How much of what was not synced a power cut leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// All of it: a copy of the disk at an instant.
    Everything,
    /// None.
    Nothing,
    /// Some sectors, some names.
    Some,
}

/// A power cut to come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    /// It strikes at so manyth operation from now.
    pub(crate) operations: u64,
    pub(crate) kept: Kept,
    pub(crate) seed: u64,
}

/// The disk.
#[derive(Debug)]
pub(crate) struct Disk {
    nodes: HashMap<u64, Node>,
    next: u64,
    cut: Option<Cut>,
    has_power: bool,
}

/// What a number stands for.
#[derive(Debug)]
pub(crate) enum Node {
    File(File),
    Dir(Dir),
}

/// A file's content.
#[derive(Debug, Default)]
pub(crate) struct File {
    pub(crate) content: Vec<u8>,
    durable: Vec<u8>,
    /// Where the two may differ; perhaps beyond the end.
    unsynced: Vec<Range<usize>>,
}

/// A directory's names.
#[derive(Debug, Default)]
pub(crate) struct Dir {
    pub(crate) entries: BTreeMap<String, u64>,
    durable: BTreeMap<String, u64>,
    /// What leads from the durable ones to those of now.
    changes: Vec<Change>,
}

#[derive(Clone, Debug)]
enum Change {
    Add(String, u64),
    Remove(String),
    Rename(String, String),
}

impl Disk {
    pub(crate) fn new() -> Self {
        Self {
            nodes: HashMap::from([(ROOT, Node::Dir(Dir::default()))]),
            next: ROOT + 1,
            cut: None,
            has_power: true,
        }
    }

    pub(crate) fn has_power(&self) -> bool {
        self.has_power
    }

    /// Lets the power fail later.
    pub(crate) fn arm(&mut self, cut: Cut) {
        self.cut = Some(cut);
    }

    /// The power returns.
    pub(crate) fn power_on(&mut self) {
        self.cut = None;
        self.has_power = true;
    }

    pub(crate) fn node(&self, number: u64) -> Result<&Node, Errno> {
        self.powered()?;
        self.nodes.get(&number).ok_or(Errno::ENOENT)
    }

    pub(crate) fn file(&self, number: u64) -> Result<&File, Errno> {
        match self.node(number)? {
            Node::File(file) => Ok(file),
            Node::Dir(_) => Err(Errno::EISDIR),
        }
    }

    pub(crate) fn dir(&self, number: u64) -> Result<&Dir, Errno> {
        match self.node(number)? {
            Node::Dir(dir) => Ok(dir),
            Node::File(_) => Err(Errno::ENOTDIR),
        }
    }

    pub(crate) fn lookup(&self, parent: u64, name: &str) -> Result<u64, Errno> {
        let number = self.dir(parent)?.entries.get(name);
        number.copied().ok_or(Errno::ENOENT)
    }

    pub(crate) fn write(&mut self, number: u64, position: u64, bytes: &[u8]) -> Result<(), Errno> {
        let position = usize::try_from(position).map_err(|_| Errno::EFBIG)?;
        let file = self.file_mut(number)?;
        file.write(position, bytes);
        self.operation()
    }

    /// Makes a file so long; `grow_only` leaves a longer one as it is.
    pub(crate) fn set_size(
        &mut self,
        number: u64,
        bytes: u64,
        grow_only: bool,
    ) -> Result<(), Errno> {
        let bytes = usize::try_from(bytes).map_err(|_| Errno::EFBIG)?;
        let file = self.file_mut(number)?;
        if !grow_only || bytes > file.content.len() {
            file.resize(bytes);
        }
        self.operation()
    }

    /// Makes a file's content or a directory's names durable, unless the power fails meanwhile.
    pub(crate) fn sync(&mut self, number: u64) -> Result<(), Errno> {
        self.powered()?;
        self.operation()?;
        match self.nodes.get_mut(&number).ok_or(Errno::ENOENT)? {
            Node::File(file) => file.sync(),
            Node::Dir(dir) => dir.settle(|_| true),
        }
        Ok(())
    }

    /// Makes a file or directory and returns its number.
    pub(crate) fn add(&mut self, parent: u64, name: &str, node: Node) -> Result<u64, Errno> {
        let number = self.next;
        let dir = self.dir_mut(parent)?;
        if dir.entries.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        dir.change(Change::Add(name.to_owned(), number));
        self.next += 1;
        self.nodes.insert(number, node);
        self.operation()?;
        Ok(number)
    }

    pub(crate) fn remove(&mut self, parent: u64, name: &str) -> Result<(), Errno> {
        self.lookup(parent, name)?;
        self.dir_mut(parent)?
            .change(Change::Remove(name.to_owned()));
        self.operation()
    }

    /// Renames within a directory, in place of what has the name.
    pub(crate) fn rename(&mut self, parent: u64, from: &str, to: &str) -> Result<(), Errno> {
        self.lookup(parent, from)?;
        let change = Change::Rename(from.to_owned(), to.to_owned());
        self.dir_mut(parent)?.change(change);
        self.operation()
    }

    /// Counts an operation; the one in which the power fails has failed.
    fn operation(&mut self) -> Result<(), Errno> {
        let Some(cut) = &mut self.cut else {
            return Ok(());
        };
        cut.operations = cut.operations.saturating_sub(1);
        if cut.operations > 0 {
            return Ok(());
        }
        let cut = *cut;
        self.lose_power(cut);
        Err(Errno::EIO)
    }

    fn lose_power(&mut self, cut: Cut) {
        let mut random = Random::new(cut.seed);
        // By number, so that the same seed chooses the same of the same.
        let mut numbers: Vec<u64> = self.nodes.keys().copied().collect();
        numbers.sort_unstable();
        for number in numbers {
            let mut is_kept = || match cut.kept {
                Kept::Everything => true,
                Kept::Nothing => false,
                Kept::Some => random.below(2) == 0,
            };
            match self.nodes.get_mut(&number) {
                Some(Node::File(file)) => file.settle(&mut is_kept),
                Some(Node::Dir(dir)) => dir.settle(|_| is_kept()),
                None => {}
            }
        }
        self.forget_the_nameless();
        self.cut = None;
        self.has_power = false;
    }

    fn forget_the_nameless(&mut self) {
        let mut named = HashSet::new();
        let mut next = vec![ROOT];
        while let Some(number) = next.pop() {
            named.insert(number);
            if let Some(Node::Dir(dir)) = self.nodes.get(&number) {
                next.extend(dir.entries.values());
            }
        }
        self.nodes.retain(|number, _| named.contains(number));
    }

    fn powered(&self) -> Result<(), Errno> {
        if self.has_power {
            Ok(())
        } else {
            Err(Errno::EIO)
        }
    }

    fn file_mut(&mut self, number: u64) -> Result<&mut File, Errno> {
        self.powered()?;
        match self.nodes.get_mut(&number).ok_or(Errno::ENOENT)? {
            Node::File(file) => Ok(file),
            Node::Dir(_) => Err(Errno::EISDIR),
        }
    }

    fn dir_mut(&mut self, number: u64) -> Result<&mut Dir, Errno> {
        self.powered()?;
        match self.nodes.get_mut(&number).ok_or(Errno::ENOENT)? {
            Node::Dir(dir) => Ok(dir),
            Node::File(_) => Err(Errno::ENOTDIR),
        }
    }
}

impl File {
    fn write(&mut self, position: usize, bytes: &[u8]) {
        let end = position + bytes.len();
        if end > self.content.len() {
            self.content.resize(end, 0);
        }
        self.content[position..end].copy_from_slice(bytes);
        self.unsynced.push(position..end);
    }

    fn resize(&mut self, bytes: usize) {
        let before = self.content.len();
        self.content.resize(bytes, 0);
        self.unsynced.push(before.min(bytes)..before.max(bytes));
    }

    fn sync(&mut self) {
        self.durable.resize(self.content.len(), 0);
        for range in std::mem::take(&mut self.unsynced) {
            self.keep(range);
        }
    }

    /// Leaves what is durable, and of the rest what `is_kept` says: length, then sector by sector.
    fn settle(&mut self, is_kept: &mut impl FnMut() -> bool) {
        let unsynced = std::mem::take(&mut self.unsynced);
        if !unsynced.is_empty() && is_kept() {
            self.durable.resize(self.content.len(), 0);
        }
        let sectors =
            |range: &Range<usize>| range.start / SECTOR_BYTES..range.end.div_ceil(SECTOR_BYTES);
        let mut touched: Vec<usize> = unsynced.iter().flat_map(sectors).collect();
        touched.sort_unstable();
        touched.dedup();
        for sector in touched {
            if is_kept() {
                self.keep(sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES);
            }
        }
        self.content.clone_from(&self.durable);
    }

    fn keep(&mut self, range: Range<usize>) {
        let end = range.end.min(self.content.len()).min(self.durable.len());
        let start = range.start.min(end);
        self.durable[start..end].copy_from_slice(&self.content[start..end]);
    }
}

impl Dir {
    fn change(&mut self, change: Change) {
        apply(&mut self.entries, &change);
        self.changes.push(change);
    }

    /// Leaves what is durable and those changes that `is_kept` says.
    fn settle(&mut self, mut is_kept: impl FnMut(&Change) -> bool) {
        for change in std::mem::take(&mut self.changes) {
            if is_kept(&change) {
                apply(&mut self.durable, &change);
            }
        }
        self.entries.clone_from(&self.durable);
    }
}

/// A change whose forerunner was lost has nothing to change.
fn apply(entries: &mut BTreeMap<String, u64>, change: &Change) {
    match change {
        Change::Add(name, number) => {
            entries.insert(name.clone(), *number);
        }
        Change::Remove(name) => {
            entries.remove(name);
        }
        Change::Rename(from, to) => {
            if let Some(number) = entries.remove(from) {
                entries.insert(to.clone(), number);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk_with_file() -> (Disk, u64) {
        let mut disk = Disk::new();
        let file = disk.add(ROOT, "a", Node::File(File::default())).unwrap();
        (disk, file)
    }

    /// Cuts the power and returns the content of the file `a`.
    fn after_cut(mut disk: Disk, kept: Kept, seed: u64) -> Option<Vec<u8>> {
        disk.lose_power(Cut {
            operations: 0,
            kept,
            seed,
        });
        disk.power_on();
        let number = disk.lookup(ROOT, "a").ok()?;
        Some(disk.file(number).unwrap().content.clone())
    }

    #[test]
    fn a_synced_file_whose_directory_was_not_synced_has_no_name() {
        let (mut disk, file) = disk_with_file();
        disk.write(file, 0, b"x").unwrap();
        disk.sync(file).unwrap();
        assert_eq!(after_cut(disk, Kept::Nothing, 0), None);
    }

    #[test]
    fn of_a_named_file_the_synced_content_is_left() {
        let (mut disk, file) = disk_with_file();
        disk.sync(ROOT).unwrap();
        disk.write(file, 0, b"synced").unwrap();
        disk.sync(file).unwrap();
        disk.write(file, 3, b"later").unwrap();
        assert_eq!(after_cut(disk, Kept::Nothing, 0).unwrap(), b"synced");
    }

    #[test]
    fn a_copy_has_everything() {
        let (mut disk, file) = disk_with_file();
        disk.write(file, 1, b"x").unwrap();
        assert_eq!(after_cut(disk, Kept::Everything, 0).unwrap(), b"\0x");
    }

    #[test]
    fn some_sectors_of_a_write_are_kept_and_others_are_not() {
        let (mut kept, mut lost) = (false, false);
        for seed in 0..8 {
            let (mut disk, file) = disk_with_file();
            disk.sync(ROOT).unwrap();
            disk.write(file, 0, &[0; 8 * SECTOR_BYTES]).unwrap();
            disk.sync(file).unwrap();
            disk.write(file, 0, &[1; 8 * SECTOR_BYTES]).unwrap();
            let content = after_cut(disk, Kept::Some, seed).unwrap();
            for sector in content.chunks(SECTOR_BYTES) {
                assert!(sector.iter().all(|byte| *byte == sector[0]), "torn inside");
                kept |= sector[0] == 1;
                lost |= sector[0] == 0;
            }
        }
        assert!(kept && lost);
    }

    #[test]
    fn an_unsynced_rename_leaves_one_of_the_two_names() {
        for seed in 0..8 {
            let (mut disk, _) = disk_with_file();
            disk.sync(ROOT).unwrap();
            disk.rename(ROOT, "a", "b").unwrap();
            disk.lose_power(Cut {
                operations: 0,
                kept: Kept::Some,
                seed,
            });
            disk.power_on();
            let names: Vec<&String> = disk.dir(ROOT).unwrap().entries.keys().collect();
            assert!(names == ["a"] || names == ["b"], "{names:?}");
        }
    }

    #[test]
    fn the_sync_in_which_the_power_fails_syncs_nothing() {
        let (mut disk, file) = disk_with_file();
        disk.sync(ROOT).unwrap();
        disk.write(file, 0, b"x").unwrap();
        disk.arm(Cut {
            operations: 1,
            kept: Kept::Nothing,
            seed: 0,
        });
        assert!(disk.sync(file).is_err());
        assert!(disk.write(file, 0, b"y").is_err(), "there is no power");
        disk.power_on();
        assert_eq!(disk.file(file).unwrap().content, b"");
    }
}
