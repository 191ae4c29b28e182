//! What the flash bears: the loss window, compression, and bytes written.

use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use super::super::fs::Fs;
use super::super::{
    CommitLog, CommitReport, Compression, Observer, Options, Progress, SEGMENT_BYTES_MIN, batch,
    compression, segment,
};
use super::sim_fs::SimFs;
use super::support::*;
use crate::record::{NewRecord, Offset, Origin, PayloadKind, SourceName, Stamp};

const MIB: u64 = 1 << 20;

#[test]
fn a_record_is_synced_within_the_commit_interval_without_another() {
    let fs = SimFs::default();
    let options = Options {
        // The largest payloads go into one commit.
        segment_bytes: MIB,
        bytes_max: 4 * MIB,
        commit_interval: Duration::from_millis(50),
        ..options()
    };
    let (opened, told) = open_sim(&fs, options);
    assert!(append(&opened.log, 0));
    assert!(append(&opened.log, 1));
    let progress = opened.log.wait(Offset::new(1), PATIENCE);
    assert_eq!(progress.synced, Offset::new(2));
    eventually("it is one commit", || {
        told.commits.load(Ordering::SeqCst) == 1
    });
}

#[test]
fn compressed_batches_are_read_back_across_segments_restarts_and_settings() {
    let fs = SimFs::default();
    let kinds = [Compression::Zstd, Compression::Lz4, Compression::None];
    let mut number = 0;
    for compression in kinds.into_iter().chain(kinds) {
        let options = Options {
            compression,
            ..options()
        };
        let (opened, _) = open_sim(&fs, options);
        assert_eq!(opened.state, Digest::of(number), "{compression:?}");
        assert!(append_synced(&opened.log, number..number + 25));
        number += 25;
        assert_holds(&opened.log, 0, number);
    }
    let zstd = Options {
        compression: Compression::Zstd,
        ..options()
    };
    for call in 0..80 {
        let fs = SimFs::default();
        fs.power_off_in(call);
        let opened = open_with(Arc::new(fs.clone()), zstd.clone(), Told::default());
        let synced = opened.map_or(0, |opened| {
            append_synced(&opened.log, 0..40);
            opened.log.close();
            opened.log.progress().synced.get()
        });
        fs.power_cycle(call);
        let (opened, _) = open_sim(&fs, zstd.clone());
        let end = opened.log.progress().synced.get();
        assert!(end >= synced, "call {call}");
        assert_holds(&opened.log, 0, end);
    }
}

#[test]
fn a_stated_length_beyond_the_segment_is_a_hole_and_takes_no_memory() {
    let fs = SimFs::default();
    let zstd = Options {
        compression: Compression::Zstd,
        ..options()
    };
    let (opened, _) = open_sim(&fs, zstd.clone());
    for number in 0..60 {
        assert!(append_synced(&opened.log, number..number + 1));
    }
    drop(opened);
    fs.tamper(&segment::path(dir(), Offset::ZERO), |content| {
        let packed = |at: &usize| {
            content[*at..*at + 4] == *b"EGLB" && content[*at + 14] == compression_code()
        };
        let at = (0..content.len() - batch::HEADER_BYTES)
            .step_by(8)
            .find(packed)
            .expect("a compressed batch");
        content[at + 72..at + 76].copy_from_slice(&u32::MAX.to_le_bytes());
        let length = u32::from_le_bytes(content[at + 8..at + 12].try_into().expect("4")) as usize;
        let crc = crc32c::crc32c(&content[at + 8..at + batch::HEADER_BYTES + length]);
        content[at + 4..at + 8].copy_from_slice(&crc.to_le_bytes());
    });
    let (opened, _) = open_sim(&fs, zstd);
    let content = read(&opened.log, Offset::ZERO);
    assert_eq!(content.holes.len(), 1);
    assert_eq!(content.holes[0].reason, "corrupt");
    assert_eq!(content.offsets.len(), 59);
    let identity = u64::from_str_radix(&opened.log.identity(), 16).expect("hex");
    let file = fs.open(&segment::path(dir(), Offset::ZERO), false);
    let mut reader = segment::BatchReader::new(file.expect("open"), identity);
    let oversized = |header: &batch::Header| {
        matches!(
            header.content,
            compression::Content::Packed {
                plain_bytes: u32::MAX,
                ..
            }
        )
    };
    let found = reader.search(0, SEGMENT_BYTES_MIN, oversized);
    let found = found.expect("read").expect("the batch");
    assert_eq!(reader.content(&found), None);
    let took_nothing = format!("{reader:?}").contains("plain_bytes: 0");
    assert!(took_nothing);
}

fn compression_code() -> u8 {
    compression::Packing::Zstd.code()
}

/// What a simulated device sends: JSON of about 200 bytes.
fn telemetry(number: u64) -> String {
    let noise = u64::from(crc32c::crc32c(&number.to_le_bytes()));
    let device = number % 20;
    format!(
        "{{\"source\":\"press-line\",\"device\":\"press-{device:03}\",\"sequence\":{},\
         \"sent_ms\":{},\"temperature_c\":{}.{:02},\"pressure_bar\":{}.{:03},\"vibration_mm_s\":0.{:04},\
         \"state\":\"running\",\"operator\":\"shift-b\",\"firmware\":\"1.4.2\"}}",
        number / 20,
        1_763_700_000_000_u64 + number * 5,
        20 + noise % 30,
        noise % 97,
        3 + noise % 4,
        noise % 991,
        noise % 9973,
    )
}

/// Keeps the writer back after each commit until it is let go, so that it finds just what a test has
/// gathered for the next one.
#[derive(Debug)]
struct Gate(mpsc::Receiver<()>);

impl Observer for Gate {
    fn progress(&self, _progress: Progress) {}

    fn committed(&self, _report: &CommitReport) {
        // An error is the end of the test: go on.
        let _ = self.0.recv();
    }

    fn dropped(&self, _source: &str, _reason: &'static str, _records: u64) {}
}

/// Appends the telemetry with this number; returns the bytes of its payload.
fn append_telemetry(log: &CommitLog, number: u64) -> u64 {
    let source = SourceName::new("press-line").expect("valid");
    let payload = telemetry(number);
    let record = NewRecord {
        source: &source,
        subject: "press-line/press-001",
        kind: PayloadKind::Opaque,
        origin: Origin::Line,
        received: Stamp {
            wall_ms: 1_763_700_000_000 + number as i64,
            mono_ms: 1_000_000 + number,
        },
        payload: payload.as_bytes(),
    };
    let offset = log.append(&record).expect("room");
    assert_eq!(offset, Offset::new(number));
    payload.len() as u64
}

/// Bytes written to flash per byte of telemetry in steady state, at so many records a commit.
fn flash_bytes_per_byte(compression: Compression, records_per_commit: u64) -> f64 {
    let options = Options {
        segment_bytes: 4 * MIB,
        bytes_max: 64 * MIB,
        compression,
        ..options()
    };
    let (go, gate) = mpsc::channel();
    let fs = Arc::new(SimFs::default());
    let opened = CommitLog::open(fs, options, Box::new(Gate(gate)), ());
    let log = opened.expect("open").log;
    let mut number = 1;
    append_telemetry(&log, 0);
    let mut cost_of = |payload_bytes_min: u64| {
        let (mut payload_bytes, written_before) = (0, log.stats().written_bytes);
        while payload_bytes < payload_bytes_min {
            let synced = log.wait(Offset::new(number - 1), PATIENCE).synced;
            assert_eq!(synced, Offset::new(number));
            log.commit(synced);
            for _ in 0..records_per_commit {
                payload_bytes += append_telemetry(&log, number);
                number += 1;
            }
            go.send(()).expect("the writer waits");
        }
        (log.stats().written_bytes - written_before) as f64 / payload_bytes as f64
    };
    // Until segments are made no more.
    cost_of(12 * MIB);
    let cost = cost_of(20 * MIB);
    drop(go);
    cost
}

#[test]
fn telemetry_costs_the_flash_no_more_than_promised() {
    for (compression, records, most) in [
        (Compression::None, 32, 2.0),
        (Compression::None, 512, 1.3),
        (Compression::Lz4, 512, 0.7),
        (Compression::Zstd, 512, 0.7),
    ] {
        let ratio = flash_bytes_per_byte(compression, records);
        println!("{compression:?} at {records} a commit: {ratio:.2} bytes written per byte");
        assert!(ratio <= most, "{compression:?} at {records}: {ratio}");
    }
}
