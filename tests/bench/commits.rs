//! Group commits in steady state: speed beside the raw loop, bytes and flushes on the device.
//!
//! Steady state is a log whose records are delivered as they come: segments are used again, and
//! each run goes over whole segments, with all that changing them costs. Log and raw loop take turns
//! every few commits, since a disk that others use too is not the same a second later.

use std::time::{Duration, Instant};

use edge_gateway::commit_log::{Compression, Options};

use crate::disk::{Counters, Disk};
use crate::driver::{self, Driver, SEGMENT_BYTES};
use crate::error::BenchError;
use crate::raw::Raw;
use crate::report::{Report, Target};
use crate::telemetry::PAYLOAD_BYTES;

/// The log's first segments are new, which is not steady.
const WARM_UP_SEGMENTS: u64 = 3;
/// Large, to be soon done with it.
const WARM_UP_RECORDS: usize = 512;
const MEASURED_SEGMENTS: u64 = 8;
/// Written in turn by the log and by the raw loop.
const TURN_BYTES: u64 = SEGMENT_BYTES / 8;
const BYTES_MAX: u64 = 8 * SEGMENT_BYTES;

/// A kind of commit, and what is asked of it.
struct Case {
    name: &'static str,
    records: usize,
    compression: Compression,
    speed: Target,
    bytes_max: f64,
    flushes: Target,
}

const CASES: [Case; 3] = [
    Case {
        name: "32 a commit",
        records: 32,
        compression: Compression::None,
        speed: Target::AtLeast(0.6),
        bytes_max: 2.0,
        flushes: Target::AtMost(1.0),
    },
    Case {
        name: "512 a commit",
        records: 512,
        compression: Compression::None,
        speed: Target::AtLeast(0.8),
        bytes_max: 1.3,
        flushes: Target::AtMost(1.0),
    },
    Case {
        name: "512 a commit, zstd",
        records: 512,
        compression: Compression::Zstd,
        speed: Target::None,
        bytes_max: 0.7,
        flushes: Target::None,
    },
];

/// What one run has cost.
#[derive(Debug, Default)]
struct Run {
    commits: u64,
    log: Duration,
    raw: Duration,
    /// The same number of commits, each waited for before the next is appended.
    waited: Duration,
    /// By the log alone.
    device: Counters,
}

/// Measures all cases, one after the other in each round.
pub(crate) fn measure(disk: &Disk, rounds: usize, report: &mut Report) -> Result<(), BenchError> {
    for round in 1..=rounds {
        eprintln!("commits, round {round} of {rounds}");
        for case in &CASES {
            add(report, case, &run(disk, case)?);
        }
    }
    Ok(())
}

fn add(report: &mut Report, case: &Case, run: &Run) {
    let Case {
        name,
        records,
        speed,
        bytes_max,
        flushes: flushes_max,
        ..
    } = case;
    let mut row = |what: &str, decimals, target, sample| {
        report.add(&format!("{name}: {what}"), decimals, target, sample);
    };
    let commits = run.commits as f64;
    let payload_bytes = commits * (*records * PAYLOAD_BYTES) as f64;
    let (log, raw) = (run.log.as_secs_f64(), run.raw.as_secs_f64());
    let device_bytes = run.device.written_bytes as f64;
    let flushes = run.device.flushes as f64;
    row("commits/s, of the raw loop's", 2, *speed, raw / log);
    let waited = run.waited.as_secs_f64();
    row(
        "each waited for: commits/s, of the raw loop's",
        2,
        Target::None,
        raw / waited,
    );
    let bytes = device_bytes / payload_bytes;
    row(
        "bytes to the device per payload byte",
        2,
        Target::AtMost(*bytes_max),
        bytes,
    );
    row(
        "device flushes per commit",
        1,
        *flushes_max,
        flushes / commits,
    );
    row("commits/s", 0, Target::None, commits / log);
    row("raw loop, commits/s", 0, Target::None, commits / raw);
}

fn run(disk: &Disk, case: &Case) -> Result<Run, BenchError> {
    let dir = disk.path().join("steady");
    let mut driver = Driver::start(Options {
        compression: case.compression,
        ..driver::options(&dir, BYTES_MAX)
    })?;
    while driver.batch_bytes() < WARM_UP_SEGMENTS * SEGMENT_BYTES {
        driver.commit(WARM_UP_RECORDS, true)?;
    }
    let before = driver.batch_bytes();
    driver.commit(case.records, true)?;
    let batch_bytes = driver.batch_bytes() - before;
    let path = disk.path().join("raw");
    let mut raw = Raw::start(&path, batch_bytes as usize)?;
    disk.sync()?;
    let mut run = Run::default();
    let commits = TURN_BYTES.div_ceil(batch_bytes);
    for _ in 0..MEASURED_SEGMENTS * SEGMENT_BYTES / TURN_BYTES {
        take_turns(disk, case, (&mut driver, &mut raw), commits, &mut run)?;
    }
    // What the journal holds back is charged to the log, the raw loop's part as well.
    let before = disk.counters()?;
    disk.sync()?;
    run.device.add(before, disk.counters()?);
    drop(driver);
    std::fs::remove_dir_all(&dir).map_err(BenchError::io("remove the log"))?;
    std::fs::remove_file(&path).map_err(BenchError::io("remove the raw loop's file"))?;
    Ok(run)
}

fn take_turns(
    disk: &Disk,
    case: &Case,
    (driver, raw): (&mut Driver, &mut Raw),
    commits: u64,
    run: &mut Run,
) -> Result<(), BenchError> {
    let before = disk.counters()?;
    let begun = Instant::now();
    driver.stream(case.records, commits)?;
    run.log += begun.elapsed();
    run.device.add(before, disk.counters()?);
    let begun = Instant::now();
    for _ in 0..commits {
        driver.commit(case.records, true)?;
    }
    run.waited += begun.elapsed();
    let begun = Instant::now();
    for _ in 0..commits {
        raw.commit()?;
    }
    run.raw += begun.elapsed();
    run.commits += commits;
    Ok(())
}
