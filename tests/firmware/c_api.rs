//! The shim's C interface: its own test under a sanitizer, and the examples with the gateway at the
//! other end.

use std::process::{Command, Output};
use std::time::Duration;

use system_tests::board::Board;
use system_tests::gateway::{Gateway, Settings};
use system_tests::oracle::Oracle;
use system_tests::process::Process;
use system_tests::{kafka, process, turn, wait};

use crate::{COMMITTED, GAPS, SOON};

fn api_test(arguments: &[&str]) -> Output {
    Command::new(process::firmware("api-test"))
        .args(arguments)
        .output()
        .unwrap()
}

#[test]
fn the_c_interface_keeps_within_every_buffer_it_is_given() {
    let output = api_test(&[]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", output.status);
}

#[test]
fn the_sanitizer_sees_a_step_of_the_library_itself() {
    let output = api_test(&["overrun"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(said.contains("heap-buffer-overflow"), "{said}");
    assert!(said.contains("frame.rs"), "in Rust, not in C: {said}");
}

#[test]
fn every_message_of_a_program_in_c_arrives_though_the_gateway_is_killed() {
    const COUNT: u64 = 400;
    let _turn = turn();
    let kafka = kafka::shared();
    let topic = kafka.new_topic(1);
    let dir = process::temp_dir();
    let line = dir.path().join("line");
    let mut command = Command::new(process::firmware("host-node"));
    command.arg(&line).arg(COUNT.to_string());
    let mut node = Process::start("host-node", command, dir.path(), None);
    let settings = Settings::new(&kafka.bootstrap(), &topic).serial("node", &line, "shim");
    let mut gateway = Gateway::start_ready(&settings);
    gateway.wait_metric(COMMITTED, &[("source", "node")], 100.0, SOON);
    gateway.kill_and_restart();
    let status = node.wait(SOON);
    assert!(status.success(), "{status}: {}", node.log());
    assert!(
        node.log()
            .contains(&format!("{COUNT} messages acknowledged, 0 lost"))
    );
    Oracle::new(&kafka.bootstrap(), &[&topic]).expect_all(&topic, COUNT, SOON);
    assert_eq!(gateway.drain().code(), Some(0));
}

#[test]
fn messages_of_a_board_programmed_in_c_arrive() {
    let _turn = turn();
    let kafka = kafka::shared();
    let topic = kafka.new_topic(1);
    let mut board = Board::start("board-node.elf");
    let settings = Settings::new(&kafka.bootstrap(), &topic).serial("node", board.line(), "shim");
    let mut gateway = Gateway::start_ready(&settings);
    gateway.wait_metric(COMMITTED, &[("source", "node")], 5.0, SOON);
    board.freeze();
    let gaps = gateway.metric(GAPS, &[("source", "node")]);
    assert_eq!(gateway.drain().code(), Some(0));
    let mut oracle = Oracle::new(&kafka.bootstrap(), &[&topic]);
    wait::until("what was committed, in Kafka", SOON, || {
        oracle.read_for(Duration::from_millis(200));
        oracle.counts(&topic).distinct >= 5
    });
    let counts = oracle.counts(&topic);
    assert_eq!(
        (counts.missing, counts.out_of_order, counts.devices),
        (0, 0, 1)
    );
    assert_eq!(gaps.unwrap_or(0.0), 0.0);
}
