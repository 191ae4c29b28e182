//! Records as the gateway sends them: keys, values and headers, made as cheaply as can be.

use std::fmt::Write as _;

use rdkafka::message::{Header, OwnedHeaders};

use super::super::load::Load;
use crate::telemetry;

/// A random identity has so many characters.
const ID_PREFIX: &str = "bench-gw:0123456789abcdef:";
const HEADERS: usize = 8;

/// A stream of records.
#[derive(Debug)]
pub(super) struct Records {
    /// Key, subject and value.
    made: Vec<(String, String, Vec<u8>)>,
    id: String,
}

impl Records {
    pub(super) fn new() -> Self {
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
        Self {
            made: made.collect(),
            id: ID_PREFIX.to_owned(),
        }
    }

    /// Key, value and headers of a record.
    pub(super) fn record(&mut self, number: u64) -> (&str, &[u8], OwnedHeaders) {
        self.id.truncate(ID_PREFIX.len());
        write!(self.id, "{number}").expect("text is written to memory");
        let (key, subject, value) = &self.made[(number % self.made.len() as u64) as usize];
        let headers = [
            ("ce_id", self.id.as_str()),
            ("ce_specversion", "1.0"),
            ("ce_source", "/edge-gateway/bench-gw/load-0"),
            ("ce_type", "telemetry"),
            ("ce_subject", subject.as_str()),
            ("ce_time", "2026-11-21T12:00:00.123Z"),
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
