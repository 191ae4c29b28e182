//! Records as the gateway sends them: keys, values and headers, made as cheaply as can be.

use std::fmt::Write as _;

use rdkafka::message::{Header, OwnedHeaders};

use super::super::load::Load;
use crate::telemetry;

/// A log's identity has so many characters.
const IDENTITY: &str = "0123456789abcdef";
/// Records with the same time, about as in a backlog that came in fast.
const RECORDS_PER_MS: u64 = 100;
const HEADERS: usize = 8;

/// A stream of records.
#[derive(Debug)]
pub(super) struct Records {
    /// Key, subject and value.
    made: Vec<(String, String, Vec<u8>)>,
    id: String,
    id_prefix_bytes: usize,
    source: String,
    times: Vec<String>,
}

impl Records {
    /// As of a gateway with this id.
    pub(super) fn new(gateway: &str) -> Self {
        let Load {
            devices,
            payload_bytes,
        } = Load::USUAL;
        let made =
            telemetry::messages(devices, payload_bytes)
                .into_iter()
                .map(|(subject, value)| {
                    let key = subject.rsplit('/').next().unwrap_or_default().to_owned();
                    (key, format!("load/0/{subject}"), value)
                });
        let id = format!("{gateway}:{IDENTITY}:");
        let time = |ms| format!("2026-11-21T12:00:00.{ms:03}Z");
        Self {
            made: made.collect(),
            id_prefix_bytes: id.len(),
            id,
            source: format!("/edge-gateway/{gateway}/load-0"),
            times: (0..1000).map(time).collect(),
        }
    }

    /// Key, value and headers of a record.
    pub(super) fn record(&mut self, number: u64) -> (&str, &[u8], OwnedHeaders) {
        self.id.truncate(self.id_prefix_bytes);
        write!(self.id, "{number}").expect("text is written to memory");
        let (key, subject, value) = &self.made[(number % self.made.len() as u64) as usize];
        let time = (number / RECORDS_PER_MS) as usize % self.times.len();
        let headers = [
            ("ce_id", self.id.as_str()),
            ("ce_specversion", "1.0"),
            ("ce_source", self.source.as_str()),
            ("ce_type", "telemetry"),
            ("ce_subject", subject.as_str()),
            ("ce_time", self.times[time].as_str()),
            ("content-type", "application/octet-stream"),
            ("timequality", "unsynced"),
        ];
        let mut made = OwnedHeaders::new_with_capacity(HEADERS);
        for (key, value) in headers {
            let value = Some(value);
            made = made.insert(Header { key, value });
        }
        (key, value, made)
    }
}
