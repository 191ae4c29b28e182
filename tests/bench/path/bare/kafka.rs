//! A bare producer: rdkafka's `BaseProducer` in a loop, with the properties that the gateway gives
//! its own.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use edge_gateway::config::Config;
use edge_gateway::kafka::{self, Mode};
use rdkafka::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};
use rumqttc::v5::mqttbytes::v5::Publish;

use super::mqtt::Handler;
use super::records::Records;
use super::{Bare, tell};
use crate::driver;
use crate::error::BenchError;

/// Sent between two looks at what was delivered.
const SENT_TOGETHER: u64 = 1000;
/// The gateway's own bounds of a transaction; records of 200 bytes never reach those in bytes.
const TRANSACTION_RECORDS: u64 = 50_000;
const TRANSACTION_INTERVAL: Duration = Duration::from_millis(100);
const UNREPORTED_MAX: u64 = 8_000;
const PAUSE: Duration = Duration::from_millis(1);
const WITHIN: Duration = Duration::from_secs(60);

/// Counts what was delivered.
#[derive(Debug, Default)]
struct Counter {
    delivered: AtomicU64,
    failed: AtomicU64,
}

impl ClientContext for Counter {}

impl ProducerContext for Counter {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, _opaque: ()) {
        let counter = match result {
            Ok(_) => &self.delivered,
            Err(_) => &self.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// A producer, and what it sends.
struct Loop {
    producer: BaseProducer<Counter>,
    records: Records,
    topic: String,
    sent: u64,
}

impl Loop {
    fn new(bare: &Bare, mode: Mode) -> Result<Self, BenchError> {
        let config = configuration(&bare.bootstrap, &bare.topic);
        let producer = kafka::properties(&config, mode).create_with_context(Counter::default());
        Ok(Self {
            producer: producer.map_err(failed)?,
            records: Records::new(&gateway_id(&bare.topic)),
            topic: bare.topic.clone(),
            sent: 0,
        })
    }

    /// Sends the next record, waiting for room.
    fn send(&mut self) -> Result<(), BenchError> {
        let (key, value, headers) = self.records.record(self.sent);
        let mut record = BaseRecord::to(&self.topic)
            .key(key)
            .payload(value)
            .headers(headers);
        while let Err((error, refused)) = self.producer.send(record) {
            if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                return Err(failed(error));
            }
            record = refused;
            serve(&self.producer)?;
            std::thread::sleep(PAUSE);
        }
        self.sent += 1;
        Ok(())
    }

    fn delivered(&self) -> Result<u64, BenchError> {
        serve(&self.producer)
    }

    /// Waits until all that was sent is delivered. rdkafka's `flush` comes in steps of 100 ms.
    fn settle(&self) -> Result<(), BenchError> {
        let give_up = Instant::now() + WITHIN;
        while self.delivered()? < self.sent {
            if Instant::now() >= give_up {
                return Err(BenchError::Stuck("no delivery reports".to_owned()));
            }
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    fn transaction(&mut self, records: u64) -> Result<(), BenchError> {
        self.producer.begin_transaction().map_err(failed)?;
        let due = Instant::now() + TRANSACTION_INTERVAL;
        let full = (self.sent + TRANSACTION_RECORDS).min(records);
        while self.sent < full && Instant::now() < due {
            let some = (self.sent + SENT_TOGETHER).min(full);
            if self.delivered()? + UNREPORTED_MAX < some {
                std::thread::sleep(PAUSE);
                continue;
            }
            while self.sent < some {
                self.send()?;
            }
        }
        self.settle()?;
        self.producer.commit_transaction(WITHIN).map_err(failed)
    }
}

/// Sends so many records, as many under way as there is room for.
pub(super) fn stream(bare: &Bare) -> Result<(), BenchError> {
    let mut sending = Loop::new(bare, Mode::Streaming)?;
    while sending.sent < bare.records {
        sending.send()?;
        if sending.sent.is_multiple_of(SENT_TOGETHER) {
            tell(sending.delivered()?);
        }
    }
    sending.settle()?;
    tell(sending.sent);
    Ok(())
}

/// Sends so many records in transactions like the gateway's.
pub(super) fn transactions(bare: &Bare) -> Result<(), BenchError> {
    let mut sending = Loop::new(bare, Mode::Transactions)?;
    sending.producer.init_transactions(WITHIN).map_err(failed)?;
    while sending.sent < bare.records {
        sending.transaction(bare.records)?;
        tell(sending.sent);
    }
    Ok(())
}

/// Sends a record for each message received.
pub(super) struct Forward(Loop);

impl Forward {
    pub(super) fn new(bare: &Bare) -> Result<Self, BenchError> {
        Loop::new(bare, Mode::Streaming).map(Self)
    }
}

impl Handler for Forward {
    fn handle(&mut self, _publish: &Publish) -> Result<(), BenchError> {
        self.0.send()
    }

    fn progress(&mut self, _received: u64) -> Result<u64, BenchError> {
        self.0.delivered()
    }
}

/// Serves events until there are none; returns how many records were delivered so far.
fn serve(producer: &BaseProducer<Counter>) -> Result<u64, BenchError> {
    let counter = producer.context();
    loop {
        let before = counter.delivered.load(Ordering::Relaxed);
        // One event a call.
        producer.poll(Duration::ZERO);
        if counter.failed.load(Ordering::Relaxed) > 0 {
            return Err(BenchError::Stuck("a record was not delivered".to_owned()));
        }
        if counter.delivered.load(Ordering::Relaxed) == before {
            return Ok(before);
        }
    }
}

/// What the gateway that sends to a topic is called ([`system_tests::gateway::Settings`]).
fn gateway_id(topic: &str) -> String {
    format!("gw-of-{topic}")
}

/// A gateway's configuration, for its properties.
pub(crate) fn configuration(bootstrap: &str, topic: &str) -> Config {
    driver::config(&format!(
        "[gateway]\nid = \"{}\"\ndata_dir = \"/\"\n\
         [sources.load-0]\ntype = \"mqtt\"\nurl = \"mqtt://127.0.0.1:1\"\n\
         subscriptions = [{{ filter = \"#\" }}]\n\
         [kafka]\nbrokers = [\"{bootstrap}\"]\ntopic = \"{topic}\"\n",
        gateway_id(topic)
    ))
}

fn failed(error: KafkaError) -> BenchError {
    BenchError::Program {
        program: "the bare Kafka producer".to_owned(),
        said: error.to_string(),
    }
}
