//! What the source does with the broker's packets: everything but the connection.
//!
//! A session outlives its connections, as it does at the broker. It appends publishes to the log,
//! sets aside what cannot become a record, keeps account of what is owed to the broker, and writes
//! answers to [`Session::out`], which the connection sends.

mod notes;

use std::time::Duration;

use bytes::BytesMut;
use tokio::sync::watch;
use tracing::{debug, warn};

use super::acks::{Ack, Acks, SetAside};
use super::intake::{HELD_BYTES_MAX, Inbound, Intake, LogClosed, Mode, Offered, Retried};
use super::packet::Wire;
use super::publish::Publish;
use super::redelivery::Redelivery;
use super::subscriptions::{Subscriptions, session_name};
use crate::clock;
use crate::commit_log::{Condition, Progress};
use crate::config::Mqtt;
use crate::dead_letters::{DeadLetter, DeadLetters};
use crate::ingest::{Ingest, NotCommitted, Ticket};
use crate::metrics::SourceMetrics;
use crate::record::{GapNote, Origin, PayloadKind, SourceName, Stamp};
use crate::source::{SourceContext, SourceError};

/// How much of the payload a dead letter keeps.
const DEAD_LETTER_BYTES_MAX: usize = 64 * 1024;

/// A burst of so many publishes may be all that the broker lets be unacknowledged: Mosquitto's own limit
/// is 20. Fewer are a trickle, which is worth no group commit of its own.
const BURST_MIN: usize = 8;

/// See the module.
#[derive(Debug)]
pub(super) struct Session {
    source: SourceName,
    ingest: Ingest,
    progress: watch::Receiver<Progress>,
    dead_letters: DeadLetters,
    metrics: SourceMetrics,
    payload_bytes_max: u64,
    wire: Wire,
    acks: Acks,
    intake: Intake,
    redelivery: Redelivery,
    /// Publishes that come again are recognised.
    dedupe: bool,
    subscriptions: Subscriptions,
    is_connected: bool,
    /// The broker should have a session of ours.
    is_expected: bool,
    /// Bytes for the broker, of the present connection.
    pub(super) out: BytesMut,
}

impl Session {
    /// A session that has no connection yet.
    pub(super) fn new(config: &Mqtt, context: &SourceContext) -> Self {
        let recovered = &context.recovered;
        let session = &recovered.mqtt_session;
        let is_same = session.is_empty() || *session == session_name(config);
        let mut window = recovered.mqtt_window.clone();
        if !is_same {
            window.clear();
        }
        Self {
            source: context.name.clone(),
            ingest: context.ingest.clone(),
            progress: context.ingest.progress(),
            dead_letters: context.dead_letters.clone(),
            metrics: context.metrics.clone(),
            payload_bytes_max: config.payload_bytes_max as u64,
            wire: Wire(config.protocol),
            acks: Acks::default(),
            intake: Intake::new(HELD_BYTES_MAX),
            redelivery: Redelivery::new(window),
            dedupe: config.dedupe,
            subscriptions: Subscriptions::new(config, recovered),
            is_connected: false,
            is_expected: recovered.mqtt_session_expected && is_same,
            out: BytesMut::new(),
        }
    }

    /// The broker has accepted a new connection. (With `session_expiry = 0` each one but the first
    /// has lost the session: that is a gap all the same.)
    pub(super) fn connected(&mut self, session_present: bool) {
        self.intake.reconnected(session_present);
        self.subscriptions.connected(session_present);
        if !session_present {
            self.redelivery.begin_anew();
        }
        if !session_present && self.is_expected {
            self.note_lost_session();
        }
        self.is_expected = true;
        self.is_connected = true;
    }

    /// The connection has ended: what was owed on it is owed no more.
    pub(super) fn disconnected(&mut self) {
        self.is_connected = false;
        self.acks.forget();
        self.redelivery.disconnected();
        self.subscriptions.disconnected();
        self.out.clear();
    }

    /// A gap of unknown size takes its place in the log behind what was received before it.
    fn note_lost_session(&mut self) {
        warn!(source = %self.source, "the broker has lost the session: messages may be missing");
        let note = GapNote {
            reason: "mqtt_session_lost".to_owned(),
            records: None,
        };
        let payload = serde_cbor::to_vec(&note).expect("a gap note is plain data");
        let subject = self.source.clone();
        self.intake.hold_note(&Inbound {
            kind: PayloadKind::Gap,
            qos: 0,
            dup: false,
            packet_id: 0,
            subject: subject.as_str(),
            payload: &payload,
            received: clock::now(),
        });
    }

    /// Takes a publish.
    ///
    /// # Errors
    /// [`SourceError`] if the log, or that of the dead letters, has failed.
    pub(super) async fn publish(
        &mut self,
        publish: &Publish<'_>,
        received: Stamp,
    ) -> Result<(), SourceError> {
        let subject = match self.subject(publish) {
            Ok(subject) => subject,
            Err(refusal) => return self.set_aside(publish, &refusal, received).await,
        };
        let inbound = Inbound {
            kind: PayloadKind::Opaque,
            qos: publish.qos,
            dup: publish.dup,
            packet_id: publish.packet_id,
            subject,
            payload: publish.payload,
            received,
        };
        if publish.dup && self.dedupe && self.is_repeated(&inbound) {
            return self.settle();
        }
        self.append_session_note()?;
        let before = self.intake.mode();
        let (ingest, source, news) = (&self.ingest, &self.source, self.redelivery.news());
        let offered = self
            .intake
            .offer(&inbound, |i| ingest.try_append(&i.record(source, news)))
            .map_err(|LogClosed| self.log_failed())?;
        match offered {
            Offered::Appended(ticket) => {
                self.appended(ticket, &inbound, Ack::of(publish.qos, publish.packet_id));
                self.metrics.received.inc();
            }
            Offered::Held => {
                self.metrics.received.inc();
            }
            Offered::Dropped => {
                self.metrics.received.inc();
                self.metrics.dropped("buffer_full", 1);
            }
            Offered::Discarded => {}
            Offered::TooLarge => {
                let refusal = Refusal::too_large("it does not fit a segment of the log".to_owned());
                return self.set_aside(publish, &refusal, received).await;
            }
        }
        self.report_mode(before);
        Ok(())
    }

    /// Whether a publish with DUP is there already: then it is counted, and acknowledged once its
    /// record is durable.
    fn is_repeated(&mut self, publish: &Inbound<'_>) -> bool {
        let Some(identity) = publish.identity() else {
            return false;
        };
        if let Some(record) = self.redelivery.find(&identity) {
            let ack = Ack::of(publish.qos, publish.packet_id);
            self.acks.push_again(Ticket::at(record), ack);
        } else if !self.intake.holds(publish) {
            return false;
        }
        self.metrics.duplicates.inc();
        true
    }

    /// A publish has its place in the log, and took the news along.
    fn appended(&mut self, ticket: Ticket, publish: &Inbound<'_>, ack: Option<Ack>) {
        self.redelivery.told();
        if let Some(identity) = publish.identity() {
            self.redelivery.store(ticket.offset(), identity);
        }
        self.acks.push(ticket, ack);
    }

    /// The topic, if the publish can become a record.
    fn subject<'a>(&self, publish: &Publish<'a>) -> Result<&'a str, Refusal> {
        if publish.topic.is_empty() {
            return Err(Refusal {
                reason: "topic_missing",
                detail: "the broker used a topic alias, which it was not allowed".to_owned(),
            });
        }
        let topic = std::str::from_utf8(publish.topic).map_err(|error| Refusal {
            reason: "topic_not_utf8",
            detail: error.to_string(),
        })?;
        if publish.payload_bytes > self.payload_bytes_max {
            let limit = self.payload_bytes_max;
            return Err(Refusal::too_large(format!("payload_bytes_max is {limit}")));
        }
        if publish.payload.len() as u64 != publish.payload_bytes {
            return Err(Refusal::too_large("its properties are".to_owned()));
        }
        Ok(topic)
    }

    async fn set_aside(
        &mut self,
        publish: &Publish<'_>,
        refusal: &Refusal,
        received: Stamp,
    ) -> Result<(), SourceError> {
        let before = self.intake.mode();
        if !self.intake.may_set_aside(publish.qos) {
            self.report_mode(before);
            return Ok(());
        }
        let subject = String::from_utf8_lossy(publish.topic);
        self.metrics.received.inc();
        let letter = DeadLetter {
            source: &self.source,
            subject: &subject,
            reason: refusal.reason,
            code: None,
            detail: &refusal.detail,
            topic: None,
            offset: None,
            kind: PayloadKind::Opaque,
            origin: Origin::MQTT,
            payload_bytes: publish.payload_bytes,
            payload: head(publish.payload),
            received,
            boot_id: clock::boot_id(),
        };
        let proof = self.store(&letter).await?;
        let ack = Ack::of(publish.qos, publish.packet_id);
        self.acks.push_set_aside(proof, ack);
        self.settle()
    }

    async fn store(&self, letter: &DeadLetter<'_>) -> Result<SetAside, SourceError> {
        warn!(
            source = %self.source,
            topic = letter.subject,
            reason = letter.reason,
            payload_bytes = letter.payload_bytes,
            "publish set aside as a dead letter: {}", letter.detail
        );
        SetAside::store(&self.dead_letters, letter)
            .await
            .map_err(|_not_stored| self.log_failed())
    }

    /// PUBREL came: the broker has forgotten the publish and its identifier is free again.
    pub(super) fn released(&mut self, packet_id: u16) {
        self.redelivery.release(packet_id);
        self.wire.complete(packet_id, &mut self.out);
    }

    /// Looks how far the log is: appends what is held, acknowledges what is durable. Between two
    /// connections nothing is appended: the next one tells what of it the broker sends again.
    ///
    /// # Errors
    /// [`SourceError::LogFailed`] if it is poisoned or closed.
    pub(super) async fn progressed(&mut self) -> Result<(), SourceError> {
        if self.is_connected {
            self.append_session_note()?;
            self.append_held().await?;
        }
        self.settle()
    }

    /// The socket has taken so many bytes of [`Session::out`].
    pub(super) fn handed(&mut self, bytes: usize) {
        self.redelivery.handed(bytes);
    }

    async fn append_held(&mut self) -> Result<(), SourceError> {
        let before = self.intake.mode();
        loop {
            let (ingest, source, news) = (&self.ingest, &self.source, self.redelivery.news());
            let retried = self
                .intake
                .retry(|i| ingest.try_append(&i.record(source, news)))
                .map_err(|LogClosed| self.log_failed())?;
            match retried {
                Retried::Appended(ticket, held) => {
                    self.appended(ticket, &held.inbound(), held.ack());
                }
                Retried::TooLarge(held) => {
                    let inbound = held.inbound();
                    let proof = self
                        .store(&DeadLetter {
                            source: &self.source,
                            subject: inbound.subject,
                            reason: Refusal::TOO_LARGE,
                            code: None,
                            detail: "it does not fit a segment of the log",
                            topic: None,
                            offset: None,
                            kind: PayloadKind::Opaque,
                            origin: Origin::MQTT,
                            payload_bytes: inbound.payload.len() as u64,
                            payload: head(inbound.payload),
                            received: inbound.received,
                            boot_id: clock::boot_id(),
                        })
                        .await?;
                    self.acks.push_set_aside(proof, held.ack());
                }
                Retried::Full | Retried::Empty => break,
            }
        }
        self.report_mode(before);
        Ok(())
    }

    fn settle(&mut self) -> Result<(), SourceError> {
        let progress = *self.progress.borrow();
        let Self {
            acks,
            wire,
            out,
            redelivery,
            ..
        } = self;
        let committed = acks
            .settle(&progress, |ack, proof, record| {
                if let (Ack::Puback { .. }, Some(record)) = (ack, record) {
                    redelivery.acknowledge(out.len(), record);
                }
                wire.acknowledge(ack, proof, out);
            })
            .map_err(|NotCommitted| self.log_failed())?;
        self.ask_for_arrivals();
        self.metrics.committed.inc_by(committed);
        match progress.condition {
            Condition::Running | Condition::Full => Ok(()),
            Condition::Poisoned | Condition::Closed => Err(self.log_failed()),
        }
    }

    /// Publishes were discarded, and the log has room again: only a new connection brings them.
    pub(super) fn wants_reconnect(&self) -> bool {
        self.intake.wants_reconnect()
            && self.acks.is_empty()
            && self.progress.borrow().condition == Condition::Running
    }

    /// Whether there is something to do when the log has moved on.
    pub(super) fn waits_for_log(&self) -> bool {
        !self.acks.is_empty()
            || self.intake.mode() != Mode::Flowing
            || self.subscriptions.waits_for_log()
    }

    /// The broker has paused. After a burst it may well wait for acknowledgements before it sends more,
    /// so they are not to wait for more either.
    pub(super) fn paused(&self) {
        if self.acks.len() >= BURST_MIN
            && let Some(newest) = self.acks.newest()
        {
            self.ingest.hasten(newest);
        }
    }

    pub(super) fn commit_interval(&self) -> Duration {
        self.ingest.commit_interval()
    }

    /// Nothing is owed to the broker.
    pub(super) fn is_settled(&self) -> bool {
        self.acks.is_empty()
    }

    /// The source stops: appends what is held if there is room, and forgets the rest.
    pub(super) async fn stop_taking(&mut self) -> Result<(), SourceError> {
        if !self.is_connected {
            self.intake.leave_to_broker();
        }
        self.append_held().await?;
        self.settle()?;
        let lost = self.intake.abandon();
        if lost > 0 {
            self.metrics.dropped("buffer_full", lost);
        }
        Ok(())
    }

    fn report_mode(&self, before: Mode) {
        let mode = self.intake.mode();
        if mode == before {
            return;
        }
        match mode {
            Mode::Flowing => debug!(source = %self.source, "the log takes publishes again"),
            Mode::Holding => debug!(source = %self.source, "the log is full, publishes are held"),
            Mode::Discarding => warn!(
                source = %self.source,
                "the log is full: publishes are left to the broker until there is room"
            ),
        }
    }

    fn log_failed(&self) -> SourceError {
        SourceError::LogFailed {
            source_name: self.source.clone(),
        }
    }
}

/// Why a publish cannot become a record.
#[derive(Debug)]
struct Refusal {
    reason: &'static str,
    detail: String,
}

impl Refusal {
    const TOO_LARGE: &'static str = "too_large";

    fn too_large(detail: String) -> Self {
        Self {
            reason: Self::TOO_LARGE,
            detail,
        }
    }
}

fn head(payload: &[u8]) -> &[u8] {
    &payload[..payload.len().min(DEAD_LETTER_BYTES_MAX)]
}
