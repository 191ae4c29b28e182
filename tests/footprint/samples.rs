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

/// By how much a second `values` at `(second, value)` grow: the median of the slopes between any two of
/// them. A buffer that grows once, in one step, moves it little, where it would tilt a line of least
/// squares; what leaks moves it as far.
///
/// # Panics
/// If there are fewer than two values, or two of one second.
pub(crate) fn slope(values: &[(f64, f64)]) -> f64 {
    let later = |first: usize| values[first + 1..].iter();
    let mut slopes: Vec<f64> = (0..values.len())
        .flat_map(|first| later(first).map(move |value| (values[first], *value)))
        .map(|(first, later)| (later.1 - first.1) / (later.0 - first.0))
        .collect();
    let middle = slopes.len() / 2;
    *slopes.select_nth_unstable_by(middle, f64::total_cmp).1
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn number(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[test]
fn a_line_has_its_own_slope_also_with_a_step_in_it() {
    let line = |x: u32, step: f64| (f64::from(x), 3.0 * f64::from(x) - 5.0 + step);
    let straight: Vec<(f64, f64)> = (0..10).map(|x| line(x, 0.0)).collect();
    assert!((slope(&straight) - 3.0).abs() < 1e-9);
    let stepped: Vec<(f64, f64)> = (0..10)
        .map(|x| line(x, if x < 7 { 0.0 } else { 1000.0 }))
        .collect();
    assert!((slope(&stepped) - 3.0).abs() < 1e-9);
}

#[test]
fn this_process_has_memory_and_this_thread() {
    let memory = memory(std::process::id());
    assert!(memory.rss > memory.anonymous && memory.anonymous > 0);
    assert!(!threads(std::process::id()).is_empty());
}
