//! Disks that are full or can't be written. They are mounted: where that is not permitted these
//! tests fail.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::*;

/// A file system in memory, unmounted at the end.
struct Tmpfs {
    dir: tempfile::TempDir,
}

impl Tmpfs {
    fn mount(options: &str) -> Self {
        let dir = tempfile::tempdir().expect("temp dir");
        run(
            "mount",
            &["-t", "tmpfs", "-o", options, "tmpfs"],
            dir.path(),
        );
        Self { dir }
    }

    fn make_read_only(&self) {
        run("mount", &["-o", "remount,ro"], self.dir.path());
    }

    fn place(&self, free_bytes_min: u64) -> SledPlace {
        SledPlace {
            free_bytes_min,
            ..SledPlace::new(self.dir.path().join("registry"))
        }
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // A store that was left behind may still have files open.
        let unmounted = Command::new("umount")
            .arg("--lazy")
            .arg(self.dir.path())
            .status();
        let is_done = unmounted.is_ok_and(|status| status.success());
        assert!(is_done || std::thread::panicking(), "still mounted");
    }
}

fn run(program: &str, arguments: &[&str], path: &Path) {
    let output = Command::new(program).args(arguments).arg(path).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "this test must be permitted to mount: {program} {arguments:?}: {said}"
    );
}

/// Records are taken, whatever the store does.
fn assert_goes_on(fixture: &Fixture) {
    for device in 0..40 {
        fixture.hear(&device.to_string());
    }
    assert_eq!(fixture.snapshot().count, 40);
}

#[test]
fn a_full_disk_does_not_stop_the_registry_in_memory() {
    // sled fails in different places: opening, its first segment, its second.
    for size in ["8k", "64k", "512k", "600k", "1m", "1200k"] {
        let disk = Tmpfs::mount(&format!("size={size}"));
        let mut fixture = Fixture::start(disk.place(0));
        for round in 0..50 {
            for device in 0..40 {
                fixture.hear(&format!("{device}-{}", "x".repeat(200)));
            }
            assert_eq!(fixture.snapshot().count, 40, "{size}, round {round}");
            std::thread::yield_now();
        }
        until("the store to do something or wait", || {
            fixture.condition() != Condition::Opening
        });
        fixture.registry.close();
    }
}

#[test]
fn with_little_space_nothing_is_written_until_it_returns() {
    let disk = Tmpfs::mount("size=8m");
    let filler = disk.dir.path().join("filler");
    fs::write(&filler, vec![1; 6 << 20]).expect("writable");
    let fixture = Fixture::start(disk.place(4 << 20));
    fixture.wait_for(Condition::Waiting);
    assert_goes_on(&fixture);
    let error = fixture.snapshot().store.last_error.expect("why it waits");
    assert!(error.contains("bytes of disk are free"), "{error}");
    assert_eq!(
        fs::read_dir(disk.dir.path().join("registry"))
            .expect("there")
            .count(),
        0
    );
    fs::remove_file(&filler).expect("removable");
    fixture.wait_for(Condition::Ready);
    fs::write(&filler, vec![1; 6 << 20]).expect("writable");
    fixture.wait_for(Condition::Waiting);
    fixture.hear("later");
    fs::remove_file(&filler).expect("removable");
    fixture.wait_for(Condition::Ready);
    drop(fixture);
    let fixture = Fixture::start(disk.place(4 << 20));
    fixture.wait_for(Condition::Ready);
    assert_eq!(fixture.snapshot().count, 41);
    assert_eq!(fixture.records_of("7"), 1, "counted once");
}

#[test]
fn a_read_only_disk_does_not_stop_the_registry_in_memory() {
    let disk = Tmpfs::mount("size=8m");
    let fixture = Fixture::start(disk.place(0));
    fixture.hear("before");
    fixture.wait_for(Condition::Ready);
    drop(fixture);
    disk.make_read_only();
    let fixture = Fixture::start(disk.place(0));
    fixture.wait_for(Condition::Waiting);
    assert_goes_on(&fixture);
    assert!(fixture.resets("io") > 0);
}
