//! From a log that has gathered a backlog to Kafka: beside a bare producer that sends the same.

use std::time::Duration;

use rdkafka::Message as _;
use rdkafka::message::{BorrowedHeaders, Headers as _};
use system_tests::gateway::Gateway;

use super::bare::{Bare, Running, Task};
use super::gateway::{self, Counted, DELIVERED};
use super::run::{self, Measured};
use super::steady;
use super::{Asked, Cluster, World, mosquitto};
use crate::error::BenchError;
use crate::report::{Report, Target};

/// Of a backlog.
const RECORDS: u64 = 2_000_000;
/// Of a short run's.
const RECORDS_SHORT: u64 = 500_000;
/// Offsets have fewer digits or more, and a clock may be synchronised or not.
const PART_BYTES_DIFFERENCE: usize = 8;
const RECORD_WITHIN: Duration = Duration::from_secs(10);
const WARM_UP_RECORDS: u64 = 500_000;
const RATE_MIN: f64 = 0.9;
const CPU_MAX: f64 = 1.25;
/// By which names the gateway and the bare process know the ways of delivery.
const DELIVERIES: [(&str, Task); 2] = [
    ("at_least_once", Task::Kafka),
    ("exactly_once", Task::Transactions),
];

/// Adds a sample of each figure, with each cluster and way of delivery.
pub(super) fn measure(world: &World<'_>, report: &mut Report) -> Result<(), BenchError> {
    let records = records(world);
    for start in [Cluster::apache, Cluster::mock] {
        let cluster = warm(start)?;
        for (delivery, task) in DELIVERIES {
            let asked = Asked {
                what: format!("backlog, {delivery}, {}", cluster.name()),
                ceiling: "bare producer",
                rate: Target::AtLeast(RATE_MIN),
                cpu: Target::AtMost(CPU_MAX),
            };
            let topics = (cluster.topic(), cluster.topic());
            let kafka_lines = format!("delivery = \"{delivery}\"");
            let (measured, ceiling) = world.in_turn(
                || measured(world, (&cluster, &topics.0), &kafka_lines, records),
                || ceiling((&cluster, &topics.1), task, records),
            )?;
            asked.add(&measured, &ceiling, report);
            same(&cluster.bootstrap(), &topics)?;
        }
    }
    Ok(())
}

/// How many records a backlog has.
pub(super) fn records(world: &World<'_>) -> u64 {
    world.either(RECORDS, RECORDS_SHORT)
}

/// A cluster that has taken records already: a program in Java is slow at first, and keeps both
/// cores busy making itself faster.
pub(super) fn warm(start: fn() -> Cluster) -> Result<Cluster, BenchError> {
    let cluster = start();
    ceiling((&cluster, &cluster.topic()), Task::Kafka, WARM_UP_RECORDS)?;
    Ok(cluster)
}

/// A bare producer that sends so many, to a topic.
pub(super) fn ceiling(
    (cluster, topic): (&Cluster, &str),
    task: Task,
    records: u64,
) -> Result<Measured, BenchError> {
    let bare = Bare::new(task)
        .kafka(&cluster.bootstrap(), topic)
        .records(records);
    run::for_count(&Running::start(&bare)?, records)
}

/// A gateway with a backlog of so many.
pub(super) fn measured(
    world: &World<'_>,
    (cluster, topic): (&Cluster, &str),
    kafka_lines: &str,
    records: u64,
) -> Result<Measured, BenchError> {
    // Nobody publishes there.
    let broker = mosquitto();
    let data = gateway::data_dir(world.on)?;
    gateway::fill(data.path(), records)?;
    let bootstrap = cluster.bootstrap();
    let kafka = (bootstrap.as_str(), topic);
    let settings = gateway::settings(kafka, &broker.url(), 1, data.path(), "").kafka(kafka_lines);
    let gateway = Gateway::start(&settings);
    let subject = Counted {
        gateway: &gateway,
        counter: DELIVERED,
    };
    run::for_count(&subject, records)
}

/// Whether records of both topics have the same parts.
fn same(bootstrap: &str, (measured, ceiling): &(String, String)) -> Result<(), BenchError> {
    let (measured, ceiling) = (parts(bootstrap, measured)?, parts(bootstrap, ceiling)?);
    let alike = |((name, bytes), (other, other_bytes)): (&(String, usize), &(String, usize))| {
        name == other && bytes.abs_diff(*other_bytes) <= PART_BYTES_DIFFERENCE
    };
    if measured.len() == ceiling.len() && measured.iter().zip(&ceiling).all(alike) {
        return Ok(());
    }
    let what = format!("the gateway sends {measured:?}, and its ceiling {ceiling:?}");
    Err(BenchError::Stuck(what))
}

/// Names and bytes of the parts of a topic's first record.
fn parts(bootstrap: &str, topic: &str) -> Result<Vec<(String, usize)>, BenchError> {
    let consumer = steady::consumer(bootstrap, topic)?;
    let message = consumer.poll(RECORD_WITHIN);
    let nothing = || BenchError::Stuck(format!("no record in {topic}"));
    let message = message.ok_or_else(nothing)?;
    let message = message.map_err(|error| steady::failed("the consumer", &error))?;
    let bytes = |part: Option<&[u8]>| part.map_or(0, <[u8]>::len);
    let headers = message
        .headers()
        .into_iter()
        .flat_map(BorrowedHeaders::iter);
    let headers = headers.map(|header| (header.key.to_owned(), bytes(header.value)));
    let own = [
        ("key".to_owned(), bytes(message.key())),
        ("value".to_owned(), bytes(message.payload())),
    ];
    Ok(own.into_iter().chain(headers).collect())
}
