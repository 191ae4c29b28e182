//! `[sources.<name>]` with `type = "mqtt"`.

use std::collections::BTreeSet;
use std::time::Duration;

use url::Url;

use super::sources::{Context, built_with, number};
use super::tree::{Section, Value};
use super::{Mqtt, MqttProtocol, MqttTls, Subscription, filter, units};

/// Payloads up to this size become records unless the file says otherwise.
const PAYLOAD_BYTES_DEFAULT: u64 = 1 << 20;
/// Longest client id, in bytes: as long as brokers are known to take.
const CLIENT_ID_BYTES_MAX: usize = 256;

struct Broker {
    host: String,
    port: u16,
    tls: bool,
}

/// Reads one MQTT source.
pub(super) fn read(name: &str, mut section: Section<'_>, context: &mut Context<'_>) -> Mqtt {
    let url = section.required("url", "url = \"mqtt://127.0.0.1:1883\"");
    let broker = url.as_ref().and_then(broker);
    let id = section.get("client_id");
    let client_id = id
        .as_ref()
        .and_then(client_id)
        .unwrap_or_else(|| format!("{}-{name}", context.gateway.id));
    if let (Some(url), Some(broker)) = (&url, &broker) {
        let session = (broker.host.clone(), broker.port, client_id.clone());
        if let Some(other) = context.take_session(name, session) {
            let what =
                format!("client id {client_id:?} is that of source {other:?} at this broker");
            id.as_ref().unwrap_or(url).wrong(
                what,
                "two clients of one id throw each other out: give each its own",
            );
        }
    }
    let tls = tls(section.get("tls"), broker.as_ref());
    let Broker { host, port, .. } = broker.unwrap_or(Broker {
        host: String::new(),
        port: 0,
        tls: false,
    });
    let mqtt = Mqtt {
        host,
        port,
        tls,
        protocol: section
            .get("protocol")
            .and_then(|value| {
                value.choice(&[("5", MqttProtocol::V5), ("3.1.1", MqttProtocol::V311)])
            })
            .unwrap_or(MqttProtocol::V5),
        subscriptions: subscriptions(&mut section),
        client_id,
        username: section
            .get("username")
            .and_then(|value| value.text("gateway").map(str::to_owned)),
        password_file: section
            .get("password_file")
            .and_then(|value| value.readable_file("/etc/edge-gateway/mqtt-password")),
        session_expiry: seconds(section.get("session_expiry"), 1, u64::from(u32::MAX) - 1)
            .unwrap_or(Duration::from_secs(86_400)),
        payload_bytes_max: payload_bytes_max(section.get("payload_bytes_max"), context),
        receive_maximum: number(section.get("receive_maximum"), 1, 65_535).unwrap_or(1000),
        keep_alive: seconds(section.get("keep_alive"), 5, 65_535)
            .unwrap_or(Duration::from_secs(30)),
        dedupe: section
            .get("dedupe")
            .and_then(|value| value.boolean())
            .unwrap_or(true),
    };
    if let (None, Some(file)) = (&mqtt.username, section.get("password_file")) {
        file.wrong(
            "there is a password but no user name",
            "set username as well",
        );
    }
    section.finish();
    mqtt
}

fn broker(value: &Value<'_>) -> Option<Broker> {
    const EXAMPLE: &str = "write mqtt://host:port, or mqtts://host:port for TLS";
    let text = value.text("mqtt://127.0.0.1:1883")?;
    let url = match Url::parse(text) {
        Ok(url) => url,
        Err(error) => {
            value.wrong(format!("is not a URL: {error}"), EXAMPLE);
            return None;
        }
    };
    if !url.username().is_empty() || url.password().is_some() {
        let hint = "set username and password_file";
        value.wrong("carries a user name or password", hint);
        return None;
    }
    let plain = matches!(url.path(), "" | "/") && url.query().is_none() && url.fragment().is_none();
    let (tls, default_port) = match url.scheme() {
        "mqtt" => (false, 1883),
        "mqtts" => {
            if !cfg!(feature = "tls") {
                value.wrong("TLS is left out of this program", built_with("tls"));
            }
            (true, 8883)
        }
        _ => {
            value.wrong(format!("{text:?} is not an MQTT address"), EXAMPLE);
            return None;
        }
    };
    let host = url.host_str().filter(|host| !host.is_empty() && plain);
    let Some(host) = host else {
        value.wrong(format!("{text:?} is not an MQTT address"), EXAMPLE);
        return None;
    };
    Some(Broker {
        host: host.trim_matches(['[', ']']).to_owned(),
        port: url.port().unwrap_or(default_port),
        tls,
    })
}

fn client_id(value: &Value<'_>) -> Option<String> {
    let id = value.text("plant-7-gw-1-city")?;
    if id.is_empty() || id.len() > CLIENT_ID_BYTES_MAX || id.contains(char::is_control) {
        let hint = "write 1 to 256 printable characters, or leave it out";
        value.wrong("is not a client id", hint);
        return None;
    }
    Some(id.to_owned())
}

fn tls(value: Option<Value<'_>>, broker: Option<&Broker>) -> Option<MqttTls> {
    let encrypted = broker.is_none_or(|broker| broker.tls);
    let Some(value) = value else {
        return encrypted.then(MqttTls::default);
    };
    if !encrypted {
        value.wrong(
            "the address says mqtt://, without TLS",
            "write mqtts:// in url",
        );
    }
    let mut section = value.section()?;
    let mut file = |name| {
        section
            .get(name)
            .and_then(|value| value.readable_file("/etc/edge-gateway/tls/file.pem"))
    };
    let tls = MqttTls {
        ca_file: file("ca_file"),
        cert_file: file("cert_file"),
        key_file: file("key_file"),
    };
    for (one, other) in [("cert_file", "key_file"), ("key_file", "cert_file")] {
        if section.get(one).is_some() && section.get(other).is_none() {
            section.missing(other, format!("{one} needs its {other}"));
        }
    }
    section.finish();
    encrypted.then_some(tls)
}

fn subscriptions(section: &mut Section<'_>) -> Vec<Subscription> {
    const EXAMPLE: &str = "[{ filter = \"city/+/+/+\", qos = 1 }]";
    let Some(value) = section.required("subscriptions", &format!("subscriptions = {EXAMPLE}"))
    else {
        return Vec::new();
    };
    let items = value.list(EXAMPLE);
    if items.as_ref().is_some_and(Vec::is_empty) {
        value.wrong("is empty", format!("subscribe to something: {EXAMPLE}"));
    }
    let mut taken = BTreeSet::new();
    items
        .unwrap_or_default()
        .iter()
        .filter_map(|item| subscription(item, &mut taken))
        .collect()
}

fn subscription(value: &Value<'_>, taken: &mut BTreeSet<String>) -> Option<Subscription> {
    let mut section = value.section()?;
    let filter = section.required("filter", "filter = \"city/+/+/+\"");
    let qos = number(section.get("qos"), 0, 2).unwrap_or(1);
    section.finish();
    let filter = filter?;
    let text = filter.text("city/+/+/+")?;
    if let Err(what) = filter::check(text) {
        let hint = "see section 4.7 of the MQTT specification; for example \"city/+/air/#\"";
        filter.wrong(format!("{text:?} is not a topic filter: {what}"), hint);
        return None;
    }
    if !taken.insert(text.to_owned()) {
        filter.wrong(format!("{text:?} is subscribed to twice"), "remove one");
    }
    Some(Subscription {
        filter: text.to_owned(),
        qos,
    })
}

/// The largest record must leave room in a segment for its envelope and the segment's checkpoint.
fn payload_bytes_max(value: Option<Value<'_>>, context: &Context<'_>) -> usize {
    let most = context.buffer.segment_bytes / 2;
    let bytes = match value {
        None => PAYLOAD_BYTES_DEFAULT.min(most),
        Some(value) => {
            let bytes = value.size(1..=256 << 20).unwrap_or(1);
            if bytes > most {
                let what = format!("{:?} does not fit a segment", units::show_size(bytes));
                let hint = format!(
                    "write at most {:?}, half of buffer.segment_bytes, or enlarge that",
                    units::show_size(most)
                );
                value.wrong(what, hint);
            }
            bytes
        }
    };
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// A duration that goes over the wire in whole seconds.
fn seconds(value: Option<Value<'_>>, least: u64, most: u64) -> Option<Duration> {
    let value = value?;
    let duration = value.duration(Duration::from_secs(least)..=Duration::from_secs(most))?;
    if duration.subsec_nanos() != 0 {
        value.wrong(
            "is not a whole number of seconds",
            "write, for example, \"30 s\"",
        );
    }
    Some(duration)
}
