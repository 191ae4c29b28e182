//! Topics that take no records: theirs are parked, all others go on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use edge_gateway::commit_log::CommitLog;
use edge_gateway::record::{Offset, PayloadKind};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use crate::bench::{
    Bench, DEVICES, Got, PARTITIONS, Running, SIDE_TOPIC, TOPIC, append_to,
    assert_once_and_in_order, until,
};

const MODES: [&str; 2] = [
    "topic_wait = \"1 s\"",
    "topic_wait = \"1 s\"\ndelivery = \"exactly_once\"\noffsets_topic = \"offsets\"",
];
const UNKNOWN: RDKafkaRespErr = RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART;
const FORBIDDEN: RDKafkaRespErr = RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;

/// Records `from..to`: the odd ones are for the side topic.
fn append(bench: &Bench, from: u64, to: u64) {
    for number in from..to {
        append_one(&bench.log, number, number.to_string().as_bytes());
    }
    let last = Offset::new(to - 1);
    until("the records to be synced", || {
        bench.log.progress().synced > last
    });
}

fn append_one(log: &CommitLog, number: u64, payload: &[u8]) {
    let place = if number % 2 == 1 { "side" } else { "city" };
    let subject = format!("{place}/{}", number % DEVICES);
    append_to(log, "city", &subject, (PayloadKind::Opaque, payload));
}

fn refuse(bench: &Bench, topic: &str, error: RDKafkaRespErr) {
    bench.cluster.topic_error(topic, error).expect("set");
}

fn give_back(bench: &Bench) {
    refuse(
        bench,
        SIDE_TOPIC,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR,
    );
}

fn until_parked(running: &Running, records: u64) {
    until("records to be parked", || {
        let topics = running.parking.topics();
        topics.iter().any(|topic| topic.records >= records)
    });
}

fn until_nothing_is_parked(running: &Running) {
    until("parking to end", || running.parking.topics().is_empty());
}

/// All of `expected` is there, in order. The mock cluster shows what aborted transactions held too: so of
/// records that are there twice the last ones count.
fn assert_arrived(bench: &Bench, topic: &str, expected: impl Iterator<Item = u64>) {
    let mut last = BTreeMap::new();
    let whole = bench.read_whole(topic, PARTITIONS);
    for (place, got) in whole.into_iter().enumerate() {
        let number = got.value.trim_end_matches('x').parse::<u64>();
        last.insert(number.expect("a number"), (place, got));
    }
    let mut got: Vec<(usize, Got)> = last.into_values().collect();
    got.sort_by_key(|(place, _)| *place);
    let got: Vec<Got> = got.into_iter().map(|(_, got)| got).collect();
    assert_once_and_in_order(&got, expected);
}

fn assert_all(bench: &Bench, to: u64) {
    let half = |odd| (0..to).filter(move |number| number % 2 == odd);
    assert_arrived(bench, TOPIC, half(0));
    assert_arrived(bench, SIDE_TOPIC, half(1));
    assert!(bench.letters().is_empty(), "{:?}", bench.letters());
}

#[test]
fn records_of_a_refused_topic_wait_in_order_while_those_of_others_go_on() {
    for mode in MODES {
        for error in [UNKNOWN, FORBIDDEN] {
            let bench = Bench::new(mode);
            refuse(&bench, SIDE_TOPIC, error);
            append(&bench, 0, 1_000);
            let running = bench.start();
            bench.until_committed(1_000);
            assert_eq!(bench.delivered(), 500, "{mode} {error:?}");
            assert_eq!(running.parking.topics()[0].records, 500);
            assert_eq!(running.parking.held(), None);
            append(&bench, 1_000, 1_100);
            bench.until_committed(1_100);
            give_back(&bench);
            until_nothing_is_parked(&running);
            append(&bench, 1_100, 1_200);
            bench.until_committed(1_200);
            assert_all(&bench, 1_200);
            assert_eq!(bench.delivered_to(SIDE_TOPIC), 600);
            running.drain();
        }
    }
}

#[test]
fn a_parked_record_keeps_its_id_its_time_and_its_key() {
    for mode in MODES {
        let bench = Bench::new(mode);
        refuse(&bench, SIDE_TOPIC, FORBIDDEN);
        let before_ms = edge_gateway::clock::wall_ms();
        append(&bench, 0, 2);
        let after_ms = edge_gateway::clock::wall_ms();
        let running = bench.start();
        until_parked(&running, 1);
        give_back(&bench);
        until_nothing_is_parked(&running);
        let got = bench.read_topic(SIDE_TOPIC, PARTITIONS, 1).remove(0);
        assert_eq!(
            got.headers["ce_id"],
            format!("gw:{}:1", bench.log.identity())
        );
        assert_eq!(got.headers["ce_subject"], "side/1");
        assert_eq!(got.key, "side/1");
        let received_ms = got.timestamp_ms.expect("a timestamp");
        assert!((before_ms..=after_ms).contains(&received_ms), "{mode}");
        running.drain();
    }
}

#[test]
fn a_restart_goes_on_with_what_is_parked() {
    for mode in MODES {
        let bench = Bench::new(mode);
        refuse(&bench, SIDE_TOPIC, FORBIDDEN);
        append(&bench, 0, 600);
        let running = bench.start();
        until_parked(&running, 300);
        running.drain();
        let running = bench.start();
        assert_eq!(running.parking.topics()[0].records, 300, "{mode}");
        append(&bench, 600, 700);
        bench.until_committed(700);
        running.drain();
        give_back(&bench);
        let running = bench.start();
        append(&bench, 700, 800);
        until_nothing_is_parked(&running);
        bench.until_committed(800);
        assert_all(&bench, 800);
        running.drain();
        assert!(bench.start_and_look().is_empty());
    }
}

#[test]
fn parking_ends_though_records_of_the_topic_never_cease() {
    for mode in MODES {
        let bench = Bench::new(mode);
        refuse(&bench, SIDE_TOPIC, FORBIDDEN);
        append(&bench, 0, 1_000);
        let running = bench.start();
        until_parked(&running, 400);
        let (log, enough) = (bench.log.clone(), Arc::new(AtomicBool::new(false)));
        let enough_seen = Arc::clone(&enough);
        let sender = thread::spawn(move || {
            let mut number = 1_000;
            while !enough_seen.load(Ordering::Relaxed) {
                append_one(&log, number, number.to_string().as_bytes());
                number += 1;
                // A stream, rather than as fast as the disk goes.
                thread::sleep(Duration::from_micros(500));
            }
            number
        });
        give_back(&bench);
        until_nothing_is_parked(&running);
        enough.store(true, Ordering::Relaxed);
        let end = sender.join().expect("no panic");
        bench.until_committed(end);
        assert_all(&bench, end);
        running.drain();
    }
}

#[test]
fn a_full_budget_holds_the_forwarder_back_and_says_so_until_the_topic_answers() {
    for mode in MODES {
        let bench = Bench::with_parking(mode, "4 MiB");
        refuse(&bench, SIDE_TOPIC, FORBIDDEN);
        let payload = |number: u64| format!("{number}{}", "x".repeat(20_000)).into_bytes();
        let running = bench.start();
        for number in 0..500 {
            append_one(&bench.log, number, &payload(number));
        }
        until("the forwarder to be held back", || {
            running.parking.held().is_some()
        });
        let held = running.parking.held().expect("just seen");
        assert_eq!(held.topic, SIDE_TOPIC);
        assert!(held.why.contains("parking_bytes_max"), "{}", held.why);
        assert_eq!(bench.metrics.parking_held.get(), 1);
        assert!(bench.metrics.parking_bytes.get() <= 4 << 20);
        bench.until_committed(1);
        assert!(bench.log.committed() < Offset::new(500), "all was settled");
        give_back(&bench);
        bench.until_committed(500);
        until_nothing_is_parked(&running);
        assert_all(&bench, 500);
        assert_eq!(running.parking.held(), None);
        assert_eq!(bench.metrics.parking_held.get(), 0);
        running.drain();
    }
}

#[test]
fn a_refused_topics_records_become_dead_letters_only_where_the_configuration_says_so() {
    for mode in MODES {
        let bench = Bench::new(&format!("{mode}\ntopic_refused = \"dead_letter\""));
        refuse(&bench, SIDE_TOPIC, FORBIDDEN);
        append(&bench, 0, 20);
        let running = bench.start();
        until("dead letters", || bench.letters().len() >= 10);
        bench.until_committed(20);
        append(&bench, 20, 40);
        until("later ones too", || bench.letters().len() >= 20);
        give_back(&bench);
        append(&bench, 40, 60);
        until_nothing_is_parked(&running);
        bench.until_committed(60);
        let letters: Vec<u64> = bench
            .letters()
            .into_iter()
            .map(|(offset, _)| offset)
            .collect();
        let (aside, sent): (Vec<u64>, Vec<u64>) = (0..60)
            .filter(|number| number % 2 == 1)
            .partition(|number| *number < 40);
        assert_eq!(letters, aside, "{mode}");
        assert_arrived(&bench, SIDE_TOPIC, sent.into_iter());
        running.drain();
    }
}

/// The first refusal hits the batch that returns, or its first record; what passes alone is no dead
/// letter.
#[test]
fn a_parked_record_that_is_refused_for_itself_becomes_a_dead_letter_alone() {
    for mode in MODES {
        let bench = Bench::new(mode);
        refuse(&bench, SIDE_TOPIC, FORBIDDEN);
        append(&bench, 0, 200);
        let running = bench.start();
        until_parked(&running, 100);
        bench.until_committed(200);
        bench.cluster.request_errors(
            RDKafkaApiKey::Produce,
            &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE],
        );
        give_back(&bench);
        until_nothing_is_parked(&running);
        let letters = bench.letters();
        assert!(letters.len() <= 1, "{letters:?}");
        let expected =
            (0..200).filter(|n| n % 2 == 1 && letters.iter().all(|(aside, _)| aside != n));
        assert_arrived(&bench, SIDE_TOPIC, expected);
        running.drain();
    }
}

#[test]
fn a_topic_refused_again_on_its_return_loses_and_reorders_nothing() {
    for mode in MODES {
        let bench = Bench::new(mode);
        let running = bench.start();
        let mut number = 0;
        for error in [UNKNOWN, FORBIDDEN, FORBIDDEN] {
            refuse(&bench, SIDE_TOPIC, error);
            // Of whatever topic is sent to next: the other one answers when it is asked.
            let produce = RDKafkaApiKey::Produce;
            bench
                .cluster
                .request_errors(produce, &[FORBIDDEN, FORBIDDEN]);
            append(&bench, number, number + 400);
            number += 400;
            until_parked(&running, 1);
            bench.until_committed(number);
            give_back(&bench);
            append(&bench, number, number + 100);
            number += 100;
            until("some to be returned", || {
                let topics = running.parking.topics();
                topics.iter().all(|topic| topic.returning)
            });
        }
        give_back(&bench);
        until_nothing_is_parked(&running);
        bench.until_committed(number);
        assert_all(&bench, number);
        running.drain();
    }
}
