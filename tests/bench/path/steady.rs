//! A gateway at a steady rate: how long messages take, and what each costs.
//!
//! Each payload begins with the time at which it was sent; sender and receiver are threads of this
//! process, with one clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::Message as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use system_tests::gateway::Gateway;

use super::load::{Load, Pace, Publisher, sent_at};
use super::usage::Usage;
use super::{PARTITIONS, World, gateway, mosquitto};
use crate::error::BenchError;

/// How soon a receiver sees that it is to end.
const POLL: Duration = Duration::from_millis(20);
/// How long messages may be on their way when it is over.
const TRAILING: Duration = Duration::from_millis(500);

/// Times from sending to arrival, in milliseconds.
#[derive(Clone, Debug, Default)]
pub(super) struct Latencies(Vec<f64>);

impl Latencies {
    /// Takes note of a message that has arrived now, if it was sent at `from` or later.
    pub(super) fn arrived(&mut self, payload: &[u8], epoch: Instant, from: Duration) {
        let now = epoch.elapsed();
        if let Some(sent) = sent_at(payload).filter(|sent| *sent >= from) {
            self.0.push(now.saturating_sub(sent).as_secs_f64() * 1e3);
        }
    }

    /// The percentile, in thousandths.
    pub(super) fn at(&self, thousandths: usize) -> Result<f64, BenchError> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let found = sorted.get(sorted.len() * thousandths / 1000).copied();
        found.ok_or_else(|| BenchError::Stuck("no message arrived".to_owned()))
    }
}

/// When a message counts: the epoch of its time, and from when on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub(super) epoch: Instant,
    pub(super) from: Duration,
}

impl Window {
    /// Messages count once so much time has passed from now.
    pub(super) fn after(warm_up: Duration) -> Self {
        Self {
            epoch: Instant::now(),
            from: warm_up,
        }
    }
}

/// A thread that receives.
#[derive(Debug)]
pub(super) struct Receiver {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Latencies, BenchError>>,
}

impl Receiver {
    /// Receives what `receive` adds, which it is to do until the flag is set, and not for long.
    pub(super) fn start(
        mut receive: impl FnMut(&mut Latencies) -> Result<(), BenchError> + Send + 'static,
    ) -> Self {
        let stop: Arc<AtomicBool> = Arc::default();
        let told = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut latencies = Latencies::default();
            while !told.load(Ordering::Relaxed) {
                receive(&mut latencies)?;
            }
            Ok(latencies)
        });
        Self { stop, thread }
    }

    /// A consumer of a topic.
    pub(super) fn consume(
        bootstrap: &str,
        topic: &str,
        window: Window,
    ) -> Result<Self, BenchError> {
        let consumer = consumer(bootstrap, topic)?;
        Ok(Self::start(move |latencies| {
            if let Some(message) = consumer.poll(POLL) {
                let message = message.map_err(|error| failed("the consumer", &error))?;
                let payload = message.payload().unwrap_or_default();
                latencies.arrived(payload, window.epoch, window.from);
            }
            Ok(())
        }))
    }

    /// What it has received.
    pub(super) fn finish(self) -> Result<Latencies, BenchError> {
        std::thread::sleep(TRAILING);
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("receiving does not panic")
    }
}

/// A consumer of all of a topic.
pub(super) fn consumer(bootstrap: &str, topic: &str) -> Result<BaseConsumer, BenchError> {
    let made = || {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap)
            .set("group.id", "bench")
            .set("enable.auto.commit", "false")
            .create()?;
        let mut partitions = TopicPartitionList::new();
        for partition in 0..i32::from(PARTITIONS) {
            partitions.add_partition_offset(topic, partition, Offset::Beginning)?;
        }
        consumer.assign(&partitions)?;
        Ok(consumer)
    };
    made().map_err(|error: rdkafka::error::KafkaError| failed("the consumer", &error))
}

/// What a client library has against going on.
pub(super) fn failed(program: &str, error: &dyn std::error::Error) -> BenchError {
    BenchError::Program {
        program: program.to_owned(),
        said: error.to_string(),
    }
}

/// A gateway to be measured at a steady rate.
#[derive(Clone, Copy, Debug)]
pub(super) struct Steady<'a> {
    pub(super) rate: f64,
    /// Bootstrap server and topic.
    pub(super) kafka: (&'a str, &'a str),
    /// Lines of the configuration's sections `[buffer]` and `[kafka]`.
    pub(super) buffer_lines: &'a str,
    pub(super) kafka_lines: &'a str,
}

/// What was measured.
#[derive(Clone, Debug)]
pub(super) struct Measured {
    pub(super) latencies: Latencies,
    pub(super) per_second: f64,
    pub(super) cpu_per_million: f64,
    pub(super) switches_per_record: f64,
    pub(super) rss_mib: f64,
    /// To the log's files, in whole pages.
    pub(super) written_per_record: f64,
}

impl Steady<'_> {
    /// Measures it.
    pub(super) fn measure(&self, world: &World<'_>) -> Result<Measured, BenchError> {
        self.run(world, |_| Ok(())).map(|(measured, ())| measured)
    }

    /// Measures it, and has `meanwhile` do something with it for the time that is measured, or
    /// nothing.
    pub(super) fn run<T>(
        &self,
        world: &World<'_>,
        meanwhile: impl FnOnce(&Gateway) -> Result<T, BenchError>,
    ) -> Result<(Measured, T), BenchError> {
        let (bootstrap, topic) = self.kafka;
        let broker = mosquitto();
        let data = gateway::data_dir(world.on)?;
        let settings =
            gateway::settings(self.kafka, &broker.url(), 1, data.path(), self.buffer_lines);
        let gateway = Gateway::start_ready(&settings.kafka(self.kafka_lines));
        let times = world.times_at(self.rate);
        let window = Window::after(times.warm_up);
        let receiver = Receiver::consume(bootstrap, topic, window)?;
        let pace = Pace::PerSecond {
            rate: self.rate,
            epoch: window.epoch,
        };
        let publisher = Publisher::start(broker.port(), Load::USUAL, 1, pace)?;
        std::thread::sleep(times.warm_up);
        let before = Counts::of(&gateway)?;
        let begun = Instant::now();
        let done = meanwhile(&gateway)?;
        std::thread::sleep(times.measured.saturating_sub(begun.elapsed()));
        let after = Counts::of(&gateway)?;
        publisher.finish()?;
        let latencies = receiver.finish()?;
        Ok((after.since(&before, latencies), done))
    }
}

struct Counts {
    at: Instant,
    usage: Usage,
    committed: f64,
    written_bytes: f64,
}

impl Counts {
    fn of(gateway: &Gateway) -> Result<Self, BenchError> {
        let count = |name| {
            let silent = || BenchError::Stuck(format!("the gateway does not tell {name}"));
            gateway.metric(name, &[]).ok_or_else(silent)
        };
        Ok(Self {
            at: Instant::now(),
            usage: Usage::of(&gateway.id().to_string())?,
            committed: count(gateway::COMMITTED)?,
            written_bytes: count(gateway::WRITTEN)?,
        })
    }

    fn since(&self, before: &Self, latencies: Latencies) -> Measured {
        let records = self.committed - before.committed;
        let cpu_seconds = self.usage.cpu_seconds - before.usage.cpu_seconds;
        let written = self.written_bytes - before.written_bytes;
        let switches = (self.usage.switches - before.usage.switches) as f64;
        Measured {
            latencies,
            per_second: records / (self.at - before.at).as_secs_f64(),
            cpu_per_million: cpu_seconds * 1e6 / records,
            switches_per_record: switches / records,
            rss_mib: self.usage.rss_kib as f64 / 1024.0,
            written_per_record: written / records,
        }
    }
}
