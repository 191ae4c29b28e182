use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::super::fs::RealFs;
use super::super::{AppendError, CommitLog, Condition, HASTE_MAX, Options, SEGMENT_BYTES_MIN};
use super::sim_fs::SimFs;
use super::support::*;
use crate::record::{NewRecord, Offset, Origin, PayloadKind, SourceName, Stamp};

#[test]
fn records_are_read_back_in_order_across_segments_and_restarts() {
    let fs = SimFs::default();
    for round in 0..4 {
        let opened = open(&fs);
        assert!(append_synced(&opened.log, round * 20..round * 20 + 20));
        assert_holds(&opened.log, 0, round * 20 + 20);
        assert_eq!(
            opened.state,
            Digest::of(round * 20),
            "state of round {round}"
        );
    }
    assert!(
        fs.names()
            .iter()
            .filter(|name| name.ends_with(".seg"))
            .count()
            > 3
    );
}

#[test]
fn the_real_file_system_does_what_the_simulated_one_does() {
    let temp = tempfile::tempdir().expect("temp dir");
    let options = Options {
        dir: temp.path().join("log"),
        ..options()
    };
    for round in 0..3 {
        let opened = open_with(Arc::new(RealFs), options.clone(), Told::default()).expect("open");
        assert!(append_synced(&opened.log, round * 20..round * 20 + 20));
        opened.log.commit(Offset::new(round * 20 + 10));
        assert_holds(&opened.log, round * 20 + 10, round * 20 + 20);
    }
}

/// Of a log that commits nothing of its own accord.
fn patient() -> Options {
    Options {
        commit_interval: Duration::from_secs(3600),
        // So large that nothing is enough for a commit of its own.
        segment_bytes: 1 << 20,
        bytes_max: 16 << 20,
        ..options()
    }
}

#[test]
fn a_hastened_commit_does_not_wait_out_the_interval() {
    let opened = open_with(Arc::new(SimFs::default()), patient(), Told::default()).expect("open");
    let log = &opened.log;
    // With nothing to commit it has no effect, on what comes later neither.
    log.hasten(Offset::ZERO);
    for number in 0..3 {
        assert!(append(log, number));
        let progress = log.wait(Offset::new(number), Duration::from_millis(1));
        assert_eq!(progress.synced, Offset::new(number), "it waits for others");
        log.hasten(Offset::new(number));
        assert!(log.wait(Offset::new(number), PATIENCE).synced > Offset::new(number));
    }
}

#[test]
fn the_end_of_one_burst_begins_the_commit_a_little_later_while_another_goes_on() {
    let opened = open_with(Arc::new(SimFs::default()), patient(), Told::default()).expect("open");
    let log = &opened.log;
    let begun = Instant::now();
    assert!(append(log, 0) && append(log, 1));
    log.hasten(Offset::ZERO);
    assert_eq!(log.wait(Offset::new(1), PATIENCE).synced, Offset::new(2));
    let passed = begun.elapsed();
    assert!(passed >= HASTE_MAX, "who appended last may not be through");
}

#[test]
fn the_last_ones_end_begins_the_commit_of_all_at_once() {
    let opened = open_with(Arc::new(SimFs::default()), patient(), Told::default()).expect("open");
    let log = &opened.log;
    assert!(append(log, 0) && append(log, 1));
    log.hasten(Offset::ZERO);
    log.hasten(Offset::new(1));
    let hastened = log.shared.lock().hastened;
    assert!(hastened.is_none_or(|due| due <= Instant::now()));
    assert_eq!(log.wait(Offset::new(1), PATIENCE).synced, Offset::new(2));
    // What is being written is no reason to hasten what has come since.
    assert!(append(log, 2));
    log.hasten(Offset::new(1));
    assert_eq!(log.shared.lock().hastened, None);
}

#[test]
fn a_long_commit_interval_does_not_keep_the_committed_offset_from_the_slots() {
    let options = Options {
        commit_interval: Duration::from_secs(3600),
        ..options()
    };
    let fs = SimFs::default();
    let opened = open_with(Arc::new(fs.clone()), options, Told::default()).expect("open");
    assert!(append(&opened.log, 0));
    opened.log.hasten(Offset::ZERO);
    let progress = opened.log.wait(Offset::ZERO, PATIENCE);
    assert_eq!(progress.synced, Offset::new(1));
    let syncs = fs.syncs();
    opened.log.commit(progress.synced);
    let give_up = Instant::now() + PATIENCE;
    while fs.syncs() == syncs {
        assert!(Instant::now() < give_up, "no slot was written");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_record_is_committed_by_itself_at_whatever_moment_it_comes() {
    let interval = Duration::from_millis(2);
    let options = Options {
        commit_interval: interval,
        ..options()
    };
    let opened = open_with(Arc::new(SimFs::default()), options, Told::default()).expect("open");
    for number in 0..200 {
        assert!(append(&opened.log, number));
        let progress = opened.log.wait(Offset::new(number), PATIENCE);
        assert!(progress.synced > Offset::new(number));
        opened.log.commit(progress.synced);
        // From right behind the commit to long after it.
        std::thread::sleep(interval * (number % 8) as u32 / 4);
    }
}

#[test]
fn a_log_in_use_is_refused_and_its_owner_named() {
    let temp = tempfile::tempdir().expect("temp dir");
    let options = Options {
        dir: temp.path().join("log"),
        ..options()
    };
    let _first = open_with(Arc::new(RealFs), options.clone(), Told::default()).expect("open");
    let second = open_with(Arc::new(RealFs), options, Told::default());
    let message = second.expect_err("in use").to_string();
    assert!(message.ends_with("is in use by test"), "{message}");
}

#[test]
fn the_committed_offset_survives_a_restart_and_never_goes_back() {
    let fs = SimFs::default();
    let opened = open(&fs);
    assert!(append_synced(&opened.log, 0..9));
    opened.log.commit(Offset::new(7));
    opened.log.commit(Offset::new(3));
    assert_eq!(opened.log.committed(), Offset::new(7));
    opened.log.commit(Offset::new(500));
    assert_eq!(
        opened.log.committed(),
        Offset::new(9),
        "not past what is synced"
    );
    drop(opened);
    assert_eq!(open(&fs).log.committed(), Offset::new(9));
}

/// I7
#[test]
fn a_new_identity_is_durable_and_the_records_stay() {
    let fs = SimFs::default();
    let opened = open(&fs);
    assert!(append_synced(&opened.log, 0..30));
    let old = opened.log.identity();
    assert!(opened.log.renew_identity());
    let new = opened.log.identity();
    assert_ne!(new, old);
    // What was synced by now is what a power cut leaves.
    fs.power_off_in(1);
    drop(opened);
    fs.power_cycle(7);
    let reopened = open(&fs);
    assert_eq!(reopened.log.identity(), new);
    assert!(append_synced(&reopened.log, 30..60));
    assert_holds(&reopened.log, 0, 60);
}

#[test]
fn a_log_on_a_full_disk_gets_a_new_identity_all_the_same() {
    let fs = SimFs::default();
    let opened = open(&fs);
    assert!(append_synced(&opened.log, 0..5));
    fs.set_full(true);
    let mut number = 5;
    while opened.log.progress().condition != Condition::Full {
        if append(&opened.log, number) {
            number += 1;
        } else {
            let wait = std::time::Duration::from_millis(5);
            let _ = opened.log.wait(opened.log.progress().synced, wait);
        }
    }
    assert!(opened.log.renew_identity());
}

#[test]
fn an_empty_log_uses_at_most_two_segments_and_keeps_its_offsets_and_state() {
    let fs = SimFs::default();
    let opened = open(&fs);
    assert!(append_synced(&opened.log, 0..100));
    opened.log.commit(Offset::new(100));
    opened.log.close();
    let stats = opened.log.stats();
    assert_eq!(stats.segments, 1);
    assert!(
        stats.disk_bytes <= 2 * SEGMENT_BYTES_MIN + 8192,
        "{stats:?}"
    );
    drop(opened);
    let opened = open(&fs);
    assert_eq!(opened.log.progress().synced, Offset::new(100));
    assert_eq!(opened.state, Digest::of(100));
    assert!(append_synced(&opened.log, 100..110));
    assert_holds(&opened.log, 100, 110);
}

#[test]
fn delivered_segments_that_come_back_in_a_power_cut_are_removed_again() {
    let mut came_back = 0;
    for seed in 0..8 {
        let fs = SimFs::default();
        let opened = open(&fs);
        assert!(append_synced(&opened.log, 0..40));
        opened.log.commit(Offset::new(40));
        eventually("they go", || opened.log.stats().segments == 1);
        let names = fs.names().len();
        fs.power_off_in(0);
        drop(opened);
        fs.power_cycle(seed);
        came_back += fs.names().len() - names;
        let opened = open(&fs);
        assert_eq!(opened.recovery.findings, [], "seed {seed}: nothing is lost");
        assert_eq!(opened.log.committed(), Offset::new(40));
        eventually("they go", || opened.log.stats().segments == 1);
        assert!(append_synced(&opened.log, 40..44));
        assert_holds(&opened.log, 40, 44);
    }
    assert!(came_back > 0, "a removal rests on no sync of its own");
}

#[test]
fn a_steady_stream_costs_one_sync_a_commit() {
    let fs = SimFs::default();
    let told = Told::default();
    let opened = open_with(Arc::new(fs.clone()), options(), told.clone()).expect("open");
    assert!(append_synced(&opened.log, 0..100));
    opened.log.commit(Offset::new(90));
    let (syncs, commits) = (fs.syncs(), told.commits.load(Ordering::SeqCst));
    let mut number = 100;
    // The payloads are 1.5 KiB on average: 8 of them stay within a segment of 16 KiB now and then.
    while told.commits.load(Ordering::SeqCst) < commits + 400 {
        assert!(append_synced(&opened.log, number..number + 1));
        number += 1;
        opened.log.commit(Offset::new(number));
    }
    let syncs = fs.syncs() - syncs;
    let commits = told.commits.load(Ordering::SeqCst) - commits;
    // A segment's turn costs two more: its checkpoint, and the slot before the old one goes.
    let turns = number.div_ceil(8);
    assert!(
        syncs <= commits + 2 * turns,
        "{syncs} syncs for {commits} commits"
    );
}

#[test]
fn a_full_budget_blocks_and_goes_on_when_records_are_delivered() {
    let fs = SimFs::default();
    let opened = open(&fs);
    let mut number = 0;
    while opened.log.progress().condition != Condition::Full {
        if !append(&opened.log, number) {
            let _ = opened.log.wait(
                opened.log.progress().synced,
                std::time::Duration::from_millis(5),
            );
        } else {
            number += 1;
        }
    }
    let synced = opened.log.progress().synced;
    assert!(synced < Offset::new(number), "something waits, unsynced");
    let stats = opened.log.stats();
    assert!(stats.disk_bytes <= options().bytes_max, "{stats:?}");
    assert_holds(&opened.log, 0, synced.get());
    opened.log.commit(synced);
    assert!(append_synced(&opened.log, number..number + 5), "runs again");
    assert_holds(&opened.log, synced.get(), number + 5);
}

#[test]
fn a_full_disk_blocks_drains_and_goes_on_when_space_returns() {
    let fs = SimFs::default();
    let opened = open(&fs);
    assert!(append_synced(&opened.log, 0..10));
    fs.set_full(true);
    let mut number = 10;
    while opened.log.progress().condition != Condition::Full {
        if !append(&opened.log, number) {
            let _ = opened.log.wait(
                opened.log.progress().synced,
                std::time::Duration::from_millis(5),
            );
        } else {
            number += 1;
        }
    }
    let synced = opened.log.progress().synced.get();
    assert_holds(&opened.log, 0, synced);
    fs.set_full(false);
    assert!(
        append_synced(&opened.log, number..number + 5),
        "runs again, without a restart"
    );
    assert_holds(&opened.log, 0, number + 5);
}

#[test]
fn a_full_disk_does_not_stop_the_start_or_the_drain() {
    let fs = SimFs::default();
    let opened = open(&fs);
    assert!(append_synced(&opened.log, 0..100));
    drop(opened);
    fs.set_full(true);
    let opened = open(&fs);
    assert_holds(&opened.log, 0, 100);
    let before = opened.log.stats().segments;
    opened.log.commit(Offset::new(100));
    // A delivered segment is reused, so that there is room again on a disk that has none.
    assert!(append_synced(&opened.log, 100..104));
    assert!(opened.log.stats().segments < before);
}

#[test]
fn drop_oldest_makes_room_counts_the_dropped_and_leaves_a_hole() {
    let fs = SimFs::default();
    let told = Told::default();
    let options = Options {
        drop_oldest: true,
        ..options()
    };
    let opened = open_with(Arc::new(fs), options.clone(), told.clone()).expect("open");
    assert!(append_synced(&opened.log, 0..400));
    let dropped = told.dropped.load(Ordering::SeqCst);
    assert!(dropped > 0);
    let content = read(&opened.log, Offset::ZERO);
    assert_eq!(content.holes.len(), 1);
    assert_eq!(content.holes[0].reason, "buffer_full");
    assert_eq!(
        content.holes[0].last,
        Offset::new(dropped - 1),
        "as many as were counted"
    );
    assert_eq!(content.offsets, (dropped..400).collect::<Vec<_>>());
    assert!(opened.log.stats().disk_bytes <= options.bytes_max);
}

#[test]
fn a_failed_sync_poisons_and_nothing_is_taken_any_more() {
    let fs = SimFs::default();
    let opened = open(&fs);
    assert!(append_synced(&opened.log, 0..3));
    fs.fail_next_sync();
    assert!(!append_synced(&opened.log, 3..4));
    let progress = opened.log.wait(Offset::new(3), PATIENCE);
    assert_eq!(progress.condition, Condition::Poisoned);
    assert_eq!(
        progress.synced,
        Offset::new(3),
        "what failed to sync is not durable"
    );
    assert!(!append(&opened.log, 4));
    assert!(opened.log.failure().is_some());
    drop(opened);
    fs.process_restart();
    let opened = open(&fs);
    // The batch is whole in the cache; it counts only because recovery wrote and synced it again.
    assert_eq!(opened.log.progress().synced, Offset::new(4));
    drop(opened);
    fs.power_cycle(0);
    assert_holds(&open(&fs).log, 0, 4);
}

#[test]
fn a_record_larger_than_half_a_segment_is_refused() {
    let fs = SimFs::default();
    let opened = open(&fs);
    let source = SourceName::new("press").expect("valid");
    let record = NewRecord {
        source: &source,
        subject: "press/1",
        kind: PayloadKind::Opaque,
        origin: Origin::Line,
        received: Stamp::default(),
        payload: &vec![0; SEGMENT_BYTES_MIN as usize / 2],
    };
    assert!(matches!(
        opened.log.append(&record),
        Err(AppendError::TooLarge { .. })
    ));
    let largest = NewRecord {
        payload: &record.payload[128..],
        ..record
    };
    assert_eq!(opened.log.append(&largest), Ok(Offset::ZERO));
    assert_eq!(
        opened.log.wait(Offset::ZERO, PATIENCE).synced,
        Offset::new(1)
    );
}

#[test]
fn many_threads_append_while_one_reads_and_delivers() {
    let fs = SimFs::default();
    let log: CommitLog = open(&fs).log;
    let mut appended = 0;
    let total = 2000;
    let reader = std::thread::spawn({
        let log = log.clone();
        move || {
            let mut cursor = log.cursor(Offset::ZERO);
            let mut next = 0;
            while next < total {
                let _ = log.wait(Offset::new(next), PATIENCE);
                while let Some(super::super::Item::Batch(batch)) = cursor.next().expect("read") {
                    for record in batch.records() {
                        assert_eq!(record.offset.get(), next);
                        assert_eq!(record.payload, payload(next));
                        next += 1;
                    }
                }
                log.commit(Offset::new(next));
            }
        }
    });
    while appended < total {
        if append(&log, appended) {
            appended += 1;
        } else {
            let _ = log.wait(log.progress().synced, PATIENCE);
        }
    }
    reader.join().expect("reader");
    assert_eq!(log.committed(), Offset::new(total));
}
