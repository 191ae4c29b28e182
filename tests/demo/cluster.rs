//! The Kafka of the demo: embedded, or Apache Kafka.

use system_tests::kafka::Kafka;
use system_tests::mock_kafka::MockKafka;

/// Which Kafka.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum KafkaKind {
    /// librdkafka's mock cluster in a process of its own.
    Embedded,
    /// Apache Kafka, a single node.
    Real,
}

impl KafkaKind {
    pub(crate) fn description(self) -> &'static str {
        match self {
            Self::Embedded => "embedded (librdkafka's mock cluster; KAFKA=real for Apache Kafka)",
            Self::Real => "Apache Kafka",
        }
    }
}

/// A running cluster.
#[derive(Debug)]
pub(crate) enum Cluster {
    Embedded(MockKafka),
    Real(Box<Kafka>),
}

impl Cluster {
    pub(crate) fn start(kind: KafkaKind) -> Self {
        match kind {
            KafkaKind::Embedded => Self::Embedded(MockKafka::start()),
            KafkaKind::Real => Self::Real(Box::new(Kafka::start())),
        }
    }

    pub(crate) fn bootstrap(&self) -> String {
        match self {
            Self::Embedded(mock) => mock.bootstrap().to_owned(),
            Self::Real(kafka) => kafka.bootstrap(),
        }
    }

    pub(crate) fn create_topic(&mut self, name: &str, partitions: u16) {
        match self {
            Self::Embedded(mock) => mock.create_topic(name, partitions),
            Self::Real(kafka) => kafka.create_topic(name, i32::from(partitions), &[]),
        }
    }

    /// The embedded one would forget its records if it were ended: its broker goes down instead.
    pub(crate) fn take_away(&mut self) {
        match self {
            Self::Embedded(mock) => mock.down(),
            Self::Real(kafka) => kafka.stop(),
        }
    }

    pub(crate) fn bring_back(&mut self) {
        match self {
            Self::Embedded(mock) => mock.up(),
            Self::Real(kafka) => kafka.start_again(),
        }
    }
}
