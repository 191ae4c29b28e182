//! A file system that others fill to the last byte while the gateway takes records.

use std::path::PathBuf;

use system_tests::gateway::Gateway;
use system_tests::mount::{Mount, make_ext4};
use system_tests::{process, turn, wait};

use crate::load::Site;
use crate::{BUFFERED, COMMITTED, DELIVERED, SOON};

const DISK_BYTES: u64 = 64 << 20;
const SEGMENT_BYTES: u64 = 256 << 10;

/// Waits until `/health` says that there is no space.
fn wait_full(gateway: &Gateway) {
    wait::until("/health 503 for want of space", SOON, || {
        gateway
            .get("/health")
            .is_some_and(|(status, body)| status == 503 && body.contains("space"))
    });
}

fn wait_healthy(gateway: &Gateway) {
    wait::until("/health 200", SOON, || {
        gateway
            .get("/health")
            .is_some_and(|(status, _)| status == 200)
    });
}

fn committed(gateway: &Gateway) -> f64 {
    gateway.metric(COMMITTED, &[]).unwrap_or(0.0)
}

/// A full file system, twice: once it ends because others give space back, with Kafka away all the
/// while; once because Kafka returns and the log drains, with a gateway that was killed and started
/// on it. The kill shows that nothing was acknowledged out of memory meanwhile.
#[test]
fn nothing_is_lost_on_a_file_system_that_is_full_to_the_last_byte() {
    let _turn = turn();
    let dir = process::temp_dir();
    let image: PathBuf = dir.path().join("image");
    make_ext4(&image, DISK_BYTES);
    let disk = Mount::ext4(&image);
    let site = Site::start();
    let data_dir = disk.path().join("data");
    let settings = site.settings().data_dir(&data_dir);
    let settings = settings.section(&format!("[buffer]\nsegment_bytes = \"{SEGMENT_BYTES} B\""));
    let press = site.press();
    let mut gateway = Gateway::start_ready(&settings);
    let mut load = site.load(press, 1000);
    let away = site.kafka_away();
    gateway.wait_metric(BUFFERED, &[], 2000.0, SOON);

    let filler = disk.fill();
    wait_full(&gateway);
    let before = committed(&gateway);
    drop(filler);
    wait_healthy(&gateway);
    gateway.wait_metric(COMMITTED, &[], before + 4000.0, SOON);

    let filler = disk.fill();
    wait_full(&gateway);
    let buffered = gateway.metric(BUFFERED, &[]).unwrap();
    gateway.kill();
    // What the kill gave back, if anything.
    let rest = disk.fill();
    gateway.kill_and_restart();
    gateway.wait_ready();
    wait_full(&gateway);
    assert!(disk.bytes_free() < SEGMENT_BYTES, "still full");
    let after = gateway.metric(BUFFERED, &[]).unwrap();
    assert!(after >= buffered, "{after} of {buffered} records are left");
    load.assert_runs();
    drop(away);
    gateway.wait_metric(DELIVERED, &[], buffered, SOON);
    // Delivered segments are space enough to go on with, and to give back.
    wait_healthy(&gateway);
    wait::until("deleted segments", SOON, || {
        disk.bytes_free() >= SEGMENT_BYTES
    });
    drop((filler, rest));
    site.expect_all(load, gateway);
}
