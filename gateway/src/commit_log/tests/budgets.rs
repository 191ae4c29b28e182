//! Budgets: disk use in truth, and what is dropped when and how it is told (I8).

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::super::fs::RealFs;
use super::super::{CommitLog, Condition, Cursor, Hole, Item, Options, SEGMENT_BYTES_MIN};
use super::sim_fs::SimFs;
use super::support::*;
use crate::record::{NewRecord, Offset, Origin, PayloadKind, SourceName, Stamp};

const MIB: u64 = 1 << 20;

fn dropping() -> Options {
    Options {
        drop_oldest: true,
        ..options()
    }
}

fn aging(clock: &TestClock) -> Options {
    Options {
        age_max: Some(Duration::from_secs(1000)),
        clock: Arc::new(clock.clone()),
        ..options()
    }
}

/// What the holes say was lost: records by source.
fn lost(holes: &[Hole]) -> BTreeMap<Option<String>, u64> {
    let mut lost = BTreeMap::new();
    for loss in holes.iter().flat_map(|hole| &hole.losses) {
        *lost.entry(loss.source.clone()).or_default() += loss.records.expect("known");
    }
    lost
}

fn hole_records(holes: &[Hole]) -> u64 {
    let records = |hole: &Hole| hole.last.plus(1).since(hole.first);
    holes.iter().map(records).sum()
}

/// Reads so many batches.
fn take_batches(cursor: &mut Cursor, count: usize) -> Vec<u64> {
    let mut offsets = Vec::new();
    for _ in 0..count {
        match cursor.next().expect("read").expect("there") {
            Item::Batch(batch) => {
                offsets.extend(batch.records().map(|record| record.offset.get()));
            }
            Item::Hole(hole) => panic!("{hole:?}"),
        }
    }
    offsets
}

/// Disk space of all files in a directory.
fn blocks_bytes(dir: &Path) -> u64 {
    let files = std::fs::read_dir(dir).expect("list");
    let blocks = |file: std::io::Result<std::fs::DirEntry>| {
        file.and_then(|file| file.metadata())
            .map_or(0, |metadata| metadata.blocks() * 512)
    };
    files.map(blocks).sum()
}

/// Appends 64 KiB records until the log is full; returns how many are synced.
fn fill(log: &CommitLog) -> u64 {
    let source = SourceName::new("press").expect("valid");
    let record = NewRecord {
        source: &source,
        subject: "press/1",
        kind: PayloadKind::Opaque,
        origin: Origin::Line,
        received: Stamp::default(),
        payload: &[7; 65536],
    };
    while log.progress().condition != Condition::Full {
        if log.append(&record).is_err() {
            let _ = log.wait(log.progress().synced, Duration::from_millis(20));
        }
    }
    log.progress().synced.get()
}

#[test]
fn the_budget_is_the_disk_use_in_truth_and_space_comes_back_while_draining() {
    let temp = tempfile::tempdir().expect("temp dir");
    let options = Options {
        dir: temp.path().join("log"),
        bytes_max: 16 * MIB,
        segment_bytes: MIB,
        ..options()
    };
    let dir = options.dir.clone();
    let opened = open_with(Arc::new(RealFs), options.clone(), Told::default()).expect("open");
    let log = &opened.log;
    let synced = fill(log);
    let used = blocks_bytes(&dir);
    assert!(used <= options.bytes_max, "{used} bytes used");
    assert!(
        used > options.bytes_max - options.segment_bytes - 64 * 1024,
        "{used} bytes used: the budget is made use of"
    );
    let mut before = used;
    for share in 1..=4 {
        log.commit(Offset::new(synced * share / 5));
        let left = options.bytes_max * (5 - share) / 5 + 2 * options.segment_bytes;
        eventually("delivered segments give their space back", || {
            let used = blocks_bytes(&dir);
            log.stats().disk_bytes <= left && used <= left && used < before
        });
        before = blocks_bytes(&dir);
    }
    log.commit(Offset::new(synced));
    log.close();
    let used = blocks_bytes(&dir);
    let two = 2 * options.segment_bytes + 64 * 1024;
    assert!(used <= two, "{used} bytes used by an empty log");
    assert!(log.stats().disk_bytes <= two);
}

#[test]
fn drops_are_known_by_source_after_a_restart() {
    let fs = SimFs::default();
    let (opened, told) = open_sim(&fs, dropping());
    for number in 0..400 {
        let source = if number % 4 == 0 { "city" } else { "press" };
        while !append_of(source, &opened.log, number) {
            let _ = opened.log.wait(opened.log.progress().synced, PATIENCE);
        }
    }
    assert!(append_synced(&opened.log, 400..401));
    let dropped = told.dropped.load(Ordering::SeqCst);
    let told = told.dropped_by.lock().expect("told").clone();
    assert!(dropped > 100);
    drop(opened);
    let (opened, _) = open_sim(&fs, options());
    let content = read(&opened.log, Offset::ZERO);
    assert!(
        content
            .holes
            .iter()
            .all(|hole| hole.reason == "buffer_full")
    );
    assert_eq!(hole_records(&content.holes), dropped);
    let lost = lost(&content.holes);
    for source in ["press", "city"] {
        let key = (source.to_owned(), "buffer_full");
        assert_eq!(lost[&Some(source.to_owned())], told[&key], "{source}");
    }
    assert_eq!(lost.values().sum::<u64>(), dropped);
    assert_eq!(
        opened.log.stats().undelivered,
        401 - dropped,
        "holes excluded"
    );
    assert_eq!(content.offsets, (dropped..401).collect::<Vec<_>>());
}

#[test]
fn what_was_handed_out_is_not_counted_as_dropped_until_it_is_read_again() {
    let fs = SimFs::default();
    let (opened, told) = open_sim(&fs, dropping());
    let log = &opened.log;
    for number in 0..20 {
        assert!(append_synced(log, number..number + 1));
    }
    let mut cursor = log.delivery_cursor(Offset::ZERO);
    let delivered = take_batches(&mut cursor, 3);
    assert_eq!(delivered, [0, 1, 2]);
    assert!(append_synced(log, 20..400));
    let dropped = told.dropped.load(Ordering::SeqCst);
    let hole = match cursor.next().expect("read").expect("there") {
        Item::Hole(hole) => hole,
        Item::Batch(batch) => panic!("{batch:?}"),
    };
    assert_eq!(hole.first, Offset::new(3));
    assert_eq!(hole_records(&[hole]), dropped, "each either way, none both");
    // The producer gives up, and what was in flight is to be sent again.
    cursor.seek(Offset::ZERO);
    let hole = match cursor.next().expect("read").expect("there") {
        Item::Hole(hole) => hole,
        Item::Batch(batch) => panic!("{batch:?}"),
    };
    assert_eq!((hole.last, hole.reason), (Offset::new(2), "buffer_full"));
    assert_eq!(lost(&[hole])[&Some("press".to_owned())], 3);
    eventually("the three are counted", || {
        told.dropped.load(Ordering::SeqCst) == dropped + 3
    });
}

#[test]
fn a_reader_that_delivers_while_segments_are_dropped_gets_each_record_or_its_loss() {
    let fs = SimFs::default();
    let (opened, told) = open_sim(&fs, dropping());
    let total = 3000;
    let reader = std::thread::spawn({
        let log = opened.log.clone();
        move || {
            let mut cursor = log.delivery_cursor(Offset::ZERO);
            let (mut read, mut lost) = (0, 0);
            while cursor.position() < Offset::new(total) {
                let _ = log.wait(cursor.position(), PATIENCE);
                while let Some(item) = cursor.next().expect("read") {
                    match item {
                        Item::Batch(batch) => read += batch.records().count() as u64,
                        Item::Hole(hole) => {
                            assert_eq!(hole.reason, "buffer_full");
                            lost += hole.last.plus(1).since(hole.first);
                        }
                    }
                }
            }
            (read, lost)
        }
    });
    assert!(append_synced(&opened.log, 0..total));
    let (read, lost) = reader.join().expect("reader");
    assert_eq!(read + lost, total);
    let counted = told.dropped.load(Ordering::SeqCst);
    assert!(counted >= lost, "{counted} counted, {lost} seen as lost");
    assert!(counted + read <= total, "none is counted both ways");
}

/// Appends into a log of four segments that drops, until the power goes.
fn dropping_life(fs: &SimFs, options: Options) -> Option<(u64, u64)> {
    let opened = open_with(Arc::new(fs.clone()), options, Told::default()).ok()?;
    let mut appended = 0;
    for step in 0..14 {
        appended = (step + 1) * 6;
        if !append_synced(&opened.log, step * 6..appended) {
            break;
        }
        if step == 9 {
            opened.log.commit(Offset::new(step * 6 - 20));
        }
    }
    opened.log.close();
    Some((opened.log.progress().synced.get(), appended))
}

#[test]
fn a_power_cut_at_any_call_of_a_dropping_log_leaves_each_record_or_its_loss() {
    let options = Options {
        bytes_max: 4 * SEGMENT_BYTES_MIN + 40 * 1024,
        ..dropping()
    };
    let fs = SimFs::default();
    dropping_life(&fs, options.clone()).expect("nothing fails");
    let mut with_drops = 0;
    for call in 0..fs.calls() {
        let fs = SimFs::default();
        fs.power_off_in(call);
        let (synced, appended) = dropping_life(&fs, options.clone()).unwrap_or((0, 0));
        fs.power_cycle(call);
        let (opened, _) = open_sim(&fs, options.clone());
        let log = &opened.log;
        let end = log.progress().synced.get();
        assert!((synced..=appended).contains(&end), "call {call}");
        let committed = log.committed();
        let content = read(log, committed);
        let what = format!("call {call}: {:?}", content.holes);
        assert!(
            content
                .holes
                .iter()
                .all(|hole| hole.reason == "buffer_full"),
            "{what}"
        );
        let holes = hole_records(&content.holes);
        assert_eq!(
            holes + content.offsets.len() as u64,
            end - committed.get(),
            "{what}"
        );
        assert_eq!(lost(&content.holes).values().sum::<u64>(), holes, "{what}");
        // What was noted as dropped is gone, too.
        let undelivered = log.stats().undelivered;
        assert_eq!(undelivered, content.offsets.len() as u64, "{what}");
        assert!(append_synced(log, end..end + 3), "{what}");
        with_drops += u32::from(holes > 0);
    }
    assert!(
        with_drops > 50,
        "{with_drops} of the crashes came after a drop"
    );
}

#[test]
fn a_full_disk_does_not_keep_a_log_from_dropping() {
    let fs = SimFs::default();
    let (opened, _) = open_sim(&fs, options());
    assert!(append_synced(&opened.log, 0..60));
    drop(opened);
    // The file for drops can't be made any more.
    fs.set_full(true);
    let (opened, told) = open_sim(&fs, dropping());
    assert!(append_synced(&opened.log, 60..120));
    let dropped = told.dropped.load(Ordering::SeqCst);
    let content = read(&opened.log, Offset::ZERO);
    assert_eq!(content.holes[0].reason, "buffer_full");
    assert_eq!(hole_records(&content.holes), dropped);
}

#[test]
fn records_older_than_age_max_are_dropped_counted_and_leave_a_hole() {
    let fs = SimFs::default();
    let clock = TestClock::boot(1, 0, false);
    let (opened, told) = open_sim(&fs, aging(&clock));
    assert!(append_synced(&opened.log, 0..30));
    clock.pass(600);
    assert!(append_synced(&opened.log, 30..60));
    let before = opened.log.stats().segments;
    clock.pass(500);
    eventually("the first thirty are dropped", || {
        told.dropped.load(Ordering::SeqCst) > 20
    });
    assert!(opened.log.stats().segments <= before);
    let content = read(&opened.log, Offset::ZERO);
    assert_eq!(content.holes.len(), 1);
    assert_eq!(content.holes[0].reason, "age");
    let dropped = hole_records(&content.holes);
    assert!(dropped <= 30, "the later ones are young: {dropped}");
    let by = told.dropped_by.lock().expect("told").clone();
    assert_eq!(by[&("press".to_owned(), "age")], dropped);
}

#[test]
fn a_log_that_nobody_writes_ages_all_the_same() {
    let fs = SimFs::default();
    let clock = TestClock::boot(1, 0, false);
    let (opened, told) = open_sim(&fs, aging(&clock));
    assert!(append_synced(&opened.log, 0..3));
    clock.pass(300);
    eventually("the segment is ended", || opened.log.stats().segments == 2);
    assert_eq!(told.dropped.load(Ordering::SeqCst), 0);
    clock.pass(1100);
    eventually("its records are dropped", || {
        told.dropped.load(Ordering::SeqCst) == 3
    });
    assert_eq!(opened.log.stats().segments, 1, "the newest stays");
    assert_eq!(opened.log.stats().undelivered, 0);
    assert!(append_synced(&opened.log, 3..6));
    drop(opened);
    let (opened, _) = open_sim(&fs, aging(&clock));
    let content = read(&opened.log, Offset::ZERO);
    assert_eq!(
        (content.holes[0].reason, content.offsets),
        ("age", vec![3, 4, 5])
    );
    assert_eq!(opened.state, Digest::of(6), "I9");
}

/// Writes in one boot, restarts in another a year later by its wall clock, writes again, and waits a
/// while. Returns what was dropped.
fn dropped_across_boots(synced_before: bool, synced_now: bool) -> u64 {
    let fs = SimFs::default();
    let before = TestClock::boot(1, 1_000_000_000, synced_before);
    let (opened, _) = open_sim(&fs, aging(&before));
    assert!(append_synced(&opened.log, 0..60));
    drop(opened);
    let now = TestClock::boot(2, 1_031_536_000, synced_now);
    let (opened, told) = open_sim(&fs, aging(&now));
    for number in 60..90 {
        assert!(append_synced(&opened.log, number..number + 1));
    }
    let looks = now.looks.load(Ordering::SeqCst);
    eventually("ages are looked at", || {
        now.looks.load(Ordering::SeqCst) > looks + 20
    });
    told.dropped.load(Ordering::SeqCst)
}

#[test]
fn a_record_of_unknown_age_is_never_dropped_for_age() {
    for (before, now) in [(false, false), (false, true), (true, false)] {
        assert_eq!(dropped_across_boots(before, now), 0, "{before} {now}");
    }
    assert!(
        dropped_across_boots(true, true) > 40,
        "known to be a year old"
    );
}

#[test]
fn records_before_one_that_is_known_to_be_old_are_old() {
    let fs = SimFs::default();
    for (boot, wall_s, synced) in [(1, 0, false), (2, 1_000_000_000, true)] {
        let (opened, _) = open_sim(&fs, aging(&TestClock::boot(boot, wall_s, synced)));
        let next = opened.log.progress().synced.get();
        assert!(append_synced(&opened.log, next..next + 60));
    }
    let now = TestClock::boot(3, 1_031_536_000, true);
    // Room for another segment, so that the last one is ended at once.
    let roomy = Options {
        bytes_max: 64 * SEGMENT_BYTES_MIN,
        ..aging(&now)
    };
    let (opened, told) = open_sim(&fs, roomy);
    let dropped = || told.dropped.load(Ordering::SeqCst);
    eventually("the first boot's records are dropped", || {
        dropped() > 60 && opened.log.stats().segments == 2
    });
    // The segment that was written last counts from now on.
    now.pass(1001);
    eventually("the second boot's too", || dropped() == 120);
}
