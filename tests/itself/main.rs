//! The harness tested against itself: an oracle that sees nothing, or a broker that was never away,
//! would let every other test pass.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use system_tests::certs::Certs;
use system_tests::kafka::{self, Kafka, Security};
use system_tests::mock_kafka::MockKafka;
use system_tests::mosquitto::{Mosquitto, Options};
use system_tests::mqtt_client::MqttClient;
use system_tests::oracle::Oracle;
use system_tests::packet_gate::{Held, PacketGate};
use system_tests::{pty::Pty, turn, wait};

const SOON: Duration = Duration::from_secs(60);

fn producer(bootstrap: &str, more: &[(&str, &str)]) -> BaseProducer {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", bootstrap)
        .set("enable.idempotence", "true")
        .set("reconnect.backoff.max.ms", "500")
        .set("log_level", "2");
    for (key, value) in more {
        config.set(*key, *value);
    }
    config.create().unwrap()
}

fn produce(producer: &BaseProducer, topic: &str, sequences: impl IntoIterator<Item = u64>) {
    for sequence in sequences {
        for device in ["a", "b"] {
            let payload = format!(r#"{{"source":"t","device":"{device}","sequence":{sequence}}}"#);
            let record = BaseRecord::to(topic).key(device).payload(&payload);
            producer.send(record).unwrap();
        }
    }
    producer.flush(SOON).unwrap();
}

#[test]
fn kafka_keeps_its_topics_over_a_stop_and_the_oracle_reads_on() {
    let _turn = turn();
    let mut kafka = Kafka::start();
    kafka.create_topic("kept", 3, &[]);
    let producer = producer(&kafka.bootstrap(), &[]);
    let mut oracle = Oracle::new(&kafka.bootstrap(), &["kept"]);
    produce(&producer, "kept", 0..500);
    oracle.expect_all("kept", 1000, SOON);
    kafka.stop();
    assert!(std::net::TcpStream::connect(kafka.bootstrap()).is_err());
    kafka.start_again();
    produce(&producer, "kept", 500..600);
    let counts = oracle.expect_all("kept", 1200, SOON);
    assert_eq!((counts.duplicates, counts.devices), (0, 2));
}

#[test]
fn a_paused_kafka_answers_nothing_until_it_is_resumed() {
    let _turn = turn();
    let kafka = Kafka::start();
    kafka.create_topic("paused", 1, &[]);
    let producer = producer(&kafka.bootstrap(), &[]);
    produce(&producer, "paused", 0..1);
    kafka.pause();
    let record = BaseRecord::<str, str>::to("paused").payload("late");
    producer.send(record).unwrap();
    assert!(producer.flush(Duration::from_secs(2)).is_err());
    kafka.resume();
    producer.flush(SOON).unwrap();
}

#[test]
fn the_oracle_counts_what_is_doubled_and_out_of_order() {
    let _turn = turn();
    let kafka = kafka::shared();
    kafka.create_topic("mixed", 2, &[("max.message.bytes", "2000000")]);
    let producer = producer(&kafka.bootstrap(), &[]);
    produce(&producer, "mixed", [0, 1, 1, 4, 3]);
    let mut oracle = Oracle::new(&kafka.bootstrap(), &["mixed"]);
    wait::until("ten records", SOON, || {
        oracle.read_for(Duration::from_millis(100));
        oracle.counts("mixed").records == 10
    });
    let counts = oracle.counts("mixed");
    assert_eq!(
        (counts.duplicates, counts.out_of_order, counts.missing),
        (2, 2, 2)
    );
}

#[test]
#[should_panic(expected = "2 of 42 records lost")]
fn the_oracle_does_not_accept_a_loss() {
    let _turn = turn();
    let kafka = kafka::shared();
    kafka.create_topic("lossy", 1, &[]);
    produce(&producer(&kafka.bootstrap(), &[]), "lossy", 0..20);
    let mut oracle = Oracle::new(&kafka.bootstrap(), &["lossy"]);
    oracle.expect_all("lossy", 42, Duration::from_secs(5));
}

#[test]
fn kafka_takes_clients_with_certificates_or_scram_and_no_others() {
    let _turn = turn();
    let certs = Certs::generate();
    let ca = certs.ca.to_str().unwrap();
    let tls = [
        ("security.protocol", "ssl"),
        ("ssl.ca.location", ca),
        (
            "ssl.certificate.location",
            certs.client.cert.to_str().unwrap(),
        ),
        ("ssl.key.location", certs.client.key.to_str().unwrap()),
    ];
    let kafka = Kafka::start_with(Security::Tls(&certs));
    kafka.create_topic("secret", 1, &[]);
    let bootstrap = kafka.bootstrap_secure();
    produce(&producer(&bootstrap, &tls), "secret", 0..5);
    let without = producer(&bootstrap, &tls[..2]);
    let metadata = without
        .client()
        .fetch_metadata(None, Duration::from_secs(3));
    assert!(metadata.is_err(), "no certificate, no metadata");
    drop(kafka);

    let kafka = Kafka::start_with(Security::ScramTls(&certs));
    kafka.create_topic("secret", 1, &[]);
    for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512"] {
        let scram = [
            ("security.protocol", "sasl_ssl"),
            ("ssl.ca.location", ca),
            ("sasl.mechanism", mechanism),
            ("sasl.username", kafka::SCRAM_USER),
            ("sasl.password", kafka::SCRAM_PASSWORD),
        ];
        let producer = producer(&kafka.bootstrap_secure(), &scram);
        produce(&producer, "secret", 0..5);
    }
}

#[test]
fn the_mock_cluster_goes_away_and_returns_with_what_it_had() {
    let mut mock = MockKafka::start();
    mock.create_topic("mocked", 2);
    let producer = producer(mock.bootstrap(), &[]);
    produce(&producer, "mocked", 0..10);
    mock.down();
    let record = BaseRecord::<str, str>::to("mocked");
    producer
        .send(
            record
                .key("a")
                .payload(r#"{"source":"t","device":"a","sequence":10}"#),
        )
        .unwrap();
    assert!(producer.flush(Duration::from_secs(1)).is_err());
    mock.up();
    mock.command("rtt 5");
    mock.command("error 19 1");
    producer.flush(SOON).unwrap();
    let mut oracle = Oracle::new(mock.bootstrap(), &["mocked"]);
    oracle.expect_all("mocked", 21, SOON);
}

#[test]
fn mosquitto_restarts_on_its_port_and_asks_for_certificates() {
    let mut broker = Mosquitto::start();
    MqttClient::connect(broker.port(), "one").publish("t", b"");
    broker.stop();
    assert!(std::net::TcpStream::connect(("127.0.0.1", broker.port())).is_err());
    broker.start_again();
    let payload = vec![7; 256 * 1024];
    MqttClient::connect(broker.port(), "two").publish("t", &payload);

    let certs = Certs::generate();
    let options = Options {
        certs: Some(&certs),
        ..Options::default()
    };
    assert!(
        Mosquitto::start_with(options)
            .url()
            .starts_with("mqtts://localhost:")
    );
}

#[test]
fn a_pty_passes_all_bytes_unchanged() {
    use std::io::{Read as _, Write as _};
    let mut pty = Pty::open();
    let mut gateway_end = std::fs::File::options()
        .read(true)
        .write(true)
        .open(pty.path())
        .unwrap();
    let all: Vec<u8> = (0..=255).collect();
    pty.send(&all);
    let mut read = [0; 256];
    gateway_end.read_exact(&mut read).unwrap();
    assert_eq!(read.as_slice(), all);
    gateway_end.write_all(&[0, 3, 17, 255]).unwrap();
    assert_eq!(pty.receive(), [0, 3, 17, 255]);
}

/// Runs a client that has subscribed, until it receives what `wanted` accepts.
fn receive(connection: &mut rumqttc::Connection, wanted: impl Fn(&rumqttc::Packet) -> bool) {
    wait::until("an MQTT packet", SOON, || {
        match connection.recv_timeout(Duration::from_millis(100)) {
            Ok(Ok(rumqttc::Event::Incoming(packet))) => wanted(&packet),
            Ok(Ok(rumqttc::Event::Outgoing(_)) | Err(_)) | Err(_) => false,
        }
    });
}

#[test]
fn the_gate_withholds_pubrel_from_a_subscriber_until_it_is_opened() {
    use rumqttc::{Client, MqttOptions, Packet, QoS};
    let broker = Mosquitto::start();
    let gate = PacketGate::before(broker.port(), Held::Pubrel);
    let mut options = MqttOptions::new("subscriber", "127.0.0.1", gate.port());
    options.set_clean_session(false);
    let (client, mut connection) = Client::new(options, 10);
    client.subscribe("t", QoS::ExactlyOnce).unwrap();
    receive(&mut connection, |packet| {
        matches!(packet, Packet::SubAck(_))
    });
    client.publish("t", QoS::ExactlyOnce, false, "x").unwrap();
    receive(&mut connection, |packet| {
        matches!(packet, Packet::Publish(_))
    });
    // Its own publish is complete: only the way from the broker is gated.
    wait::until("a PUBREL withheld", SOON, || {
        let _ = connection.recv_timeout(Duration::from_millis(50));
        gate.held() == 1
    });
    gate.open();
    client.disconnect().unwrap();
    wait::until("the end of the connection", SOON, || {
        let event = connection.recv_timeout(Duration::from_millis(100));
        matches!(event, Ok(Err(_)))
    });
    receive(&mut connection, |packet| {
        matches!(packet, Packet::PubRel(_))
    });
}
