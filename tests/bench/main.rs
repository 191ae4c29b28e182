//! What the commit log costs, beside a raw loop that writes and syncs the same bytes on the same
//! disk in the same minute: ratios, so that the figures mean something on any machine. And what the
//! shim link costs ([`link`]).
//!
//! All of the log's part happens on an ext4 of its own, on a loop device whose counters see every byte and
//! every flush, the file system's journal included ([`disk`]). The device lives in a mount namespace
//! of the benchmark's own: however it ends, nothing is left behind. What is measured of memory, or
//! with nothing in memory, is measured in a process of its own ([`backlog`]).
//!
//! `README.md` beside this file says how to read the table.

mod backlog;
mod commits;
mod disk;
mod driver;
mod error;
mod frames;
mod guard;
mod link;
mod machine;
mod path;
mod raw;
mod report;
mod telemetry;

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use clap::{Parser, Subcommand};

use disk::Disk;
use error::BenchError;
use report::Report;

/// Of everything, unless told otherwise.
const ROUNDS: usize = 5;

/// Measures the commit log against the disk it lies on, and the shim link.
#[derive(Debug, Parser)]
struct Arguments {
    /// A directory on the disk to measure; needs 11 GiB free
    #[arg(long, default_value = ".")]
    on: PathBuf,
    /// Where the figures go as JSON [default: bench.json in that directory]
    #[arg(long)]
    json: Option<PathBuf>,
    /// Runs of everything [default: 5; of curves 1]
    #[arg(long, global = true)]
    rounds: Option<usize>,
    /// Leave out what needs a backlog of 8 GiB; shorter runs of the path
    #[arg(long, global = true)]
    short: bool,
    #[command(subcommand)]
    part: Option<Part>,
}

/// A part of the benchmark; without `hide`, one that is of use alone.
#[derive(Clone, Debug, Subcommand)]
enum Part {
    /// The shim link alone: two minutes, no mount
    Link,
    /// The path from MQTT to Kafka alone: forty minutes, no mount
    Path(path::Arguments),
    /// Instructions a record, beside those of before
    #[command(subcommand)]
    Guard(guard::Guard),
    /// A library without the gateway
    #[command(hide = true)]
    Bare(path::Bare),
    /// All of it, inside the mount namespace
    #[command(hide = true)]
    Inside,
    /// Fills a log
    #[command(hide = true)]
    Fill(backlog::Fill),
    /// Opens a log
    #[command(hide = true)]
    Reopen(backlog::Place),
    /// Reads a log
    #[command(hide = true)]
    Read(backlog::Place),
    /// Fills a log, waits for a line, drains it
    #[command(hide = true)]
    FillAndDrain(backlog::Fill),
}

impl Arguments {
    fn rounds(&self) -> usize {
        self.rounds.unwrap_or(ROUNDS)
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let ended = match &arguments.part {
        None => enter_namespace(),
        Some(Part::Link) => run_link(&arguments),
        Some(Part::Path(path)) => run_path(&arguments, path),
        Some(Part::Guard(guard)) => guard::run(guard),
        Some(Part::Bare(bare)) => path::run_bare(bare),
        Some(Part::Inside) => run(&arguments),
        Some(Part::Fill(fill)) => backlog::fill(fill),
        Some(Part::Reopen(place)) => backlog::reopen(place),
        Some(Part::Read(place)) => backlog::read(place),
        Some(Part::FillAndDrain(fill)) => backlog::fill_and_drain(fill),
    };
    match ended {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{}", error::chain(&error));
            ExitCode::FAILURE
        }
    }
}

/// Runs this program once more, where its mounts are its own.
fn enter_namespace() -> Result<ExitCode, BenchError> {
    let itself = std::env::current_exe().map_err(BenchError::io("find this program"))?;
    let status = Command::new("unshare")
        .args(["--mount", "--propagation", "private"])
        .arg(itself)
        .args(std::env::args_os().skip(1))
        .arg("inside")
        .status()
        .map_err(BenchError::io("start unshare"))?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn run(arguments: &Arguments) -> Result<ExitCode, BenchError> {
    let machine = machine::describe(&arguments.on)?;
    println!("{machine}");
    let mut report = Report::new(machine);
    println!("the log's own ext4 on a loop device (direct I/O) on it");
    let disk = Disk::make(&arguments.on, backlog::DISK_BYTES)?;
    commits::measure(&disk, arguments.rounds(), &mut report)?;
    backlog::measure(&disk, arguments.rounds(), arguments.short, &mut report)?;
    drop(disk);
    link::measure(&arguments.on, arguments.rounds(), &mut report)?;
    finish(arguments, &report)
}

fn run_link(arguments: &Arguments) -> Result<ExitCode, BenchError> {
    let machine = machine::describe(&arguments.on)?;
    println!("{machine}");
    let mut report = Report::new(machine);
    link::measure(&arguments.on, arguments.rounds(), &mut report)?;
    finish(arguments, &report)
}

fn run_path(arguments: &Arguments, path: &path::Arguments) -> Result<ExitCode, BenchError> {
    let machine = machine::describe(&arguments.on)?;
    println!("{machine}");
    if let Some(dir) = path.curves() {
        let rounds = arguments.rounds.unwrap_or(1);
        path::draw(dir, &arguments.on, rounds, &machine)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut report = Report::new(machine);
    let extent = (arguments.rounds(), arguments.short);
    path::measure(path, &arguments.on, extent, &mut report)?;
    finish(arguments, &report)
}

fn finish(arguments: &Arguments, report: &Report) -> Result<ExitCode, BenchError> {
    println!("{report}");
    let json = arguments.json.clone();
    report.write(&json.unwrap_or_else(|| arguments.on.join("bench.json")))?;
    Ok(ExitCode::SUCCESS)
}
