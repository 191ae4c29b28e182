//! Returning parked records in exactly-once delivery: in transactions of their own, between those of the
//! main log, whose position carries how far each parking log is returned.
//!
//! - **E5** What is in a transaction is of one log. So a refusal of a topic that is tried aborts nothing
//!   of other topics, and it is plain which topic it was.
//! - **E6** A parking log is returned from, and ends, only while the position in Kafka lies behind all
//!   that it took: nothing of it can come from the main log again.
//! - **E7** Where a parking log goes on is told by the position in Kafka or by its own slots, whichever is
//!   further; both are of one log identity.
//!
//! The first transaction of a topic that was refused holds one record, later ones more and more. One that
//! is refused for a record of it is halved until it holds that record alone, which is then set aside.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::error::RDKafkaErrorCode;

use super::super::aside::{self, Reason};
use super::super::encode::Outgoing;
use super::super::in_flight::Span;
use super::super::lane::Trouble;
use super::super::parking::unpark::{Found, unpark};
use super::super::parking::{ParkedPosition, Parking};
use super::super::reader::{Read, Reader};
use super::super::{Flow, ForwarderError};
use super::failure::Failure;
use super::sender::{Open, RECORDS_MAX, Sender, Sent};
use crate::commit_log::CommitLog;
use crate::kafka::{Class, class};
use crate::record::Offset;

/// How much larger the next transaction of a topic may be.
const GROWTH: usize = 4;
/// Longest wait for what the cluster says of a topic: nothing else is sent meanwhile.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// When a topic is tried again that is empty, or did not answer.
const AGAIN: Duration = Duration::from_secs(1);
const AGAIN_UNANSWERED: Duration = Duration::from_secs(10);

/// What a transaction returns.
#[derive(Debug)]
pub(super) struct Returned {
    pub(super) topic: String,
    pub(super) log: CommitLog,
    identity: String,
    /// Behind what it holds, in the parking log.
    pub(super) next: Offset,
    /// Nothing more goes in.
    full: bool,
    /// A record of it was refused, rather than the position.
    pub(super) is_refused: bool,
}

/// What is known of topics on their return.
#[derive(Debug, Default)]
pub(super) struct Returning {
    /// Most records of their next transactions.
    limits: BTreeMap<String, usize>,
    /// Records that were refused alone, first in their logs.
    verdicts: BTreeMap<String, Refusal>,
}

/// A parked record was refused alone.
#[derive(Clone, Copy, Debug)]
struct Refusal {
    place: Offset,
    code: RDKafkaErrorCode,
    /// It was sent without a timestamp.
    without_timestamp: bool,
}

impl Open {
    /// Positions of all parking logs.
    pub(super) fn positions(&self, parking: &Parking) -> Vec<ParkedPosition> {
        let mut positions = parking.positions();
        if let Some(returned) = &self.returned {
            positions.retain(|position| position.log != returned.identity);
            positions.push(ParkedPosition {
                log: returned.identity.clone(),
                offset: returned.next.get(),
            });
        }
        positions
    }
}

impl Returning {
    fn limit(&self, topic: &str) -> usize {
        self.limits.get(topic).copied().unwrap_or(1)
    }

    fn set_limit(&mut self, topic: &str, limit: usize) {
        self.limits
            .insert(topic.to_owned(), limit.clamp(1, RECORDS_MAX));
    }

    fn forget(&mut self, topic: &str) {
        self.limits.remove(topic);
        self.verdicts.remove(topic);
    }
}

impl Sender<'_> {
    /// Returns records of a parked topic in one transaction, if the topic takes them.
    pub(super) fn return_parked(&mut self, topic: &str) -> Result<(), ForwarderError> {
        self.parking.later(topic, self.transactions.interval);
        if self.commit() == Flow::Break {
            return Ok(());
        }
        let Some(log) = self.parking.log(topic) else {
            return Ok(());
        };
        if !self.parking.is_below(topic, &self.log_identity, self.floor) || self.is_ended(topic) {
            return Ok(());
        }
        if log.committed() >= log.progress().synced {
            self.parking.later(topic, AGAIN);
            return Ok(());
        }
        if self.parking.is_refused(topic)
            && let Some(code) = self.ask(topic)
        {
            return self.refused_again(topic, code);
        }
        if self.fill(topic, &log)? == Flow::Break || self.commit() == Flow::Break {
            return Ok(());
        }
        self.parking.answers(topic);
        let limit = self.returning.limit(topic);
        self.returning.set_limit(topic, limit * GROWTH);
        if !self.is_ended(topic) {
            self.parking.later(topic, self.transactions.interval);
        }
        Ok(())
    }

    /// Ends the parking of a topic if nothing of it is left (E6).
    fn is_ended(&mut self, topic: &str) -> bool {
        let floor = (self.log_identity.as_str(), self.floor);
        let ended = self.parking.finish(topic, Some(floor));
        if ended {
            self.returning.forget(topic);
        }
        ended
    }

    /// What the cluster has against a topic.
    fn ask(&self, topic: &str) -> Option<RDKafkaErrorCode> {
        let session = self.session.as_ref()?;
        session.producer.topic_error(topic, ANSWER_WITHIN)
    }

    /// The topic was refused, or said nothing.
    fn refused_again(&mut self, topic: &str, code: RDKafkaErrorCode) -> Result<(), ForwarderError> {
        match class(code) {
            Class::Topic => {
                self.returning.set_limit(topic, 1);
                if self.parking.refused(topic, code) {
                    let detail = format!("Kafka refuses the topic: {code}");
                    self.parking.give_up(topic, &self.dead_letters, &detail)?;
                }
            }
            Class::Transient | Class::Fatal | Class::Record(_) | Class::Timestamp => {
                self.parking.later(topic, AGAIN_UNANSWERED);
            }
        }
        Ok(())
    }

    /// Puts parked records into a transaction.
    fn fill(&mut self, topic: &str, log: &CommitLog) -> Result<Flow, ForwarderError> {
        if self.begin(self.floor) == Flow::Break {
            return Ok(Flow::Break);
        }
        let identity = log.identity();
        if let Some(open) = &mut self.open {
            open.returned = Some(Returned {
                topic: topic.to_owned(),
                log: log.clone(),
                identity: identity.clone(),
                next: log.committed(),
                full: false,
                is_refused: false,
            });
        }
        let found = Found {
            topic,
            log: &identity,
        };
        let mut reader = Reader::new(log.clone(), std::sync::Arc::clone(&self.metrics));
        loop {
            let read = reader.forward_next(|item| {
                unpark(item, found, &mut |outgoing| self.give_back(outgoing))
            })?;
            if self.failure.is_some() {
                return Ok(Flow::Break);
            }
            if read == Read::Nothing || self.returns_enough() {
                return Ok(Flow::Continue);
            }
        }
    }

    fn returns_enough(&self) -> bool {
        let returned = self.open.as_ref().and_then(|open| open.returned.as_ref());
        returned.is_none_or(|returned| returned.full)
    }

    /// Adds a parked record to the open transaction.
    fn give_back(&mut self, outgoing: &Outgoing<'_>) -> Result<Flow, ForwarderError> {
        let Outgoing::Parked {
            span,
            log,
            topic,
            item,
        } = *outgoing
        else {
            return Ok(Flow::Continue);
        };
        let limit = self.returning.limit(topic);
        let Some(open) = &mut self.open else {
            return Ok(Flow::Break);
        };
        let enough =
            open.sent.len() >= limit || (!open.sent.is_empty() && Instant::now() >= open.due);
        if enough && !open.midway {
            if let Some(returned) = &mut open.returned {
                returned.full = true;
            }
            return Ok(Flow::Break);
        }
        let is_record = matches!(item, Outgoing::Record(_));
        let settled = is_record
            && self
                .known
                .holds(&self.dead_letters, log, item.span().first)?;
        if !settled && self.send_back(outgoing)? == Flow::Break {
            return Ok(Flow::Break);
        }
        self.include_returned(span);
        Ok(Flow::Continue)
    }

    fn include_returned(&mut self, span: Span) {
        let Some(open) = &mut self.open else { return };
        open.midway = span.more_follow;
        if let Some(returned) = &mut open.returned
            && !span.more_follow
        {
            returned.next = span.last.plus(1);
        }
    }

    /// Sends a parked record, or sets it aside if it was refused alone before.
    fn send_back(&mut self, outgoing: &Outgoing<'_>) -> Result<Flow, ForwarderError> {
        let Outgoing::Parked { span, topic, .. } = *outgoing else {
            return Ok(Flow::Continue);
        };
        if self.until_room() == Flow::Break {
            return Ok(Flow::Break);
        }
        let refusal = self.returning.verdicts.get(topic).copied();
        let refusal = refusal.filter(|refusal| refusal.place == span.first);
        if let Some(Refusal {
            code,
            without_timestamp: true,
            ..
        }) = refusal
        {
            let detail = format!("Kafka refuses it: {code}");
            self.set_parked_aside(outgoing, Reason::refused(reason_of(code), code, &detail))?;
            return Ok(Flow::Continue);
        }
        let mut encoded = match self.encoder.encode(outgoing) {
            Ok(encoded) => encoded,
            Err(undeliverable) => {
                self.set_parked_aside(outgoing, Reason::undeliverable(&undeliverable))?;
                return Ok(Flow::Continue);
            }
        };
        if refusal.is_some() {
            encoded.message.timestamp_ms = None;
        }
        let (Some(session), Some(open)) = (&self.session, &mut self.open) else {
            return Ok(Flow::Break);
        };
        let number = self.topics.number(encoded.message.topic);
        match session.producer.send(encoded.message, open.sent.len()) {
            Ok(()) => {
                open.add(span, number, encoded.bytes);
                Ok(Flow::Continue)
            }
            Err(refused) => {
                let code = refused.code;
                self.not_returned(outgoing, number, code)
            }
        }
    }

    /// The client did not take a parked record.
    fn not_returned(
        &mut self,
        outgoing: &Outgoing<'_>,
        topic: u16,
        code: RDKafkaErrorCode,
    ) -> Result<Flow, ForwarderError> {
        match class(code) {
            Class::Record(reason) => {
                let detail = format!("Kafka's client refuses the record: {code}");
                self.set_parked_aside(outgoing, Reason::refused(reason, code, &detail))?;
                return Ok(Flow::Continue);
            }
            Class::Fatal => self.probe(code),
            Class::Topic => {
                self.topics.troubled(topic, code);
                self.note(Failure::Abort(Trouble::of(code, None)));
            }
            Class::Timestamp | Class::Transient => {
                self.note(Failure::Abort(Trouble::of(code, None)));
            }
        }
        Ok(Flow::Break)
    }

    /// Makes a parked record a dead letter, durably (E3).
    fn set_parked_aside(
        &mut self,
        outgoing: &Outgoing<'_>,
        reason: Reason<'_>,
    ) -> Result<(), ForwarderError> {
        let Outgoing::Parked {
            log, topic, item, ..
        } = *outgoing
        else {
            return Ok(());
        };
        let reason = Reason {
            topic: Some(topic),
            ..reason
        };
        aside::set_aside(&self.dead_letters, log, item, reason)?;
        self.known.note(log, item.span().first);
        Ok(())
    }

    /// The transaction that returned records was aborted.
    pub(super) fn return_failed(
        &mut self,
        returned: &Returned,
        sent: &[Sent],
        trouble: Trouble,
    ) -> Result<(), ForwarderError> {
        let topic = returned.topic.as_str();
        self.refused.clear();
        match trouble.class {
            Class::Topic => return self.refused_again(topic, trouble.code),
            Class::Record(_) | Class::Timestamp if !returned.is_refused => {
                self.parking.later(topic, AGAIN);
            }
            Class::Record(_) | Class::Timestamp => match sent {
                [] => {}
                [alone] => self.condemn(topic, alone.span.first, trouble),
                several => self.returning.set_limit(topic, several.len() / 2),
            },
            Class::Transient | Class::Fatal => {
                self.parking.later(topic, AGAIN_UNANSWERED);
                self.topic_is_known = false;
                self.backoff.wait(&mut self.stop);
            }
        }
        Ok(())
    }

    /// A record was refused alone: once more without a timestamp, if that is why, then no more.
    fn condemn(&mut self, topic: &str, place: Offset, trouble: Trouble) {
        let verdicts = &mut self.returning.verdicts;
        let before = verdicts.get(topic);
        let again = before.is_some_and(|refusal| refusal.place == place);
        let refusal = Refusal {
            place,
            code: trouble.code,
            without_timestamp: again || trouble.class != Class::Timestamp,
        };
        verdicts.insert(topic.to_owned(), refusal);
    }
}

fn reason_of(code: RDKafkaErrorCode) -> &'static str {
    match class(code) {
        Class::Record(reason) => reason,
        Class::Timestamp => "invalid_timestamp",
        Class::Transient | Class::Topic | Class::Fatal => "refused",
    }
}
