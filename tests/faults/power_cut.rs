//! The power goes while the log is empty: what the gateway knows of its devices is on the disk.

use std::path::Path;

use system_tests::gateway::{Gateway, Settings};
use system_tests::oracle::Oracle;
use system_tests::pty::Pty;
use system_tests::{frame, kafka, process, turn, wait};

use crate::{BUFFERED, SOON};

fn send(line: &mut Pty, sequence: u32) {
    let payload = format!(r#"{{"source":"t","device":"d","sequence":{sequence}}}"#);
    line.send(&frame::opaque(7, sequence, payload.as_bytes()));
}

/// What lies on the disk at this moment. A socket is a name alone.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            copy(&entry.path(), &to);
        } else if kind.is_file() {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[test]
fn a_link_session_outlives_a_power_cut_with_an_emptied_log() {
    let _turn = turn();
    let kafka = kafka::shared();
    let topic = kafka.new_topic(1);
    let disk = process::temp_dir();
    let mut line = Pty::open();
    let settings = Settings::new(&kafka.bootstrap(), &topic).serial("press", line.path(), "shim");
    let mut gateway = Gateway::start_ready(&settings);
    (0..10).for_each(|sequence| send(&mut line, sequence));
    let mut oracle = Oracle::new(&kafka.bootstrap(), &[&topic]);
    oracle.expect_all(&topic, 10, SOON);
    wait::until("an empty log", SOON, || {
        gateway.metric(BUFFERED, &[]) == Some(0.0)
    });
    copy(&gateway.data_dir(), disk.path());
    gateway.kill();
    drop(gateway);

    let mut gateway = Gateway::start_ready(&settings.data_dir(disk.path()));
    // Its ACK was lost with the power: the device sends the last message again, then the next.
    send(&mut line, 9);
    send(&mut line, 10);
    oracle.expect_all(&topic, 11, SOON);
    let press = [("source", "press")];
    let figure = |name| gateway.metric(name, &press);
    assert_eq!(
        figure("edge_gateway_duplicates_suppressed_total"),
        Some(1.0)
    );
    assert_eq!(figure("edge_gateway_records_received_total"), Some(1.0));
    assert_eq!(figure("edge_gateway_link_gap_records_total"), Some(0.0));
    assert_eq!(gateway.drain().code(), Some(0));
}
