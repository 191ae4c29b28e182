//! What a cluster can refuse to exactly-once delivery: each is named, with what to do, waited for with
//! the records safe on disk, and over without a restart of the gateway.

use system_tests::ce_ids::CeIds;
use system_tests::certs::Certs;
use system_tests::gateway::{Gateway, Settings};
use system_tests::kafka::{self, Kafka, Security};
use system_tests::mosquitto::Mosquitto;
use system_tests::mqtt_client::MqttClient;
use system_tests::{turn, wait};

use crate::exactly_once::{settings, with_city};
use crate::{BUFFERED, DELIVERED, SOON};

#[test]
fn the_offsets_topic_is_made_compacted_refused_if_it_is_not_and_made_anew_if_deleted() {
    let _turn = turn();
    let kafka = kafka::shared();
    let topic = kafka.new_topic(1);
    let offsets = format!("{topic}-offsets");
    let broker = Mosquitto::start();
    let settings = with_city(
        settings(&kafka.bootstrap(), &topic, "exactly_once"),
        &broker,
    );
    let mut client = MqttClient::connect(broker.port(), "one");

    let mut gateway = Gateway::start_ready(&settings);
    client.publish("city/1", b"1");
    gateway.wait_metric(DELIVERED, &[], 1.0, SOON);
    let property = |key| kafka.topic_property(&offsets, key);
    assert_eq!(property("cleanup.policy").as_deref(), Some("compact"));
    assert_eq!(property("segment.bytes").as_deref(), Some("16777216"));
    assert_eq!(property("segment.ms").as_deref(), Some("3600000"));

    kafka.delete_topic(&offsets);
    for number in 2..=100 {
        client.publish("city/1", number.to_string().as_bytes());
    }
    gateway.wait_metric(DELIVERED, &[], 100.0, SOON);
    gateway.wait_log("the offsets topic has lost this gateway's position", SOON);
    assert_eq!(property("cleanup.policy").as_deref(), Some("compact"));
    assert_eq!(gateway.drain().code(), Some(0));

    kafka.configure_topic(&offsets, "cleanup.policy", "delete");
    gateway.kill_and_restart();
    gateway.wait_ready();
    client.publish("city/1", b"101");
    gateway.wait_log("has cleanup.policy=delete", SOON);
    gateway.wait_log("Set it to compact", SOON);
    gateway.wait_metric(BUFFERED, &[], 1.0, SOON);
    kafka.configure_topic(&offsets, "cleanup.policy", "compact");
    gateway.wait_metric(DELIVERED, &[], 1.0, SOON);
    let mut ids = CeIds::new(&kafka.bootstrap(), &format!("{topic}-group"), &topic);
    assert_eq!(ids.expect_all(101, SOON).duplicates, 0);
    assert_eq!(gateway.drain().code(), Some(0));
}

/// A broker with users, and the settings of a gateway that is one of them.
struct Guarded {
    kafka: Kafka,
    topic: String,
    offsets: String,
    settings: Settings,
    broker: Mosquitto,
    _certs: Certs,
}

impl Guarded {
    fn new() -> Self {
        let certs = Certs::generate();
        let kafka = Kafka::start_with(Security::Authorized(&certs));
        let topic = kafka.new_topic(1);
        let broker = Mosquitto::start();
        let lines = format!(
            "properties = {{ \"security.protocol\" = \"sasl_ssl\", \
             \"sasl.mechanism\" = \"SCRAM-SHA-256\", \"ssl.ca.location\" = \"{}\", \
             \"sasl.username\" = \"{}\", \"sasl.password\" = \"{}\" }}",
            certs.ca.display(),
            kafka::SCRAM_USER,
            kafka::SCRAM_PASSWORD
        );
        let settings = settings(&kafka.bootstrap_secure(), &topic, "exactly_once").kafka(&lines);
        Self {
            settings: with_city(settings, &broker),
            offsets: format!("{topic}-offsets"),
            kafka,
            topic,
            broker,
            _certs: certs,
        }
    }

    fn client(&self) -> MqttClient {
        MqttClient::connect(self.broker.port(), "one")
    }

    /// The right to transactions, as [`Kafka::allow`] takes it.
    fn transactions(&self) -> [&str; 2] {
        ["--transactional-id", self.settings.id()]
    }

    fn expect_each_once(&self, count: u64) {
        let mut ids = CeIds::new(&self.kafka.bootstrap(), "reader", &self.topic);
        assert_eq!(ids.expect_all(count, SOON).duplicates, 0);
    }
}

/// A user who may nothing, and is allowed one thing after the other. `check --connect` says the same.
#[test]
fn each_right_that_is_missing_is_named_and_waited_for() {
    let _turn = turn();
    let guarded = Guarded::new();
    let Guarded {
        kafka,
        topic,
        offsets,
        ..
    } = &guarded;
    let mut gateway = Gateway::start_ready(&guarded.settings);
    guarded.client().publish("city/1", b"1");
    let no_topic = "does not allow us to use the offsets topic";
    let id = guarded.settings.id();
    let no_id =
        &format!("does not allow us the transactional id \"{id}\": grant WRITE and DESCRIBE");
    gateway.wait_log(no_topic, SOON);
    let (code, said) = gateway.check_connect();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(no_topic) && said.contains(no_id), "{said}");
    kafka.allow(&["--topic", offsets]);
    // The right to everything on a topic holds the right to create it.
    gateway.wait_log(no_id, SOON);
    let (_, said) = gateway.check_connect();
    assert!(said.contains(no_id) && !said.contains(no_topic), "{said}");
    kafka.allow(&guarded.transactions());
    gateway.wait_log("they are parked until it does", SOON);
    gateway.wait_metric("edge_gateway_parking_records", &[], 1.0, SOON);
    kafka.allow(&["--topic", topic]);
    gateway.wait_metric(DELIVERED, &[], 1.0, SOON);
    let policy = kafka.topic_property(offsets, "cleanup.policy");
    assert_eq!(
        policy.as_deref(),
        Some("compact"),
        "this broker makes topics by itself"
    );
    let (code, said) = gateway.check_connect();
    assert_eq!(code, Some(0), "{said}");
    guarded.expect_each_once(1);
    assert_eq!(gateway.drain().code(), Some(0));
}

/// Taken away under a gateway that runs, and given back. The cause is told, not that messages were given
/// up for it.
#[test]
fn a_right_that_is_revoked_is_named_and_its_return_is_noticed() {
    let _turn = turn();
    let guarded = Guarded::new();
    let Guarded { kafka, offsets, .. } = &guarded;
    kafka.allow(&["--topic", &guarded.topic]);
    kafka.allow(&["--topic", offsets]);
    kafka.allow(&guarded.transactions());
    let mut gateway = Gateway::start_ready(&guarded.settings);
    let mut client = guarded.client();
    client.publish("city/1", b"1");
    gateway.wait_metric(DELIVERED, &[], 1.0, SOON);
    let cases = [
        (
            ["--topic", offsets],
            "does not allow us to use the offsets topic",
        ),
        (
            guarded.transactions(),
            "does not allow us the transactional id",
        ),
    ];
    let mut sent = 1_u64;
    for (right, said) in cases {
        kafka.revoke(&right);
        for _ in 0..50 {
            sent += 1;
            client.publish("city/1", sent.to_string().as_bytes());
        }
        gateway.wait_log(said, SOON);
        gateway.wait_metric(BUFFERED, &[], 1.0, SOON);
        kafka.allow(&right);
        wait::until("delivery goes on", SOON, || {
            gateway.metric(BUFFERED, &[]) == Some(0.0)
        });
    }
    guarded.expect_each_once(sent);
    assert_eq!(gateway.drain().code(), Some(0));
}

#[test]
fn a_cluster_that_does_not_allow_our_transactions_for_their_length_is_waited_for() {
    const LIMIT: &str = "transaction.max.timeout.ms";
    let _turn = turn();
    let mut kafka = Kafka::start();
    kafka.stop();
    kafka.configure_broker(LIMIT, "30000");
    kafka.start_again();
    let topic = kafka.new_topic(1);
    let broker = Mosquitto::start();
    let settings = with_city(
        settings(&kafka.bootstrap(), &topic, "exactly_once"),
        &broker,
    );
    let mut gateway = Gateway::start_ready(&settings);
    MqttClient::connect(broker.port(), "one").publish("city/1", b"1");
    gateway.wait_log(
        "the cluster does not allow transactions of 60 s: raise transaction.max.timeout.ms",
        SOON,
    );
    gateway.wait_metric(BUFFERED, &[], 1.0, SOON);
    let (code, said) = gateway.check_connect();
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("has transaction.max.timeout.ms=30000"),
        "{said}"
    );
    kafka.stop();
    kafka.configure_broker(LIMIT, "60000");
    kafka.start_again();
    gateway.wait_metric(DELIVERED, &[], 1.0, SOON);
    let mut ids = CeIds::new(&kafka.bootstrap(), "reader", &topic);
    assert_eq!(ids.expect_all(1, SOON).duplicates, 0);
    assert_eq!(gateway.drain().code(), Some(0));
}

/// The id stays with the gateway that runs, whose deliveries go on as if nothing had been asked.
#[test]
fn check_connect_disturbs_neither_a_running_gateway_nor_the_offsets_topic() {
    let _turn = turn();
    let kafka = kafka::shared();
    let topic = kafka.new_topic(1);
    let offsets = format!("{topic}-offsets");
    let broker = Mosquitto::start();
    let settings = with_city(
        settings(&kafka.bootstrap(), &topic, "exactly_once"),
        &broker,
    );
    let mut gateway = Gateway::start_ready(&settings);
    let mut client = MqttClient::connect(broker.port(), "one");
    client.publish("city/1", b"1");
    gateway.wait_metric(DELIVERED, &[], 1.0, SOON);
    let (code, said) = gateway.check_connect();
    assert_eq!(code, Some(0), "{said}");
    let expected = format!("ok      kafka offsets topic {offsets}: compacted, readable, writable");
    assert!(said.contains(&expected), "{said}");
    assert!(
        said.contains(&format!("the id \"{}\" is allowed", settings.id())),
        "{said}"
    );
    client.publish("city/1", b"2");
    gateway.wait_metric(DELIVERED, &[], 2.0, SOON);
    assert!(!gateway.log().contains("begins anew"), "{}", gateway.log());

    kafka.configure_topic(&offsets, "cleanup.policy", "delete");
    let (code, said) = gateway.check_connect();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("has cleanup.policy=delete"), "{said}");
    assert_eq!(gateway.drain().code(), Some(0));
    kafka.delete_topic(&offsets);
    let (code, said) = gateway.check_connect();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("will be created"), "{said}");
    assert!(!kafka.has_topic(&offsets), "nothing was created");
}
