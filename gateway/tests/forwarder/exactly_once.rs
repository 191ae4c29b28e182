//! Exactly-once delivery, where a real broker can't be made to do what is needed. The mock cluster takes
//! part in transactions and hides nothing of aborted ones: that records are seen once is shown on Apache
//! Kafka.

use std::collections::BTreeSet;
use std::time::Duration;

use edge_gateway::dead_letters::DeadLetter;
use edge_gateway::forwarder::ForwarderError;
use edge_gateway::record::{Offset, Origin, PayloadKind, SourceName, Stamp};
use rdkafka::ClientConfig;
use rdkafka::mocking::MockCoordinator;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use crate::bench::{Bench, OFFSETS_TOPIC, PATIENCE, Running, assert_once_and_in_order};

const KAFKA: &str = "delivery = \"exactly_once\"\noffsets_topic = \"offsets\"";

fn bench() -> Bench {
    Bench::new(KAFKA)
}

/// A forwarder that has claimed the id and delivered record 0.
fn begun(bench: &Bench) -> Running {
    bench.append(0, 1);
    let running = bench.start();
    bench.until_committed(1);
    running
}

fn positions(bench: &Bench, count: usize) -> Vec<serde_json::Value> {
    let got = bench.read_topic(OFFSETS_TOPIC, 1, count);
    let values = got.iter().map(|got| {
        assert_eq!(got.key, "gw");
        serde_json::from_str(&got.value).expect("JSON")
    });
    values.collect()
}

/// Writes a position to the offsets topic, as another process would.
fn write_position(bench: &Bench, value: &serde_json::Value) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", bench.cluster.bootstrap_servers())
        .create()
        .expect("a producer");
    let value = value.to_string();
    let record = BaseRecord::to(OFFSETS_TOPIC).key("gw").payload(&value);
    producer.send(record).expect("taken");
    producer.flush(PATIENCE).expect("delivered");
}

fn numbers(bench: &Bench, count: usize) -> BTreeSet<u64> {
    let got = bench.read(count);
    got.iter()
        .map(|got| got.value.parse().expect("a number"))
        .collect()
}

#[test]
fn records_arrive_once_in_order_and_the_position_with_them() {
    let bench = bench();
    bench.append(0, 5_000);
    let running = bench.start();
    bench.until_committed(5_000);
    assert_once_and_in_order(&bench.read(5_000), 0..5_000);
    assert_eq!(bench.delivered(), 5_000);
    let positions = positions(&bench, 2);
    assert_eq!(positions[0]["offset"], 0, "the claim");
    for position in &positions {
        assert_eq!(position["log"], bench.log.identity());
        assert!(position["host"].is_string() && position["time"].is_string());
    }
    running.drain();
    assert_eq!(positions[0]["instance"], positions[1]["instance"]);
}

#[test]
fn a_sources_note_about_itself_is_passed_over() {
    let bench = bench();
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
fn draining_commits_everything_that_is_synced() {
    let bench = bench();
    let running = begun(&bench);
    bench.append(1, 3_000);
    running.drain();
    assert_eq!(bench.log.committed(), Offset::new(3_000));
}

#[test]
fn draining_does_not_wait_for_the_next_round() {
    let bench = Bench::new(&format!("{KAFKA}\nlinger = \"60 s\""));
    let running = begun(&bench);
    bench.append(1, 3);
    running.drain();
    assert_eq!(bench.log.committed(), Offset::new(3));
}

#[test]
fn a_gateway_without_kafka_drains_within_its_grace() {
    let bench = bench();
    bench.cluster.broker_down(-1).expect("down");
    bench.append(0, 10);
    bench.start_with_grace(Duration::from_millis(300)).drain();
    assert_eq!(bench.log.committed(), Offset::ZERO);
}

#[test]
fn an_outage_is_waited_through() {
    let bench = bench();
    let running = begun(&bench);
    bench.cluster.broker_down(-1).expect("down");
    bench.append(1, 2_000);
    assert!(bench.log.committed() < Offset::new(2_000));
    bench.cluster.broker_up(-1).expect("up");
    bench.until_committed(2_000);
    assert_eq!(numbers(&bench, 2_000), (0..2_000).collect());
    running.drain();
}

/// E2: the position that is read back says that the transaction is in Kafka, and nothing of it is sent
/// again.
#[test]
fn after_a_commit_without_an_answer_the_position_decides() {
    let bench = bench();
    let running = begun(&bench);
    bench.cluster.request_errors(
        RDKafkaApiKey::EndTxn,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH],
    );
    bench.append(1, 1_000);
    bench.until_committed(1_000);
    bench.append(1_000, 1_010);
    bench.until_committed(1_010);
    assert_once_and_in_order(&bench.read(1_010), 0..1_010);
    running.drain();
}

/// E1: all is in the topic, but for Kafka's word that the transaction is committed.
#[test]
fn the_committed_offset_stays_until_kafka_has_confirmed_the_commit() {
    let bench = bench();
    let running = begun(&bench);
    let busy = RDKafkaRespErr::RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS;
    bench
        .cluster
        .request_errors(RDKafkaApiKey::EndTxn, &[busy; 1000]);
    bench.append(1, 100);
    assert_once_and_in_order(&bench.read(100), 0..100);
    let written = positions(&bench, 3).pop().expect("three");
    assert_eq!(written["offset"], 100);
    assert_eq!(bench.log.committed(), Offset::new(1));
    bench.cluster.clear_request_errors(RDKafkaApiKey::EndTxn);
    bench.until_committed(100);
    assert_once_and_in_order(&bench.read(100), 0..100);
    running.drain();
}

/// E4: the coordinator's own timeout is told as a rival is.
#[test]
fn a_fence_without_a_rival_is_no_end() {
    let bench = bench();
    let running = begun(&bench);
    for error in [
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_PRODUCER_FENCED,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH,
    ] {
        let committed = bench.log.committed().get();
        bench
            .cluster
            .request_errors(RDKafkaApiKey::AddPartitionsToTxn, &[error]);
        bench.append(committed, committed + 100);
        bench.until_committed(committed + 100);
    }
    assert_eq!(numbers(&bench, 201), (0..201).collect());
    running.drain();
}

/// E4
#[test]
fn a_fenced_gateway_ends_and_names_the_rival_that_wrote_last() {
    let bench = bench();
    let running = begun(&bench);
    let mut rival = positions(&bench, 1).remove(0);
    rival["instance"] = "00000000deadbeef".into();
    rival["host"] = "other-board".into();
    write_position(&bench, &rival);
    bench.cluster.request_errors(
        RDKafkaApiKey::AddPartitionsToTxn,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_PRODUCER_FENCED],
    );
    bench.append(1, 100);
    let ended = running
        .thread
        .join()
        .expect("no panic")
        .expect_err("a rival");
    assert!(
        matches!(&ended, ForwarderError::Rival { host, .. } if host == "other-board"),
        "{ended}"
    );
    assert!(ended.to_string().contains("00000000deadbeef"));
}

#[test]
fn what_the_cluster_refuses_the_gateway_is_waited_for() {
    for error in [
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_TRANSACTION_TIMEOUT,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE,
    ] {
        let bench = bench();
        bench
            .cluster
            .request_errors(RDKafkaApiKey::InitProducerId, &[error, error]);
        bench.append(0, 100);
        let running = bench.start();
        bench.until_committed(100);
        running.drain();
    }
}

#[test]
fn passing_errors_of_the_broker_neither_lose_nor_repeat_anything() {
    let bench = bench();
    let running = begun(&bench);
    bench.cluster.request_errors(
        RDKafkaApiKey::Produce,
        &[
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
        ],
    );
    bench.cluster.request_errors(
        RDKafkaApiKey::EndTxn,
        &[
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS,
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_COORDINATOR,
        ],
    );
    bench.append(1, 1_000);
    bench.until_committed(1_000);
    assert_once_and_in_order(&bench.read(1_000), 0..1_000);
    running.drain();
}

/// The broker has the records and says so, then the partition's leader and the coordinator move.
#[test]
fn a_leader_that_is_lost_after_it_said_yes_loses_nothing() {
    let bench = Bench::with_brokers(KAFKA, 3);
    let running = begun(&bench);
    for round in 0..6 {
        let from = bench.log.committed().get();
        bench.append(from, from + 200);
        for partition in 0..3 {
            let leader = Some(1 + (round + partition) % 3);
            let topic = crate::bench::TOPIC;
            bench
                .cluster
                .partition_leader(topic, partition, leader)
                .expect("a leader");
        }
        let coordinator = MockCoordinator::Transaction("gw".to_owned());
        bench
            .cluster
            .coordinator(coordinator, 1 + round % 3)
            .expect("a coordinator");
        bench.append(from + 200, from + 400);
        bench.until_committed(from + 400);
    }
    assert_once_and_in_order(&bench.read(2_401), 0..2_401);
    running.drain();
}

/// E3
#[test]
fn a_record_that_was_set_aside_before_a_crash_is_not_sent_after_it() {
    let bench = bench();
    bench.append(0, 20);
    let source = SourceName::new("city").expect("valid");
    let mut letter = DeadLetter {
        source: &source,
        subject: "city/7",
        reason: "too_large",
        code: None,
        detail: "",
        topic: None,
        offset: Some(7),
        kind: PayloadKind::Opaque,
        origin: Origin::Line,
        payload_bytes: 1,
        payload: b"7",
        received: Stamp::default(),
        boot_id: 0,
    };
    let identity = bench.log.identity();
    bench
        .dead_letters
        .store_blocking(&letter, &identity)
        .expect("stored");
    letter.offset = Some(8);
    bench
        .dead_letters
        .store_blocking(&letter, "another log")
        .expect("stored");
    let running = bench.start();
    bench.until_committed(20);
    assert_once_and_in_order(&bench.read(19), (0..20).filter(|number| *number != 7));
    assert_eq!(bench.letters().len(), 2);
    running.drain();
}

/// The first refusal hits the batch, the second the first record that is sent alone.
#[test]
fn of_a_transaction_that_is_refused_only_the_record_refused_alone_is_set_aside() {
    let bench = Bench::new(&format!(
        "{KAFKA}\nkey = \"one\"\ntransaction_interval = \"1 s\""
    ));
    let running = begun(&bench);
    bench.cluster.request_errors(
        RDKafkaApiKey::Produce,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE],
    );
    bench.append(1, 300);
    // The position may be what the error hits; then nothing is set aside, and nothing lost.
    bench.until_committed(300);
    assert_eq!(numbers(&bench, 300), (0..300).collect());
    assert!(
        bench.letters().is_empty(),
        "what passes alone is no dead letter"
    );
    running.drain();
}

#[test]
fn a_record_too_large_for_the_client_becomes_a_dead_letter_and_its_neighbours_go_on() {
    let bench = Bench::new(&format!(
        "{KAFKA}\nproperties = {{ \"message.max.bytes\" = \"2000\" }}"
    ));
    bench.append(0, 10);
    bench.append_payload(10, format!("10{}", "x".repeat(5_000)).as_bytes());
    bench.append(11, 20);
    let running = bench.start();
    bench.until_committed(20);
    assert_once_and_in_order(&bench.read(19), (0..10).chain(11..20));
    assert_eq!(bench.letters(), [(10, "too_large".to_owned())]);
    running.drain();
}

#[test]
fn delivery_goes_on_at_the_position_where_the_slot_is_behind() {
    let bench = bench();
    bench.append(0, 50);
    let position = serde_json::json!({
        "log": bench.log.identity(), "offset": 30, "instance": "before", "host": "h", "time": "t",
    });
    write_position(&bench, &position);
    let running = bench.start();
    bench.until_committed(50);
    assert_once_and_in_order(&bench.read(20), 30..50);
    running.drain();
}

#[test]
fn a_log_that_ends_below_the_position_gets_a_new_identity_and_loses_nothing() {
    let bench = bench();
    bench.append(0, 50);
    let old = bench.log.identity();
    let position = serde_json::json!({
        "log": old, "offset": 80, "instance": "before", "host": "h", "time": "t",
    });
    write_position(&bench, &position);
    let running = bench.start();
    bench.append(50, 100);
    bench.until_committed(100);
    let got = bench.read(100);
    assert_once_and_in_order(&got, 0..100);
    let new = bench.log.identity();
    assert_ne!(new, old);
    for message in &got {
        assert!(message.headers["ce_id"].starts_with(&format!("gw:{new}:")));
    }
    let newest = positions(&bench, 2).pop().expect("two");
    assert_eq!(newest["superseded"][0]["log"], old);
    running.drain();
}

/// An old copy that has received enough since to end beyond the position.
#[test]
fn a_log_whose_record_before_the_position_is_another_gets_a_new_identity_too() {
    let bench = bench();
    bench.append(0, 50);
    let old = bench.log.identity();
    let position = serde_json::json!({
        "log": old, "offset": 30, "fingerprint": 1, "instance": "before", "host": "h", "time": "t",
    });
    write_position(&bench, &position);
    let running = bench.start();
    bench.until_committed(50);
    assert_once_and_in_order(&bench.read(50), 0..50);
    assert_ne!(bench.log.identity(), old);
    running.drain();
}

#[test]
fn the_position_of_a_log_that_was_replaced_moves_nothing() {
    let bench = bench();
    bench.append(0, 50);
    let position = serde_json::json!({
        "log": "0123456789abcdef", "offset": 30, "instance": "i", "host": "h", "time": "t",
    });
    write_position(&bench, &position);
    let running = bench.start();
    bench.until_committed(50);
    assert_once_and_in_order(&bench.read(50), 0..50);
    running.drain();
}
