//! Who has a port open: for the message of a port that is in use.
//!
//! `/proc` says it of one's own processes, and to root of all.

use std::fmt;
use std::fs;
use std::path::Path;

/// Most file descriptors looked at; a machine with more gets a shorter message.
const LOOKS_MAX: usize = 100_000;
/// Most programs named.
const HOLDERS_MAX: usize = 4;

/// Programs that have a port open, as far as one may know.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Holders(Vec<(u32, String)>);

impl Holders {
    /// Looks through `/proc` for programs that have `device`, a real path, open.
    pub(super) fn of(device: &Path) -> Self {
        let mut looks = 0;
        let mut holders = Vec::new();
        let own = std::process::id();
        for pid in pids().filter(|pid| *pid != own) {
            let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else {
                continue;
            };
            let mut files = files.filter_map(Result::ok).inspect(|_| looks += 1);
            if files.any(|file| fs::read_link(file.path()).is_ok_and(|link| link == device)) {
                holders.push((pid, name(pid)));
            }
            if looks > LOOKS_MAX || holders.len() == HOLDERS_MAX {
                break;
            }
        }
        Self(holders)
    }
}

fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

fn name(pid: u32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim_end().to_owned()
}

impl fmt::Display for Holders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return write!(f, "another program, of another user or in this process");
        }
        for (at, (pid, name)) in self.0.iter().enumerate() {
            let comma = if at > 0 { ", " } else { "" };
            write!(f, "{comma}{name} (process {pid})")?;
        }
        Ok(())
    }
}
