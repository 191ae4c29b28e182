//! The work whose instructions are counted.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::ValueEnum;
use edge_gateway::clock::timeline::Boots;
use edge_gateway::commit_log::fs::RealFs;
use edge_gateway::commit_log::{CommitLog, Item};
use edge_gateway::dead_letters::DeadLetters;
use edge_gateway::forwarder::parking::Parking;
use edge_gateway::forwarder::{ForwarderContext, rehearse};
use edge_gateway::metrics::Metrics;
use edge_gateway::pulse::Pulse;
use tempfile::TempDir;

use super::publishes;
use crate::driver::{self, Deaf, Driver};
use crate::error::BenchError;
use crate::frames;

/// Records of one go.
const RECORDS: usize = 8192;
/// Records of a group commit.
const COMMIT_RECORDS: usize = 512;
const BYTES_MAX: u64 = 256 << 20;
const SHIM_PAYLOAD_BYTES: usize = 64;

/// A part of a record's path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Case {
    /// Into the log, in commits of 512 of 200 bytes, the writer's share included
    Append,
    /// Out of the log again
    ReadBack,
    /// Out of the log, routed, made a message with headers
    Forward,
    /// Frames of the shim link with 64 bytes
    ShimDecode,
    /// A publish from its socket into the log's buffer, and its PUBACK: the source's thread alone
    MqttPublish,
}

/// Whose instructions count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Threads {
    All,
    /// The one that the program began with.
    First,
}

impl Case {
    /// Records of one go.
    pub(super) fn records(self) -> usize {
        RECORDS
    }

    pub(super) fn threads(self) -> Threads {
        match self {
            Self::Append => Threads::All,
            Self::ReadBack | Self::Forward | Self::ShimDecode | Self::MqttPublish => Threads::First,
        }
    }

    /// Does the work so many times.
    pub(super) fn work(self, times: u64) -> Result<(), BenchError> {
        let dir = TempDir::new().map_err(BenchError::io("make a directory"))?;
        match self {
            Self::Append => append(dir.path(), times),
            Self::ReadBack => read_back(dir.path(), times),
            Self::Forward => forward(dir.path(), times),
            Self::ShimDecode => shim_decode(times),
            Self::MqttPublish => publishes::receive(dir.path(), RECORDS as u64 * times),
        }
    }
}

fn append(dir: &Path, times: u64) -> Result<(), BenchError> {
    let mut driver = Driver::start(driver::options(&dir.join("log"), BYTES_MAX))?;
    for _ in 0..times * (RECORDS / COMMIT_RECORDS) as u64 {
        driver.commit(COMMIT_RECORDS, false)?;
    }
    Ok(())
}

/// A log with the records of one go.
fn filled(dir: &Path) -> Result<CommitLog, BenchError> {
    append(dir, 1)?;
    let options = driver::options(&dir.join("log"), BYTES_MAX);
    Ok(CommitLog::open(Arc::new(RealFs), options, Box::new(Deaf), ())?.log)
}

fn read_back(dir: &Path, times: u64) -> Result<(), BenchError> {
    let log = filled(dir)?;
    for _ in 0..times {
        let mut cursor = log.cursor(log.committed());
        while let Some(item) = cursor.next()? {
            match item {
                Item::Batch(batch) => batch.records().for_each(|record| {
                    black_box(record.payload);
                }),
                Item::Hole(hole) => return Err(BenchError::Stuck(format!("a hole: {hole:?}"))),
            }
        }
    }
    log.close();
    Ok(())
}

fn forward(dir: &Path, times: u64) -> Result<(), BenchError> {
    let text = format!(
        "[gateway]\nid = \"guard\"\ndata_dir = \"{}\"\n\
         [sources.city]\ntype = \"mqtt\"\nurl = \"mqtt://127.0.0.1:1\"\n\
         subscriptions = [{{ filter = \"#\" }}]\n\
         [kafka]\nbrokers = [\"127.0.0.1:1\"]\ntopic = \"telemetry\"\n\
         [[routes]]\nmatch = \"factory/#\"\ntopic = \"factory\"\n\
         [[routes]]\nmatch = \"city/{{district}}/air/{{device}}\"\ntopic = \"air\"\n\
         key = \"{{device}}\"\nheaders = {{ district = \"{{district}}\" }}\n",
        dir.display()
    );
    let config = driver::config(&text);
    let log = filled(dir)?;
    let metrics = Arc::new(Metrics::new());
    let context = ForwarderContext {
        received_here_from: log.progress().synced,
        log,
        dead_letters: DeadLetters::open(dir, "guard", &metrics)?,
        parking: Parking::open(&config, "guard", Arc::clone(&metrics)),
        metrics,
        boots: Boots::default(),
        stop: Arc::new(AtomicBool::new(false)),
        pulse: Pulse::default(),
    };
    for _ in 0..times {
        let made =
            rehearse(&config, &context).map_err(|error| BenchError::Stuck(error.to_string()))?;
        let expected = RECORDS as u64 + 1;
        if made != expected {
            let found = made;
            return Err(BenchError::Lost { expected, found });
        }
    }
    context.parking.close();
    context.dead_letters.close();
    context.log.close();
    Ok(())
}

fn shim_decode(times: u64) -> Result<(), BenchError> {
    let mut stream = Vec::new();
    for sequence in 0..RECORDS as u32 {
        let payload: [u8; SHIM_PAYLOAD_BYTES] =
            std::array::from_fn(|at| (sequence as usize * 31 + at * 7) as u8);
        frames::encode(sequence, &payload, &mut stream);
    }
    for _ in 0..times {
        let (expected, found) = (RECORDS as u64, frames::decode(&stream));
        if found != expected {
            return Err(BenchError::Lost { expected, found });
        }
    }
    Ok(())
}

/// Longer than any case takes under valgrind.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);
