//! At-least-once delivery, under outages and refusals.

use std::time::Duration;

use edge_gateway::record::{Offset, PayloadKind};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use crate::bench::{Bench, Got, PATIENCE, assert_once_and_in_order, until};

#[test]
fn records_arrive_once_in_order_with_their_key_time_and_headers() {
    let bench = Bench::new("");
    let before_ms = edge_gateway::clock::wall_ms();
    bench.append(0, 2_000);
    let after_ms = edge_gateway::clock::wall_ms();
    let running = bench.start();
    bench.until_committed(2_000);
    let got = bench.read(2_000);
    assert_once_and_in_order(&got, 0..2_000);
    let first = got.iter().find(|got| got.value == "0").expect("the first");
    assert_eq!(first.key, "city/0");
    let received_ms = first.timestamp_ms.expect("a timestamp");
    assert!((before_ms..=after_ms).contains(&received_ms));
    assert_eq!(first.headers["timequality"], "synced");
    let id = format!("gw:{}:0", bench.log.identity());
    assert_eq!(first.headers["ce_id"], id);
    assert_eq!(first.headers["ce_subject"], "city/0");
    assert_eq!(
        first.headers["ce_time"].len(),
        "2023-11-14T22:13:20.000Z".len()
    );
    assert_eq!(bench.delivered(), 2_000);
    assert_eq!(bench.metrics.kafka_connected.get(), 1);
    running.drain();
}

#[test]
fn order_survives_a_broker_that_is_away_for_a_while() {
    let bench = Bench::new("");
    let running = bench.start();
    bench.append(0, 1_000);
    bench.until_committed(1);
    bench.cluster.broker_down(-1).expect("down");
    bench.append(1_000, 3_000);
    until("the outage to be noticed", || {
        bench.metrics.kafka_connected.get() == 0
    });
    assert!(bench.log.committed() < Offset::new(3_000));
    bench.cluster.broker_up(-1).expect("up");
    bench.until_committed(3_000);
    assert_once_and_in_order(&bench.read(3_000), 0..3_000);
    running.drain();
}

#[test]
fn order_survives_passing_errors_of_the_broker() {
    let bench = Bench::new("");
    bench.cluster.request_errors(
        RDKafkaApiKey::Produce,
        &[
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
        ],
    );
    bench.append(0, 1_000);
    let running = bench.start();
    bench.until_committed(1_000);
    assert_once_and_in_order(&bench.read(1_000), 0..1_000);
    running.drain();
}

#[test]
fn a_record_too_large_for_the_client_becomes_a_dead_letter_and_its_neighbours_go_on() {
    let bench = Bench::new("properties = { \"message.max.bytes\" = \"2000\" }");
    bench.append(0, 10);
    bench.append_payload(10, format!("10{}", "x".repeat(5_000)).as_bytes());
    bench.append(11, 20);
    let running = bench.start();
    bench.until_committed(20);
    assert_once_and_in_order(&bench.read(19), (0..10).chain(11..20));
    let letters = bench.letters();
    assert_eq!(letters, [(10, "too_large".to_owned())]);
    running.drain();
}

/// One partition, and time enough for one batch: the first refusal hits all of it, the second the
/// first record that is sent alone.
#[test]
fn of_a_batch_that_the_broker_refuses_only_the_record_refused_alone_is_set_aside() {
    let bench = Bench::new("key = \"one\"\nlinger = \"500 ms\"");
    bench.append(0, 300);
    bench.cluster.request_errors(
        RDKafkaApiKey::Produce,
        &[
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE,
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE,
        ],
    );
    let running = bench.start();
    bench.until_committed(300);
    let letters = bench.letters();
    assert_eq!(letters, [(0, "too_large".to_owned())]);
    assert_once_and_in_order(&bench.read(299), 1..300);
    running.drain();
}

/// What other partitions took before the refusal is not sent again, and what comes after the
/// refused batch streams again.
#[test]
fn a_refusal_in_one_partition_neither_reorders_nor_repeats_anything() {
    let bench = Bench::new("");
    bench.append(0, 300);
    bench.cluster.request_errors(
        RDKafkaApiKey::Produce,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_RECORD],
    );
    let running = bench.start();
    bench.append(300, 3_000);
    bench.until_committed(3_000);
    assert_once_and_in_order(&bench.read(3_000), 0..3_000);
    assert_eq!(bench.delivered(), 3_000);
    let letters = bench.letters();
    assert!(letters.is_empty(), "{letters:?}");
    drop(letters);
    running.drain();
}

#[test]
fn a_timestamp_that_is_refused_is_left_out() {
    let bench = Bench::new("");
    bench.append(0, 1);
    bench.cluster.request_errors(
        RDKafkaApiKey::Produce,
        &[
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_TIMESTAMP,
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_TIMESTAMP,
        ],
    );
    let running = bench.start();
    bench.until_committed(1);
    let got = bench.read(1);
    assert_eq!(got[0].timestamp_ms, None);
    assert!(bench.letters().is_empty());
    running.drain();
}

#[test]
fn nothing_is_committed_that_kafka_has_not_reported() {
    let bench = Bench::new("");
    bench.cluster.broker_down(-1).expect("down");
    bench.append(0, 500);
    let running = bench.start_with_grace(Duration::from_millis(300));
    running.drain();
    assert_eq!(bench.log.committed(), Offset::ZERO);
    bench.cluster.broker_up(-1).expect("up");
    let running = bench.start();
    bench.until_committed(500);
    assert_once_and_in_order(&bench.read(500), 0..500);
    running.drain();
}

#[test]
fn draining_delivers_everything_that_is_synced() {
    let bench = Bench::new("");
    let running = bench.start();
    bench.append(0, 5_000);
    running.drain();
    assert_eq!(bench.log.committed(), Offset::new(5_000));
    assert_once_and_in_order(&bench.read(5_000), 0..5_000);
}

#[test]
fn draining_does_not_wait_for_the_next_round() {
    let bench = Bench::new("linger = \"60 s\"");
    let running = bench.start();
    bench.append(0, 1);
    bench.until_committed(1);
    bench.append(1, 3);
    running.drain();
    assert_eq!(bench.log.committed(), Offset::new(3));
    assert_once_and_in_order(&bench.read(3), 0..3);
}

#[test]
fn a_sources_note_about_itself_is_passed_over() {
    let bench = Bench::new("");
    let note = || bench.append_kind("city", "city", (PayloadKind::Note, b"not for Kafka"));
    note();
    bench.append_payload(0, b"0");
    note();
    bench.append_payload(1, b"1");
    note();
    let running = bench.start();
    bench.until_committed(5);
    assert_once_and_in_order(&bench.read(2), 0..2);
    assert_eq!(bench.delivered(), 2);
    assert_eq!(bench.letters(), []);
    running.drain();
}

#[test]
fn dropped_records_become_a_gap_marker_for_each_source() {
    let bench = Bench::with_log("", 1 << 20, true);
    let payload = vec![b'x'; 10_000];
    for number in 0..300 {
        let source = if number % 3 == 0 { "press" } else { "city" };
        bench.append_of(source, number, &payload);
        let progress = bench.log.wait(Offset::new(number), PATIENCE);
        assert!(progress.synced > Offset::new(number));
    }
    let running = bench.start();
    bench.until_committed(300);
    let got = bench.read(usize::try_from(bench.delivered()).expect("few"));
    let markers: Vec<&Got> = got
        .iter()
        .filter(|got| got.headers["ce_type"] == "telemetry.gap")
        .collect();
    assert_eq!(markers.len(), 2);
    let mut records = 0;
    for (source, marker) in ["city", "press"].iter().zip(in_order_of_source(&markers)) {
        let value: serde_json::Value = serde_json::from_str(&marker.value).expect("JSON");
        assert_eq!(
            (value["source"].as_str(), marker.key.as_str()),
            (Some(*source), *source)
        );
        assert_eq!(value["reason"], "buffer_full");
        assert_eq!(value["first_offset"], 0);
        let last = value["last_offset"].as_u64().expect("a number");
        assert!(marker.headers["ce_id"].ends_with(&format!(":0-{last}")));
        let lost = (0..=last).filter(|number| (number % 3 == 0) == (*source == "press"));
        assert_eq!(value["records"], lost.count());
        records += value["records"].as_u64().expect("a number");
        assert_eq!(bench.delivered(), 300 - (last + 1) + 2);
    }
    assert_eq!(bench.delivered(), 300 - records + 2);
    running.drain();
}

fn in_order_of_source<'a>(markers: &[&'a Got]) -> Vec<&'a Got> {
    let mut sorted = markers.to_vec();
    sorted.sort_by_key(|got| got.key.clone());
    sorted
}
