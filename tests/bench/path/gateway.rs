//! The gateway under measurement: the real program with default settings, its data on the disk that
//! is measured.

use std::path::Path;
use std::sync::Arc;

use edge_gateway::commit_log::CommitLog;
use edge_gateway::commit_log::Options;
use edge_gateway::commit_log::fs::RealFs;
use edge_gateway::record::{NewRecord, Offset, Origin, PayloadKind, SourceName};
use edge_gateway::state::GatewayState;
use system_tests::gateway::{Gateway, Settings};
use tempfile::TempDir;

use super::bare;
use super::load::Load;
use super::run::Subject;
use crate::driver::{self, Deaf};
use crate::error::BenchError;
use crate::telemetry;

/// Room for whatever a measurement leaves in the log.
const BYTES_MAX: u64 = 4 << 30;
pub(super) const COMMITTED: &str = "edge_gateway_records_committed_total";
/// Bytes written to the log's files. (What the kernel books to a process is no measure: it counts all of
/// the page cache's folio that a commit's page is in, 64 KiB and more.)
pub(super) const WRITTEN: &str = "edge_gateway_disk_written_bytes_total";
pub(super) const DELIVERED: &str = "edge_gateway_records_delivered_total";

/// A gateway that runs, by one of its counters.
pub(super) struct Counted<'a> {
    pub(super) gateway: &'a Gateway,
    pub(super) counter: &'static str,
}

impl Subject for Counted<'_> {
    fn process(&self) -> u32 {
        self.gateway.id()
    }

    fn taken(&self) -> Option<u64> {
        self.gateway
            .metric(self.counter, &[])
            .map(|count| count as u64)
    }
}

/// A directory for a gateway's data on the disk that is measured.
pub(super) fn data_dir(on: &Path) -> Result<TempDir, BenchError> {
    TempDir::new_in(on).map_err(BenchError::io("make the gateway's directory"))
}

/// A gateway without sources; `more` are lines of the section `[buffer]`.
pub(super) fn without_sources(kafka: (&str, &str), data: &Path, more: &str) -> Settings {
    let (bootstrap, topic) = kafka;
    Settings::new(bootstrap, topic)
        .data_dir(data)
        .section(&format!("[buffer]\nbytes_max = \"4 GiB\"\n{more}"))
}

/// A gateway with so many sources at the broker `url`; `more` are lines of the section `[buffer]`.
pub(super) fn settings(
    kafka: (&str, &str),
    url: &str,
    sources: u64,
    data: &Path,
    more: &str,
) -> Settings {
    let pattern = "load/+/city/{district}/air/{device}";
    let settings = without_sources(kafka, data, more).route(pattern, kafka.1, "{device}");
    (0..sources).fold(settings, |settings, source| {
        let filter = format!("load/{source}/#");
        settings.mqtt(&format!("load-{source}"), url, (&filter, 1), "")
    })
}

/// Fills the log of a gateway that does not run yet.
pub(super) fn fill(data: &Path, records: u64) -> Result<(), BenchError> {
    let options = Options {
        dir: data.join("log"),
        ..driver::options(data, BYTES_MAX)
    };
    let state = GatewayState::new(&bare::configuration("127.0.0.1:1", "unused"));
    let opened = CommitLog::open(Arc::new(RealFs), options, Box::new(Deaf), state)?;
    let log = opened.log;
    let source = SourceName::new("load-0").expect("a valid name");
    let Load {
        devices,
        payload_bytes,
    } = Load::USUAL;
    let messages: Vec<(String, Vec<u8>)> = telemetry::messages(devices, payload_bytes)
        .into_iter()
        .map(|(subject, payload)| (format!("load/0/{subject}"), payload))
        .collect();
    let mut last = Offset::ZERO;
    for (number, (subject, payload)) in (0..records).zip(messages.iter().cycle()) {
        let record = NewRecord {
            source: &source,
            subject,
            kind: PayloadKind::Opaque,
            origin: Origin::Mqtt {
                qos: 1,
                // As of messages that were acknowledged long ago.
                packet_id: (number % 0xffff) as u16 + 1,
                dup: false,
                settled: Default::default(),
            },
            received: edge_gateway::clock::now(),
            payload,
        };
        last = driver::append(&log, &record)?;
    }
    driver::synced(&log, last)?;
    log.close();
    Ok(())
}
