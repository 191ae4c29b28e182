use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use super::*;
use crate::clock;
use crate::clock::timeline::Boots;
use crate::commit_log::Opened;
use crate::commit_log::tests::sim_fs::SimFs;
use crate::record::{Origin, PayloadKind, SourceName, Stamp};

/// Longest wait; reached only when something is broken.
const PATIENCE: Duration = Duration::from_secs(60);
const SEGMENT: u64 = 64 * 1024;

#[derive(Debug)]
struct Deaf;

impl Observer for Deaf {
    fn progress(&self, _progress: Progress) {}
    fn committed(&self, _report: &CommitReport) {}
    fn dropped(&self, _source: &str, _reason: &'static str, _records: u64) {}
}

fn options(dir: PathBuf, segments: u64) -> Options {
    Options {
        dir,
        bytes_max: segments * SEGMENT + 64 * 1024,
        segment_bytes: SEGMENT,
        commit_interval: Duration::ZERO,
        drop_oldest: true,
        reserve: false,
        age_max: None,
        compression: Compression::None,
        clock: Arc::new(SystemClock::default()),
        owner: "test".to_owned(),
    }
}

/// A main log below `dir`.
fn main_log(dir: &Path) -> CommitLog {
    main_log_on(Arc::new(RealFs), dir.join("log"))
}

fn main_log_on(fs: Arc<dyn Fs>, dir: PathBuf) -> CommitLog {
    let options = Options {
        drop_oldest: false,
        ..options(dir, 16)
    };
    let opened = CommitLog::open(fs, options, Box::new(Deaf), ());
    let Opened { log, .. } = opened.expect("the main log opens");
    log
}

fn on(fs: &SimFs, metrics: &Metrics) -> DeadLetters {
    let options = options(PathBuf::from("/dead-letters"), 4);
    DeadLetters::open_on(Arc::new(fs.clone()), options, metrics).expect("the dead letters open")
}

fn press() -> SourceName {
    SourceName::new("press").expect("valid")
}

/// Letter number `number`, at that offset of the main log.
fn letter<'a>(source: &'a SourceName, number: u64, payload: &'a [u8]) -> DeadLetter<'a> {
    DeadLetter {
        source,
        subject: "press/7",
        reason: if number.is_multiple_of(2) {
            "too_large"
        } else {
            "invalid_record"
        },
        code: Some("MessageSizeTooLarge"),
        detail: "refused",
        topic: Some("telemetry"),
        offset: Some(number),
        kind: PayloadKind::SenmlCbor,
        origin: Origin::Line,
        payload_bytes: payload.len() as u64,
        payload,
        received: Stamp {
            wall_ms: 1_900_000_000_000,
            mono_ms: 7,
        },
        boot_id: clock::boot_id(),
    }
}

fn store(letters: &DeadLetters, numbers: std::ops::Range<u64>, payload: &[u8], log: &str) {
    let source = press();
    for number in numbers {
        letters
            .store_blocking(&letter(&source, number, payload), log)
            .expect("stored");
    }
}

/// Main-log offsets of the letters that are kept.
fn kept(letters: &DeadLetters) -> Vec<u64> {
    let listed = letters.list().expect("readable");
    listed.iter().filter_map(|letter| letter.offset).collect()
}

fn at(offsets: &[(u64, u64)]) -> Selection {
    Selection {
        offsets: offsets.to_vec(),
        ..Selection::default()
    }
}

fn retry<'a>(main: &'a CommitLog, boots: &'a Boots, stop: &'a CancellationToken) -> Retry<'a> {
    Retry {
        main,
        boots,
        patience: PATIENCE,
        stop,
    }
}

fn dropped(metrics: &Metrics, reason: &str) -> u64 {
    let label = SourceReason {
        source: "press".to_owned(),
        reason: reason.to_owned(),
    };
    metrics.dropped.get_or_create(&label).get()
}

/// D2
#[test]
fn deleted_letters_stay_gone_after_a_restart_and_are_not_counted() {
    let (fs, metrics) = (SimFs::default(), Metrics::new());
    let letters = on(&fs, &metrics);
    store(&letters, 0..10, b"x", "main");
    let deleted = letters.delete(&at(&[(2, 4), (9, 9)])).expect("deleted");
    assert_eq!((deleted.letters, deleted.left), (4, Vec::new()));
    let before = letters.kept();
    assert_eq!(kept(&letters), [0, 1, 5, 6, 7, 8]);
    letters.close();
    drop(letters);
    fs.process_restart();
    let letters = on(&fs, &metrics);
    assert_eq!(kept(&letters), [0, 1, 5, 6, 7, 8]);
    assert_eq!(letters.kept(), before);
    assert_eq!(before.letters, 6);
    assert_eq!(metrics.letters.kept.get(), 6);
    let again = letters.delete(&at(&[(3, 3)])).expect("done");
    assert_eq!(again.letters, 0);
    assert_eq!(again.left[0].why, "there is no such dead letter");
}

#[test]
fn a_filter_takes_what_fits_all_of_it() {
    let (fs, metrics) = (SimFs::default(), Metrics::new());
    let letters = on(&fs, &metrics);
    store(&letters, 0..10, b"x", "main");
    let selection = Selection {
        reason: Some("too_large".to_owned()),
        ..at(&[(4, 9)])
    };
    letters.delete(&selection).expect("deleted");
    assert_eq!(kept(&letters), [0, 1, 2, 3, 5, 7, 9]);
    for other in [
        Selection {
            source: Some("city".to_owned()),
            ..Selection::default()
        },
        Selection {
            topic: Some("other".to_owned()),
            ..Selection::default()
        },
    ] {
        assert_eq!(letters.delete(&other).expect("done").letters, 0);
    }
    let all = letters.delete(&Selection::default()).expect("deleted");
    assert_eq!(all.letters, 7);
    assert_eq!(letters.kept(), Count::default());
}

/// D3
#[test]
fn a_retried_record_is_in_the_main_log_as_it_was_received_and_its_letter_is_gone() {
    let dir = tempfile::tempdir().expect("a directory");
    let (fs, metrics) = (SimFs::default(), Metrics::new());
    let (letters, main) = (on(&fs, &metrics), main_log(dir.path()));
    store(&letters, 0..3, b"\x81\xa0", "main");
    let (boots, stop) = (Boots::default(), CancellationToken::new());
    let retried = letters.retry(&at(&[(1, 2)]), &retry(&main, &boots, &stop));
    assert_eq!(retried.expect("sent again").letters, 2);
    assert_eq!(kept(&letters), [0]);
    let mut cursor = main.cursor(Offset::ZERO);
    let Some(Item::Batch(batch)) = cursor.next().expect("readable") else {
        panic!("a batch");
    };
    let record = batch.records().next().expect("a record");
    assert_eq!((record.source, record.subject), ("press", "press/7"));
    assert_eq!(
        (record.kind, record.payload),
        (PayloadKind::SenmlCbor, &b"\x81\xa0"[..])
    );
    assert_eq!((record.origin, record.received.mono_ms), (Origin::Line, 7));
    assert_eq!(main.progress().synced, Offset::new(2));
}

#[test]
fn a_letter_of_an_earlier_boot_keeps_its_time_and_the_clock_of_this_one_does_not_change_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let (fs, metrics) = (SimFs::default(), Metrics::new());
    let (letters, main) = (on(&fs, &metrics), main_log(dir.path()));
    let source = press();
    let early = DeadLetter {
        boot_id: 1,
        received: Stamp {
            wall_ms: 5_000,
            mono_ms: 5_000,
        },
        ..letter(&source, 0, b"x")
    };
    letters.store_blocking(&early, "main").expect("stored");
    // That boot's clock was set later: it began at noon.
    let noon = 1_900_000_000_000;
    let mut boots = Boots::default();
    boots.learn(
        1,
        Stamp {
            wall_ms: noon + 90_000,
            mono_ms: 90_000,
        },
    );
    let stop = CancellationToken::new();
    let retried = letters.retry(&Selection::default(), &retry(&main, &boots, &stop));
    assert_eq!(retried.expect("sent again").letters, 1);
    let mut cursor = main.cursor(Offset::ZERO);
    let Some(Item::Batch(batch)) = cursor.next().expect("readable") else {
        panic!("a batch");
    };
    let record = batch.records().next().expect("a record");
    assert_eq!(record.received, Stamp::dated(noon + 5_000));
}

#[test]
fn a_letter_of_which_only_the_head_was_kept_stays_and_says_so() {
    let dir = tempfile::tempdir().expect("a directory");
    let (fs, metrics) = (SimFs::default(), Metrics::new());
    let (letters, main) = (on(&fs, &metrics), main_log(dir.path()));
    let source = press();
    let cut = DeadLetter {
        payload_bytes: 2_000_000,
        ..letter(&source, 0, b"head")
    };
    letters.store_blocking(&cut, "main").expect("stored");
    store(&letters, 1..2, b"x", "main");
    let (boots, stop) = (Boots::default(), CancellationToken::new());
    let done = letters.retry(&Selection::default(), &retry(&main, &boots, &stop));
    let done = done.expect("sent again");
    assert_eq!(done.letters, 1);
    assert_eq!(done.left.len(), 1);
    assert_eq!(
        done.left[0].why,
        "only the first 4 of its 2000000 bytes were kept"
    );
    assert_eq!(kept(&letters), [0]);
}

/// D3
#[test]
fn a_letter_whose_record_did_not_become_durable_is_kept() {
    let dir = tempfile::tempdir().expect("a directory");
    let (fs, metrics) = (SimFs::default(), Metrics::new());
    let letters = on(&fs, &metrics);
    store(&letters, 0..3, b"x", "main");
    let (boots, stop) = (Boots::default(), CancellationToken::new());
    let closed = main_log(dir.path());
    closed.close();
    let failed = letters.retry(&Selection::default(), &retry(&closed, &boots, &stop));
    assert!(matches!(failed, Err(ChangeError::Stopped { letters: 0 })));

    let disk = SimFs::default();
    let failing = main_log_on(Arc::new(disk.clone()), PathBuf::from("/main"));
    disk.fail_next_sync();
    let failed = letters.retry(&Selection::default(), &retry(&failing, &boots, &stop));
    assert!(matches!(failed, Err(ChangeError::Stopped { letters: 0 })));
    assert_eq!(kept(&letters), [0, 1, 2]);
}

/// D4
#[test]
fn space_is_freed_over_a_leading_run_but_not_over_what_may_be_read_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let (fs, metrics) = (SimFs::default(), Metrics::new());
    let (letters, main) = (on(&fs, &metrics), main_log(dir.path()));
    let identity = main.identity();
    store(&letters, 0..6, b"x", &identity);
    letters.delete(&at(&[(0, 3)])).expect("deleted");
    letters.reclaim(&main).expect("readable");
    assert_eq!(
        letters.log.committed(),
        Offset::ZERO,
        "its record may come again"
    );
    let known = letters.offsets_of(&identity, Offset::ZERO);
    assert_eq!(known.expect("readable").len(), 6, "gone ones too");

    let source = press();
    for _ in 0..6 {
        let again = letter(&source, 0, b"x").envelope(None);
        let bytes = again.to_bytes();
        main.append(&letter(&source, 0, b"x").record(&bytes))
            .expect("there is room");
    }
    assert!(main.wait(Offset::new(5), PATIENCE).synced > Offset::new(5));
    main.commit(Offset::new(2));
    letters.reclaim(&main).expect("readable");
    assert_eq!(letters.log.committed(), Offset::new(2));
    main.commit(Offset::new(6));
    letters.reclaim(&main).expect("readable");
    assert_eq!(letters.log.committed(), Offset::new(4));
    assert_eq!(kept(&letters), [4, 5]);
    letters.delete(&Selection::default()).expect("deleted");
    letters.reclaim(&main).expect("readable");
    assert_eq!(letters.log.stats().undelivered, 0, "tombstones too");
}

/// D2
#[test]
fn of_dropped_letters_those_that_are_gone_are_not_counted() {
    let (fs, metrics) = (SimFs::default(), Metrics::new());
    let letters = on(&fs, &metrics);
    let payload = [b'x'; 8_000];
    store(&letters, 0..6, &payload, "main");
    letters.delete(&at(&[(1, 3)])).expect("deleted");
    // The first segment goes, and no other.
    let mut stored = 6;
    while dropped(&metrics, "dead_letters_full") == 0 {
        assert!(stored < 1_000, "the budget is never reached");
        store(&letters, stored..stored + 1, &payload, "main");
        stored += 1;
    }
    let count = letters.kept();
    let listed = kept(&letters);
    assert_eq!(count.letters, listed.len() as u64);
    let gone = 3;
    assert_eq!(
        dropped(&metrics, "dead_letters_full"),
        stored - gone - count.letters
    );
    assert_eq!(
        metrics.letters.kept.get(),
        i64::try_from(count.letters).expect("few")
    );
}

#[test]
fn on_a_full_disk_the_oldest_letters_give_way_counted_and_nobody_waits() {
    let (fs, metrics) = (SimFs::default(), Metrics::new());
    let letters = on(&fs, &metrics);
    fs.set_full(true);
    // More than two segments hold, which is all that there is.
    store(&letters, 0..40, &[b'x'; 8_000], "main");
    let listed = kept(&letters);
    assert_eq!(listed.last(), Some(&39));
    assert!(!listed.is_empty() && listed.len() < 40);
    assert_eq!(
        dropped(&metrics, "dead_letters_full"),
        40 - listed.len() as u64
    );
}

#[test]
fn on_a_disk_that_was_full_from_the_start_a_letter_waits_for_space_and_is_not_lost() {
    let (fs, metrics) = (SimFs::default(), Metrics::new());
    // Made, with one segment alone, as a disk that filled up meanwhile leaves it.
    let one = Options {
        drop_oldest: false,
        ..options(PathBuf::from("/dead-letters"), 4)
    };
    let made = DeadLetters::open_on(Arc::new(fs.clone()), one, &metrics).expect("opens");
    made.close();
    drop(made);
    fs.process_restart();
    fs.set_full(true);
    let letters = on(&fs, &metrics);
    let pulse = Pulse::default();
    let storing = letters.clone().beating(pulse.clone());
    let thread = std::thread::spawn(move || store(&storing, 0..40, &[b'x'; 8_000], "main"));
    let give_up = std::time::Instant::now() + PATIENCE;
    while letters.condition() != Condition::Full {
        assert!(std::time::Instant::now() < give_up, "it never fills");
        std::thread::yield_now();
    }
    let beats = pulse.beats();
    while pulse.beats() == beats {
        assert!(
            std::time::Instant::now() < give_up,
            "the one who waits is alive"
        );
        std::thread::yield_now();
    }
    assert_eq!(dropped(&metrics, "dead_letters_full"), 0);
    fs.space_returns();
    thread.join().expect("it goes on");
    let listed = kept(&letters);
    let lost = dropped(&metrics, "dead_letters_full");
    assert_eq!(listed.len() as u64 + lost, 40);
}

#[test]
fn an_envelope_of_an_older_gateway_is_read() {
    #[derive(serde::Serialize)]
    struct Old<'a> {
        reason: &'a str,
        detail: &'a str,
        topic: Option<&'a str>,
        offset: Option<u64>,
        payload_bytes: u64,
        payload: Bytes,
    }
    struct Bytes;
    impl serde::Serialize for Bytes {
        fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
            to.serialize_bytes(b"x")
        }
    }
    let old = Old {
        reason: "too_large",
        detail: "",
        topic: None,
        offset: Some(4),
        payload_bytes: 1,
        payload: Bytes,
    };
    let bytes = serde_cbor::to_vec(&old).expect("CBOR");
    let letter: Envelope = serde_cbor::from_slice(&bytes).expect("readable");
    assert_eq!(
        (letter.offset, letter.code, letter.kind),
        (Some(4), None, None)
    );
}
