//! `[dead_letters]`.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::tree::Section;
use super::{DeadLettersConfig, Kafka};
use crate::dead_letters::Budget;
use crate::forwarder::route::is_topic_name;

const MIB: u64 = 1 << 20;
/// Four segments, the least that lets the oldest go a quarter at a time, up to what is read in some
/// seconds when the gateway starts.
const BYTES_MAX_RANGE: RangeInclusive<u64> = 16 * MIB..=256 * MIB;
const AGE_MAX_RANGE: RangeInclusive<Duration> =
    Duration::from_secs(60)..=Duration::from_secs(3650 * 24 * 3600);

/// Reads the section. A topic that records go to is none for dead letters.
pub(super) fn read(mut section: Section<'_>, kafka: &Kafka) -> DeadLettersConfig {
    let default = Budget::default();
    let bytes_max = section
        .get("bytes_max")
        .and_then(|value| value.size(BYTES_MAX_RANGE));
    let age_max = section
        .get("age_max")
        .and_then(|value| value.duration(AGE_MAX_RANGE));
    let topic = section.get("topic").and_then(|value| {
        let text = value.text("edge-gateway.dead-letters")?;
        if text == kafka.topic {
            let hint = "name a topic of its own, for example \"edge-gateway.dead-letters\"";
            value.wrong("is the topic of the records", hint);
        } else if !is_topic_name(text) {
            let hint = "write 1 to 249 letters, digits, \".\", \"_\" and \"-\"";
            value.wrong(format!("{text:?} is not a topic of Kafka"), hint);
        }
        Some(text.to_owned())
    });
    section.finish();
    DeadLettersConfig {
        budget: Budget {
            bytes_max: bytes_max.unwrap_or(default.bytes_max),
            age_max: age_max.or(default.age_max),
        },
        topic,
    }
}
