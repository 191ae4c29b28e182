//! SIGKILL of the gateway under load, MQTT and a serial line at once.

use system_tests::gateway::{self, Gateway, Settings};
use system_tests::mosquitto::Mosquitto;
use system_tests::oracle::Oracle;
use system_tests::sim::Sim;
use system_tests::{kafka, process, turn};

use crate::{COMMITTED, SOON, city};

#[test]
fn nothing_is_lost_when_the_gateway_is_killed_ten_times() {
    let _turn = turn();
    let kafka = kafka::shared();
    let (city_topic, press_topic) = (kafka.new_topic(3), kafka.new_topic(3));
    let broker = Mosquitto::start();
    let dir = process::temp_dir();
    let line = dir.path().join("line");
    let mut press = Sim::start(&format!(
        "serial --pty {} --devices 4 --rate 200 --seed 5",
        line.display()
    ));
    let settings = Settings::new(&kafka.bootstrap(), &city_topic)
        .mqtt("city", &broker.url(), ("city/#", 1), "")
        .serial("press", &line, "shim")
        .route("press/{device}", &press_topic, "{device}");
    let mut gateway = Gateway::start_ready(&settings);
    let mut city = city(&broker, 2000);
    // Fewer where a start is slow (`make test-arm64`).
    let kills = if gateway::is_emulated() { 3 } else { 10 };
    for round in 1..=kills {
        gateway.wait_metric(COMMITTED, &[("source", "city")], 500.0, SOON);
        gateway.wait_metric(COMMITTED, &[("source", "press")], 20.0, SOON);
        assert!(city.runs() && press.runs(), "round {round} is under load");
        gateway.kill_and_restart();
    }
    gateway.wait_ready();
    city.stop_sending();
    press.stop_sending();
    let (city, press) = (city.finish(SOON), press.finish(SOON));
    assert_eq!(press.acknowledged, Some(press.sent));
    let topics = [city_topic.as_str(), press_topic.as_str()];
    let mut oracle = Oracle::new(&kafka.bootstrap(), &topics);
    oracle.expect_all(&city_topic, city.sent, SOON);
    oracle.expect_all(&press_topic, press.sent, SOON);
    assert_eq!(gateway.drain().code(), Some(0));
}
