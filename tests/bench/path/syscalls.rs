//! System calls a record, as `strace` counts them: at a steady rate, since a traced process is slow.

use std::process::{Command, Stdio};

use system_tests::gateway::Gateway;

use super::gateway::COMMITTED;
use super::steady::Steady;
use super::{Cluster, World};
use crate::error::BenchError;
use crate::report::{Report, Target};

const RATES: [f64; 2] = [100.0, 2_000.0];
/// Traced so long.
const SECONDS: &str = "3";

/// Adds a sample at each rate.
pub(super) fn measure(world: &World<'_>, report: &mut Report) -> Result<(), BenchError> {
    for rate in RATES {
        let cluster = Cluster::mock();
        let topic = cluster.topic();
        let steady = Steady {
            rate,
            kafka: (&cluster.bootstrap(), &topic),
            buffer_lines: "",
            kafka_lines: "",
        };
        let (_, per_record) = steady.run(world, trace)?;
        let what = format!("{rate}/s: system calls a record");
        report.add(&what, 2, Target::None, per_record);
    }
    Ok(())
}

fn trace(gateway: &Gateway) -> Result<f64, BenchError> {
    let before = committed(gateway)?;
    let traced = Command::new("timeout")
        .args(["--signal=INT", SECONDS, "strace", "-c", "-f", "-p"])
        .arg(gateway.id().to_string())
        .stdin(Stdio::null())
        .output()
        .map_err(BenchError::io("start strace"))?;
    let records = committed(gateway)? - before;
    let said = String::from_utf8_lossy(&traced.stderr).into_owned();
    let calls = calls(&said).ok_or(BenchError::Program {
        program: "strace (make setup; as root)".to_owned(),
        said,
    })?;
    Ok(calls / records)
}

fn committed(gateway: &Gateway) -> Result<f64, BenchError> {
    let silent = || BenchError::Stuck("the gateway does not tell what it committed".to_owned());
    gateway.metric(COMMITTED, &[]).ok_or_else(silent)
}

/// The sum below the table: per cent, seconds, microseconds a call, calls, perhaps errors, `total`.
fn calls(said: &str) -> Option<f64> {
    let total = said.lines().find(|line| line.ends_with(" total"))?;
    total.split_whitespace().nth(3)?.parse().ok()
}
