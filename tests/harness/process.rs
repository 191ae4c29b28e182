//! A child process that never outlives its test.
//!
//! Its output goes to a log file; the end of it is printed when the test panics. Dropping the guard
//! ends the process. Because a test may itself be killed, and because a static is never dropped, each
//! child has a watcher: a shell that reads from a pipe of ours and, when that closes for whatever
//! reason, kills the child and removes its directory. (`PR_SET_PDEATHSIG` would need `unsafe`, and
//! follows the thread that started the child, not the process.)

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How many lines of a log a failing test prints.
const LOG_LINES_SHOWN: usize = 60;

/// Reads until its input ends, kills process `$1`, then removes directory `$2` if there is one. The
/// pause gives the killed process time to let go of its files.
const WATCH: &str = "cat >/dev/null; kill -KILL \"$1\" 2>/dev/null; \
                     [ -z \"$2\" ] || { sleep 0.2; rm -rf \"$2\"; }";

/// A running child.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    watcher: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with its output appended to `<dir>/<name>.log`. Where the test is killed,
    /// `dir_removed` goes too.
    ///
    /// # Panics
    /// If the program cannot be started.
    #[must_use]
    pub fn start(name: &str, mut command: Command, dir: &Path, dir_removed: Option<&Path>) -> Self {
        let log = dir.join(format!("{name}.log"));
        let out = open_log(&log);
        let err = out
            .try_clone()
            .unwrap_or_else(|e| panic!("{}: {e}", log.display()));
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        let child = command
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?} does not start ({e}); run `make setup`"));
        let watcher = watch(&child, dir_removed);
        Self {
            name: name.to_owned(),
            child,
            watcher,
            log,
        }
    }

    /// Process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything it has printed so far.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// If it cannot be sent.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).unwrap_or_else(|e| panic!("signal to {}: {e}", self.name));
    }

    /// How it ended, if it has.
    ///
    /// # Panics
    /// If the system does not say.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child
            .try_wait()
            .unwrap_or_else(|e| panic!("{}: {e}", self.name))
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If it has not ended `within` that time.
    pub fn wait(&mut self, within: Duration) -> ExitStatus {
        let what = format!("end of {}", self.name);
        crate::wait::until_some(&what, within, || self.ended())
    }

    /// Kills it (SIGKILL) and waits for its end.
    ///
    /// # Panics
    /// If it cannot be killed.
    pub fn kill(&mut self) {
        if self.ended().is_none() {
            self.signal(Signal::KILL);
            self.wait(Duration::from_secs(30));
        }
    }

    /// Asks it to end (SIGTERM), kills it if it hasn't `within` that time.
    pub fn stop(&mut self, within: Duration) {
        if self.ended().is_some() {
            return;
        }
        self.signal(Signal::TERM);
        let deadline = Instant::now() + within;
        while self.ended().is_none() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        self.kill();
    }

    fn print_log(&self) {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let hidden = lines.len().saturating_sub(LOG_LINES_SHOWN);
        eprintln!("--- {}: last lines of its output", self.name);
        for line in &lines[hidden..] {
            eprintln!("{line}");
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Errors have nobody to go to: this runs while a panic unwinds, too.
        let _ = self.watcher.kill();
        let _ = self.watcher.wait();
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            self.print_log();
        }
    }
}

fn open_log(path: &Path) -> File {
    File::options()
        .create(true)
        .append(true)
        .open(path)
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn watch(child: &Child, dir_removed: Option<&Path>) -> Child {
    Command::new("sh")
        .args(["-c", WATCH, "sh", &child.id().to_string()])
        .arg(dir_removed.unwrap_or(Path::new("")))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // Not ended by the keystroke that ends the test.
        .process_group(0)
        .spawn()
        .unwrap_or_else(|e| panic!("sh: {e}"))
}

/// Path of a program of this workspace, built beside the test that runs.
///
/// # Panics
/// If it isn't there.
#[must_use]
pub fn workspace_program(name: &str) -> PathBuf {
    let dir = std::env::var_os("EDGE_GATEWAY_BIN_DIR").map_or_else(profile_dir, PathBuf::from);
    let path = dir.join(name);
    assert!(
        path.is_file(),
        "{} is missing: cargo build --workspace --bins",
        path.display()
    );
    path
}

/// Path of what `make firmware` builds, in `target/firmware` or where `EDGE_FIRMWARE_DIR` says.
///
/// # Panics
/// If it isn't there.
#[must_use]
pub fn firmware(name: &str) -> PathBuf {
    let dir = std::env::var_os("EDGE_FIRMWARE_DIR")
        .map_or_else(|| profile_dir().with_file_name("firmware"), PathBuf::from);
    let path = dir.join(name);
    assert!(
        path.is_file(),
        "{} is missing: make firmware",
        path.display()
    );
    path
}

/// `target/<profile>`, for a test in its `deps` folder and for a program in it alike.
fn profile_dir() -> PathBuf {
    let exe = std::env::current_exe().unwrap_or_else(|e| panic!("path of this program: {e}"));
    exe.ancestors()
        .skip(1)
        .find(|dir| !dir.ends_with("deps"))
        .expect("a program lies in a directory")
        .to_path_buf()
}

/// A new temporary directory, removed when dropped.
///
/// # Panics
/// If it cannot be made.
#[must_use]
pub fn temp_dir() -> tempfile::TempDir {
    tempfile::Builder::new()
        .prefix("edge-gateway-test-")
        .tempdir()
        .unwrap_or_else(|e| panic!("temporary directory: {e}"))
}
