//! What is delivered again is in the commit log once: by its place in the log (`ce_id`), which a
//! record keeps however often Kafka gets it.

use std::time::Duration;

use system_tests::gateway::{Gateway, Settings};
use system_tests::kafka::Kafka;
use system_tests::mosquitto::Mosquitto;
use system_tests::oracle::Oracle;
use system_tests::sim::Sim;
use system_tests::{process, turn, wait};

use crate::{COMMITTED, SOON};

const KILLS: u64 = 30;
const SUPPRESSED: &str = "edge_gateway_duplicates_suppressed_total";

/// Somewhere within what a group commit, its acknowledgements and the next one take; another place
/// each round.
fn somewhen(round: u64) -> Duration {
    Duration::from_micros(round * 7_919 % 20_000)
}

/// Ten devices that send until they are asked to stop.
fn devices(broker: &Mosquitto, topic: &str, qos: u8, rate: u32) -> Sim {
    Sim::start(&format!(
        "mqtt --url {} --topic {topic}/{{device}} --qos {qos} --devices 10 --rate {rate} \
         --client-id {topic} --payload-bytes 200",
        broker.url()
    ))
}

/// Three sources: MQTT at `QoS` 1 and 2, and a serial line.
struct Plant {
    broker: Mosquitto,
    topics: [String; 3],
    settings: Settings,
    line: std::path::PathBuf,
    _dir: tempfile::TempDir,
}

const SOURCES: [&str; 3] = ["one", "two", "press"];

impl Plant {
    fn new(kafka: &Kafka) -> Self {
        let topics = SOURCES.map(|_| kafka.new_topic(3));
        let broker = Mosquitto::start();
        let dir = process::temp_dir();
        let line = dir.path().join("line");
        let [one, two, press] = &topics;
        let settings = Settings::new(&kafka.bootstrap(), one)
            .mqtt("one", &broker.url(), ("one/#", 1), "")
            .mqtt("two", &broker.url(), ("two/#", 2), "")
            .serial("press", &line, "shim")
            .route("two/{device}", two, "{device}")
            .route("press/{device}", press, "{device}");
        Self {
            broker,
            topics,
            settings,
            line,
            _dir: dir,
        }
    }

    fn press(&self) -> Sim {
        Sim::start(&format!(
            "serial --pty {} --devices 4 --rate 200 --seed 5",
            self.line.display()
        ))
    }

    /// Counts what the sources have sent, at its places in the log.
    fn expect_each_once(&self, kafka: &Kafka, sent: [u64; 3]) {
        let topics = self.topics.each_ref().map(String::as_str);
        let mut oracle = Oracle::new(&kafka.bootstrap(), &topics);
        let counts = [0, 1, 2].map(|index| oracle.expect_all(topics[index], sent[index], SOON));
        println!("{sent:?} sent, {counts:?}");
        assert_eq!(
            counts.map(|counts| counts.stored_again),
            [0; 3],
            "{SOURCES:?}"
        );
    }
}

#[test]
fn every_message_is_stored_once_when_the_gateway_is_killed_thirty_times() {
    let _turn = turn();
    let mut kafka = Kafka::start();
    let plant = Plant::new(&kafka);
    let mut press = plant.press();
    let mut gateway = Gateway::start_ready(&plant.settings);
    let mut one = devices(&plant.broker, "one", 1, 1000);
    let mut two = devices(&plant.broker, "two", 2, 1000);
    let mut suppressed = 0.0;
    for round in 1..=KILLS {
        for source in SOURCES {
            gateway.wait_metric(COMMITTED, &[("source", source)], 50.0, SOON);
        }
        std::thread::sleep(somewhen(round));
        assert!(one.runs() && two.runs() && press.runs(), "round {round}");
        suppressed += gateway.metric(SUPPRESSED, &[]).unwrap_or(0.0);
        gateway.kill();
        if round == KILLS / 2 {
            kafka.stop();
            kafka.start_again();
        }
        gateway.kill_and_restart();
    }
    gateway.wait_ready();
    for sim in [&one, &two, &press] {
        sim.stop_sending();
    }
    let sent = [one, two, press].map(|sim| sim.finish(SOON).sent);
    plant.expect_each_once(&kafka, sent);
    suppressed += gateway.metric(SUPPRESSED, &[]).unwrap_or(0.0);
    println!("{suppressed} suppressed");
    assert!(suppressed > 0.0, "nothing was sent again");
    assert_eq!(gateway.drain().code(), Some(0));
}

/// The senders are at `QoS` 2: at 1 they would publish again what Mosquitto had taken before its
/// stop, as new messages.
#[test]
fn every_message_is_stored_once_when_mosquitto_and_the_gateway_restart_in_turn() {
    let _turn = turn();
    let kafka = Kafka::start();
    let mut plant = Plant::new(&kafka);
    let press = plant.press();
    let mut gateway = Gateway::start_ready(&plant.settings);
    let mut two = devices(&plant.broker, "two", 2, 800);
    for round in 0..6 {
        gateway.wait_ready();
        let committed = || {
            gateway
                .metric(COMMITTED, &[("source", "two")])
                .unwrap_or(0.0)
        };
        let before = committed();
        wait::until("a load", SOON, || committed() >= before + 300.0);
        std::thread::sleep(somewhen(round));
        assert!(two.runs(), "round {round}");
        if round % 3 == 2 {
            gateway.kill_and_restart();
        } else {
            plant.broker.stop();
            if round % 3 == 1 {
                gateway.kill_and_restart();
            }
            plant.broker.start_again();
        }
    }
    gateway.wait_ready();
    two.stop_sending();
    press.stop_sending();
    let sent = [0, two.finish(SOON).sent, press.finish(SOON).sent];
    plant.expect_each_once(&kafka, sent);
    assert_eq!(gateway.drain().code(), Some(0));
}
