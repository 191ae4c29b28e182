//! A disk whose power fails on demand: the program `fault-disk`, mounted in a directory of its own.
//!
//! In a process of its own, since a test that waits for a file system which it serves itself could
//! not be killed.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::process::{temp_dir, workspace_program};
use crate::wait;

/// For a cut that load brings about.
const CUT_WITHIN: Duration = Duration::from_secs(60);

/// What of the unsynced a power cut leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// All of it: the disk as it was at an instant.
    Everything,
    /// None.
    Nothing,
    /// Some sectors and some names, by the seed.
    Some,
}

/// A running disk. It is unmounted when this is dropped, and when this process ends.
#[derive(Debug)]
pub struct FaultDisk {
    child: Child,
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    dir: TempDir,
}

impl FaultDisk {
    /// An empty disk.
    ///
    /// # Panics
    /// If the program is missing, or the system doesn't permit a mount.
    #[must_use]
    pub fn start() -> Self {
        let dir = temp_dir();
        let mut child = Command::new(workspace_program("fault-disk"))
            .arg(dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // A keystroke that ends the test must leave it the time to unmount.
            .process_group(0)
            .spawn()
            .unwrap_or_else(|e| panic!("fault-disk: {e}"));
        let commands = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().expect("piped"));
        let mut disk = Self {
            child,
            commands,
            answers,
            dir,
        };
        assert_eq!(disk.answer(), "ready", "fault-disk");
        disk
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Lets the power fail in so manyth operation from now that changes or syncs something.
    ///
    /// # Panics
    /// If the program has ended.
    pub fn arm(&mut self, operations: u64, kept: Kept, seed: u64) {
        let kept = match kept {
            Kept::Everything => "everything",
            Kept::Nothing => "nothing",
            Kept::Some => "some",
        };
        self.command(&format!("arm {operations} {kept} {seed}"));
    }

    /// Waits until the power has failed. From then on every call fails with EIO.
    ///
    /// # Panics
    /// If it has not within a minute.
    pub fn wait_for_cut(&mut self) {
        wait::until("the power cut", CUT_WITHIN, || self.is_cut());
    }

    /// Whether the power has failed; takes up to a second.
    ///
    /// # Panics
    /// If the program has ended.
    pub fn is_cut(&mut self) -> bool {
        self.ask("wait") == "ok off"
    }

    /// The power is back, and the disk has what was left.
    ///
    /// # Panics
    /// If the program has ended.
    pub fn power_on(&mut self) {
        self.command("on");
    }

    fn command(&mut self, line: &str) {
        assert_eq!(self.ask(line), "ok", "fault-disk, {line:?}");
    }

    fn ask(&mut self, line: &str) -> String {
        let commands = self.commands.as_mut().expect("open until dropped");
        writeln!(commands, "{line}").expect("fault-disk runs");
        self.answer()
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("fault-disk runs");
        assert!(
            line.ends_with('\n'),
            "fault-disk has ended. It takes root and /dev/fuse, and the test fails where the system \
             doesn't permit a mount, since nothing is proved without"
        );
        line.trim_end().to_owned()
    }
}

impl Drop for FaultDisk {
    fn drop(&mut self) {
        // It unmounts when its input ends, and the directory can be removed then.
        self.commands = None;
        if !self.child.wait().is_ok_and(|status| status.success()) {
            let mut unmount = Command::new("umount");
            let _ = unmount.arg("-l").arg(self.dir.path()).status();
        }
    }
}
