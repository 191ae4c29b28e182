//! A Debian system in a container: a tree that debootstrap made, booted by `systemd-nspawn` with
//! systemd as its first process. What it writes lies in memory and is gone with it; its network is
//! ours, so that it reaches our brokers on the loopback interface.
//!
//! It takes root. Nothing of it is left when this process is killed: the container ends with
//! `systemd-nspawn`, which the watcher of [`Process`] ends.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use tempfile::TempDir;

use crate::process::{Process, temp_dir};
use crate::wait;

const BOOT_WITHIN: Duration = Duration::from_secs(120);

/// A running system.
#[derive(Debug)]
pub struct Machine {
    nspawn: Process,
    /// Its first process, as we see it.
    init: u32,
    _dir: TempDir,
}

impl Machine {
    /// Boots the tree, with files and directories of ours at paths of its own: `(ours, its)`.
    /// Returns when it has started all of its units.
    ///
    /// # Panics
    /// If it does not come up.
    #[must_use]
    pub fn boot(tree: &Path, binds: &[(PathBuf, &str)]) -> Self {
        let dir = temp_dir();
        let mut command = Command::new("systemd-nspawn");
        command
            .args(["--boot", "--quiet", "--register=no", "--keep-unit"])
            .args(["--volatile=overlay", "--console=pipe", "--resolv-conf=off"])
            .arg(format!("--machine=edge-gateway-{}", std::process::id()))
            .arg("--directory")
            .arg(tree);
        for (ours, its) in binds {
            command.arg(format!("--bind={}:{its}", ours.display()));
        }
        let mut nspawn = Process::start("systemd-nspawn", command, dir.path(), Some(dir.path()));
        let init = wait::until_some("the first process of a machine", BOOT_WITHIN, || {
            let ended = nspawn.ended();
            assert!(ended.is_none(), "systemd-nspawn ended: {ended:?}");
            first_process(nspawn.id())
        });
        let machine = Self {
            nspawn,
            init,
            _dir: dir,
        };
        wait::until("all units of a machine are started", BOOT_WITHIN, || {
            let state = machine.try_run("systemctl is-system-running");
            matches!(stdout(&state).trim(), "running" | "degraded")
        });
        machine
    }

    /// Runs a script in it, by `sh -eu`, and returns what that printed.
    ///
    /// # Panics
    /// If the script fails.
    pub fn run(&self, script: &str) -> String {
        let output = self.try_run(script);
        assert!(
            output.status.success(),
            "{script}\n{}{}",
            stdout(&output),
            String::from_utf8_lossy(&output.stderr)
        );
        stdout(&output)
    }

    /// Runs a script in it that may fail.
    ///
    /// # Panics
    /// If it can't be started.
    #[must_use]
    pub fn try_run(&self, script: &str) -> Output {
        Command::new("nsenter")
            .args(["--mount", "--uts", "--ipc", "--pid", "--cgroup"])
            .arg(format!("--target={}", self.init))
            .args(["--", "/usr/bin/env", "-i"])
            .args(["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"])
            .args(["DEBIAN_FRONTEND=noninteractive", "/bin/sh", "-euc", script])
            .output()
            .unwrap_or_else(|e| panic!("nsenter: {e}"))
    }

    /// A property of a unit.
    ///
    /// # Panics
    /// If systemd does not say.
    #[must_use]
    pub fn property(&self, unit: &str, name: &str) -> String {
        let value = self.run(&format!("systemctl show --value -p {name} {unit}"));
        value.trim().to_owned()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Its journal is all there is to see of a unit that failed.
        if std::thread::panicking() {
            let journal = self.try_run("journalctl --no-pager --lines 80 --unit edge-gateway");
            eprintln!("--- journal of the machine\n{}", stdout(&journal));
        }
        self.nspawn.stop(Duration::from_secs(30));
    }
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// systemd among the children of `systemd-nspawn`, once it is what runs there.
fn first_process(nspawn: u32) -> Option<u32> {
    let children = std::fs::read_to_string(format!("/proc/{nspawn}/task/{nspawn}/children"));
    children.ok()?.split_whitespace().find_map(|pid| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        (name.trim() == "systemd").then(|| pid.parse().ok())?
    })
}
