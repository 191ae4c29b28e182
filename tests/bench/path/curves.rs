//! What the defaults were chosen by: latency against CPU against what is written to flash and sent
//! to Kafka, over one setting after the other, at steady rates and while a backlog drains.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::plot::{self, Panel};
use super::steady::Steady;
use super::{Cluster, World, drain};
use crate::error::BenchError;
use crate::machine::Machine;

/// What the gateway has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
enum Work {
    /// So many records a second come in.
    PerSecond(u32),
    /// A backlog is there, and nothing comes in.
    Backlog,
}

impl Work {
    fn name(self) -> String {
        match self {
            Self::PerSecond(rate) => format!("{rate}/s"),
            Self::Backlog => "backlog".to_owned(),
        }
    }
}

/// Of a small plant, and of a large one.
const STEADY: &[Work] = &[Work::PerSecond(200), Work::PerSecond(2_000)];
const ALL: &[Work] = &[Work::PerSecond(200), Work::PerSecond(2_000), Work::Backlog];

/// A new segment is filled with zeroes: of the default 8 MiB, one more or less in some seconds would be
/// all that shows.
const SEGMENTS: &str = "segment_bytes = \"1 MiB\"";

/// What is plotted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Figure {
    MedianMs,
    P99Ms,
    CpuPerMillion,
    BytesToDisk,
    BytesToKafka,
    PerSecond,
    RssMib,
}

impl Figure {
    fn title(self) -> &'static str {
        match self {
            Self::MedianMs => "publish to consumer: median, ms",
            Self::P99Ms => "publish to consumer: p99, ms",
            Self::CpuPerMillion => "CPU-seconds a million records",
            Self::BytesToDisk => "bytes a record to the disk",
            Self::BytesToKafka => "bytes a record in Kafka's log",
            Self::PerSecond => "records/s",
            Self::RssMib => "most memory (RSS), MiB",
        }
    }
}

/// A line of the configuration, and the values that are tried in it.
struct Curve {
    /// Of the plot.
    name: &'static str,
    axis: &'static str,
    /// Of the section `[buffer]`, or `[kafka]`.
    of_buffer: bool,
    /// Before a value, and behind it.
    line: (&'static str, &'static str),
    values: &'static [&'static str],
    works: &'static [Work],
    figures: &'static [Figure],
}

static CURVES: [Curve; 5] = [
    Curve {
        name: "commit_interval",
        axis: "[buffer] commit_interval, ms",
        of_buffer: true,
        line: ("commit_interval = \"", " ms\""),
        values: &["0", "1", "2", "5", "10", "20", "50"],
        works: STEADY,
        figures: &[
            Figure::MedianMs,
            Figure::P99Ms,
            Figure::CpuPerMillion,
            Figure::BytesToDisk,
        ],
    },
    Curve {
        name: "linger",
        axis: "[kafka] linger, ms",
        of_buffer: false,
        line: ("linger = \"", " ms\""),
        values: &["0", "5", "10", "15", "20", "25", "50"],
        works: STEADY,
        figures: &[
            Figure::MedianMs,
            Figure::P99Ms,
            Figure::CpuPerMillion,
            Figure::BytesToKafka,
        ],
    },
    Curve {
        name: "compression",
        axis: "[kafka] compression",
        of_buffer: false,
        line: ("compression = \"", "\""),
        values: &["none", "lz4", "zstd"],
        works: ALL,
        figures: &[
            Figure::P99Ms,
            Figure::CpuPerMillion,
            Figure::BytesToKafka,
            Figure::PerSecond,
        ],
    },
    Curve {
        name: "buffer_compression",
        axis: "[buffer] compression",
        of_buffer: true,
        line: ("compression = \"", "\""),
        values: &["none", "lz4", "zstd"],
        works: STEADY,
        figures: &[
            Figure::P99Ms,
            Figure::CpuPerMillion,
            Figure::BytesToDisk,
            Figure::RssMib,
        ],
    },
    Curve {
        name: "batch",
        axis: "[kafka] properties.\"batch.num.messages\"",
        of_buffer: false,
        line: ("properties = { \"batch.num.messages\" = ", " }"),
        values: &["10", "30", "100", "300", "1000", "10000"],
        works: &[Work::Backlog],
        figures: &[
            Figure::PerSecond,
            Figure::CpuPerMillion,
            Figure::BytesToKafka,
            Figure::RssMib,
        ],
    },
];

/// All that was measured with one value.
#[derive(Debug, Serialize)]
struct Point {
    curve: &'static str,
    value: &'static str,
    work: Work,
    samples: BTreeMap<Figure, Vec<f64>>,
}

#[derive(Serialize)]
struct Data<'a> {
    machine: &'a Machine,
    points: &'a [Point],
}

/// Measures all, `rounds` times, and draws them into `dir`, with what was measured as JSON.
pub(super) fn draw(
    world: &World<'_>,
    rounds: usize,
    dir: &Path,
    machine: &Machine,
) -> Result<(), BenchError> {
    let cluster = drain::warm(Cluster::apache)?;
    let mut points = empty();
    for round in 1..=rounds {
        for curve in &CURVES {
            for point in points.iter_mut().filter(|point| point.curve == curve.name) {
                let work = point.work.name();
                eprintln!("{} {}, {work}, round {round}", curve.name, point.value);
                for (figure, sample) in sample(world, &cluster, curve, point)? {
                    point.samples.entry(figure).or_default().push(sample);
                }
            }
        }
    }
    for curve in &CURVES {
        let file = dir.join(format!("{}.svg", curve.name));
        write(&file, &picture(curve, &points))?;
    }
    let points = &points;
    let data = serde_json::to_string_pretty(&Data { machine, points })
        .map_err(|error| BenchError::io("write the curves")(error.into()))?;
    write(&dir.join("curves.json"), &(data + "\n"))
}

fn write(file: &Path, content: &str) -> Result<(), BenchError> {
    std::fs::write(file, content).map_err(BenchError::io("write a plot"))?;
    println!("{}", file.display());
    Ok(())
}

/// The points of all curves.
fn empty() -> Vec<Point> {
    let of_curve = |curve: &'static Curve| {
        let works = curve.works.iter();
        works.flat_map(|work| {
            curve.values.iter().map(|value| Point {
                curve: curve.name,
                value,
                work: *work,
                samples: BTreeMap::new(),
            })
        })
    };
    CURVES.iter().flat_map(of_curve).collect()
}

fn sample(
    world: &World<'_>,
    cluster: &Cluster,
    curve: &Curve,
    point: &Point,
) -> Result<Vec<(Figure, f64)>, BenchError> {
    let line = format!("{}{}{}", curve.line.0, point.value, curve.line.1);
    let (buffer_line, kafka_lines) = match curve.of_buffer {
        true => (line.as_str(), ""),
        false => ("", line.as_str()),
    };
    let buffer_lines = format!("{SEGMENTS}\n{buffer_line}");
    let topic = cluster.topic();
    let mut figures = match point.work {
        Work::PerSecond(rate) => {
            let steady = Steady {
                rate: f64::from(rate),
                kafka: (&cluster.bootstrap(), &topic),
                buffer_lines: &buffer_lines,
                kafka_lines,
            };
            let measured = steady.measure(world)?;
            vec![
                (Figure::MedianMs, measured.latencies.at(500)?),
                (Figure::P99Ms, measured.latencies.at(990)?),
                (Figure::CpuPerMillion, measured.cpu_per_million),
                (Figure::BytesToDisk, measured.written_per_record),
                (Figure::RssMib, measured.rss_mib),
            ]
        }
        Work::Backlog => {
            let to = (cluster, topic.as_str());
            let measured = drain::measured(world, to, kafka_lines, drain::records(world))?;
            vec![
                (Figure::PerSecond, measured.per_second()),
                (Figure::CpuPerMillion, measured.cpu_per_million()),
                (Figure::RssMib, measured.rss_mib()),
            ]
        }
    };
    if let Some(bytes) = cluster.bytes_a_record(&topic) {
        figures.push((Figure::BytesToKafka, bytes));
    }
    Ok(figures)
}

fn picture(curve: &Curve, points: &[Point]) -> String {
    let median = |work: Work, value: &str, figure: Figure| {
        let found = points
            .iter()
            .find(|point| (point.curve, point.value, point.work) == (curve.name, value, work));
        let mut samples = found?.samples.get(&figure)?.clone();
        samples.sort_by(f64::total_cmp);
        samples.get(samples.len() / 2).copied()
    };
    let panel = |figure: &Figure| Panel {
        title: figure.title().to_owned(),
        series: curve
            .works
            .iter()
            .map(|work| {
                let values = curve.values.iter();
                let values = values.map(|value| median(*work, value, *figure));
                (work.name(), values.collect())
            })
            .collect(),
    };
    let panels: Vec<Panel> = curve.figures.iter().map(panel).collect();
    plot::svg(curve.axis, curve.values, &panels)
}
