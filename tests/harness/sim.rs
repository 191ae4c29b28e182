//! `sensor-sim`: devices that send, and say how many messages they sent and had acknowledged.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde::Deserialize;
use tempfile::TempDir;

use crate::process::{Process, temp_dir, workspace_program};

/// What a run ended with.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct SimReport {
    /// Messages sent, each counted once.
    pub sent: u64,
    /// Messages acknowledged, where the other end acknowledges.
    pub acknowledged: Option<u64>,
    /// Messages sent again.
    pub resent: u64,
}

/// A running simulator.
#[derive(Debug)]
pub struct Sim {
    process: Process,
    report: PathBuf,
    _dir: TempDir,
}

impl Sim {
    /// Starts `sensor-sim` with arguments separated by blanks, less those that ask for its report.
    ///
    /// # Panics
    /// If the program is missing.
    #[must_use]
    pub fn start(arguments: &str) -> Self {
        let dir = temp_dir();
        let report = dir.path().join("report.json");
        let mut command = Command::new(workspace_program("sensor-sim"));
        command
            .args(arguments.split_whitespace())
            .arg("--report")
            .arg(&report);
        let process = Process::start("sensor-sim", command, dir.path(), Some(dir.path()));
        Self {
            process,
            report,
            _dir: dir,
        }
    }

    /// Whether it is still at work.
    pub fn runs(&mut self) -> bool {
        self.process.ended().is_none()
    }

    /// Asks it to send no more; it waits for acknowledgements and ends.
    ///
    /// # Panics
    /// If it has ended.
    pub fn stop_sending(&self) {
        self.process.signal(Signal::TERM);
    }

    /// Waits for its end and returns its report.
    ///
    /// # Panics
    /// If it does not end `within` that time, or not everything was acknowledged.
    pub fn finish(mut self, within: Duration) -> SimReport {
        let status = self.process.wait(within);
        assert!(status.success(), "sensor-sim: {status}");
        let text = std::fs::read(&self.report).expect("sensor-sim has written its report");
        serde_json::from_slice(&text).expect("a report of sensor-sim")
    }
}
