//! A stream as fast as the generator and the brokers go. What it asserts is memory and the count;
//! its speed is printed (`--nocapture`), since a timed assertion would fail with the machine.

use std::time::{Duration, Instant};

use system_tests::gateway::{Gateway, Settings};
use system_tests::mosquitto::{Mosquitto, Options};
use system_tests::oracle::Oracle;
use system_tests::sim::Sim;
use system_tests::{kafka, turn};

const COUNT: u32 = 400_000;
const WITHIN: Duration = Duration::from_secs(240);
const RSS_KIB_MAX: u64 = 64 * 1024;

#[test]
fn a_fast_stream_arrives_whole_in_little_memory() {
    let _turn = turn();
    let kafka = kafka::shared();
    let topic = kafka.new_topic(4);
    let broker = Mosquitto::start_with(Options {
        inflight_max: 2000,
        ..Options::default()
    });
    let settings =
        Settings::new(&kafka.bootstrap(), &topic).mqtt("city", &broker.url(), ("city/#", 1), "");
    let mut gateway = Gateway::start_ready(&settings);
    let start = Instant::now();
    let sim = Sim::start(&format!(
        "mqtt --url {} --topic city/{{district}}/{{device}} --qos 1 --devices 50 --connections 4 \
         --payload-bytes 200 --rate 0 --count {COUNT}",
        broker.url()
    ));
    let delivered = "edge_gateway_records_delivered_total";
    gateway.wait_metric(delivered, &[], f64::from(COUNT), WITHIN);
    let elapsed = start.elapsed().as_secs_f64();
    let usage = gateway.usage();
    assert_eq!(sim.finish(WITHIN).sent, u64::from(COUNT));
    println!(
        "MQTT QoS 1 to Kafka, 200-byte payloads: {:.0} records/s; gateway: {:.2} CPU-seconds a \
         million, {} KiB resident at most",
        f64::from(COUNT) / elapsed,
        usage.cpu_seconds / f64::from(COUNT) * 1e6,
        usage.rss_kib_max
    );
    Oracle::new(&kafka.bootstrap(), &[&topic]).expect_all(&topic, u64::from(COUNT), WITHIN);
    assert!(usage.rss_kib_max <= RSS_KIB_MAX, "{usage:?}");
    assert_eq!(gateway.drain().code(), Some(0));
}
