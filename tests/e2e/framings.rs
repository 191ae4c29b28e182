//! Every framing of a serial line: simulated devices → gateway → Kafka, each message once, in order
//! and as the framing says it is.

use std::path::Path;

use system_tests::gateway::{Gateway, Settings};
use system_tests::oracle::Oracle;
use system_tests::sim::Sim;
use system_tests::tally::identify;
use system_tests::{kafka, process, turn};

use crate::SOON;

const COMMITTED: &str = "edge_gateway_records_committed_total";

/// A framing.
struct Case {
    /// As the simulator calls it; the source's name too.
    name: &'static str,
    /// As the gateway is told of it.
    keys: &'static str,
    messages: u64,
    /// The JSON in a record, if all around it is right.
    open: fn(&[u8]) -> Option<Vec<u8>>,
}

fn bare(record: &[u8]) -> Option<Vec<u8>> {
    Some(record.to_vec())
}

const CASES: [Case; 9] = [
    case("shim", "framing = \"shim\"", bare),
    case("lines", "framing = \"lines\"", bare),
    case("cobs", "framing = \"cobs\"", bare),
    case("slip", "framing = \"slip\"", bare),
    case("length-u8", "framing = \"length-u8\"", bare),
    case("length-u16-be", "framing = \"length-u16-be\"", bare),
    case(
        "stx-etx",
        "framing = { start = \"\\u0002\", end = \"\\u0003\" }",
        |record| {
            Some(
                record
                    .strip_prefix(b"\x02")?
                    .strip_suffix(b"\x03")?
                    .to_vec(),
            )
        },
    ),
    case(
        "dsmr",
        "framing = { start = \"/\", end = \"!\" }\nchecksum = \"dsmr\"",
        |record| {
            let text = str::from_utf8(record).ok()?;
            let (_, message) = text.split_once("0-0:96.13.0(")?;
            let (digits, _crc) = message.split_once(")\r\n!")?;
            let byte = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok();
            digits.as_bytes().chunks(2).map(byte).collect()
        },
    ),
    Case {
        // Silence makes it slow.
        messages: 25,
        ..case(
            "idle",
            "framing = { idle = \"20 ms\" }\nchecksum = \"modbus\"",
            |record| Some(record.split_last_chunk::<2>()?.0.to_vec()),
        )
    },
];

const fn case(name: &'static str, keys: &'static str, open: fn(&[u8]) -> Option<Vec<u8>>) -> Case {
    Case {
        name,
        keys,
        messages: 300,
        open,
    }
}

impl Case {
    fn sim(&self, line: &Path) -> Sim {
        let Self { name, messages, .. } = self;
        Sim::start(&format!(
            "serial --pty {} --framing {name} --rate 100 --count {messages}",
            line.display()
        ))
    }

    fn settings(&self, settings: Settings, line: &Path, topic: &str) -> Settings {
        let Self { name, keys, .. } = self;
        settings
            .section(&format!(
                "[sources.{name}]\ntype = \"serial\"\ndevice = \"{}\"\n{keys}",
                line.display()
            ))
            .route(&format!("{name}/{{device}}"), topic, "{device}")
    }

    /// All messages are in the topic, in order, and nothing else.
    fn check(&self, bootstrap: &str, topic: &str, gateway: &Gateway) {
        let Self { name, messages, .. } = self;
        let count = usize::try_from(*messages).unwrap();
        let records = Oracle::new(bootstrap, &[topic]).take(count, SOON);
        for (sequence, record) in (0..).zip(&records) {
            let value = record.value.as_deref().unwrap();
            let identity = (self.open)(value).and_then(|payload| identify(&payload));
            let found = identity.map(|identity| identity.sequence);
            assert_eq!(found, Some(sequence), "{name}: {value:?}");
        }
        let committed = gateway.metric(COMMITTED, &[("source", name)]);
        assert_eq!(committed, Some(*messages as f64), "{name}");
    }
}

#[test]
fn every_framing_brings_each_message_once_and_in_order() {
    let _turn = turn();
    let kafka = kafka::shared();
    let dir = process::temp_dir();
    let lines = CASES.map(|case| dir.path().join(case.name));
    let sims: Vec<Sim> = CASES
        .iter()
        .zip(&lines)
        .map(|(case, line)| case.sim(line))
        .collect();
    let topics = CASES.map(|_| kafka.new_topic(1));
    let settings = Settings::new(&kafka.bootstrap(), &kafka.new_topic(1));
    let settings = CASES
        .iter()
        .zip(lines.iter().zip(&topics))
        .fold(settings, |settings, (case, (line, topic))| {
            case.settings(settings, line, topic)
        });
    let mut gateway = Gateway::start_ready(&settings);
    for (case, sim) in CASES.iter().zip(sims) {
        assert_eq!(sim.finish(SOON).sent, case.messages, "{}", case.name);
    }
    for (case, topic) in CASES.iter().zip(&topics) {
        case.check(&kafka.bootstrap(), topic, &gateway);
    }
    assert_eq!(
        gateway.metric("edge_gateway_frames_rejected_total", &[]),
        None,
        "the lines were clean"
    );
    assert_eq!(gateway.drain().code(), Some(0));
}
