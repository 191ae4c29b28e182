//! A log directory moves between the architectures: a disk put into another board, or a gateway
//! begun on a server. `make test-arm64` runs this with the arm64 program under test.

use std::path::Path;
use std::process::Command;

use system_tests::gateway::{self, Gateway};
use system_tests::kafka::Kafka;
use system_tests::mosquitto::Mosquitto;
use system_tests::oracle::Oracle;
use system_tests::turn;

use crate::exactly_once::{settings, with_city};
use crate::{BUFFERED, DELIVERED, SOON, city};

/// Messages a second.
const RATE: u32 = 500;

/// Everything of a buffer, as `program` reads it.
fn exported(mut program: Command, data_dir: &Path) -> Vec<u8> {
    program
        .args(["buffer", "export", "--data-dir"])
        .arg(data_dir);
    let output = program.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program:?}: {said}");
    output.stdout
}

/// Stores more than was there while Kafka is paused, is killed, and is read alike by both programs.
fn store(gateway: &mut Gateway, kafka: &Kafka) {
    gateway.wait_ready();
    let delivered = gateway.metric(DELIVERED, &[]).unwrap_or(0.0);
    gateway.wait_metric(DELIVERED, &[], delivered + 500.0, SOON);
    kafka.pause();
    let stored = gateway.metric(BUFFERED, &[]).unwrap_or(0.0);
    gateway.wait_metric(BUFFERED, &[], stored + 1000.0, SOON);
    gateway.kill();
    let data_dir = gateway.data_dir();
    let by_native = exported(gateway::native(), &data_dir);
    let lines = by_native.iter().filter(|byte| **byte == b'\n').count();
    assert!(lines >= 1000, "{lines} records exported");
    assert!(
        by_native == exported(gateway::under_test(), &data_dir),
        "the two programs read one log differently"
    );
}

#[test]
#[ignore = "make test-arm64: takes a program for another architecture under test"]
fn a_log_goes_from_one_architecture_to_the_other_and_back() {
    let _turn = turn();
    let programs = [gateway::native(), gateway::under_test()];
    assert_ne!(
        programs[0].get_program(),
        programs[1].get_program(),
        "EDGE_GATEWAY_UNDER_TEST and EDGE_GATEWAY_RUNNER say what else is under test"
    );
    let kafka = Kafka::start();
    let topic = kafka.new_topic(3);
    let broker = Mosquitto::start();
    let settings = settings(&kafka.bootstrap(), &topic, "exactly_once")
        .section("[buffer]\nsegment_bytes = \"256 KiB\"\ncompression = \"zstd\"");
    let mut gateway = Gateway::start_ready(&with_city(settings, &broker));
    let city = city(&broker, RATE);
    store(&mut gateway, &kafka);
    for program in [gateway::native(), gateway::under_test()] {
        gateway.kill_and_restart_as(program);
        kafka.resume();
        store(&mut gateway, &kafka);
    }
    gateway.kill_and_restart_as(gateway::native());
    kafka.resume();
    gateway.wait_ready();
    city.stop_sending();
    let sent = city.finish(SOON).sent;
    Oracle::new(&kafka.bootstrap(), &[&topic]).expect_all(&topic, sent, SOON);
    assert_eq!(gateway.drain().code(), Some(0));
}
