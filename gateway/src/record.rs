//! What a record is, from the moment a source receives it until Kafka reports it delivered.
//!
//! Sources build a borrowed [`NewRecord`]; the commit log encodes it once into the batch buffer
//! that is written to disk, and the forwarder reads it back as a borrowed [`RecordView`]. No owned
//! form exists, so that a record is copied twice on its way through the gateway and never
//! allocated for.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// Position of a record in a commit log. Dense from 0, never reused once synced (I6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offset(u64);

impl Offset {
    /// The first offset of a new log.
    pub const ZERO: Self = Self(0);

    /// An offset from its number.
    #[must_use]
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// The offset as a number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The offset `count` records further on.
    #[must_use]
    pub const fn plus(self, count: u64) -> Self {
        Self(self.0.saturating_add(count))
    }

    /// How many records lie between `earlier` and `self`; 0 if `earlier` is not earlier.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Name of a source: `[a-z0-9-]{1,32}`. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceName(Arc<str>);

impl SourceName {
    /// Longest name, in bytes.
    pub const BYTES_MAX: usize = 32;

    /// Checks and makes a source name.
    ///
    /// # Errors
    /// [`InvalidSourceName`] if `name` is empty, longer than 32 bytes, or holds anything but
    /// lower-case letters, digits and `-`.
    pub fn new(name: &str) -> Result<Self, InvalidSourceName> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if name.is_empty() || name.len() > Self::BYTES_MAX || !name.bytes().all(allowed) {
            return Err(InvalidSourceName {
                name: name.to_owned(),
            });
        }
        Ok(Self(Arc::from(name)))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Borrow<str> for SourceName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// A source name that the contract does not allow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is not a source name: 1 to 32 of a-z, 0-9 and -")]
pub struct InvalidSourceName {
    /// What was given.
    pub name: String,
}

/// How a record's payload is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PayloadKind {
    /// Any bytes: an MQTT payload, a line, an OPAQUE frame.
    Opaque = 0,
    /// A `SenML` pack in CBOR (RFC 8428, section 6), a SENML frame of the shim link.
    SenmlCbor = 1,
    /// Not telemetry: a gap that a source found (an MQTT session that is gone, say). The payload
    /// is a [`GapNote`] in CBOR; it is forwarded as a `telemetry.gap` record.
    Gap = 2,
    /// Nothing for Kafka: what a source notes about itself, so that it is as durable as its records
    /// (I9). The payload is a [`SessionNote`] in CBOR, or nothing where the origin says it all.
    Note = 3,
}

impl PayloadKind {
    /// Its name for machines.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Opaque => "opaque",
            Self::SenmlCbor => "senml_cbor",
            Self::Gap => "gap",
            Self::Note => "note",
        }
    }

    /// The kind of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let kinds = [Self::Opaque, Self::SenmlCbor, Self::Gap, Self::Note];
        kinds.into_iter().find(|kind| kind.name() == name)
    }
}

/// What an MQTT source notes about its session at the broker.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SessionNote {
    /// Which session: broker and client id. Another one than before has nothing in common with it.
    pub session: String,
    /// The broker did not know it when we connected: it has begun anew.
    pub is_new: bool,
    /// Every filter that it may be subscribed to.
    pub filters: Vec<String>,
}

/// What a source can say about records that were lost before they reached the gateway.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct GapNote {
    /// Why they are missing, as in the `reason` label of the metrics.
    pub reason: String,
    /// How many are missing; `None` where nobody can know.
    pub records: Option<u64>,
}

/// Where a record came from on its wire: what recognises a second delivery of it (G5), and whose
/// order it has its place in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A serial line without sequence numbers, or a bus that is polled.
    Line,
    /// A DATA frame of the shim link.
    Link {
        /// Node on the line, 0 for point to point.
        address: u8,
        /// The device's boot.
        session: u16,
        /// Number of the message in the session.
        sequence: u32,
        /// Identity of the message: CRC-32C of header and payload with the backlog taken as 0.
        crc: u32,
    },
    /// An MQTT publish.
    Mqtt {
        /// Quality of service it was delivered with, 0 to 2.
        qos: u8,
        /// Packet identifier, 0 at `QoS` 0 and where its session is gone.
        packet_id: u16,
        /// The publish carried the DUP flag.
        dup: bool,
        /// What had happened to earlier ones, as far as the log did not know it yet.
        settled: Settled,
    },
}

impl Origin {
    /// An MQTT publish that no later delivery is to be compared with.
    pub const MQTT: Self = Self::Mqtt {
        qos: 0,
        packet_id: 0,
        dup: false,
        settled: Settled {
            acknowledged_below: Offset::ZERO,
            released_below: Offset::ZERO,
        },
    };
}

/// Earlier publishes of an MQTT source that the broker has no reason to send again. It travels with
/// the next record, so that it costs no write of its own.
///
/// Offsets suffice, since acknowledgements leave, and are released, in the order of the publishes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Of publishes at `QoS` 1 below this offset, the PUBACK was handed to the socket. Zero: nothing
    /// new.
    pub acknowledged_below: Offset,
    /// Publishes at `QoS` 2 below this offset were released (PUBREL). Zero: nothing new.
    pub released_below: Offset,
}

impl Settled {
    /// Both, whichever is further.
    #[must_use]
    pub fn joined(self, other: Self) -> Self {
        Self {
            acknowledged_below: self.acknowledged_below.max(other.acknowledged_below),
            released_below: self.released_below.max(other.released_below),
        }
    }
}

/// When a record was received.
///
/// Order never depends on it (DESIGN §10, "clock wrong at boot"). The boot that `mono_ms` counts
/// in is kept once a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// Wall clock in milliseconds since the Unix epoch, as the system believed it.
    pub wall_ms: i64,
    /// Milliseconds since this boot, time asleep included (`CLOCK_BOOTTIME`); [`Stamp::DATED`] where
    /// the wall clock's time is all there is.
    pub mono_ms: u64,
}

impl Stamp {
    /// In place of a monotonic time: the record was received in an earlier boot than it was stored
    /// in, and its wall time is as good as it will ever be.
    pub const DATED: u64 = u64::MAX;

    /// A time that no monotonic clock can correct.
    #[must_use]
    pub fn dated(wall_ms: i64) -> Self {
        Self {
            wall_ms,
            mono_ms: Self::DATED,
        }
    }
}

/// A record as a source hands it to the log.
#[derive(Clone, Copy, Debug)]
pub struct NewRecord<'a> {
    /// The source's configured name.
    pub source: &'a SourceName,
    /// MQTT topic; for serial `<source>/<device>`, the device percent-encoded
    /// (see [`serial_subject`]).
    pub subject: &'a str,
    /// How to read the payload.
    pub kind: PayloadKind,
    /// Its place on the wire.
    pub origin: Origin,
    /// Time of receipt.
    pub received: Stamp,
    /// The payload, as received.
    pub payload: &'a [u8],
}

/// A record read back from the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordView<'a> {
    /// Its position.
    pub offset: Offset,
    /// Name of the source that received it. (The source may no longer be configured.)
    pub source: &'a str,
    /// See [`NewRecord::subject`].
    pub subject: &'a str,
    /// How to read the payload.
    pub kind: PayloadKind,
    /// Its place on the wire.
    pub origin: Origin,
    /// Time of receipt.
    pub received: Stamp,
    /// The boot whose monotonic clock that counts in ([`crate::clock::boot_id`]).
    pub boot_id: u64,
    /// The payload, as received.
    pub payload: &'a [u8],
}

/// The subject of a serial record: `<source>/<device>`, with `/`, `+`, `#` and `%` in the device
/// percent-encoded, so that it is exactly two topic levels.
#[must_use]
pub fn serial_subject(source: &SourceName, device: &str) -> String {
    let mut subject = String::with_capacity(source.as_str().len() + 1 + device.len());
    subject.push_str(source.as_str());
    subject.push('/');
    for character in device.chars() {
        match character {
            '/' => subject.push_str("%2F"),
            '+' => subject.push_str("%2B"),
            '#' => subject.push_str("%23"),
            '%' => subject.push_str("%25"),
            other => subject.push(other),
        }
    }
    subject
}

/// The device name in the second level of a serial subject: [`serial_subject`] undone.
#[must_use]
pub fn serial_device(subject: &str) -> String {
    let device = subject
        .split_once('/')
        .map_or(subject, |(_, device)| device);
    device
        .replace("%2F", "/")
        .replace("%2B", "+")
        .replace("%23", "#")
        .replace("%25", "%")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serial_subject_is_two_levels_and_gives_its_device_back() {
        let source = SourceName::new("press-line").expect("valid");
        for device in ["urn:dev:mac:00/", "a+b", "#", "100%", "%2F", "plain", ""] {
            let subject = serial_subject(&source, device);
            assert_eq!(subject.matches('/').count(), 1, "{subject}");
            assert_eq!(serial_device(&subject), device);
        }
    }

    #[test]
    fn a_source_name_outside_the_contract_is_refused() {
        for name in ["", "Upper", "under_score", "dot.ted", &"x".repeat(33)] {
            assert!(SourceName::new(name).is_err(), "{name}");
        }
        assert!(SourceName::new(&"x".repeat(32)).is_ok());
    }
}
