//! The path of a record: MQTT to the log, the log to Kafka, and both at once, each beside what the
//! libraries underneath can do in the same minutes ([`bare`]).
//!
//! The gateway is the real program, Mosquitto and Apache Kafka are the real brokers, all in processes
//! of their own on this machine; where Kafka would be what is measured, librdkafka's mock cluster
//! stands in for it. Gateway and ceiling take turns within each round.

mod bare;
mod curves;
mod drain;
mod gateway;
mod intake;
mod latency;
mod load;
mod plot;
mod run;
mod scaling;
mod steady;
mod syscalls;
mod through;
mod usage;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use system_tests::kafka::Kafka;
use system_tests::mock_kafka::MockKafka;
use system_tests::mosquitto::Mosquitto;

pub(crate) use bare::Bare;

use crate::error::BenchError;
use crate::report::{Report, Target};
use run::{Measured, Times};

/// As many as the real Kafka's topics and the mock cluster's have.
const PARTITIONS: u16 = 8;
const TOPIC: &str = "telemetry";

/// The gateway's memory, in each of the measurements.
const RSS_MIB_MAX: f64 = 40.0;

/// Which figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Figures {
    /// MQTT to the log, Kafka away
    Intake,
    /// A backlog to Kafka
    Drain,
    /// MQTT to Kafka, at the highest rate
    Through,
    /// From publisher to consumer, at steady rates
    Latency,
    /// Many devices, many sources, large payloads
    Scaling,
    /// System calls a record
    Syscalls,
}

/// What to measure of the path.
#[derive(Args, Clone, Debug)]
pub(crate) struct Arguments {
    /// These figures alone; all of them otherwise
    #[arg(long, value_delimiter = ',')]
    only: Vec<Figures>,
    /// Instead of all that: plots of latency, CPU and flash writes over commit interval and linger,
    /// into this directory
    #[arg(long)]
    curves: Option<PathBuf>,
}

impl Arguments {
    /// Where curves are to be drawn, if that is asked for.
    pub(crate) fn curves(&self) -> Option<&Path> {
        self.curves.as_deref()
    }
}

/// Draws the curves into `dir`.
pub(crate) fn draw(
    dir: &Path,
    on: &Path,
    (rounds, short): (usize, bool),
) -> Result<(), BenchError> {
    curves::draw(&World { on, short }, rounds, dir)
}

/// What a round has at hand.
struct World<'a> {
    on: &'a Path,
    short: bool,
}

impl World<'_> {
    fn times(&self) -> Times {
        Times {
            warm_up: Duration::from_secs(self.either(2, 1)),
            measured: Duration::from_secs(self.either(8, 4)),
        }
    }

    /// What goes for a full run, or a short one.
    fn either<T>(&self, full: T, short: T) -> T {
        if self.short { short } else { full }
    }
}

/// Measures, in each of the rounds, what was asked for.
pub(crate) fn measure(
    arguments: &Arguments,
    on: &Path,
    (rounds, short): (usize, bool),
    report: &mut Report,
) -> Result<(), BenchError> {
    let world = World { on, short };
    let asked = |figures| arguments.only.is_empty() || arguments.only.contains(&figures);
    for round in 1..=rounds {
        for figures in Figures::value_variants() {
            if asked(*figures) {
                let name = figures.to_possible_value().expect("none is hidden");
                eprintln!("{}, round {round} of {rounds}", name.get_name());
                match figures {
                    Figures::Intake => intake::measure(&world, report)?,
                    Figures::Drain => drain::measure(&world, report)?,
                    Figures::Through => through::measure(&world, report)?,
                    Figures::Latency => latency::measure(&world, report)?,
                    Figures::Scaling => scaling::measure(&world, report)?,
                    Figures::Syscalls => syscalls::measure(&world, report)?,
                }
            }
        }
    }
    Ok(())
}

/// Runs as a bare process.
pub(crate) fn run_bare(bare: &Bare) -> Result<ExitCode, BenchError> {
    bare::run(bare)
}

/// A broker as sensors and gateway share it.
fn mosquitto() -> Mosquitto {
    Mosquitto::start()
}

/// A cluster of one broker.
enum Cluster {
    Apache(Kafka),
    Mock(MockKafka),
}

impl Cluster {
    fn apache() -> Self {
        Self::Apache(Kafka::start())
    }

    fn mock() -> Self {
        let mut mock = MockKafka::start();
        // Apache Kafka has it made by the gateway.
        mock.create_topic("edge-gateway.offsets", 1);
        Self::Mock(mock)
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Apache(_) => "Apache Kafka",
            Self::Mock(_) => "mock cluster",
        }
    }

    fn bootstrap(&self) -> String {
        match self {
            Self::Apache(kafka) => kafka.bootstrap(),
            Self::Mock(mock) => mock.bootstrap().to_owned(),
        }
    }

    /// Creates a topic.
    fn topic(&mut self, name: &str) -> String {
        match self {
            Self::Apache(kafka) => kafka.create_topic(name, i32::from(PARTITIONS), &[]),
            Self::Mock(mock) => mock.create_topic(name, PARTITIONS),
        }
        name.to_owned()
    }
}

/// What is asked of the gateway beside a ceiling.
struct Asked {
    /// What it does.
    what: String,
    /// What the ceiling is.
    ceiling: &'static str,
    /// Records a second, of the ceiling's.
    rate: Target,
    /// CPU a record, of the ceiling's.
    cpu: Target,
}

impl Asked {
    /// Adds a sample of each figure.
    fn add(&self, measured: &Measured, ceiling: &Measured, report: &mut Report) {
        let Self {
            what,
            ceiling: name,
            ..
        } = self;
        let mut row = |name: String, decimals, target, sample| {
            report.add(&format!("{what}: {name}"), decimals, target, sample);
        };
        let rate = measured.per_second() / ceiling.per_second();
        row(format!("records/s, of the {name}'s"), 2, self.rate, rate);
        let cpu = measured.cpu_per_million() / ceiling.cpu_per_million();
        row(format!("CPU a record, of the {name}'s"), 2, self.cpu, cpu);
        for (of, figures) in [("", measured), (&format!("{name}, "), ceiling)] {
            let none = Target::None;
            row(format!("{of}records/s"), 0, none, figures.per_second());
            let cpu = figures.cpu_per_million();
            row(format!("{of}CPU-seconds a million"), 2, none, cpu);
            let switches = figures.switches_per_record();
            row(format!("{of}context switches a record"), 3, none, switches);
        }
        let rss = Target::AtMost(RSS_MIB_MAX);
        row("RSS, MiB".to_owned(), 1, rss, measured.rss_mib());
    }
}
