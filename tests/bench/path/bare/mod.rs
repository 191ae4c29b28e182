//! The ceilings: what the libraries under the gateway can do with nothing around them, each a
//! process of its own, so that its time can be told from the benchmark's.
//!
//! It prints how far it is, a number a line, and stays until its input ends.

mod kafka;
mod lines;
mod mqtt;
mod records;

pub(super) use kafka::configuration;

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use clap::{Args, ValueEnum};
use system_tests::wait;

use super::run::Subject;
use crate::error::BenchError;

const READY_WITHIN: Duration = Duration::from_secs(20);

/// What a bare process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Task {
    /// Receives and acknowledges.
    Mqtt,
    /// Sends records.
    Kafka,
    /// Sends records in transactions.
    Transactions,
    /// Receives, sends a record for each message, and acknowledges.
    Both,
    /// Reads serial lines.
    Lines,
}

/// A bare process.
#[derive(Args, Clone, Debug)]
pub(crate) struct Bare {
    pub(super) task: Task,
    /// Port of the MQTT broker
    #[arg(long, default_value_t = 0)]
    pub(super) port: u16,
    /// Kafka's bootstrap server
    #[arg(long, default_value = "")]
    pub(super) bootstrap: String,
    /// Kafka's topic
    #[arg(long, default_value = "")]
    pub(super) topic: String,
    /// How many to send
    #[arg(long, default_value_t = 0)]
    pub(super) records: u64,
    /// Serial lines
    #[arg(long, value_delimiter = ',')]
    pub(super) lines: Vec<PathBuf>,
}

impl Bare {
    pub(super) fn new(task: Task) -> Self {
        Self {
            task,
            port: 0,
            bootstrap: String::new(),
            topic: String::new(),
            records: 0,
            lines: Vec::new(),
        }
    }

    /// Receives from this broker.
    pub(super) fn mqtt(self, port: u16) -> Self {
        Self { port, ..self }
    }

    /// Sends to this topic.
    pub(super) fn kafka(self, bootstrap: &str, topic: &str) -> Self {
        Self {
            bootstrap: bootstrap.to_owned(),
            topic: topic.to_owned(),
            ..self
        }
    }

    /// Sends so many.
    pub(super) fn records(self, records: u64) -> Self {
        Self { records, ..self }
    }

    /// Reads these.
    pub(super) fn lines(self, lines: Vec<PathBuf>) -> Self {
        Self { lines, ..self }
    }
}

/// Runs as one.
pub(crate) fn run(bare: &Bare) -> Result<ExitCode, BenchError> {
    match bare.task {
        Task::Mqtt => mqtt::receive(bare.port, mqtt::Discard)?,
        Task::Kafka => kafka::stream(bare)?,
        Task::Transactions => kafka::transactions(bare)?,
        Task::Lines => lines::read(&bare.lines)?,
        Task::Both => mqtt::receive(bare.port, kafka::Forward::new(bare)?)?,
    }
    // Whoever started us reads our figures from the system first.
    let mut rest = Vec::new();
    std::io::stdin()
        .read_to_end(&mut rest)
        .map_err(BenchError::io("wait for the benchmark's end"))?;
    Ok(ExitCode::SUCCESS)
}

/// Says how far it is.
fn tell(count: u64) {
    // Whoever started us may be gone; then we are soon gone too.
    let _ = writeln!(std::io::stdout(), "{count}");
}

/// One that runs. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Running {
    child: Child,
    taken: Arc<AtomicU64>,
    ready: Arc<AtomicBool>,
}

impl Running {
    pub(super) fn start(bare: &Bare) -> Result<Self, BenchError> {
        let itself = std::env::current_exe().map_err(BenchError::io("find this program"))?;
        let task = bare.task.to_possible_value().expect("none is hidden");
        let lines = bare.lines.iter();
        let lines = lines.flat_map(|line| [OsStr::new("--lines"), line.as_os_str()]);
        let mut child = Command::new(itself)
            .args(["bare", task.get_name()])
            .args(["--port", &bare.port.to_string()])
            .args(["--bootstrap", &bare.bootstrap])
            .args(["--topic", &bare.topic])
            .args(["--records", &bare.records.to_string()])
            .args(lines)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(BenchError::io("start a bare process"))?;
        let taken: Arc<AtomicU64> = Arc::default();
        let ready: Arc<AtomicBool> = Arc::default();
        let (told, is_ready) = (Arc::clone(&taken), Arc::clone(&ready));
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        // Ends with the process.
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if let Ok(count) = line.parse() {
                    told.store(count, Ordering::Relaxed);
                    is_ready.store(true, Ordering::Relaxed);
                }
            }
        });
        Ok(Self {
            child,
            taken,
            ready,
        })
    }

    /// Waits until it has said something: that it has subscribed.
    pub(super) fn wait_ready(&self) {
        wait::until("a bare process is ready", READY_WITHIN, || {
            self.ready.load(Ordering::Relaxed)
        });
    }
}

impl Subject for Running {
    fn process(&self) -> u32 {
        self.child.id()
    }

    fn taken(&self) -> Option<u64> {
        Some(self.taken.load(Ordering::Relaxed))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
