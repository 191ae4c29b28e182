//! Encrypted connections, with certificates made for the test.

use system_tests::certs::Certs;
use system_tests::gateway::{Gateway, Settings};
use system_tests::kafka::{self, Kafka, Security};
use system_tests::mosquitto::{Mosquitto, Options};
use system_tests::mqtt_client::MqttClient;
use system_tests::oracle::Oracle;
use system_tests::sim::Sim;
use system_tests::{process, turn};

use crate::SOON;

const COUNT: u64 = 200;

#[test]
fn mqtts_with_a_client_certificate_arrives() {
    let _turn = turn();
    let certs = Certs::generate();
    let kafka = kafka::shared();
    let topic = kafka.new_topic(1);
    let broker = Mosquitto::start_with(Options {
        certs: Some(&certs),
        ..Options::default()
    });
    let (ca, cert, key) = (
        certs.ca.display(),
        certs.client.cert.display(),
        certs.client.key.display(),
    );
    let tls =
        format!("tls = {{ ca_file = \"{ca}\", cert_file = \"{cert}\", key_file = \"{key}\" }}");
    let settings =
        Settings::new(&kafka.bootstrap(), &topic).mqtt("city", &broker.url(), ("#", 1), &tls);
    let _gateway = Gateway::start_ready(&settings);
    let sim = Sim::start(&format!(
        "mqtt --url {} --ca-file {ca} --cert-file {cert} --key-file {key} --rate 200 --count {COUNT}",
        broker.url()
    ));
    let sent = sim.finish(SOON).sent;
    Oracle::new(&kafka.bootstrap(), &[&topic]).expect_all(&topic, sent, SOON);
}

#[test]
fn a_broker_of_an_unknown_authority_is_not_connected_to() {
    let _turn = turn();
    let certs = Certs::generate();
    let kafka = kafka::shared();
    let topic = kafka.new_topic(1);
    let broker = Mosquitto::start_with(Options {
        certs: Some(&certs),
        ..Options::default()
    });
    let unknown = Certs::generate();
    let tls = format!("tls = {{ ca_file = \"{}\" }}", unknown.ca.display());
    let settings =
        Settings::new(&kafka.bootstrap(), &topic).mqtt("city", &broker.url(), ("#", 1), &tls);
    let mut gateway = Gateway::start(&settings);
    gateway.wait_log("certificate", SOON);
    assert_ne!(gateway.get("/ready").map(|(status, _)| status), Some(200));
}

/// Publishes to a gateway whose Kafka listener is the secured one.
fn arrives_over(kafka: &Kafka, lines: &str) {
    let topic = kafka.new_topic(1);
    let broker = Mosquitto::start();
    let settings = Settings::new(&kafka.bootstrap_secure(), &topic)
        .kafka(lines)
        .mqtt("city", &broker.url(), ("#", 1), "");
    let gateway = Gateway::start_ready(&settings);
    MqttClient::connect(broker.port(), "one").publish("a/b", b"hello");
    let record = Oracle::new(&kafka.bootstrap(), &[&topic])
        .take(1, SOON)
        .remove(0);
    assert_eq!(record.value.as_deref(), Some(&b"hello"[..]));
    assert!(!gateway.log().contains(kafka::SCRAM_PASSWORD));
}

#[test]
fn kafka_over_tls_with_a_client_certificate_arrives() {
    let _turn = turn();
    let certs = Certs::generate();
    let kafka = Kafka::start_with(Security::Tls(&certs));
    let lines = format!(
        "properties = {{ \"security.protocol\" = \"ssl\", \"ssl.ca.location\" = \"{}\", \
         \"ssl.certificate.location\" = \"{}\", \"ssl.key.location\" = \"{}\" }}",
        certs.ca.display(),
        certs.client.cert.display(),
        certs.client.key.display()
    );
    arrives_over(&kafka, &lines);
}

#[test]
fn kafka_over_tls_and_scram_with_the_password_in_a_file_arrives() {
    let _turn = turn();
    let certs = Certs::generate();
    let kafka = Kafka::start_with(Security::ScramTls(&certs));
    let dir = process::temp_dir();
    for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512"] {
        let secrets = dir.path().join(mechanism);
        let text = format!(
            "sasl.username={}\nsasl.password={}\n",
            kafka::SCRAM_USER,
            kafka::SCRAM_PASSWORD
        );
        std::fs::write(&secrets, text).unwrap();
        let lines = format!(
            "properties = {{ \"security.protocol\" = \"sasl_ssl\", \
             \"sasl.mechanism\" = \"{mechanism}\", \"ssl.ca.location\" = \"{}\" }}\n\
             properties_file = \"{}\"",
            certs.ca.display(),
            secrets.display()
        );
        arrives_over(&kafka, &lines);
    }
}
