//! A key's partition is the one that Java's producer gives it: who joins what the gateway sends with
//! what a Java service sends finds both in the same place.

use std::collections::BTreeMap;

use system_tests::gateway::{Gateway, Settings};
use system_tests::kafka;
use system_tests::mosquitto::Mosquitto;
use system_tests::mqtt_client::MqttClient;
use system_tests::oracle::{Oracle, Received};
use system_tests::turn;

use crate::SOON;

const PARTITIONS: i32 = 16;

/// Keys of every length modulo 4, which murmur2 treats apart, and with bytes over 127, which Java
/// has signed.
fn keys() -> Vec<String> {
    let plain =
        (0..100).map(|number| format!("sensor-{}", "x".repeat(number % 9)) + &number.to_string());
    let accented = (0..60).map(|number| format!("Tür-{number}-{}", "é".repeat(number % 5)));
    let others = (0..40).map(|number| format!("温度計{number}🌡"));
    plain.chain(accented).chain(others).collect()
}

fn partitions(records: Vec<Received>) -> BTreeMap<String, i32> {
    let entry = |record: Received| {
        let key = String::from_utf8(record.key.expect("every record has a key"));
        (key.expect("keys are texts"), record.partition)
    };
    records.into_iter().map(entry).collect()
}

#[test]
fn a_key_has_the_partition_that_javas_producer_gives_it() {
    let _turn = turn();
    let kafka = kafka::shared();
    let (ours, javas) = (kafka.new_topic(PARTITIONS), kafka.new_topic(PARTITIONS));
    let keys = keys();
    kafka.produce_by_java(&javas, &keys);
    let broker = Mosquitto::start();
    let settings = Settings::new(&kafka.bootstrap(), "not-used")
        .mqtt("city", &broker.url(), ("keys/+", 1), "")
        .route("keys/{device}", &ours, "{device}");
    let mut gateway = Gateway::start_ready(&settings);
    let mut client = MqttClient::connect(broker.port(), "keys");
    for key in &keys {
        client.publish(&format!("keys/{key}"), b"value");
    }
    gateway.wait_metric(
        "edge_gateway_records_delivered_total",
        &[("topic", &ours)],
        keys.len() as f64,
        SOON,
    );
    let read = |topic: &str| {
        let records = Oracle::new(&kafka.bootstrap(), &[topic]).take(keys.len(), SOON);
        partitions(records)
    };
    let (ours, javas) = (read(&ours), read(&javas));
    assert_eq!(ours.len(), keys.len());
    assert_eq!(ours, javas);
}
