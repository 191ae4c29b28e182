//! One transaction after the other: what goes into the open one.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::error::RDKafkaErrorCode;

use super::super::aside::{self, Reason};
use super::super::backoff::{Backoff, Stop};
use super::super::encode::{Encoder, Outgoing};
use super::super::in_flight::Span;
use super::super::lane::{IN_FLIGHT_BYTES_MAX, IN_FLIGHT_RECORDS_MAX, Trouble};
use super::super::parking::unpark::Known;
use super::super::parking::{Parking, Take, Ticket};
use super::super::topics::Topics;
use super::super::{Flow, ForwarderContext, ForwarderError};
use super::failure::Failure;
use super::position::{self, Superseded};
use super::returns::{Returned, Returning};
use crate::commit_log::CommitLog;
use crate::config::{Config, Transactions};
use crate::dead_letters::DeadLetters;
use crate::kafka::offsets::OffsetsTopic;
use crate::kafka::{Class, Producer, Report, class};
use crate::metrics::Metrics;
use crate::record::Offset;

/// Most records of a transaction; one that lasts `transaction_interval` rarely has as many. Of each its
/// place is kept until the commit, 40 bytes.
pub(super) const RECORDS_MAX: usize = 50_000;
/// How many records are sent between two looks at the time.
const DUE_EVERY: usize = 32;
/// Most records of a transaction that are sent alone: what a refusal costs the others.
const ALONE_RECORDS_MAX: usize = 64;
/// Longest wait for a parking log that has just no room in memory, and how often it is looked at.
const SOON_WITHIN: Duration = Duration::from_secs(1);
const SOON_LOOK: Duration = Duration::from_millis(1);
/// The number that the position is sent with; records have theirs from 0.
pub(super) const POSITION_NUMBER: usize = usize::MAX;

/// A producer that has the transactional id, and where its positions go.
pub(super) struct Session<'c> {
    pub(super) producer: Producer,
    pub(super) topic: OffsetsTopic<'c>,
    /// Records go out one each in a request.
    pub(super) single: bool,
}

/// The open transaction.
pub(super) struct Open {
    /// Behind what it holds.
    pub(super) next: Offset,
    pub(super) fingerprint: Option<u32>,
    /// More markers of the last hole follow.
    pub(super) midway: bool,
    pub(super) due: Instant,
    /// What was sent, by its number.
    pub(super) sent: Vec<Sent>,
    /// What is returned from a parking log.
    pub(super) returned: Option<Returned>,
    pub(super) records: usize,
    pub(super) unreported: Unreported,
    pub(super) by_topic: HashMap<u16, u64>,
    /// When the first one received in this run was, on the monotonic clock.
    pub(super) received_mono_ms: Option<u64>,
}

impl Open {
    /// A message was sent, which holds `bytes` in the producer.
    pub(super) fn add(&mut self, span: Span, topic: u16, bytes: usize) {
        self.unreported.add(bytes);
        self.sent.push(Sent {
            span,
            topic,
            bytes: u32::try_from(bytes).unwrap_or(u32::MAX),
        });
        *self.by_topic.entry(topic).or_default() += 1;
    }
}

/// A message of the open transaction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    pub(super) span: Span,
    pub(super) topic: u16,
    /// Memory it holds in the producer until it is reported.
    pub(super) bytes: u32,
}

/// Messages of the open transaction that lack a report.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Unreported {
    pub(super) messages: usize,
    pub(super) bytes: usize,
}

impl Unreported {
    pub(super) fn add(&mut self, bytes: usize) {
        self.messages += 1;
        self.bytes += bytes;
    }

    pub(super) fn remove(&mut self, bytes: usize) {
        self.messages = self.messages.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// Another message may be sent: one of any size.
    pub(super) fn has_room(self) -> bool {
        self.messages < IN_FLIGHT_RECORDS_MAX && self.bytes < IN_FLIGHT_BYTES_MAX
    }
}

/// What is settled of records at and above the floor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// A dead letter: never to be sent again (E3).
    SetAside,
    /// Its timestamp was refused: to be sent without.
    WithoutTimestamp,
}

/// See the module.
pub(super) struct Sender<'c> {
    pub(super) config: &'c Config,
    pub(super) transactions: &'c Transactions,
    pub(super) metrics: Arc<Metrics>,
    pub(super) dead_letters: DeadLetters,
    pub(super) parking: Parking,
    pub(super) log: CommitLog,
    pub(super) stop: Stop,
    pub(super) backoff: Backoff,
    pub(super) received_here_from: Offset,
    pub(super) encoder: Encoder,
    pub(super) log_identity: String,
    /// Random name of this process.
    pub(super) instance: String,
    pub(super) host: String,
    pub(super) superseded: Vec<Superseded>,
    /// A position of this process is in Kafka.
    pub(super) claimed: bool,
    /// The offsets topic was found as it must be, and nothing has spoken against it since.
    pub(super) topic_is_known: bool,
    /// The last producer was fenced.
    pub(super) fenced: bool,
    /// What a wait was told of last, so that it is told once.
    pub(super) told: String,
    pub(super) session: Option<Session<'c>>,
    pub(super) floor: Offset,
    pub(super) verdicts: BTreeMap<Offset, Verdict>,
    /// Up to here records are sent alone: among them is one that Kafka refuses.
    pub(super) alone_until: Offset,
    /// They are sent alone to find the topic that Kafka refuses.
    pub(super) hunting: bool,
    pub(super) open: Option<Open>,
    /// Memory of the last transaction's list, for the next one.
    pub(super) spare: Vec<Sent>,
    /// Fingerprint of the record before the floor.
    pub(super) fingerprint: Option<u32>,
    /// Records on their way to parking logs; the position waits for them.
    pub(super) parked: Vec<Ticket>,
    /// A record could be neither sent nor parked.
    pub(super) held: bool,
    /// Topics that were refused, and the code.
    pub(super) refused: BTreeMap<String, RDKafkaErrorCode>,
    /// Dead letters among what is parked.
    pub(super) known: Known,
    pub(super) returning: Returning,
    pub(super) failure: Option<Failure>,
    pub(super) topics: Topics,
    pub(super) reports: Vec<Report>,
}

impl<'c> Sender<'c> {
    pub(super) fn new(
        config: &'c Config,
        transactions: &'c Transactions,
        context: ForwarderContext,
        grace: Duration,
    ) -> Self {
        let ForwarderContext {
            log,
            dead_letters,
            parking,
            metrics,
            boots,
            stop,
            pulse,
            received_here_from,
        } = context;
        let log_identity = log.identity();
        Self {
            config,
            transactions,
            dead_letters,
            parking,
            stop: Stop::new(stop, pulse, grace),
            backoff: Backoff::new(),
            received_here_from,
            encoder: Encoder::new(config, &log_identity, boots, Arc::clone(&metrics)),
            log_identity,
            instance: super::connect::random_name(),
            host: super::connect::host_name(),
            superseded: Vec::new(),
            claimed: false,
            topic_is_known: false,
            fenced: false,
            told: String::new(),
            session: None,
            floor: log.committed(),
            log,
            verdicts: BTreeMap::new(),
            alone_until: Offset::ZERO,
            hunting: false,
            open: None,
            spare: Vec::new(),
            fingerprint: None,
            parked: Vec::new(),
            held: false,
            refused: BTreeMap::new(),
            known: Known::default(),
            returning: Returning::default(),
            failure: None,
            topics: Topics::new(Arc::clone(&metrics)),
            metrics,
            reports: Vec::new(),
        }
    }

    /// Everything below is committed.
    pub(super) fn floor(&self) -> Offset {
        self.floor
    }

    pub(super) fn is_connected(&self) -> bool {
        self.session.is_some()
    }

    /// When the open transaction is to be committed.
    pub(super) fn due(&self) -> Option<Instant> {
        self.open.as_ref().map(|open| open.due)
    }

    /// Takes what has gone wrong since the last call.
    pub(super) fn take_failure(&mut self) -> Option<Failure> {
        self.failure.take()
    }

    /// Whether a record could be neither sent nor parked since the last call.
    pub(super) fn take_held(&mut self) -> bool {
        std::mem::take(&mut self.held)
    }

    pub(super) fn note(&mut self, failure: Failure) {
        self.failure = Some(match self.failure.take() {
            Some(known) => known.joined(failure),
            None => failure,
        });
    }

    /// Adds a record or the marker of a hole to the open transaction, or to the next one if that is
    /// full.
    pub(super) fn forward(&mut self, outgoing: &Outgoing<'_>) -> Result<Flow, ForwarderError> {
        let span = outgoing.span();
        if self.is_full() && self.commit() == Flow::Break {
            return Ok(Flow::Break);
        }
        if self.is_single() && span.first >= self.alone_until {
            // All who were to be sent alone were: the stream goes on with another producer.
            if self.commit() == Flow::Continue {
                self.session = None;
            }
            return Ok(Flow::Break);
        }
        if self.begin(span.first) == Flow::Break {
            return Ok(Flow::Break);
        }
        let is_settled = self.verdicts.get(&span.first) == Some(&Verdict::SetAside);
        if !is_settled && !self.encoder.passes_over(outgoing) {
            let flow = self.send(outgoing)?;
            if flow == Flow::Break {
                return Ok(Flow::Break);
            }
        }
        self.include(outgoing);
        Ok(Flow::Continue)
    }

    pub(super) fn is_single(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.single)
    }

    fn is_full(&self) -> bool {
        let records_max = if self.is_single() {
            ALONE_RECORDS_MAX
        } else {
            RECORDS_MAX
        };
        self.open.as_ref().is_some_and(|open| {
            let full = open.records >= records_max;
            // Where records come one by one, who finds no other one looks at the time.
            let is_due = || open.records.is_multiple_of(DUE_EVERY) && Instant::now() >= open.due;
            // The markers of a hole go together: no position lies between them.
            !open.midway && (full || is_due())
        })
    }

    /// Begins a transaction if none is open.
    pub(super) fn begin(&mut self, first: Offset) -> Flow {
        let Some(session) = &self.session else {
            return Flow::Break;
        };
        if self.open.is_some() {
            return Flow::Continue;
        }
        if let Err(error) = session.producer.begin_transaction() {
            self.note(Failure::of(error));
            return Flow::Break;
        }
        self.open = Some(Open {
            next: first,
            fingerprint: self.fingerprint.filter(|_| first == self.floor),
            midway: false,
            due: Instant::now() + self.transactions.interval,
            sent: std::mem::take(&mut self.spare),
            returned: None,
            records: 0,
            unreported: Unreported::default(),
            by_topic: HashMap::new(),
            received_mono_ms: None,
        });
        Flow::Continue
    }

    /// The position moves behind what was sent or set aside.
    fn include(&mut self, outgoing: &Outgoing<'_>) {
        let Some(open) = &mut self.open else { return };
        let span = outgoing.span();
        open.midway = span.more_follow;
        if !span.more_follow {
            open.next = span.last.plus(1);
        }
        open.records += 1;
        open.fingerprint = match outgoing {
            Outgoing::Record(record) => {
                if record.offset >= self.received_here_from {
                    open.received_mono_ms.get_or_insert(record.received.mono_ms);
                }
                Some(position::fingerprint(record))
            }
            Outgoing::Hole { .. } | Outgoing::Parked { .. } => None,
        };
    }

    /// Sends it, once there is room; alone, waits for its report too.
    fn send(&mut self, outgoing: &Outgoing<'_>) -> Result<Flow, ForwarderError> {
        if self.until_room() == Flow::Break {
            return Ok(Flow::Break);
        }
        let span = outgoing.span();
        let without_timestamp = self.verdicts.get(&span.first) == Some(&Verdict::WithoutTimestamp);
        let (Some(session), Some(open)) = (&self.session, &mut self.open) else {
            return Ok(Flow::Break);
        };
        let encoded = match self.encoder.encode(outgoing) {
            Ok(encoded) => encoded,
            Err(undeliverable) => {
                self.set_aside(outgoing, Reason::undeliverable(&undeliverable))?;
                return Ok(Flow::Continue);
            }
        };
        let mut message = encoded.message;
        if self.parking.is_parked(message.topic) {
            let topic = message.topic.to_owned();
            return Ok(self.park(outgoing, &topic));
        }
        if without_timestamp {
            message.timestamp_ms = None;
        }
        let topic = self.topics.number(message.topic);
        let number = open.sent.len();
        // Its bounds lie below those of librdkafka's queue, so there is room.
        match session.producer.send(message, number) {
            Ok(()) => {
                open.add(span, topic, encoded.bytes);
            }
            Err(refused) => {
                let code = refused.code;
                return self.not_taken(outgoing, topic, code);
            }
        }
        if self.is_single() {
            return self.alone(outgoing, without_timestamp);
        }
        Ok(Flow::Continue)
    }

    /// Parks a record whose topic is parked. One that can't be parked holds up all behind it: the
    /// caller commits what is open and comes again.
    fn park(&mut self, outgoing: &Outgoing<'_>, topic: &str) -> Flow {
        let give_up = Instant::now() + SOON_WITHIN;
        loop {
            match self.parking.take(topic, &self.log_identity, outgoing) {
                Take::Taken(ticket) => {
                    self.parked.push(ticket);
                    return Flow::Continue;
                }
                Take::Soon if Instant::now() < give_up => thread::sleep(SOON_LOOK),
                // Nobody but this thread ends the parking of a topic.
                Take::Direct | Take::Soon | Take::Held => {
                    self.held = true;
                    return Flow::Break;
                }
            }
        }
    }

    /// Notes that a topic was refused, if it is known which.
    pub(super) fn note_refused(&mut self, topic: u16, code: RDKafkaErrorCode) {
        self.topics.troubled(topic, code);
        if let Some(name) = self.topics.name(topic) {
            self.refused.insert(name.to_owned(), code);
        }
    }

    /// The client did not take a record: it concerns the record alone, or the transaction.
    fn not_taken(
        &mut self,
        outgoing: &Outgoing<'_>,
        topic: u16,
        code: RDKafkaErrorCode,
    ) -> Result<Flow, ForwarderError> {
        match class(code) {
            Class::Record(reason) => {
                let detail = format!("Kafka's client refuses the record: {code}");
                self.set_aside(outgoing, Reason::refused(reason, code, &detail))?;
                Ok(Flow::Continue)
            }
            Class::Fatal => {
                self.probe(code);
                Ok(Flow::Break)
            }
            Class::Timestamp | Class::Transient => {
                self.note(Failure::Abort(Trouble::of(code, None)));
                Ok(Flow::Break)
            }
            Class::Topic => {
                self.note_refused(topic, code);
                self.note(Failure::Abort(Trouble::of(code, None)));
                Ok(Flow::Break)
            }
        }
    }

    /// Waits for the report of a record that was sent alone. One that is refused is settled here,
    /// and its transaction is aborted for it.
    fn alone(
        &mut self,
        outgoing: &Outgoing<'_>,
        without_timestamp: bool,
    ) -> Result<Flow, ForwarderError> {
        if self.until_reported() == Flow::Continue {
            return Ok(Flow::Continue);
        }
        let Some(Failure::Abort(Trouble { code, class, .. })) = self.failure else {
            return Ok(Flow::Break);
        };
        let reason = match class {
            Class::Record(reason) => reason,
            Class::Timestamp if without_timestamp => "invalid_timestamp",
            Class::Timestamp => {
                let offset = outgoing.span().first;
                self.verdicts.insert(offset, Verdict::WithoutTimestamp);
                return Ok(Flow::Break);
            }
            Class::Topic => {
                let last = self.open.as_ref().and_then(|open| open.sent.last());
                if let Some(topic) = last.map(|sent| sent.topic) {
                    self.note_refused(topic, code);
                }
                return Ok(Flow::Break);
            }
            Class::Transient | Class::Fatal => return Ok(Flow::Break),
        };
        let detail = format!("Kafka refuses the record: {code}");
        self.set_aside(outgoing, Reason::refused(reason, code, &detail))?;
        Ok(Flow::Break)
    }

    /// Makes a record a dead letter, durably; the position may then move over it (E3).
    fn set_aside(
        &mut self,
        outgoing: &Outgoing<'_>,
        reason: Reason<'_>,
    ) -> Result<(), ForwarderError> {
        let reason = Reason {
            topic: self.encoder.topic(),
            ..reason
        };
        aside::set_aside(&self.dead_letters, &self.log_identity, outgoing, reason)?;
        let offset = outgoing.span().first;
        self.verdicts.insert(offset, Verdict::SetAside);
        Ok(())
    }
}
