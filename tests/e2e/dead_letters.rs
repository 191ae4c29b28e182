//! Records that Kafka refuses: looked at, deleted and sent again by the commands, and copied to a
//! topic, beside a gateway that runs.

use std::path::Path;
use std::process::Output;

use serde_json::Value;
use system_tests::gateway::{self, Gateway, Settings};
use system_tests::mosquitto::Mosquitto;
use system_tests::mqtt_client::MqttClient;
use system_tests::oracle::Oracle;
use system_tests::{kafka, turn, wait};

use crate::SOON;

const SET_ASIDE: &str = "edge_gateway_dead_letters_total";

fn dead_letters(data_dir: &Path, arguments: &[&str]) -> Output {
    gateway::under_test()
        .arg("dead-letters")
        .args(arguments)
        .arg("--data-dir")
        .arg(data_dir)
        .output()
        .unwrap()
}

fn listed(data_dir: &Path) -> Vec<Value> {
    let output = dead_letters(data_dir, &["list", "--json"]);
    assert!(output.status.success(), "{output:?}");
    let lines = String::from_utf8(output.stdout).unwrap();
    let line = |line| serde_json::from_str(line).unwrap();
    lines.lines().map(line).collect()
}

/// Bytes that do not compress, another run of them for each seed.
fn noise(seed: u64, count: usize) -> Vec<u8> {
    let mut state = seed;
    let next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(count).collect()
}

#[test]
fn a_refused_record_is_listed_and_arrives_once_the_limit_is_raised_and_another_is_deleted() {
    let _turn = turn();
    for delivery in ["at_least_once", "exactly_once"] {
        let kafka = kafka::shared();
        let (topic, copies) = (kafka.new_topic(1), kafka.new_topic(1));
        let offsets = format!("{topic}-offsets");
        kafka.create_topic(&offsets, 1, &[("cleanup.policy", "compact")]);
        kafka.configure_topic(&topic, "max.message.bytes", "20000");
        let broker = Mosquitto::start();
        let settings = Settings::new(&kafka.bootstrap(), &topic)
            .kafka(&format!(
                "delivery = \"{delivery}\"\noffsets_topic = \"{offsets}\""
            ))
            .section(&format!("[dead_letters]\ntopic = \"{copies}\""))
            .mqtt("city", &broker.url(), ("#", 1), "");
        let mut gateway = Gateway::start_ready(&settings);
        let data_dir = gateway.data_dir();
        let (first, second) = (noise(1, 30_000), noise(2, 30_000));
        let mut client = MqttClient::connect(broker.port(), "one");
        client.publish("city/1", b"before");
        client.publish("city/1", &first);
        client.publish("city/1", &second);
        client.publish("city/1", b"after");
        gateway.wait_metric(SET_ASIDE, &[("reason", "too_large")], 2.0, SOON);
        let mut oracle = Oracle::new(&kafka.bootstrap(), &[&topic]);
        let records = oracle.take(2, SOON);
        assert_eq!(records[1].value.as_deref(), Some(&b"after"[..]));

        let letters = listed(&data_dir);
        assert_eq!(letters.len(), 2, "{letters:?}");
        for letter in &letters {
            assert_eq!(letter["topic"], *topic, "{letter}");
            assert_eq!(letter["reason"], "too_large", "{letter}");
            assert!(letter["code"].as_str().is_some(), "{letter}");
            assert_eq!(letter["payload_bytes_kept"], 30_000, "{letter}");
        }
        let mut copied = Oracle::new(&kafka.bootstrap(), &[&copies]);
        let copy = copied.take(2, SOON).remove(0);
        assert_eq!(copy.value.as_deref(), Some(&first[..]));

        let offset = letters[1]["offset"].to_string();
        let deleted = dead_letters(&data_dir, &["delete", &offset]);
        assert!(deleted.status.success(), "{deleted:?}");
        kafka.configure_topic(&topic, "max.message.bytes", "1000000");
        let delivered = "edge_gateway_records_delivered_total";
        wait::until("the record of the letter", SOON, || {
            // The broker may not have the new limit yet, and make it a letter again.
            if !listed(&data_dir).is_empty() {
                let retried = dead_letters(&data_dir, &["retry", "--all"]);
                assert!(retried.status.success(), "{retried:?}");
            }
            gateway.metric(delivered, &[("topic", topic.as_str())]) >= Some(3.0)
        });
        let record = oracle.take(1, SOON).remove(0);
        assert_eq!(record.value.as_deref(), Some(&first[..]), "{delivery}");
        assert_eq!(record.key.as_deref(), Some(&b"city/1"[..]));

        gateway.kill_and_restart();
        gateway.wait_ready();
        assert_eq!(listed(&data_dir), Vec::<Value>::new(), "{delivery}");
        let kept = gateway.metric("edge_gateway_dead_letters_kept", &[]);
        assert_eq!(kept, Some(0.0));
        assert_eq!(gateway.drain().code(), Some(0));
        let output = dead_letters(&data_dir, &["retry", "--all"]);
        assert_eq!(output.status.code(), Some(1), "nobody is there to ask");
    }
}

#[test]
fn records_of_a_route_that_drops_are_counted_and_do_not_arrive() {
    let _turn = turn();
    let kafka = kafka::shared();
    let topic = kafka.new_topic(1);
    let broker = Mosquitto::start();
    let settings = Settings::new(&kafka.bootstrap(), &topic)
        .mqtt("city", &broker.url(), ("#", 1), "")
        .section("[[routes]]\nmatch = \"+/debug/#\"\ndrop = true");
    let mut gateway = Gateway::start_ready(&settings);
    let mut client = MqttClient::connect(broker.port(), "one");
    for number in 0..10 {
        client.publish("city/debug/x", b"noise");
        client.publish("city/1", number.to_string().as_bytes());
    }
    let records = Oracle::new(&kafka.bootstrap(), &[&topic]).take(10, SOON);
    for (number, record) in records.iter().enumerate() {
        assert_eq!(record.value.as_deref(), Some(number.to_string().as_bytes()));
    }
    let labels = [("source", "city"), ("reason", "route")];
    gateway.wait_metric("edge_gateway_records_dropped_total", &labels, 10.0, SOON);
    gateway.wait_metric("edge_gateway_records_delivered_total", &[], 10.0, SOON);
    wait::until("an empty buffer", SOON, || {
        gateway.metric("edge_gateway_buffer_records", &[]) == Some(0.0)
    });
    assert_eq!(
        gateway.metric("edge_gateway_records_delivered_total", &[]),
        Some(10.0)
    );
    assert_eq!(gateway.drain().code(), Some(0));
}
