//! Kafka stops answering while sensors go on.

use system_tests::gateway::{Gateway, Settings};
use system_tests::kafka::Kafka;
use system_tests::mosquitto::Mosquitto;
use system_tests::oracle::Oracle;
use system_tests::turn;

use crate::{BUFFERED, DELIVERED, SOON, city};

/// Messages a second.
const RATE: u32 = 1000;

/// Runs a city, takes Kafka away with `away` until `seconds` worth of messages have been stored,
/// brings it `back`, and counts.
fn nothing_is_lost_over(seconds: u32, away: fn(&mut Kafka), back: fn(&mut Kafka)) {
    let _turn = turn();
    let mut kafka = Kafka::start();
    let topic = kafka.new_topic(3);
    let broker = Mosquitto::start();
    let settings =
        Settings::new(&kafka.bootstrap(), &topic).mqtt("city", &broker.url(), ("city/#", 1), "");
    let mut gateway = Gateway::start_ready(&settings);
    let mut sim = city(&broker, RATE);
    gateway.wait_metric(DELIVERED, &[], f64::from(RATE), SOON);
    away(&mut kafka);
    // The sensors' clock is the measure of time: they go on at their rate all the while.
    gateway.wait_metric(BUFFERED, &[], f64::from(RATE * seconds), SOON);
    back(&mut kafka);
    assert!(sim.runs(), "the load went on");
    sim.stop_sending();
    let sent = sim.finish(SOON).sent;
    Oracle::new(&kafka.bootstrap(), &[&topic]).expect_all(&topic, sent, SOON);
    assert_eq!(gateway.drain().code(), Some(0));
}

#[test]
fn nothing_is_lost_while_kafka_is_stopped_for_twenty_seconds() {
    nothing_is_lost_over(20, Kafka::stop, Kafka::start_again);
}

#[test]
fn nothing_is_lost_while_kafka_is_paused() {
    nothing_is_lost_over(10, |kafka| kafka.pause(), |kafka| kafka.resume());
}
