//! Whether a record costs the same among many devices and sources, and a byte the same in large
//! payloads: the whole path at its highest rate, with the mock cluster, which costs the machine
//! little. One source takes more at that rate than many, and what takes more takes more at a time; so
//! devices and sources are looked at once more at a rate that is the same for all.

use super::load::Load;
use super::through::{self, Case};
use super::{Cluster, RSS, RSS_MIB_MAX, World};
use crate::error::BenchError;
use crate::report::{Report, Target};

const DEVICES: [u64; 4] = [1, 100, 10_000, 100_000];
const SOURCES: [u64; 3] = [1, 8, 32];
const PAYLOADS_BYTES: [usize; 5] = [100, 200, 1024, 8192, 65_536];
const RATIO_MAX: f64 = 1.2;

/// Records a second of the steady rows, which small machines hold too.
const RATE: f64 = 20_000.0;

/// Adds a sample of each figure. The first of each kind is what the others are compared with.
pub(super) fn measure(world: &World<'_>, report: &mut Report) -> Result<(), BenchError> {
    for (rate, at) in [(None, String::new()), (Some(RATE), format!(", {RATE}/s"))] {
        let devices = DEVICES.map(|devices| Row {
            name: format!("{devices} devices{at}"),
            unit: "record",
            bytes: None,
            case: Case {
                load: Load {
                    devices,
                    ..Load::USUAL
                },
                rate,
                ..Case::USUAL
            },
        });
        let sources = SOURCES.map(|sources| Row {
            name: format!("{sources} sources{at}"),
            unit: "record",
            bytes: None,
            case: Case {
                sources,
                rate,
                ..Case::USUAL
            },
        });
        scale(world, &devices, report)?;
        scale(world, &sources, report)?;
    }
    let payloads = PAYLOADS_BYTES.map(|payload_bytes| Row {
        name: format!("payloads of {payload_bytes} bytes"),
        unit: "byte",
        bytes: Some(payload_bytes),
        case: Case {
            load: Load {
                payload_bytes,
                ..Load::USUAL
            },
            ..Case::USUAL
        },
    });
    scale(world, &payloads, report)
}

/// One size of something.
struct Row {
    name: String,
    unit: &'static str,
    /// What is paid for, where it isn't the record.
    bytes: Option<usize>,
    case: Case,
}

fn scale(world: &World<'_>, rows: &[Row], report: &mut Report) -> Result<(), BenchError> {
    let mut smallest = None;
    for row in rows {
        let measured = through::measured(world, &Cluster::mock(), row.case)?;
        let units = row.bytes.unwrap_or(1) as f64;
        let cost = measured.cpu_per_million() / units;
        let Row { name, unit, .. } = row;
        let first = *smallest.get_or_insert(cost);
        let mut add = |what: &str, decimals, target, sample| {
            report.add(&format!("{name}: {what}"), decimals, target, sample);
        };
        if first != cost {
            let what = format!("CPU a {unit}, of the smallest's");
            add(&what, 2, Target::AtMost(RATIO_MAX), cost / first);
        }
        add("records/s", 0, Target::None, measured.per_second());
        let cpu = measured.cpu_per_million();
        add("CPU-seconds a million", 2, Target::None, cpu);
        let rss = Target::AtMost(RSS_MIB_MAX);
        add(RSS, 1, rss, measured.rss_mib());
    }
    Ok(())
}
