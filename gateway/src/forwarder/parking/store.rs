//! The logs of parked topics on disk: one commit log each, in a directory named as the topic.
//!
//! A topic's name is a safe name for a directory: letters, digits, `.`, `_` and `-`, at most 249 of
//! them, and neither `.` nor `..`. A directory on its way out is renamed first, to a name that no topic
//! has, so that a crash leaves all of a log or nothing.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::entry::{OVERHEAD_BYTES, Taken};
use crate::clock::SystemClock;
use crate::commit_log::fs::RealFs;
use crate::commit_log::{
    CommitLog, CommitReport, Compression, Observer, OpenError, Opened, Options, Progress,
    SEGMENT_BYTES_MIN,
};
use crate::config::{Config, Source, SourceKind};
use crate::forwarder::route::is_topic_name;
use crate::metrics::Metrics;

/// Beside its payload: a subject of the longest kind, and what encoding adds.
const RECORD_OVERHEAD_BYTES: u64 = 65_536 + 256 + OVERHEAD_BYTES as u64;
/// Budgets have room for so many segments: what is written, what is read, a spare, and one to grow.
const SEGMENTS_MIN: u64 = 4;
/// The pages of a log that are no segments, rounded up.
const OVERHEAD_OF_LOG_BYTES: u64 = 64 * 1024;
/// What a directory on its way out is called; no topic has a `~`.
const REMOVED: &str = "~removed";

/// Where parking logs are, and how they are opened.
#[derive(Debug)]
pub(super) struct Store {
    dir: PathBuf,
    owner: String,
    pub(super) bytes_max: u64,
    pub(super) segment_bytes: u64,
    commit_interval: Duration,
    compression: Compression,
}

/// A parking log, and what it has taken.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) log: CommitLog,
    pub(super) taken: Taken,
}

/// Nobody waits for it but the forwarder, which looks by itself.
#[derive(Debug)]
struct Unobserved;

impl Observer for Unobserved {
    fn progress(&self, _progress: Progress) {}

    fn committed(&self, _report: &CommitReport) {}

    fn dropped(&self, _source: &str, _reason: &'static str, _records: u64) {}
}

impl Store {
    pub(super) fn new(config: &Config, owner: &str) -> Self {
        let bytes_max = config.buffer.parking_bytes_max;
        Self {
            dir: config.gateway.data_dir.join("parking"),
            owner: owner.to_owned(),
            bytes_max,
            segment_bytes: segment_bytes(payload_bytes_max(config), bytes_max),
            commit_interval: config.buffer.commit_interval,
            compression: config.buffer.compression,
        }
    }

    /// Topics that have a log. What was on its way out is removed.
    pub(super) fn topics(&self) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut topics = Vec::new();
        for entry in entries {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            if name.starts_with(REMOVED) {
                fs::remove_dir_all(entry.path())?;
            } else if is_topic_name(&name) && entry.file_type()?.is_dir() {
                topics.push(name);
            }
        }
        Ok(topics)
    }

    /// Opens the log of a topic, making it if it is not there; what was amiss is reported.
    pub(super) fn open(&self, topic: &str, metrics: &Metrics) -> Result<Stored, OpenError> {
        let options = Options {
            dir: self.dir.join(topic),
            bytes_max: self.bytes_max.max(2 * self.segment_bytes) + OVERHEAD_OF_LOG_BYTES,
            segment_bytes: self.segment_bytes,
            commit_interval: self.commit_interval,
            drop_oldest: false,
            reserve: false,
            age_max: None,
            compression: self.compression,
            clock: Arc::new(SystemClock::default()),
            owner: self.owner.clone(),
        };
        let state = Taken::default();
        let opened = CommitLog::open(Arc::new(RealFs), options, Box::new(Unobserved), state)?;
        let Opened {
            log,
            state,
            recovery,
        } = opened;
        for finding in &recovery.findings {
            metrics.report(finding);
        }
        Ok(Stored { log, taken: state })
    }

    /// Removes the closed log of a topic.
    pub(super) fn remove(&self, topic: &str) -> io::Result<()> {
        let gone = self.dir.join(format!("{REMOVED}-{topic}"));
        match fs::rename(self.dir.join(topic), &gone) {
            Ok(()) => {}
            // A file name has room for 255 bytes: the longest topics have none for the prefix.
            Err(_) => fs::rename(self.dir.join(topic), self.dir.join(REMOVED))?,
        }
        sync_dir(&self.dir)?;
        for name in [gone, self.dir.join(REMOVED)] {
            match fs::remove_dir_all(name) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }
}

/// The new name outlives a power cut, so that no half-removed log is ever opened.
fn sync_dir(dir: &Path) -> io::Result<()> {
    fs::File::open(dir)?.sync_all()
}

/// Largest payload that a source can store.
fn payload_bytes_max(config: &Config) -> u64 {
    let of_source = |source: &Source| match &source.kind {
        SourceKind::Serial(serial) => serial.frame_bytes_max as u64,
        SourceKind::Mqtt(mqtt) => mqtt.payload_bytes_max as u64,
        // A reading of a hundred registers: below the smallest segment's bound anyway.
        SourceKind::Modbus(_) => 16 * 1024,
    };
    config.sources.iter().map(of_source).max().unwrap_or(0)
}

/// Small, so that many topics fit into the budget, and large enough for the largest record.
fn segment_bytes(payload_bytes_max: u64, bytes_max: u64) -> u64 {
    let needed = (2 * (payload_bytes_max + RECORD_OVERHEAD_BYTES)).next_multiple_of(4096);
    let affordable = bytes_max / SEGMENTS_MIN / 4096 * 4096;
    needed.min(affordable).max(SEGMENT_BYTES_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_hold_the_largest_record_and_leave_room_for_several() {
        let mib = 1 << 20;
        assert_eq!(segment_bytes(100, 64 * mib), SEGMENT_BYTES_MIN.max(135_168));
        let large = segment_bytes(mib, 64 * mib);
        assert!(large / 2 > mib + 65_536 && large < 3 * mib, "{large}");
        assert_eq!(segment_bytes(16 * mib, 16 * mib), 4 * mib);
    }
}
