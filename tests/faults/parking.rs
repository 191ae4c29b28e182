//! Topics that Kafka refuses under load: their records wait on disk, in order, while another topic's go
//! on, through kills of the gateway, and return when the topic answers.

use system_tests::ce_ids::CeIds;
use system_tests::certs::Certs;
use system_tests::gateway::{Gateway, Settings};
use system_tests::kafka::{self, Kafka, Security};
use system_tests::mosquitto::Mosquitto;
use system_tests::oracle::Oracle;
use system_tests::sim::Sim;
use system_tests::{turn, wait};

use crate::{DELIVERED, SOON};

const PARKED: &str = "edge_gateway_parking_records";
const PARKED_TOPICS: &str = "edge_gateway_parking_topics";
/// Messages a second to each topic.
const RATE: u32 = 500;

/// Ten devices of `place` that send until they are asked to stop.
fn devices(broker: &Mosquitto, place: &str) -> Sim {
    Sim::start(&format!(
        "mqtt --url {} --topic {place}/{{district}}/{{device}} --qos 1 --devices 10 --rate {RATE} \
         --client-id {place}",
        broker.url()
    ))
}

/// What is sent to `side/…` goes to the topic `side`.
fn settings(bootstrap: &str, (steady, side): (&str, &str), delivery: &str) -> Settings {
    let lines = format!("delivery = \"{delivery}\"\noffsets_topic = \"{steady}-offsets\"");
    Settings::new(bootstrap, steady).kafka(&lines).route(
        "side/{district}/{device}",
        side,
        "{device}",
    )
}

/// Waits until `records` more of a topic are delivered by a gateway that was not restarted meanwhile.
fn wait_delivered(gateway: &mut Gateway, topic: &str, records: u32) {
    let topic = [("topic", topic)];
    let before = gateway.metric(DELIVERED, &topic).unwrap_or(0.0);
    gateway.wait_metric(DELIVERED, &topic, before + f64::from(records), SOON);
}

/// The gateway is killed while records are parked; those of the other topic go on.
fn kill_while_parked(gateway: &mut Gateway, steady: &str, side: &str) {
    gateway.wait_metric(PARKED, &[], f64::from(RATE), SOON);
    wait_delivered(gateway, steady, 2 * RATE);
    let (code, health) = gateway.get("/health").unwrap();
    assert_eq!(code, 200, "{health}");
    assert!(
        health.contains(&format!("of topic {side} are parked since")),
        "{health}"
    );
    for _ in 0..3 {
        gateway.kill_and_restart();
        gateway.wait_ready();
        gateway.wait_metric(PARKED, &[], f64::from(RATE), SOON);
        wait_delivered(gateway, steady, RATE / 2);
    }
}

fn wait_returned(gateway: &Gateway) {
    wait::until("all that was parked to be returned", SOON, || {
        gateway.metric(PARKED_TOPICS, &[]) == Some(0.0)
    });
}

/// All of `sent` is in the topic, in order; in exactly-once delivery without repeats.
fn assert_whole(kafka: &Kafka, topic: &str, sent: u64, delivery: &str) {
    let counts = Oracle::new(&kafka.bootstrap(), &[topic]).expect_all(topic, sent, SOON);
    let mut ids = CeIds::new(&kafka.bootstrap(), &format!("{topic}-group"), topic);
    let ids = ids.expect_all(sent, SOON);
    println!("{delivery}, {topic}: {sent} sent, {counts:?}, {ids:?}");
    if delivery == "exactly_once" {
        assert_eq!(ids.duplicates, 0);
    }
}

fn revoked_and_given_back(delivery: &str) {
    let certs = Certs::generate();
    let kafka = Kafka::start_with(Security::Authorized(&certs));
    let (steady, side) = (kafka.new_topic(3), kafka.new_topic(3));
    let offsets = format!("{steady}-offsets");
    kafka.allow(&["--topic", &steady, "--topic", &side, "--topic", &offsets]);
    let broker = Mosquitto::start();
    let lines = format!(
        "properties = {{ \"security.protocol\" = \"sasl_ssl\", \
         \"sasl.mechanism\" = \"SCRAM-SHA-256\", \"ssl.ca.location\" = \"{}\", \
         \"sasl.username\" = \"{}\", \"sasl.password\" = \"{}\" }}",
        certs.ca.display(),
        kafka::SCRAM_USER,
        kafka::SCRAM_PASSWORD
    );
    let settings = settings(&kafka.bootstrap_secure(), (&steady, &side), delivery)
        .kafka(&lines)
        .mqtt("city", &broker.url(), ("#", 1), "");
    kafka.allow(&["--transactional-id", settings.id()]);
    let mut gateway = Gateway::start_ready(&settings);
    let loads = [devices(&broker, "city"), devices(&broker, "side")];
    wait_delivered(&mut gateway, &side, RATE);

    kafka.revoke(&["--topic", &side]);
    kill_while_parked(&mut gateway, &steady, &side);
    kafka.allow(&["--topic", &side]);
    wait_returned(&gateway);
    wait_delivered(&mut gateway, &side, RATE);

    for (load, topic) in loads.into_iter().zip([&steady, &side]) {
        load.stop_sending();
        let sent = load.finish(SOON).sent;
        assert_whole(&kafka, topic, sent, delivery);
    }
    assert_eq!(gateway.drain().code(), Some(0));
}

#[test]
fn a_topic_whose_right_is_revoked_and_given_back_is_whole_and_in_order_at_least_once() {
    let _turn = turn();
    revoked_and_given_back("at_least_once");
}

#[test]
fn a_topic_whose_right_is_revoked_and_given_back_is_there_exactly_once() {
    let _turn = turn();
    revoked_and_given_back("exactly_once");
}

/// What was delivered before the topic was deleted is gone with it; all that is sent afterwards must be in
/// the new one.
fn deleted_and_recreated(delivery: &str) {
    let kafka = kafka::shared();
    let (steady, side) = (kafka.new_topic(3), kafka.new_topic(3));
    let broker = Mosquitto::start();
    let settings = settings(&kafka.bootstrap(), (&steady, &side), delivery)
        .kafka("topic_wait = \"2 s\"")
        .mqtt("city", &broker.url(), ("#", 1), "");
    let mut gateway = Gateway::start_ready(&settings);
    let city = devices(&broker, "city");
    let before = devices(&broker, "side");
    wait_delivered(&mut gateway, &side, RATE);
    before.stop_sending();
    let sent = before.finish(SOON).sent;
    gateway.wait_metric(DELIVERED, &[("topic", &side)], sent as f64, SOON);

    kafka.delete_topic(&side);
    let after = devices(&broker, "side");
    kill_while_parked(&mut gateway, &steady, &side);
    kafka.create_topic(&side, 3, &[]);
    wait_returned(&gateway);
    wait_delivered(&mut gateway, &side, RATE);

    for (load, topic) in [(city, &steady), (after, &side)] {
        load.stop_sending();
        let sent = load.finish(SOON).sent;
        assert_whole(kafka, topic, sent, delivery);
    }
    assert_eq!(gateway.drain().code(), Some(0));
}

#[test]
fn a_topic_that_is_deleted_and_made_anew_is_whole_and_in_order_at_least_once() {
    let _turn = turn();
    deleted_and_recreated("at_least_once");
}

#[test]
fn a_topic_that_is_deleted_and_made_anew_has_what_followed_exactly_once() {
    let _turn = turn();
    deleted_and_recreated("exactly_once");
}
