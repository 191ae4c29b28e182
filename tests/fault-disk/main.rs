//! `fault-disk MOUNTPOINT`: a disk whose power fails on demand, as a FUSE file system in memory.
//!
//! Prints `ready` once it is mounted, then takes commands on standard input, one a line, and answers
//! each with `ok` or `error: …`. It ends with its input, and so with whoever started it.
//!
//! ```text
//! arm OPERATIONS KEPT SEED   the power fails in so manyth write, sync or change of a name from now;
//!                            of what is not synced then, KEPT is left: everything | nothing | some
//! wait                       answers once the power has failed, or after a second: `ok off`, `ok on`
//! on                         the power is back
//! ```
//!
//! Without power everything fails with EIO. A file of it may be mounted as a block device: what the
//! file system on it does not flush is then what the device's cache loses.

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, reason = "a test that fails says where")
)]

mod disk;
mod fs;

use std::io::{BufRead as _, Write as _};
use std::process::{Command, ExitCode};
use std::time::Duration;

use fuser::{Config, MountOption};

use disk::{Cut, Kept};
use fs::Shared;

fn main() -> ExitCode {
    let Some(mount_point) = std::env::args_os().nth(1) else {
        eprintln!("fault-disk: where is it to be mounted?");
        return ExitCode::FAILURE;
    };
    let shared = Shared::new();
    let mut config = Config::default();
    config.mount_options = vec![MountOption::FSName("fault-disk".to_owned())];
    let session = match fuser::spawn_mount(shared.clone(), &mount_point, &config) {
        Ok(session) => session,
        Err(error) => {
            eprintln!("fault-disk: cannot mount (it takes root and /dev/fuse): {error}");
            return ExitCode::FAILURE;
        }
    };
    say("ready");
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        match perform(&shared, &line) {
            Ok(answer) => say(answer),
            Err(reason) => say(&format!("error: {reason}")),
        }
    }
    // Whatever still uses it: it goes with this process.
    let _ = Command::new("umount").arg("-l").arg(&mount_point).status();
    drop(session);
    // Only if it is empty, as it is once nothing is mounted there; whoever started us may be gone.
    let _ = std::fs::remove_dir(&mount_point);
    ExitCode::SUCCESS
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // Whoever started us may be gone; the next read of the input ends the program.
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}

fn perform(disk: &Shared, line: &str) -> Result<&'static str, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match *words.as_slice() {
        ["arm", operations, kept, seed] => disk.arm(Cut {
            operations: number(operations)?,
            kept: kept_of(kept)?,
            seed: number(seed)?,
        }),
        // Not for longer: nobody would see the input end meanwhile.
        ["wait"] if disk.wait_for_cut(Duration::from_secs(1)) => return Ok("ok off"),
        ["wait"] => return Ok("ok on"),
        ["on"] => disk.power_on(),
        _ => return Err(format!("no such command: {line:?}")),
    }
    Ok("ok")
}

fn kept_of(word: &str) -> Result<Kept, String> {
    match word {
        "everything" => Ok(Kept::Everything),
        "nothing" => Ok(Kept::Nothing),
        "some" => Ok(Kept::Some),
        _ => Err(format!("{word:?} is not what can be kept")),
    }
}

fn number(word: &str) -> Result<u64, String> {
    word.parse().map_err(|_| format!("{word:?} is no number"))
}
