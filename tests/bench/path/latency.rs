//! From the publisher to a consumer of Kafka, at steady rates and with default settings: beside
//! publisher to subscriber at the same broker, and producer to consumer at the same Kafka.
//!
//! Percentiles are those of a round. Those of the two ceilings are added, which is more than the
//! percentile of their sum would be.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use edge_gateway::kafka::{self, Mode};
use rdkafka::producer::{BaseProducer, BaseRecord};

use super::load::{self, Load, Pace, Publisher, TIME_DIGITS};
use super::steady::{Latencies, Receiver, Steady, Window, failed};
use super::{Cluster, RSS, RSS_MIB_MAX, World, bare, mosquitto};
use crate::error::BenchError;
use crate::report::{Report, Target};
use crate::telemetry;

const RATES: [f64; 3] = [100.0, 2_000.0, 10_000.0];
/// The rate for which there is a target, and what it is.
const TARGET_RATE: f64 = 2_000.0;
const P99_MS_MAX: f64 = 30.0;
/// Percentiles, in thousandths.
const PERCENTILES: [(usize, &str); 3] = [(500, "median"), (990, "p99"), (999, "p99.9")];
const READ_TIMEOUT: Duration = Duration::from_millis(20);
/// Between two messages, or for the reports of those before.
const PAUSE: Duration = Duration::from_micros(300);

/// Adds a sample of each figure.
pub(super) fn measure(world: &World<'_>, report: &mut Report) -> Result<(), BenchError> {
    let cluster = Cluster::apache();
    let bootstrap = cluster.bootstrap();
    for rate in RATES {
        let alone = cluster.topic();
        let through = cluster.topic();
        let mqtt = mqtt_alone(world, rate)?;
        let kafka = kafka_alone(world, rate, (&bootstrap, &alone))?;
        let steady = Steady {
            rate,
            kafka: (&bootstrap, &through),
            buffer_lines: "",
            kafka_lines: "",
        };
        let whole = steady.measure(world)?;
        for (thousandths, name) in PERCENTILES {
            let target = if rate == TARGET_RATE && thousandths == 990 {
                Target::AtMost(P99_MS_MAX)
            } else {
                Target::None
            };
            let through = whole.latencies.at(thousandths)?;
            let added = mqtt.at(thousandths)? + kafka.at(thousandths)?;
            report.add(&format!("{rate}/s: {name}, ms"), 1, target, through);
            let what = format!("{rate}/s: {name} of MQTT and of Kafka alone, added, ms");
            report.add(&what, 1, Target::None, added);
        }
        let mut add = |what: &str, decimals, target, sample| {
            report.add(&format!("{rate}/s: {what}"), decimals, target, sample);
        };
        let none = Target::None;
        add("records/s", 0, none, whole.per_second);
        add("CPU-seconds a million", 1, none, whole.cpu_per_million);
        let switches = whole.switches_per_record;
        add("context switches a record", 2, none, switches);
        let written = whole.written_per_record;
        add("bytes a record to the disk", 0, none, written);
        let rss = Target::AtMost(RSS_MIB_MAX);
        add(RSS, 1, rss, whole.rss_mib);
    }
    Ok(())
}

/// From a publisher to a subscriber.
fn mqtt_alone(world: &World<'_>, rate: f64) -> Result<Latencies, BenchError> {
    let broker = mosquitto();
    let times = world.times_at(rate);
    let subscriber = Subscriber::connect(broker.port());
    let mut subscriber = subscriber.map_err(BenchError::io("subscribe"))?;
    let window = Window::after(times.warm_up);
    let receiver = Receiver::start(move |latencies| {
        subscriber
            .receive(|payload| latencies.arrived(payload, window.epoch, window.from))
            .map_err(BenchError::io("receive"))
    });
    let epoch = window.epoch;
    let pace = Pace::PerSecond { rate, epoch };
    let publisher = Publisher::start(broker.port(), Load::USUAL, 1, pace)?;
    std::thread::sleep(times.warm_up + times.measured);
    publisher.finish()?;
    receiver.finish()
}

/// A subscriber of the fewest possible parts.
struct Subscriber {
    stream: TcpStream,
    read: Vec<u8>,
    answers: Vec<u8>,
}

impl Subscriber {
    fn connect(port: u16) -> std::io::Result<Self> {
        let mut stream = load::open(port, "subscriber")?;
        stream.set_nodelay(true)?;
        let mut body = vec![0, 1];
        body.extend(load::text("load/#"));
        body.push(1);
        stream.write_all(&load::packet(0x82, &body))?;
        let mut granted = [0; 5];
        stream.read_exact(&mut granted)?;
        stream.set_read_timeout(Some(READ_TIMEOUT))?;
        Ok(Self {
            stream,
            read: Vec::new(),
            answers: Vec::new(),
        })
    }

    /// Receives what comes soon, and acknowledges it.
    fn receive(&mut self, mut arrived: impl FnMut(&[u8])) -> std::io::Result<()> {
        let mut bytes = [0; 16 * 1024];
        let count = match self.stream.read(&mut bytes) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            other => other?,
        };
        self.read.extend_from_slice(&bytes[..count]);
        let mut begin = 0;
        while let Some(publish) = publish(&self.read[begin..]) {
            arrived(publish.payload);
            self.answers.extend([0x40, 2]);
            self.answers.extend(publish.id);
            begin += publish.bytes;
        }
        self.read.drain(..begin);
        self.stream.write_all(&self.answers)?;
        self.answers.clear();
        Ok(())
    }
}

struct Publish<'a> {
    id: [u8; 2],
    payload: &'a [u8],
    /// All of it.
    bytes: usize,
}

/// The publish at the beginning, if it is whole: these are of 128 to 16,383 bytes.
fn publish(bytes: &[u8]) -> Option<Publish<'_>> {
    let (low, high) = (*bytes.get(1)?, *bytes.get(2)?);
    let length = usize::from(low & 0x7f) | usize::from(high) << 7;
    let body = bytes.get(3..3 + length)?;
    let topic = usize::from(u16::from_be_bytes([body[0], body[1]]));
    Some(Publish {
        id: [body[2 + topic], body[3 + topic]],
        payload: &body[4 + topic..],
        bytes: 3 + length,
    })
}

/// From a producer to a consumer, with the properties of the gateway's.
fn kafka_alone(
    world: &World<'_>,
    rate: f64,
    (bootstrap, topic): (&str, &str),
) -> Result<Latencies, BenchError> {
    let config = bare::configuration(bootstrap, topic);
    let producer: BaseProducer = kafka::properties(&config, Mode::Streaming)
        .create()
        .map_err(|error| failed("the producer", &error))?;
    let times = world.times_at(rate);
    let window = Window::after(times.warm_up);
    let receiver = Receiver::consume(bootstrap, topic, window)?;
    let messages = telemetry::messages(Load::USUAL.devices, Load::USUAL.payload_bytes);
    let begun = Instant::now();
    let mut sent: u64 = 0;
    while begun.elapsed() < times.warm_up + times.measured {
        let due = (begun.elapsed().as_secs_f64() * rate) as u64;
        while sent < due {
            let (key, payload) = &messages[(sent % messages.len() as u64) as usize];
            let nanos = window.epoch.elapsed().as_nanos();
            let payload = [format!("{nanos:016x}").as_bytes(), &payload[TIME_DIGITS..]].concat();
            let record = BaseRecord::to(topic).key(key).payload(&payload);
            let taken = producer.send(record);
            taken.map_err(|(error, _)| failed("the producer", &error))?;
            sent += 1;
        }
        producer.poll(Duration::ZERO);
        std::thread::sleep(PAUSE);
    }
    receiver.finish()
}
