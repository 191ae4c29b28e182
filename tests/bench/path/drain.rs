//! From a log that has gathered a backlog to Kafka: beside a bare producer that sends the same.

use system_tests::gateway::Gateway;

use super::bare::{Bare, Running, Task};
use super::gateway::{self, Counted, DELIVERED};
use super::run::{self, Measured};
use super::{Asked, Cluster, TOPIC, World, mosquitto};
use crate::error::BenchError;
use crate::report::{Report, Target};

/// Of a backlog.
pub(super) const RECORDS: u64 = 2_000_000;
/// Of a short run's.
pub(super) const RECORDS_SHORT: u64 = 500_000;
const RATE_MIN: f64 = 0.9;
const CPU_MAX: f64 = 1.25;
/// By which names the gateway and the bare process know the ways of delivery.
const DELIVERIES: [(&str, Task); 2] = [
    ("at_least_once", Task::Kafka),
    ("exactly_once", Task::Transactions),
];

/// Adds a sample of each figure, with each cluster and way of delivery.
pub(super) fn measure(world: &World<'_>, report: &mut Report) -> Result<(), BenchError> {
    for start in [Cluster::apache, Cluster::mock] {
        for (delivery, task) in DELIVERIES {
            let records = world.either(RECORDS, RECORDS_SHORT);
            // A cluster of its own for each, so that neither has the other's content in memory.
            let ceiling = ceiling(start(), task, records)?;
            let cluster = start();
            let asked = Asked {
                what: format!("backlog, {delivery}, {}", cluster.name()),
                ceiling: "bare producer",
                rate: Target::AtLeast(RATE_MIN),
                cpu: Target::AtMost(CPU_MAX),
            };
            let measured = measured(world, cluster, delivery, records)?;
            asked.add(&measured, &ceiling, report);
        }
    }
    Ok(())
}

/// A bare producer that sends so many.
pub(super) fn ceiling(
    mut cluster: Cluster,
    task: Task,
    records: u64,
) -> Result<Measured, BenchError> {
    let topic = cluster.topic(TOPIC);
    let bare = Bare::new(task)
        .kafka(&cluster.bootstrap(), &topic)
        .records(records);
    run::for_count(&Running::start(&bare)?, records)
}

fn measured(
    world: &World<'_>,
    mut cluster: Cluster,
    delivery: &str,
    records: u64,
) -> Result<Measured, BenchError> {
    let topic = cluster.topic(TOPIC);
    // Nobody publishes there.
    let broker = mosquitto();
    let data = gateway::data_dir(world.on)?;
    gateway::fill(data.path(), records)?;
    let bootstrap = cluster.bootstrap();
    let settings = gateway::settings((&bootstrap, &topic), &broker.url(), 1, data.path(), "")
        .kafka(&format!("delivery = \"{delivery}\""));
    let gateway = Gateway::start(&settings);
    let subject = Counted {
        gateway: &gateway,
        counter: DELIVERED,
    };
    run::for_count(&subject, records)
}
