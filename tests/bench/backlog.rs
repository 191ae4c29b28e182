//! A backlog of hours: reading it back, opening it again, and the memory all that takes.
//!
//! Each measurement is a process of its own, since memory is its peak and a cache would make the
//! second opening cheaper than the first. The file system is mounted anew before each opening: as
//! after a power cut, nothing of the log is in memory, not even its names.

use std::hint::black_box;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use edge_gateway::commit_log::fs::RealFs;
use edge_gateway::commit_log::{CommitLog, Cursor, Item};
use edge_gateway::record::Offset;
use serde::{Deserialize, Serialize};

use crate::disk::Disk;
use crate::driver::{self, Deaf, Driver, SEGMENT_BYTES};
use crate::error::BenchError;
use crate::report::{Report, Target};
use crate::telemetry::Telemetry;

const GIB: u64 = 1 << 30;
/// Room for the largest backlog, the rest of its budget and the file system's own.
pub(crate) const DISK_BYTES: u64 = 11 * GIB;
const SMALL_GIB: u64 = 1;
const LARGE_GIB: u64 = 8;
/// How far a log may grow beyond the backlog it is filled with.
const SLACK_BYTES: u64 = 16 * SEGMENT_BYTES;
/// A backlog of small commits, as at a low rate.
const SMALL_COMMITS_BYTES: u64 = 128 << 20;
const SMALL_COMMIT_RECORDS: usize = 32;
/// How often filling looks how far it is.
const LOOK_EVERY: usize = 1024;
const READ_PER_SECOND_MIN: f64 = 3e6;

/// Where a log is.
#[derive(Args, Clone, Debug)]
pub(crate) struct Place {
    dir: PathBuf,
}

/// What to fill a log with.
#[derive(Args, Clone, Debug)]
pub(crate) struct Fill {
    dir: PathBuf,
    gib: u64,
}

/// What a process has to tell.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
struct Figures {
    open_ms: f64,
    records: u64,
    cold_seconds: f64,
    warm_seconds: f64,
    peak_kib: u64,
}

/// Measures all of it.
pub(crate) fn measure(
    disk: &Disk,
    rounds: usize,
    short: bool,
    report: &mut Report,
) -> Result<(), BenchError> {
    let dir = disk.path().join("backlog");
    let small = small_backlog(disk, &dir, rounds, report)?;
    small_commits(disk, &dir, rounds, report)?;
    if !short {
        large_backlog(disk, &dir, &small, report)?;
    }
    Ok(())
}

/// Returns what each reopening has told.
fn small_backlog(
    disk: &Disk,
    dir: &Path,
    rounds: usize,
    report: &mut Report,
) -> Result<Vec<Figures>, BenchError> {
    eprintln!("a backlog of {SMALL_GIB} GiB");
    let filled = told(start("fill", dir, Some(SMALL_GIB))?)?;
    let mut reopened = Vec::new();
    for _ in 0..rounds {
        reopened.push(reopen_cold(disk, dir, SMALL_GIB, report)?);
        add_reading(disk, dir, "512 KiB", filled.records, report)?;
    }
    remove(dir)?;
    Ok(reopened)
}

fn small_commits(
    disk: &Disk,
    dir: &Path,
    rounds: usize,
    report: &mut Report,
) -> Result<(), BenchError> {
    eprintln!("a backlog of small commits");
    let mut records = 1;
    let budget = SMALL_COMMITS_BYTES + SLACK_BYTES;
    let mut driver = Driver::start(driver::options(dir, budget))?;
    while driver.batch_bytes() < SMALL_COMMITS_BYTES {
        driver.commit(SMALL_COMMIT_RECORDS, false)?;
        records += SMALL_COMMIT_RECORDS as u64;
    }
    drop(driver);
    for _ in 0..rounds {
        add_reading(disk, dir, "32 records", records, report)?;
    }
    remove(dir)
}

fn large_backlog(
    disk: &Disk,
    dir: &Path,
    small: &[Figures],
    report: &mut Report,
) -> Result<(), BenchError> {
    eprintln!("a backlog of {LARGE_GIB} GiB");
    let mut filler = start("fill-and-drain", dir, Some(LARGE_GIB))?;
    line(&mut filler)?;
    for small in small {
        let large = reopen_cold(disk, dir, LARGE_GIB, report)?;
        let ratio = large.peak_kib as f64 / small.peak_kib as f64;
        let what = format!("reopening {LARGE_GIB} GiB: peak memory, of that with {SMALL_GIB} GiB");
        report.add(&what, 1, Target::AtMost(1.0), ratio);
    }
    eprintln!("draining it");
    filler
        .stdin
        .take()
        .map(|mut input| input.write_all(b"drain\n"))
        .transpose()
        .map_err(BenchError::io("tell the filler to drain"))?;
    let drained = told(filler)?;
    let what = format!("filling and draining {LARGE_GIB} GiB: peak memory, MiB");
    report.add(&what, 1, Target::AtMost(16.0), mib(drained.peak_kib));
    remove(dir)
}

fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

fn reopen_cold(
    disk: &Disk,
    dir: &Path,
    gib: u64,
    report: &mut Report,
) -> Result<Figures, BenchError> {
    disk.forget()?;
    let figures = told(start("reopen", dir, None)?)?;
    let what = format!("reopening {gib} GiB, ms");
    report.add(&what, 1, Target::AtMost(50.0), figures.open_ms);
    let what = format!("reopening {gib} GiB: peak memory, MiB");
    report.add(&what, 1, Target::None, mib(figures.peak_kib));
    Ok(figures)
}

fn add_reading(
    disk: &Disk,
    dir: &Path,
    batches: &str,
    records: u64,
    report: &mut Report,
) -> Result<(), BenchError> {
    disk.forget()?;
    let figures = told(start("read", dir, None)?)?;
    if figures.records != records {
        return Err(BenchError::Lost {
            expected: records,
            found: figures.records,
        });
    }
    let rate = |seconds: f64| figures.records as f64 / seconds;
    let what = format!("reading back batches of {batches}, records/s");
    let least = Target::AtLeast(READ_PER_SECOND_MIN);
    report.add(&what, 0, least, rate(figures.warm_seconds));
    let what = format!("reading back batches of {batches}, from a cold disk, records/s");
    report.add(&what, 0, Target::None, rate(figures.cold_seconds));
    Ok(())
}

fn remove(dir: &Path) -> Result<(), BenchError> {
    std::fs::remove_dir_all(dir).map_err(BenchError::io("remove the log"))
}

/// Starts this program with a part of its own.
fn start(part: &str, dir: &Path, gib: Option<u64>) -> Result<Child, BenchError> {
    let itself = std::env::current_exe().map_err(BenchError::io("find this program"))?;
    Command::new(itself)
        .arg(part)
        .arg(dir)
        .args(gib.map(|gib| gib.to_string()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(BenchError::io("start a part of the benchmark"))
}

/// A line that a part has printed.
fn line(child: &mut Child) -> Result<String, BenchError> {
    let output = child.stdout.as_mut().expect("it is piped");
    // Parts print one line at a time and wait, so nothing is read too much.
    let mut line = String::new();
    BufReader::new(output)
        .read_line(&mut line)
        .map_err(BenchError::io("read what a part says"))?;
    Ok(line)
}

/// The figures with which a part has ended.
fn told(mut child: Child) -> Result<Figures, BenchError> {
    let found = line(&mut child)?;
    child
        .wait()
        .map_err(BenchError::io("wait for a part of the benchmark"))?;
    let what = "what a part of the benchmark says";
    serde_json::from_str(&found).map_err(|_| BenchError::Figure { what, found })
}

fn tell(figures: Figures) -> Result<ExitCode, BenchError> {
    let peak_kib = peak_kib()?;
    let text = serde_json::json!(Figures {
        peak_kib,
        ..figures
    });
    println!("{text}");
    Ok(ExitCode::SUCCESS)
}

/// The most memory that this process has had.
fn peak_kib() -> Result<u64, BenchError> {
    let status = std::fs::read_to_string("/proc/self/status")
        .map_err(BenchError::io("read this process's status"))?;
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next())
        .and_then(|kib| kib.parse().ok());
    peak.ok_or(BenchError::Figure {
        what: "this process's peak memory",
        found: status,
    })
}

fn open(dir: &Path, bytes_max: u64) -> Result<CommitLog, BenchError> {
    let options = driver::options(dir, bytes_max);
    Ok(CommitLog::open(Arc::new(RealFs), options, Box::new(Deaf), ())?.log)
}

/// The part that opens a log.
pub(crate) fn reopen(place: &Place) -> Result<ExitCode, BenchError> {
    let begun = Instant::now();
    let log = open(&place.dir, DISK_BYTES)?;
    let open_ms = begun.elapsed().as_secs_f64() * 1e3;
    log.close();
    tell(Figures {
        open_ms,
        ..Figures::default()
    })
}

/// The part that fills a log.
pub(crate) fn fill(fill: &Fill) -> Result<ExitCode, BenchError> {
    let records = fill_up(fill)?;
    tell(Figures {
        records,
        ..Figures::default()
    })
}

/// The part that fills a log, and drains it when told to.
pub(crate) fn fill_and_drain(fill: &Fill) -> Result<ExitCode, BenchError> {
    let expected = fill_up(fill)?;
    println!("filled");
    let mut go = String::new();
    std::io::stdin()
        .read_line(&mut go)
        .map_err(BenchError::io("wait to be told to drain"))?;
    let log = open(&fill.dir, DISK_BYTES)?;
    let found = pass(&log, |cursor| log.commit(cursor.position()))?;
    log.close();
    if found != expected {
        return Err(BenchError::Lost { expected, found });
    }
    tell(Figures {
        records: found,
        ..Figures::default()
    })
}

/// Appends until the log has its size; returns how many records it has.
fn fill_up(fill: &Fill) -> Result<u64, BenchError> {
    let bytes = fill.gib * GIB;
    let log = open(&fill.dir, bytes + SLACK_BYTES)?;
    let mut telemetry = Telemetry::new();
    let mut last = Offset::ZERO;
    while log.stats().disk_bytes < bytes {
        for _ in 0..LOOK_EVERY {
            last = driver::append(&log, &telemetry.record())?;
        }
    }
    driver::synced(&log, last)?;
    log.close();
    Ok(last.get() + 1)
}

/// The part that reads a log, from the disk and then from memory.
pub(crate) fn read(place: &Place) -> Result<ExitCode, BenchError> {
    let log = open(&place.dir, DISK_BYTES)?;
    let begun = Instant::now();
    let records = pass(&log, |_| {})?;
    let cold_seconds = begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    pass(&log, |_| {})?;
    let warm_seconds = begun.elapsed().as_secs_f64();
    tell(Figures {
        records,
        cold_seconds,
        warm_seconds,
        ..Figures::default()
    })
}

/// Reads everything, and looks at every record; returns how many there were.
fn pass(log: &CommitLog, mut after_each: impl FnMut(&Cursor)) -> Result<u64, BenchError> {
    let mut cursor = log.cursor(log.committed());
    let mut records = 0;
    while let Some(item) = cursor.next()? {
        match item {
            Item::Batch(batch) => {
                for record in batch.records() {
                    black_box(record.payload);
                    records += 1;
                }
            }
            Item::Hole(hole) => return Err(BenchError::Stuck(format!("it has a hole: {hole:?}"))),
        }
        after_each(&cursor);
    }
    Ok(records)
}
