//! Returning parked records in at-least-once delivery: a thread that tries one topic after the other.
//!
//! A topic is asked for, then its first record is sent alone; if that is delivered, the rest streams, by
//! a producer of its own, with the forwarder's own ring, refusals and dead letters
//! ([`Sender`](super::super::Sender)). When little is left, the forwarder waits a moment at the topic's
//! next record, so that the log can become empty under load too.
//!
//! A topic that takes nothing within [`TURN`] is left for the next one. What was in flight then may be
//! there twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rdkafka::error::RDKafkaErrorCode;

use super::super::backoff::Stop;
use super::super::encode::Encoder;
use super::super::lane::{Lane, Trouble};
use super::super::reader::{Read, Reader};
use super::super::{ForwarderContext, ForwarderError, Sender, Sending};
use super::unpark::{Found, unpark};
use super::{CommitLog, Parking};
use crate::clock::timeline::Boots;
use crate::config::Config;
use crate::dead_letters::DeadLetters;
use crate::kafka::{Class, Mode, Producer, class};
use crate::metrics::Metrics;
use crate::pulse::Pulse;
use crate::record::Offset;

/// How long a topic may take nothing before another one has its turn.
const TURN: Duration = Duration::from_secs(15);
/// How often due topics are looked for.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// Longest wait for what the cluster says of a topic.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// Longest time the forwarder waits for the last parked records.
const HANDOVER_WITHIN: Duration = Duration::from_secs(2);
/// When a topic is tried again that had its turn, or that the cluster said nothing of.
const AGAIN: Duration = Duration::from_secs(1);

/// What all tries have in common.
pub(in super::super) struct Returner<'c> {
    config: &'c Config,
    parking: Parking,
    dead_letters: DeadLetters,
    metrics: Arc<Metrics>,
    boots: Boots,
    over: Arc<AtomicBool>,
}

/// How a try ended.
enum Outcome {
    /// Nothing is left, or the topic was put off.
    Over,
    /// The topic was refused.
    Refused(RDKafkaErrorCode),
}

/// One topic's turn.
struct Turn<'t, 'c> {
    topic: &'t str,
    identity: &'t str,
    parking: &'t Parking,
    reader: Reader,
    sender: Sender<'c>,
}

impl<'c> Returner<'c> {
    pub(in super::super) fn new(
        config: &'c Config,
        context: &ForwarderContext,
        over: Arc<AtomicBool>,
    ) -> Self {
        Self {
            config,
            parking: context.parking.clone(),
            dead_letters: context.dead_letters.clone(),
            metrics: Arc::clone(&context.metrics),
            boots: context.boots.clone(),
            over,
        }
    }

    /// Runs until `over` is set; sets it itself if it fails.
    pub(in super::super) fn run(self) -> Result<(), ForwarderError> {
        while !self.over.load(Ordering::Relaxed) {
            match self.parking.due() {
                Some(topic) => {
                    let tried = self.attempt(&topic);
                    if tried.is_err() {
                        self.over.store(true, Ordering::Relaxed);
                    }
                    tried?;
                }
                None => self.parking.wait(LOOK_INTERVAL, &self.over),
            }
        }
        Ok(())
    }

    fn attempt(&self, topic: &str) -> Result<(), ForwarderError> {
        let outcome = match self.parking.log(topic) {
            Some(log) => self.give_back(topic, &log)?,
            None => Outcome::Over,
        };
        match outcome {
            Outcome::Over => Ok(()),
            Outcome::Refused(code) => {
                if self.parking.refused(topic, code) {
                    let detail = format!("Kafka refuses the topic: {code}");
                    self.parking.give_up(topic, &self.dead_letters, &detail)?;
                }
                Ok(())
            }
        }
    }

    fn give_back(&self, topic: &str, log: &CommitLog) -> Result<Outcome, ForwarderError> {
        if self.parking.finish(topic, None) {
            return Ok(Outcome::Over);
        }
        self.parking.later(topic, AGAIN);
        if log.committed() >= log.progress().synced {
            return Ok(Outcome::Over);
        }
        let metrics = Arc::clone(&self.metrics);
        let producer =
            Producer::new(self.config, Mode::Single, metrics).map_err(ForwarderError::Producer)?;
        match producer.topic_error(topic, ANSWER_WITHIN) {
            Some(code) if class(code) == Class::Topic => return Ok(Outcome::Refused(code)),
            Some(_) => return Ok(Outcome::Over),
            None => {}
        }
        let identity = log.identity();
        Turn {
            topic,
            identity: &identity,
            parking: &self.parking,
            reader: Reader::new(log.clone(), Arc::clone(&self.metrics)),
            sender: self.sender(log, producer),
        }
        .run()
    }

    fn sender(&self, log: &CommitLog, producer: Producer) -> Sender<'c> {
        // Its sign of life is nobody's business but its own: it may wait for a topic.
        let mut stop = Stop::new(Arc::clone(&self.over), Pulse::default(), Duration::ZERO);
        stop.begin_turn(Some(TURN));
        Sender {
            config: self.config,
            metrics: Arc::clone(&self.metrics),
            dead_letters: self.dead_letters.clone(),
            parking: self.parking.clone(),
            log_identity: log.identity(),
            encoder: Encoder::new(
                self.config,
                &log.identity(),
                self.boots.clone(),
                Arc::clone(&self.metrics),
            ),
            lane: Lane::new(log.clone(), Arc::clone(&self.metrics), stop, producer),
            sending: Sending::Alone {
                until: log.committed().plus(1),
            },
            // What is parked counts for no duration.
            received_here_from: Offset::new(u64::MAX),
        }
    }
}

impl Turn<'_, '_> {
    fn run(mut self) -> Result<Outcome, ForwarderError> {
        loop {
            let floor = self.sender.lane.floor();
            self.sender.lane.serve();
            self.moved_from(floor);
            if let Some(trouble) = self.sender.lane.take_trouble() {
                if let Some(code) = self.recover(&trouble)? {
                    return Ok(Outcome::Refused(code));
                }
                self.reader.seek(self.sender.lane.floor());
                continue;
            }
            if self.sender.lane.stop.is_over() {
                self.put_off();
                return Ok(Outcome::Over);
            }
            let floor = self.sender.lane.floor();
            let read = self.read_on()?;
            self.moved_from(floor);
            if read == Read::Nothing && self.is_done() {
                return Ok(Outcome::Over);
            }
        }
    }

    fn read_on(&mut self) -> Result<Read, ForwarderError> {
        let sender = &mut self.sender;
        let found = Found {
            topic: self.topic,
            log: self.identity,
        };
        self.reader
            .forward_next(|item| unpark(item, found, &mut |outgoing| sender.forward(outgoing)))
    }

    /// Records were delivered: the turn goes on.
    fn moved_from(&mut self, floor: Offset) {
        if self.sender.lane.floor() > floor {
            self.parking.answers(self.topic);
            self.sender.lane.stop.begin_turn(Some(TURN));
        }
    }

    /// All that is synced was read. True if nothing is parked any more.
    fn is_done(&mut self) -> bool {
        self.parking.hand_over(self.topic, HANDOVER_WITHIN);
        if self.sender.lane.is_idle() && self.parking.finish(self.topic, None) {
            return true;
        }
        let pause = self.sender.lane.next_pause();
        self.reader.wait(pause);
        false
    }

    /// Begins anew from the floor. The code if the topic was refused.
    fn recover(&mut self, trouble: &Trouble) -> Result<Option<RDKafkaErrorCode>, ForwarderError> {
        let sender = &mut self.sender;
        sender.lane.stop.begin_turn(None);
        sender.lane.quiesce();
        let trouble = match sender.lane.take_trouble() {
            Some(later) => trouble.joined(later),
            None => *trouble,
        };
        sender.lane.stop.begin_turn(Some(TURN));
        if let Some(until) = trouble.refused_until {
            sender.sending = Sending::Alone { until };
        }
        match trouble.class {
            Class::Topic => return Ok(Some(trouble.code)),
            Class::Record(_) | Class::Timestamp => {}
            Class::Transient | Class::Fatal => thread::sleep(LOOK_INTERVAL),
        }
        sender.restart()?;
        Ok(None)
    }

    /// What is in flight is waited for, a while, so that little is sent twice.
    fn put_off(&mut self) {
        self.sender.lane.stop.begin_turn(None);
        self.sender.lane.quiesce();
        self.parking.later(self.topic, AGAIN);
    }
}
