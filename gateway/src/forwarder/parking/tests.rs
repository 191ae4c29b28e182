//! The state machine of parked topics, on a disk.

use std::path::Path;
use std::sync::mpsc;

use proptest::prelude::*;

use super::super::EndOfReturning;
use super::*;
use crate::commit_log::Item;
use crate::config;
use crate::record::{Origin, PayloadKind, RecordView, Stamp};

const MAIN: &str = "0123456789abcdef";
const TOPIC: &str = "side";
const REFUSED: RDKafkaErrorCode = RDKafkaErrorCode::TopicAuthorizationFailed;
const PATIENCE: Duration = Duration::from_secs(60);

fn opened(dir: &Path) -> Parking {
    let text = format!(
        "[gateway]\nid = \"gw\"\ndata_dir = \"{}\"\n\
         [sources.press]\ntype = \"serial\"\ndevice = \"/dev/ttyS9\"\nframing = \"lines\"\n\
         [buffer]\ncommit_interval = \"0 ms\"\nparking_bytes_max = \"16 MiB\"\n\
         [kafka]\nbrokers = [\"k:9092\"]\n",
        dir.display()
    );
    let config = config::parse(&text, Path::new("test.toml")).expect("valid");
    Parking::open(&config, "test", Arc::new(Metrics::new()))
}

fn take(parking: &Parking, offset: u64) -> Take {
    let payload = offset.to_string();
    let record = RecordView {
        offset: Offset::new(offset),
        source: "press",
        subject: "press/1",
        kind: PayloadKind::Opaque,
        origin: Origin::Line,
        received: Stamp::default(),
        boot_id: 1,
        payload: payload.as_bytes(),
    };
    parking.take(TOPIC, MAIN, &Outgoing::Record(&record))
}

/// Takes a record and waits until it is durable.
fn store(parking: &Parking, offset: u64) {
    let Take::Taken(ticket) = take(parking, offset) else {
        panic!("offset {offset} is not taken");
    };
    let progress = ticket.log.wait(ticket.offset, PATIENCE);
    assert!(progress.synced > ticket.offset);
    assert_eq!(ticket.is_synced(), Some(true));
}

/// Offsets in the main log of what is to be returned.
fn parked(parking: &Parking) -> Vec<u64> {
    let log = parking.log(TOPIC).expect("open");
    let mut cursor = log.cursor(log.committed());
    let mut offsets = Vec::new();
    while let Some(item) = cursor.next().expect("readable") {
        let Item::Batch(batch) = item else {
            panic!("a hole");
        };
        for record in batch.records() {
            let found = entry::read(&record).expect("an entry");
            let entry::Item::Record(original) = found.item else {
                panic!("not a record");
            };
            offsets.push(original.offset.get());
        }
    }
    offsets
}

fn return_first(parking: &Parking, count: u64) {
    let log = parking.log(TOPIC).expect("open");
    log.commit(log.committed().plus(count));
}

fn floor(offset: u64) -> Option<(&'static str, Offset)> {
    Some((MAIN, Offset::new(offset)))
}

#[test]
fn only_records_of_a_parked_topic_are_taken() {
    let dir = tempfile::tempdir().expect("a directory");
    let parking = opened(dir.path());
    assert!(!parking.is_parked(TOPIC));
    assert!(matches!(take(&parking, 0), Take::Direct));
    assert!(parking.begin(TOPIC, REFUSED));
    store(&parking, 0);
    assert!(parking.is_parked(TOPIC) && !parking.is_parked("other"));
    assert_eq!(parked(&parking), [0]);
}

/// P3
#[test]
fn a_record_that_is_read_again_after_a_crash_is_not_parked_twice() {
    let dir = tempfile::tempdir().expect("a directory");
    let parking = opened(dir.path());
    assert!(parking.begin(TOPIC, REFUSED));
    (10..20).for_each(|offset| store(&parking, offset));
    parking.close();
    let parking = opened(dir.path());
    (5..22).for_each(|offset| store(&parking, offset));
    assert_eq!(parked(&parking), (10..22).collect::<Vec<u64>>());
    return_first(&parking, 12);
    parking.close();
    let parking = opened(dir.path());
    (5..23).for_each(|offset| store(&parking, offset));
    assert_eq!(parked(&parking), [22]);
}

/// P4
#[test]
fn a_log_ends_only_when_all_is_returned_and_the_floor_has_passed_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let parking = opened(dir.path());
    assert!(parking.begin(TOPIC, REFUSED));
    (10..13).for_each(|offset| store(&parking, offset));
    return_first(&parking, 3);
    assert!(!parking.finish(TOPIC, floor(13)), "it is still refused");
    parking.answers(TOPIC);
    assert!(!parking.finish(TOPIC, floor(12)), "12 may be read again");
    assert!(!parking.is_below(TOPIC, MAIN, Offset::new(12)));
    store(&parking, 13);
    assert!(!parking.finish(TOPIC, floor(14)), "one is left");
    return_first(&parking, 1);
    assert!(parking.finish(TOPIC, floor(14)));
    assert!(!parking.is_parked(TOPIC));
    assert!(!dir.path().join("parking").join(TOPIC).exists());
    assert!(matches!(take(&parking, 14), Take::Direct));
    parking.close();
    assert!(opened(dir.path()).topics().is_empty());
}

#[test]
fn the_forwarder_waits_while_the_last_records_go_out_but_not_for_ever() {
    let dir = tempfile::tempdir().expect("a directory");
    let parking = opened(dir.path());
    assert!(parking.begin(TOPIC, REFUSED));
    store(&parking, 0);
    parking.hand_over(TOPIC, Duration::from_secs(3600));
    assert!(matches!(take(&parking, 1), Take::Soon));
    assert!(matches!(take(&parking, 0), Take::Taken(_)), "taken before");
    parking.later(TOPIC, Duration::ZERO);
    store(&parking, 1);
    parking.hand_over(TOPIC, Duration::ZERO);
    store(&parking, 2);
}

#[test]
fn what_kafka_says_was_returned_is_not_returned_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let parking = opened(dir.path());
    assert!(parking.begin(TOPIC, REFUSED));
    (0..9).for_each(|offset| store(&parking, offset));
    return_first(&parking, 2);
    let mut position = parking.positions();
    assert_eq!(position[0].offset, 2);
    position[0].offset = 5;
    parking.resume(&position, false);
    assert_eq!(parked(&parking), [5, 6, 7, 8]);
    position[0].offset = 3;
    parking.resume(&position, false);
    assert_eq!(parked(&parking), [5, 6, 7, 8]);
}

#[test]
fn a_log_restored_from_an_old_copy_goes_on_as_another() {
    for (beyond, restored) in [(3, false), (0, true)] {
        let dir = tempfile::tempdir().expect("a directory");
        let parking = opened(dir.path());
        assert!(parking.begin(TOPIC, REFUSED));
        (0..9).for_each(|offset| store(&parking, offset));
        let old = parking.log(TOPIC).expect("open").identity();
        let position = ParkedPosition {
            log: old.clone(),
            offset: 9 + beyond,
        };
        parking.resume(&[position], restored);
        assert_ne!(parking.log(TOPIC).expect("open").identity(), old);
        assert_eq!(parked(&parking).len(), 9, "nothing is skipped");
    }
}

#[test]
fn more_topics_than_are_allowed_hold_the_forwarder_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let parking = opened(dir.path());
    for number in 0..TOPICS_MAX {
        assert!(parking.begin(&format!("t{number}"), REFUSED));
    }
    assert!(!parking.begin(TOPIC, REFUSED));
    let held = parking.held().expect("held back");
    assert!(
        held.topic == TOPIC && held.why.contains("64 topics"),
        "{held:?}"
    );
    parking.answers("t0");
    assert!(parking.finish("t0", None));
    assert!(parking.begin(TOPIC, REFUSED));
    assert_eq!(parking.held(), None);
}

#[test]
fn a_log_that_cannot_be_opened_stops_nothing_but_its_topic_and_is_tried_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let parking = opened(dir.path());
    assert!(parking.begin(TOPIC, REFUSED));
    store(&parking, 0);
    parking.close();
    let lock = dir.path().join("parking").join(TOPIC).join("lock");
    std::fs::remove_file(&lock).expect("removed");
    std::fs::create_dir(&lock).expect("made");
    let parking = opened(dir.path());
    assert!(matches!(take(&parking, 1), Take::Held));
    let held = parking.held().expect("held back");
    assert!(held.why.contains("cannot be opened"), "{held:?}");
    assert!(!parking.topics()[0].returning);
    assert!(parking.log(TOPIC).is_none());
    std::fs::remove_dir(&lock).expect("removed");
    assert!(parking.log(TOPIC).is_some());
    store(&parking, 1);
    assert_eq!(parking.held(), None);
    assert_eq!(parked(&parking), [0, 1]);
}

#[derive(Clone, Debug)]
enum Op {
    /// The next records of the main log, so many.
    Take(u64),
    /// The main log is read again, from so many records back.
    Rewind(u64),
    /// So many are returned.
    Return(u64),
    Reopen,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (1..6_u64).prop_map(Op::Take),
        1 => (1..20_u64).prop_map(Op::Rewind),
        3 => (1..8_u64).prop_map(Op::Return),
        1 => Just(Op::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// What is taken, less what is returned, is there in order, each record once.
    #[test]
    fn parked_records_agree_with_a_plain_queue(ops in prop::collection::vec(op(), 1..24)) {
        let dir = tempfile::tempdir().expect("a directory");
        let mut parking = opened(dir.path());
        prop_assert!(parking.begin(TOPIC, REFUSED));
        let (mut next, mut end, mut returned) = (0, 0, 0);
        for op in ops {
            match op {
                Op::Take(count) => {
                    (next..next + count).for_each(|offset| store(&parking, offset));
                    next += count;
                    end = end.max(next);
                }
                Op::Rewind(count) => next = next.saturating_sub(count),
                Op::Return(count) => {
                    return_first(&parking, count);
                    returned = (returned + count).min(end);
                }
                Op::Reopen => {
                    parking.close();
                    parking = opened(dir.path());
                }
            }
            prop_assert_eq!(parked(&parking), (returned..end).collect::<Vec<u64>>());
        }
    }
}

#[test]
fn a_forwarder_that_panics_leaves_nobody_waiting_for_parked_records() {
    let dir = tempfile::tempdir().expect("directory");
    let parking = opened(dir.path());
    let over = Arc::new(AtomicBool::new(false));
    let (ended, has_ended) = mpsc::channel();
    let waiter = (parking.clone(), Arc::clone(&over));
    std::thread::spawn(move || {
        let (parking, over) = waiter;
        while !over.load(Ordering::Acquire) {
            parking.wait(PATIENCE, &over);
        }
        ended.send(()).expect("the test waits");
    });
    let forwarded = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _end = EndOfReturning {
            over: &over,
            parking: &parking,
        };
        panic!("of a test");
    }));
    assert!(forwarded.is_err());
    assert_eq!(has_ended.recv_timeout(PATIENCE), Ok(()));
}
