//! What recovery and reading must tell apart (I4), and what they must refuse.

use std::path::PathBuf;

use super::super::{OpenError, batch, segment, slots};
use super::sim_fs::SimFs;
use super::support::*;
use crate::record::Offset;

fn segment_path(base: u64) -> PathBuf {
    segment::path(dir(), Offset::new(base))
}

/// Bases of the segments there are, oldest first.
fn bases(fs: &SimFs) -> Vec<u64> {
    let mut bases: Vec<u64> = fs
        .names()
        .iter()
        .filter_map(|name| segment::base_of(name))
        .map(Offset::get)
        .collect();
    bases.sort_unstable();
    bases
}

/// A closed log of `records` records, one batch each.
fn log_of(records: u64) -> SimFs {
    let fs = SimFs::default();
    let opened = open(&fs);
    for number in 0..records {
        assert!(append_synced(&opened.log, number..number + 1));
    }
    fs
}

/// Where the batch of the record begins in its segment, found by the magic.
fn batch_position(content: &[u8], base: u64) -> usize {
    (0..content.len() - batch::HEADER_BYTES)
        .step_by(8)
        .find(|&at| {
            content[at..at + 4] == *b"EGLB"
                && content[at + 13] == 0
                && content[at + 32..at + 40] == base.to_le_bytes()
        })
        .expect("the batch")
}

#[test]
fn a_bad_batch_with_synced_ones_behind_it_is_a_hole_in_any_segment() {
    for record in [3, 40] {
        let fs = log_of(50);
        let base = *bases(&fs)
            .iter()
            .rfind(|&&base| base <= record)
            .expect("segment");
        fs.tamper(&segment_path(base), |content| {
            let at = batch_position(content, record);
            content[at + 70] ^= 0x40;
        });
        let opened = open(&fs);
        let content = read(&opened.log, Offset::ZERO);
        assert_eq!(content.holes.len(), 1, "{:?}", content.holes);
        assert_eq!(
            (content.holes[0].first, content.holes[0].last),
            (Offset::new(record), Offset::new(record))
        );
        assert_eq!(content.holes[0].reason, "corrupt");
        assert_eq!(content.offsets.len(), 49);
        assert!(append_synced(&opened.log, 50..52));
    }
}

#[test]
fn rot_in_the_very_last_synced_batch_is_a_hole_and_its_offset_is_not_reused() {
    let fs = log_of(5);
    fs.tamper(&segment_path(0), |content| {
        let at = batch_position(content, 4);
        content[at + 90] ^= 1;
    });
    let opened = open(&fs);
    assert_eq!(opened.recovery.holes.len(), 1);
    assert_eq!(opened.log.progress().synced, Offset::new(5), "not reused");
    assert!(append_synced(&opened.log, 5..8));
    let content = read(&opened.log, Offset::ZERO);
    assert_eq!(content.offsets, [0, 1, 2, 3, 5, 6, 7]);
    drop(opened);
    let opened = open(&fs);
    assert_eq!(
        read(&opened.log, Offset::ZERO).offsets,
        [0, 1, 2, 3, 5, 6, 7],
        "after a restart too"
    );
}

#[test]
fn a_torn_tail_is_cut_with_the_whole_batch_behind_it() {
    let fs = log_of(6);
    // As if the disk had kept only the later one of two unsynced batches: the slots and the
    // headers know of 4 synced records.
    let identity = open(&fs).log.identity();
    let identity = u64::from_str_radix(&identity, 16).expect("hex");
    let slot = slots::Slot {
        identity,
        open_counter: 2,
        committed: Offset::ZERO,
        synced: Offset::new(4),
    };
    fs.delete(&slots::path(dir()));
    let (mut file, _) = slots::Slots::open(&fs, dir()).expect("slots");
    file.write(&slot).expect("write");
    super::super::fs::Fs::sync_dir(&fs, dir()).expect("sync");
    fs.tamper(&segment_path(0), |content| {
        let last = batch_position(content, 5);
        content[last + 40..last + 48].copy_from_slice(&4_u64.to_le_bytes());
        let length =
            u32::from_le_bytes(content[last + 8..last + 12].try_into().expect("4")) as usize;
        let crc = crc32c::crc32c(&content[last + 8..last + batch::HEADER_BYTES + length]);
        content[last + 4..last + 8].copy_from_slice(&crc.to_le_bytes());
        let torn = batch_position(content, 4);
        content[torn + 85] ^= 1;
    });
    let opened = open(&fs);
    assert_eq!(opened.log.progress().synced, Offset::new(4));
    assert_eq!(opened.recovery.holes, Vec::new());
    assert!(opened.recovery.cut_bytes > 0);
    assert_eq!(opened.state, Digest::of(4));
    assert!(append_synced(&opened.log, 4..5));
    drop(opened);
    assert_holds(&open(&fs).log, 0, 5);
}

#[test]
fn a_lost_segment_is_a_hole() {
    let fs = log_of(60);
    let bases = bases(&fs);
    fs.delete(&segment_path(bases[1]));
    let opened = open(&fs);
    let content = read(&opened.log, Offset::ZERO);
    assert_eq!(content.holes.len(), 1);
    assert_eq!(content.holes[0].first, Offset::new(bases[1]));
    assert_eq!(content.holes[0].last, Offset::new(bases[2] - 1));
    drop(opened);
    fs.delete(&segment_path(bases[0]));
    let content = read(&open(&fs).log, Offset::ZERO);
    assert_eq!(content.holes[0].reason, "missing");
    assert_eq!(content.holes[0].last, Offset::new(bases[2] - 1));
}

#[test]
fn a_lost_newest_segment_leaves_its_offsets_unused() {
    let fs = log_of(60);
    let newest = *bases(&fs).last().expect("segments");
    fs.delete(&segment_path(newest));
    let opened = open(&fs);
    assert_eq!(opened.log.progress().synced, Offset::new(60));
    let content = read(&opened.log, Offset::ZERO);
    assert_eq!(content.holes.len(), 1);
    assert_eq!(content.offsets, (0..newest).collect::<Vec<_>>());
    assert!(append_synced(&opened.log, 60..61));
}

#[test]
fn all_segments_lost_leaves_the_offsets_unused() {
    let fs = log_of(60);
    for base in bases(&fs) {
        fs.delete(&segment_path(base));
    }
    let opened = open(&fs);
    assert!(append_synced(&opened.log, 60..61));
    let content = read(&opened.log, Offset::ZERO);
    assert_eq!(content.offsets, [60]);
    assert_eq!(content.holes[0].last, Offset::new(59));
}

#[test]
fn lost_slots_cost_nothing_but_the_newest_committed_offset() {
    let fs = log_of(20);
    let identity = open(&fs).log.identity();
    fs.delete(&slots::path(dir()));
    let opened = open(&fs);
    assert_eq!(opened.log.identity(), identity);
    assert_holds(&opened.log, 0, 20);
    assert_eq!(opened.state, Digest::of(20));
}

#[test]
fn a_zero_length_newest_segment_is_none() {
    let fs = log_of(20);
    fs.put(&segment_path(20), Vec::new());
    let opened = open(&fs);
    assert!(append_synced(&opened.log, 20..30));
    assert_holds(&opened.log, 0, 30);
}

#[test]
fn a_damaged_checkpoint_is_made_up_for_by_the_segment_before() {
    let fs = log_of(60);
    let newest = *bases(&fs).last().expect("segments");
    fs.tamper(&segment_path(newest), |content| {
        content[batch::HEADER_BYTES + 3] ^= 4
    });
    let opened = open(&fs);
    assert_eq!(opened.state, Digest::of(60));
    assert_holds(&opened.log, 0, 60);
}

#[test]
fn a_format_of_the_future_is_refused_and_nothing_is_touched() {
    let fs = log_of(20);
    let newest = *bases(&fs).last().expect("segments");
    let seal = |content: &mut Vec<u8>, version: u8| {
        content[12] = version;
        let length = u32::from_le_bytes(content[8..12].try_into().expect("4")) as usize;
        let crc = crc32c::crc32c(&content[8..batch::HEADER_BYTES + length]);
        content[4..8].copy_from_slice(&crc.to_le_bytes());
    };
    fs.tamper(&segment_path(newest), |content| seal(content, 2));
    assert!(matches!(
        try_open(&fs),
        Err(OpenError::NewerFormat {
            found: 2,
            supported: 1,
            ..
        })
    ));
    fs.tamper(&segment_path(newest), |content| seal(content, 1));
    assert_holds(&open(&fs).log, 0, 20);
}

#[test]
fn foreign_files_are_left_alone_and_named() {
    let fs = log_of(20);
    fs.put(&dir().join("notes.txt"), b"hello".to_vec());
    fs.put(&dir().join("42.seg"), b"hello".to_vec());
    let opened = open(&fs);
    let mut foreign = opened.recovery.foreign.clone();
    foreign.sort();
    assert_eq!(foreign, ["42.seg", "notes.txt"]);
    assert_holds(&opened.log, 0, 20);
}

#[test]
fn an_io_error_while_opening_is_no_corruption() {
    let fs = log_of(20);
    let before = fs.calls();
    drop(open(&fs));
    let calls = fs.calls() - before;
    for call in 0..calls {
        fs.fail_in(call, std::io::ErrorKind::Other);
        drop(try_open(&fs));
        fs.process_restart();
        assert_holds(&open(&fs).log, 0, 20);
    }
}
