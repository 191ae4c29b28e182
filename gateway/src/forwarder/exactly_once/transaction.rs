//! The life of a transaction once something is in it: reports, commit, abort.

use std::thread;
use std::time::{Duration, Instant};

use rdkafka::error::RDKafkaErrorCode;

use super::super::headers::TimeText;
use super::super::lane::Trouble;
use super::super::{Flow, ForwarderError};
use super::failure::Failure;
use super::position::Position;
use super::sender::{Open, POSITION_NUMBER, Sender, Unreported};
use crate::clock;
use crate::kafka::{Class, Message, Report, TransactionClass, class};
use crate::record::Offset;

/// Waits for reports: they are looked at, less and less often while nothing comes.
const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(50);
/// Waits grow to this while a report may come at any moment: it is latency of every transaction.
const PAUSE_SHORT: Duration = Duration::from_millis(2);
/// How long a report may come at any moment.
const SOON: Duration = Duration::from_millis(200);
/// Longest transactional call: between them a stop is seen.
const COMMIT_CALL: Duration = Duration::from_secs(1);
/// An abort first waits for reports, which nobody serves meanwhile.
const ABORT_CALL: Duration = Duration::from_millis(20);
/// How long reports are waited for before a transaction is aborted, to look for the topics and the
/// cluster anew: `topic_wait`, within these. Half of what the broker leaves it.
const REPORTS_WITHIN_MIN: Duration = Duration::from_secs(10);
const REPORTS_WITHIN_MAX: Duration = Duration::from_secs(30);
/// What a rival that has fenced this gateway is left to claim the id (E4), so that the two do not fence
/// each other in turn, each before the other's claim: it has a partition to read. Chosen by eye.
const RIVAL_CLAIMS_WITHIN: Duration = Duration::from_secs(3);
/// How long an abort may take before the producer is given up; a new one aborts too.
const ABORT_WITHIN: Duration = Duration::from_secs(5);
const ABANDON_WITHIN: Duration = Duration::from_secs(1);
/// Longest time for asking which topics are refused.
const ASK_WITHIN: Duration = Duration::from_secs(2);

impl Sender<'_> {
    /// Takes the reports that have come.
    pub(super) fn serve(&mut self) {
        let Some(session) = &self.session else { return };
        let mut reports = std::mem::take(&mut self.reports);
        session.producer.serve(&mut reports);
        let fatal = session.producer.is_fatal();
        for report in reports.drain(..) {
            self.book(report);
        }
        self.reports = reports;
        if fatal && !matches!(self.failure, Some(Failure::Anew { .. })) {
            self.probe(RDKafkaErrorCode::Fatal);
        }
    }

    fn book(&mut self, report: Report) {
        let Some(open) = &mut self.open else { return };
        // The position's number is that of no record.
        let sent = open.sent.get(report.opaque).copied();
        open.unreported
            .remove(sent.map_or(0, |sent| sent.bytes as usize));
        let Some(code) = report.error else { return };
        let span = sent.map(|sent| sent.span);
        let trouble = match &mut open.returned {
            None => Trouble::of(code, span),
            // What is returned has its place in another log.
            Some(returned) => {
                let trouble = Trouble::of(code, None);
                let is_refusal = matches!(trouble.class, Class::Record(_) | Class::Timestamp);
                returned.is_refused |= span.is_some() && is_refusal;
                trouble
            }
        };
        if let (Class::Topic, Some(sent)) = (trouble.class, sent) {
            self.note_refused(sent.topic, code);
        }
        self.note(Failure::Abort(trouble));
    }

    /// Asks why the transaction can't go on; `code` is what made us ask.
    pub(super) fn probe(&mut self, code: RDKafkaErrorCode) {
        let failed = self
            .session
            .as_ref()
            .and_then(|session| session.producer.transaction_failure());
        match failed {
            Some(error) => self.note(Failure::of(error)),
            None if code == RDKafkaErrorCode::NoError => {}
            None => self.note(Failure::Abort(Trouble::of(code, None))),
        }
    }

    /// Waits until another message may be sent.
    pub(super) fn until_room(&mut self) -> Flow {
        if self.unreported().has_room() {
            return Flow::Continue;
        }
        self.until(Unreported::has_room)
    }

    /// Waits until every message of the transaction is reported delivered.
    pub(super) fn until_reported(&mut self) -> Flow {
        self.until(|unreported| unreported.messages == 0)
    }

    /// Waits for reports until `enough` have come.
    fn until(&mut self, enough: fn(Unreported) -> bool) -> Flow {
        let began = Instant::now();
        let topic_wait = self.config.kafka.topic_wait;
        let within = topic_wait.clamp(REPORTS_WITHIN_MIN, REPORTS_WITHIN_MAX);
        let mut pause = PAUSE_MIN;
        loop {
            let before = self.unreported();
            self.serve();
            if self.failure.is_some() || self.stop.is_over() {
                return Flow::Break;
            }
            let unreported = self.unreported();
            if enough(unreported) {
                return Flow::Continue;
            }
            if began.elapsed() >= within {
                let code = RDKafkaErrorCode::MessageTimedOut;
                self.note(Failure::Abort(Trouble::of(code, None)));
                return Flow::Break;
            }
            if unreported.messages < before.messages {
                pause = PAUSE_MIN;
            }
            thread::sleep(pause);
            let soon = began.elapsed() < SOON;
            pause = (pause * 2).min(if soon { PAUSE_SHORT } else { PAUSE_MAX });
            if !soon {
                // Messages whose partition could not be added get no report until the abort.
                self.probe(RDKafkaErrorCode::NoError);
            }
        }
    }

    fn unreported(&self) -> Unreported {
        self.open
            .as_ref()
            .map_or_else(Unreported::default, |open| open.unreported)
    }

    /// Commits the open transaction, if any, with its position (E1). On [`Flow::Break`] it is still
    /// open, or its outcome is not known.
    pub(super) fn commit(&mut self) -> Flow {
        if self.open.is_none() {
            return Flow::Continue;
        }
        if self.until_parked() == Flow::Break
            || self.send_position() == Flow::Break
            || self.until_reported() == Flow::Break
        {
            return Flow::Break;
        }
        loop {
            let Some(session) = &self.session else {
                return Flow::Break;
            };
            match session.producer.commit_transaction(COMMIT_CALL) {
                Ok(()) => break,
                Err(error) if error.class == TransactionClass::Again => self.serve(),
                Err(error) => {
                    self.note(Failure::anew(error));
                    return Flow::Break;
                }
            }
            if self.stop.is_over() {
                return Flow::Break;
            }
        }
        self.settle();
        Flow::Continue
    }

    /// Waits until parking logs have synced what the position is to lie behind (P2).
    fn until_parked(&mut self) -> Flow {
        while let Some(ticket) = self.parked.last() {
            match ticket.is_synced() {
                Some(true) => {
                    self.parked.pop();
                    continue;
                }
                Some(false) => {}
                None => {
                    let trouble = Trouble::of(RDKafkaErrorCode::FileSystem, None);
                    self.note(Failure::Abort(trouble));
                    return Flow::Break;
                }
            }
            if self.stop.is_over() {
                return Flow::Break;
            }
            thread::sleep(PAUSE_MIN);
            self.serve();
        }
        Flow::Continue
    }

    fn send_position(&mut self) -> Flow {
        let (Some(session), Some(open)) = (&self.session, &mut self.open) else {
            return Flow::Break;
        };
        let now_ms = clock::wall_ms();
        let position = Position {
            log: self.log_identity.clone(),
            offset: open.next.get(),
            fingerprint: open.fingerprint,
            instance: self.instance.clone(),
            host: self.host.clone(),
            time: TimeText::default().of(now_ms).to_owned(),
            superseded: self.superseded.clone(),
            parking: open.positions(&self.parking),
        };
        let value = serde_json::to_vec(&position).expect("texts and numbers are always JSON");
        let message = Message {
            topic: session.topic.name(),
            key: Some(&self.config.gateway.id),
            value: &value,
            timestamp_ms: Some(now_ms).filter(|now_ms| clock::is_plausible(*now_ms)),
            headers: None,
        };
        let partition = Some(session.topic.partition);
        match session
            .producer
            .send_to(partition, message, POSITION_NUMBER)
        {
            Ok(()) => {
                open.unreported.add(0);
                Flow::Continue
            }
            Err(refused) => {
                let code = refused.code;
                match class(code) {
                    Class::Fatal => self.probe(code),
                    Class::Record(_) | Class::Timestamp | Class::Transient | Class::Topic => {
                        self.note(Failure::Abort(Trouble::of(code, None)));
                    }
                }
                Flow::Break
            }
        }
    }

    fn settle(&mut self) {
        let Some(mut open) = self.open.take() else {
            return;
        };
        open.sent.clear();
        self.spare = open.sent;
        if open.next > self.floor {
            self.parking.release();
        }
        self.floor = open.next;
        self.fingerprint = open.fingerprint;
        self.log.commit(open.next);
        if let Some(returned) = &open.returned {
            returned.log.commit(returned.next);
        }
        self.verdicts = self.verdicts.split_off(&open.next);
        for (topic, records) in open.by_topic {
            self.topics.delivered(topic, records);
        }
        if let Some(received_ms) = open.received_mono_ms {
            let duration = Duration::from_millis(clock::mono_ms().saturating_sub(received_ms));
            let histogram = &self.metrics.delivery_duration;
            histogram.observe(duration.as_secs_f64());
        }
        self.backoff.reset();
        self.told.clear();
    }

    /// The open transaction holds records that would be dated otherwise now: it is to be aborted.
    pub(super) fn take_back(&mut self) {
        if self.open.is_some() {
            tracing::info!("the clock was set: the open transaction is dated anew");
            let code = RDKafkaErrorCode::PurgeQueue;
            self.note(Failure::Abort(Trouble::of(code, None)));
        }
    }

    /// Goes back to the floor after a failure; the session is gone where a new one is needed.
    pub(super) fn recover(&mut self, failure: Failure) -> Result<(), ForwarderError> {
        match failure {
            Failure::Anew { code, text, fenced } => {
                tracing::warn!(%code, text, offset = %self.floor, "the Kafka producer begins anew");
                self.fenced |= fenced;
                self.session = None;
                self.forget_open();
                self.backoff.wait(&mut self.stop);
            }
            Failure::Abort(trouble) => self.start_over(trouble)?,
        }
        if self.fenced && self.claimed {
            self.backoff
                .wait_at_least(RIVAL_CLAIMS_WITHIN, &mut self.stop);
        }
        Ok(())
    }

    fn start_over(&mut self, trouble: Trouble) -> Result<(), ForwarderError> {
        let until = self.open.as_ref().map_or(self.floor, |open| open.next);
        let sent_to = self
            .open
            .as_ref()
            .map(|open| open.by_topic.keys().copied().collect());
        let sent_to: Vec<u16> = sent_to.unwrap_or_default();
        // A report may say no more than that its message was given up; the transaction knows why.
        self.probe(RDKafkaErrorCode::NoError);
        let aborted = self.abort(ABORT_WITHIN);
        // What came to light meanwhile may be the cause.
        let trouble = match self.failure.take() {
            Some(Failure::Abort(later)) => trouble.joined(later),
            Some(Failure::Anew { fenced, .. }) => {
                self.fenced |= fenced;
                trouble
            }
            None => trouble,
        };
        let code = trouble.code;
        tracing::warn!(%code, offset = %self.floor, "a transaction was aborted; once more from here");
        let open = self.open.take();
        self.forget_open();
        if let Some(Open {
            returned: Some(returned),
            sent,
            ..
        }) = open
        {
            if !aborted || code == RDKafkaErrorCode::MessageTimedOut {
                self.session = None;
            }
            return self.return_failed(&returned, &sent, trouble);
        }
        // Without an answer the topics, the offsets topic among them, are looked for anew.
        let mut keep = aborted && code != RDKafkaErrorCode::MessageTimedOut;
        match trouble.class {
            Class::Record(_) | Class::Timestamp => {
                let refused_until = trouble.refused_until.unwrap_or(until.plus(1));
                self.alone_until = self.alone_until.max(refused_until);
                keep &= self.is_single();
            }
            Class::Topic if self.park_refused(&sent_to, until) => {
                keep &= self.is_single() == (self.floor < self.alone_until);
            }
            Class::Transient | Class::Fatal => {
                self.topic_is_known = false;
                self.backoff.wait(&mut self.stop);
            }
            Class::Topic => {
                self.tell_refused_topic(code);
                // The next session looks at the offsets topic first.
                self.topic_is_known = false;
                keep = false;
                self.backoff.wait(&mut self.stop);
            }
        }
        if !keep {
            self.session = None;
        }
        Ok(())
    }

    /// Parks the topics that were refused, of those that the aborted transaction went to. Where it is
    /// not known which, since none of its messages got a report, records are sent alone, up to the
    /// first that is refused. False if a topic can't be parked, or is not found.
    fn park_refused(&mut self, sent_to: &[u16], until: Offset) -> bool {
        if self.refused.is_empty() {
            self.ask_for(sent_to);
        }
        let hunted = std::mem::take(&mut self.hunting);
        if hunted {
            self.alone_until = self.floor;
        }
        let refused = std::mem::take(&mut self.refused);
        if refused.is_empty() && !hunted {
            self.hunting = true;
            self.alone_until = self.alone_until.max(until.plus(1));
            return true;
        }
        let mut all_parked = !refused.is_empty();
        for (topic, code) in refused {
            all_parked &= self.parking.begin(&topic, code);
        }
        all_parked
    }

    /// Asks the cluster which of these topics it refuses. It may tell of one that it would not let us
    /// write to.
    fn ask_for(&mut self, topics: &[u16]) {
        let give_up = Instant::now() + ASK_WITHIN;
        for number in topics {
            let left = give_up.saturating_duration_since(Instant::now());
            let (Some(session), Some(name)) = (&self.session, self.topics.name(*number)) else {
                continue;
            };
            let error = session.producer.topic_error(name, left);
            if let Some(code) = error.filter(|code| class(*code) == Class::Topic) {
                self.refused.insert(name.to_owned(), code);
            }
        }
    }

    /// Says, once until a transaction is committed, that Kafka refuses a topic. Which one, the client
    /// is not told where the whole transaction is refused for it.
    fn tell_refused_topic(&mut self, code: RDKafkaErrorCode) {
        let text = format!(
            "Kafka refuses a topic of a transaction, that of a record or the offsets topic {:?} \
             ({code}): create it, or grant READ, WRITE and DESCRIBE on it. Records wait on disk",
            self.transactions.offsets_topic
        );
        if self.told != text {
            tracing::warn!("{text}");
            self.told = text;
        }
    }

    /// Aborts the open transaction. False if that did not succeed; a new producer will.
    fn abort(&mut self, within: Duration) -> bool {
        let give_up = Instant::now() + within;
        loop {
            let Some(session) = &self.session else {
                return false;
            };
            match session.producer.abort_transaction(ABORT_CALL) {
                Ok(()) => return true,
                Err(error) if error.class == TransactionClass::Again => {
                    if Instant::now() >= give_up {
                        return false;
                    }
                }
                Err(error) => {
                    self.note(Failure::of(error));
                    return false;
                }
            }
            self.serve();
        }
    }

    /// Leaves the open transaction to the next producer, which aborts it.
    pub(super) fn forget_open(&mut self) {
        self.open = None;
        self.parked.clear();
    }

    /// Gives up at the end of the grace period. What is open is aborted if Kafka answers, so that
    /// it hides nothing from consumers.
    pub(super) fn abandon(&mut self) {
        if self.open.is_some() {
            self.abort(ABANDON_WITHIN);
        }
    }
}
