//! Modbus units on a line and over TCP → gateway → Kafka.

use std::net::SocketAddr;

use serde_json::{Value, json};
use system_tests::gateway::{Gateway, Settings};
use system_tests::modbus::{Reply, Request, Script, serve_rtu, serve_tcp};
use system_tests::oracle::{Oracle, Received};
use system_tests::pty::Pty;
use system_tests::{kafka, turn};

use crate::SOON;

const SOURCES: &str = r#"
[sources.meters]
type = "modbus"
bus = "hall"
interval = "200 ms"
timeout = "30 s"
units = [
    { id = 1, device = "meter-1" },
    { id = 2, device = "meter-2" },
    { id = 3, timeout = "100 ms" },
]
registers = [
    { name = "polls", kind = "holding", address = 0, type = "u32" },
    { name = "voltage", kind = "input", address = 10, type = "i16", scale = 0.1, unit = "V" },
]

[sources.pumps]
type = "modbus"
bus = "hall"
interval = "300 ms"
timeout = "30 s"
units = [{ id = 4, device = "pump", registers = [{ name = "runs", kind = "coil", address = 7 }] }]

[sources.oven]
type = "modbus"
bus = "cell"
interval = "200 ms"
timeout = "30 s"
units = [{ id = 255, device = "oven" }]
registers = [{ name = "polls", kind = "holding", address = 0, type = "u32", order = "CDAB" }]
"#;

/// Units that count their polls; unit 3 is dead.
fn script(words: fn(u16) -> Vec<u16>) -> Script {
    let mut polls = [0_u16; 256];
    Box::new(
        move |request: Request| match (request.unit, request.function) {
            (3, _) => Reply::Silence,
            (_, 1) => Reply::Bits(vec![1]),
            (_, 4) => Reply::Words(vec![2301]),
            (unit, _) => {
                polls[usize::from(unit)] += 1;
                Reply::Words(words(polls[usize::from(unit)]))
            }
        },
    )
}

fn settings(settings: Settings, line: &Pty, address: SocketAddr) -> Settings {
    settings
        .section(&format!(
            "[buses.hall]\ntype = \"rtu\"\ndevice = \"{}\"\nbaud_rate = 115200\nparity = \"none\"\n\
             [buses.cell]\ntype = \"tcp\"\naddress = \"{address}\"",
            line.path().display()
        ))
        .section(SOURCES)
}

fn key(record: &Received) -> &str {
    std::str::from_utf8(record.key.as_deref().unwrap()).unwrap()
}

fn value(record: &Received) -> Value {
    serde_json::from_slice(record.value.as_deref().unwrap()).unwrap()
}

#[test]
fn polls_of_several_units_sources_and_buses_arrive_each_once_and_in_order() {
    let _turn = turn();
    let kafka = kafka::shared();
    let topic = kafka.new_topic(1);
    let line = Pty::open();
    serve_rtu(line.device_end(), script(|polls| vec![0, polls]));
    let address = serve_tcp(script(|polls| vec![polls, 0]));
    let plain = Settings::new(&kafka.bootstrap(), &topic).kafka("value = \"json\"");
    let mut gateway = Gateway::start_ready(&settings(plain, &line, address));
    for source in ["meters", "pumps", "oven"] {
        let labels = [("source", source)];
        gateway.wait_metric("edge_gateway_records_committed_total", &labels, 20.0, SOON);
    }
    let dead = [("source", "meters"), ("unit", "3")];
    assert_eq!(
        gateway.metric("edge_gateway_modbus_unit_up", &dead),
        Some(0.0)
    );
    let timeouts = gateway.metric("edge_gateway_modbus_requests_total", &dead);
    assert!(timeouts >= Some(3.0), "{timeouts:?}");
    assert_eq!(gateway.drain().code(), Some(0));

    let records = Oracle::new(&kafka.bootstrap(), &[&topic]).take(60, SOON);
    for device in ["meter-1", "meter-2", "oven"] {
        let polls: Vec<u64> = records
            .iter()
            .filter(|record| key(record) == device)
            .map(|record| value(record)[0]["v"].as_u64().unwrap())
            .collect();
        let expected: Vec<u64> = (1..=polls.len() as u64).collect();
        assert!(
            !polls.is_empty() && polls == expected,
            "{device}: {polls:?}"
        );
    }
    let meter = records
        .iter()
        .find(|record| key(record) == "meter-1")
        .unwrap();
    let expected = json!([
        { "bn": "meter-1/", "n": "polls", "v": 1 },
        { "n": "voltage", "u": "V", "v": 230.1 },
    ]);
    assert_eq!(value(meter), expected);
    assert_eq!(meter.headers["ce_subject"], "meters/meter-1");
    assert_eq!(meter.headers["content-type"], "application/json");
    let pump = records.iter().find(|record| key(record) == "pump").unwrap();
    assert_eq!(
        value(pump),
        json!([{ "bn": "pump/", "n": "runs", "vb": true }])
    );
}
