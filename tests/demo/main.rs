//! The main job in one terminal: telemetry from 54 devices, ten seconds without Kafka, a SIGKILL of
//! the gateway, and at the end a table of what every topic got.
//!
//! Everything is real: Debian's Mosquitto, the gateway with `config/examples/smart-city.toml` (its
//! addresses replaced), pseudo-terminals as serial lines. Kafka is librdkafka's embedded mock cluster
//! unless Apache Kafka is asked for. Exits 0 only if nothing was lost and nothing is out of order.

mod cluster;
mod screen;

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use system_tests::gateway::Gateway;
use system_tests::mosquitto::Mosquitto;
use system_tests::oracle::Oracle;
use system_tests::sim::Sim;

use cluster::{Cluster, KafkaKind};
use screen::{Row, Screen};

/// Shows the gateway at work, through an outage and a kill.
#[derive(Debug, Parser)]
struct Arguments {
    /// The Kafka to deliver to
    #[arg(long, value_enum, default_value_t = KafkaKind::Embedded)]
    kafka: KafkaKind,
}

const TOPICS: [&str; 4] = [
    "traffic-data",
    "air-quality",
    "energy-usage",
    "factory-telemetry",
];
const PARTITIONS: u16 = 4;
const PRESSES: usize = 4;
/// When things happen, in seconds from the first message.
const KAFKA_GOES: u64 = 6;
const KAFKA_RETURNS: u64 = 16;
const GATEWAY_KILLED: u64 = 21;
const SENDING_ENDS: u64 = 30;
/// Longest wait for the rest after the last message.
const DRAIN_WITHIN: Duration = Duration::from_secs(60);
const TICK: Duration = Duration::from_millis(250);
const CONFIG: &str = include_str!("../../config/examples/smart-city.toml");

/// What the three kinds of MQTT devices send: profile, topic, devices, messages a second.
const CITY: [(&str, &str, u64, u64); 3] = [
    ("traffic", "city/{district}/traffic/{device}", 20, 200),
    ("air", "city/{district}/air/{device}", 15, 150),
    ("energy", "city/{district}/energy/{device}", 15, 150),
];
/// Messages a second on each serial line.
const PRESS_RATE: u64 = 20;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut demo = Demo::start(arguments.kafka);
    let rows = demo.run();
    let whole = rows.iter().all(Row::is_whole);
    println!("{}", screen::table(&rows));
    println!("highest buffer fill: {} records", demo.fill_max);
    println!(
        "{}",
        if whole {
            "nothing lost, nothing out of order"
        } else {
            "NOT whole"
        }
    );
    if whole {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// One step of the story, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Flowing,
    KafkaAway,
    KafkaBack,
    GatewayKilled,
}

struct Demo {
    cluster: Cluster,
    gateway: Gateway,
    oracle: Oracle,
    /// One list of simulators a topic.
    sims: Vec<Vec<Sim>>,
    phase: Phase,
    fill_max: u64,
    _broker: Mosquitto,
    _lines: tempfile::TempDir,
}

impl Demo {
    fn start(kind: KafkaKind) -> Self {
        println!("Kafka: {}", kind.description());
        let mut cluster = Cluster::start(kind);
        for topic in TOPICS {
            cluster.create_topic(topic, PARTITIONS);
        }
        let broker = Mosquitto::start();
        let lines = tempfile::tempdir().expect("a directory for the serial lines");
        let bootstrap = cluster.bootstrap();
        let mut gateway = Gateway::start_with_text(|dir, http_port| {
            configuration(&bootstrap, &broker.url(), lines.path(), dir, http_port)
        });
        let presses = press_simulators(lines.path());
        // Nobody keeps what is published before the gateway's first subscription.
        gateway.wait_ready();
        let mut sims = city_simulators(&broker.url());
        sims.push(presses);
        let oracle = Oracle::new(&bootstrap, &TOPICS);
        Self {
            cluster,
            gateway,
            oracle,
            sims,
            phase: Phase::Flowing,
            fill_max: 0,
            _broker: broker,
            _lines: lines,
        }
    }

    fn run(&mut self) -> Vec<Row> {
        let screen = Screen::new(SENDING_ENDS, &TOPICS);
        let began = Instant::now();
        while self.sending() {
            let seconds = began.elapsed().as_secs();
            self.act(seconds, &screen);
            self.oracle.read_for(TICK);
            self.show(seconds, &screen);
        }
        screen.say("all devices are done and acknowledged; waiting for the rest");
        let sent = self.finish();
        let deadline = Instant::now() + DRAIN_WITHIN;
        while Instant::now() < deadline && self.distinct() < sent.iter().sum() {
            self.oracle.read_for(TICK);
            self.show(SENDING_ENDS, &screen);
        }
        // What comes too much would come now.
        self.oracle.read_for(Duration::from_secs(1));
        screen.finish();
        let drained = self.gateway.drain();
        assert!(drained.success(), "the gateway drains: {drained}");
        let row = |(topic, sent): (&&'static str, &u64)| Row {
            topic,
            sent: *sent,
            counts: self.oracle.counts(topic),
        };
        TOPICS.iter().zip(&sent).map(row).collect()
    }

    fn sending(&mut self) -> bool {
        self.sims.iter_mut().flatten().any(|sim| sim.runs())
    }

    /// Messages sent, by topic. Every simulator has its own exit checked: all were acknowledged.
    fn finish(&mut self) -> Vec<u64> {
        let finish = |sims: Vec<Sim>| {
            sims.into_iter()
                .map(|sim| sim.finish(DRAIN_WITHIN).sent)
                .sum()
        };
        std::mem::take(&mut self.sims)
            .into_iter()
            .map(finish)
            .collect()
    }

    fn distinct(&self) -> u64 {
        TOPICS
            .iter()
            .map(|topic| self.oracle.counts(topic).distinct)
            .sum()
    }

    /// Lets happen what is due.
    fn act(&mut self, seconds: u64, screen: &Screen) {
        self.phase = match self.phase {
            Phase::Flowing if seconds >= KAFKA_GOES => {
                screen.say("Kafka is taken away for 10 s");
                self.cluster.take_away();
                Phase::KafkaAway
            }
            Phase::KafkaAway if seconds >= KAFKA_RETURNS => {
                screen.say("Kafka is back");
                self.cluster.bring_back();
                Phase::KafkaBack
            }
            Phase::KafkaBack if seconds >= GATEWAY_KILLED => {
                screen.say("the gateway is killed (SIGKILL) and started again");
                self.gateway.kill_and_restart();
                Phase::GatewayKilled
            }
            phase => phase,
        };
    }

    fn show(&mut self, seconds: u64, screen: &Screen) {
        let fill = self
            .gateway
            .metric("edge_gateway_buffer_records", &[])
            .unwrap_or(0.0) as u64;
        self.fill_max = self.fill_max.max(fill);
        let delivered = TOPICS.map(|topic| self.oracle.counts(topic).distinct);
        screen.show(seconds, self.phase == Phase::KafkaAway, fill, &delivered);
    }
}

/// The example's configuration with the addresses of this run.
fn configuration(kafka: &str, mqtt: &str, lines: &Path, dir: &Path, http_port: u16) -> String {
    let mut config: toml::Table = CONFIG.parse().expect("the example is valid TOML");
    let mut set = |path: &[&str], value: toml::Value| {
        let (key, sections) = path.split_last().expect("a path has a key");
        let section = sections.iter().fold(&mut config, |table, name| {
            table[*name]
                .as_table_mut()
                .expect("a section of the example")
        });
        section.insert((*key).to_owned(), value);
    };
    set(
        &["gateway", "data_dir"],
        dir.join("data").to_string_lossy().into_owned().into(),
    );
    set(&["sources", "city", "url"], mqtt.into());
    for number in 1..=PRESSES {
        let line = press_line(lines, number);
        set(
            &["sources", &format!("press-{number}"), "device"],
            line.into(),
        );
    }
    set(
        &["kafka", "brokers"],
        toml::Value::Array(vec![kafka.into()]),
    );
    set(&["http", "listen"], format!("127.0.0.1:{http_port}").into());
    toml::to_string(&config).expect("a table is always TOML")
}

fn press_line(lines: &Path, number: usize) -> String {
    lines
        .join(format!("press-{number}"))
        .to_string_lossy()
        .into_owned()
}

/// Starts the MQTT devices, in the order of [`TOPICS`].
fn city_simulators(mqtt: &str) -> Vec<Vec<Sim>> {
    let kind = |(profile, topic, devices, rate)| {
        let count = rate * SENDING_ENDS;
        vec![Sim::start(&format!(
            "mqtt --url {mqtt} --topic {topic} --profile {profile} --devices {devices} \
             --rate {rate} --count {count} --seed 1 --qos 1"
        ))]
    };
    CITY.into_iter().map(kind).collect()
}

/// Starts the serial devices: the gateway's ports are there once these are.
fn press_simulators(lines: &Path) -> Vec<Sim> {
    let count = PRESS_RATE * SENDING_ENDS;
    let press = |number: usize| {
        Sim::start(&format!(
            "serial --pty {} --first-device {number} --devices 1 --rate {PRESS_RATE} \
             --count {count} --seed {number}",
            press_line(lines, number)
        ))
    };
    (1..=PRESSES).map(press).collect()
}
