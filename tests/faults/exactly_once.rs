//! Exactly-once delivery into Apache Kafka (G4): counted by `ce_id`, which names the log and the offset,
//! so that what senders repeat does not matter here.

use std::hash::{BuildHasher as _, Hasher as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rdkafka::producer::{BaseRecord, Producer as _};
use system_tests::ce_ids::{CeIds, IdCounts};
use system_tests::gateway::{self, Gateway, Settings};
use system_tests::kafka::{self, Kafka};
use system_tests::mosquitto::Mosquitto;
use system_tests::mqtt_client::MqttClient;
use system_tests::oracle::Oracle;
use system_tests::{process, turn, wait};

use crate::{BUFFERED, DELIVERED, SOON, city};

/// Messages a second.
const RATE: u32 = 2000;

pub(crate) fn settings(bootstrap: &str, topic: &str, delivery: &str) -> Settings {
    let lines = format!("delivery = \"{delivery}\"\noffsets_topic = \"{topic}-offsets\"");
    Settings::new(bootstrap, topic).kafka(&lines)
}

pub(crate) fn with_city(settings: Settings, broker: &Mosquitto) -> Settings {
    settings.mqtt("city", &broker.url(), ("city/#", 1), "")
}

/// A time below `most` that no two runs share.
fn random(most: Duration) -> Duration {
    let hash = std::collections::hash_map::RandomState::new()
        .build_hasher()
        .finish();
    most.mul_f64((hash % 1000) as f64 / 1000.0)
}

/// Kills the gateway at `kills` random instants under load; a consumer group reads all the while.
fn killed(delivery: &str, kills: u32) -> IdCounts {
    let kafka = kafka::shared();
    let topic = kafka.new_topic(3);
    let broker = Mosquitto::start();
    let settings = with_city(settings(&kafka.bootstrap(), &topic, delivery), &broker);
    let mut gateway = Gateway::start_ready(&settings);
    let mut city = city(&broker, RATE);
    let mut ids = CeIds::new(&kafka.bootstrap(), &format!("{topic}-group"), &topic);
    for round in 0..kills {
        // Between the first moments of a start and the midst of a stream.
        if round % 2 == 0 {
            gateway.wait_metric(DELIVERED, &[], 1.0, SOON);
        }
        ids.read_for(random(Duration::from_millis(700)));
        assert!(city.runs(), "round {round} is under load");
        gateway.kill_and_restart();
    }
    gateway.wait_ready();
    city.stop_sending();
    let sent = city.finish(SOON).sent;
    Oracle::new(&kafka.bootstrap(), &[&topic]).expect_all(&topic, sent, SOON);
    let counts = ids.expect_all(sent, SOON);
    // A consumer that comes later sees the same.
    let later = format!("{topic}-later");
    let again = CeIds::new(&kafka.bootstrap(), &later, &topic).expect_all(sent, SOON);
    assert_eq!(again, counts);
    assert_eq!(gateway.drain().code(), Some(0));
    counts
}

#[test]
fn every_record_is_there_exactly_once_though_the_gateway_is_killed_thirty_times() {
    let _turn = turn();
    // Fewer where a start is slow (`make test-arm64`).
    let kills = if gateway::is_emulated() { 6 } else { 30 };
    let counts = killed("exactly_once", kills);
    println!("exactly_once, {kills} kills: {counts:?}");
    assert_eq!(counts.duplicates, 0);
}

#[test]
fn what_exactly_once_saves_is_what_at_least_once_repeats() {
    let _turn = turn();
    let counts = killed("at_least_once", 6);
    println!("at_least_once, 6 kills: {counts:?}");
}

/// The broker is frozen and ended in the midst of transactions, while a consumer group reads.
#[test]
fn every_record_is_there_exactly_once_though_kafka_is_paused_and_stopped() {
    let _turn = turn();
    let mut kafka = Kafka::start();
    let topic = kafka.new_topic(3);
    let broker = Mosquitto::start();
    let settings = with_city(
        settings(&kafka.bootstrap(), &topic, "exactly_once"),
        &broker,
    );
    let mut gateway = Gateway::start_ready(&settings);
    let mut city = city(&broker, RATE);
    let mut ids = CeIds::new(&kafka.bootstrap(), "reader", &topic);
    for round in 1..=3 {
        ids.read_for(Duration::from_millis(200));
        let delivered = gateway.metric(DELIVERED, &[]).unwrap_or(0.0);
        gateway.wait_metric(DELIVERED, &[], delivered + 500.0, SOON);
        kafka.pause();
        gateway.wait_metric(BUFFERED, &[], f64::from(2 * RATE), SOON);
        kafka.resume();
        let delivered = gateway.metric(DELIVERED, &[]).unwrap_or(0.0);
        gateway.wait_metric(DELIVERED, &[], delivered + 500.0, SOON);
        kafka.stop();
        gateway.wait_metric(BUFFERED, &[], f64::from(2 * RATE), SOON);
        kafka.start_again();
        assert!(city.runs(), "round {round} is under load");
    }
    city.stop_sending();
    let sent = city.finish(SOON).sent;
    Oracle::new(&kafka.bootstrap(), &[&topic]).expect_all(&topic, sent, SOON);
    let counts = ids.expect_all(sent, SOON);
    println!("Kafka paused and stopped three times: {counts:?}");
    assert_eq!(counts.duplicates, 0);
    assert_eq!(gateway.drain().code(), Some(0));
}

/// As the coordinator does for their age too: nobody else takes over, and what was in them is not there.
#[test]
fn transactions_that_are_ended_from_outside_are_sent_again() {
    let _turn = turn();
    let kafka = kafka::shared();
    let (topic, elsewhere) = (kafka.new_topic(3), kafka.new_topic(1));
    let broker = Mosquitto::start();
    let settings = settings(&kafka.bootstrap(), &topic, "exactly_once");
    let settings = with_city(settings.kafka("transaction_interval = \"500 ms\""), &broker);
    let mut gateway = Gateway::start_ready(&settings);
    let city = city(&broker, RATE);
    let fences_met = |gateway: &Gateway| {
        let log = gateway.log();
        log.matches("begins anew").count() + log.matches("was aborted").count()
    };
    for _ in 0..3 {
        let delivered = gateway.metric(DELIVERED, &[]).unwrap_or(0.0);
        gateway.wait_metric(DELIVERED, &[], delivered + 500.0, SOON);
        let before = fences_met(&gateway);
        drop(kafka.open_transaction(settings.id(), &elsewhere));
        wait::until("the fence was met", SOON, || fences_met(&gateway) > before);
    }
    city.stop_sending();
    let sent = city.finish(SOON).sent;
    Oracle::new(&kafka.bootstrap(), &[&topic]).expect_all(&topic, sent, SOON);
    let mut ids = CeIds::new(&kafka.bootstrap(), &format!("{topic}-group"), &topic);
    assert_eq!(ids.expect_all(sent, SOON).duplicates, 0);
    assert_eq!(gateway.drain().code(), Some(0));
}

/// A second gateway with the same id, on another directory: the first ends and says why, and goes on
/// where it was once the second is gone.
#[test]
fn of_two_gateways_with_one_id_the_older_ends_and_nothing_is_repeated() {
    let _turn = turn();
    let kafka = kafka::shared();
    let topic = kafka.new_topic(3);
    let broker = Mosquitto::start();
    let dir = process::temp_dir();
    let base = settings(&kafka.bootstrap(), &topic, "exactly_once");
    let first_settings = with_city(base.clone(), &broker).data_dir(dir.path());
    let mut first = Gateway::start_ready(&first_settings);
    let city = city(&broker, RATE);
    first.wait_metric(DELIVERED, &[], 1000.0, SOON);
    let mut second = Gateway::start_ready(&base.mqtt(
        "hall",
        &broker.url(),
        ("hall/#", 1),
        "client_id = \"hall\"",
    ));
    assert_eq!(first.wait_end().code(), Some(78), "{}", first.log());
    assert!(
        first
            .log()
            .contains("another gateway with the same id delivers to Kafka")
    );
    let name = instance(&second);
    assert!(first.log().contains(&format!("instance {name} on host")));
    MqttClient::connect(broker.port(), "one").publish("hall/1", b"the second goes on");
    second.wait_metric(DELIVERED, &[], 1.0, SOON);
    assert_eq!(second.drain().code(), Some(0));

    let mut first = Gateway::start_ready(&first_settings);
    first.wait_metric(DELIVERED, &[], 1000.0, SOON);
    city.stop_sending();
    let sent = city.finish(SOON).sent;
    let mut ids = CeIds::new(&kafka.bootstrap(), &format!("{topic}-group"), &topic);
    wait::until("all records of both", SOON, || {
        ids.read_for(Duration::from_millis(200));
        ids.counts()
            .values()
            .map(|counts| counts.distinct)
            .sum::<u64>()
            > sent
    });
    ids.read_for(Duration::from_secs(1));
    let counts = ids.counts();
    println!("two gateways, {sent} sent to the first: {counts:?}");
    assert_eq!(counts.len(), 2, "{counts:?}");
    for log in counts.values() {
        assert_eq!((log.duplicates, log.out_of_order), (0, 0), "{counts:?}");
    }
    assert_eq!(first.drain().code(), Some(0));
}

/// Incompressible payloads over the topic's limit among small ones: Kafka refuses whole batches.
#[test]
fn poison_becomes_dead_letters_and_its_neighbours_are_there_exactly_once() {
    let _turn = turn();
    let kafka = kafka::shared();
    let topic = kafka.new_topic(1);
    kafka.configure_topic(&topic, "max.message.bytes", "20000");
    let broker = Mosquitto::start();
    let settings = with_city(
        settings(&kafka.bootstrap(), &topic, "exactly_once"),
        &broker,
    );
    let mut client = MqttClient::connect(broker.port(), "one");
    let mut noise = 1_u64;
    let mut poison = vec![0; 30_000];
    let mut gateway = Gateway::start_ready(&settings);
    for number in 0..300 {
        if number % 60 == 30 {
            poison.fill_with(|| {
                noise = noise
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                (noise >> 56) as u8
            });
            client.publish("city/1", &poison);
        } else {
            client.publish("city/1", number.to_string().as_bytes());
        }
        if number % 100 == 99 {
            gateway.kill_and_restart();
        }
    }
    gateway.wait_ready();
    wait::until("everything delivered or set aside", SOON, || {
        gateway.metric(BUFFERED, &[]) == Some(0.0)
    });
    let mut ids = CeIds::new(&kafka.bootstrap(), &format!("{topic}-group"), &topic);
    wait::until("the neighbours", SOON, || {
        ids.read_for(Duration::from_millis(200));
        ids.counts().values().any(|counts| counts.distinct >= 295)
    });
    ids.read_for(Duration::from_secs(1));
    let counts = ids.counts().into_values().next().expect("one log");
    println!("300 with 5 poison: {counts:?}");
    assert_eq!((counts.duplicates, counts.out_of_order), (0, 0));
    // A publish that MQTT's broker sends again after a kill may be another record of the log.
    assert!(counts.distinct >= 295, "{counts:?}");
    assert_eq!(gateway.drain().code(), Some(0));
}

/// The random name that a gateway gives itself.
fn instance(gateway: &Gateway) -> String {
    let log = gateway.log();
    let (_, after) = log.split_once("instance=\"").expect("it has connected");
    let end = after.find(|c: char| !c.is_ascii_hexdigit());
    after[..end.unwrap_or(after.len())].to_owned()
}

/// Another gateway's open transaction lies before this one's position in the offsets topic: what a
/// reader of committed records alone would take for the newest is an older one.
#[test]
fn a_position_that_another_gateways_open_transaction_hides_is_waited_for() {
    let _turn = turn();
    let kafka = kafka::shared();
    let topic = kafka.new_topic(1);
    let offsets = format!("{topic}-offsets");
    kafka.create_topic(&offsets, 1, &[("cleanup.policy", "compact")]);
    let broker = Mosquitto::start();
    let settings = with_city(
        settings(&kafka.bootstrap(), &topic, "exactly_once"),
        &broker,
    );
    let mut gateway = Gateway::start_ready(&settings);
    let mut client = MqttClient::connect(broker.port(), "one");
    client.publish("city/1", b"0");
    gateway.wait_metric(DELIVERED, &[], 1.0, SOON);
    gateway.kill();
    let slots = gateway.data_dir().join("log/slots");
    let slots_before = std::fs::read(&slots).unwrap();
    gateway.kill_and_restart();
    gateway.wait_ready();
    client.publish("city/1", b"1");
    gateway.wait_metric(DELIVERED, &[], 1.0, SOON);
    let other = kafka.open_transaction("another-gateway", &offsets);
    for number in 2..=100 {
        client.publish("city/1", number.to_string().as_bytes());
    }
    gateway.wait_metric(DELIVERED, &[], 100.0, SOON);

    // As if the power had been cut before the log knew of that.
    gateway.kill();
    std::fs::write(&slots, slots_before).unwrap();
    gateway.kill_and_restart();
    gateway.wait_log("waiting for the open transactions of other gateways", SOON);
    other.commit_transaction(SOON).unwrap();
    client.publish("city/1", b"101");
    gateway.wait_metric(DELIVERED, &[], 1.0, SOON);
    let mut ids = CeIds::new(&kafka.bootstrap(), "reader", &topic);
    assert_eq!(ids.expect_all(102, SOON).duplicates, 0);
    assert_eq!(gateway.drain().code(), Some(0));
}

/// Sets its flag when it is dropped, by a panic too.
struct Over<'f>(&'f AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A fleet shares the partitions of the offsets topic: one that is written to all the time has no end
/// that a reader would come to.
#[test]
fn the_position_is_found_though_others_write_to_its_partition_all_the_time() {
    const STARTS: u64 = 4;
    let _turn = turn();
    let kafka = kafka::shared();
    let topic = kafka.new_topic(1);
    let offsets = format!("{topic}-offsets");
    kafka.create_topic(&offsets, 1, &[("cleanup.policy", "compact")]);
    let broker = Mosquitto::start();
    let settings = with_city(
        settings(&kafka.bootstrap(), &topic, "exactly_once"),
        &broker,
    );
    let fleet = kafka.producer();
    let is_over = AtomicBool::new(false);
    let mut client = MqttClient::connect(broker.port(), "one");
    let mut gateway = std::thread::scope(|threads| {
        threads.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let record = BaseRecord::to(&offsets)
                    .key("another-gateway")
                    .payload("{}");
                fleet.send(record).map_err(|(error, _)| error).unwrap();
                fleet.poll(Duration::from_millis(5));
            }
        });
        let _over = Over(&is_over);
        let mut gateway = Gateway::start_ready(&settings);
        for number in 0..STARTS {
            client.publish("city/1", number.to_string().as_bytes());
            gateway.wait_metric(DELIVERED, &[], 1.0, SOON);
            gateway.kill_and_restart();
        }
        gateway
    });
    let mut ids = CeIds::new(&kafka.bootstrap(), "reader", &topic);
    assert_eq!(ids.expect_all(STARTS, SOON).duplicates, 0);
    gateway.wait_ready();
    assert_eq!(gateway.drain().code(), Some(0));
}

#[test]
fn a_data_directory_that_was_restored_or_emptied_is_noticed_and_explained() {
    let _turn = turn();
    let kafka = kafka::shared();
    let topic = kafka.new_topic(1);
    let broker = Mosquitto::start();
    let dir = process::temp_dir();
    let (data, copy) = (dir.path().join("data"), dir.path().join("copy"));
    let settings = with_city(
        settings(&kafka.bootstrap(), &topic, "exactly_once"),
        &broker,
    );
    let settings = settings.data_dir(&data);
    let mut client = MqttClient::connect(broker.port(), "one");
    let mut number = 0;
    let mut run = |expected: &str| {
        let mut gateway = Gateway::start_ready(&settings);
        for _ in 0..50 {
            client.publish("city/1", number.to_string().as_bytes());
            number += 1;
        }
        gateway.wait_metric(DELIVERED, &[], 50.0, SOON);
        assert!(
            gateway.log().contains(expected),
            "{expected}: {}",
            gateway.log()
        );
        assert_eq!(gateway.drain().code(), Some(0));
    };
    run("Kafka has no position of this gateway");
    copy_dir(&data.join("log"), &copy);
    run("exactly-once delivery goes on");
    std::fs::remove_dir_all(data.join("log")).unwrap();
    copy_dir(&copy, &data.join("log"));
    run("restored from an old copy");
    std::fs::remove_dir_all(&data).unwrap();
    run("was emptied or replaced");
    let mut ids = CeIds::new(&kafka.bootstrap(), &format!("{topic}-group"), &topic);
    wait::until("200 records", SOON, || {
        ids.read_for(Duration::from_millis(200));
        ids.counts()
            .values()
            .map(|counts| counts.distinct)
            .sum::<u64>()
            >= 200
    });
    ids.read_for(Duration::from_secs(1));
    let counts = ids.counts();
    let parts: Vec<u64> = counts.values().map(|counts| counts.distinct).collect();
    assert_eq!(parts.iter().sum::<u64>(), 200, "{counts:?}");
    assert_eq!(parts.len(), 3, "{counts:?}");
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}
