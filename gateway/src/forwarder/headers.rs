//! Headers: the `CloudEvents` binding for Kafka in binary mode, then the route's own.
//!
//! Texts that are the same for every record are made once, and the time is formatted once a
//! second. What remains is the allocation librdkafka makes for each header.

use std::fmt::Write;

use rdkafka::message::{Header, OwnedHeaders};
use time::OffsetDateTime;

use super::event_time::EventTime;
use super::in_flight::Span;
use super::route::Routed;
use crate::config::HeaderSet;
use crate::record::RecordView;

/// What librdkafka keeps for a header beside its name and value, allocations included. Chosen by
/// eye from its structure, not measured.
const HEADER_OVERHEAD_BYTES: usize = 64;
/// The `CloudEvents` attributes.
const ATTRIBUTES: usize = 7;

/// Makes the headers of records and gap markers.
#[derive(Debug)]
pub(super) struct HeaderMaker {
    set: HeaderSet,
    gateway_id: String,
    log_identity: String,
    /// `<gateway id>:<log identity>:`, then what is the record's own.
    id: Prefixed,
    /// `/edge-gateway/<gateway id>`, then the source.
    source: Prefixed,
    time: TimeText,
}

/// Headers and the memory they hold.
pub(super) struct Made {
    pub(super) headers: Option<OwnedHeaders>,
    pub(super) bytes: usize,
}

impl HeaderMaker {
    pub(super) fn new(set: HeaderSet, gateway_id: &str, log_identity: &str) -> Self {
        Self {
            set,
            gateway_id: gateway_id.to_owned(),
            log_identity: log_identity.to_owned(),
            id: Prefixed::new(format!("{gateway_id}:{log_identity}:")),
            source: Prefixed::new(format!("/edge-gateway/{gateway_id}")),
            time: TimeText::default(),
        }
    }

    /// What follows is of the log with this identity.
    pub(super) fn use_log(&mut self, identity: &str) {
        if self.log_identity != identity {
            identity.clone_into(&mut self.log_identity);
            self.id = Prefixed::new(format!("{}:{identity}:", self.gateway_id));
        }
    }

    /// The headers of a telemetry record.
    pub(super) fn of_record(
        &mut self,
        record: &RecordView<'_>,
        time: EventTime,
        media_type: &str,
        routed: &Routed,
    ) -> Made {
        let mut list = List::new(ATTRIBUTES + 2 + routed.headers().len());
        if self.set != HeaderSet::None {
            list.add("ce_id", self.id.with_number(record.offset.get()));
        }
        if self.set == HeaderSet::CloudEvents {
            list.add("ce_specversion", "1.0");
            list.add("ce_source", self.source.with_text(&["/", record.source]));
            list.add("ce_type", "telemetry");
            list.add("ce_subject", record.subject);
            if let Some(time_ms) = time.ms {
                list.add("ce_time", self.time.of(time_ms));
            }
            list.add("content-type", media_type);
            list.add("timequality", time.quality.as_str());
            if time.device_rejected {
                list.add("devicetime", "rejected");
            }
        }
        for (name, value) in routed.headers() {
            list.add(name, value);
        }
        list.made()
    }

    /// The headers of a gap marker: its type is always told.
    pub(super) fn of_gap(
        &mut self,
        source: Option<&str>,
        span: Span,
        time_ms: Option<i64>,
        media_type: &str,
    ) -> Made {
        let mut list = List::new(ATTRIBUTES);
        list.add("ce_type", "telemetry.gap");
        if self.set != HeaderSet::None {
            let range = format!("{}-{}", span.first, span.last);
            list.add("ce_id", self.id.with_text(&[&range]));
        }
        if self.set == HeaderSet::CloudEvents {
            list.add("ce_specversion", "1.0");
            let source = match source {
                Some(source) => self.source.with_text(&["/", source]),
                None => self.source.with_text(&[]),
            };
            list.add("ce_source", source);
            if let Some(time_ms) = time_ms {
                list.add("ce_time", self.time.of(time_ms));
            }
            list.add("content-type", media_type);
        }
        list.made()
    }
}

struct List {
    headers: Option<OwnedHeaders>,
    capacity: usize,
    bytes: usize,
}

impl List {
    fn new(capacity: usize) -> Self {
        Self {
            headers: None,
            capacity,
            bytes: 0,
        }
    }

    fn add(&mut self, key: &str, value: &str) {
        let headers = self
            .headers
            .take()
            .unwrap_or_else(|| OwnedHeaders::new_with_capacity(self.capacity));
        let value = Some(value);
        self.headers = Some(headers.insert(Header { key, value }));
        self.bytes += HEADER_OVERHEAD_BYTES + key.len() + value.map_or(0, str::len);
    }

    fn made(self) -> Made {
        Made {
            headers: self.headers,
            bytes: self.bytes,
        }
    }
}

/// A text whose head stays and whose tail changes.
#[derive(Debug)]
struct Prefixed {
    text: String,
    prefix_bytes: usize,
}

impl Prefixed {
    fn new(prefix: String) -> Self {
        Self {
            prefix_bytes: prefix.len(),
            text: prefix,
        }
    }

    fn with_text(&mut self, tail: &[&str]) -> &str {
        self.text.truncate(self.prefix_bytes);
        self.text.extend(tail.iter().copied());
        &self.text
    }

    fn with_number(&mut self, tail: u64) -> &str {
        self.with_text(&[itoa::Buffer::new().format(tail)])
    }
}

/// RFC 3339 in UTC with milliseconds, the second kept.
#[derive(Debug, Default)]
pub(super) struct TimeText {
    second: Option<i64>,
    text: String,
}

impl TimeText {
    /// `2026-11-21T`…`05`
    const SECOND_BYTES: usize = 19;

    pub(super) fn of(&mut self, time_ms: i64) -> &str {
        let second = time_ms.div_euclid(1000);
        if self.second != Some(second) {
            // Beyond the year 9999 no such text exists.
            let time =
                OffsetDateTime::from_unix_timestamp(second).unwrap_or(OffsetDateTime::UNIX_EPOCH);
            self.text.clear();
            write!(
                self.text,
                "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}",
                time.year(),
                u8::from(time.month()),
                time.day(),
                time.hour(),
                time.minute(),
                time.second()
            )
            .expect("text is written to memory");
            self.second = Some(second);
        }
        self.text.truncate(Self::SECOND_BYTES);
        // From 1000 on, so that there are three digits behind the first.
        let thousandths = 1000 + time_ms.rem_euclid(1000);
        self.text.push('.');
        self.text
            .push_str(&itoa::Buffer::new().format(thousandths)[1..]);
        self.text.push('Z');
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::message::Headers;

    use super::*;
    use crate::clock::timeline::TimeQuality;
    use crate::record::{Offset, Origin, PayloadKind, Stamp};

    fn record() -> RecordView<'static> {
        RecordView {
            offset: Offset::new(42),
            source: "city",
            subject: "city/north/air/a1",
            kind: PayloadKind::Opaque,
            origin: Origin::Line,
            received: Stamp::default(),
            boot_id: 1,
            payload: b"{}",
        }
    }

    fn synced(ms: Option<i64>) -> EventTime {
        EventTime {
            ms,
            quality: TimeQuality::Synced,
            device_rejected: false,
        }
    }

    fn told(made: &Made) -> Vec<(String, String)> {
        let headers = made.headers.as_ref().expect("some");
        headers
            .iter()
            .map(|header| {
                let value = header.value.unwrap_or_default();
                (
                    header.key.to_owned(),
                    String::from_utf8_lossy(value).into_owned(),
                )
            })
            .collect()
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn a_record_carries_the_attributes_of_cloudevents() {
        let mut maker = HeaderMaker::new(HeaderSet::CloudEvents, "gw-1", "00ff");
        let made = maker.of_record(
            &record(),
            synced(Some(1_700_000_000_007)),
            "application/json",
            &Routed::default(),
        );
        let expected = pairs(&[
            ("ce_id", "gw-1:00ff:42"),
            ("ce_specversion", "1.0"),
            ("ce_source", "/edge-gateway/gw-1/city"),
            ("ce_type", "telemetry"),
            ("ce_subject", "city/north/air/a1"),
            ("ce_time", "2023-11-14T22:13:20.007Z"),
            ("content-type", "application/json"),
            ("timequality", "synced"),
        ]);
        assert_eq!(told(&made), expected);
        let text_bytes: usize = expected.iter().map(|(n, v)| n.len() + v.len()).sum();
        assert!(made.bytes > text_bytes);
    }

    #[test]
    fn without_a_time_none_is_told_and_a_device_that_is_not_believed_is_marked() {
        let mut maker = HeaderMaker::new(HeaderSet::CloudEvents, "gw-1", "00ff");
        let time = EventTime {
            ms: None,
            quality: TimeQuality::Unsynced,
            device_rejected: true,
        };
        let made = maker.of_record(&record(), time, "application/json", &Routed::default());
        let told = told(&made);
        assert!(told.iter().all(|(name, _)| name != "ce_time"));
        let marks = pairs(&[("timequality", "unsynced"), ("devicetime", "rejected")]);
        assert_eq!(told[told.len() - 2..], marks);
    }

    #[test]
    fn without_headers_only_a_gap_marker_tells_its_type() {
        let mut maker = HeaderMaker::new(HeaderSet::None, "gw-1", "00ff");
        let made = maker.of_record(
            &record(),
            synced(None),
            "application/json",
            &Routed::default(),
        );
        assert!(made.headers.is_none());
        let span = Span {
            first: Offset::new(7),
            last: Offset::new(9),
            more_follow: false,
        };
        let made = maker.of_gap(None, span, Some(0), "application/json");
        assert_eq!(told(&made), pairs(&[("ce_type", "telemetry.gap")]));
    }

    #[test]
    fn the_id_of_a_gap_marker_ends_in_its_range() {
        let mut maker = HeaderMaker::new(HeaderSet::Id, "gw-1", "00ff");
        let span = Span {
            first: Offset::new(7),
            last: Offset::new(9),
            more_follow: false,
        };
        let made = maker.of_gap(Some("city"), span, Some(0), "application/json");
        let expected = [("ce_type", "telemetry.gap"), ("ce_id", "gw-1:00ff:7-9")];
        assert_eq!(told(&made), pairs(&expected));
    }

    #[test]
    fn times_before_1970_and_beyond_the_calendar_are_written_without_a_panic() {
        let mut time = TimeText::default();
        assert_eq!(time.of(-1), "1969-12-31T23:59:59.999Z");
        assert_eq!(time.of(i64::MAX), "1970-01-01T00:00:00.807Z");
        assert_eq!(time.of(1_000), "1970-01-01T00:00:01.000Z");
        assert_eq!(time.of(1_999), "1970-01-01T00:00:01.999Z");
    }
}
