//! Batches in another format than ours: refused where the log goes on with them, and only there.

use super::super::{OpenError, Outcome, batch, segment, slots};
use super::sim_fs::SimFs;
use super::support::*;
use super::surgery::*;
use crate::record::Offset;

#[test]
fn another_format_anywhere_is_refused_and_nothing_is_touched() {
    for version in [0, 2] {
        let fs = log_of(60);
        let all = bases(&fs);
        let newest = *all.last().expect("segments");
        let whole = fs.snapshot();
        // A spare of another size and a segment that was begun would be removed otherwise.
        fs.put(&dir().join(segment::SPARE_NAME), vec![0; 7]);
        fs.put(&segment_path(60), Vec::new());
        let at_head = all.iter().map(|base| (segment_path(*base), 0));
        let inside = batch_position(&fs.content(&segment_path(newest)), newest + 1);
        let places = at_head.chain([(segment_path(newest), inside)]);
        for (path, at) in places {
            fs.tamper(&path, |content| {
                content[at + 12] = version;
                seal(content, at);
            });
            let before = fs.snapshot();
            let refused = try_open(&fs).expect_err("refused");
            match (version, &refused) {
                (
                    2,
                    OpenError::NewerFormat {
                        path: named,
                        found: 2,
                        supported: 1,
                    },
                )
                | (
                    0,
                    OpenError::OlderFormat {
                        path: named,
                        found: 0,
                        supported: 1,
                    },
                ) => {
                    assert_eq!(*named, path);
                }
                _ => panic!(
                    "version {version} at byte {at} of {}: {refused}",
                    path.display()
                ),
            }
            assert_eq!(fs.snapshot(), before, "untouched");
            fs.put(&path, whole[&path].clone());
        }
        assert_holds(&open(&fs).log, 0, 60);
    }
}

#[test]
fn slots_in_another_format_are_refused_and_not_touched() {
    let fs = log_of(20);
    fs.tamper(&slots::path(dir()), |content| {
        for at in [0, 4096] {
            content[at + 28] = 2;
            let crc = crc32c::crc32c(&content[at + 8..at + 64]);
            content[at + 4..at + 8].copy_from_slice(&crc.to_le_bytes());
        }
    });
    let before = fs.snapshot();
    assert!(matches!(
        try_open(&fs),
        Err(OpenError::NewerFormat { found: 2, .. })
    ));
    assert_eq!(fs.snapshot(), before);
}

/// A batch of no content with this format version, base, offset that was synced, and open counter.
fn empty_batch(fs: &SimFs, version: u8, base: u64, synced: u64, open_counter: u8) -> Vec<u8> {
    let content = fs.content(&segment_path(0));
    let at = batch_position(&content, 0);
    let mut batch = content[at..at + batch::HEADER_BYTES].to_vec();
    batch[8..12].fill(0);
    batch[12] = version;
    batch[24] = open_counter;
    batch[32..40].copy_from_slice(&base.to_le_bytes());
    batch[40..48].copy_from_slice(&synced.to_le_bytes());
    batch[48..56].fill(0);
    seal(&mut batch, 0);
    batch
}

/// Where the batch of the record ends in its segment.
fn batch_end(content: &[u8], base: u64) -> usize {
    let at = batch_position(content, base);
    let length = u32::from_le_bytes(content[at + 8..at + 12].try_into().expect("4")) as usize;
    (at + batch::HEADER_BYTES + length).next_multiple_of(8)
}

/// Opens it again and again, each time with another record.
fn assert_goes_on(fs: &SimFs, mut records: u64) {
    for _ in 0..4 {
        let opened = open(fs);
        assert_eq!(opened.log.progress().synced, Offset::new(records));
        assert!(append_synced(&opened.log, records..records + 1));
        records += 1;
        assert_holds(&opened.log, 0, records);
    }
}

#[test]
fn remains_in_another_format_are_stale_like_our_own() {
    for version in [0, 2] {
        let fs = log_of(6);
        let lower_offset = empty_batch(&fs, version, 1, 1, 9);
        let lower_counter = empty_batch(&fs, version, 6, 6, 0);
        let remains = [lower_offset, lower_counter].concat();
        fs.tamper(&segment_path(0), |content| {
            let end = batch_end(content, 5);
            content[end..end + remains.len()].copy_from_slice(&remains);
        });
        let opened = open(&fs);
        assert!(found(&opened, Outcome::EarlierLife));
        assert!(found(&opened, Outcome::CutRemains));
        assert_holds(&opened.log, 0, 6);
        drop(opened);
        assert_goes_on(&fs, 6);
    }
}

#[test]
fn a_segment_begun_over_an_earlier_life_in_another_format_is_no_reason_to_refuse() {
    for version in [0, 2] {
        let fs = log_of(6);
        let mut earlier_life = empty_batch(&fs, version, 1, 1, 9);
        earlier_life.resize(16 * 1024, 0);
        fs.put(&segment_path(6), earlier_life);
        let opened = open(&fs);
        assert!(found(&opened, Outcome::BegunSegment));
        drop(opened);
        assert_goes_on(&fs, 6);
    }
}

/// The last but one of six batches is torn, and the last one is in another format and says that so
/// many records were synced.
fn torn_before_another_format(version: u8, synced: u64) -> SimFs {
    let fs = log_of(6);
    slots_say(&fs, 0, 4);
    fs.tamper(&segment_path(0), |content| {
        let torn = batch_position(content, 4);
        content[torn + 85] ^= 1;
        let last = batch_position(content, 5);
        content[last + 12] = version;
        content[last + 40..last + 48].copy_from_slice(&synced.to_le_bytes());
        seal(content, last);
    });
    fs
}

#[test]
fn another_format_behind_a_torn_batch_is_cut_with_it() {
    for version in [0, 2] {
        let fs = torn_before_another_format(version, 4);
        let opened = open(&fs);
        assert!(found(&opened, Outcome::TornTail));
        assert_holds(&opened.log, 0, 4);
        drop(opened);
        assert_goes_on(&fs, 4);
    }
}

#[test]
fn another_format_behind_a_corrupt_batch_is_refused_and_nothing_is_touched() {
    for version in [0, 2] {
        let fs = torn_before_another_format(version, 5);
        let before = fs.snapshot();
        assert!(matches!(
            try_open(&fs),
            Err(OpenError::NewerFormat { .. } | OpenError::OlderFormat { .. })
        ));
        assert_eq!(fs.snapshot(), before, "untouched");
    }
}

#[test]
fn what_looks_like_a_batch_inside_of_a_stale_one_never_comes_to_light() {
    for version in [0, 1, 2] {
        let fs = log_of(6);
        let slot = identity(&fs);
        // Each says that it follows upon whatever may be written over the head of the stale one.
        let inner: Vec<u8> = (6..40)
            .flat_map(|base| empty_batch(&fs, version, base, base, 200))
            .collect();
        let mut stale = empty_batch(&fs, 1, 1, 1, 1);
        stale[8..12].copy_from_slice(&(inner.len() as u32).to_le_bytes());
        stale.extend(inner);
        seal(&mut stale, 0);
        fs.tamper(&segment_path(0), |content| {
            let end = batch_end(content, 5);
            content[end..end + stale.len()].copy_from_slice(&stale);
        });
        assert_goes_on(&fs, 6);
        assert_eq!(identity(&fs), slot);
    }
}
