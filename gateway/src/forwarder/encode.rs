//! From a record of the log to a message for Kafka, through buffers that are used again.

use std::sync::Arc;

use super::event_time::{DeviceTimeWindow, event_time};
use super::gap::{self, Gap};
use super::headers::HeaderMaker;
use super::in_flight::Span;
use super::route::{Routed, Router};
use super::value;
use crate::clock;
use crate::clock::timeline::{Boots, Dated, Timeline};
use crate::commit_log::{Hole, Loss};
use crate::config::{Config, ValueFormat};
use crate::kafka::Message;
use crate::metrics::{Metrics, SourceLabel, SourceReason};
use crate::record::{Offset, PayloadKind, RecordView};

/// What librdkafka keeps for a message beside its contents. Chosen by eye from its structure, not
/// measured.
const MESSAGE_OVERHEAD_BYTES: usize = 256;
/// How often it may hold a value: in the message, in a request, and compressed. With payloads of 8 KiB
/// heaptrack saw 5.7, 4.0 and 4.3 MiB.
const VALUE_COPIES: usize = 3;

/// What goes out for one place in the log.
#[derive(Clone, Copy, Debug)]
pub(super) enum Outgoing<'a> {
    /// A record.
    Record(&'a RecordView<'a>),
    /// The marker of a hole, or one of its markers: one is sent for each source.
    Hole {
        hole: &'a Hole,
        /// Whose; `None` where nothing is known of that.
        loss: Option<&'a Loss>,
        /// Not the last one.
        more_follow: bool,
    },
    /// What a parking log gives back.
    Parked {
        /// Its place in the parking log.
        span: Span,
        /// Identity of the log that `item` is of.
        log: &'a str,
        /// The topic that it waited for, whatever routes say now.
        topic: &'a str,
        /// The record, or the marker of a hole.
        item: &'a Self,
    },
}

impl<'a> Outgoing<'a> {
    /// The markers of a hole, at least one.
    pub(super) fn markers(hole: &'a Hole) -> impl Iterator<Item = Self> {
        let count = hole.losses.len().max(1);
        (0..count).map(move |index| Self::Hole {
            hole,
            loss: hole.losses.get(index),
            more_follow: index + 1 < count,
        })
    }
}

impl Outgoing<'_> {
    /// It comes from the main log.
    pub(super) fn may_be_parked(&self) -> bool {
        match self {
            Self::Record(_) | Self::Hole { .. } => true,
            Self::Parked { .. } => false,
        }
    }

    pub(super) fn span(&self) -> Span {
        match self {
            Self::Record(record) => Span::one(record.offset),
            Self::Hole {
                hole, more_follow, ..
            } => Span {
                first: hole.first,
                last: hole.last,
                more_follow: *more_follow,
            },
            Self::Parked { span, .. } => *span,
        }
    }
}

/// A message and the memory it will hold in the producer.
pub(super) struct Encoded<'a> {
    pub(super) message: Message<'a>,
    pub(super) bytes: usize,
}

/// The record cannot be made a message: a dead letter.
#[derive(Debug)]
pub(super) struct Undeliverable {
    /// Its reason, a short word.
    pub(super) reason: &'static str,
    /// For a person.
    pub(super) detail: String,
}

/// Makes messages.
#[derive(Debug)]
pub(super) struct Encoder {
    router: Router,
    routed: Routed,
    format: ValueFormat,
    /// Where gap markers go.
    gap_topic: String,
    value: Vec<u8>,
    key: String,
    headers: HeaderMaker,
    timeline: Timeline,
    device_time: DeviceTimeWindow,
    /// Identity of the main log.
    log_identity: String,
    metrics: Arc<Metrics>,
    /// What is counted of a record is counted when it comes by first; after trouble it comes again.
    counted_below: Offset,
}

impl Encoder {
    pub(super) fn new(
        config: &Config,
        log_identity: &str,
        boots: Boots,
        metrics: Arc<Metrics>,
    ) -> Self {
        let kafka = &config.kafka;
        Self {
            router: Router::new(config.routes.clone(), &kafka.topic, kafka.key.clone()),
            routed: Routed::default(),
            format: kafka.value,
            gap_topic: kafka.topic.clone(),
            value: Vec::new(),
            key: String::new(),
            headers: HeaderMaker::new(kafka.headers, &config.gateway.id, log_identity),
            timeline: Timeline::new(clock::boot_id(), boots),
            device_time: kafka.device_time,
            log_identity: log_identity.to_owned(),
            metrics,
            counted_below: Offset::ZERO,
        }
    }

    /// It has its place in the log and nothing in it is for Kafka: a source's note about itself, or
    /// a record that a route drops, which is counted. Asked before [`Encoder::encode`].
    pub(super) fn passes_over(&mut self, outgoing: &Outgoing<'_>) -> bool {
        let Outgoing::Record(record) = outgoing else {
            return false;
        };
        match record.kind {
            PayloadKind::Note => true,
            PayloadKind::Gap => false,
            PayloadKind::Opaque | PayloadKind::SenmlCbor => {
                let drops = self.router.drops(record, &mut self.routed);
                if drops && self.is_first(record) {
                    let label = SourceReason {
                        source: record.source.to_owned(),
                        reason: "route".to_owned(),
                    };
                    self.metrics.dropped.get_or_create(&label).inc();
                }
                drops
            }
        }
    }

    /// Whether the record comes by for the first time in this run; it does so once.
    fn is_first(&mut self, record: &RecordView<'_>) -> bool {
        let is_first = record.offset >= self.counted_below;
        if is_first {
            self.counted_below = record.offset.plus(1);
        }
        is_first
    }

    /// Goes on with another identity of the log, which is part of each record's id.
    pub(super) fn set_log_identity(&mut self, identity: &str) {
        identity.clone_into(&mut self.log_identity);
    }

    /// The message of a record or a hole.
    ///
    /// # Errors
    /// [`Undeliverable`]
    pub(super) fn encode<'a>(
        &'a mut self,
        outgoing: &Outgoing<'a>,
    ) -> Result<Encoded<'a>, Undeliverable> {
        if let Outgoing::Parked {
            log, topic, item, ..
        } = outgoing
        {
            self.headers.use_log(log);
            let mut encoded = self.plain(item)?;
            encoded.message.topic = topic;
            return Ok(encoded);
        }
        self.headers.use_log(&self.log_identity);
        self.plain(outgoing)
    }

    fn plain<'a>(&'a mut self, outgoing: &Outgoing<'a>) -> Result<Encoded<'a>, Undeliverable> {
        match outgoing {
            Outgoing::Parked { item, .. } => self.plain(item),
            Outgoing::Hole { hole, loss, .. } => {
                let now_ms = Some(clock::wall_ms()).filter(|now_ms| clock::is_plausible(*now_ms));
                Ok(self.gap(&Gap::of_hole(hole, *loss), now_ms))
            }
            Outgoing::Record(record) => match record.kind {
                PayloadKind::Gap => {
                    let note = gap::read_note(record.payload).map_err(|error| Undeliverable {
                        reason: "invalid_gap_note",
                        detail: error.to_string(),
                    })?;
                    let noted_ms = self.dated(record).wall_ms;
                    Ok(self.gap(&Gap::of_note(record, &note), noted_ms))
                }
                PayloadKind::Opaque | PayloadKind::SenmlCbor => self.telemetry(record),
                PayloadKind::Note => Err(Undeliverable {
                    reason: "note",
                    detail: "a source's note about itself is not for Kafka".to_owned(),
                }),
            },
        }
    }

    /// The topic of the telemetry record that was encoded last.
    pub(super) fn topic(&self) -> Option<&str> {
        let topic = self.routed.topic();
        (!topic.is_empty()).then_some(topic)
    }

    fn telemetry<'a>(&'a mut self, record: &RecordView<'a>) -> Result<Encoded<'a>, Undeliverable> {
        let time = event_time(record, self.dated(record), self.device_time);
        self.router.route(record, &mut self.routed);
        if self.routed.topic_repaired() && self.is_first(record) {
            let source = record.source.to_owned();
            let repaired = &self.metrics.topic_names_repaired;
            repaired.get_or_create(&SourceLabel { source }).inc();
        }
        let (value, media_type) =
            value::value(self.format, record.kind, record.payload, &mut self.value).map_err(
                |error| Undeliverable {
                    reason: "invalid_senml",
                    detail: error.to_string(),
                },
            )?;
        let made = self
            .headers
            .of_record(record, time, media_type, &self.routed);
        Ok(encoded(
            Message {
                topic: self.routed.topic(),
                key: self.routed.key(),
                value,
                timestamp_ms: time.ms.filter(|ms| *ms >= 0),
                headers: made.headers,
            },
            made.bytes,
        ))
    }

    /// Whether the clock has been set since the last call: what was encoded before would be dated
    /// otherwise now.
    pub(super) fn clock_was_set(&mut self) -> bool {
        self.timeline.was_set(clock::now())
    }

    fn dated(&self, record: &RecordView<'_>) -> Dated {
        let now = clock::now();
        self.timeline.date(record.boot_id, record.received, now)
    }

    fn gap(&mut self, gap: &Gap<'_>, time_ms: Option<i64>) -> Encoded<'_> {
        self.value.clear();
        gap.append_json(&mut self.value);
        self.key.clear();
        self.key.push_str(gap.source().unwrap_or_default());
        let made = self
            .headers
            .of_gap(gap.source(), gap.span(), time_ms, value::JSON);
        encoded(
            Message {
                topic: &self.gap_topic,
                key: (!self.key.is_empty()).then_some(self.key.as_str()),
                value: &self.value,
                timestamp_ms: time_ms.filter(|ms| *ms >= 0),
                headers: made.headers,
            },
            made.bytes,
        )
    }
}

fn encoded(message: Message<'_>, header_bytes: usize) -> Encoded<'_> {
    let key_bytes = message.key.map_or(0, str::len);
    Encoded {
        bytes: MESSAGE_OVERHEAD_BYTES
            + header_bytes
            + key_bytes
            + VALUE_COPIES * message.value.len(),
        message,
    }
}
