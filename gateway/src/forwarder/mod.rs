//! From the log to Kafka: cursor → route → producer → committed offset.
//!
//! One thread reads synced records, makes messages of them, hands them to the producer, and books
//! the delivery reports. The committed offset moves only over an unbroken run of reports (G2);
//! what Kafka has not reported stays in the log, and is sent again after a restart.
//!
//! ```text
//!  commit log ─ Cursor ─▶ Encoder ─▶ Lane ─────────▶ Producer ─▶ Kafka
//!      ▲                  route       ring of what       │
//!      │                  value       is in flight       │
//!      └── commit ◀────── headers        ▲── reports ◀───┘
//! ```
//!
//! - **Kafka away**: librdkafka holds what is in flight, bounded, and retries for ever in order;
//!   the rest waits in the log. The thread looks for reports twenty times a second.
//! - **A record refused** ([`Class::Record`]): the producer stops by itself and nothing behind the
//!   record goes out. What was on its way is waited for; then a new producer sends the records from
//!   the floor up to the last refused one each in a request of its own. One that is refused alone
//!   becomes a dead letter; its neighbours go on in order. Records delivered before are not sent
//!   twice.
//! - **A source's note about itself** ([`PayloadKind::Note`](crate::record::PayloadKind::Note)) is
//!   passed over, and so is a record that a route drops, counted.
//! - **A topic unknown or forbidden**: its records are parked until it answers; those of other topics
//!   go on ([`parking`]).
//! - **Producer broken**: a new one, from the floor.
//! - **The board's clock is set**: what was handed to the producer and has not been sent is taken
//!   back and dated anew.
//! - **Crash**: records between the committed offset and the last report are sent again.
//! - **Exactly once**: another loop, over the same log, encoder and dead letters ([`exactly_once`]).
//! - **Drain**: everything synced is sent, and reports waited for, until the grace period is over.

mod aside;
mod backoff;
pub(crate) mod base64;
mod encode;
mod event_time;
mod exactly_once;
mod gap;
mod headers;
mod in_flight;
mod lane;
pub mod parking;
mod reader;
mod rehearsal;
mod rounds;
pub mod route;
mod topics;
pub(crate) mod value;

use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rdkafka::error::RDKafkaErrorCode;

use crate::clock::timeline::Boots;
use crate::commit_log::CommitLog;
use crate::config::{Config, Delivery};
use crate::dead_letters::DeadLetters;
use crate::kafka::{Class, Mode, Producer, class};
use crate::metrics::Metrics;
use crate::pulse::Pulse;
use crate::record::Offset;
use aside::Reason;
use backoff::{Backoff, Stop};
use encode::{Encoder, Outgoing};
pub use event_time::DeviceTimeWindow;
use lane::{Alone, Lane, Streamed, Trouble};
use parking::{Parking, Take, returning};
use reader::{Read, Reader};
#[doc(hidden)]
pub use rehearsal::rehearse;

/// What the forwarder works with.
#[derive(Debug)]
pub struct ForwarderContext {
    /// Where records come from.
    pub log: CommitLog,
    /// Where undeliverable ones go.
    pub dead_letters: DeadLetters,
    /// Where records wait whose topic takes none.
    pub parking: Parking,
    /// Figures.
    pub metrics: Arc<Metrics>,
    /// When earlier boots of the board began.
    pub boots: Boots,
    /// Set when the gateway drains: deliver what is synced for `shutdown_grace`, then end.
    pub stop: Arc<AtomicBool>,
    /// Beats while the forwarder gets round its loops.
    pub pulse: Pulse,
    /// Where the log ended when it was opened: records from here on were received in this run.
    pub received_here_from: Offset,
}

/// Why the forwarder ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum ForwarderError {
    /// Kafka's client could not be made: a property it refuses.
    #[error("cannot make the Kafka producer")]
    Producer(#[source] rdkafka::error::KafkaError),
    /// The log of dead letters failed.
    #[error("the log of dead letters failed")]
    DeadLetters(#[source] crate::dead_letters::NotStored),
    /// Another gateway has taken over this one's id, and goes on.
    #[error(
        "another gateway with the same id delivers to Kafka: instance {instance} on host {host}, \
         last at {time}. Give each gateway an id of its own ([gateway].id); this one's records stay \
         on disk"
    )]
    Rival {
        /// Its random name.
        instance: String,
        /// Its host.
        host: String,
        /// When it last committed, by its own clock.
        time: String,
    },
    /// The system has no thread for returning parked records.
    #[error("cannot start the thread that returns parked records")]
    Thread(#[source] std::io::Error),
    /// The log could not be given a new identity.
    #[error("the commit log failed before it had a new identity")]
    Identity,
    /// Reading the log failed for good.
    #[error("the commit log cannot be read")]
    Read(#[source] crate::commit_log::ReadError),
}

/// Longest wait for new records where nothing is in flight: how soon the watchdog sees that it lives. An
/// idle board is woken as often.
const IDLE_WAIT: Duration = Duration::from_secs(4);

/// Longest wait for new records where something is in flight, and far from all that may be: reports only
/// move the committed offset, which nobody waits for. Each group commit wakes us sooner.
const REPORTS_WAIT: Duration = Duration::from_millis(20);

/// Runs the forwarder on the calling thread until `stop` is set and everything synced is
/// delivered or the grace period is over.
///
/// # Errors
/// See [`ForwarderError`].
pub fn run(
    config: &Config,
    context: ForwarderContext,
    grace: Duration,
) -> Result<(), ForwarderError> {
    match &config.kafka.delivery {
        Delivery::AtLeastOnce => at_least_once(config, context, grace),
        Delivery::ExactlyOnce(transactions) => {
            exactly_once::run(config, transactions, context, grace)
        }
    }
}

/// Runs beside the thread that returns parked records, which is there once there are some: that one
/// waits for topics as long as it takes, which this one, on which all others depend, may not.
fn at_least_once(
    config: &Config,
    context: ForwarderContext,
    grace: Duration,
) -> Result<(), ForwarderError> {
    let over = Arc::new(AtomicBool::new(false));
    let parking = context.parking.clone();
    let returner = returning::Returner::new(config, &context, Arc::clone(&over));
    let forwarder = Forwarder::new(config, context, grace)?;
    thread::scope(|scope| {
        let (mut returner, mut returning) = (Some(returner), None);
        let end = EndOfReturning {
            over: &over,
            parking: &parking,
        };
        let forwarded = forwarder.run(&over, &mut || {
            if let Some(returner) = returner.take() {
                let thread = thread::Builder::new()
                    .name("parking".to_owned())
                    .spawn_scoped(scope, move || returner.run());
                returning = Some(thread.map_err(ForwarderError::Thread)?);
            }
            Ok(())
        });
        drop(end);
        let Some(returning) = returning else {
            return forwarded;
        };
        let returned = returning.join();
        forwarded.and(returned.unwrap_or_else(|panic| resume_unwind(panic)))
    })
}

/// Ends the thread that returns parked records, also where the forwarder has panicked: its scope would
/// wait for that thread for ever, and nobody would be told.
struct EndOfReturning<'a> {
    over: &'a AtomicBool,
    parking: &'a Parking,
}

impl Drop for EndOfReturning<'_> {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        self.parking.wake();
    }
}

/// How records are being sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sending {
    /// Many in flight.
    Streaming,
    /// Each in a request of its own, up to here: among them is one that Kafka refuses.
    Alone { until: Offset },
}

impl Sending {
    fn mode(self) -> Mode {
        match self {
            Self::Streaming => Mode::Streaming,
            Self::Alone { .. } => Mode::Single,
        }
    }
}

/// Whether to go on reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    Continue,
    /// Trouble, or the end of the grace period: what is being read was not all sent.
    Break,
}

struct Forwarder<'c> {
    reader: Reader,
    sender: Sender<'c>,
    backoff: Backoff,
}

/// Everything but the reader, so that a record may be borrowed from it while it is sent.
struct Sender<'c> {
    config: &'c Config,
    metrics: Arc<Metrics>,
    dead_letters: DeadLetters,
    parking: Parking,
    log_identity: String,
    encoder: Encoder,
    lane: Lane,
    sending: Sending,
    /// Records from here on were received in this run, so their monotonic times can be compared.
    received_here_from: Offset,
}

impl<'c> Forwarder<'c> {
    fn new(
        config: &'c Config,
        context: ForwarderContext,
        grace: Duration,
    ) -> Result<Self, ForwarderError> {
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
        let producer = Producer::new(config, Mode::Streaming, Arc::clone(&metrics))
            .map_err(ForwarderError::Producer)?;
        let stop = Stop::new(stop, pulse, grace);
        let lane = Lane::new(log.clone(), Arc::clone(&metrics), stop, producer);
        let reader = Reader::new(log.clone(), Arc::clone(&metrics)).in_rounds(config.kafka.linger);
        let sender = Sender {
            config,
            encoder: Encoder::new(config, &log.identity(), boots, Arc::clone(&metrics)),
            metrics,
            dead_letters,
            parking,
            log_identity: log.identity(),
            lane,
            sending: Sending::Streaming,
            received_here_from,
        };
        Ok(Self {
            reader,
            sender,
            backoff: Backoff::new(),
        })
    }

    /// `over` ends it at once: returning parked records has failed. Has `return_parked` see to it that
    /// they are returned.
    fn run(
        mut self,
        over: &AtomicBool,
        return_parked: &mut dyn FnMut() -> Result<(), ForwarderError>,
    ) -> Result<(), ForwarderError> {
        loop {
            if self.sender.parking.has_any() {
                return_parked()?;
            }
            let floor = self.sender.lane.floor();
            self.sender.lane.serve();
            if self.sender.lane.floor() > floor {
                self.backoff.reset();
                self.sender.parking.release();
            }
            if self.sender.lane.stop.is_over() || over.load(Ordering::Relaxed) {
                return Ok(());
            }
            if let Some(trouble) = self.sender.lane.take_trouble() {
                self.recover(&trouble)?;
                self.reader.seek(self.sender.lane.floor());
                continue;
            }
            let sender = &mut self.sender;
            if sender.encoder.clock_was_set() {
                sender.lane.take_back();
            }
            if sender.lane.stop.requested() {
                self.reader.hurry();
            }
            let read = self
                .reader
                .forward_next(|outgoing| sender.forward(outgoing))?;
            if read == Read::Nothing && self.wait() {
                return Ok(());
            }
        }
    }

    /// Waits for new records or reports. True if the forwarder has nothing left to do.
    fn wait(&mut self) -> bool {
        let lane = &mut self.sender.lane;
        let draining = lane.stop.requested();
        if draining && lane.is_settled() {
            return true;
        }
        let timeout = if lane.is_settled() {
            IDLE_WAIT
        } else if lane.is_crowded() || draining {
            lane.next_pause()
        } else {
            REPORTS_WAIT
        };
        self.reader.wait(timeout);
        false
    }

    /// Begins anew from the floor after trouble.
    fn recover(&mut self, trouble: &Trouble) -> Result<(), ForwarderError> {
        let sender = &mut self.sender;
        sender.lane.quiesce();
        // What came to light meanwhile may be the cause.
        let trouble = match sender.lane.take_trouble() {
            Some(later) => trouble.joined(later),
            None => *trouble,
        };
        let floor = sender.lane.floor();
        tracing::warn!(code = %trouble.code, offset = %floor, "the Kafka producer begins anew from here");
        if let Some(until) = trouble.refused_until {
            sender.sending = Sending::Alone { until };
        }
        let refused = sender.lane.take_refused();
        let all_parked = sender.park_all(&refused);
        match trouble.class {
            Class::Record(_) | Class::Timestamp => {}
            Class::Topic if all_parked => {}
            Class::Transient | Class::Topic | Class::Fatal => {
                self.backoff.wait(&mut self.sender.lane.stop);
            }
        }
        self.sender.restart()
    }
}

impl Sender<'_> {
    /// Goes on with a new producer in the mode that `sending` says.
    fn restart(&mut self) -> Result<(), ForwarderError> {
        let metrics = Arc::clone(&self.metrics);
        let producer = Producer::new(self.config, self.sending.mode(), metrics)
            .map_err(ForwarderError::Producer)?;
        self.lane.restart(producer);
        Ok(())
    }

    fn forward(&mut self, outgoing: &Outgoing<'_>) -> Result<Flow, ForwarderError> {
        let span = outgoing.span();
        if self.lane.skip_settled(span) {
            return Ok(Flow::Continue);
        }
        if self.encoder.passes_over(outgoing) {
            self.lane.settle_now(span);
            return Ok(Flow::Continue);
        }
        match self.sending {
            Sending::Alone { until } if span.first >= until => {
                self.sending = Sending::Streaming;
                self.restart()?;
                self.stream(outgoing)
            }
            Sending::Alone { .. } => self.alone(outgoing),
            Sending::Streaming => self.stream(outgoing),
        }
    }

    /// Parks topics that were refused. False if one could not be, or there are none.
    fn park_all(&self, refused: &[(String, RDKafkaErrorCode)]) -> bool {
        let mut all_parked = !refused.is_empty();
        for (topic, code) in refused {
            all_parked &= self.parking.begin(topic, *code);
        }
        all_parked
    }

    /// Parks a record if its topic is parked, waiting until that is possible; `None` if it is not
    /// parked, any more.
    fn park(&mut self, outgoing: &Outgoing<'_>, topic: &str) -> Option<Flow> {
        loop {
            if self.lane.has_slot() {
                match self.parking.take(topic, &self.log_identity, outgoing) {
                    Take::Direct => return None,
                    Take::Taken(ticket) => {
                        self.lane.push_parked(outgoing.span(), topic, ticket);
                        return Some(Flow::Continue);
                    }
                    Take::Soon | Take::Held => {}
                }
            }
            if !self.lane.wait_a_little() {
                return Some(Flow::Break);
            }
        }
    }

    fn stream(&mut self, outgoing: &Outgoing<'_>) -> Result<Flow, ForwarderError> {
        let received_mono_ms = self.received_mono_ms(outgoing);
        let encoded = match self.encoder.encode(outgoing) {
            Ok(encoded) => encoded,
            Err(undeliverable) => {
                self.set_aside(outgoing, Reason::undeliverable(&undeliverable))?;
                return Ok(Flow::Continue);
            }
        };
        if outgoing.may_be_parked() && self.parking.is_parked(encoded.message.topic) {
            let topic = encoded.message.topic.to_owned();
            return match self.park(outgoing, &topic) {
                Some(flow) => Ok(flow),
                None => self.stream(outgoing),
            };
        }
        match self.lane.stream(encoded, outgoing.span(), received_mono_ms) {
            Streamed::Sent => Ok(Flow::Continue),
            Streamed::Interrupted => Ok(Flow::Break),
            Streamed::Refused(code) => self.refused(outgoing, code),
        }
    }

    /// Sends a record in a request of its own, and once more without a timestamp if Kafka refuses
    /// that.
    fn alone(&mut self, outgoing: &Outgoing<'_>) -> Result<Flow, ForwarderError> {
        let mut with_timestamp = true;
        loop {
            let mut encoded = match self.encoder.encode(outgoing) {
                Ok(encoded) => encoded,
                Err(undeliverable) => {
                    self.set_aside(outgoing, Reason::undeliverable(&undeliverable))?;
                    return Ok(Flow::Continue);
                }
            };
            if !with_timestamp {
                encoded.message.timestamp_ms = None;
            }
            if outgoing.may_be_parked() && self.parking.is_parked(encoded.message.topic) {
                let topic = encoded.message.topic.to_owned();
                if let Some(flow) = self.park(outgoing, &topic) {
                    return Ok(flow);
                }
                continue;
            }
            match self.lane.alone(encoded.message, outgoing.span()) {
                Alone::Delivered => return Ok(Flow::Continue),
                Alone::Interrupted => return Ok(Flow::Break),
                Alone::Refused(code) if class(code) == Class::Timestamp && with_timestamp => {
                    with_timestamp = false;
                }
                Alone::Refused(code) => return self.refused(outgoing, code),
            }
        }
    }

    /// A record was refused by itself: by Kafka when sent alone, or by the client before it was
    /// sent.
    fn refused(
        &mut self,
        outgoing: &Outgoing<'_>,
        code: RDKafkaErrorCode,
    ) -> Result<Flow, ForwarderError> {
        let reason = match class(code) {
            Class::Record(reason) => reason,
            Class::Timestamp => "invalid_timestamp",
            Class::Transient | Class::Topic | Class::Fatal => {
                self.lane.note(Trouble::of(code, None));
                return Ok(Flow::Break);
            }
        };
        let detail = format!("Kafka refuses the record: {code}");
        self.set_aside(outgoing, Reason::refused(reason, code, &detail))?;
        Ok(Flow::Continue)
    }

    /// Makes a record a dead letter, durably, and settles it.
    fn set_aside(
        &mut self,
        outgoing: &Outgoing<'_>,
        reason: Reason<'_>,
    ) -> Result<(), ForwarderError> {
        let topic = match outgoing {
            Outgoing::Parked { topic, .. } => Some(*topic),
            Outgoing::Record(_) | Outgoing::Hole { .. } => self.encoder.topic(),
        };
        let reason = Reason { topic, ..reason };
        aside::set_aside(&self.dead_letters, &self.log_identity, outgoing, reason)?;
        self.lane.settle_now(outgoing.span());
        Ok(())
    }

    fn received_mono_ms(&self, outgoing: &Outgoing<'_>) -> Option<u64> {
        match outgoing {
            Outgoing::Record(record) if record.offset >= self.received_here_from => {
                Some(record.received.mono_ms)
            }
            Outgoing::Record(_) | Outgoing::Hole { .. } | Outgoing::Parked { .. } => None,
        }
    }
}
