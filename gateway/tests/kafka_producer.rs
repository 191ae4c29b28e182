//! The Kafka producer against a broker that speaks Kafka's protocol (librdkafka's mock cluster, on
//! loopback).

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use edge_gateway::config::{self, Config};
use edge_gateway::kafka::{Message, Mode, Producer, Report};
use edge_gateway::metrics::Metrics;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::mocking::MockCluster;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

/// Far beyond what anything here takes: reached only when something is wrong.
const PATIENCE: Duration = Duration::from_secs(60);

fn configuration(brokers: &str) -> Config {
    let text = format!(
        "[gateway]\nid = \"gw\"\n[sources.city]\ntype = \"mqtt\"\nurl = \"mqtt://127.0.0.1:1\"\n\
         subscriptions = [{{ filter = \"#\" }}]\n[kafka]\nbrokers = [\"{brokers}\"]\n"
    );
    config::parse(&text, Path::new("test.toml")).unwrap_or_else(|error| panic!("{error}"))
}

fn message(value: &[u8]) -> Message<'_> {
    Message {
        topic: "telemetry",
        key: Some("one"),
        value,
        timestamp_ms: None,
        headers: None,
    }
}

fn until_reported(producer: &Producer, count: usize) -> Vec<Report> {
    let mut reports = Vec::new();
    let give_up = Instant::now() + PATIENCE;
    while reports.len() < count {
        assert!(Instant::now() < give_up, "no report");
        producer.serve(&mut reports);
        std::thread::sleep(Duration::from_millis(1));
    }
    reports
}

#[test]
fn every_message_gets_one_report_with_its_number() {
    let cluster = MockCluster::new(1).expect("a mock cluster");
    let config = configuration(&cluster.bootstrap_servers());
    let metrics = Arc::new(Metrics::new());
    let producer = Producer::new(&config, Mode::Streaming, Arc::clone(&metrics)).expect("made");
    for number in 0..100 {
        producer.send(message(b"value"), number).expect("taken");
    }
    let mut numbers: Vec<usize> = until_reported(&producer, 100)
        .iter()
        .map(|report| {
            assert_eq!(report.error, None);
            report.opaque
        })
        .collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..100).collect::<Vec<_>>());
    assert_eq!(metrics.kafka_connected.get(), 1);
}

/// K2
#[test]
fn after_a_refusal_a_streaming_producer_sends_nothing_more() {
    let cluster = MockCluster::new(1).expect("a mock cluster");
    let config = configuration(&cluster.bootstrap_servers());
    let metrics = Arc::new(Metrics::new());
    let producer = Producer::new(&config, Mode::Streaming, metrics).expect("made");
    cluster.request_errors(
        RDKafkaApiKey::Produce,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_RECORD],
    );
    producer.send(message(b"refused"), 0).expect("taken");
    let refused = until_reported(&producer, 1);
    assert_eq!(refused[0].error, Some(RDKafkaErrorCode::InvalidRecord));
    match producer.send(message(b"later"), 1) {
        Err(refused) => assert_eq!(refused.code, RDKafkaErrorCode::Fatal),
        Ok(()) => assert_ne!(until_reported(&producer, 1)[0].error, None),
    }
    // The event that says so may come after the report.
    let give_up = Instant::now() + PATIENCE;
    while !producer.is_fatal() {
        assert!(Instant::now() < give_up, "the producer goes on");
        producer.serve(&mut Vec::new());
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_refusal_concerns_the_message_alone_where_one_is_sent_at_a_time() {
    let cluster = MockCluster::new(1).expect("a mock cluster");
    let config = configuration(&cluster.bootstrap_servers());
    let metrics = Arc::new(Metrics::new());
    let producer = Producer::new(&config, Mode::Single, metrics).expect("made");
    cluster.request_errors(
        RDKafkaApiKey::Produce,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_RECORD],
    );
    producer.send(message(b"refused"), 0).expect("taken");
    assert_ne!(until_reported(&producer, 1)[0].error, None);
    producer.send(message(b"next"), 1).expect("taken");
    assert_eq!(until_reported(&producer, 1)[0].error, None);
    assert!(!producer.is_fatal());
}
