//! What the defaults were chosen by: latency against CPU against what is written to flash, over the
//! interval of commits and over Kafka's linger, at a steady rate.

use std::path::Path;

use super::plot::{self, Panel};
use super::steady::{Measured, Steady};
use super::{Cluster, World};
use crate::error::BenchError;

/// Of a small plant, and of a large one.
const RATES: [f64; 2] = [200.0, 2_000.0];

/// A setting, and the values that are tried.
struct Curve {
    name: &'static str,
    /// Of the configuration's section `[buffer]`, or `[kafka]`.
    of_buffer: bool,
    millis: &'static [u32],
}

const CURVES: [Curve; 2] = [
    Curve {
        name: "commit_interval",
        of_buffer: true,
        millis: &[0, 1, 2, 5, 10, 20, 50],
    },
    Curve {
        name: "linger",
        of_buffer: false,
        millis: &[0, 1, 2, 5, 10, 20, 50, 100],
    },
];

/// Measures both, `rounds` times, and draws them into `dir`.
pub(super) fn draw(world: &World<'_>, rounds: usize, dir: &Path) -> Result<(), BenchError> {
    for curve in &CURVES {
        let picture = measure(world, rounds, curve)?;
        let file = dir.join(format!("{}.svg", curve.name));
        std::fs::write(&file, picture).map_err(BenchError::io("write a plot"))?;
        println!("{}", file.display());
    }
    Ok(())
}

/// The medians at one rate, for each value of the setting.
#[derive(Default)]
struct Points {
    median_ms: Vec<f64>,
    p99_ms: Vec<f64>,
    cpu: Vec<f64>,
    written: Vec<f64>,
}

fn measure(world: &World<'_>, rounds: usize, curve: &Curve) -> Result<String, BenchError> {
    let cluster = Cluster::apache();
    let bootstrap = cluster.bootstrap();
    let mut samples: Vec<Vec<Vec<Measured>>> =
        vec![vec![Vec::new(); curve.millis.len()]; RATES.len()];
    for round in 0..rounds {
        for (rate, of_rate) in RATES.iter().zip(&mut samples) {
            for (millis, of_value) in curve.millis.iter().zip(of_rate) {
                eprintln!("{} = {millis} ms, {rate}/s, round {round}", curve.name);
                let topic = cluster.topic();
                let line = format!("{} = \"{millis} ms\"", curve.name);
                let (buffer_lines, kafka_lines) = match curve.of_buffer {
                    true => (line.as_str(), ""),
                    false => ("", line.as_str()),
                };
                let steady = Steady {
                    rate: *rate,
                    kafka: (&bootstrap, &topic),
                    buffer_lines,
                    kafka_lines,
                };
                of_value.push(steady.measure(world)?);
            }
        }
    }
    let points: Result<Vec<Points>, BenchError> = samples.iter().map(|s| points(s)).collect();
    Ok(picture(curve, &points?))
}

fn points(samples: &[Vec<Measured>]) -> Result<Points, BenchError> {
    let mut points = Points::default();
    for of_value in samples {
        let latency = |thousandths| -> Result<f64, BenchError> {
            let all = of_value.iter().map(|one| one.latencies.at(thousandths));
            Ok(median(all.collect::<Result<_, _>>()?))
        };
        points.median_ms.push(latency(500)?);
        points.p99_ms.push(latency(990)?);
        let of = |field: fn(&Measured) -> f64| median(of_value.iter().map(field).collect());
        points.cpu.push(of(|one| one.cpu_per_million));
        points.written.push(of(|one| one.written_per_record));
    }
    Ok(points)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn picture(curve: &Curve, points: &[Points]) -> String {
    let panel = |title: &str, field: fn(&Points) -> &Vec<f64>| {
        let of_rate =
            |(rate, points): (&f64, &Points)| (format!("{rate}/s"), field(points).clone());
        Panel {
            title: title.to_owned(),
            series: RATES.iter().zip(points).map(of_rate).collect(),
        }
    };
    let settings: Vec<String> = curve.millis.iter().map(u32::to_string).collect();
    plot::svg(
        &format!("{}, ms", curve.name),
        &settings,
        &[
            panel("publish to consumer: median, ms", |p| &p.median_ms),
            panel("publish to consumer: p99, ms", |p| &p.p99_ms),
            panel("CPU-seconds a million records", |p| &p.cpu),
            panel("bytes a record to the log's files", |p| &p.written),
        ],
    )
}
