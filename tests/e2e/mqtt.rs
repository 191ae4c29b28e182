//! Mosquitto → gateway → Kafka.

use system_tests::gateway::{Gateway, Settings};
use system_tests::mosquitto::Mosquitto;
use system_tests::mqtt_client::MqttClient;
use system_tests::oracle::Oracle;
use system_tests::sim::Sim;
use system_tests::{kafka, turn};

use crate::SOON;

const COUNT: u64 = 6000;

/// Three sources of one gateway, one for each quality of service, each with a topic of its own.
fn every_quality_of_service_arrives(protocol: &str) {
    let _turn = turn();
    let kafka = kafka::shared();
    let topics: [String; 3] = std::array::from_fn(|_| kafka.new_topic(3));
    let broker = Mosquitto::start();
    let mut settings = Settings::new(&kafka.bootstrap(), &topics[0]);
    for (qos, topic) in (0..).zip(&topics) {
        let subscription = (format!("qos{qos}/+/+"), qos);
        settings = settings
            .mqtt(
                &format!("qos-{qos}"),
                &broker.url(),
                (&subscription.0, qos),
                &format!("protocol = \"{protocol}\""),
            )
            .route(
                &format!("qos{qos}/{{district}}/{{device}}"),
                topic,
                "{device}",
            );
    }
    let mut gateway = Gateway::start_ready(&settings);
    let sims: Vec<Sim> = (0..3)
        .map(|qos| {
            Sim::start(&format!(
                "mqtt --url {} --topic qos{qos}/{{district}}/{{device}} --qos {qos} \
                 --protocol {protocol} --client-id sim-{qos} --devices 10 --rate 1000 \
                 --count {COUNT}",
                broker.url()
            ))
        })
        .collect();
    for sim in sims {
        assert_eq!(sim.finish(SOON).sent, COUNT);
    }
    let names: Vec<&str> = topics.iter().map(String::as_str).collect();
    let mut oracle = Oracle::new(&kafka.bootstrap(), &names);
    for topic in names {
        let counts = oracle.expect_all(topic, COUNT, SOON);
        assert_eq!((counts.duplicates, counts.devices), (0, 10), "{topic}");
    }
    assert_eq!(gateway.drain().code(), Some(0));
}

#[test]
fn mqtt_5_arrives_at_every_quality_of_service() {
    every_quality_of_service_arrives("5");
}

#[test]
fn mqtt_3_1_1_arrives_at_every_quality_of_service() {
    every_quality_of_service_arrives("3.1.1");
}

#[test]
fn a_shared_subscription_arrives() {
    let _turn = turn();
    let kafka = kafka::shared();
    let topic = kafka.new_topic(1);
    let broker = Mosquitto::start();
    let settings = Settings::new(&kafka.bootstrap(), &topic).mqtt(
        "city",
        &broker.url(),
        ("$share/gateways/city/#", 1),
        "",
    );
    let _gateway = Gateway::start_ready(&settings);
    let sim = Sim::start(&format!(
        "mqtt --url {} --count 500 --rate 500",
        broker.url()
    ));
    let sent = sim.finish(SOON).sent;
    Oracle::new(&kafka.bootstrap(), &[&topic]).expect_all(&topic, sent, SOON);
}

#[test]
fn a_record_carries_its_key_its_value_and_the_cloudevents_headers() {
    let _turn = turn();
    let kafka = kafka::shared();
    let topic = kafka.new_topic(1);
    let broker = Mosquitto::start();
    let settings = Settings::new(&kafka.bootstrap(), "not-used")
        .mqtt("city", &broker.url(), ("city/#", 1), "")
        .section(&format!(
            "[[routes]]\nsource = \"city\"\nmatch = \"city/{{district}}/air/{{device}}\"\n\
             topic = \"{topic}\"\nkey = \"{{device}}\"\n\
             headers = {{ district = \"{{district}}\" }}"
        ));
    let _gateway = Gateway::start_ready(&settings);
    MqttClient::connect(broker.port(), "one").publish("city/hill/air/air-1", b"{\"v\":1}");
    let record = Oracle::new(&kafka.bootstrap(), &[&topic])
        .take(1, SOON)
        .remove(0);
    assert_eq!(record.key.as_deref(), Some(&b"air-1"[..]));
    assert_eq!(record.value.as_deref(), Some(&b"{\"v\":1}"[..]));
    let header = |name: &str| record.headers.get(name).map(String::as_str);
    assert_eq!(header("ce_specversion"), Some("1.0"));
    assert_eq!(
        header("ce_source"),
        Some(&*format!("/edge-gateway/{}/city", settings.id()))
    );
    assert_eq!(header("ce_type"), Some("telemetry"));
    assert_eq!(header("ce_subject"), Some("city/hill/air/air-1"));
    assert_eq!(header("district"), Some("hill"));
    let id = header("ce_id").unwrap();
    let offset = id.rsplit(':').next().unwrap();
    assert!(id.starts_with(&format!("{}:", settings.id())), "{id}");
    assert!(offset.parse::<u64>().is_ok(), "{id}");
    assert_eq!(header("timequality"), Some("synced"));
    assert!(header("ce_time").is_some_and(|time| time.contains('T')));
}
