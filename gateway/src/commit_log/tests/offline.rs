//! A log's directory read by somebody else: what is whole is read, what isn't is named by its place,
//! and a log in use never looks damaged.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;

use super::super::fs::RealFs;
use super::super::offline::{Event, Finding, LockState, LogDir, What, lock_state, plan, repair};
use super::super::{CommitLog, Options, SEGMENT_BYTES_MIN};
use super::support::{Told, append_synced, open_with, options, payload, read};
use crate::record::Offset;

fn on_disk(dir: &Path) -> Options {
    Options {
        dir: dir.to_owned(),
        bytes_max: 64 * SEGMENT_BYTES_MIN,
        ..options()
    }
}

fn open(dir: &Path) -> CommitLog {
    open_with(Arc::new(RealFs), on_disk(dir), Told::default())
        .expect("open")
        .log
}

/// A closed log of `records`, in batches of a few.
fn closed_log(dir: &Path, records: u64) {
    let log = open(dir);
    for from in (0..records).step_by(3) {
        assert!(append_synced(&log, from..(from + 3).min(records)));
    }
    log.close();
}

#[derive(Debug, Default)]
struct Seen {
    offsets: Vec<u64>,
    findings: Vec<Finding>,
    /// File, position and bytes of each batch, by its first offset; checkpoints left out.
    batches: BTreeMap<u64, (String, u64, u64, u64)>,
}

impl Seen {
    fn damage(&self) -> Vec<&Finding> {
        let damage = self
            .findings
            .iter()
            .filter(|finding| finding.what.is_damage());
        damage.collect()
    }
}

fn look(dir: &Path) -> Seen {
    let log = LogDir::read(&RealFs, dir).expect("read");
    let mut seen = Seen::default();
    let mut scan = log.scan();
    while let Some(event) = scan.next().expect("scan") {
        match event {
            Event::Batch(batch) => {
                for record in batch.records() {
                    let number = record.offset.get();
                    assert_eq!(record.payload, payload(number), "record {number}");
                    seen.offsets.push(number);
                }
                let file = format!("{:020}.seg", batch.segment.get());
                if batch.count() > 0 {
                    let place = (file, batch.position, batch.bytes, batch.count());
                    seen.batches.insert(batch.base().get(), place);
                }
            }
            Event::Finding(finding) => seen.findings.push(finding),
        }
    }
    seen
}

fn all(records: u64) -> Vec<u64> {
    (0..records).collect()
}

fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir).expect("list");
    entries
        .map(|entry| {
            let entry = entry.expect("entry");
            let name = entry.file_name().into_string().expect("name");
            (name, fs::read(entry.path()).expect("read"))
        })
        .collect()
}

fn flip(path: &Path, position: u64, mask: u8) {
    let mut bytes = fs::read(path).expect("read");
    bytes[position as usize] ^= mask;
    fs::write(path, bytes).expect("write");
}

#[test]
fn a_healthy_log_is_read_whole_and_nothing_in_it_changes() {
    let dir = tempfile::tempdir().expect("temp dir");
    closed_log(dir.path(), 100);
    let before = files(dir.path());
    let seen = look(dir.path());
    assert_eq!(seen.offsets, all(100));
    assert_eq!(seen.findings, []);
    let log = LogDir::read(&RealFs, dir.path()).expect("read");
    assert!(log.segments() > 3);
    assert_eq!((log.first(), log.end()), (Offset::ZERO, Offset::new(100)));
    assert_eq!(plan(&log, &mut |_| {}).expect("plan").len(), 0);
    assert_eq!(repair(&log, "test").expect("repair").len(), 0);
    let mut after = files(dir.path());
    // The owner of the lock is for the eyes of the next one.
    after.insert("lock".to_owned(), before["lock"].clone());
    assert_eq!(before, after);
}

#[test]
fn a_flipped_bit_is_named_by_file_and_position_and_costs_its_batch_alone() {
    let dir = tempfile::tempdir().expect("temp dir");
    closed_log(dir.path(), 60);
    let whole = look(dir.path());
    for (base, (file, position, bytes, count)) in &whole.batches {
        for at in [0, 9, 20, 35, 79, bytes / 2] {
            flip(&dir.path().join(file), position + at, 0x04);
            let seen = look(dir.path());
            let last = base + count - 1;
            let damage = seen.damage();
            assert_eq!(damage.len(), 1, "{file} {position}+{at}: {damage:?}");
            assert_eq!((&damage[0].file(), damage[0].position), (file, *position));
            let lost = (Offset::new(*base), Offset::new(last));
            assert_eq!(damage[0].offsets, Some(lost));
            let kept: Vec<u64> = (0..*base).chain(last + 1..60).collect();
            assert_eq!(seen.offsets, kept);
            flip(&dir.path().join(file), position + at, 0x04);
        }
    }
}

#[test]
fn a_damaged_checkpoint_is_named_and_costs_no_record() {
    let dir = tempfile::tempdir().expect("temp dir");
    closed_log(dir.path(), 60);
    let second = segment_files(dir.path())[1].clone();
    flip(&dir.path().join(&second), 30, 1);
    let seen = look(dir.path());
    let damage = seen.damage();
    assert_eq!((damage.len(), damage[0].file()), (1, second));
    assert_eq!((damage[0].position, damage[0].offsets), (0, None));
    assert_eq!(seen.offsets, all(60));
}

fn segment_files(dir: &Path) -> Vec<String> {
    let names = files(dir).into_keys();
    names.filter(|name| name.ends_with(".seg")).collect()
}

#[test]
fn a_batch_that_nobody_says_was_synced_is_the_tail_and_no_damage() {
    let dir = tempfile::tempdir().expect("temp dir");
    let copy = tempfile::tempdir().expect("temp dir");
    let log = open(dir.path());
    for number in 0..6 {
        assert!(append_synced(&log, number..number + 1));
    }
    // A power cut: the slots are those of the start.
    for (name, bytes) in files(dir.path()) {
        fs::write(copy.path().join(name), bytes).expect("write");
    }
    let whole = look(copy.path());
    let flip_batch = |base: u64| {
        let (file, position, ..) = &whole.batches[&base];
        flip(&copy.path().join(file), position + 5, 1);
    };
    flip_batch(5);
    let seen = look(copy.path());
    assert_eq!((seen.offsets, seen.findings), (all(5), vec![]));
    flip_batch(5);
    flip_batch(4);
    let seen = look(copy.path());
    assert_eq!(
        seen.damage().len(),
        1,
        "the last header says that 4 was synced"
    );
    assert_eq!(seen.offsets, [0, 1, 2, 3, 5]);
}

#[test]
fn segments_reused_under_a_reader_show_as_such_and_never_as_damage() {
    let dir = tempfile::tempdir().expect("temp dir");
    let log = open(dir.path());
    assert!(append_synced(&log, 0..60));
    let files = LogDir::read(&RealFs, dir.path()).expect("read");
    let mut scan = files.scan();
    assert!(matches!(scan.next(), Ok(Some(Event::Batch(_)))));
    log.commit(Offset::new(60));
    assert!(
        append_synced(&log, 60..120),
        "over the segments that were read"
    );
    let mut recycled = 0;
    while let Some(event) = scan.next().expect("scan") {
        if let Event::Finding(finding) = event {
            assert_eq!(finding.what, What::Recycled, "{finding:?}");
            recycled += 1;
        }
    }
    assert!(recycled > 0);
}

#[test]
fn a_log_under_load_is_whole_every_time() {
    let dir = tempfile::tempdir().expect("temp dir");
    let log = open(dir.path());
    assert!(append_synced(&log, 0..20));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut next = 20;
            while !done.load(Ordering::Relaxed) {
                assert!(append_synced(&log, next..next + 2));
                next += 2;
                // A backlog of several segments, whose oldest is reused.
                log.commit(Offset::new(next.saturating_sub(60)));
            }
        });
        let mut seen_last = 0;
        for _ in 0..60 {
            let seen = look(dir.path());
            let damage: Vec<_> = seen.damage().into_iter().cloned().collect();
            let others = seen.findings.iter().all(|f| f.what == What::Recycled);
            if !(damage.is_empty() && others) {
                done.store(true, Ordering::Relaxed);
                panic!("{:?}", seen.findings);
            }
            seen_last = seen.offsets.last().copied().unwrap_or(seen_last);
        }
        done.store(true, Ordering::Relaxed);
        assert!(seen_last >= 19);
    });
}

#[test]
fn a_segment_cut_short_is_named_where_its_file_ends() {
    let dir = tempfile::tempdir().expect("temp dir");
    closed_log(dir.path(), 60);
    let whole = look(dir.path());
    let second = segment_files(dir.path())[1].clone();
    let (base, (_, position, ..)) = whole
        .batches
        .iter()
        .filter(|(_, (file, ..))| *file == second)
        .nth(1)
        .expect("two batches");
    for cut in [*position, position + 100] {
        let file = fs::OpenOptions::new()
            .write(true)
            .open(dir.path().join(&second))
            .expect("open");
        file.set_len(cut.max(position + 100)).expect("long");
        file.set_len(cut).expect("cut");
        let seen = look(dir.path());
        let damage = seen.damage();
        assert_eq!((damage.len(), damage[0].file()), (1, second.clone()));
        assert_eq!(
            (damage[0].position, damage[0].bytes),
            (*position, cut - position)
        );
        assert_eq!(
            damage[0].offsets.map(|(first, _)| first),
            Some(Offset::new(*base))
        );
    }
}

#[test]
fn an_open_log_is_held_and_a_closed_one_is_free_and_repair_is_refused_meanwhile() {
    let dir = tempfile::tempdir().expect("temp dir");
    assert_eq!(lock_state(dir.path()), LockState::Free);
    let log = open(dir.path());
    assert!(append_synced(&log, 0..20));
    assert_eq!(lock_state(dir.path()), LockState::Held("test".to_owned()));
    let files = LogDir::read(&RealFs, dir.path()).expect("read");
    let refused = repair(&files, "repair").expect_err("in use");
    let text = refused.to_string();
    assert!(text.contains("in use by test"), "{text}");
    drop(log);
    assert_eq!(lock_state(dir.path()), LockState::Free);
}

#[test]
fn a_directory_without_slots_is_read_by_what_its_batches_say() {
    let dir = tempfile::tempdir().expect("temp dir");
    closed_log(dir.path(), 40);
    fs::remove_file(dir.path().join("slots")).expect("remove");
    let seen = look(dir.path());
    assert_eq!((seen.offsets, seen.findings), (all(40), vec![]));
}

#[test]
fn a_newer_format_is_refused_and_no_damage() {
    let dir = tempfile::tempdir().expect("temp dir");
    closed_log(dir.path(), 40);
    let path = dir.path().join(&segment_files(dir.path())[1]);
    let mut bytes = fs::read(&path).expect("read");
    bytes[12] = 99;
    let end = 80 + u32::from_le_bytes(bytes[8..12].try_into().expect("four")) as usize;
    let crc = crc32c::crc32c(&bytes[8..end]);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
    fs::write(&path, &bytes).expect("write");
    let before = files(dir.path());
    let log = LogDir::read(&RealFs, dir.path()).expect("the newest segment is of today");
    let refused = plan(&log, &mut |_| {}).expect_err("newer");
    assert!(
        refused.to_string().contains("format version 99"),
        "{refused}"
    );
    repair(&log, "test").expect_err("newer");
    let mut after = files(dir.path());
    after.insert("lock".to_owned(), before["lock"].clone());
    assert_eq!(before, after);
}

/// Something that happens to a file of a log.
#[derive(Clone, Debug)]
enum Harm {
    Flip { segment: usize, at: u64 },
    Zero { segment: usize, at: u64, bytes: u64 },
    Cut { segment: usize, at: u64 },
    Remove { segment: usize },
    Copy { from: usize, to: u64 },
    Slots,
}

fn harm() -> impl Strategy<Value = Harm> {
    let segment = 0..8_usize;
    let at = 0..SEGMENT_BYTES_MIN;
    prop_oneof![
        4 => (segment.clone(), at.clone()).prop_map(|(segment, at)| Harm::Flip { segment, at }),
        2 => (segment.clone(), at.clone(), 1..9000_u64)
            .prop_map(|(segment, at, bytes)| Harm::Zero { segment, at, bytes }),
        2 => (segment.clone(), prop_oneof![Just(0), at])
            .prop_map(|(segment, at)| Harm::Cut { segment, at }),
        1 => segment.clone().prop_map(|segment| Harm::Remove { segment }),
        1 => (segment, 0..70_u64).prop_map(|(from, to)| Harm::Copy { from, to }),
        1 => Just(Harm::Slots),
    ]
}

impl Harm {
    fn befall(&self, dir: &Path) {
        let names = segment_files(dir);
        let path = |index: usize| dir.join(&names[index % names.len()]);
        match *self {
            Self::Flip { segment, at } => {
                if fs::metadata(path(segment)).expect("size").len() > at {
                    flip(&path(segment), at, 0x40);
                }
            }
            Self::Zero { segment, at, bytes } => {
                let mut content = fs::read(path(segment)).expect("read");
                let end = content.len().min((at + bytes) as usize);
                content[(at as usize).min(end)..end].fill(0);
                fs::write(path(segment), content).expect("write");
            }
            Self::Cut { segment, at } => {
                let mut content = fs::read(path(segment)).expect("read");
                content.truncate(at as usize);
                fs::write(path(segment), content).expect("write");
            }
            // The newest one is never removed (I9).
            Self::Remove { segment } if names.len() > 1 => {
                fs::remove_file(dir.join(&names[segment % (names.len() - 1)])).expect("remove");
            }
            Self::Remove { .. } => {}
            Self::Copy { from, to } => {
                let to = dir.join(format!("{to:020}.seg"));
                if !to.exists() {
                    fs::copy(path(from), to).expect("copy");
                }
            }
            Self::Slots => fs::write(dir.join("slots"), [0; 8192]).expect("write"),
        }
    }
}

/// Reads, repairs and opens a harmed log; see [`whatever_happened`].
fn withstand(dir: &Path, harms: &[Harm]) -> Result<(), TestCaseError> {
    closed_log(dir, 60);
    for harm in harms {
        harm.befall(dir);
    }
    let before = files(dir);
    let seen = look(dir);
    prop_assert!(
        seen.offsets.is_sorted_by(|a, b| a < b),
        "in order: {:?}",
        seen.offsets
    );
    let log = LogDir::read(&RealFs, dir).expect("read");
    let mends = repair(&log, "test").expect("repair");
    prop_assert_eq!(mends.is_empty(), seen.damage().is_empty());
    for mend in &mends {
        let aside = fs::read(dir.join(&mend.aside)).expect("set aside");
        prop_assert_eq!(&aside, &before[&mend.file], "kept as it was");
    }
    let repaired = look(dir);
    prop_assert_eq!(repaired.damage(), Vec::<&Finding>::new());
    prop_assert_eq!(&repaired.offsets, &seen.offsets);
    let log = open(dir);
    let content = read(
        &log,
        Offset::new(seen.offsets.first().copied().unwrap_or(60)),
    );
    prop_assert_eq!(
        &content.offsets,
        &seen.offsets,
        "what was whole is delivered"
    );
    Ok(())
}

fn cases() -> u32 {
    std::env::var("EDGE_GATEWAY_MODEL_CASES")
        .ok()
        .and_then(|cases| cases.parse().ok())
        .unwrap_or(48)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn whatever_happened_a_repair_keeps_all_that_is_whole_and_the_gateway_delivers_it(
        harms in proptest::collection::vec(harm(), 1..4),
    ) {
        let dir = tempfile::tempdir().expect("temp dir");
        withstand(dir.path(), &harms)?;
    }
}

#[test]
fn a_file_that_ends_within_the_padding_of_a_whole_batch_is_repaired() {
    let dir = tempfile::tempdir().expect("temp dir");
    closed_log(dir.path(), 60);
    let names = segment_files(dir.path());
    let seen = look(dir.path());
    for segment in [0, names.len() - 1] {
        let own = seen
            .batches
            .values()
            .filter(|place| place.0 == names[segment]);
        let ends: Vec<u64> = own
            .map(|(_, position, bytes, _)| position + bytes)
            .collect();
        assert!(!ends.is_empty());
        for end in ends {
            // The alignment of batches is 8 bytes.
            for at in end - 8..=end {
                let dir = tempfile::tempdir().expect("temp dir");
                let harmed = withstand(dir.path(), &[Harm::Cut { segment, at }]);
                assert!(harmed.is_ok(), "{segment} cut at {at}: {harmed:?}");
            }
        }
    }
}

#[test]
fn a_copy_of_a_segment_under_another_name_costs_nothing_and_is_put_aside() {
    let dir = tempfile::tempdir().expect("temp dir");
    closed_log(dir.path(), 60);
    let (first, second) = {
        let names = segment_files(dir.path());
        (names[0].clone(), names[1].clone())
    };
    let odd = dir.path().join("00000000000000000004.seg");
    for from in [first, second] {
        fs::copy(dir.path().join(from), &odd).expect("copied");
        let seen = look(dir.path());
        assert_eq!(seen.offsets, all(60));
        let damage = seen.damage();
        assert_eq!((damage.len(), damage[0].what), (1, What::NoBatches));
        let log = LogDir::read(&RealFs, dir.path()).expect("read");
        assert_eq!(repair(&log, "test").expect("repair").len(), 1);
        assert!(!odd.exists());
        assert_eq!(look(dir.path()).findings, []);
    }
}
