//! Simulated sensors that feed a gateway over MQTT and serial lines, for tests and demonstrations.
//!
//! Values follow from seed, device and sequence, so a run can be repeated; every payload says what
//! the far end needs to count lost, doubled and reordered messages. `sent` and `acknowledged` in
//! the report are the other half of that count.
//!
//! # Layout
//! - [`cli`] the command line; [`run`] the life of a run; [`schedule`] when a message is due;
//!   [`progress`] counters, bar and report
//! - [`random`], [`profile`], [`fleet`], [`message`] what the devices are and say
//! - [`mqtt`] devices behind a broker; [`serial`] devices on a line
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, reason = "a test that fails says where")
)]

pub mod cli;
pub mod fleet;
pub mod message;
pub mod mqtt;
pub mod profile;
pub mod progress;
pub mod random;
pub mod run;
pub mod schedule;
pub mod serial;

use std::io;
use std::path::PathBuf;

use cli::{Command, CommonArgs, MqttArgs, SerialArgs};
use mqtt::MqttError;
use mqtt::wire::Qos;
use progress::Report;
use run::{Phase, Run};
use serial::SerialError;

/// Why a run failed before all was sent and acknowledged.
#[derive(Debug, thiserror::Error)]
pub enum SimError {
    /// MQTT.
    #[error(transparent)]
    Mqtt(#[from] MqttError),
    /// A serial line.
    #[error(transparent)]
    Serial(#[from] SerialError),
    /// An argument that does not go with the others.
    #[error("{argument}: {reason}")]
    Usage {
        /// The argument.
        argument: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The system does not let the program run as it must (signals, threads).
    #[error("the operating system refused")]
    System(#[from] io::Error),
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    ReadFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The report cannot be written.
    #[error("cannot write the report to {}", path.display())]
    WriteReport {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Does what the command line asks for; true if all that was sent was acknowledged.
///
/// # Errors
/// [`SimError`]; what was counted until then has been reported.
pub fn simulate(command: &Command) -> Result<bool, SimError> {
    match command {
        Command::Serial(args) => simulate_serial(args),
        Command::Mqtt(args) => simulate_mqtt(args),
    }
}

fn simulate_serial(args: &SerialArgs) -> Result<bool, SimError> {
    let options = args.options()?;
    let run = Run::new(args.common.schedule());
    let fleet = args.common.fleet(args.profile);
    let work = async { Ok(serial::send(&options, fleet, &run).await?) };
    let result = runtime(1)?.block_on(run.supervise(args.common.ack_timeout, work));
    conclude(&args.common, &run, args.is_acknowledged(), result)
}

fn simulate_mqtt(args: &MqttArgs) -> Result<bool, SimError> {
    let options = args.options()?;
    let run = Run::new(args.common.schedule());
    let fleet = args.common.fleet(args.profile);
    let work = async { Ok(mqtt::publish(&options, fleet, &run).await?) };
    let result = runtime(args.connections)?.block_on(run.supervise(args.common.ack_timeout, work));
    conclude(&args.common, &run, args.qos != Qos::AtMostOnce, result)
}

fn runtime(threads: u32) -> io::Result<tokio::runtime::Runtime> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(processors.min(threads as usize).max(1))
        .enable_all()
        .build()
}

/// Reports, also where the run failed: what was sent and acknowledged until then counts.
fn conclude(
    args: &CommonArgs,
    run: &Run,
    acknowledging: bool,
    result: Result<(), SimError>,
) -> Result<bool, SimError> {
    let report = Report::new(&run.counters(), args.devices, acknowledging, run.elapsed());
    let json = serde_json::to_string(&report).expect("a report is plain data");
    if args.json {
        println!("{json}");
    } else {
        println!("{report}");
    }
    if let Some(path) = &args.report {
        std::fs::write(path, json + "\n").map_err(|source| SimError::WriteReport {
            path: path.clone(),
            source,
        })?;
    }
    let aborted = *run.phase().borrow() == Phase::Aborted;
    result.map(|()| report.is_complete() && !aborted)
}
