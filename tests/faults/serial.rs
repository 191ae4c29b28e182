//! A noisy serial line through everything at once: Kafka away, the buffer full, the gateway killed.

use std::time::{Duration, Instant};

use system_tests::gateway::{Gateway, Settings};
use system_tests::kafka::Kafka;
use system_tests::oracle::Oracle;
use system_tests::sim::Sim;
use system_tests::{process, turn, wait};

use crate::{COMMITTED, DELIVERED, SOON};

/// How long nothing is committed before the buffer counts as full.
const STALL: Duration = Duration::from_secs(3);

/// Waits until devices have been held off for a while.
fn wait_full(gateway: &Gateway) {
    let mut seen = (gateway.metric(COMMITTED, &[]), Instant::now());
    wait::until("a full buffer", SOON, || {
        let committed = gateway.metric(COMMITTED, &[]);
        if committed != seen.0 {
            seen = (committed, Instant::now());
        }
        seen.1.elapsed() > STALL
    });
}

#[test]
fn devices_on_a_noisy_line_lose_nothing_while_kafka_is_away_and_the_buffer_full() {
    let _turn = turn();
    let mut kafka = Kafka::start();
    let topic = kafka.new_topic(3);
    let dir = process::temp_dir();
    let line = dir.path().join("line");
    let mut sim = Sim::start(&format!(
        "serial --pty {} --devices 4 --rate 2500 --payload-bytes 1000 --noise 0.01 --seed 9",
        line.display()
    ));
    let settings = Settings::new(&kafka.bootstrap(), &topic)
        .serial("press", &line, "shim")
        .section("[buffer]\nbytes_max = \"16 MiB\"");
    let mut gateway = Gateway::start_ready(&settings);
    gateway.wait_metric(DELIVERED, &[], 500.0, SOON);
    kafka.stop();
    wait_full(&gateway);
    let full = gateway.metric("edge_gateway_buffer_bytes", &[]).unwrap();
    assert!(full > f64::from(8 << 20), "{full} bytes are no full buffer");
    for _ in 0..3 {
        gateway.kill_and_restart();
        gateway.wait_ready();
        wait_full(&gateway);
    }
    assert!(sim.runs(), "the load went on");
    kafka.start_again();
    gateway.wait_metric(DELIVERED, &[], 5000.0, SOON);
    gateway.kill_and_restart();
    gateway.wait_ready();
    sim.stop_sending();
    let report = sim.finish(SOON);
    assert_eq!(report.acknowledged, Some(report.sent));
    Oracle::new(&kafka.bootstrap(), &[&topic]).expect_all(&topic, report.sent, SOON);
    let rejected = gateway.metric("edge_gateway_frames_rejected_total", &[]);
    assert!(rejected > Some(0.0), "{rejected:?}: the noise was real");
    assert_eq!(gateway.drain().code(), Some(0));
}
