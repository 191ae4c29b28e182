//! What Linux says of a process, and what becomes of it over time.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

/// Memory that is resident, in KiB.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Memory {
    /// All of it.
    pub(crate) rss: u64,
    /// Of that, what is no file's: heap and stacks.
    pub(crate) anonymous: u64,
}

/// # Panics
/// If the process is gone.
pub(crate) fn memory(pid: u32) -> Memory {
    let status = read(&format!("/proc/{pid}/status"));
    let of = |name: &str| number(&status, name).unwrap_or_else(|| panic!("{name} in {status}"));
    Memory {
        rss: of("VmRSS:"),
        anonymous: of("RssAnon:"),
    }
}

/// A process's threads: by their numbers their names and how often each has gone to sleep.
pub(crate) fn threads(pid: u32) -> BTreeMap<u32, (String, u64)> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("the process runs");
    let numbers = tasks.filter_map(|task| task.ok()?.file_name().to_str()?.parse().ok());
    let threads = numbers.filter_map(|tid: u32| {
        // One that ends meanwhile is not listed.
        let status = fs::read_to_string(format!("/proc/{pid}/task/{tid}/status")).ok()?;
        let name = status.lines().next()?.strip_prefix("Name:")?.trim();
        let sleeps = number(&status, "voluntary_ctxt_switches:")?;
        Some((tid, (name.to_owned(), sleeps)))
    });
    threads.collect()
}

/// How often a second each thread was woken over `time`, by its name.
pub(crate) fn wakeups(pid: u32, time: Duration) -> Vec<(String, f64)> {
    let (before, begun) = (threads(pid), Instant::now());
    std::thread::sleep(time);
    let (after, seconds) = (threads(pid), begun.elapsed().as_secs_f64());
    let woken = after.into_iter().map(|(tid, (name, sleeps))| {
        let earlier = before.get(&tid).map_or(0, |(_, sleeps)| *sleeps);
        (name, (sleeps - earlier) as f64 / seconds)
    });
    woken.collect()
}

/// By how much a second `values` at `(second, value)` grow, by least squares.
pub(crate) fn slope(values: &[(f64, f64)]) -> f64 {
    let count = values.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| values.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|value| value.0), mean(|value| value.1));
    let covariance: f64 = values.iter().map(|v| (v.0 - x) * (v.1 - y)).sum();
    let variance: f64 = values.iter().map(|v| (v.0 - x).powi(2)).sum();
    covariance / variance
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn number(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[test]
fn a_line_has_its_own_slope() {
    let line: Vec<(f64, f64)> = (0..10)
        .map(|x| (f64::from(x), 3.0 * f64::from(x) - 5.0))
        .collect();
    assert!((slope(&line) - 3.0).abs() < 1e-9);
}

#[test]
fn this_process_has_memory_and_this_thread() {
    let memory = memory(std::process::id());
    assert!(memory.rss > memory.anonymous && memory.anonymous > 0);
    assert!(!threads(std::process::id()).is_empty());
}
