//! The shim link: its decoder alone, sixteen full lines together, and one message's way to the disk
//! and back.
//!
//! Lines are pseudo-terminals; the gateway is the real program in a process of its own, its data on
//! the disk measured, and behind it librdkafka's mock cluster, in another process.

mod decoder;
mod lines;
mod round_trip;

use std::path::Path;

use system_tests::gateway::Settings;
use system_tests::mock_kafka::MockKafka;
use system_tests::pty::Pty;
use tempfile::TempDir;

use crate::error::BenchError;
use crate::report::Report;

const TOPIC: &str = "telemetry";

/// Measures all of it, `rounds` times, with the gateway's data in a directory of `on`.
pub(crate) fn measure(on: &Path, rounds: usize, report: &mut Report) -> Result<(), BenchError> {
    for _ in 0..rounds {
        decoder::measure(report)?;
    }
    for _ in 0..rounds {
        lines::measure(on, report)?;
    }
    for _ in 0..rounds {
        round_trip::measure(on, report)?;
    }
    Ok(())
}

/// What a gateway needs around it, gone with this.
struct Surroundings {
    kafka: MockKafka,
    data: TempDir,
}

impl Surroundings {
    fn new(on: &Path) -> Result<Self, BenchError> {
        let mut kafka = MockKafka::start();
        kafka.create_topic(TOPIC, 1);
        let data = TempDir::new_in(on).map_err(BenchError::io("make the gateway's directory"))?;
        Ok(Self { kafka, data })
    }

    /// A gateway that has these lines.
    fn settings<'a>(&self, lines: impl Iterator<Item = &'a Pty>) -> Settings {
        let settings = Settings::new(self.kafka.bootstrap(), TOPIC).data_dir(self.data.path());
        lines.enumerate().fold(settings, |settings, (line, pty)| {
            settings.serial(&format!("line-{line}"), pty.path(), "shim")
        })
    }
}
