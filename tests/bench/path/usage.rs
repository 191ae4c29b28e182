//! What a process has used, as the kernel counts it.

use crate::error::BenchError;

/// So many in a second, on every architecture of Linux we run on.
const TICKS_PER_SECOND: f64 = 100.0;

/// What a process has used since it began.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    /// User and system time, in steps of 10 ms.
    pub(super) cpu_seconds: f64,
    /// Voluntary and involuntary, of the threads it has now.
    pub(super) switches: u64,
    /// Most that was ever resident.
    pub(super) rss_kib: u64,
    /// Resident now.
    pub(super) resident_kib: u64,
}

impl Usage {
    /// What `process` has used; its own number or `self`.
    pub(super) fn of(process: &str) -> Result<Self, BenchError> {
        let stat = read(&format!("/proc/{process}/stat"))?;
        let status = read(&format!("/proc/{process}/status"))?;
        let tasks = std::fs::read_dir(format!("/proc/{process}/task"))
            .map_err(BenchError::io("list the threads of a process"))?;
        let switches = tasks.filter_map(|task| switches(&task.ok()?.path().join("status")));
        Ok(Self {
            cpu_seconds: cpu_seconds(&stat)?,
            switches: switches.sum(),
            // A process that has ended has none.
            rss_kib: field(&status, "VmHWM:").ok_or_else(ended)?,
            resident_kib: field(&status, "VmRSS:").ok_or_else(ended)?,
        })
    }
}

/// A thread that has ended meanwhile has none.
fn switches(path: &std::path::Path) -> Option<u64> {
    let status = std::fs::read_to_string(path).ok()?;
    let voluntary = field(&status, "voluntary_ctxt_switches:")?;
    Some(voluntary + field(&status, "nonvoluntary_ctxt_switches:")?)
}

fn field(status: &str, name: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(name))?;
    value.split_whitespace().next()?.parse().ok()
}

fn cpu_seconds(stat: &str) -> Result<f64, BenchError> {
    // The name, in parentheses, may hold blanks; user and system time are the 12th and 13th fields
    // behind it (proc(5): 14 and 15).
    let (_, fields) = stat.rsplit_once(')').ok_or_else(|| unreadable(stat))?;
    let mut times = fields.split_whitespace().skip(11).map(str::parse::<f64>);
    match (times.next(), times.next()) {
        (Some(Ok(user)), Some(Ok(system))) => Ok((user + system) / TICKS_PER_SECOND),
        _ => Err(unreadable(stat)),
    }
}

fn ended() -> BenchError {
    BenchError::Stuck("a process that was measured has ended".to_owned())
}

fn unreadable(found: &str) -> BenchError {
    BenchError::Figure {
        what: "a process's time",
        found: found.to_owned(),
    }
}

fn read(path: &str) -> Result<String, BenchError> {
    std::fs::read_to_string(path).map_err(BenchError::io("read what a process has used"))
}
