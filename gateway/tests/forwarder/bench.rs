//! A forwarder with a commit log, dead letters and a mock cluster.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use edge_gateway::clock::timeline::Boots;
use edge_gateway::clock::{self, SystemClock};
use edge_gateway::commit_log::fs::RealFs;
use edge_gateway::commit_log::{CommitLog, CommitReport, Compression, Observer, Options, Progress};
use edge_gateway::config::{self, Config};
use edge_gateway::dead_letters::{DeadLetters, Envelope};
use edge_gateway::forwarder::parking::{ParkedTopic, Parking};
use edge_gateway::forwarder::{self, ForwarderContext, ForwarderError};
use edge_gateway::metrics::{Metrics, TopicLabel};
use edge_gateway::pulse::Pulse;
use edge_gateway::record::{NewRecord, Offset, Origin, PayloadKind, SourceName};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::topic_partition_list::{Offset as From, TopicPartitionList};

pub(crate) const TOPIC: &str = "telemetry";
/// Of one partition.
pub(crate) const OFFSETS_TOPIC: &str = "offsets";
/// Topic of records whose subject begins with `side/`.
pub(crate) const SIDE_TOPIC: &str = "side";
pub(crate) const PARTITIONS: i32 = 3;
pub(crate) const DEVICES: u64 = 7;
/// Far beyond what anything here takes: reached only when something is wrong.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(crate) struct Unobserved;

impl Observer for Unobserved {
    fn progress(&self, _progress: Progress) {}
    fn committed(&self, _report: &CommitReport) {}
    fn dropped(&self, _source: &str, _reason: &'static str, _records: u64) {}
}

pub(crate) struct Bench {
    pub(crate) cluster: MockCluster<'static, DefaultProducerContext>,
    pub(crate) config: Config,
    pub(crate) log: CommitLog,
    pub(crate) dead_letters: DeadLetters,
    pub(crate) metrics: Arc<Metrics>,
    _dir: tempfile::TempDir,
}

pub(crate) struct Running {
    pub(crate) stop: Arc<AtomicBool>,
    pub(crate) parking: Parking,
    pub(crate) thread: JoinHandle<Result<(), ForwarderError>>,
    log: CommitLog,
}

impl Running {
    pub(crate) fn drain(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.log.rouse();
        self.thread
            .join()
            .expect("the forwarder does not panic")
            .expect("the forwarder ends in order");
        self.parking.close();
    }
}

impl Bench {
    pub(crate) fn new(kafka: &str) -> Self {
        Self::with_log(kafka, 64 << 20, false)
    }

    /// With a budget for what is parked.
    pub(crate) fn with_parking(kafka: &str, bytes_max: &str) -> Self {
        let buffer = format!("\n[buffer]\nparking_bytes_max = \"{bytes_max}\"");
        Self::made(&format!("{kafka}{buffer}"), 1, 64 << 20, false)
    }

    /// What a process that begins now finds parked.
    pub(crate) fn start_and_look(&self) -> Vec<ParkedTopic> {
        let parking = Parking::open(&self.config, "test", Arc::clone(&self.metrics));
        let topics = parking.topics();
        parking.close();
        topics
    }

    pub(crate) fn with_brokers(kafka: &str, brokers: i32) -> Self {
        Self::made(kafka, brokers, 64 << 20, false)
    }

    pub(crate) fn with_log(kafka: &str, bytes_max: u64, drop_oldest: bool) -> Self {
        Self::made(kafka, 1, bytes_max, drop_oldest)
    }

    fn made(kafka: &str, brokers: i32, bytes_max: u64, drop_oldest: bool) -> Self {
        let cluster = MockCluster::new(brokers).expect("a mock cluster");
        for (topic, partitions) in [
            (TOPIC, PARTITIONS),
            (SIDE_TOPIC, PARTITIONS),
            (OFFSETS_TOPIC, 1),
        ] {
            cluster
                .create_topic(topic, partitions, 1)
                .expect("a topic is made");
        }
        let dir = tempfile::tempdir().expect("a directory");
        let config = configuration(dir.path(), &cluster.bootstrap_servers(), kafka);
        let opened = CommitLog::open(
            Arc::new(RealFs),
            Options {
                dir: dir.path().join("log"),
                bytes_max,
                segment_bytes: 256 * 1024,
                commit_interval: Duration::from_millis(1),
                drop_oldest,
                reserve: false,
                age_max: None,
                compression: Compression::None,
                clock: Arc::new(SystemClock::default()),
                owner: "test".to_owned(),
            },
            Box::new(Unobserved),
            (),
        )
        .expect("the log opens");
        let metrics = Arc::new(Metrics::new());
        Self {
            cluster,
            config,
            log: opened.log,
            dead_letters: DeadLetters::open(dir.path(), "test", &metrics)
                .expect("the dead letters open"),
            metrics,
            _dir: dir,
        }
    }

    /// Offset and reason of every dead letter.
    pub(crate) fn letters(&self) -> Vec<(u64, String)> {
        let letters = self.dead_letters.list().expect("readable");
        let parts = |letter: Envelope| (letter.offset.expect("it was in the log"), letter.reason);
        letters.into_iter().map(parts).collect()
    }

    pub(crate) fn start(&self) -> Running {
        self.start_with_grace(PATIENCE)
    }

    pub(crate) fn start_with_grace(&self, grace: Duration) -> Running {
        let stop = Arc::new(AtomicBool::new(false));
        let parking = Parking::open(&self.config, "test", Arc::clone(&self.metrics));
        let context = ForwarderContext {
            log: self.log.clone(),
            dead_letters: self.dead_letters.clone(),
            parking: parking.clone(),
            metrics: Arc::clone(&self.metrics),
            boots: Boots::default(),
            stop: Arc::clone(&stop),
            pulse: Pulse::default(),
            received_here_from: self.log.progress().synced,
        };
        let config = self.config.clone();
        let thread = std::thread::spawn(move || forwarder::run(&config, context, grace));
        Running {
            stop,
            parking,
            thread,
            log: self.log.clone(),
        }
    }

    /// Appends records number `from..to`, each naming its number, and returns once they are synced.
    pub(crate) fn append(&self, from: u64, to: u64) {
        for number in from..to {
            self.append_payload(number, number.to_string().as_bytes());
        }
        let last = Offset::new(to - 1);
        assert!(self.log.wait(last, PATIENCE).synced > last);
    }

    pub(crate) fn append_payload(&self, number: u64, payload: &[u8]) {
        self.append_of("city", number, payload);
    }

    pub(crate) fn append_of(&self, source: &str, number: u64, payload: &[u8]) {
        let subject = format!("city/{}", number % DEVICES);
        self.append_kind(source, &subject, (PayloadKind::Opaque, payload));
    }

    pub(crate) fn append_kind(&self, source: &str, subject: &str, content: (PayloadKind, &[u8])) {
        append_to(&self.log, source, subject, content);
    }

    pub(crate) fn until_committed(&self, offset: u64) {
        until("the committed offset", || {
            self.log.committed() >= Offset::new(offset)
        });
    }

    pub(crate) fn delivered(&self) -> u64 {
        self.delivered_to(TOPIC)
    }

    pub(crate) fn delivered_to(&self, topic: &str) -> u64 {
        let topic = TopicLabel {
            topic: topic.to_owned(),
        };
        self.metrics.delivered.get_or_create_owned(&topic).get()
    }

    /// Reads `count` messages from the beginning of the topic; those of one key are in order.
    pub(crate) fn read(&self, count: usize) -> Vec<Got> {
        self.read_topic(TOPIC, PARTITIONS, count)
    }

    pub(crate) fn read_topic(
        &self,
        topic: &str,
        count_of_partitions: i32,
        count: usize,
    ) -> Vec<Got> {
        take(&self.consumer(topic, count_of_partitions), count)
    }

    /// Reads what the topic holds now, from the beginning.
    pub(crate) fn read_whole(&self, topic: &str, count_of_partitions: i32) -> Vec<Got> {
        let consumer = self.consumer(topic, count_of_partitions);
        let count = (0..count_of_partitions).map(|partition| {
            let (low, high) = consumer
                .fetch_watermarks(topic, partition, PATIENCE)
                .expect("watermarks");
            usize::try_from(high - low).expect("not negative")
        });
        take(&consumer, count.sum())
    }

    fn consumer(&self, topic: &str, count_of_partitions: i32) -> BaseConsumer {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", self.cluster.bootstrap_servers())
            .set("group.id", "reader")
            .set("enable.auto.commit", "false")
            .set("fetch.wait.max.ms", "5")
            .create()
            .expect("a consumer");
        let mut partitions = TopicPartitionList::new();
        for partition in 0..count_of_partitions {
            partitions
                .add_partition_offset(topic, partition, From::Beginning)
                .expect("a partition");
        }
        consumer.assign(&partitions).expect("assigned");
        consumer
    }
}

fn take(consumer: &BaseConsumer, count: usize) -> Vec<Got> {
    let mut got = Vec::new();
    until("messages at the far end", || {
        if let Some(message) = consumer.poll(Duration::from_millis(20)) {
            got.push(Got::of(&message.expect("a message")));
        }
        got.len() >= count
    });
    got
}

/// Appends a record, waiting until the log takes it.
pub(crate) fn append_to(
    log: &CommitLog,
    source: &str,
    subject: &str,
    (kind, payload): (PayloadKind, &[u8]),
) {
    let source = SourceName::new(source).expect("valid");
    let record = NewRecord {
        source: &source,
        subject,
        kind,
        origin: Origin::Mqtt {
            qos: 1,
            packet_id: 1,
            dup: false,
            settled: edge_gateway::record::Settled::default(),
        },
        received: clock::now(),
        payload,
    };
    let give_up = Instant::now() + PATIENCE;
    while log.append(&record).is_err() {
        assert!(Instant::now() < give_up, "the log takes no record");
        std::thread::yield_now();
    }
}

#[derive(Debug)]
pub(crate) struct Got {
    pub(crate) key: String,
    pub(crate) value: String,
    pub(crate) timestamp_ms: Option<i64>,
    pub(crate) headers: BTreeMap<String, String>,
}

impl Got {
    pub(crate) fn of(message: &impl Message<Headers = rdkafka::message::BorrowedHeaders>) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let headers = message.headers().map(|headers| {
            headers
                .iter()
                .map(|header| {
                    (
                        header.key.to_owned(),
                        text(header.value.unwrap_or_default()),
                    )
                })
                .collect()
        });
        Self {
            key: text(message.key().unwrap_or_default()),
            value: text(message.payload().expect("never a null")),
            timestamp_ms: message.timestamp().to_millis(),
            headers: headers.unwrap_or_default(),
        }
    }
}

pub(crate) fn configuration(dir: &Path, brokers: &str, kafka: &str) -> Config {
    let text = format!(
        "[gateway]\nid = \"gw\"\ndata_dir = \"{}\"\n\
         [sources.city]\ntype = \"mqtt\"\nurl = \"mqtt://127.0.0.1:1\"\n\
         subscriptions = [{{ filter = \"#\" }}]\n\
         [kafka]\nbrokers = [{}]\ntopic = \"{TOPIC}\"\n{kafka}\n\
         [[routes]]\nmatch = \"side/+\"\ntopic = \"{SIDE_TOPIC}\"\n",
        dir.display(),
        brokers
            .split(',')
            .map(|broker| format!("\"{broker}\""))
            .collect::<Vec<_>>()
            .join(","),
    );
    config::parse(&text, Path::new("test.toml")).unwrap_or_else(|error| panic!("{error}"))
}

pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let give_up = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < give_up, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Every number of `expected` is there once, in ascending order within its key.
pub(crate) fn assert_once_and_in_order(got: &[Got], expected: impl Iterator<Item = u64>) {
    let mut by_key: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for message in got {
        let number = message
            .value
            .trim_end_matches('x')
            .parse()
            .expect("a number");
        by_key.entry(&message.key).or_default().push(number);
    }
    for (key, numbers) in &by_key {
        assert!(numbers.is_sorted(), "key {key} out of order: {numbers:?}");
    }
    let mut all: Vec<u64> = by_key.into_values().flatten().collect();
    all.sort_unstable();
    assert_eq!(all, expected.collect::<Vec<u64>>());
}
