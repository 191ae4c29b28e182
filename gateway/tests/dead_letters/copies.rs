//! Copies of dead letters in a topic of a mock cluster.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use edge_gateway::config;
use edge_gateway::dead_letters::copies::copies;
use edge_gateway::metrics::{Metrics, OutcomeLabel};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::mocking::MockCluster;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::fixture::{open, store};

const PATIENCE: Duration = Duration::from_secs(60);
const TOPIC: &str = "letters";

fn configuration(brokers: &str) -> config::Config {
    let text = format!(
        "[gateway]\nid = \"gw\"\ndata_dir = \"/tmp/gateway\"\n\
         [sources.city]\ntype = \"mqtt\"\nurl = \"mqtt://127.0.0.1\"\n\
         subscriptions = [{{ filter = \"#\", qos = 1 }}]\n\
         [kafka]\nbrokers = [\"{brokers}\"]\n[dead_letters]\ntopic = \"{TOPIC}\"\n"
    );
    config::parse(&text, Path::new("gateway.toml")).expect("valid")
}

fn count(metrics: &Metrics, outcome: &'static str) -> u64 {
    let copies = &metrics.letters.copies;
    copies.get_or_create(&OutcomeLabel { outcome }).get()
}

#[test]
fn a_letter_is_copied_with_its_reason_code_topic_offset_and_time() {
    let cluster = MockCluster::new(1).expect("a mock cluster");
    cluster.create_topic(TOPIC, 1, 1).expect("made");
    let dir = tempfile::tempdir().expect("a directory");
    let metrics = Metrics::new();
    let config = configuration(&cluster.bootstrap_servers());
    let (taker, copier) = copies(&config, TOPIC, &metrics.letters).expect("valid");
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    let thread = std::thread::spawn(move || copier.run(&flag));
    let letters = open(dir.path(), &metrics).copied_to(taker);
    store(&letters, 2);
    store(&letters, 3);
    let give_up = Instant::now() + PATIENCE;
    while count(&metrics, "delivered") < 2 {
        assert!(Instant::now() < give_up, "the copies are delivered");
        std::thread::sleep(Duration::from_millis(20));
    }
    stop.store(true, Ordering::Relaxed);
    thread.join().expect("it ends");
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", cluster.bootstrap_servers())
        .set("group.id", "reader")
        .create()
        .expect("valid");
    let mut partitions = TopicPartitionList::new();
    partitions
        .add_partition_offset(TOPIC, 0, Offset::Beginning)
        .expect("valid");
    consumer.assign(&partitions).expect("assigned");
    let message = consumer
        .poll(PATIENCE)
        .expect("a message")
        .expect("no error");
    assert_eq!(message.payload(), Some(&b"{\"v\":21.5}"[..]));
    assert_eq!(message.key(), Some(&b"press"[..]));
    let headers: BTreeMap<String, String> = message
        .headers()
        .expect("headers")
        .iter()
        .map(|header| {
            let value = String::from_utf8_lossy(header.value.expect("a value"));
            (header.key.to_owned(), value.into_owned())
        })
        .collect();
    let expected = [
        ("reason", "too_large"),
        ("code", "MessageSizeTooLarge"),
        ("detail", "refused"),
        ("topic", "telemetry"),
        ("offset", "102"),
        ("log", "00000000000000aa"),
        ("source", "press"),
        ("subject", "press/7"),
        ("payload_bytes", "10"),
        ("received_ms", "1700000000002"),
    ];
    for (name, value) in expected {
        let found = headers.get(&format!("dead_letter_{name}"));
        assert_eq!(found.map(String::as_str), Some(value), "{name}");
    }
    assert!(headers.contains_key("dead_letter_time_ms"));
}

#[test]
fn without_kafka_letters_are_stored_without_waiting_and_lost_copies_are_counted() {
    let dir = tempfile::tempdir().expect("a directory");
    let metrics = Metrics::new();
    // Nobody takes copies from the queue, as if the thread hung.
    let (taker, copier) =
        copies(&configuration("127.0.0.1:1"), TOPIC, &metrics.letters).expect("valid");
    let letters = open(dir.path(), &metrics).copied_to(taker);
    (0..40).for_each(|number| store(&letters, number * 2));
    assert_eq!(letters.kept().letters, 40);
    assert_eq!(count(&metrics, "failed"), 40 - 16, "the queue holds 16");
    drop(copier);
}
