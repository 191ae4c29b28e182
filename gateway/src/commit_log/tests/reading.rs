//! What a reader must tell apart in segments that are no longer written.

use super::super::{Compression, Item, Options, Outcome, SEGMENT_BYTES_MIN, batch};
use super::sim_fs::SimFs;
use super::support::*;
use super::surgery::*;
use crate::record::{Offset, RecordView};

/// A log of 60 records in Zstandard, one batch each.
fn packed_log() -> (SimFs, Options) {
    let fs = SimFs::default();
    let options = Options {
        compression: Compression::Zstd,
        ..options()
    };
    let (opened, _) = open_sim(&fs, options.clone());
    for number in 0..60 {
        assert!(append_synced(&opened.log, number..number + 1));
    }
    (fs, options)
}

#[test]
fn a_batch_that_cannot_be_unpacked_is_a_hole_in_any_segment_and_named() {
    let (fs, options) = packed_log();
    let all = bases(&fs);
    let newest = *all.last().expect("segments");
    assert!(newest > 4);
    for record in [3, newest + 1] {
        let base = *all.iter().rfind(|&&base| base <= record).expect("segment");
        let whole = fs.content(&segment_path(base));
        fs.tamper(&segment_path(base), |content| {
            let at = batch_position(content, record);
            assert_ne!(content[at + 14], 0, "packed");
            content[at + 80..at + 84].fill(0);
            seal(content, at);
        });
        let (opened, _) = open_sim(&fs, options.clone());
        let content = read(&opened.log, Offset::ZERO);
        assert_eq!(content.offsets.len(), 59);
        assert_eq!(content.holes.len(), 1, "{:?}", content.holes);
        assert_eq!(content.holes[0].reason, "corrupt");
        let findings = all_findings(&opened);
        let expected = (Outcome::UndecodableBatch, record, record);
        assert_eq!(losses(&findings), [expected]);
        drop(opened);
        fs.put(&segment_path(base), whole);
    }
}

#[test]
fn of_a_batch_whose_entries_cannot_all_be_read_the_first_are_and_the_others_are_a_hole() {
    let fs = SimFs::default();
    let large = Options {
        segment_bytes: 4 * SEGMENT_BYTES_MIN,
        ..options()
    };
    let patient = Options {
        commit_interval: PATIENCE,
        ..large.clone()
    };
    let (opened, _) = open_sim(&fs, patient);
    for number in 0..2 {
        assert!(append(&opened.log, number));
    }
    drop(opened);
    fs.tamper(&segment_path(0), |content| {
        let at = batch_position(content, 0);
        assert_eq!(content[at + 28], 2, "one batch");
        // A length that leads nowhere, in place of that of the second entry.
        let second = at + batch::HEADER_BYTES + 1 + usize::from(content[at + batch::HEADER_BYTES]);
        content[second] |= 0x80;
        content[second + 1] = 0x7f;
        seal(content, at);
    });
    let (opened, _) = open_sim(&fs, large);
    let content = read(&opened.log, Offset::ZERO);
    assert_eq!(content.offsets, [0]);
    let holes: Vec<_> = content
        .holes
        .iter()
        .map(|hole| (hole.first, hole.last))
        .collect();
    assert_eq!(holes, [(Offset::new(1), Offset::new(1))]);
    let findings = all_findings(&opened);
    assert_eq!(losses(&findings), [(Outcome::UndecodableBatch, 1, 1)]);
    assert!(append_synced(&opened.log, 2..4));
    assert_eq!(read(&opened.log, Offset::ZERO).offsets, [0, 2, 3]);
}

#[test]
fn remains_of_a_cut_tail_do_not_take_the_place_of_a_corrupt_record() {
    let fs = log_of(60);
    assert_eq!(bases(&fs)[1], 10, "the segment is sealed");
    fs.tamper(&segment_path(0), |content| {
        for record in 0..9 {
            let at = batch_position(content, record);
            content[at + 24] = 9;
            seal(content, at);
        }
        // The last one, of a lower counter, a little behind the place of the one that is lost.
        let last = batch_position(content, 9);
        let end = content.len() - 8;
        content.copy_within(last..end, last + 8);
        content[last..last + 8].fill(0);
    });
    let opened = open(&fs);
    let content = read(&opened.log, Offset::ZERO);
    let expected: Vec<u64> = (0..60).filter(|&record| record != 9).collect();
    assert_eq!(content.offsets, expected);
    let lost: Vec<_> = content
        .holes
        .iter()
        .map(|hole| (hole.first, hole.last))
        .collect();
    assert_eq!(lost, [(Offset::new(9), Offset::new(9))]);
}

#[test]
fn what_two_segments_hold_counts_as_the_newer_one_has_it() {
    let fs = SimFs::default();
    let large = Options {
        segment_bytes: 4 * SEGMENT_BYTES_MIN,
        ..options()
    };
    let patient = Options {
        commit_interval: PATIENCE,
        ..large.clone()
    };
    let (opened, _) = open_sim(&fs, patient);
    for number in 0..2 {
        assert!(append(&opened.log, number));
    }
    drop(opened);
    // The same two records as 1 and 2.
    let mut newer = fs.content(&segment_path(0));
    let at = batch_position(&newer, 0);
    for batch in [0, at] {
        newer[batch + 32] = 1;
        newer[batch + 40] = 1;
        seal(&mut newer, batch);
    }
    fs.put(&segment_path(1), newer);
    let (opened, _) = open_sim(&fs, large);
    let mut read = Vec::new();
    let mut cursor = opened.log.cursor(Offset::ZERO);
    while let Some(Item::Batch(batch)) = cursor.next().expect("read") {
        let record = |record: RecordView<'_>| (record.offset.get(), record.payload.len());
        read.extend(batch.records().map(record));
    }
    let (first, second) = (payload(0).len(), payload(1).len());
    assert_eq!(read, [(0, first), (1, first), (2, second)]);
    let told = told_by_reading(&opened.log);
    let outcomes: Vec<_> = told.iter().map(|finding| finding.outcome).collect();
    assert_eq!(outcomes, [Outcome::OverlappingSegments]);
}

#[test]
fn a_batch_that_reaches_into_the_next_segment_counts_up_to_there() {
    let fs = log_of(60);
    assert_eq!(bases(&fs)[1], 10);
    fs.tamper(&segment_path(0), |content| {
        let at = batch_position(content, 9);
        content[at + 28] = 3;
        seal(content, at);
    });
    let opened = open(&fs);
    assert_holds(&opened.log, 0, 60);
    let told = told_by_reading(&opened.log);
    let outcomes: Vec<_> = told.iter().map(|finding| finding.outcome).collect();
    assert_eq!(outcomes, [Outcome::OverlappingSegments]);
}
