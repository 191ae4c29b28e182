//! SIGTERM: what is stored is delivered or stays in the log; the exit code is 0.

use system_tests::gateway::{Gateway, Settings};
use system_tests::kafka::Kafka;
use system_tests::mosquitto::Mosquitto;
use system_tests::oracle::Oracle;
use system_tests::turn;

use crate::{BUFFERED, COMMITTED, SOON, city};

#[test]
fn a_drain_under_load_exits_with_0_and_the_next_start_goes_on() {
    let _turn = turn();
    let mut kafka = Kafka::start();
    let topic = kafka.new_topic(3);
    let broker = Mosquitto::start();
    let settings =
        Settings::new(&kafka.bootstrap(), &topic).mqtt("city", &broker.url(), ("city/#", 1), "");
    let dir = system_tests::process::temp_dir();
    let settings = settings.data_dir(dir.path());
    let mut gateway = Gateway::start_ready(&settings);
    let mut sim = city(&broker, 1000);
    gateway.wait_metric(COMMITTED, &[], 1000.0, SOON);
    assert_eq!(gateway.drain().code(), Some(0), "with Kafka there");

    let mut gateway = Gateway::start_ready(&settings);
    gateway.wait_metric(COMMITTED, &[], 1000.0, SOON);
    kafka.stop();
    gateway.wait_metric(BUFFERED, &[], 1000.0, SOON);
    assert_eq!(gateway.drain().code(), Some(0), "with Kafka away");

    kafka.start_again();
    let mut gateway = Gateway::start_ready(&settings);
    assert!(sim.runs());
    sim.stop_sending();
    let sent = sim.finish(SOON).sent;
    Oracle::new(&kafka.bootstrap(), &[&topic]).expect_all(&topic, sent, SOON);
    assert_eq!(gateway.drain().code(), Some(0));
}
