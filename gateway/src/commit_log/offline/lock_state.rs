//! Who has a log open, learnt without touching its lock: from the kernel's list of locks.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::LOCK_NAME;

/// Whether a process has a log open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockState {
    /// Nobody.
    Free,
    /// What that process says of itself.
    Held(String),
    /// The kernel's list can't be read, or shows no locks of other containers.
    Unknown,
}

/// Looks whether a process has the log at `dir` open. Takes no lock.
#[must_use]
pub fn lock_state(dir: &Path) -> LockState {
    let path = dir.join(LOCK_NAME);
    let Ok(metadata) = fs::metadata(&path) else {
        return LockState::Free;
    };
    let Ok(locks) = fs::read_to_string("/proc/locks") else {
        return LockState::Unknown;
    };
    let owner = fs::read_to_string(&path).unwrap_or_default();
    let owner = owner.trim();
    let device = (
        rustix::fs::major(metadata.dev()),
        rustix::fs::minor(metadata.dev()),
    );
    let held = locks
        .lines()
        .any(|line| is_held(line, metadata.ino(), device, owner));
    if held {
        LockState::Held(owner.to_owned())
    } else {
        LockState::Free
    }
}

/// Is this line a lock on that file? `N: FLOCK ADVISORY WRITE <pid> <major>:<minor>:<inode> 0 EOF`
///
/// Some file systems show another device in a file's metadata than here; then the process that holds
/// the lock must be the one that the lock file names.
fn is_held(line: &str, inode: u64, device: (u32, u32), owner: &str) -> bool {
    let mut words = line.split_whitespace().skip(1).filter(|word| *word != "->");
    if words.next() != Some("FLOCK") {
        return false;
    }
    let (Some(pid), Some(file)) = (words.nth(2), words.next()) else {
        return false;
    };
    let mut numbers = file.split(':');
    let (Some(major), Some(minor), Some(found)) = (numbers.next(), numbers.next(), numbers.next())
    else {
        return false;
    };
    let found_device = (
        u32::from_str_radix(major, 16).ok(),
        u32::from_str_radix(minor, 16).ok(),
    );
    let same_device = found_device == (Some(device.0), Some(device.1));
    let named = owner
        .split(|c: char| !c.is_ascii_digit())
        .any(|word| word == pid);
    found.parse() == Ok(inode) && (same_device || named)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_told_by_inode_and_device_or_by_inode_and_the_named_process() {
        let line = "3: FLOCK  ADVISORY  WRITE 9960 fe:00:10569879 0 EOF";
        let ours = |inode, device, owner| is_held(line, inode, device, owner);
        assert!(ours(10_569_879, (0xfe, 0), ""));
        assert!(ours(10_569_879, (0, 5), "gateway gw-1, process 9960"));
        assert!(!ours(10_569_879, (0, 5), "gateway gw-1, process 99600"));
        assert!(!ours(10_569_878, (0xfe, 0), ""));
        let posix = "3: POSIX  ADVISORY  WRITE 9960 fe:00:10569879 0 EOF";
        assert!(!is_held(posix, 10_569_879, (0xfe, 0), ""));
        assert!(!is_held("", 1, (0, 0), ""));
    }
}
