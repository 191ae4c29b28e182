//! What is delivered again is in the commit log once, and with `exactly_once` at the consumer once:
//! told by its place in the log (`ce_id`), which a record keeps however often Kafka gets it.

use std::time::Duration;

use system_tests::ce_ids::CeIds;
use system_tests::gateway::{Gateway, Settings};
use system_tests::kafka::{self, Kafka};
use system_tests::mosquitto::Mosquitto;
use system_tests::oracle::Oracle;
use system_tests::sim::Sim;
use system_tests::tally::Counts;
use system_tests::{is_long, process, turn, wait};

use crate::{BUFFERED, COMMITTED, DELIVERED, SOON};

const SUPPRESSED: &str = "edge_gateway_duplicates_suppressed_total";

/// Kills of the gateway, after which everything was there once.
fn kills() -> u64 {
    if is_long() { 30 } else { 8 }
}

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
    /// `kafka_lines` go to `[kafka]`, `mqtt_lines` to both MQTT sources.
    fn new(kafka: &Kafka, kafka_lines: &str, mqtt_lines: &str) -> Self {
        let topics = SOURCES.map(|_| kafka.new_topic(3));
        let broker = Mosquitto::start();
        let dir = process::temp_dir();
        let line = dir.path().join("line");
        let [one, two, press] = &topics;
        let settings = Settings::new(&kafka.bootstrap(), one)
            .kafka(kafka_lines)
            .mqtt("one", &broker.url(), ("one/#", 1), mqtt_lines)
            .mqtt("two", &broker.url(), ("two/#", 2), mqtt_lines)
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

    /// Counts what the sources have sent, of which nothing is lost.
    fn counts(&self, kafka: &Kafka, sent: [u64; 3]) -> [Counts; 3] {
        let topics = self.topics.each_ref().map(String::as_str);
        let mut oracle = Oracle::new(&kafka.bootstrap(), &topics);
        let counts = [0, 1, 2].map(|index| oracle.expect_all(topics[index], sent[index], SOON));
        println!("{sent:?} sent, {counts:?}");
        counts
    }

    /// Counts what the sources have sent; each is at one place of the log.
    fn expect_each_once(&self, kafka: &Kafka, sent: [u64; 3]) -> [Counts; 3] {
        let counts = self.counts(kafka, sent);
        let stored_again = counts.map(|counts| counts.stored_again);
        assert_eq!(stored_again, [0; 3], "{SOURCES:?}");
        counts
    }
}

/// What each source has brought at least when the gateway is killed.
const STORED_A_ROUND: u64 = 50;
/// Kills within which one meets what a test is after.
const KILLS_MAX: u64 = 120;

/// Waits until each of `sources` has brought some records since the gateway's start.
fn wait_load(gateway: &mut Gateway, sources: &[&str]) {
    for source in sources {
        let least = STORED_A_ROUND as f64;
        gateway.wait_metric(COMMITTED, &[("source", source)], least, SOON);
    }
}

fn suppressed(gateway: &Gateway) -> f64 {
    gateway.metric(SUPPRESSED, &[]).unwrap_or(0.0)
}

/// Kills of the gateway, every other one after records were delivered, of it and Mosquitto together, of it while Kafka is away;
/// groups of consumers read all the while. Senders are at `QoS` 2 while Mosquitto restarts, as
/// below.
#[test]
fn every_message_is_at_the_consumer_exactly_once_though_gateway_kafka_and_mosquitto_restart() {
    let _turn = turn();
    let mut kafka = Kafka::start();
    let lines = "delivery = \"exactly_once\"\noffsets_topic = \"offsets\"";
    let mut plant = Plant::new(&kafka, lines, "");
    let mut groups = plant
        .topics
        .each_ref()
        .map(|topic| CeIds::new(&kafka.bootstrap(), &format!("{topic}-group"), topic));
    let mut press = plant.press();
    let mut gateway = Gateway::start_ready(&plant.settings);
    let mut two = devices(&plant.broker, "two", 2, 800);
    let mut again = 0.0;

    for round in 0..2 {
        wait_load(&mut gateway, &["two", "press"]);
        std::thread::sleep(somewhen(round));
        plant.broker.stop();
        if round == 1 {
            again += suppressed(&gateway);
            gateway.kill_and_restart();
        }
        plant.broker.start_again();
        gateway.wait_ready();
    }

    let mut one = devices(&plant.broker, "one", 1, 800);
    for round in 1..=kills() {
        wait_load(&mut gateway, &SOURCES);
        if round % 2 == 0 {
            gateway.wait_metric(DELIVERED, &[], 500.0, SOON);
        }
        for group in &mut groups {
            group.read_for(Duration::from_millis(20));
        }
        std::thread::sleep(somewhen(round));
        assert!(one.runs() && two.runs() && press.runs(), "round {round}");
        let is_kafka_stopped = round == kills() / 2;
        if is_kafka_stopped {
            kafka.stop();
            gateway.wait_metric(BUFFERED, &[], 1_000.0, SOON);
        }
        again += suppressed(&gateway);
        gateway.kill_and_restart();
        if is_kafka_stopped {
            wait_load(&mut gateway, &SOURCES);
            kafka.start_again();
        }
    }
    gateway.wait_ready();
    for sim in [&one, &two, &press] {
        sim.stop_sending();
    }
    let sent = [one, two, press].map(|sim| sim.finish(SOON).sent);
    again += suppressed(&gateway);
    println!("{} kills, {again} messages came again", kills());
    let counts = plant.expect_each_once(&kafka, sent);
    assert_eq!(counts.map(|counts| counts.duplicates), [0; 3]);
    for (group, sent) in groups.iter_mut().zip(sent) {
        assert_eq!(group.expect_all(sent, SOON).duplicates, 0);
    }
    assert!(again > 0.0, "nothing was sent again");
    assert_eq!(gateway.drain().code(), Some(0));
}

/// Was anything of Mosquitto's stored a second time?
fn again(counts: &[Counts; 3]) -> bool {
    counts[0].stored_again + counts[1].stored_again > 0
}

/// What the others prove is no accident: Mosquitto does send again what is stored then.
#[test]
fn without_dedupe_what_mosquitto_sends_again_is_stored_again() {
    let _turn = turn();
    let kafka = kafka::shared();
    let plant = Plant::new(kafka, "", "dedupe = false");
    let press = plant.press();
    let mut gateway = Gateway::start_ready(&plant.settings);
    let one = devices(&plant.broker, "one", 1, 1000);
    let two = devices(&plant.broker, "two", 2, 1000);
    let topics = plant.topics.each_ref().map(String::as_str);
    let mut oracle = Oracle::new(&kafka.bootstrap(), &topics);
    // A kill must fall between a sync and its acknowledgements, which a fast machine keeps short.
    for round in 1..=KILLS_MAX {
        wait_load(&mut gateway, &SOURCES);
        std::thread::sleep(somewhen(round));
        gateway.kill_and_restart();
        oracle.read_for(Duration::from_millis(20));
        let stored_again = |topic| oracle.counts(topic).stored_again;
        if plant.topics[..2]
            .iter()
            .any(|topic| stored_again(topic) > 0)
        {
            break;
        }
    }
    gateway.wait_ready();
    for sim in [&one, &two, &press] {
        sim.stop_sending();
    }
    let sent = [one, two, press].map(|sim| sim.finish(SOON).sent);
    assert!(again(&plant.counts(kafka, sent)), "nothing was sent again");
    assert_eq!(suppressed(&gateway), 0.0);
    assert_eq!(gateway.drain().code(), Some(0));
}

/// The senders are at `QoS` 2: at 1 they would publish again what Mosquitto had taken before its
/// stop, as new messages.
#[test]
fn every_message_is_stored_once_when_mosquitto_and_the_gateway_restart_in_turn() {
    let _turn = turn();
    let kafka = Kafka::start();
    let mut plant = Plant::new(&kafka, "", "");
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
