//! What recovery and reading must tell apart (I4), and what they must refuse.

use super::super::{Outcome, SEGMENT_BYTES_MIN, batch, slots};
use super::sim_fs::SimFs;
use super::support::*;
use super::surgery::*;
use crate::record::Offset;

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
        let findings = all_findings(&opened);
        assert_eq!(losses(&findings), [(Outcome::CorruptBatch, record, record)]);
        assert!(
            findings
                .iter()
                .any(|finding| finding.path == segment_path(base)
                    && finding.position.is_some_and(|at| at > 0))
        );
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
    assert_eq!(
        losses(&all_findings(&opened)),
        [(Outcome::CorruptEnd, 4, 4)]
    );
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
    slots_say(&fs, 0, 4);
    let torn = batch_position(&fs.content(&segment_path(0)), 4);
    fs.tamper(&segment_path(0), |content| {
        let last = batch_position(content, 5);
        content[last + 40..last + 48].copy_from_slice(&4_u64.to_le_bytes());
        seal(content, last);
        let torn = batch_position(content, 4);
        content[torn + 85] ^= 1;
    });
    let opened = open(&fs);
    assert_eq!(opened.log.progress().synced, Offset::new(4));
    assert_eq!(opened.recovery.holes, Vec::new());
    assert!(opened.recovery.cut_bytes > 0);
    assert_eq!(opened.state, Digest::of(4));
    assert!(found(&opened, Outcome::TornTail));
    assert_eq!(losses(&opened.recovery.findings), [], "never acknowledged");
    let behind = fs.content(&segment_path(0)).split_off(torn);
    assert!(
        behind.iter().all(|byte| *byte == 0),
        "zeroed, with all behind it"
    );
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
    let lost = (Outcome::MissingSegment, bases[1], bases[2] - 1);
    assert_eq!(losses(&all_findings(&opened)), [lost]);
    let content = read(&opened.log, Offset::ZERO);
    assert_eq!(content.holes.len(), 1);
    assert_eq!(content.holes[0].first, Offset::new(bases[1]));
    assert_eq!(content.holes[0].last, Offset::new(bases[2] - 1));
    drop(opened);
    fs.delete(&segment_path(bases[0]));
    let opened = open(&fs);
    let lost = (Outcome::CommittedBeforeStart, 0, bases[2] - 1);
    assert_eq!(losses(&all_findings(&opened)), [lost]);
    let content = read(&opened.log, Offset::ZERO);
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
    assert_eq!(
        losses(&all_findings(&opened)),
        [(Outcome::MissingSegment, newest, 59)]
    );
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
    assert_eq!(
        losses(&all_findings(&opened)),
        [(Outcome::MissingSegment, 0, 59)]
    );
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
    assert!(found(&opened, Outcome::SlotsLost));
    assert_holds(&opened.log, 0, 20);
    assert_eq!(opened.state, Digest::of(20));
}

#[test]
fn a_zero_length_newest_segment_is_none() {
    let fs = log_of(20);
    fs.put(&segment_path(20), Vec::new());
    let opened = open(&fs);
    assert!(found(&opened, Outcome::BegunSegment));
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
    assert!(found(&opened, Outcome::CheckpointDamaged));
    assert_holds(&opened.log, 0, 60);
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
    assert!(found(&opened, Outcome::ForeignFile));
    assert_holds(&opened.log, 0, 20);
}

#[test]
fn an_io_error_while_opening_is_no_corruption_and_is_told() {
    let fs = log_of(20);
    let before = fs.calls();
    drop(open(&fs));
    let calls = fs.calls() - before;
    for call in 0..calls {
        fs.fail_in(call, std::io::ErrorKind::Other);
        let failing = fs.calls() + call;
        if let Ok(opened) = try_open(&fs) {
            opened.log.close();
            let told = opened.log.failure().is_some();
            assert!(told || fs.calls() <= failing, "call {call} was passed over");
        }
        fs.process_restart();
        assert_holds(&open(&fs).log, 0, 20);
    }
}

#[test]
fn the_earlier_life_of_a_reused_segment_is_not_read() {
    let fs = SimFs::default();
    let mut number = 0;
    let mut seen = 0;
    while seen < 3 {
        let opened = open(&fs);
        seen += u64::from(found(&opened, Outcome::EarlierLife));
        assert_eq!(opened.log.progress().synced, Offset::new(number));
        assert!(append_synced(&opened.log, number..number + 4));
        assert_holds(&opened.log, number, number + 4);
        number += 4;
        opened.log.commit(Offset::new(number));
        assert!(number < 400, "segments are reused");
    }
}

#[test]
fn remains_of_a_tail_that_was_cut_before_are_not_read() {
    let fs = log_of(6);
    slots_say(&fs, 0, 5);
    fs.tamper(&segment_path(0), |content| {
        // Written after the tail was cut, behind which the remains lie.
        let at = batch_position(content, 4);
        content[at + 24] = 9;
        seal(content, at);
        let remains = batch_position(content, 5);
        content[remains + 40..remains + 48].copy_from_slice(&4_u64.to_le_bytes());
        seal(content, remains);
    });
    let opened = open(&fs);
    assert!(found(&opened, Outcome::CutRemains));
    assert_holds(&opened.log, 0, 5);
    assert!(append_synced(&opened.log, 5..9));
    drop(opened);
    assert_holds(&open(&fs).log, 0, 9);
}

#[test]
fn a_torn_last_batch_is_cut_and_named() {
    let fs = log_of(6);
    slots_say(&fs, 0, 5);
    fs.tamper(&segment_path(0), |content| {
        let at = batch_position(content, 5);
        content[at + 85] ^= 1;
    });
    let opened = open(&fs);
    assert!(found(&opened, Outcome::TornTail));
    assert!(opened.recovery.cut_bytes > 0);
    assert_eq!(losses(&all_findings(&opened)), []);
    assert_holds(&opened.log, 0, 5);
}

#[test]
fn a_whole_tail_that_may_be_in_memory_only_is_made_durable_and_named() {
    let fs = log_of(6);
    slots_say(&fs, 0, 4);
    let opened = open(&fs);
    assert!(found(&opened, Outcome::TailMadeDurable));
    assert_holds(&opened.log, 0, 6);
}

#[test]
fn a_damaged_checkpoint_is_no_torn_tail() {
    let fs = log_of(60);
    let newest = *bases(&fs).last().expect("segments");
    // Nothing but the first batch behind the checkpoint, and nobody knows that it was synced.
    fs.tamper(&segment_path(newest), |content| {
        content[batch::HEADER_BYTES + 3] ^= 4;
        let second = batch_position(content, newest + 1);
        content[second..].fill(0);
    });
    slots_say(&fs, 0, newest);
    let opened = open(&fs);
    assert_eq!(opened.log.progress().synced, Offset::new(newest + 1));
    assert_eq!(opened.state, Digest::of(newest + 1));
}

#[test]
fn a_begun_segment_tells_that_all_before_it_was_synced() {
    let fs = log_of(5);
    slots_say(&fs, 0, 3);
    fs.put(&segment_path(5), Vec::new());
    fs.tamper(&segment_path(0), |content| {
        let at = batch_position(content, 4);
        content[at + 90] ^= 1;
    });
    let opened = open(&fs);
    assert_eq!(
        losses(&all_findings(&opened)),
        [(Outcome::CorruptEnd, 4, 4)]
    );
    assert!(append_synced(&opened.log, 5..7));
}

#[test]
fn a_zero_length_segment_is_a_hole_in_the_middle_and_at_the_end() {
    let fs = log_of(60);
    let all = bases(&fs);
    let newest = *all.last().expect("segments");
    fs.tamper(&segment_path(all[1]), Vec::clear);
    fs.tamper(&segment_path(newest), Vec::clear);
    let opened = open(&fs);
    let middle = (Outcome::ZeroLengthSegment, all[1], all[2] - 1);
    let end = (Outcome::ZeroLengthSegment, newest, 59);
    assert_eq!(losses(&all_findings(&opened)), [middle, end]);
    assert!(append_synced(&opened.log, 60..62));
    let content = read(&opened.log, Offset::ZERO);
    assert_eq!(content.holes.len(), 2);
}

#[test]
fn an_unreadable_segment_is_kept_aside_under_a_name_of_its_own() {
    let fs = log_of(60);
    let newest = *bases(&fs).last().expect("segments");
    let taken = format!("{newest:020}.damaged");
    fs.put(&dir().join(&taken), b"earlier".to_vec());
    fs.tamper(&segment_path(newest), |content| content.fill(0xaa));
    let opened = open(&fs);
    let lost = (Outcome::UnreadableSegment, newest, 59);
    assert_eq!(losses(&all_findings(&opened)), [lost]);
    assert_eq!(fs.content(&dir().join(taken)), b"earlier");
    let aside = fs.content(&dir().join(format!("{newest:020}.2.damaged")));
    assert!(aside.iter().all(|byte| *byte == 0xaa));
    assert!(append_synced(&opened.log, 60..62));
    let disk: usize = fs.snapshot().values().map(Vec::len).sum();
    assert_eq!(opened.log.stats().disk_bytes, disk as u64, "it counts");
}

#[test]
fn a_copy_of_a_segment_under_another_name_is_set_aside() {
    for name in [1, 1000] {
        let fs = log_of(60);
        let copy = fs.content(&segment_path(0));
        fs.put(&segment_path(name), copy.clone());
        let opened = open(&fs);
        assert!(found(&opened, Outcome::DuplicateSegment));
        assert_holds(&opened.log, 0, 60);
        assert_eq!(
            fs.content(&segment_path(name).with_extension("damaged")),
            copy
        );
        assert!(append_synced(&opened.log, 60..62));
    }
}

#[test]
fn an_offset_that_two_segments_claim_is_read_once_and_told() {
    let fs = log_of(4);
    let fork = fs.copy();
    let opened = open(&fs);
    for number in 4..80 {
        assert!(append_synced(&opened.log, number..number + 1));
    }
    drop(opened);
    // The other one goes on with larger segments, so they begin elsewhere.
    let larger = super::super::Options {
        segment_bytes: 2 * SEGMENT_BYTES_MIN,
        ..options()
    };
    let opened = open_with(std::sync::Arc::new(fork.clone()), larger, Told::default());
    assert!(append_synced(&opened.expect("open").log, 4..80));
    let (ours, theirs) = (bases(&fs), bases(&fork));
    let mut inner = theirs[1..theirs.len() - 1].iter();
    let base = *inner
        .rfind(|base| !ours.contains(base))
        .expect("the fork's segments begin elsewhere");
    fs.put(&segment_path(base), fork.content(&segment_path(base)));
    let opened = open(&fs);
    assert_holds(&opened.log, 0, 80);
    let told = told_by_reading(&opened.log);
    assert!(!told.is_empty());
    assert!(
        told.iter()
            .all(|finding| finding.outcome == Outcome::OverlappingSegments)
    );
}

#[test]
fn a_segment_of_another_log_is_set_aside_and_never_removed() {
    let other = log_of(30);
    for name in [1, 70] {
        let fs = log_of(60);
        let content = other.content(&segment_path(0));
        fs.put(&segment_path(name), content.clone());
        let opened = open(&fs);
        assert!(found(&opened, Outcome::ForeignSegment));
        assert_holds(&opened.log, 0, 60);
        assert!(
            append_synced(&opened.log, 60..80),
            "its name is in nobody's way"
        );
        assert_eq!(
            fs.content(&segment_path(name).with_extension("foreign")),
            content
        );
    }
}

#[test]
fn slots_of_another_log_do_not_hide_the_segments() {
    let fs = log_of(60);
    let identity = identity(&fs);
    let other = log_of(5);
    fs.put(&slots::path(dir()), other.content(&slots::path(dir())));
    let opened = open(&fs);
    assert!(found(&opened, Outcome::ForeignSlots));
    assert_eq!(opened.log.identity(), format!("{identity:016x}"));
    assert_holds(&opened.log, 0, 60);
}

#[test]
fn a_log_that_ends_below_what_was_delivered_loses_nothing_and_reuses_no_offset() {
    let fs = log_of(30);
    let old = fs.copy();
    let opened = open(&fs);
    assert!(append_synced(&opened.log, 30..60));
    opened.log.commit(Offset::new(60));
    drop(opened);
    // An old copy of the segments, with the slots of today.
    old.put(&slots::path(dir()), fs.content(&slots::path(dir())));
    let opened = open(&old);
    assert!(found(&opened, Outcome::CommittedBeyondEnd));
    assert_eq!(losses(&all_findings(&opened)), []);
    assert!(append_synced(&opened.log, 60..62));
    assert_holds(&opened.log, 60, 62);
}

#[test]
fn a_lying_disk_that_lost_a_confirmed_write_costs_that_batch_only() {
    // In a reused segment the earlier life shows where the lost write should be.
    let fs = log_of(40);
    let newest = *bases(&fs).last().expect("segments");
    fs.tamper(&segment_path(newest), |content| {
        let at = batch_position(content, newest);
        // A whole, stale batch of the same place.
        content[at + 32..at + 40].copy_from_slice(&0_u64.to_le_bytes());
        seal(content, at);
    });
    let opened = open(&fs);
    let lost = (Outcome::CorruptBatch, newest, newest);
    assert_eq!(losses(&all_findings(&opened)), [lost]);
    assert_eq!(opened.log.progress().synced, Offset::new(40));
}
