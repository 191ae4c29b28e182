//! Whether memory stays what it is: ten minutes of the whole path at a steady rate, and the line
//! that fits best through what is resident each second. A leak of a byte a record shows as 6 MiB.
//!
//! malloc keeps what the longest stall so far took, and a machine stalls now and then. So Kafka is frozen
//! first, for longer than that: what grows after it grows for another reason.

use std::time::{Duration, Instant};

use system_tests::gateway::Gateway;

use super::gateway::{self, COMMITTED};
use super::load::{Load, Pace, Publisher};
use super::usage::Usage;
use super::{Cluster, RSS, RSS_MIB_MAX, World, mosquitto};
use crate::error::BenchError;
use crate::report::{Report, Target};

const RATE: f64 = 10_000.0;
/// A fortieth of what it may have.
const GROWTH_MIB_MAX: f64 = 1.0;
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How long Kafka is frozen: all that may be in flight is, after one of them.
const OUTAGE: Duration = Duration::from_secs(3);

/// Adds a sample of each figure.
pub(super) fn measure(world: &World<'_>, report: &mut Report) -> Result<(), BenchError> {
    let minutes = world.either(10, 1);
    let time = Duration::from_secs(60 * minutes);
    let cluster = Cluster::apache();
    let (bootstrap, topic) = (cluster.bootstrap(), cluster.topic());
    let broker = mosquitto();
    let data = gateway::data_dir(world.on)?;
    let settings = gateway::settings((&bootstrap, &topic), &broker.url(), 1, data.path(), "");
    let gateway = Gateway::start_ready(&settings);
    let epoch = Instant::now();
    let pace = Pace::PerSecond { rate: RATE, epoch };
    let publisher = Publisher::start(broker.port(), Load::USUAL, 1, pace)?;
    let process = gateway.id().to_string();
    // Segments are made, topics and devices seen for the first time.
    std::thread::sleep(time / 20);
    cluster.freeze(OUTAGE);
    std::thread::sleep((time / 10).saturating_sub(epoch.elapsed()));
    let mut looks = Vec::new();
    while epoch.elapsed() < time {
        let mib = Usage::of(&process)?.resident_kib as f64 / 1024.0;
        looks.push((epoch.elapsed().as_secs_f64(), mib));
        std::thread::sleep(LOOK_INTERVAL);
    }
    let committed = gateway.metric(COMMITTED, &[]).unwrap_or_default();
    let seconds = epoch.elapsed().as_secs_f64();
    let most = Usage::of(&process)?;
    publisher.finish()?;
    let name = format!("soak, {minutes} min");
    let mut add = |what: &str, decimals, target, sample| {
        report.add(&format!("{name}: {what}"), decimals, target, sample);
    };
    let growth = slope(&looks) * time.as_secs_f64();
    let target = Target::AtMost(GROWTH_MIB_MAX);
    add(
        "growth of memory (RSS) by the fitted line, MiB",
        2,
        target,
        growth,
    );
    let rss = most.rss_kib as f64 / 1024.0;
    add(RSS, 1, Target::AtMost(RSS_MIB_MAX), rss);
    add("records/s", 0, Target::None, committed / seconds);
    Ok(())
}

/// The slope of the line with the least squares.
fn slope(points: &[(f64, f64)]) -> f64 {
    let count = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x_mean, y_mean) = (mean(|point| point.0), mean(|point| point.1));
    let (mut covariance, mut variance) = (0.0, 0.0);
    for (x, y) in points {
        covariance += (x - x_mean) * (y - y_mean);
        variance += (x - x_mean).powi(2);
    }
    covariance / variance
}
