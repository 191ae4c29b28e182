//! Copies of dead letters in a Kafka topic, for those who don't go to the board.
//!
//! Best effort, beside the letters on disk: a copy is handed over without waiting, to a thread with
//! a producer of its own, and one that there is no room for, or that Kafka does not take within five
//! minutes, is counted and forgotten. What was under way when the gateway ends is given two seconds.
//!
//! The key is the record's source, the value its payload, cut where it is long: it may have been
//! refused for its size. Headers tell the rest (`gateway/README.md` lists them).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use rdkafka::message::{Header, OwnedHeaders};

use super::figures::LetterFigures;
use super::letter::{DeadLetter, Envelope};
use crate::config::Config;
use crate::kafka::{CopyProducer, Message};
use crate::metrics::OutcomeLabel;

/// Most copies on their way to the thread, which only hands them on.
const WAITING_MAX: usize = 16;
/// Longest value: below what topics take by default, so that a payload that is too large for its own
/// topic is not refused here too.
const VALUE_BYTES_MAX: usize = 256 * 1024;
/// How often reports are looked for while some are due, and the stop otherwise.
const BUSY_PAUSE: Duration = Duration::from_millis(50);
const IDLE_PAUSE: Duration = Duration::from_millis(500);
/// What an end leaves for copies under way.
const GRACE: Duration = Duration::from_secs(2);

/// Takes copies. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Copies {
    queue: SyncSender<Copy>,
    figures: LetterFigures,
}

#[derive(Debug)]
struct Copy {
    source: String,
    value: Vec<u8>,
    received_ms: i64,
    headers: OwnedHeaders,
}

/// What the copies' thread runs.
#[derive(Debug)]
pub struct Copier {
    queue: Receiver<Copy>,
    producer: CopyProducer,
    topic: String,
    figures: LetterFigures,
}

/// Makes both ends.
///
/// # Errors
/// A property that librdkafka refuses.
pub fn copies(
    config: &Config,
    topic: &str,
    figures: &LetterFigures,
) -> Result<(Copies, Copier), rdkafka::error::KafkaError> {
    let (sender, receiver) = sync_channel(WAITING_MAX);
    let counter = |outcome| {
        figures
            .copies
            .get_or_create_owned(&OutcomeLabel { outcome })
    };
    let producer = CopyProducer::new(config, counter("delivered"), counter("failed"))?;
    let copier = Copier {
        queue: receiver,
        producer,
        topic: topic.to_owned(),
        figures: figures.clone(),
    };
    let copies = Copies {
        queue: sender,
        figures: figures.clone(),
    };
    Ok((copies, copier))
}

impl Copies {
    /// Takes a copy of a letter that was stored, if there is room.
    pub(super) fn take(&self, letter: &DeadLetter<'_>, envelope: Envelope) {
        let headers = headers(letter, &envelope);
        let mut value = envelope.payload;
        value.truncate(VALUE_BYTES_MAX);
        let copy = Copy {
            source: letter.source.to_string(),
            value,
            received_ms: letter.received.wall_ms,
            headers,
        };
        if self.queue.try_send(copy).is_err() {
            count_failed(&self.figures);
        }
    }
}

fn count_failed(figures: &LetterFigures) {
    let outcome = "failed";
    figures
        .copies
        .get_or_create(&OutcomeLabel { outcome })
        .inc();
}

fn headers(letter: &DeadLetter<'_>, envelope: &Envelope) -> OwnedHeaders {
    let numbers = [
        ("dead_letter_time_ms", envelope.set_aside_ms),
        ("dead_letter_received_ms", Some(letter.received.wall_ms)),
        (
            "dead_letter_payload_bytes",
            i64::try_from(letter.payload_bytes).ok(),
        ),
        (
            "dead_letter_offset",
            letter.offset.and_then(|at| i64::try_from(at).ok()),
        ),
    ];
    let texts = [
        ("dead_letter_reason", Some(letter.reason)),
        ("dead_letter_code", letter.code),
        ("dead_letter_detail", Some(letter.detail)),
        ("dead_letter_topic", letter.topic),
        ("dead_letter_log", envelope.log.as_deref()),
        ("dead_letter_source", Some(letter.source.as_str())),
        ("dead_letter_subject", Some(letter.subject)),
    ];
    let numbers = numbers.map(|(key, number)| (key, number.map(|number| number.to_string())));
    let numbers = numbers
        .iter()
        .map(|(key, number)| (*key, number.as_deref()));
    let mut headers = OwnedHeaders::new();
    for (key, value) in texts.into_iter().chain(numbers) {
        if let Some(value) = value {
            let value = Some(value);
            headers = headers.insert(Header { key, value });
        }
    }
    headers
}

impl Copier {
    /// Copies until `stop` is set. Blocks the calling thread.
    pub fn run(self, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            let pause = if self.producer.in_flight() > 0 {
                BUSY_PAUSE
            } else {
                IDLE_PAUSE
            };
            match self.queue.recv_timeout(pause) {
                Ok(copy) => self.send(copy),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.producer.serve();
        }
        while let Ok(copy) = self.queue.try_recv() {
            self.send(copy);
        }
        let give_up = Instant::now() + GRACE;
        while self.producer.in_flight() > 0 && Instant::now() < give_up {
            self.producer.serve();
            std::thread::sleep(BUSY_PAUSE);
        }
    }

    fn send(&self, copy: Copy) {
        let taken = self.producer.send(Message {
            topic: &self.topic,
            key: Some(&copy.source),
            value: &copy.value,
            timestamp_ms: Some(copy.received_ms).filter(|ms| *ms >= 0),
            headers: Some(copy.headers),
        });
        if !taken {
            count_failed(&self.figures);
        }
    }
}
