//! The gateway under test: the real binary, with a configuration and a data directory of its own.
//!
//! It is the one beside the test, unless `EDGE_GATEWAY_UNDER_TEST` names another, which
//! `EDGE_GATEWAY_RUNNER` runs where it is for another architecture: a command, its words separated by
//! blanks. Signals go to the emulator, which hands them on, and SIGKILL ends both.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::clockless_board::ClocklessBoard;
use crate::process::{Process, temp_dir, workspace_program};
use crate::{http, ports, wait};

const UNDER_TEST: &str = "EDGE_GATEWAY_UNDER_TEST";
const RUNNER: &str = "EDGE_GATEWAY_RUNNER";
const READY_WITHIN: Duration = Duration::from_secs(40);
/// `shutdown_grace` is 10 s; the rest is for a machine under load.
const DRAIN_WITHIN: Duration = Duration::from_secs(60);

/// A configuration in the making.
#[derive(Clone, Debug)]
pub struct Settings {
    id: String,
    kafka: String,
    sections: String,
    data_dir: Option<PathBuf>,
}

impl Settings {
    /// A gateway that sends to the topic `topic` of the cluster at `bootstrap`, and is called after it:
    /// two of the same id would fence each other off a cluster that tests share.
    #[must_use]
    pub fn new(bootstrap: &str, topic: &str) -> Self {
        Self {
            id: format!("gw-of-{topic}"),
            kafka: format!("[kafka]\nbrokers = [\"{bootstrap}\"]\ntopic = \"{topic}\"\n"),
            sections: String::new(),
            data_dir: None,
        }
    }

    /// The gateway's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Adds an MQTT source that subscribes to `filter`; `more` is further lines of its section.
    #[must_use]
    pub fn mqtt(self, name: &str, url: &str, subscription: (&str, u8), more: &str) -> Self {
        let (filter, qos) = subscription;
        self.section(&format!(
            "[sources.{name}]\ntype = \"mqtt\"\nurl = \"{url}\"\n\
             subscriptions = [{{ filter = \"{filter}\", qos = {qos} }}]\n{more}"
        ))
    }

    /// Adds a serial source.
    #[must_use]
    pub fn serial(self, name: &str, device: &Path, framing: &str) -> Self {
        self.section(&format!(
            "[sources.{name}]\ntype = \"serial\"\ndevice = \"{}\"\nbaud_rate = 115200\n\
             framing = \"{framing}\"",
            device.display()
        ))
    }

    /// Adds a route.
    #[must_use]
    pub fn route(self, pattern: &str, topic: &str, key: &str) -> Self {
        self.section(&format!(
            "[[routes]]\nmatch = \"{pattern}\"\ntopic = \"{topic}\"\nkey = \"{key}\""
        ))
    }

    /// Adds lines to the section `[kafka]`.
    #[must_use]
    pub fn kafka(mut self, lines: &str) -> Self {
        let _ = writeln!(self.kafka, "{lines}");
        self
    }

    /// Adds a whole section.
    #[must_use]
    pub fn section(mut self, text: &str) -> Self {
        let _ = writeln!(self.sections, "\n{text}");
        self
    }

    /// Keeps the data elsewhere than in the gateway's own temporary directory.
    #[must_use]
    pub fn data_dir(mut self, dir: &Path) -> Self {
        self.data_dir = Some(dir.to_path_buf());
        self
    }

    fn text(&self, own_dir: &Path, http_port: u16) -> String {
        let data_dir = self
            .data_dir
            .clone()
            .unwrap_or_else(|| own_dir.join("data"));
        format!(
            "[gateway]\nid = \"{}\"\ndata_dir = \"{}\"\n\n\
             [http]\nlisten = \"127.0.0.1:{http_port}\"\n\n{}{}",
            self.id,
            data_dir.display(),
            self.kafka,
            self.sections
        )
    }
}

/// A gateway, running or not.
#[derive(Debug)]
pub struct Gateway {
    process: Process,
    http_port: u16,
    dir: TempDir,
}

impl Gateway {
    /// Starts a gateway; returns at once.
    ///
    /// # Panics
    /// If the program is missing.
    #[must_use]
    pub fn start(settings: &Settings) -> Self {
        Self::start_with_text(|dir, http_port| settings.text(dir, http_port))
    }

    /// Starts a gateway on a board; returns at once.
    ///
    /// # Panics
    /// If a program is missing.
    #[must_use]
    pub fn start_on(board: &ClocklessBoard, settings: &Settings) -> Self {
        let launch = board.command(&on_board());
        Self::launch(launch, |dir, http_port| settings.text(dir, http_port))
    }

    /// Starts it again, after a [`kill`](Self::kill), on the same data; returns at once.
    ///
    /// # Panics
    /// If a program is missing.
    pub fn restart_on(&mut self, board: &ClocklessBoard) {
        self.process = spawn(board.command(&on_board()), self.dir.path());
    }

    /// Starts a gateway with the configuration that `text` makes for a directory, in which `data`
    /// is there for its data, and an HTTP port; returns at once.
    ///
    /// # Panics
    /// If the program is missing.
    #[must_use]
    pub fn start_with_text(text: impl FnOnce(&Path, u16) -> String) -> Self {
        Self::launch(under_test(), text)
    }

    fn launch(launch: Command, text: impl FnOnce(&Path, u16) -> String) -> Self {
        let dir = temp_dir();
        let http_port = ports::free();
        std::fs::create_dir_all(dir.path().join("data")).expect("a new directory is writable");
        let text = text(dir.path(), http_port);
        std::fs::write(config_path(dir.path()), text).expect("a new directory is writable");
        Self {
            process: spawn(launch, dir.path()),
            http_port,
            dir,
        }
    }

    /// Starts a gateway; returns once every source has connected.
    ///
    /// # Panics
    /// If that does not happen.
    #[must_use]
    pub fn start_ready(settings: &Settings) -> Self {
        let mut gateway = Self::start(settings);
        gateway.wait_ready();
        gateway
    }

    /// Waits until `/ready` answers 200.
    ///
    /// # Panics
    /// If it does not, or the gateway ends.
    pub fn wait_ready(&mut self) {
        wait::until("/ready of the gateway", READY_WITHIN, || {
            let ended = self.process.ended();
            assert!(ended.is_none(), "the gateway ended: {ended:?}");
            self.get("/ready").is_some_and(|(status, _)| status == 200)
        });
    }

    /// Starts it again on the same data, killed (SIGKILL) first if it runs; returns at once.
    ///
    /// # Panics
    /// If it cannot be killed or started.
    pub fn kill_and_restart(&mut self) {
        self.kill_and_restart_as(under_test());
    }

    /// Starts `program` on the same data, this one killed (SIGKILL) first if it runs; returns at once.
    ///
    /// # Panics
    /// If it cannot be killed or started.
    pub fn kill_and_restart_as(&mut self, program: Command) {
        self.process.kill();
        self.process = spawn(program, self.dir.path());
    }

    /// Kills it (SIGKILL).
    ///
    /// # Panics
    /// If it cannot be killed.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Drains it (SIGTERM) and returns how it ended.
    ///
    /// # Panics
    /// If it does not end.
    pub fn drain(&mut self) -> ExitStatus {
        self.process.signal(Signal::TERM);
        self.process.wait(DRAIN_WITHIN)
    }

    /// Waits for it to end by itself.
    ///
    /// # Panics
    /// If it does not.
    pub fn wait_end(&mut self) -> ExitStatus {
        self.process.wait(DRAIN_WITHIN)
    }

    /// Exit code and output of `check --connect` with its configuration, whether it runs or not.
    ///
    /// # Panics
    /// If the program is missing.
    #[must_use]
    pub fn check_connect(&self) -> (Option<i32>, String) {
        let mut command = under_test();
        command.args(["check", "--connect", "--config"]);
        let output = command.arg(config_path(self.dir.path())).output();
        let output = output.expect("the program runs");
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        (output.status.code(), said)
    }

    /// What it has printed, over all of its starts.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Where its data lies if [`Settings::data_dir`] has not put it elsewhere.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Sum of the samples of a metric (its full name) that carry all of `labels`; `None` where there
    /// are none, or no answer.
    #[must_use]
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        http::metric(self.http_port, name, labels)
    }

    /// Waits until a metric has reached `least`.
    ///
    /// # Panics
    /// If it has not `within` that time, or the gateway ends.
    pub fn wait_metric(
        &mut self,
        name: &str,
        labels: &[(&str, &str)],
        least: f64,
        within: Duration,
    ) {
        let what = format!("{name}{labels:?} of at least {least}");
        wait::until(&what, within, || {
            let ended = self.process.ended();
            assert!(ended.is_none(), "the gateway ended: {ended:?}");
            self.metric(name, labels)
                .is_some_and(|value| value >= least)
        });
    }

    /// Waits until its log holds `text`.
    ///
    /// # Panics
    /// If it does not `within` that time, or the gateway ends.
    pub fn wait_log(&mut self, text: &str, within: Duration) {
        wait::until(&format!("{text:?} in the log"), within, || {
            let ended = self.process.ended();
            assert!(ended.is_none(), "the gateway ended: {ended:?}");
            self.log().contains(text)
        });
    }

    /// What it has used since it was started.
    ///
    /// # Panics
    /// If it doesn't run.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let read = |file: &str| {
            let path = format!("/proc/{}/{file}", self.id());
            std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
        };
        Usage::parse(&read("status"), &read("stat")).expect("the system's own format")
    }

    /// Status and body of an HTTP answer; `None` where there is none.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<(u16, String)> {
        http::get(self.http_port, path)
    }
}

/// What a process has used.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Usage {
    /// Most memory it ever had resident, in KiB.
    pub rss_kib_max: u64,
    /// Processor time in user and kernel mode.
    pub cpu_seconds: f64,
}

impl Usage {
    /// Linux counts in these towards user space, on every architecture we run on.
    const TICKS_PER_SECOND: f64 = 100.0;

    fn parse(status: &str, stat: &str) -> Option<Self> {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))?;
        // The name, in parentheses, may hold blanks; user and kernel time are the 12th and 13th
        // fields behind it (proc(5): 14 and 15).
        let (_, fields) = stat.rsplit_once(')')?;
        let mut times = fields.split_whitespace().skip(11).map(str::parse::<f64>);
        let ticks = times.next()?.ok()? + times.next()?.ok()?;
        Some(Self {
            rss_kib_max: line.split_whitespace().next()?.parse().ok()?,
            cpu_seconds: ticks / Self::TICKS_PER_SECOND,
        })
    }
}

fn config_path(dir: &Path) -> PathBuf {
    dir.join("gateway.toml")
}

/// The program under test.
///
/// # Panics
/// If it is missing.
#[must_use]
pub fn under_test() -> Command {
    let Some(program) = std::env::var_os(UNDER_TEST) else {
        return native();
    };
    let runner = std::env::var(RUNNER).unwrap_or_default();
    let mut words = runner.split_whitespace();
    let Some(first) = words.next() else {
        return Command::new(program);
    };
    let mut command = Command::new(first);
    command.args(words).arg(program);
    command
}

/// Whether the program under test runs on an emulator, which takes it ten times as long to start.
#[must_use]
pub fn is_emulated() -> bool {
    std::env::var_os(RUNNER).is_some_and(|runner| !runner.is_empty())
}

/// The program beside the test, whatever is under test.
///
/// # Panics
/// If it is missing.
#[must_use]
pub fn native() -> Command {
    Command::new(workspace_program("edge-gateway"))
}

/// A board's clock is a library that is loaded into a program of this machine.
fn on_board() -> PathBuf {
    assert!(
        std::env::var_os(UNDER_TEST).is_none(),
        "a board without a clock runs the native gateway, and {UNDER_TEST} names another"
    );
    workspace_program("edge-gateway")
}

fn spawn(mut command: Command, dir: &Path) -> Process {
    command.arg("run").arg("--config").arg(config_path(dir));
    Process::start("edge-gateway", command, dir, Some(dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_read_from_what_linux_says() {
        let stat = "7 (a (b) c) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0";
        let usage = Usage::parse("Name:\tx\nVmHWM:\t   2048 kB\n", stat).unwrap();
        assert_eq!((usage.rss_kib_max, usage.cpu_seconds), (2048, 2.0));
    }
}
