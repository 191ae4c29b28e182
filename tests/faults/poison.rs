//! A backlog in which one record of a thousand is larger than Kafka takes: those become dead letters, all
//! others are delivered in order.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use edge_gateway::clock::{self, SystemClock};
use edge_gateway::commit_log::fs::RealFs;
use edge_gateway::commit_log::{
    AppendError, CommitLog, CommitReport, Compression, Observer, Options, Progress,
};
use edge_gateway::record::{NewRecord, Offset, Origin, PayloadKind, SourceName};
use system_tests::ce_ids::CeIds;
use system_tests::gateway::{Gateway, Settings};
use system_tests::mosquitto::Mosquitto;
use system_tests::oracle::Oracle;
use system_tests::{kafka, process, turn, wait};

use crate::{BUFFERED, SOON};

const POISON_EVERY: u64 = 1_000;
const DEVICES: u64 = 20;
/// What the topic takes, and what a poisonous record has.
const MESSAGE_BYTES_MAX: &str = "60000";
const POISON_BYTES: usize = 70_000;
const DEAD_LETTERS: &str = "edge_gateway_dead_letters_total";

#[derive(Debug)]
struct Unobserved;

impl Observer for Unobserved {
    fn progress(&self, _progress: Progress) {}

    fn committed(&self, _report: &CommitReport) {}

    fn dropped(&self, _source: &str, _reason: &'static str, _records: u64) {}
}

/// Writes the backlog of a gateway that was cut off from Kafka.
fn fill(dir: &Path, records: u64) {
    let options = Options {
        dir: dir.join("log"),
        bytes_max: 1 << 30,
        segment_bytes: 8 << 20,
        commit_interval: Duration::from_millis(5),
        drop_oldest: false,
        reserve: false,
        age_max: None,
        compression: Compression::None,
        clock: Arc::new(SystemClock::default()),
        owner: "test".to_owned(),
    };
    let opened = CommitLog::open(Arc::new(RealFs), options, Box::new(Unobserved), ());
    let log = opened.unwrap().log;
    let mut sequences = [0; DEVICES as usize];
    let mut noise = 1_u64;
    for number in 0..records {
        let device = number % DEVICES;
        let payload = if number % POISON_EVERY == POISON_EVERY / 2 {
            incompressible(&mut noise)
        } else {
            let sequence = &mut sequences[device as usize];
            *sequence += 1;
            let sequence = *sequence - 1;
            format!(r#"{{"source":"t","device":"d{device}","sequence":{sequence}}}"#).into_bytes()
        };
        append(&log, &format!("city/d{device}"), &payload);
    }
    let last = Offset::new(records - 1);
    wait::until("the backlog on disk", SOON, || log.progress().synced > last);
    log.close();
}

fn incompressible(noise: &mut u64) -> Vec<u8> {
    let mut payload = vec![0; POISON_BYTES];
    payload.fill_with(|| {
        *noise = noise
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (*noise >> 56) as u8
    });
    payload
}

fn append(log: &CommitLog, subject: &str, payload: &[u8]) {
    let record = NewRecord {
        source: &SourceName::new("city").unwrap(),
        subject,
        kind: PayloadKind::Opaque,
        origin: Origin::Line,
        received: clock::now(),
        payload,
    };
    loop {
        match log.append(&record) {
            Ok(_) => return,
            Err(AppendError::Full) => {
                let synced = log.progress().synced;
                let _: Progress = log.wait(synced, SOON);
            }
            Err(error) => panic!("{error}"),
        }
    }
}

fn poisoned(delivery: &str, records: u64) {
    let kafka = kafka::shared();
    let topic = kafka.new_topic(3);
    kafka.configure_topic(&topic, "max.message.bytes", MESSAGE_BYTES_MAX);
    let dir = process::temp_dir();
    fill(dir.path(), records);
    let broker = Mosquitto::start();
    // Small batches and short transactions: whatever a refused one holds is sent again, and what lies in a
    // refused batch one a request.
    let lines = format!(
        "delivery = \"{delivery}\"\noffsets_topic = \"{topic}-offsets\"\n\
         transaction_interval = \"5 ms\"\nproperties = {{ \"batch.num.messages\" = \"30\" }}"
    );
    let settings = Settings::new(&kafka.bootstrap(), &topic)
        .kafka(&lines)
        .data_dir(dir.path())
        .mqtt("city", &broker.url(), ("city/#", 1), "");
    let began = Instant::now();
    let mut gateway = Gateway::start_ready(&settings);
    wait::until("everything delivered or set aside", 3 * SOON, || {
        gateway.metric(BUFFERED, &[]) == Some(0.0)
    });
    let poison = records / POISON_EVERY;
    let whole = records - poison;
    println!(
        "{delivery}: {records} with {poison} poisonous in {:?}",
        began.elapsed()
    );
    let letters = gateway.metric(DEAD_LETTERS, &[("reason", "too_large")]);
    assert_eq!(letters, Some(poison as f64));
    assert_eq!(gateway.metric(DEAD_LETTERS, &[]), Some(poison as f64));
    Oracle::new(&kafka.bootstrap(), &[&topic]).expect_all(&topic, whole, SOON);
    let mut ids = CeIds::new(&kafka.bootstrap(), &format!("{topic}-group"), &topic);
    let counts = ids.expect_all(whole, SOON);
    println!("{delivery}: {counts:?}");
    assert_eq!(counts.distinct, whole);
    if delivery == "exactly_once" {
        assert_eq!(counts.duplicates, 0);
    }
    assert_eq!(gateway.drain().code(), Some(0));
}

#[test]
fn of_a_hundred_thousand_records_a_hundred_too_large_are_set_aside_at_least_once() {
    let _turn = turn();
    poisoned("at_least_once", 100_000);
}

/// Fewer, since a transaction that holds a refused record is sent again one record a request.
#[test]
fn of_ten_thousand_records_ten_too_large_are_set_aside_exactly_once() {
    let _turn = turn();
    poisoned("exactly_once", 10_000);
}
