//! A microcontroller board, emulated: QEMU's Stellaris LM3S6965, its UART a pseudo-terminal.
//!
//! QEMU is asked over QMP for what a person at the board would see (the LED) and what one with a
//! debugger would (memory).

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;

use crate::process::{Process, firmware, temp_dir};
use crate::qmp::Qmp;
use crate::wait;

const UP_WITHIN: Duration = Duration::from_secs(60);
/// Data register of port F, masked to pin 0.
const LED: u32 = 0x4002_5004;
const RAM: u32 = 0x2000_0000;

/// A board that runs.
#[derive(Debug)]
pub struct Board {
    _process: Process,
    console: Qmp,
    line: PathBuf,
    dir: TempDir,
}

impl Board {
    /// Switches on a board with `program` of the firmware folder in its flash; returns once it runs.
    ///
    /// # Panics
    /// If the program or QEMU is missing, or it does not start.
    #[must_use]
    pub fn start(program: &str) -> Self {
        let dir = temp_dir();
        let socket = dir.path().join("qmp");
        let mut command = Command::new("qemu-system-arm");
        command
            .args(["-M", "lm3s6965evb", "-display", "none", "-monitor", "none"])
            .args(["-serial", "pty", "-qmp"])
            .arg(format!("unix:{},server=on,wait=off", socket.display()))
            .arg("-kernel")
            .arg(firmware(program));
        let mut process = Process::start("qemu", command, dir.path(), Some(dir.path()));
        let line = wait::until_some("the board's line", UP_WITHIN, || {
            let ended = process.ended();
            assert!(ended.is_none(), "QEMU ended: {ended:?}");
            pty_of(&process.log())
        });
        Self {
            console: Qmp::connect(&socket, UP_WITHIN),
            _process: process,
            line,
            dir,
        }
    }

    /// What the gateway opens.
    #[must_use]
    pub fn line(&self) -> &Path {
        &self.line
    }

    /// Whether the LED is on.
    ///
    /// # Panics
    /// If QEMU does not say.
    pub fn led(&mut self) -> bool {
        let answer = self.console.ask(
            "human-monitor-command",
            &json!({ "command-line": format!("xp/1wx {LED:#x}") }),
        );
        // As in "0000000040025004: 0x00000001".
        let text = answer.as_str().expect("text");
        let word = text.trim().rsplit_once("0x").expect("a word").1;
        u32::from_str_radix(word, 16).expect("hexadecimal") != 0
    }

    /// The first `bytes` of its RAM. What no program has written to is 0.
    ///
    /// # Panics
    /// If QEMU does not say.
    pub fn ram(&mut self, bytes: usize) -> Vec<u8> {
        let file = self.dir.path().join("ram");
        let arguments = json!({ "val": RAM, "size": bytes, "filename": file });
        self.console.ask("pmemsave", &arguments);
        std::fs::read(&file).expect("QEMU has written it")
    }

    /// Freezes it: nothing more is sampled or sent.
    ///
    /// # Panics
    /// If QEMU refuses.
    pub fn freeze(&mut self) {
        self.console.ask("stop", &json!({}));
    }
}

/// "char device redirected to /dev/pts/7 (label serial0)"
fn pty_of(log: &str) -> Option<PathBuf> {
    let (_, rest) = log.split_once("redirected to ")?;
    let (path, _) = rest.split_once(' ')?;
    Some(PathBuf::from(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_known_once_all_of_its_name_is_printed() {
        let printed = "char device redirected to /dev/pts/17 (label serial0)\n";
        assert_eq!(pty_of(printed), Some(PathBuf::from("/dev/pts/17")));
        assert_eq!(pty_of("char device redirected to /dev/pts/1"), None);
        assert_eq!(pty_of(""), None);
    }
}
