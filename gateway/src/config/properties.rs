//! `kafka.properties` and `kafka.properties_file`: what is passed to librdkafka.
//!
//! What the guarantees rest on cannot be set. Every other property is tried on librdkafka one by
//! one, so that an unknown name or a bad value is found here and not when the producer is made.
//! Values may be secrets: no mistake shows one.

use std::collections::BTreeMap;
use std::path::Path;

use rdkafka::ClientConfig;
use rdkafka::client::{Client, DefaultClientContext};
use rdkafka::error::KafkaError;
use rdkafka::types::{RDKafkaConfRes, RDKafkaType};

use super::report::{Mistakes, Place};
use super::sources::built_with;
use super::tree::{Section, Value};

/// Properties that cannot be set, and what to do instead or why.
const REFUSED: [(&str, &str); 34] = [
    ("bootstrap.servers", BROKERS),
    ("metadata.broker.list", BROKERS),
    ("acks", ALL_REPLICAS),
    ("request.required.acks", ALL_REPLICAS),
    ("enable.idempotence", ORDER),
    ("enable.gapless.guarantee", ORDER),
    ("max.in.flight", ORDER),
    ("max.in.flight.requests.per.connection", ORDER),
    ("retries", ORDER),
    ("message.send.max.retries", ORDER),
    ("queuing.strategy", ORDER),
    (
        "partitioner",
        "keys go to the partitions that Java clients choose (murmur2_random)",
    ),
    ("transactional.id", "set kafka.delivery"),
    ("transaction.timeout.ms", "set kafka.delivery"),
    ("message.timeout.ms", PATIENCE),
    ("delivery.timeout.ms", PATIENCE),
    ("compression.codec", "set kafka.compression"),
    ("compression.type", "set kafka.compression"),
    ("linger.ms", "set kafka.linger"),
    ("queue.buffering.max.ms", "set kafka.linger"),
    ("queue.buffering.max.kbytes", MEMORY),
    ("queue.buffering.max.messages", MEMORY),
    ("produce.offset.report", REPORTS),
    ("delivery.report.only.error", REPORTS),
    ("dr_cb", REPORTS),
    ("dr_msg_cb", REPORTS),
    ("enabled_events", REPORTS),
    ("opaque", REPORTS),
    ("error_cb", REPORTS),
    ("log_cb", REPORTS),
    ("stats_cb", REPORTS),
    ("interceptors", FOREIGN),
    ("plugin.library.paths", FOREIGN),
    ("background_event_cb", REPORTS),
];

const BROKERS: &str = "set kafka.brokers";
const ALL_REPLICAS: &str = "a record leaves the disk only when all replicas have it (acks=all)";
const ORDER: &str = "the order of records rests on it, so the gateway sets it";
const PATIENCE: &str = "records wait for as long as it takes, so the gateway sets it";
const MEMORY: &str = "memory is bounded by the gateway; what does not fit waits in the log";
const REPORTS: &str = "the gateway needs every delivery report, so it sets it";
const FOREIGN: &str = "code that the gateway does not know could lose records";

/// In what librdkafka says of a property, or of a value, that it would have with TLS.
const WITHOUT_TLS: &str = "OpenSSL not available at build time";

/// A property and where it stands.
pub(super) struct Property {
    name: String,
    value: String,
    place: Place,
}

/// Reads both keys of `[kafka]`.
pub(super) fn read(section: &mut Section<'_>) -> BTreeMap<String, String> {
    let mut properties = Vec::new();
    if let Some(inline) = section.get("properties") {
        let entries = inline.section().map(|section| section.entries());
        for (name, value) in entries.unwrap_or_default() {
            properties.extend(value.scalar().map(|text| Property {
                name: name.to_owned(),
                value: text,
                place: value.place().clone(),
            }));
        }
    }
    if let Some(file) = section.get("properties_file") {
        properties.extend(read_file(&file, section.mistakes()));
    }
    let mut checked = BTreeMap::new();
    let before = section.mistakes().count();
    for property in properties {
        check(&property, section.mistakes());
        let known = checked.insert(property.name.clone(), property.value);
        if known.is_some() {
            let hint = "keep it either in properties or in properties_file, once";
            section
                .mistakes()
                .add(property.place, &key(&property.name), "is there twice", hint);
        }
    }
    if !checked.is_empty() && section.mistakes().count() == before {
        check_together(&checked, section);
    }
    checked
}

/// Makes a client without brokers, which connects to nothing: only then does librdkafka read the
/// files that properties name, and see which properties do not go together. What it says names
/// properties and files, not values.
fn check_together(properties: &BTreeMap<String, String>, section: &Section<'_>) {
    let mut client = ClientConfig::new();
    for (name, value) in properties {
        client.set(name, value);
    }
    let made = client.create_native_config().and_then(|native| {
        let producer = RDKafkaType::RD_KAFKA_PRODUCER;
        Client::new(&client, native, producer, DefaultClientContext)
    });
    if let Err(KafkaError::ClientCreation(reason)) = made {
        let (what, hint) = if !cfg!(feature = "tls") && reason.contains("SCRAM") {
            let what = "SASL/SCRAM is left out of this program".to_owned();
            (what, built_with("tls"))
        } else {
            let what = format!("librdkafka refuses the properties: {reason}");
            let hint = "check the files that they name, and that they go together";
            (what, hint.to_owned())
        };
        section.wrong(what, hint);
    }
}

fn key(name: &str) -> String {
    format!("kafka.properties.{name}")
}

fn check(property: &Property, mistakes: &Mistakes) {
    let add = |what: String, hint: &str| {
        mistakes.add(property.place.clone(), &key(&property.name), what, hint);
    };
    let refused = REFUSED.iter().find(|(name, _)| *name == property.name);
    if let Some((_, reason)) = refused {
        add("cannot be set".to_owned(), reason);
        return;
    }
    if property.name.contains('\0') || property.value.contains('\0') {
        add("holds a NUL character".to_owned(), "remove it");
        return;
    }
    let mut client = ClientConfig::new();
    client.set(&property.name, &property.value);
    if let Err(error) = client.create_native_config() {
        let (what, hint) = describe(&error);
        add(what.to_owned(), &hint);
    }
}

/// What librdkafka says, without the value, which its own text holds, and what to do.
fn describe(error: &KafkaError) -> (&'static str, String) {
    let hint = "see CONFIGURATION.md of librdkafka for names and values".to_owned();
    match error {
        KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, ..) => {
            ("is not a property of librdkafka", hint)
        }
        KafkaError::ClientConfig(_, reason, ..)
            if !cfg!(feature = "tls") && reason.contains(WITHOUT_TLS) =>
        {
            (
                "needs TLS, which is left out of this program",
                built_with("tls"),
            )
        }
        _ => ("has a value that librdkafka refuses", hint),
    }
}

fn read_file(value: &Value<'_>, mistakes: &Mistakes) -> Vec<Property> {
    let Some(path) = value.readable_file("/etc/edge-gateway/kafka.properties") else {
        return Vec::new();
    };
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) => {
            let what = format!("cannot read {}: {error}", path.display());
            value.wrong(what, "it must be text in UTF-8");
            return Vec::new();
        }
    };
    let lines = text.lines().enumerate();
    lines
        .filter_map(|(index, line)| parse_line(line, &path, index + 1, mistakes))
        .collect()
}

/// One line `name=value`; blank ones and those that begin with `#` or `!` are comments. A value is
/// taken as it stands, less the blanks around it: a backslash in a password is a backslash.
fn parse_line(line: &str, path: &Path, number: usize, mistakes: &Mistakes) -> Option<Property> {
    let line = line.trim();
    if line.is_empty() || line.starts_with(['#', '!']) {
        return None;
    }
    let place = Place::Other {
        path: path.to_owned(),
        line: number,
    };
    match line.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => Some(Property {
            name: name.trim().to_owned(),
            value: value.trim().to_owned(),
            place,
        }),
        Some(_) | None => {
            let key = "kafka.properties_file";
            mistakes.add(place, key, "is not a property", "write name=value");
            None
        }
    }
}
