//! A dead letter: as it is handed in, and as its log keeps it.

use serde::{Deserialize, Serialize};

use crate::clock;
use crate::clock::timeline::Timeline;
use crate::record::{NewRecord, Origin, PayloadKind, RecordView, SourceName, Stamp};

/// Longest part of a payload that is kept: what Kafka refuses as too large is often a little over
/// its limit of 1 MiB.
const PAYLOAD_BYTES_KEPT: usize = 1 << 20;

/// A record that is set aside.
#[derive(Clone, Debug)]
pub struct DeadLetter<'a> {
    /// Source that received it.
    pub source: &'a SourceName,
    /// Its subject.
    pub subject: &'a str,
    /// Why, as in the `reason` label of the metrics.
    pub reason: &'a str,
    /// Kafka's error code, by name, if it was Kafka that refused it.
    pub code: Option<&'a str>,
    /// Text for a person: what was refused, by whom, with which code.
    pub detail: &'a str,
    /// Kafka topic it was meant for, if it got that far.
    pub topic: Option<&'a str>,
    /// Offset in the main log, if it got that far.
    pub offset: Option<u64>,
    /// How to read the payload.
    pub kind: PayloadKind,
    /// Its place on the wire.
    pub origin: Origin,
    /// Full size of the payload in bytes.
    pub payload_bytes: u64,
    /// The payload, or its head.
    pub payload: &'a [u8],
    /// Time of receipt.
    pub received: Stamp,
    /// The boot whose monotonic clock that counts in.
    pub boot_id: u64,
}

/// A dead letter as it is kept: the payload of a record, in CBOR. Source, subject and time of
/// receipt are those of the record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// See [`DeadLetter::reason`].
    pub reason: String,
    /// See [`DeadLetter::code`].
    #[serde(default)]
    pub code: Option<String>,
    /// See [`DeadLetter::detail`].
    pub detail: String,
    /// See [`DeadLetter::topic`].
    pub topic: Option<String>,
    /// See [`DeadLetter::offset`].
    pub offset: Option<u64>,
    /// Identity of the log that `offset` is of.
    #[serde(default)]
    pub log: Option<String>,
    /// See [`DeadLetter::kind`], by its name.
    #[serde(default)]
    pub kind: Option<String>,
    /// It came over a line or a bus, not by MQTT, whose topic is its device.
    #[serde(default)]
    pub is_of_line: bool,
    /// See [`DeadLetter::boot_id`].
    #[serde(default)]
    pub boot_id: Option<u64>,
    /// When it was set aside: wall clock in milliseconds since the Unix epoch.
    #[serde(default)]
    pub set_aside_ms: Option<i64>,
    /// See [`DeadLetter::payload_bytes`].
    pub payload_bytes: u64,
    /// See [`DeadLetter::payload`].
    #[serde(with = "bytes_as_bytes")]
    pub payload: Vec<u8>,
}

/// A payload as a CBOR byte string, rather than an array of numbers.
mod bytes_as_bytes {
    use serde::de::{Deserializer, Visitor};
    use serde::ser::Serializer;

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(bytes)
    }

    pub(super) fn deserialize<'d, D: Deserializer<'d>>(from: D) -> Result<Vec<u8>, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Vec<u8>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a byte string")
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }
        }
        from.deserialize_bytes(Bytes)
    }
}

impl DeadLetter<'_> {
    /// As it is kept; `log` is the identity of the log that its offset is of.
    pub(super) fn envelope(&self, log: Option<&str>) -> Envelope {
        let kept = self.payload.len().min(PAYLOAD_BYTES_KEPT);
        Envelope {
            reason: self.reason.to_owned(),
            code: self.code.map(str::to_owned),
            detail: self.detail.to_owned(),
            topic: self.topic.map(str::to_owned),
            offset: self.offset,
            log: log.map(str::to_owned),
            kind: Some(self.kind.name().to_owned()),
            is_of_line: match self.origin {
                Origin::Line | Origin::Link { .. } => true,
                Origin::Mqtt { .. } => false,
            },
            boot_id: Some(self.boot_id),
            set_aside_ms: Some(clock::wall_ms()),
            payload_bytes: self.payload_bytes,
            payload: self.payload[..kept].to_vec(),
        }
    }

    /// The record of the dead letters' log that carries it.
    pub(super) fn record<'a>(&'a self, envelope: &'a [u8]) -> NewRecord<'a> {
        NewRecord {
            source: self.source,
            subject: self.subject,
            kind: PayloadKind::Opaque,
            origin: Origin::Line,
            received: self.received,
            payload: envelope,
        }
    }
}

impl Envelope {
    /// The letter that a record of the dead letters' log carries; `None` for what is none.
    #[must_use]
    pub fn of(record: &RecordView<'_>) -> Option<Self> {
        match record.kind {
            PayloadKind::Opaque => serde_cbor::from_slice(record.payload).ok(),
            PayloadKind::SenmlCbor | PayloadKind::Gap | PayloadKind::Note => None,
        }
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        serde_cbor::to_vec(self).expect("texts, numbers and bytes are always CBOR")
    }

    /// The whole payload was kept, not only its head.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.payload.len() as u64 == self.payload_bytes
    }

    /// Whether the main log, with the identity `identity`, may still hand its record to the
    /// forwarder again.
    pub(super) fn may_come_again(&self, identity: &str, committed: u64) -> bool {
        self.log.as_deref() == Some(identity) && self.offset.is_some_and(|at| at >= committed)
    }

    /// The record that was set aside, to be appended to the main log once more. It is no second
    /// delivery to its wire: it says nothing of link sessions or packet identifiers.
    pub(super) fn record_again<'a>(
        &'a self,
        source: &'a SourceName,
        letter: &'a RecordView<'_>,
        timeline: &Timeline,
    ) -> NewRecord<'a> {
        let kind = self.kind.as_deref().and_then(PayloadKind::from_name);
        NewRecord {
            source,
            subject: letter.subject,
            kind: kind.unwrap_or(PayloadKind::Opaque),
            origin: if self.is_of_line {
                Origin::Line
            } else {
                Origin::MQTT
            },
            received: self.received_again(letter.received, timeline),
            payload: &self.payload,
        }
    }

    /// The time of receipt, in terms of this boot: the log keeps the boot once a batch.
    fn received_again(&self, received: Stamp, timeline: &Timeline) -> Stamp {
        let boot = self.boot_id.unwrap_or(0);
        if boot == clock::boot_id() && boot != 0 {
            return received;
        }
        match timeline.known(boot, received) {
            Some(wall_ms) => Stamp::dated(wall_ms),
            None => Stamp::dated(received.wall_ms),
        }
    }
}
