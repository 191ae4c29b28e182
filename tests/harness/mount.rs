//! An ext4 file system of its own in a file, mounted over a loop device.
//!
//! It takes root and loop devices. Where the system doesn't permit a mount the test fails and says
//! so: without it nothing is proved. Dropping the guard unmounts; where the test is killed, a watcher
//! does so (see [`crate::process`]).

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tempfile::TempDir;

use crate::process::temp_dir;
use crate::wait;

const FULL_WITHIN: Duration = Duration::from_secs(30);

/// Reads until its input ends, then unmounts `$1` and removes the directory `$2` around it, if
/// nothing is mounted there any more.
const WATCH: &str = "cat >/dev/null; umount -l \"$1\"; rm -rf --one-file-system \"$2\"";

/// A mounted file system.
#[derive(Debug)]
pub struct Mount {
    point: PathBuf,
    watcher: Child,
    _dir: TempDir,
}

/// Makes a file system of `bytes` in the file `image`, none of it reserved for root. Synced.
///
/// # Panics
/// If it cannot be made.
pub fn make_ext4(image: &Path, bytes: u64) {
    let file = File::create(image).unwrap_or_else(|e| panic!("{}: {e}", image.display()));
    file.set_len(bytes)
        .and_then(|()| file.sync_all())
        .unwrap_or_else(|e| panic!("{}: {e}", image.display()));
    // What is put off to the first mount would be written in the midst of the test.
    run(Command::new("mkfs.ext4")
        .args(["-q", "-F", "-m", "0", "-E"])
        .arg("nodiscard,lazy_itable_init=0,lazy_journal_init=0")
        .arg(image));
    File::open(image.parent().expect("a file lies in a directory"))
        .and_then(|dir| dir.sync_all())
        .unwrap_or_else(|e| panic!("directory of {}: {e}", image.display()));
}

impl Mount {
    /// Mounts the file system in the file `image`. After a power cut, that repairs it.
    ///
    /// # Panics
    /// If the system doesn't permit it.
    #[must_use]
    pub fn ext4(image: &Path) -> Self {
        let dir = temp_dir();
        let point = dir.path().join("mnt");
        std::fs::create_dir(&point).expect("a new directory is writable");
        let mut mount = Command::new("mount");
        mount.args(["-t", "ext4", "-o", "loop,errors=continue"]);
        run(mount.arg(image).arg(&point));
        let watcher = watch(&point, dir.path());
        Self {
            point,
            watcher,
            _dir: dir,
        }
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.point
    }

    /// Bytes that are free.
    ///
    /// # Panics
    /// If the system doesn't say.
    #[must_use]
    pub fn bytes_free(&self) -> u64 {
        let stat = rustix::fs::statvfs(&self.point).unwrap_or_else(|e| panic!("statvfs: {e}"));
        stat.f_bavail * stat.f_frsize
    }

    /// Fills it to the last byte with a file, in the face of whoever else writes to it.
    ///
    /// # Panics
    /// If that can't be written.
    #[must_use]
    pub fn fill(&self) -> Filler {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("filler-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let path = self.point.join(name);
        let mut file = File::create_new(&path).unwrap_or_else(|e| panic!("filler: {e}"));
        // Others may give some back meanwhile.
        wait::until("a full file system", FULL_WITHIN, || {
            write_until_full(&mut file);
            self.bytes_free() == 0
        });
        Filler { path }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Errors have nobody to go to: this runs while a panic unwinds, too. What still has a file
        // of it open keeps a detached mount until it ends.
        let mut unmount = Command::new("umount");
        unmount.arg(&self.point).stderr(Stdio::null());
        if !unmount.status().is_ok_and(|status| status.success()) {
            let _ = Command::new("umount").arg("-l").arg(&self.point).status();
        }
        let _ = self.watcher.kill();
        let _ = self.watcher.wait();
    }
}

/// A file that takes all space. Dropping it gives the space back.
#[derive(Debug)]
pub struct Filler {
    path: PathBuf,
}

impl Drop for Filler {
    fn drop(&mut self) {
        // It goes with the file system otherwise.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn write_until_full(file: &mut File) {
    for piece in [64 * 1024, 4096, 1] {
        let piece = vec![b'x'; piece];
        loop {
            match file.write(&piece) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => break,
                Err(error) => panic!("filler: {error}"),
            }
        }
    }
    file.sync_all().unwrap_or_else(|e| panic!("filler: {e}"));
}

fn run(command: &mut Command) {
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?} does not start ({e}); run `make setup`"));
    assert!(
        output.status.success(),
        "{command:?}: {}: {}. These tests mount file systems: they take root and loop devices, and \
         fail where the system doesn't permit it, since nothing is proved without",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}

fn watch(point: &Path, dir: &Path) -> Child {
    Command::new("sh")
        .args(["-c", WATCH, "sh"])
        .args([point, dir])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // Not ended by the keystroke that ends the test.
        .process_group(0)
        .spawn()
        .unwrap_or_else(|e| panic!("sh: {e}"))
}
