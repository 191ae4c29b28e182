//! Letters on disk, and the binary that looks at them.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use edge_gateway::clock::{self, SystemClock};
use edge_gateway::commit_log::fs::RealFs;
use edge_gateway::commit_log::{
    CommitLog, CommitReport, Compression, Observer, Options, Progress, SEGMENT_BYTES_MIN,
};
use edge_gateway::dead_letters::{DeadLetter, DeadLetters};
use edge_gateway::metrics::Metrics;
use edge_gateway::record::{Origin, PayloadKind, SourceName, Stamp};

#[derive(Debug)]
struct Deaf;

impl Observer for Deaf {
    fn progress(&self, _progress: Progress) {}
    fn committed(&self, _report: &CommitReport) {}
    fn dropped(&self, _source: &str, _reason: &'static str, _records: u64) {}
}

pub(crate) fn open(data_dir: &Path, metrics: &Metrics) -> DeadLetters {
    DeadLetters::open(data_dir, "gateway test-gw, process 1", metrics).expect("the letters open")
}

/// A main log beside them.
pub(crate) fn main_log(data_dir: &Path) -> CommitLog {
    let options = Options {
        dir: data_dir.join("log"),
        bytes_max: 64 * SEGMENT_BYTES_MIN,
        segment_bytes: SEGMENT_BYTES_MIN,
        commit_interval: Duration::ZERO,
        drop_oldest: false,
        reserve: false,
        age_max: None,
        compression: Compression::None,
        clock: Arc::new(SystemClock::default()),
        owner: "test".to_owned(),
    };
    let opened = CommitLog::open(Arc::new(RealFs), options, Box::new(Deaf), ());
    opened.expect("the log opens").log
}

/// A letter with the given number, which decides on everything.
pub(crate) fn store(letters: &DeadLetters, number: u64) {
    let is_even = number.is_multiple_of(2);
    let source = SourceName::new(if is_even { "press" } else { "city" }).expect("valid");
    let payload: &[u8] = if is_even {
        b"{\"v\":21.5}"
    } else {
        &[0xff, 0, 1]
    };
    let letter = DeadLetter {
        source: &source,
        subject: if is_even {
            "press/7"
        } else {
            "city/a\u{1b}[2J"
        },
        reason: if is_even {
            "too_large"
        } else {
            "invalid_senml"
        },
        code: is_even.then_some("MessageSizeTooLarge"),
        detail: "refused",
        topic: is_even.then_some("telemetry"),
        offset: Some(100 + number),
        kind: PayloadKind::Opaque,
        origin: Origin::MQTT,
        payload_bytes: if number == 3 {
            70_000
        } else {
            payload.len() as u64
        },
        payload,
        received: Stamp {
            wall_ms: 1_700_000_000_000 + i64::try_from(number).expect("small"),
            mono_ms: number,
        },
        boot_id: clock::boot_id(),
    };
    letters
        .store_blocking(&letter, "00000000000000aa")
        .expect("stored");
}

/// Four closed letters, offsets 0 to 3.
pub(crate) fn four_letters() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let letters = open(dir.path(), &Metrics::new());
    (0..4).for_each(|number| store(&letters, number));
    letters.close();
    dir
}

pub(crate) fn run(data_dir: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_edge-gateway"))
        .arg("dead-letters")
        .args(arguments)
        .arg("--data-dir")
        .arg(data_dir)
        .output()
        .expect("the binary runs")
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The offsets that `list` shows.
pub(crate) fn listed(data_dir: &Path) -> Vec<u64> {
    let output = run(data_dir, &["list", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let line = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        line["offset"].as_u64().expect("a number")
    };
    stdout(&output).lines().map(line).collect()
}
