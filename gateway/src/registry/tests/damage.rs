//! sled's own files, damaged in every way that is known to hurt it.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::super::seal::Contents;
use super::*;

const OLD: usize = 50;
/// Why a registry begins anew.
const REASONS: [&str; 6] = ["unclean", "damaged", "io", "sled", "panic", "content"];

/// A directory with a registry of [`OLD`] devices, cleanly closed.
fn made() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("temp dir");
    let fixture = Fixture::start(place(dir.path()));
    for device in 0..OLD {
        fixture.hear(&format!("old-{device}"));
    }
    fixture.wait_for(Condition::Ready);
    drop(fixture);
    dir
}

fn place(dir: &Path) -> SledPlace {
    SledPlace {
        free_bytes_min: 0,
        ..SledPlace::new(dir.join("registry"))
    }
}

fn store_dir(dir: &Path) -> PathBuf {
    dir.join("registry/devices.sled")
}

/// All of sled's files.
fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(store_dir(dir)).expect("a directory");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let mut files: Vec<PathBuf> = paths.filter(|path| path.is_file()).collect();
    files.sort();
    assert!(files.len() >= 2, "{files:?}");
    files
}

/// Starts on what is there; everything must work in the end. Returns how many old devices are
/// still known, and how often it began anew.
fn go_on(dir: &Path) -> (usize, u64) {
    let fixture = Fixture::start(place(dir));
    fixture.hear("new");
    fixture.wait_for(Condition::Ready);
    let old = fixture.snapshot().count - 1;
    let resets = REASONS.map(|reason| fixture.resets(reason)).iter().sum();
    drop(fixture);
    let fixture = Fixture::start(place(dir));
    fixture.wait_for(Condition::Ready);
    let begun_anew = REASONS.map(|reason| fixture.resets(reason));
    let kept = fixture.records_of("new");
    assert_eq!(
        kept, 1,
        "it is kept from now on, begun anew {begun_anew:?} for {REASONS:?}"
    );
    assert_eq!(fixture.snapshot().count, old + 1);
    (old, resets)
}

/// As [`go_on`] where sled itself has met damage and gone on with it: what it then loses is noticed at the
/// next start, and kept from there.
fn notice(dir: &Path) {
    let fixture = Fixture::start(place(dir));
    fixture.hear("new");
    fixture.wait_for(Condition::Ready);
    drop(fixture);
    let fixture = Fixture::start(place(dir));
    fixture.hear("newer");
    fixture.wait_for(Condition::Ready);
    let kept = fixture.records_of("new");
    let begun_anew: u64 = REASONS.map(|reason| fixture.resets(reason)).iter().sum();
    assert!(kept == 1 || begun_anew > 0, "lost and not noticed");
    drop(fixture);
    let fixture = Fixture::start(place(dir));
    fixture.wait_for(Condition::Ready);
    let begun_anew = REASONS.map(|reason| fixture.resets(reason));
    let kept = fixture.records_of("newer");
    assert_eq!(kept, 1, "begun anew {begun_anew:?} for {REASONS:?}");
}

fn assert_begins_anew(dir: &Path, what: &str) {
    assert_eq!(go_on(dir), (0, 1), "{what}");
}

#[test]
fn what_was_closed_cleanly_is_all_there() {
    assert_eq!(go_on(made().path()), (OLD, 0));
}

#[test]
fn a_flipped_bit_anywhere_begins_the_registry_anew() {
    let dir = made();
    for path in files(dir.path()) {
        let dir = made();
        let path = store_dir(dir.path()).join(path.file_name().expect("a name"));
        let mut bytes = fs::read(&path).expect("readable");
        for seed in 0..4_usize {
            let at = seed.wrapping_mul(0x9e37_79b9) % bytes.len();
            bytes[at] ^= 1 << seed;
        }
        fs::write(&path, &bytes).expect("writable");
        assert_begins_anew(dir.path(), &format!("{}", path.display()));
    }
}

#[test]
fn a_truncated_or_missing_file_begins_the_registry_anew() {
    for number in 0..files(made().path()).len() {
        for keep in [0, 1, 50, 99] {
            let dir = made();
            let path = &files(dir.path())[number];
            let bytes = fs::read(path).expect("readable");
            fs::write(path, &bytes[..bytes.len() * keep / 100]).expect("writable");
            assert_begins_anew(dir.path(), &format!("{keep} % of {}", path.display()));
        }
        let dir = made();
        fs::remove_file(&files(dir.path())[number]).expect("removable");
        assert_begins_anew(dir.path(), "a file is missing");
    }
}

#[test]
fn a_snapshot_left_unfinished_by_a_full_disk_costs_nothing() {
    let dir = made();
    let leftover = store_dir(dir.path()).join("snap.00000000000004D2.generating");
    fs::write(&leftover, b"half").expect("writable");
    assert_eq!(go_on(dir.path()), (OLD, 0));
    assert!(!leftover.exists());
}

#[test]
fn anything_in_the_place_of_a_file_or_directory_begins_the_registry_anew() {
    for number in 0..files(made().path()).len() {
        let dir = made();
        let path = &files(dir.path())[number];
        fs::remove_file(path).expect("removable");
        fs::create_dir(path).expect("a directory");
        assert_begins_anew(dir.path(), "a directory for a file");
    }
    type Spoil = fn(&Path);
    let spoil: [(&str, Spoil); 7] = [
        ("registry", |path| {
            fs::write(path, b"garbage").expect("writable")
        }),
        ("registry/devices.sled", |path| {
            fs::write(path, b"garbage").expect("writable")
        }),
        ("registry/devices.sled/blobs", |path| {
            fs::write(path, b"x").expect("writable")
        }),
        ("registry/sealed", |path| {
            fs::create_dir(path).expect("a directory")
        }),
        ("registry/sealed", |path| {
            fs::write(path, [0xff; 100]).expect("writable")
        }),
        ("registry/devices.sled/db", |path| {
            std::os::unix::fs::symlink("/nowhere/at/all", path).expect("a link");
        }),
        ("registry/devices.sled/db", |path| {
            let mode = rustix::fs::Mode::from(0o600);
            let fifo = rustix::fs::FileType::Fifo;
            rustix::fs::mknodat(rustix::fs::CWD, path, fifo, mode, 0).expect("a pipe");
        }),
    ];
    for (name, spoil) in spoil {
        let dir = made();
        let path = dir.path().join(name);
        if path.is_dir() {
            fs::remove_dir_all(&path).expect("removable");
        } else {
            fs::remove_file(&path).expect("removable");
        }
        spoil(&path);
        assert_begins_anew(dir.path(), name);
    }
}

#[test]
fn a_directory_of_garbage_begins_the_registry_anew() {
    let dir = tempfile::tempdir().expect("temp dir");
    let store_dir = store_dir(dir.path());
    fs::create_dir_all(&store_dir).expect("a directory");
    for name in ["db", "conf", "snap.0000000000000001", "blobs"] {
        let noise: Vec<u8> = (0..100_000_u32)
            .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
            .collect();
        fs::write(store_dir.join(name), noise).expect("writable");
    }
    assert_begins_anew(dir.path(), "garbage");
}

#[test]
fn a_process_killed_while_the_store_was_at_work_begins_the_registry_anew() {
    let dir = made();
    fs::remove_file(dir.path().join("registry/sealed")).expect("removable");
    assert_begins_anew(dir.path(), "no seal");
}

#[test]
fn a_store_grown_out_of_bounds_is_written_anew_from_memory() {
    let dir = made();
    let contents = Contents::read(&store_dir(dir.path()), u64::MAX, false).expect("readable");
    let place = SledPlace {
        bytes_max: contents.bytes,
        ..place(dir.path())
    };
    let fixture = Fixture::start(place);
    fixture.wait_for(Condition::Ready);
    let mut round = 0;
    until("the file to have grown too large", || {
        round += 1;
        for device in 0..OLD {
            fixture.hear(&format!("old-{device}"));
        }
        fixture.snapshot();
        fixture.resets("too_large") > 0
    });
    fixture.wait_for(Condition::Ready);
    assert_eq!(fixture.snapshot().count, OLD);
    assert_eq!(fixture.records_of("old-7"), round + 1, "counted once");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Past the seal, so that sled itself meets the damage.
    #[test]
    fn what_sled_makes_of_flipped_bits_does_not_reach_the_gateway(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0..8_u8), 1..6),
    ) {
        let dir = made();
        for (file, at, bit) in flips {
            let files = files(dir.path());
            let path = file.get(&files);
            let mut bytes = fs::read(path).expect("readable");
            // sled's file is mostly zeroes behind its first few pages.
            let at = at.index(bytes.len().min(8192));
            bytes[at] ^= 1_u8 << bit;
            fs::write(path, &bytes).expect("writable");
        }
        let contents = Contents::read(&store_dir(dir.path()), u64::MAX, false).expect("readable");
        let path = dir.path().join("registry/sealed");
        contents.seal(OLD as u64, &path, false).expect("writable");
        notice(dir.path());
    }
}
