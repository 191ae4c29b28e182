//! Damaged files that are kept aside, against the budget: they count, are few, and are the first to go.

use super::super::{CommitLog, Condition, Options, SEGMENT_BYTES_MIN};
use super::sim_fs::SimFs;
use super::support::*;
use super::surgery::*;
use crate::record::Offset;

/// How many damaged files there are.
fn kept(fs: &SimFs) -> usize {
    let names = fs.names();
    names
        .iter()
        .filter(|name| name.ends_with(".damaged"))
        .count()
}

fn disk_bytes(fs: &SimFs) -> u64 {
    fs.snapshot()
        .values()
        .map(|content| content.len() as u64)
        .sum()
}

/// A log of 120 delivered records, with damage in six segments that were kept aside as far as may be.
fn log_with_damaged_files() -> (SimFs, CommitLog) {
    let fs = log_of(120);
    for base in &bases(&fs)[..6] {
        fs.tamper(&segment_path(*base), |content| {
            let at = batch_position(content, base + 1);
            content[at + 88] ^= 1;
        });
    }
    let opened = open(&fs);
    assert_eq!(losses(&told_by_reading(&opened.log)).len(), 6);
    opened.log.commit(Offset::new(120));
    assert!(append_synced(&opened.log, 120..124));
    assert_eq!(kept(&fs), 4, "bounded");
    (fs, opened.log)
}

/// Appends one record after another until no damaged file is left; returns the next number.
fn append_until_they_are_gone(fs: &SimFs, log: &CommitLog, mut number: u64) -> u64 {
    while kept(fs) > 0 {
        assert!(number < 1000, "they give way");
        assert!(append_synced(log, number..number + 1));
        number += 1;
    }
    number
}

#[test]
fn damaged_files_count_and_give_way_to_records_before_anything_waits() {
    let (fs, log) = log_with_damaged_files();
    assert_eq!(log.stats().disk_bytes, disk_bytes(&fs), "they count");
    let number = append_until_they_are_gone(&fs, &log, 124);
    assert_eq!(log.progress().condition, Condition::Running);
    let stats = log.stats();
    assert_eq!(stats.disk_bytes, disk_bytes(&fs));
    assert!(stats.disk_bytes <= options().bytes_max, "{stats:?}");
    assert_holds(&log, 120, number);
}

#[test]
fn damaged_files_go_before_a_record_is_dropped() {
    let (fs, log) = log_with_damaged_files();
    drop(log);
    let dropping = Options {
        drop_oldest: true,
        ..options()
    };
    let (opened, told) = open_sim(&fs, dropping);
    let number = append_until_they_are_gone(&fs, &opened.log, 124);
    assert_eq!(told.dropped.load(std::sync::atomic::Ordering::SeqCst), 0);
    assert_holds(&opened.log, 120, number);
}

#[test]
fn damaged_files_beyond_a_budget_that_was_made_smaller_are_gone_when_the_log_is_open() {
    let (fs, log) = log_with_damaged_files();
    drop(log);
    let small = Options {
        bytes_max: 5 * SEGMENT_BYTES_MIN,
        ..options()
    };
    assert!(disk_bytes(&fs) > small.bytes_max);
    let (opened, _) = open_sim(&fs, small.clone());
    assert!((1..4).contains(&kept(&fs)), "no more go than must");
    assert_eq!(opened.log.stats().disk_bytes, disk_bytes(&fs));
    assert!(disk_bytes(&fs) <= small.bytes_max);
    for number in 124..200 {
        assert!(append_synced(&opened.log, number..number + 1));
        opened.log.commit(Offset::new(number + 1));
        assert!(opened.log.stats().disk_bytes <= small.bytes_max);
    }
}

#[test]
fn damaged_files_go_when_others_have_filled_the_disk() {
    let (fs, log) = log_with_damaged_files();
    fs.set_full(true);
    let mut number = 124;
    while kept(&fs) > 0 {
        assert!(append(&log, number), "what is in hand is taken");
        number += 1;
        eventually(
            "it is synced, or waits with nothing left to give up",
            || log.progress().synced == Offset::new(number) || kept(&fs) == 0,
        );
    }
    fs.space_returns();
    assert!(append_synced(&log, number..number + 1));
    assert_holds(&log, 120, number + 1);
}
