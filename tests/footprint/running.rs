//! Idle, and at a thousand records a second for long: real Mosquitto, a serial line, Apache Kafka.

use std::time::{Duration, Instant};

use system_tests::gateway::{Gateway, Settings};
use system_tests::mosquitto::Mosquitto;
use system_tests::pty::Pty;
use system_tests::sim::Sim;
use system_tests::{frame, is_long, kafka, turn};

use crate::SOON;
use crate::budget::Budget;
use crate::samples::{Memory, memory, slope, threads, wakeups};

const DELIVERED: &str = "edge_gateway_records_delivered_total";
/// Quiet time before an idle gateway is looked at: threads that tokio keeps for ten seconds end.
const SETTLE: Duration = Duration::from_secs(20);
const IDLE: Duration = Duration::from_secs(30);
/// Records a second.
const RATE: u32 = 1000;
const SOAK: Duration = Duration::from_secs(300);
const SOAK_LONG: Duration = Duration::from_secs(3600);
/// How long Kafka is frozen before the soak. Buffers grow with the largest batch so far, and malloc keeps
/// what they took: a machine that stalls for a second in its third minute makes a step that is no leak.
/// After this outage such steps lie behind.
const OUTAGE: Duration = Duration::from_secs(3);
/// Growth is counted after that.
const WARM_UP: Duration = Duration::from_secs(60);
const WARM_UP_LONG: Duration = Duration::from_secs(600);
const SAMPLE_INTERVAL: Duration = Duration::from_secs(2);

const IDLE_KIB_MAX: f64 = 12.0 * 1024.0;
const BUSY_KIB_MAX: f64 = 20.0 * 1024.0;
const WAKEUPS_MAX: f64 = 5.0;
/// Eight, one for the broker, one for the serial port.
const THREADS_MAX: f64 = 10.0;
/// A leak of three bytes a record makes 176. What is no leak has made up to 89, beside a build.
const GROWTH_KIB_A_MINUTE_MAX: f64 = 150.0;
/// In an hour a leak of a byte a record shows, which makes 59.
const GROWTH_KIB_A_MINUTE_MAX_LONG: f64 = 50.0;

#[test]
#[ignore = "six minutes, on the packaged program: make footprint"]
fn idle_and_at_a_thousand_records_a_second() {
    let _turn = turn();
    let kafka = kafka::shared();
    let topic = kafka.new_topic(1);
    let broker = Mosquitto::start();
    let mut line = Pty::open();
    let settings = Settings::new(&kafka.bootstrap(), &topic)
        .serial("press", line.path(), "shim")
        .mqtt("city", &broker.url(), ("city/#", 1), "");
    let mut gateway = Gateway::start_ready(&settings);
    line.send(&frame::opaque(7, 0, b"{}"));
    gateway.wait_metric(DELIVERED, &[], 1.0, SOON);
    let mut budget = Budget::default();
    idle(&gateway, &mut budget);
    let mut sim = Sim::start(&format!(
        "mqtt --url {} --topic city/{{district}}/{{device}} --qos 1 --devices 50 \
         --payload-bytes 200 --rate {RATE}",
        broker.url()
    ));
    gateway.wait_metric(DELIVERED, &[], f64::from(RATE), SOON);
    kafka.pause();
    std::thread::sleep(OUTAGE);
    kafka.resume();
    let behind = f64::from(RATE) * (OUTAGE.as_secs_f64() + 1.0);
    gateway.wait_metric(DELIVERED, &[], behind, SOON);
    let Memory { rss, anonymous } = memory(gateway.id());
    budget.tell("memory after an outage", rss as f64, "KiB");
    budget.tell("of that, heap and stacks", anonymous as f64, "KiB");
    busy(&gateway, &mut budget);
    assert!(sim.runs(), "the load went on");
    sim.stop_sending();
    let sent = sim.finish(SOON).sent;
    gateway.wait_metric(DELIVERED, &[], sent as f64, SOON);
    assert_eq!(gateway.drain().code(), Some(0));
    budget.settle();
}

fn idle(gateway: &Gateway, budget: &mut Budget) {
    std::thread::sleep(SETTLE);
    let woken = wakeups(gateway.id(), IDLE);
    let Memory { rss, anonymous } = memory(gateway.id());
    budget.at_most("memory, idle", rss as f64, IDLE_KIB_MAX, "KiB");
    budget.tell("of that, heap and stacks", anonymous as f64, "KiB");
    let all = woken.iter().map(|(_, often)| often).sum();
    budget.at_most("wake-ups a second, idle", all, WAKEUPS_MAX, "");
    for (name, often) in &woken {
        budget.tell(&format!("of that, {name}"), *often, "");
    }
    budget.at_most("threads, idle", woken.len() as f64, THREADS_MAX, "");
}

fn busy(gateway: &Gateway, budget: &mut Budget) {
    let begun = Instant::now();
    let (soak, warm_up, growth_max) = if is_long() {
        (SOAK_LONG, WARM_UP_LONG, GROWTH_KIB_A_MINUTE_MAX_LONG)
    } else {
        (SOAK, WARM_UP, GROWTH_KIB_A_MINUTE_MAX)
    };
    let mut samples = Vec::new();
    let mut most = memory(gateway.id());
    let mut threads_most = 0;
    while begun.elapsed() < soak {
        std::thread::sleep(SAMPLE_INTERVAL);
        let now = memory(gateway.id());
        if now.rss > most.rss {
            most = now;
        }
        threads_most = threads_most.max(threads(gateway.id()).len());
        samples.push((begun.elapsed(), now.rss));
    }
    budget.at_most(
        "memory at 1,000 records/s",
        most.rss as f64,
        BUSY_KIB_MAX,
        "KiB",
    );
    budget.tell("of that, heap and stacks", most.anonymous as f64, "KiB");
    budget.at_most(
        "threads at 1,000 records/s",
        threads_most as f64,
        THREADS_MAX,
        "",
    );
    let warm = samples.iter().filter(|(at, _)| *at >= warm_up);
    let warm: Vec<(f64, f64)> = warm
        .map(|(at, rss)| (at.as_secs_f64() / 60.0, *rss as f64))
        .collect();
    let growth = slope(&warm);
    budget.at_most("growth a minute", growth, growth_max, "KiB");
    budget.tell("over minutes", (soak - warm_up).as_secs_f64() / 60.0, "");
}
