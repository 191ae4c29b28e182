//! When the event happened: the time a `SenML` pack gives for its first record, if that can be, else
//! the time of receipt.

use std::fmt;
use std::time::Duration;

use serde::de::{
    DeserializeSeed, Deserializer as _, Error, IgnoredAny, MapAccess, SeqAccess, Visitor,
};

use crate::clock::is_plausible;
use crate::clock::timeline::{Dated, TimeQuality};
use crate::record::{PayloadKind, RecordView};

/// RFC 8428, section 4.5.3: times below are relative to now, here to the receipt.
const RELATIVE_BELOW_S: f64 = (1_u64 << 28) as f64;
/// 2100-01-01: a pack that says it is later has a wrong clock.
const SANE_BELOW_S: f64 = 4_102_444_800.0;

/// How far a device's own time may be from the time of receipt to be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceTimeWindow {
    /// Before it.
    pub past: Duration,
    /// After it.
    pub future: Duration,
}

/// The time of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EventTime {
    /// Milliseconds since the Unix epoch; `None` where no clock is to be believed.
    pub(super) ms: Option<i64>,
    /// How well the gateway's clock knows it.
    pub(super) quality: TimeQuality,
    /// The device said a time that cannot be.
    pub(super) device_rejected: bool,
}

/// The time of a record that was received at `dated`.
pub(super) fn event_time(
    record: &RecordView<'_>,
    dated: Dated,
    window: DeviceTimeWindow,
) -> EventTime {
    let told_s = match record.kind {
        PayloadKind::SenmlCbor => told_s(record.payload),
        PayloadKind::Opaque | PayloadKind::Gap | PayloadKind::Note => None,
    };
    let told_ms = told_s.and_then(|told_s| resolve_ms(told_s, dated, window));
    EventTime {
        ms: told_ms.or(dated.wall_ms),
        quality: dated.quality,
        device_rejected: told_s.is_some() && told_ms.is_none(),
    }
}

fn resolve_ms(told_s: f64, received: Dated, window: DeviceTimeWindow) -> Option<i64> {
    if !told_s.is_finite() || told_s.abs() >= SANE_BELOW_S || told_s <= -RELATIVE_BELOW_S {
        return None;
    }
    // Below 2^42, so nothing is lost.
    let told_ms = (told_s * 1000.0).round() as i64;
    let time_ms = if told_s < RELATIVE_BELOW_S {
        received.wall_ms?.checked_add(told_ms)?
    } else {
        told_ms
    };
    let sane = match (received.quality, received.wall_ms) {
        (TimeQuality::Synced | TimeQuality::Corrected, Some(received_ms)) => {
            received_ms.saturating_sub(time_ms) <= millis(window.past)
                && time_ms.saturating_sub(received_ms) <= millis(window.future)
        }
        // The device may know better than a gateway that never knew.
        (TimeQuality::Unsynced, _) | (_, None) => is_plausible(time_ms),
    };
    sane.then_some(time_ms)
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Base time plus time of the first record, in seconds; `None` if it gives neither.
fn told_s(payload: &[u8]) -> Option<f64> {
    let mut told = Told::default();
    let mut cbor = serde_cbor::Deserializer::from_slice(payload);
    // The rest of the pack is left unread, which the deserializer reports as an error; so does a
    // malformed pack. Either way `told` is what was found before.
    let _unread = cbor.deserialize_seq(FirstRecord(&mut told));
    match (told.base_time, told.time) {
        (None, None) => None,
        (base_time, time) => Some(base_time.unwrap_or(0.0) + time.unwrap_or(0.0)),
    }
}

#[derive(Default)]
struct Told {
    base_time: Option<f64>,
    time: Option<f64>,
}

struct FirstRecord<'t>(&'t mut Told);

impl<'de> Visitor<'de> for FirstRecord<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a SenML pack")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut records: A) -> Result<(), A::Error> {
        records.next_element_seed(Times(self.0)).map(|_| ())
    }
}

struct Times<'t>(&'t mut Told);

impl<'de> DeserializeSeed<'de> for Times<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Times<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a SenML record")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        while let Some(label) = fields.next_key::<i64>()? {
            match label {
                -3 => self.0.base_time = Some(fields.next_value::<Seconds>()?.0),
                6 => self.0.time = Some(fields.next_value::<Seconds>()?.0),
                _ => {
                    fields.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

/// A number of any of the kinds that `SenML` allows.
struct Seconds(f64);

impl<'de> serde::Deserialize<'de> for Seconds {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SecondsVisitor;

        impl<'de> Visitor<'de> for SecondsVisitor {
            type Value = Seconds;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a time")
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<Seconds, E> {
                Ok(Seconds(value as f64))
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<Seconds, E> {
                Ok(Seconds(value as f64))
            }

            fn visit_f64<E: Error>(self, value: f64) -> Result<Seconds, E> {
                Ok(Seconds(value))
            }

            /// A decimal fraction (RFC 8949, section 3.4.4).
            fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Seconds, A::Error> {
                let exponent = parts.next_element::<i32>()?;
                let mantissa = parts.next_element::<i64>()?;
                match (exponent, mantissa, parts.next_element::<IgnoredAny>()?) {
                    (Some(exponent), Some(mantissa), None) => {
                        Ok(Seconds(mantissa as f64 * 10_f64.powi(exponent)))
                    }
                    _ => Err(A::Error::custom("not a decimal fraction")),
                }
            }
        }

        deserializer.deserialize_any(SecondsVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Offset, Origin, Stamp};

    const RECEIVED_MS: i64 = 1_900_000_000_000;
    const WINDOW: DeviceTimeWindow = DeviceTimeWindow {
        past: Duration::from_secs(365 * 86_400 * 10),
        future: Duration::from_secs(3600),
    };

    fn time(payload: &[u8], dated: Dated) -> EventTime {
        let record = RecordView {
            offset: Offset::ZERO,
            source: "line",
            subject: "line/a",
            kind: PayloadKind::SenmlCbor,
            origin: Origin::Line,
            received: Stamp::default(),
            boot_id: 1,
            payload,
        };
        event_time(&record, dated, WINDOW)
    }

    fn received(wall_ms: i64) -> Dated {
        Dated {
            wall_ms: Some(wall_ms),
            quality: TimeQuality::Synced,
        }
    }

    fn time_of(payload: &[u8], wall_ms: i64) -> Option<i64> {
        time(payload, received(wall_ms)).ms
    }

    #[test]
    fn a_pack_without_a_time_happened_when_it_was_received() {
        assert_eq!(time_of(b"\x81\xa1\x02\x01", RECEIVED_MS), Some(RECEIVED_MS));
    }

    #[test]
    fn base_time_and_time_are_added() {
        // [{bt: 1700000000, t: 2}, …cut off
        let pack = b"\x82\xa2\x22\x1a\x65\x53\xf1\x00\x06\x02";
        assert_eq!(time_of(pack, RECEIVED_MS), Some(1_700_000_002_000));
    }

    #[test]
    fn fractions_of_a_second_are_kept_to_the_millisecond() {
        // bt: 1700000000.25 as a double, then as a decimal fraction
        let double = b"\x81\xa1\x22\xfb\x41\xd9\x54\xfc\x40\x10\x00\x00";
        assert_eq!(time_of(double, RECEIVED_MS), Some(1_700_000_000_250));
        let decimal = b"\x81\xa1\x22\xc4\x82\x21\x1b\x00\x00\x00\x27\x94\xca\x24\x19";
        assert_eq!(time_of(decimal, RECEIVED_MS), Some(1_700_000_000_250));
    }

    #[test]
    fn a_small_time_is_relative_to_the_receipt() {
        assert_eq!(
            time_of(b"\x81\xa1\x06\x24", RECEIVED_MS),
            Some(RECEIVED_MS - 5_000)
        );
    }

    #[test]
    fn a_time_that_cannot_be_is_not_believed() {
        for time in [
            &b"\x1b\xff\xff\xff\xff\xff\xff\xff\xff"[..],
            b"\xf9\x7e\x00",
            b"\xf9\x7c\x00",
            b"\x3a\xff\xff\xff\xff",
            b"\xfb\x7f\xef\xff\xff\xff\xff\xff\xff",
        ] {
            let pack = [b"\x81\xa1\x22", time].concat();
            assert_eq!(time_of(&pack, RECEIVED_MS), Some(RECEIVED_MS), "{time:x?}");
        }
    }

    #[test]
    fn a_time_outside_the_window_is_marked_and_that_of_receipt_taken() {
        // bt: 1500000000, more than ten years before; bt: 2000000000, years after.
        for seconds in [1_500_000_000_u32, 2_000_000_000] {
            let mut pack = b"\x81\xa1\x22\x1a".to_vec();
            pack.extend(seconds.to_be_bytes());
            let time = time(&pack, received(RECEIVED_MS));
            assert_eq!((time.ms, time.device_rejected), (Some(RECEIVED_MS), true));
        }
        let time = time(b"\x81\xa1\x22\x1a\x65\x53\xf1\x00", received(RECEIVED_MS));
        assert!(!time.device_rejected);
    }

    #[test]
    fn a_gateway_that_does_not_know_the_time_believes_a_device_that_can() {
        let unsynced = Dated {
            wall_ms: None,
            quality: TimeQuality::Unsynced,
        };
        let mut pack = b"\x81\xa1\x22\x1a".to_vec();
        pack.extend(1_900_000_000_u32.to_be_bytes());
        let later = time(&pack, unsynced);
        assert_eq!(
            (later.ms, later.quality),
            (Some(RECEIVED_MS), TimeQuality::Unsynced)
        );
        let nothing = time(b"\x80", unsynced);
        assert_eq!((nothing.ms, nothing.device_rejected), (None, false));
        let relative = time(b"\x81\xa1\x06\x24", unsynced);
        assert_eq!((relative.ms, relative.device_rejected), (None, true));
    }
}
