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
mod lines;
mod load;
mod plot;
mod run;
mod scaling;
mod soak;
mod steady;
mod syscalls;
mod through;
mod usage;

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use system_tests::kafka::Kafka;
use system_tests::mock_kafka::MockKafka;
use system_tests::mosquitto::Mosquitto;

pub(crate) use bare::Bare;

use crate::error::BenchError;
use crate::machine::Machine;
use crate::report::{Report, Target};
use run::{Measured, Times};

/// As many as the real Kafka's topics and the mock cluster's have.
const PARTITIONS: u16 = 8;

/// The gateway's memory, in each of the measurements.
const RSS_MIB_MAX: f64 = 40.0;
const RSS: &str = "most memory (RSS), MiB";

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
    /// Shim frames over sixteen lines
    Lines,
    /// System calls a record
    Syscalls,
    /// Memory over ten minutes; in the first round alone
    Soak,
}

/// What to measure of the path.
#[derive(Args, Clone, Debug)]
pub(crate) struct Arguments {
    /// These figures alone; all of them otherwise
    #[arg(long, value_delimiter = ',')]
    only: Vec<Figures>,
    /// Instead of all that: plots of latency, CPU and bytes over one setting after the other, into this
    /// directory; once through, unless `--rounds` says more
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
    rounds: usize,
    machine: &Machine,
) -> Result<(), BenchError> {
    let world = World {
        on,
        short: true,
        round: 1,
    };
    curves::draw(&world, rounds, dir, machine)
}

/// What a round has at hand.
struct World<'a> {
    on: &'a Path,
    short: bool,
    /// From 1 on.
    round: usize,
}

impl World<'_> {
    fn times(&self) -> Times {
        Times {
            warm_up: Duration::from_secs(self.either(2, 1)),
            measured: Duration::from_secs(self.either(8, 4)),
        }
    }

    /// The times at a steady rate: long enough for two thousand messages, of which the slowest
    /// thousandth is more than one.
    fn times_at(&self, rate: f64) -> Times {
        let Times { warm_up, measured } = self.times();
        let enough = Duration::from_secs_f64(self.either(2_000.0, 0.0) / rate);
        Times {
            warm_up,
            measured: measured.max(enough),
        }
    }

    /// Does one thing, then the other: in every second round the other way about, so that neither
    /// always has the machine that the other left.
    fn in_turn<T>(
        &self,
        one: impl FnOnce() -> Result<T, BenchError>,
        other: impl FnOnce() -> Result<T, BenchError>,
    ) -> Result<(T, T), BenchError> {
        if self.round.is_multiple_of(2) {
            let other = other()?;
            return Ok((one()?, other));
        }
        Ok((one()?, other()?))
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
    let asked = |figures| arguments.only.is_empty() || arguments.only.contains(&figures);
    for round in 1..=rounds {
        let world = World { on, short, round };
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
                    Figures::Lines => lines::measure(&world, report)?,
                    Figures::Syscalls => syscalls::measure(&world, report)?,
                    Figures::Soak if round == 1 => soak::measure(&world, report)?,
                    Figures::Soak => {}
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
struct Cluster {
    broker: Broker,
    topics: Cell<u32>,
}

enum Broker {
    Apache(Kafka),
    Mock(RefCell<MockKafka>),
}

impl Cluster {
    fn apache() -> Self {
        Self::of(Broker::Apache(Kafka::start()))
    }

    fn mock() -> Self {
        let mut mock = MockKafka::start();
        // Apache Kafka has it made by the gateway.
        mock.create_topic("edge-gateway.offsets", 1);
        Self::of(Broker::Mock(RefCell::new(mock)))
    }

    /// Has Apache Kafka stand still for a time; the mock cluster goes on.
    fn freeze(&self, time: Duration) {
        if let Broker::Apache(kafka) = &self.broker {
            kafka.pause();
            std::thread::sleep(time);
            kafka.resume();
        }
    }

    fn of(broker: Broker) -> Self {
        Self {
            broker,
            topics: Cell::new(0),
        }
    }

    fn name(&self) -> &'static str {
        match self.broker {
            Broker::Apache(_) => "Apache Kafka",
            Broker::Mock(_) => "mock cluster",
        }
    }

    fn bootstrap(&self) -> String {
        match &self.broker {
            Broker::Apache(kafka) => kafka.bootstrap(),
            Broker::Mock(mock) => mock.borrow().bootstrap().to_owned(),
        }
    }

    /// Bytes a record that the files of a topic have; `None` where there are none.
    fn bytes_a_record(&self, topic: &str) -> Option<f64> {
        match &self.broker {
            Broker::Apache(kafka) => {
                let records = kafka.end_offsets(topic, i32::from(PARTITIONS));
                Some(kafka.topic_bytes(topic) as f64 / records as f64)
            }
            Broker::Mock(_) => None,
        }
    }

    /// Creates a topic that nobody has used yet. All names are of the same length.
    fn topic(&self) -> String {
        let number = self.topics.replace(self.topics.get() + 1);
        let name = format!("telemetry-{number:03}");
        match &self.broker {
            Broker::Apache(kafka) => kafka.create_topic(&name, i32::from(PARTITIONS), &[]),
            Broker::Mock(mock) => mock.borrow_mut().create_topic(&name, PARTITIONS),
        }
        name
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
        row(RSS.to_owned(), 1, rss, measured.rss_mib());
    }
}
