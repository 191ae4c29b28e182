//! What no well-behaved sensor sends. Nothing of it may stop what comes after it.

use system_tests::gateway::{Gateway, Settings};
use system_tests::mosquitto::Mosquitto;
use system_tests::mqtt_client::MqttClient;
use system_tests::oracle::Oracle;
use system_tests::pty::Pty;
use system_tests::{frame, kafka, turn};

use crate::SOON;

#[test]
fn empty_binary_and_large_payloads_arrive_as_they_are() {
    let _turn = turn();
    let kafka = kafka::shared();
    let topic = kafka.new_topic(1);
    let broker = Mosquitto::start();
    let settings =
        Settings::new(&kafka.bootstrap(), &topic).mqtt("city", &broker.url(), ("#", 1), "");
    let _gateway = Gateway::start_ready(&settings);
    let large: Vec<u8> = (0..=255).cycle().take(256 * 1024).collect();
    let payloads: [&[u8]; 4] = [b"", b"\xff\xfe\x00\xc3\x28", &large, b"last"];
    let mut client = MqttClient::connect(broker.port(), "odd");
    for payload in payloads {
        client.publish("odd/device", payload);
    }
    let records = Oracle::new(&kafka.bootstrap(), &[&topic]).take(payloads.len(), SOON);
    for (record, payload) in records.iter().zip(payloads) {
        assert_eq!(record.value.as_deref(), Some(payload), "never a null");
        assert_eq!(record.key.as_deref(), Some(&b"odd/device"[..]));
    }
}

#[test]
fn a_payload_over_the_limit_is_one_dead_letter_and_does_not_come_again() {
    let _turn = turn();
    for protocol in ["5", "3.1.1"] {
        let kafka = kafka::shared();
        let topic = kafka.new_topic(1);
        let broker = Mosquitto::start();
        let more = format!("protocol = \"{protocol}\"\npayload_bytes_max = \"64 KiB\"");
        let settings =
            Settings::new(&kafka.bootstrap(), &topic).mqtt("city", &broker.url(), ("#", 1), &more);
        let mut gateway = Gateway::start_ready(&settings);
        let mut client = MqttClient::connect(broker.port(), "large");
        client.publish("a/b", b"before");
        client.publish("a/b", &vec![b'x'; 100 * 1024]);
        client.publish("a/b", b"after");
        let mut oracle = Oracle::new(&kafka.bootstrap(), &[&topic]);
        let records = oracle.take(2, SOON);
        assert_eq!(records[1].value.as_deref(), Some(&b"after"[..]));
        let labels = [("reason", "too_large")];
        let dead_letters = gateway.metric("edge_gateway_dead_letters_total", &labels);
        assert_eq!(dead_letters, Some(1.0), "MQTT {protocol}");
        let duplicates = gateway.metric("edge_gateway_duplicates_suppressed_total", &[]);
        assert_eq!(duplicates.unwrap_or(0.0), 0.0, "the session never broke");

        // Had it not been acknowledged, the broker would send it again now.
        gateway.kill_and_restart();
        gateway.wait_ready();
        client.publish("a/b", b"later");
        // What was delivered right before the kill may come to Kafka again, but nothing else.
        loop {
            let next = oracle.take(1, SOON).remove(0).value;
            match next.as_deref() {
                Some(b"later") => break,
                Some(b"before" | b"after") => {}
                other => panic!("MQTT {protocol}: {other:?}"),
            }
        }
        let again = gateway.metric("edge_gateway_records_received_total", &[]);
        assert_eq!(again, Some(1.0), "MQTT {protocol}: only what is new");
    }
}

/// Bytes without a pattern, the same in every run.
fn noise(count: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    std::iter::repeat_with(next).take(count).collect()
}

fn telemetry(sequence: u32) -> Vec<u8> {
    format!(r#"{{"source":"t","device":"d","sequence":{sequence}}}"#).into_bytes()
}

#[test]
fn frames_between_noise_and_damage_arrive() {
    let _turn = turn();
    let kafka = kafka::shared();
    let topic = kafka.new_topic(1);
    let mut line = Pty::open();
    let settings = Settings::new(&kafka.bootstrap(), &topic).serial("press", line.path(), "shim");
    let mut gateway = Gateway::start_ready(&settings);
    line.send(&noise(50_000));
    line.send(&[0]);
    for sequence in 0..20 {
        line.send(&frame::opaque_damaged(7, sequence, &telemetry(sequence)));
        line.send(&[0, 0]);
        let whole = frame::opaque(7, sequence, &telemetry(sequence));
        line.send(&whole[..whole.len() / 2]);
        line.send(&[0]);
        line.send(&whole);
    }
    line.send(&[1; 5000]);
    line.send(&[0]);
    line.send(&frame::opaque(7, 20, &telemetry(20)));
    Oracle::new(&kafka.bootstrap(), &[&topic]).expect_all(&topic, 21, SOON);
    for reason in ["crc", "too_long"] {
        let rejected = gateway.metric("edge_gateway_frames_rejected_total", &[("reason", reason)]);
        assert!(rejected > Some(0.0), "{reason}: {rejected:?}");
    }
    assert!(!line.receive().is_empty(), "an ACK");
    assert_eq!(gateway.drain().code(), Some(0));
}

#[test]
fn a_line_without_an_end_is_rejected_and_the_next_one_arrives() {
    let _turn = turn();
    let kafka = kafka::shared();
    let topic = kafka.new_topic(1);
    let mut line = Pty::open();
    let settings = Settings::new(&kafka.bootstrap(), &topic).serial("text", line.path(), "lines");
    let gateway = Gateway::start_ready(&settings);
    line.send(&[b'x'; 20_000]);
    line.send(b"\n");
    line.send(&telemetry(0));
    line.send(b"\r\n");
    line.send(&telemetry(1));
    line.send(b"\n");
    Oracle::new(&kafka.bootstrap(), &[&topic]).expect_all(&topic, 2, SOON);
    let labels = [("source", "text"), ("reason", "too_long")];
    let rejected = gateway.metric("edge_gateway_frames_rejected_total", &labels);
    assert_eq!(rejected, Some(1.0));
}
