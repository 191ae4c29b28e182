use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::commit_log::Compression;

const MINIMAL: &str = include_str!("../../../config/examples/minimal.toml");
const FACTORY: &str = include_str!("../../../config/examples/factory.toml");
const SMART_CITY: &str = include_str!("../../../config/examples/smart-city.toml");
const DEFAULT: &str = include_str!("../../../config/gateway.toml");

fn parsed(text: &str) -> Result<Config, Vec<Mistake>> {
    parse(text, Path::new("gateway.toml")).map_err(|error| match error {
        ConfigError::Invalid { mistakes } => mistakes,
        ConfigError::Unreadable { .. } => unreachable!("a text needs no reading"),
    })
}

fn mistakes(text: &str) -> Vec<Mistake> {
    parsed(text).expect_err("a configuration with mistakes")
}

/// A valid configuration with one line of its own in each section that a test names; the line is
/// in place of one with the same key.
fn with(section: &str, line: &str) -> String {
    const BASE: [(&str, &[&str]); 7] = [
        ("[gateway]", &["id = \"gw\"", "data_dir = \"/tmp/gateway\""]),
        (
            "[sources.press]",
            &[
                "type = \"serial\"",
                "device = \"/dev/ttyS9\"",
                "framing = \"shim\"",
            ],
        ),
        (
            "[sources.city]",
            &[
                "type = \"mqtt\"",
                "url = \"mqtt://127.0.0.1:1883\"",
                "subscriptions = [{ filter = \"city/#\" }]",
            ],
        ),
        ("[buffer]", &["bytes_max = \"64 MiB\""]),
        ("[kafka]", &["brokers = [\"k:9092\"]"]),
        ("[[routes]]", &["match = \"a/{b}\"", "topic = \"t\""]),
        ("[http]", &[]),
    ];
    let key = |line: &str| line.split('=').next().map(|key| key.trim().to_owned());
    let mut text = String::new();
    let mut found = false;
    for (name, lines) in BASE {
        text.push_str(&format!("{name}\n"));
        for base in lines {
            if name != section || key(base) != key(line) {
                text.push_str(&format!("{base}\n"));
            }
        }
        if name == section {
            text.push_str(&format!("{line}\n"));
            found = true;
        }
    }
    if !found {
        text.push_str(&format!("{section}\n{line}\n"));
    }
    text
}

fn line_of(text: &str, line: &str) -> usize {
    let first = line.lines().next().unwrap_or(line);
    1 + text
        .lines()
        .position(|found| found == first)
        .expect("the line is there")
}

/// Section, line, key of the mistake, part of what it says, part of its hint.
type Case = (
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static str,
);

#[rustfmt::skip]
const CASES: &[Case] = &[
    // Wrong types, bad words, unknown keys.
    ("[gateway]", "id = 7", "gateway.id", "is a number where text is expected", "plant-7-gw-1"),
    ("[gateway]", "id = \"a b\"", "gateway.id", "not a name for a gateway", "1 to 64"),
    ("[gateway]", "shutdown_grase = \"1 s\"", "gateway.shutdown_grase", "not a known key", "\"shutdown_grace\""),
    ("[gateway]", "xyzzy = 1", "gateway.xyzzy", "not a known key", "known here: id, data_dir"),
    ("[gatewax]", "id = \"x\"", "gatewax", "not a known key", "\"gateway\""),
    ("[log]", "level = \"inof\"", "log.level", "not a log level", "\"info\""),
    ("[log]", "level = \"a=b=c\"", "log.level", "not a log filter", "directives"),
    ("[log]", "format = \"jsn\"", "log.format", "not one of the allowed", "\"json\""),
    ("[http]", "listen = \"here\"", "http.listen", "not an address to listen on", "127.0.0.1:9464"),
    // Directories and files.
    ("[gateway]", "data_dir = \"data\"", "gateway.data_dir", "not an absolute path", "from the root"),
    ("[gateway]", "data_dir = \"/nonexistent/deep\"", "gateway.data_dir", "cannot reach /nonexistent", "mount"),
    ("[gateway]", "data_dir = \"/dev/null\"", "gateway.data_dir", "not a directory", "name a directory"),
    ("[gateway]", "data_dir = \"/dev/null/x\"", "gateway.data_dir", "cannot reach /dev/null/x", "create it"),
    ("[sources.city]", "username = \"u\"\npassword_file = \"/nonexistent\"", "sources.city.password_file", "cannot read /nonexistent", "create it"),
    ("[kafka]", "properties_file = \"/nonexistent\"", "kafka.properties_file", "cannot read /nonexistent", "create it"),
    // Sizes and durations.
    ("[buffer]", "bytes_max = \"64 MB iB\"", "buffer.bytes_max", "not a size", "\"64 MiB\""),
    ("[buffer]", "bytes_max = 64", "buffer.bytes_max", "is a number where a size", "\"64 MiB\""),
    ("[buffer]", "bytes_max = \"15 MiB\"", "buffer.bytes_max", "out of range", "\"16 MiB\""),
    ("[buffer]", "segment_bytes = \"17 MiB\"", "buffer.segment_bytes", "out of range", "\"16 MiB\""),
    ("[buffer]", "commit_interval = \"5\"", "buffer.commit_interval", "not a duration", "\"250 ms\""),
    ("[sources.city]", "keep_alive = \"4 s\"", "sources.city.keep_alive", "out of range", "\"5 s\""),
    ("[sources.city]", "keep_alive = \"5500 ms\"", "sources.city.keep_alive", "whole number of seconds", "\"30 s\""),
    ("[sources.city]", "payload_bytes_max = \"5 MiB\"", "sources.city.payload_bytes_max", "does not fit a segment", "\"4 MiB\""),
    ("[sources.city]", "dedupe = \"no\"", "sources.city.dedupe", "is text where true or false", "example, true"),
    ("[sources.press]", "dedupe = false", "sources.press.dedupe", "is for MQTT", "sequence numbers"),
    ("[sources.city]", "receive_maximum = 0", "sources.city.receive_maximum", "out of range", "from 1 to 65535"),
    // Sources.
    ("[sources.Press_2]", "type = \"serial\"\ndevice = \"/dev/ttyS8\"\nframing = \"lines\"", "sources.Press_2", "not a source name", "rename"),
    ("[sources.press]", "type = \"seriel\"", "sources.press.type", "not one of the allowed", "\"serial\""),
    ("[sources.press]", "device = \"ttyS9\"", "sources.press.device", "not an absolute path", "/dev/ttyUSB0"),
    ("[sources.press]", "frame_bytes_max = 1025", "sources.press.frame_bytes_max", "out of range", "from 1 to 1024"),
    ("[sources.press]", "data_bits = 7", "sources.press.data_bits", "out of range", "8"),
    ("[sources.press]", "flow_control = \"software\"", "sources.press.flow_control", "binary frames", "hardware"),
    ("[sources.press]", "framing = \"cobs\"\nflow_control = \"software\"", "sources.press.flow_control", "binary frames", "hardware"),
    ("[sources.press]", "framing = \"lines\"\nrs485 = true\nflow_control = \"hardware\"", "sources.press.flow_control", "both need RTS", "none"),
    ("[sources.press]", "rs485 = \"yes\"", "sources.press.rs485", "is text where true or false", "true"),
    ("[sources.press]", "rs485 = { delay_after = \"1 s\" }", "sources.press.rs485.delay_after", "out of range", "100 ms"),
    ("[sources.press]", "framing = { start = \"/\" }", "sources.press.framing", "lacks an end", "end ="),
    ("[sources.press]", "framing = { idle = \"5 ms\", end = \"!\" }", "sources.press.framing", "is not a framing", "idle ="),
    ("[sources.press]", "framing = { idle = \"0 ms\" }", "sources.press.framing.idle", "out of range", "1 ms"),
    ("[sources.press]", "framing = { end = \"\" }", "sources.press.framing.end", "no delimiter", "1 to 16 bytes"),
    ("[sources.press]", "framing = { ende = \"!\" }", "sources.press.framing.ende", "not a known key", "end"),
    ("[sources.press]", "checksum = \"nmea\"", "sources.press.checksum", "does not go with this framing", "lines"),
    ("[sources.press]", "usb = { vid = \"0403\", pid = \"6001\" }", "sources.press.usb", "does not go with device", "one of the two"),
    ("[sources.city]", "url = \"http://b:1\"", "sources.city.url", "not an MQTT address", "mqtt://host:port"),
    ("[sources.city]", "url = \"127.0.0.1\"", "sources.city.url", "not a URL", "mqtt://host:port"),
    ("[sources.city]", "url = \"mqtt://u:p@b\"", "sources.city.url", "carries a user name", "password_file"),
    ("[sources.city]", "tls = {}", "sources.city.tls", "without TLS", "mqtts://"),
    ("[sources.city]", "subscriptions = []", "sources.city.subscriptions", "is empty", "filter"),
    ("[sources.city]", "subscriptions = [{ filter = \"a/#/b\" }]", "sources.city.subscriptions[0].filter", "must be the last level", "4.7"),
    ("[sources.city]", "subscriptions = [{ filter = \"$share/g\" }]", "sources.city.subscriptions[0].filter", "$share/<group>/<filter>", "4.7"),
    ("[sources.city]", "subscriptions = [{ filter = \"a\", qos = 3 }]", "sources.city.subscriptions[0].qos", "out of range", "from 0 to 2"),
    ("[sources.city]", "subscriptions = [{ filter = \"a\" }, { filter = \"a\" }]", "sources.city.subscriptions[1].filter", "twice", "remove"),
    // Kafka.
    ("[kafka]", "brokers = []", "kafka.brokers", "is empty", "kafka-1:9092"),
    ("[kafka]", "brokers = \"k:9092\"", "kafka.brokers", "is text where a list", "[\"kafka-1:9092\"]"),
    ("[kafka]", "brokers = [\"k\"]", "kafka.brokers[0]", "not the address of a broker", "host:port"),
    ("[kafka]", "brokers = [\"ssl://k:1\"]", "kafka.brokers[0]", "not the address of a broker", "security.protocol"),
    ("[kafka]", "topic = \"a b\"", "kafka.topic", "not a topic of Kafka", "1 to 249"),
    ("[kafka]", "topic = \"t-{source}\"", "kafka.topic", "not a topic of Kafka", "topics of routes"),
    ("[kafka]", "key = \"{district}\"", "kafka.key", "{district} is not known here", "routes only"),
    ("[kafka]", "compression = \"zst\"", "kafka.compression", "not one of the allowed", "\"zstd\""),
    ("[kafka]", "properties = { acks = \"1\" }", "kafka.properties.acks", "cannot be set", "acks=all"),
    ("[kafka]", "properties = { \"no.such\" = 1 }", "kafka.properties.no.such", "not a property of librdkafka", "CONFIGURATION.md"),
    ("[kafka]", "properties = { \"security.protocol\" = \"hush\" }", "kafka.properties.security.protocol", "librdkafka refuses", "CONFIGURATION.md"),
    ("[kafka]", "properties = { \"client.id\" = [] }", "kafka.properties.client.id", "is a list where text", "value"),
    // Routes.
    ("[[routes]]", "source = \"cty\"", "routes[0].source", "no source \"cty\"", "\"city\""),
    ("[[routes]]", "match = \"a/#/b\"", "routes[0].match", "not a pattern", "captures"),
    ("[[routes]]", "topic = \"t-{c}\"", "routes[0].topic", "{c} is not known here", "captures of match"),
    ("[[routes]]", "topic = \"t t-{b}\"", "routes[0].topic", "not a topic of Kafka", "1 to 249"),
    ("[[routes]]", "topic = \"..\"", "routes[0].topic", "not a topic of Kafka", "1 to 249"),
    ("[[routes]]", "key = \"{b\"", "routes[0].key", "never closed", "{names}"),
    ("[[routes]]", "headers = { ce_id = \"x\" }", "routes[0].headers.ce_id", "the gateway sets itself", "another name"),
    ("[[routes]]", "source = \"press\"", "routes[0].match", "never matches", "press/{device}"),
    ("[[routes]]", "drop = true", "routes[0].topic", "makes no sense", "remove topic"),
    ("[[routes]]", "drop = \"yes\"", "routes[0].drop", "true or false", "true"),
    // Dead letters.
    ("[dead_letters]", "bytes_max = \"8 MiB\"", "dead_letters.bytes_max", "out of range", "16 MiB"),
    ("[dead_letters]", "age_max = \"1 s\"", "dead_letters.age_max", "out of range", "1 min"),
    ("[dead_letters]", "topic = \"telemetry\"", "dead_letters.topic", "is the topic of the records", "of its own"),
    ("[dead_letters]", "topic = \"a b\"", "dead_letters.topic", "not a topic of Kafka", "letters"),
    ("[dead_letters]", "byte_max = \"16 MiB\"", "dead_letters.byte_max", "not a known key", "bytes_max"),
    // Delivery.
    ("[kafka]", "delivery = \"twice\"", "kafka.delivery", "not one of the allowed", "exactly_once"),
    ("[kafka]", "transaction_interval = \"1 min\"", "kafka.transaction_interval", "out of range", "10 s"),
    ("[kafka]", "offsets_topic = \"telemetry\"", "kafka.offsets_topic", "is the topic of the records", "of its own"),
    ("[kafka]", "offsets_topic = \"a b\"", "kafka.offsets_topic", "not a topic of Kafka", "letters"),
    ("[buffer]", "parking_bytes_max = \"1 MiB\"", "buffer.parking_bytes_max", "out of range", "4 MiB"),
    ("[kafka]", "topic_refused = \"drop\"", "kafka.topic_refused", "not one of the allowed", "\"dead_letter\""),
    ("[buffer]", "age_max = \"7 dayz\"", "buffer.age_max", "not a duration", "\"250 ms\""),
    ("[buffer]", "age_max = \"5 s\"", "buffer.age_max", "out of range", "1 min"),
    ("[buffer]", "when_full = \"drop_oldes\"", "buffer.when_full", "not one of the allowed", "\"drop_oldest\""),
    ("[buffer]", "compression = \"lz5\"", "buffer.compression", "not one of the allowed", "\"lz4\""),
];

#[test]
fn the_base_of_the_cases_is_valid() {
    assert!(parsed(&with("[http]", "")).is_ok());
}

#[test]
fn each_mistake_is_reported_alone_with_its_line_key_and_hint() {
    for (section, line, key, what, hint) in CASES {
        let text = with(section, line);
        let found = mistakes(&text);
        assert_eq!(found.len(), 1, "{line}: {found:#?}");
        let mistake = &found[0];
        assert_eq!(mistake.key, *key, "{line}");
        assert!(mistake.what.contains(what), "{line}: {mistake}");
        assert!(mistake.hint.contains(hint), "{line}: {mistake}");
    }
}

#[test]
fn a_mistake_names_the_line_that_it_is_in() {
    // Some cases are wrong in another line than their own: a section's header, or a line below.
    for (section, line, key, ..) in CASES {
        if line.contains('\n')
            || *key == "gatewax"
            || *line == "drop = true"
            || line.contains("source = \"press\"")
        {
            continue;
        }
        let text = with(section, line);
        assert_eq!(
            mistakes(&text)[0].line,
            Some(line_of(&text, line)),
            "{line}"
        );
    }
}

#[test]
fn what_must_be_there_and_is_not_is_reported_at_its_section() {
    let found = mistakes("[gateway]\n\n[sources.a]\ntype = \"serial\"\n");
    let places: Vec<_> = found
        .iter()
        .map(|mistake| (mistake.key.as_str(), mistake.line))
        .collect();
    assert_eq!(
        places,
        [
            ("kafka.brokers", None),
            ("gateway.id", Some(1)),
            ("sources.a.device", Some(3)),
            ("sources.a.framing", Some(3)),
        ]
    );
    assert_eq!(mistakes("")[2].key, "sources");
}

#[test]
fn a_source_that_is_there_twice_is_a_mistake_in_the_second() {
    let text = with("[sources.city]", "") + "[sources.city]\ntype = \"mqtt\"\n";
    let found = mistakes(&text);
    assert_eq!(found.len(), 2, "the table and its key: {found:#?}");
    assert_eq!(found[0].key, "city");
    assert_eq!(found[0].what, "is there twice");
    assert_eq!(found[0].line, Some(text.lines().count() - 1));
}

#[test]
fn a_source_without_a_type_still_has_its_other_mistakes_found() {
    let found = mistakes(&with(
        "[sources.other]",
        "device = \"ttyS7\"\nboud_rate = 1",
    ));
    let keys: Vec<&str> = found.iter().map(|mistake| mistake.key.as_str()).collect();
    let expected =
        ["type", "framing", "device", "boud_rate"].map(|key| format!("sources.other.{key}"));
    assert_eq!(keys.len(), 4, "{found:#?}");
    assert!(
        expected.iter().all(|key| keys.contains(&key.as_str())),
        "{found:#?}"
    );
}

#[test]
fn properties_that_do_not_go_together_or_name_no_file_are_refused() {
    for properties in [
        "{ \"security.protocol\" = \"SSL\", \"ssl.ca.location\" = \"/nonexistent/ca.pem\" }",
        "{ \"security.protocol\" = \"SASL_SSL\", \"sasl.mechanisms\" = \"SCRAM-SHA-256\" }",
    ] {
        let found = mistakes(&with("[kafka]", &format!("properties = {properties}")));
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!(
            found[0].what.starts_with("librdkafka refuses"),
            "{}",
            found[0]
        );
    }
}

#[test]
fn sources_that_share_a_device_or_an_mqtt_session_are_refused() {
    let serial = "type = \"serial\"\ndevice = \"/dev/ttyS9\"\nframing = \"lines\"";
    let found = mistakes(&with("[sources.twin]", serial));
    assert_eq!(found[0].key, "sources.twin.device");
    assert!(found[0].what.contains("\"press\""), "{}", found[0]);

    let mqtt = "type = \"mqtt\"\nurl = \"mqtt://127.0.0.1\"\nclient_id = \"gw-city\"\n\
                subscriptions = [{ filter = \"x\" }]";
    let found = mistakes(&with("[sources.twin]", mqtt));
    assert_eq!(found[0].key, "sources.twin.client_id");
    assert!(found[0].what.contains("\"city\""), "{}", found[0]);
}

fn serial(lines: &str) -> Result<Serial, Vec<Mistake>> {
    let section = format!("type = \"serial\"\n{lines}");
    let config = parsed(&with("[sources.a]", &section))?;
    match &config.sources[0].kind {
        SourceKind::Serial(serial) => Ok(Serial::clone(serial)),
        SourceKind::Mqtt(_) | SourceKind::Modbus(_) => {
            unreachable!("sources are in the order of their names")
        }
    }
}

#[test]
fn every_framing_of_the_contract_is_read() {
    use crate::framing::{Checksum, Framing};
    let delimited = |start: &[u8], end: &[u8]| Framing::Delimited {
        start: start.to_owned(),
        end: end.to_owned(),
    };
    for (text, framing, checksum) in [
        ("\"shim\"", Framing::Shim, None),
        (
            "\"lines\"\nchecksum = \"nmea\"",
            Framing::Lines,
            Some(Checksum::Nmea),
        ),
        ("\"cobs\"", Framing::Cobs, None),
        ("\"slip\"\nchecksum = \"none\"", Framing::Slip, None),
        ("\"length-u8\"", Framing::LengthU8, None),
        ("\"length-u16-be\"", Framing::LengthU16Be, None),
        (
            "{ start = \"/\", end = \"!\" }\nchecksum = \"dsmr\"",
            delimited(b"/", b"!"),
            Some(Checksum::Dsmr),
        ),
        ("{ end = \"\\r\" }", delimited(b"", b"\r"), None),
        (
            "{ idle = \"5 ms\" }\nchecksum = \"modbus\"",
            Framing::Idle(Duration::from_millis(5)),
            Some(Checksum::Modbus),
        ),
    ] {
        let read = serial(&format!("device = \"/dev/ttyS8\"\nframing = {text}")).expect(text);
        assert_eq!((read.framing, read.checksum), (framing, checksum), "{text}");
    }
}

#[test]
fn a_port_may_be_named_by_its_usb_adapter_and_switch_a_transceiver() {
    let lines = "usb = { vid = \"0403\", pid = \"6001\", serial = \"A1\", interface = 2 }\n\
                 framing = \"lines\"\nrs485 = { echo = true, delay_after = \"2 ms\" }";
    let read = serial(lines).expect("valid");
    let name = "USB adapter 0403:6001 with serial number A1, interface 2";
    assert_eq!(read.device.to_string(), name);
    let rs485 = read.rs485.expect("switched on");
    assert!(rs485.echo && rs485.delay_after == Duration::from_millis(2));
    assert!(!rs485.rts_inverted && !rs485.termination);

    let found = serial("usb = { vid = \"403\" }\nframing = \"lines\"").expect_err("no ids");
    let keys: Vec<&str> = found.iter().map(|mistake| mistake.key.as_str()).collect();
    assert!(
        keys.contains(&"sources.a.usb.vid") && keys.contains(&"sources.a.usb.pid"),
        "{keys:?}"
    );
    let twice = format!("{lines}\n[sources.b]\ntype = \"serial\"\n{lines}");
    let found = serial(&twice).expect_err("one adapter for two sources");
    assert!(
        found[0].what.contains("is the device of source \"a\""),
        "{}",
        found[0]
    );
}

#[test]
fn text_that_is_no_toml_does_not_hide_other_mistakes_nor_feign_missing_keys() {
    let text = with("[buffer]", "bytes_max = \"nonsense\"\nsegment_bytes = = 3");
    let found = mistakes(&text);
    assert_eq!(found.len(), 2, "{found:#?}");
    assert_eq!(found[0].key, "buffer.bytes_max");
    assert!(found[1].what.starts_with("is not TOML"), "{}", found[1]);
    assert_eq!(found[1].line, Some(line_of(&text, "segment_bytes = = 3")));
}

#[test]
fn a_key_whose_line_is_no_toml_is_not_reported_as_missing() {
    for (section, line) in [
        ("[gateway]", "id = "),
        ("[gateway]", "id \"gw\""),
        ("[kafka]", "brokers = [\"k:9092\""),
    ] {
        let found = mistakes(&with(section, line));
        assert!(!found.is_empty());
        assert!(
            found.iter().all(|mistake| mistake.what != "is missing"),
            "{line}: {found:#?}"
        );
    }
}

#[test]
fn a_report_of_many_mistakes_reads_like_this() {
    let text = "\
[gateway]
id = \"plant 7\"
data_dir = \"/tmp\"

[sources.press]
type = \"serial\"
device = \"/dev/ttyS9\"
framing = \"shimm\"
boud_rate = 9600

[buffer]
bytes_max = \"12 MiB\"

[kafka]
delivery = \"exactly-once\"

[[routes]]
source = \"pres\"
match = \"press/{device}\"
topic = \"t-{devise}\"
";
    let report = parse(text, Path::new("gateway.toml"))
        .expect_err("a configuration with mistakes")
        .to_string();
    assert_eq!(report, include_str!("golden_report.txt").trim_end());
}

#[test]
fn the_examples_are_valid() {
    let minimal = parsed(MINIMAL).expect("valid");
    assert_eq!(minimal.sources.len(), 1);
    let city = parsed(SMART_CITY).expect("valid");
    assert_eq!((city.sources.len(), city.routes.len()), (5, 7));
    let factory = parsed(FACTORY).expect("valid");
    assert_eq!((factory.sources.len(), factory.buses.len()), (4, 2));
}

#[test]
fn the_default_file_lacks_only_what_is_to_be_filled_in() {
    let found = mistakes(DEFAULT);
    let keys: Vec<&str> = found.iter().map(|mistake| mistake.key.as_str()).collect();
    assert_eq!(keys, ["sources", "gateway.id", "kafka.brokers"]);
}

/// The default file with all of its keys, but for those that name files which aren't there.
fn default_file_uncommented() -> String {
    let lines = DEFAULT.lines().map(|line| match line.strip_prefix('#') {
        Some(key) if key.starts_with(|c: char| c == '[' || c.is_ascii_lowercase()) => key,
        Some(_) | None => line,
    });
    let lines: Vec<&str> = lines.filter(|line| !line.contains("_file =")).collect();
    lines.join("\n")
}

#[test]
fn the_keys_that_the_default_file_comments_out_show_the_defaults() {
    let shown = parsed(&default_file_uncommented()).expect("valid");
    let default = parsed(
        "gateway.id = \"g\"\nkafka.brokers = [\"k:9092\"]\n\
         [sources.press-line]\ntype = \"serial\"\ndevice = \"/dev/ttyS9\"\nframing = \"shim\"\n\
         [sources.city]\ntype = \"mqtt\"\nurl = \"mqtt://127.0.0.1\"\nsubscriptions = [{ filter = \"a\" }]\n\
         [sources.meters]\ntype = \"modbus\"\nbus = \"hall-3\"\n\
         units = [{ id = 1, device = \"meter-1\" }, { id = 2, device = \"meter-2\", interval = \"2 s\" }]\n\
         registers = [{ name = \"voltage\", kind = \"input\", address = 0, type = \"f32\", unit = \"V\" }]\n\
         [buses.hall-3]\ntype = \"rtu\"\ndevice = \"/dev/serial/by-id/usb-FTDI_FT232R-if00-port1\"\n",
    )
    .expect("valid");
    let general = |config: &Config| {
        let Config {
            buffer,
            http,
            log,
            kafka,
            gateway,
            ..
        } = config;
        let gateway = (&gateway.data_dir, gateway.shutdown_grace);
        let kafka = (
            &kafka.topic,
            &kafka.key,
            kafka.value,
            kafka.headers,
            kafka.linger,
            &kafka.compression,
            kafka.topic_wait,
            &kafka.properties,
        );
        format!("{buffer:?} {http:?} {log:?} {gateway:?} {kafka:?}")
    };
    assert_eq!(general(&shown), general(&default));
    assert_eq!(mqtt_defaults(&shown), mqtt_defaults(&default));
    assert_eq!(serial_defaults(&shown), serial_defaults(&default));
    assert_eq!(modbus_defaults(&shown), modbus_defaults(&default));
    assert_eq!(shown.buses, default.buses);
}

fn mqtt_defaults(config: &Config) -> String {
    let mqtt = config.sources.iter().find_map(|source| match &source.kind {
        SourceKind::Mqtt(mqtt) => Some(mqtt),
        SourceKind::Serial(_) | SourceKind::Modbus(_) => None,
    });
    let mqtt = mqtt.expect("an MQTT source");
    let limits = (
        mqtt.payload_bytes_max,
        mqtt.receive_maximum,
        mqtt.keep_alive,
        mqtt.dedupe,
    );
    let qos = mqtt.subscriptions[0].qos;
    format!(
        "{} {:?} {limits:?} {:?} {qos}",
        mqtt.port, mqtt.protocol, mqtt.session_expiry
    )
}

fn modbus_defaults(config: &Config) -> Option<&Modbus> {
    config.sources.iter().find_map(|source| match &source.kind {
        SourceKind::Modbus(modbus) => Some(modbus.as_ref()),
        SourceKind::Serial(_) | SourceKind::Mqtt(_) => None,
    })
}

fn serial_defaults(config: &Config) -> String {
    let serial = config.sources.iter().find_map(|source| match &source.kind {
        SourceKind::Serial(serial) => Some(serial),
        SourceKind::Mqtt(_) | SourceKind::Modbus(_) => None,
    });
    let mut serial = serial.expect("a serial source").clone();
    serial.device = Device::Path(PathBuf::new());
    format!("{serial:?}")
}

#[test]
fn a_small_budget_shrinks_the_default_segment_and_payload() {
    let config = parsed(&with("[buffer]", "bytes_max = \"16 MiB\"")).expect("valid");
    assert_eq!(config.buffer.segment_bytes, 4 << 20);
    let text = with("[buffer]", "segment_bytes = \"1 MiB\"");
    assert!(mqtt_defaults(&parsed(&text).expect("valid")).contains("524288"));
}

#[test]
fn a_buffer_may_drop_and_compress() {
    let text = "when_full = \"drop_oldest\"\nage_max = \"7 days\"\ncompression = \"zstd\"";
    let buffer = parsed(&with("[buffer]", text)).expect("valid").buffer;
    assert_eq!(buffer.when_full, WhenFull::DropOldest);
    assert_eq!(buffer.age_max, Some(Duration::from_secs(7 * 24 * 3600)));
    assert_eq!(buffer.compression, Compression::Zstd);
    let buffer = parsed(&with("[buffer]", "compression = \"lz4\"")).expect("valid");
    assert_eq!(buffer.buffer.compression, Compression::Lz4);
}

#[test]
fn zero_is_a_duration_without_a_unit() {
    let config = parsed(&with("[buffer]", "commit_interval = 0")).expect("valid");
    assert_eq!(config.buffer.commit_interval, Duration::ZERO);
}

#[test]
fn properties_come_from_both_places_and_secrets_are_never_shown() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("kafka.properties");
    let secret = "hush=\\hush";
    let lines = format!("# secrets\n\nsasl.password = {secret} \nsasl.mechanisms=PLAIN\n");
    std::fs::write(&file, &lines).expect("written");
    let line = format!(
        "properties = {{ \"sasl.username\" = \"u\" }}\nproperties_file = {:?}",
        file.display().to_string()
    );
    let config = parsed(&with("[kafka]", &line)).expect("valid");
    let properties = &config.kafka.properties;
    assert_eq!(properties["sasl.password"], secret);
    assert_eq!(properties["sasl.username"], "u");
    assert!(!format!("{config:?}").contains("hush"));

    std::fs::write(
        &file,
        format!("{lines}acks=hush\nhush\nsasl.username=hush\n"),
    )
    .expect("written");
    let found = mistakes(&with("[kafka]", &line));
    let places: Vec<_> = found
        .iter()
        .map(|mistake| (mistake.file.as_path(), mistake.line, mistake.what.as_str()))
        .collect();
    let place = |line, what| (file.as_path(), Some(line), what);
    assert_eq!(
        places,
        [
            place(5, "cannot be set"),
            place(6, "is not a property"),
            place(7, "is there twice"),
        ]
    );
    assert!(
        found
            .iter()
            .all(|mistake| !mistake.to_string().contains("hush"))
    );
}

fn toml_like() -> impl Strategy<Value = String> {
    let word = prop::sample::select(vec![
        "[gateway]",
        "[sources.a]",
        "[[routes]]",
        "[kafka]",
        "[buffer]",
        "id",
        "type",
        "match",
        "topic",
        "key",
        "\"mqtt\"",
        "\"serial\"",
        "\"{a}/#\"",
        "brokers",
        "url",
        "device",
        "subscriptions",
        "\"1 MiB\"",
        "\"5 s\"",
        "=",
        "{",
        "}",
        "[",
        "]",
        ",",
        ".",
        "\n",
        "\n",
        " ",
        "#",
        "\"",
        "'",
        "1",
        "-1",
        "1e9",
        "true",
        "1979-05-27",
        "é",
        "\0",
    ]);
    prop::collection::vec(word, 0..40).prop_map(|words| words.concat())
}

proptest! {
    #[test]
    fn no_text_makes_the_loader_panic(text in prop_oneof![any::<String>(), toml_like()]) {
        let _ = parsed(&text);
    }

    #[test]
    fn no_damage_to_a_valid_file_makes_the_loader_panic(
        at in any::<prop::sample::Index>(),
        removed in 0_usize..40,
        inserted in toml_like(),
    ) {
        let characters: Vec<char> = SMART_CITY.chars().collect();
        let at = at.index(characters.len());
        let mut text: String = characters[..at].iter().collect();
        text.push_str(&inserted);
        text.extend(&characters[(at + removed).min(characters.len())..]);
        let _ = parsed(&text);
    }
}
