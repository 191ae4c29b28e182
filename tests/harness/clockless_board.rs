//! A board without a battery-backed clock: its programs see a wall clock and a boot of the test's
//! choosing.
//!
//! A preloaded library (`clockless_board.c`) shifts the wall clock of the gateway's process, while it
//! runs too, as NTP does; the monotonic clocks stay. (libfaketime was tried: it moves the deadlines
//! of librdkafka's waits as well, by decades.) A boot's identity is a file over
//! `/proc/sys/kernel/random/boot_id`, in a mount namespace of the process.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use tempfile::TempDir;

use crate::process::temp_dir;

const LIBRARY: &str = include_str!("clockless_board.c");

/// A board, booted once.
#[derive(Debug)]
pub struct ClocklessBoard {
    dir: TempDir,
    boots: u32,
}

impl Default for ClocklessBoard {
    fn default() -> Self {
        Self::new()
    }
}

impl ClocklessBoard {
    /// A board that has just booted, ten seconds into 1970.
    ///
    /// # Panics
    /// If there is no C compiler.
    #[must_use]
    pub fn new() -> Self {
        let mut board = Self {
            dir: temp_dir(),
            boots: 0,
        };
        board.compile_library();
        board.reboot();
        board
    }

    /// The plug pulled and put in again: another boot, and its clock is back in 1970. Programs are
    /// to be killed before, and started after.
    pub fn reboot(&mut self) {
        self.boots += 1;
        let id = format!(
            "{:08x}-0000-4000-8000-000000000000\n",
            0xb007_0000 + self.boots
        );
        std::fs::write(self.boot_id(), id).expect("a new directory is writable");
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.expect("after 1970").as_secs();
        self.shift(&format!("-{}", now - 10));
    }

    /// NTP has answered.
    pub fn set_clock(&self) {
        self.shift("+0");
    }

    /// The clock is wrong by `seconds`.
    pub fn shift_clock(&self, seconds: i64) {
        self.shift(&format!("{seconds:+}"));
    }

    /// `program`, to be run on the board.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let over = "mount --bind \"$0\" /proc/sys/kernel/random/boot_id && exec env \"$@\"";
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "sh", "-c", over])
            .arg(self.boot_id())
            .arg(format!("LD_PRELOAD={}", self.library().display()))
            .arg(format!("BOARD_CLOCK={}", self.clock().display()))
            .arg(program);
        command
    }

    fn compile_library(&self) {
        let source = self.dir.path().join("clockless_board.c");
        std::fs::write(&source, LIBRARY).expect("a new directory is writable");
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(self.library())
            .arg(&source);
        let status = cc.status().expect("a C compiler; run `make setup`");
        assert!(status.success(), "{cc:?}: {status}");
    }

    fn library(&self) -> PathBuf {
        self.dir.path().join("clockless_board.so")
    }

    /// Written beside and renamed: the program reads it at every look at its clock.
    fn shift(&self, by: &str) {
        let new = self.dir.path().join("clock.new");
        std::fs::write(&new, by).expect("a new directory is writable");
        std::fs::rename(&new, self.clock()).expect("a new directory is writable");
    }

    fn clock(&self) -> PathBuf {
        self.dir.path().join("clock")
    }

    fn boot_id(&self) -> PathBuf {
        self.dir.path().join("boot_id")
    }
}
