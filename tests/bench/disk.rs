//! An ext4 of the benchmark's own, on a loop device whose counters say what reaches the device.
//!
//! The file behind it is unlinked at once and the device detaches itself with its last user, so
//! that nothing outlives the process. The device reads and writes that file directly: what the file
//! system drops from memory is gone from memory.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::error::BenchError;

/// Unit of the kernel's counters.
const SECTOR_BYTES: u64 = 512;

/// A mounted file system.
#[derive(Debug)]
pub(crate) struct Disk {
    device: String,
    at: TempDir,
    /// Keeps the device attached while nothing is mounted.
    _device: File,
}

/// What the device has done so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counters {
    pub(crate) written_bytes: u64,
    pub(crate) flushes: u64,
}

impl Counters {
    /// Adds what was done between two readings.
    pub(crate) fn add(&mut self, before: Self, after: Self) {
        self.written_bytes += after.written_bytes - before.written_bytes;
        self.flushes += after.flushes - before.flushes;
    }
}

impl Disk {
    /// Makes one of so many bytes, with its content in a file of the directory `on`.
    pub(crate) fn make(on: &Path, bytes: u64) -> Result<Self, BenchError> {
        let file = tempfile::NamedTempFile::new_in(on).map_err(BenchError::io("make the disk"))?;
        file.as_file()
            .set_len(bytes)
            .map_err(BenchError::io("make the disk"))?;
        let path = file.path().to_string_lossy().into_owned();
        let losetup = ["--find", "--show", "--direct-io=on", &path];
        let device = call("losetup", &losetup)?.trim().to_owned();
        let kept = File::open(&device).map_err(BenchError::io("open the loop device"))?;
        // Attached as long as it is open or mounted, no longer.
        call("losetup", &["--detach", &device])?;
        call(
            "mkfs.ext4",
            &[
                "-q",
                "-E",
                "lazy_itable_init=0,lazy_journal_init=0",
                &device,
            ],
        )?;
        let at = TempDir::new().map_err(BenchError::io("make a mount point"))?;
        let disk = Self {
            device,
            at,
            _device: kept,
        };
        disk.mount()?;
        Ok(disk)
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> &Path {
        self.at.path()
    }

    /// Unmounts and mounts: nothing of it is in memory then, not even names.
    pub(crate) fn forget(&self) -> Result<(), BenchError> {
        call("umount", &[&self.path().to_string_lossy()])?;
        self.mount()
    }

    /// Makes everything of the past reach the device, the journal included.
    pub(crate) fn sync(&self) -> Result<(), BenchError> {
        let root = File::open(self.path()).map_err(BenchError::io("open the mount point"))?;
        rustix::fs::syncfs(root).map_err(|error| BenchError::io("sync the disk")(error.into()))
    }

    /// What has reached the device.
    pub(crate) fn counters(&self) -> Result<Counters, BenchError> {
        let name = self.device.trim_start_matches("/dev/");
        let path = PathBuf::from(format!("/sys/block/{name}/stat"));
        let text =
            fs::read_to_string(path).map_err(BenchError::io("read the device's counters"))?;
        let field = |index: usize| text.split_whitespace().nth(index)?.parse::<u64>().ok();
        match (field(6), field(15)) {
            (Some(sectors), Some(flushes)) => Ok(Counters {
                written_bytes: sectors * SECTOR_BYTES,
                flushes,
            }),
            (Some(_) | None, Some(_) | None) => Err(BenchError::Figure {
                what: "the device's counters",
                found: text,
            }),
        }
    }

    fn mount(&self) -> Result<(), BenchError> {
        call("mount", &[&self.device, &self.path().to_string_lossy()]).map(|_| ())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // If it fails, the namespace ends with the process and takes the mount along.
        let _ = call("umount", &[&self.path().to_string_lossy()]);
    }
}

/// Runs a program to its end; returns what it printed.
pub(crate) fn call(program: &str, arguments: &[&str]) -> Result<String, BenchError> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .map_err(BenchError::io("start a program of the system's"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(BenchError::Program {
        program: format!("{program} {}", arguments.join(" ")),
        said: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}
