//! `[kafka]`.

use std::time::Duration;

use super::properties;
use super::tree::{Section, Value};
use super::{Delivery, HeaderSet, Kafka, TopicRefused, Transactions, ValueFormat};
use crate::forwarder::DeviceTimeWindow;
use crate::forwarder::route::{Template, is_topic_name};

const DAY: Duration = Duration::from_secs(86_400);
const OFFSETS_TOPIC: &str = "edge-gateway.offsets";
/// A shorter transaction would be all overhead.
const INTERVAL_MIN: Duration = Duration::from_millis(5);
/// Far below the transaction's timeout at the broker.
const INTERVAL_MAX: Duration = Duration::from_secs(10);
const CODECS: [&str; 5] = ["none", "gzip", "snappy", "lz4", "zstd"];

/// Reads the section.
pub(super) fn read(mut section: Section<'_>) -> Kafka {
    let brokers = brokers(&mut section);
    let topic = section.get("topic").and_then(|value| topic(&value));
    let topic = topic.unwrap_or_else(|| "telemetry".to_owned());
    let delivery = delivery(&mut section, &topic);
    let key = section.get("key").and_then(|value| key(&value));
    let value = section.get("value").and_then(|value| {
        value.choice(&[
            ("payload", ValueFormat::Payload),
            ("json", ValueFormat::Json),
        ])
    });
    let headers = section.get("headers").and_then(|value| {
        value.choice(&[
            ("cloudevents", HeaderSet::CloudEvents),
            ("id", HeaderSet::Id),
            ("none", HeaderSet::None),
        ])
    });
    let compression = section
        .get("compression")
        .and_then(|value| value.choice(&CODECS.map(|codec| (codec, codec))));
    let linger = section
        .get("linger")
        .and_then(|value| value.duration(Duration::ZERO..=Duration::from_secs(60)));
    let topic_wait = section
        .get("topic_wait")
        .and_then(|value| value.duration(Duration::ZERO..=DAY));
    let topic_refused = section.get("topic_refused").and_then(|value| {
        value.choice(&[
            ("park", TopicRefused::Park),
            ("dead_letter", TopicRefused::DeadLetter),
        ])
    });
    let mut window = |key, otherwise| {
        let told = section.get(key);
        let told = told.and_then(|value| value.duration(Duration::ZERO..=100 * 365 * DAY));
        told.unwrap_or(otherwise)
    };
    let device_time = DeviceTimeWindow {
        past: window("device_time_past_max", 30 * DAY),
        future: window("device_time_future_max", Duration::from_secs(3600)),
    };
    let properties = properties::read(&mut section);
    section.finish();
    Kafka {
        brokers,
        topic,
        key: key.unwrap_or_else(default_key),
        value: value.unwrap_or(ValueFormat::Payload),
        headers: headers.unwrap_or(HeaderSet::CloudEvents),
        compression: compression.unwrap_or("lz4").to_owned(),
        linger: linger.unwrap_or(Duration::from_millis(20)),
        properties,
        device_time,
        topic_wait: topic_wait.unwrap_or(Duration::from_secs(30)),
        topic_refused: topic_refused.unwrap_or(TopicRefused::Park),
        delivery,
    }
}

/// The keys of transactions are read, and checked, whatever `delivery` is: who tries the other one
/// need not remove them.
fn delivery(section: &mut Section<'_>, topic: &str) -> Delivery {
    let exactly_once = section
        .get("delivery")
        .and_then(|value| value.choice(&[("at_least_once", false), ("exactly_once", true)]));
    let interval = section
        .get("transaction_interval")
        .and_then(|value| value.duration(INTERVAL_MIN..=INTERVAL_MAX));
    let offsets_topic = section.get("offsets_topic").and_then(|value| {
        let text = value.text(OFFSETS_TOPIC)?;
        if text == topic {
            let hint = format!("name a topic of its own, for example {OFFSETS_TOPIC:?}");
            value.wrong("is the topic of the records", hint);
        } else if !is_topic_name(text) {
            let hint = "write 1 to 249 letters, digits, \".\", \"_\" and \"-\"";
            value.wrong(format!("{text:?} is not a topic of Kafka"), hint);
        }
        Some(text.to_owned())
    });
    if exactly_once != Some(true) {
        return Delivery::AtLeastOnce;
    }
    Delivery::ExactlyOnce(Transactions {
        interval: interval.unwrap_or(Duration::from_millis(100)),
        offsets_topic: offsets_topic.unwrap_or_else(|| OFFSETS_TOPIC.to_owned()),
    })
}

fn brokers(section: &mut Section<'_>) -> Vec<String> {
    const EXAMPLE: &str = "[\"kafka-1:9092\"]";
    let Some(value) = section.required("brokers", &format!("brokers = {EXAMPLE}")) else {
        return Vec::new();
    };
    let items = value.list(EXAMPLE);
    if items.as_ref().is_some_and(Vec::is_empty) {
        value.wrong("is empty", format!("name at least one broker: {EXAMPLE}"));
    }
    let items = items.unwrap_or_default();
    items.iter().filter_map(broker).collect()
}

fn broker(value: &Value<'_>) -> Option<String> {
    let text = value.text("kafka-1:9092")?;
    let port = text.rsplit_once(':').and_then(|(host, port)| {
        let bracketed = host.starts_with('[') && host.ends_with(']');
        let plain = !host.contains(['/', ',', ' ']) && (bracketed || !host.contains(':'));
        let port = port.parse::<u16>().ok().filter(|port| *port != 0);
        port.filter(|_| plain && !host.is_empty())
    });
    if port.is_none() {
        let hint = "write host:port, for example \"kafka-1:9092\"; security.protocol belongs to \
                    kafka.properties";
        value.wrong(format!("{text:?} is not the address of a broker"), hint);
        return None;
    }
    Some(text.to_owned())
}

/// The default topic is the same for all records, since gap markers, which no route sees, go to it.
fn topic(value: &Value<'_>) -> Option<String> {
    let text = value.text("telemetry")?;
    if is_topic_name(text) {
        return Some(text.to_owned());
    }
    let hint = if text.contains('{') {
        "only the topics of routes can hold {names}; here write one topic"
    } else {
        "write 1 to 249 letters, digits, \".\", \"_\" and \"-\""
    };
    value.wrong(format!("{text:?} is not a topic of Kafka"), hint);
    None
}

fn key(value: &Value<'_>) -> Option<Template> {
    match Template::parse(value.text("{device}")?, &[]) {
        Ok(template) => Some(template),
        Err(error) => {
            value.wrong(
                error.to_string(),
                "captures are known to the keys of routes only",
            );
            None
        }
    }
}

fn default_key() -> Template {
    Template::parse("{device}", &[]).expect("the default key is a template")
}
