//! From MQTT to Kafka with everything running, at the highest rate at which nothing queues up:
//! beside a bare client and a bare producer joined in one loop. That loop has no log: what it takes
//! is lost if it dies.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use system_tests::gateway::Gateway;
use system_tests::mosquitto::Mosquitto;

use super::bare::{Bare, Running, Task};
use super::gateway::{self, Counted, DELIVERED};
use super::load::{Load, Pace, Publisher};
use super::run::{self, Measured, Subject};
use super::{Asked, Cluster, World, drain, intake, mosquitto};
use crate::error::BenchError;
use crate::report::{Report, Target};

/// Messages between publisher and Kafka: less than a second of them.
const AHEAD: u64 = 40_000;
const AHEAD_BYTES: u64 = 32 << 20;
const RATE_MIN: f64 = 0.8;
const CPU_MAX: f64 = 1.5;

/// Adds a sample of each figure, with each cluster.
pub(super) fn measure(world: &World<'_>, report: &mut Report) -> Result<(), BenchError> {
    for start in [Cluster::apache, Cluster::mock] {
        let cluster = drain::warm(start)?;
        let client = intake::ceiling(world)?;
        let producer = drain::ceiling(
            (&cluster, &cluster.topic()),
            Task::Kafka,
            drain::records(world),
        )?;
        let asked = Asked {
            what: format!("MQTT to Kafka, {}", cluster.name()),
            ceiling: "bare loop",
            rate: Target::AtLeast(RATE_MIN),
            cpu: Target::None,
        };
        let case = Case::USUAL;
        let (measured, ceiling) = world.in_turn(
            || measured(world, &cluster, case),
            || ceiling(world, &cluster),
        )?;
        asked.add(&measured, &ceiling, report);
        let added = client.cpu_per_million() + producer.cpu_per_million();
        let what = format!(
            "{}: CPU a record, of bare client's and producer's added",
            asked.what
        );
        let of_sum = measured.cpu_per_million() / added;
        report.add(&what, 2, Target::AtMost(CPU_MAX), of_sum);
    }
    Ok(())
}

fn ceiling(world: &World<'_>, cluster: &Cluster) -> Result<Measured, BenchError> {
    let broker = mosquitto();
    let bare = Bare::new(Task::Both)
        .mqtt(broker.port())
        .kafka(&cluster.bootstrap(), &cluster.topic());
    let bare = Running::start(&bare)?;
    bare.wait_ready();
    loaded(world, &broker, &bare, Case::USUAL)
}

/// What comes in, and how.
#[derive(Clone, Copy, Debug)]
pub(super) struct Case {
    pub(super) load: Load,
    pub(super) sources: u64,
    /// Records a second; the highest rate if none.
    pub(super) rate: Option<f64>,
}

impl Case {
    /// 100 devices, 200 bytes, one source, at the highest rate.
    pub(super) const USUAL: Self = Self {
        load: Load::USUAL,
        sources: 1,
        rate: None,
    };
}

/// The gateway with everything around it.
pub(super) fn measured(
    world: &World<'_>,
    cluster: &Cluster,
    case: Case,
) -> Result<Measured, BenchError> {
    let topic = cluster.topic();
    let broker = mosquitto();
    let data = gateway::data_dir(world.on)?;
    let bootstrap = cluster.bootstrap();
    let kafka = (bootstrap.as_str(), topic.as_str());
    let settings = gateway::settings(kafka, &broker.url(), case.sources, data.path(), "");
    let gateway = Gateway::start_ready(&settings);
    let subject = Counted {
        gateway: &gateway,
        counter: DELIVERED,
    };
    loaded(world, &broker, &subject, case)
}

/// Measures a subject while a publisher follows it, or keeps its rate.
pub(super) fn loaded(
    world: &World<'_>,
    broker: &Mosquitto,
    subject: &impl Subject,
    case: Case,
) -> Result<Measured, BenchError> {
    let Case { load, .. } = case;
    let done: Arc<AtomicU64> = Arc::default();
    // Of large messages fewer are under way.
    let ahead = AHEAD.min(AHEAD_BYTES / load.payload_bytes as u64);
    let pace = match case.rate {
        None => Pace::Following {
            done: Arc::clone(&done),
            ahead,
        },
        Some(rate) => Pace::PerSecond {
            rate,
            epoch: Instant::now(),
        },
    };
    let publisher = Publisher::start(broker.port(), load, case.sources, pace)?;
    let measured = run::for_time(subject, world.times(), &done)?;
    publisher.finish()?;
    Ok(measured)
}
