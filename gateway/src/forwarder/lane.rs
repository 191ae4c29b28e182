//! The producer together with the ring of what it has in flight, and the reports between them.
//!
//! Reports of one producer are only ever booked to what was sent through it: a new producer comes
//! with a rewound ring ([`Lane::restart`]).

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::error::RDKafkaErrorCode;

use super::backoff::Stop;
use super::encode::Encoded;
use super::in_flight::{InFlight, Sent, Span};
use super::parking::Ticket;
use super::topics::Topics;
use crate::clock;
use crate::commit_log::CommitLog;
use crate::kafka::{Class, Message, Producer, Report, class};
use crate::metrics::Metrics;
use crate::record::Offset;

/// Most messages in flight: each takes some 1.5 KiB while a backlog drains (measured with payloads of
/// 200 bytes, `tests/footprint`); at 20,000 records a second, 0.4 s of a slow Kafka.
pub(super) const IN_FLIGHT_RECORDS_MAX: usize = 8_000;
/// Most memory they hold in the producer; one message may always be in flight. It is what the messages above
/// take with payloads of 200 bytes, and 4.5 MiB of payloads of 8 KiB: over a line with a round trip of
/// 100 ms, 360 Mbit/s.
pub(super) const IN_FLIGHT_BYTES_MAX: usize = 14 << 20;
/// Shortest and longest wait for reports. librdkafka cannot wake us, so it is looked at, less and
/// less often while nothing comes.
const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(50);
/// How long requests under way may take to be answered before a producer is given up. What is
/// given up is sent again, and may then be there twice.
const QUIESCE_MAX: Duration = Duration::from_secs(5);

/// Why the producer must be begun anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) code: RDKafkaErrorCode,
    pub(super) class: Class,
    /// Behind the last record that was refused for its own or a neighbour's sake.
    pub(super) refused_until: Option<Offset>,
}

impl Trouble {
    pub(super) fn of(code: RDKafkaErrorCode, span: Option<Span>) -> Self {
        let class = class(code);
        let refused = matches!(class, Class::Record(_) | Class::Timestamp);
        Self {
            code,
            class,
            refused_until: span.filter(|_| refused).map(|span| span.last.plus(1)),
        }
    }

    /// The cause rather than what follows from it: after a refusal, the records behind it are
    /// reported as given up.
    pub(super) fn joined(self, other: Self) -> Self {
        let cause = if other.rank() > self.rank() {
            other
        } else {
            self
        };
        Self {
            refused_until: self.refused_until.max(other.refused_until),
            ..cause
        }
    }

    fn rank(&self) -> u8 {
        match self.class {
            Class::Fatal => 0,
            Class::Transient => 1,
            Class::Topic => 2,
            Class::Record(_) | Class::Timestamp => 3,
        }
    }
}

/// How sending into the stream went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Streamed {
    /// In flight.
    Sent,
    /// Not taken.
    Refused(RDKafkaErrorCode),
    /// Not taken, for trouble or the end of the grace period.
    Interrupted,
}

/// How sending alone went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Alone {
    /// Delivered and settled.
    Delivered,
    /// Refused, for its own sake.
    Refused(RDKafkaErrorCode),
    /// Given up at the end of the grace period; may be delivered.
    Interrupted,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Lane {
    log: CommitLog,
    metrics: Arc<Metrics>,
    pub(super) stop: Stop,
    producer: Producer,
    in_flight: InFlight,
    /// Messages of this producer without a report of either kind.
    unreported: usize,
    topics: Topics,
    trouble: Option<Trouble>,
    /// Topics that were refused, by number, and the code.
    refused: Vec<(u16, RDKafkaErrorCode)>,
    /// Records on their way to a parking log, by their numbers in the ring.
    parked: VecDeque<(usize, Ticket)>,
    reports: Vec<Report>,
    pause: Duration,
}

impl Lane {
    pub(super) fn new(
        log: CommitLog,
        metrics: Arc<Metrics>,
        stop: Stop,
        producer: Producer,
    ) -> Self {
        Self {
            in_flight: InFlight::new(log.committed()),
            topics: Topics::new(Arc::clone(&metrics)),
            log,
            metrics,
            stop,
            producer,
            unreported: 0,
            trouble: None,
            refused: Vec::new(),
            parked: VecDeque::new(),
            reports: Vec::new(),
            pause: PAUSE_MIN,
        }
    }

    /// Every offset below is settled.
    pub(super) fn floor(&self) -> Offset {
        self.in_flight.floor()
    }

    /// Nothing waits for a report.
    pub(super) fn is_idle(&self) -> bool {
        self.unreported == 0
    }

    /// Nothing waits for a report, nor for a parking log.
    pub(super) fn is_settled(&self) -> bool {
        self.is_idle() && self.parked.is_empty()
    }

    /// Takes the topics that were refused since the last call. Those that share a number have no name.
    pub(super) fn take_refused(&mut self) -> Vec<(String, RDKafkaErrorCode)> {
        let refused = self.refused.drain(..);
        let named = refused.map(|(number, code)| (self.topics.name(number), code));
        named
            .filter_map(|(name, code)| Some((name?.to_owned(), code)))
            .collect()
    }

    fn topic_refused(&mut self, topic: u16, code: RDKafkaErrorCode) {
        self.topics.troubled(topic, code);
        if !self.refused.iter().any(|(known, _)| *known == topic) {
            self.refused.push((topic, code));
        }
    }

    /// Takes a record that is on its way to a parking log.
    pub(super) fn push_parked(&mut self, span: Span, topic: &str, ticket: Ticket) {
        let sent = Sent {
            span,
            bytes: 0,
            topic: self.topics.number(topic),
            received_mono_ms: None,
        };
        self.parked
            .push_back((self.in_flight.next_number(), ticket));
        self.in_flight.push_sent(sent);
    }

    /// Waits for room in the ring, or for whatever else is to change. False for trouble or the end.
    pub(super) fn wait_a_little(&mut self) -> bool {
        self.pause();
        self.serve();
        self.trouble.is_none() && !self.stop.is_over()
    }

    pub(super) fn has_slot(&self) -> bool {
        self.in_flight.len() < IN_FLIGHT_RECORDS_MAX
    }

    /// Settles what parking logs have synced, in the order in which it was parked.
    fn settle_parked(&mut self) {
        let floor = self.in_flight.floor();
        while let Some((number, ticket)) = self.parked.front() {
            match ticket.is_synced() {
                Some(false) => break,
                Some(true) => {
                    self.in_flight.settle(*number);
                    self.parked.pop_front();
                }
                // It will be parked again, once its log has been opened anew.
                None => {
                    self.note(Trouble::of(RDKafkaErrorCode::FileSystem, None));
                    break;
                }
            }
        }
        if self.in_flight.floor() > floor {
            self.pause = PAUSE_MIN;
            self.log.commit(self.in_flight.floor());
        }
    }

    /// Takes what has gone wrong since the last call.
    pub(super) fn take_trouble(&mut self) -> Option<Trouble> {
        self.trouble.take()
    }

    /// Whether the span was settled before the last restart; if so, it is settled now.
    pub(super) fn skip_settled(&mut self, span: Span) -> bool {
        let settled = self.in_flight.was_settled(span);
        if settled {
            self.settle_now(span);
        }
        settled
    }

    /// Settles what needs no report: a dead letter on disk.
    pub(super) fn settle_now(&mut self, span: Span) {
        self.in_flight.push_settled(span);
        self.log.commit(self.in_flight.floor());
    }

    /// Books the reports that have come. The committed offset follows the floor.
    pub(super) fn serve(&mut self) {
        let mut reports = std::mem::take(&mut self.reports);
        self.producer.serve(&mut reports);
        if !reports.is_empty() {
            self.pause = PAUSE_MIN;
            let floor = self.in_flight.floor();
            self.book(&reports);
            if self.in_flight.floor() > floor {
                self.log.commit(self.in_flight.floor());
            }
            reports.clear();
        }
        self.reports = reports;
        self.settle_parked();
        if self.producer.is_fatal() {
            self.note(Trouble::of(RDKafkaErrorCode::Fatal, None));
        }
    }

    fn book(&mut self, reports: &[Report]) {
        let now_ms = clock::mono_ms();
        let mut observed = false;
        for report in reports {
            self.unreported = self.unreported.saturating_sub(1);
            let Some(code) = report.error else {
                let Some(sent) = self.in_flight.settle(report.opaque) else {
                    continue;
                };
                self.topics.delivered(sent.topic, 1);
                // One of those that were reported together stands for all.
                if !observed && let Some(received_ms) = sent.received_mono_ms {
                    self.observe(now_ms.saturating_sub(received_ms));
                    observed = true;
                }
                continue;
            };
            let sent = self.in_flight.waiting(report.opaque).copied();
            let trouble = Trouble::of(code, sent.map(|sent| sent.span));
            if let (Class::Topic, Some(sent)) = (trouble.class, sent) {
                self.topic_refused(sent.topic, code);
            }
            self.note(trouble);
        }
    }

    fn observe(&self, duration_ms: u64) {
        let duration = Duration::from_millis(duration_ms);
        self.metrics
            .delivery_duration
            .observe(duration.as_secs_f64());
    }

    /// Adds to what has gone wrong.
    pub(super) fn note(&mut self, trouble: Trouble) {
        self.trouble = Some(match self.trouble {
            Some(known) => known.joined(trouble),
            None => trouble,
        });
    }

    /// Takes back what has not been sent, which is trouble; what is on its way goes on.
    pub(super) fn take_back(&mut self) {
        if !self.is_idle() {
            tracing::info!("the clock was set: what Kafka has not been sent is dated anew");
            self.producer.purge_queued();
        }
    }

    /// Sends one of many, waiting for room.
    pub(super) fn stream(
        &mut self,
        encoded: Encoded<'_>,
        span: Span,
        received_mono_ms: Option<u64>,
    ) -> Streamed {
        let Encoded { mut message, bytes } = encoded;
        let topic = self.topics.number(message.topic);
        loop {
            if self.trouble.is_some() || self.stop.is_over() {
                return Streamed::Interrupted;
            }
            if self.has_room(bytes) {
                match self.producer.send(message, self.in_flight.next_number()) {
                    Ok(()) => break,
                    Err(refused) if refused.code == RDKafkaErrorCode::QueueFull => {
                        message = refused.message;
                    }
                    Err(refused) => {
                        if class(refused.code) == Class::Topic {
                            self.topic_refused(topic, refused.code);
                        }
                        return Streamed::Refused(refused.code);
                    }
                }
            }
            self.pause();
            self.serve();
        }
        self.unreported += 1;
        self.in_flight.push_sent(Sent {
            span,
            bytes,
            topic,
            received_mono_ms,
        });
        Streamed::Sent
    }

    /// What comes next may soon have to wait for reports.
    pub(super) fn is_crowded(&self) -> bool {
        self.in_flight.len() > IN_FLIGHT_RECORDS_MAX / 4
            || self.in_flight.outstanding_bytes() > IN_FLIGHT_BYTES_MAX / 4
            || !self.parked.is_empty()
    }

    fn has_room(&self, bytes: usize) -> bool {
        let bytes_after = self.in_flight.outstanding_bytes() + bytes;
        self.has_slot() && (self.in_flight.outstanding() == 0 || bytes_after <= IN_FLIGHT_BYTES_MAX)
    }

    /// Sends a message while nothing else is in flight, and waits for its report.
    pub(super) fn alone(&mut self, message: Message<'_>, span: Span) -> Alone {
        debug_assert!(self.is_idle(), "nothing else is in flight");
        let topic = self.topics.number(message.topic);
        if let Err(refused) = self.producer.send(message, 0) {
            let code = refused.code;
            if class(code) == Class::Topic {
                self.topic_refused(topic, code);
            }
            return Alone::Refused(code);
        }
        let mut reports = Vec::with_capacity(1);
        self.pause = PAUSE_MIN;
        loop {
            self.producer.serve(&mut reports);
            match reports.first() {
                Some(Report { error: None, .. }) => {
                    self.settle_now(span);
                    self.topics.delivered(topic, 1);
                    return Alone::Delivered;
                }
                Some(Report {
                    error: Some(code), ..
                }) => {
                    let code = *code;
                    if class(code) == Class::Topic {
                        self.topic_refused(topic, code);
                    }
                    return Alone::Refused(code);
                }
                None if self.stop.is_over() => return Alone::Interrupted,
                None => self.pause(),
            }
        }
    }

    /// Waits, after trouble, until no message lacks a report: what was not sent is given up, what
    /// was sent is waited for a while.
    pub(super) fn quiesce(&mut self) {
        self.producer.purge_queued();
        let give_up = Instant::now() + QUIESCE_MAX;
        let mut given_up = false;
        self.pause = PAUSE_MIN;
        loop {
            self.serve();
            if self.is_idle() {
                return;
            }
            if Instant::now() >= give_up || self.stop.is_over() {
                if given_up {
                    return;
                }
                self.producer.purge_all();
                given_up = true;
            }
            self.pause();
        }
    }

    /// Goes on with a new producer; everything above the floor that is not settled is to be sent
    /// again. Reports of the old one that are still to come are lost.
    pub(super) fn restart(&mut self, producer: Producer) {
        self.producer = producer;
        self.in_flight.rewind();
        self.parked.clear();
        self.unreported = 0;
        self.trouble = None;
        self.pause = PAUSE_MIN;
    }

    /// How long to wait for new records before reports are looked at again.
    pub(super) fn next_pause(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(PAUSE_MAX);
        pause
    }

    /// Waits a little for reports.
    pub(super) fn pause(&mut self) {
        thread::sleep(self.next_pause());
    }
}
