//! Every figure the gateway exports, by the names of DESIGN §9.
//!
//! Sources and the forwarder hold resolved handles ([`SourceMetrics`], a topic's counter), so that
//! counting a record is one atomic addition and no map look-up.

use std::sync::atomic::{AtomicI64, AtomicU64};
use std::sync::{Arc, OnceLock};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;

use crate::clock;
use crate::commit_log::{CommitLog, Finding, Item, Severity};
use crate::dead_letters::LetterFigures;
use crate::record::SourceName;
use crate::registry::RegistryFigures;

/// Label `source`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SourceLabel {
    /// The source's name.
    pub source: String,
}

/// Labels `source` and `reason`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SourceReason {
    /// The source's name.
    pub source: String,
    /// A short, fixed word.
    pub reason: String,
}

/// Labels `source` and `unit`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct UnitLabel {
    /// The source's name.
    pub source: String,
    /// Address of a configured Modbus unit.
    pub unit: u8,
}

/// Labels `source`, `unit` and `result`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct UnitResult {
    /// The source's name.
    pub source: String,
    /// Address of a configured Modbus unit.
    pub unit: u8,
    /// A short, fixed word.
    pub result: String,
}

/// Labels `source`, `unit` and `code`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct UnitCode {
    /// The source's name.
    pub source: String,
    /// Address of a configured Modbus unit.
    pub unit: u8,
    /// The protocol's word for an exception, `other` for those it doesn't name.
    pub code: String,
}

/// Label `reason`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabel {
    /// A short, fixed word.
    pub reason: String,
}

/// Label `outcome`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OutcomeLabel {
    /// A short, fixed word.
    pub outcome: &'static str,
}

/// Label `topic`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TopicLabel {
    /// Kafka topic.
    pub topic: String,
}

type Count = Counter<u64, AtomicU64>;
type Level = Gauge<i64, AtomicI64>;

/// What Modbus sources count, by unit.
#[derive(Clone, Debug, Default)]
pub struct ModbusFigures {
    /// Requests, by what came of them.
    pub requests: Family<UnitResult, Count>,
    /// Exceptions, by their codes.
    pub exceptions: Family<UnitCode, Count>,
    /// Polls that did not take place because the unit or its bus was not free in time.
    pub polls_skipped: Family<UnitLabel, Count>,
    /// Values that were read and are none: not a number, or not text.
    pub values_omitted: Family<UnitResult, Count>,
    /// 1 while the unit answers.
    pub unit_up: Family<UnitLabel, Level>,
}

impl ModbusFigures {
    fn register(&self, registry: &mut Registry) {
        registry.register(
            "modbus_requests",
            "Modbus requests by what came of them",
            self.requests.clone(),
        );
        registry.register(
            "modbus_exceptions",
            "Modbus exceptions by code",
            self.exceptions.clone(),
        );
        registry.register(
            "modbus_polls_skipped",
            "Polls that did not take place in time",
            self.polls_skipped.clone(),
        );
        registry.register(
            "modbus_values_omitted",
            "Values left out of a record: not_a_number, not_text",
            self.values_omitted.clone(),
        );
        registry.register(
            "modbus_unit_up",
            "1 while the unit answers",
            self.unit_up.clone(),
        );
    }
}

/// One Modbus unit's figures.
#[derive(Clone, Debug)]
pub struct UnitMetrics {
    label: UnitLabel,
    figures: ModbusFigures,
    skipped: Count,
    /// See [`ModbusFigures::unit_up`].
    pub up: Level,
}

impl UnitMetrics {
    /// Counts a request by what came of it.
    pub fn request(&self, result: &str) {
        let label = self.result(result);
        self.figures.requests.get_or_create(&label).inc();
    }

    /// Counts an exception.
    pub fn exception(&self, code: &str) {
        let UnitLabel { source, unit } = self.label.clone();
        let code = code.to_owned();
        let label = UnitCode { source, unit, code };
        self.figures.exceptions.get_or_create(&label).inc();
    }

    /// Counts polls that did not take place.
    pub fn polls_skipped(&self, polls: u64) {
        self.skipped.inc_by(polls);
    }

    /// Counts a value that is left out of a record.
    pub fn value_omitted(&self, reason: &str) {
        let label = self.result(reason);
        self.figures.values_omitted.get_or_create(&label).inc();
    }

    fn result(&self, result: &str) -> UnitResult {
        let UnitLabel { source, unit } = self.label.clone();
        let result = result.to_owned();
        UnitResult {
            source,
            unit,
            result,
        }
    }
}

/// All figures. One for the process, shared by reference counting.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Records a source took off its wire.
    pub received: Family<SourceLabel, Count>,
    /// Records of a source that are durable.
    pub committed: Family<SourceLabel, Count>,
    /// Records Kafka has reported delivered.
    pub delivered: Family<TopicLabel, Count>,
    /// Records dropped, by reason.
    pub dropped: Family<SourceReason, Count>,
    /// Dead letters stored.
    pub dead_letters: Family<ReasonLabel, Count>,
    /// Records parked, since their topic takes none.
    pub records_parked: Family<TopicLabel, Count>,
    /// Topics that are parked.
    pub parking_topics: Level,
    /// Parked records that wait.
    pub parking_records: Level,
    /// Disk space of the parking logs.
    pub parking_bytes: Level,
    /// 1 while a record that can't be parked holds the forwarder back.
    pub parking_held: Level,
    /// Of dead letters, beside those stored.
    pub letters: LetterFigures,
    /// Records whose route made a topic name that Kafka cannot have, and that was repaired.
    pub topic_names_repaired: Family<SourceLabel, Count>,
    /// What was found amiss with the log, by case.
    pub recoveries: Family<OutcomeLabel, Count>,
    /// Redeliveries recognised and not stored again.
    pub duplicates: Family<SourceLabel, Count>,
    /// Frames rejected on the line, by reason.
    pub frames_rejected: Family<SourceReason, Count>,
    /// Messages a link device lost before they reached the gateway.
    pub link_gaps: Family<SourceLabel, Count>,
    /// 1 while a source has its port or its session.
    pub source_connected: Family<SourceLabel, Level>,
    /// 1 while a broker answers.
    pub kafka_connected: Level,
    /// Write and sync of one group commit, in seconds.
    pub commit_duration: Histogram,
    /// Commit to delivery report, in seconds.
    pub delivery_duration: Histogram,
    /// Of Modbus sources.
    pub modbus: ModbusFigures,
    /// Of the device registry.
    pub devices: RegistryFigures,
}

/// One source's figures.
#[derive(Clone, Debug)]
pub struct SourceMetrics {
    name: SourceName,
    /// See [`Metrics::received`].
    pub received: Count,
    /// See [`Metrics::committed`].
    pub committed: Count,
    /// See [`Metrics::duplicates`].
    pub duplicates: Count,
    /// See [`Metrics::link_gaps`].
    pub link_gaps: Count,
    /// See [`Metrics::source_connected`].
    pub connected: Level,
    dropped: Family<SourceReason, Count>,
    frames_rejected: Family<SourceReason, Count>,
    modbus: ModbusFigures,
}

impl SourceMetrics {
    /// The handles of one Modbus unit.
    #[must_use]
    pub fn modbus_unit(&self, unit: u8) -> UnitMetrics {
        let source = self.name.to_string();
        let label = UnitLabel { source, unit };
        UnitMetrics {
            skipped: self.modbus.polls_skipped.get_or_create_owned(&label),
            up: self.modbus.unit_up.get_or_create_owned(&label),
            figures: self.modbus.clone(),
            label,
        }
    }

    /// Counts records dropped for `reason`.
    pub fn dropped(&self, reason: &str, records: u64) {
        self.dropped
            .get_or_create(&self.label(reason))
            .inc_by(records);
    }

    /// Counts a rejected frame.
    pub fn frame_rejected(&self, reason: &str) {
        self.frames_rejected
            .get_or_create(&self.label(reason))
            .inc();
    }

    fn label(&self, reason: &str) -> SourceReason {
        SourceReason {
            source: self.name.to_string(),
            reason: reason.to_owned(),
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All figures at zero.
    #[must_use]
    pub fn new() -> Self {
        Self {
            registry: Registry::with_prefix("edge_gateway"),
            received: Family::default(),
            committed: Family::default(),
            delivered: Family::default(),
            dropped: Family::default(),
            dead_letters: Family::default(),
            records_parked: Family::default(),
            parking_topics: Level::default(),
            parking_records: Level::default(),
            parking_bytes: Level::default(),
            parking_held: Level::default(),
            letters: LetterFigures::default(),
            topic_names_repaired: Family::default(),
            recoveries: Family::default(),
            duplicates: Family::default(),
            frames_rejected: Family::default(),
            link_gaps: Family::default(),
            source_connected: Family::default(),
            kafka_connected: Level::default(),
            commit_duration: Histogram::new(durations()),
            delivery_duration: Histogram::new(durations()),
            modbus: ModbusFigures::default(),
            devices: RegistryFigures::default(),
        }
        .registered()
    }

    fn registered(mut self) -> Self {
        let r = &mut self.registry;
        r.register(
            "records_received",
            "Records taken off the wire",
            self.received.clone(),
        );
        r.register(
            "records_committed",
            "Records made durable",
            self.committed.clone(),
        );
        r.register(
            "records_delivered",
            "Records Kafka reported delivered",
            self.delivered.clone(),
        );
        r.register("records_dropped", "Records dropped", self.dropped.clone());
        r.register(
            "dead_letters",
            "Records set aside as dead letters",
            self.dead_letters.clone(),
        );
        r.register(
            "topic_names_repaired",
            "Records whose topic name had characters replaced, or was cut",
            self.topic_names_repaired.clone(),
        );
        r.register(
            "buffer_recoveries",
            "Damage and remains found in the log, by case",
            self.recoveries.clone(),
        );
        r.register(
            "duplicates_suppressed",
            "Redeliveries recognised and not stored again",
            self.duplicates.clone(),
        );
        r.register(
            "frames_rejected",
            "Frames rejected on the line",
            self.frames_rejected.clone(),
        );
        r.register(
            "link_gap_records",
            "Messages a device lost before they reached the gateway",
            self.link_gaps.clone(),
        );
        r.register(
            "source_connected",
            "1 while the source has its port or session",
            self.source_connected.clone(),
        );
        r.register(
            "kafka_connected",
            "1 while a broker answers",
            self.kafka_connected.clone(),
        );
        r.register(
            "commit_duration_seconds",
            "Write and sync of one group commit",
            self.commit_duration.clone(),
        );
        r.register(
            "delivery_duration_seconds",
            "From commit to delivery report",
            self.delivery_duration.clone(),
        );
        self.register_parking();
        let r = &mut self.registry;
        self.modbus.register(r);
        self.letters.register(r);
        self.devices.register(r);
        self
    }

    fn register_parking(&mut self) {
        let r = &mut self.registry;
        r.register(
            "records_parked",
            "Records parked because Kafka takes none for their topic",
            self.records_parked.clone(),
        );
        let levels = [
            (
                "parking_topics",
                "Topics whose records are parked",
                &self.parking_topics,
            ),
            (
                "parking_records",
                "Parked records that wait",
                &self.parking_records,
            ),
            (
                "parking_bytes",
                "Disk space of parked records",
                &self.parking_bytes,
            ),
            (
                "parking_held",
                "1 while a record that cannot be parked holds up delivery",
                &self.parking_held,
            ),
        ];
        for (name, help, level) in levels {
            r.register(name, help, level.clone());
        }
    }

    /// Counts a record that was parked.
    pub fn parked(&self, topic: &str) {
        let topic = topic.to_owned();
        self.records_parked
            .get_or_create(&TopicLabel { topic })
            .inc();
    }

    /// Counts what was found amiss with the log, and the records it cost, and tells the operator.
    /// Whose records they were is not known: they count as of source `unknown`.
    pub fn report(&self, finding: &Finding) {
        let outcome = finding.outcome.label();
        self.recoveries
            .get_or_create(&OutcomeLabel { outcome })
            .inc();
        if finding.records_lost() > 0 {
            let label = SourceReason {
                source: "unknown".to_owned(),
                reason: outcome.to_owned(),
            };
            self.dropped
                .get_or_create(&label)
                .inc_by(finding.records_lost());
        }
        let explanation = finding.outcome.explanation();
        match finding.outcome.severity() {
            Severity::Normal => tracing::info!(outcome, "{explanation} ({finding})"),
            Severity::Notable => tracing::warn!(outcome, "{explanation} ({finding})"),
            Severity::Loss => tracing::error!(outcome, "{explanation} ({finding})"),
        }
    }

    /// Registers the figures that are asked of the log at each scrape, and returns where the log
    /// is to be put once it is open.
    pub fn observe_log(&mut self, bytes_max: u64) -> LogSlot {
        let slot = LogSlot::default();
        let collector = LogCollector {
            slot: slot.clone(),
            bytes_max,
        };
        self.registry.register_collector(Box::new(collector));
        let version = vec![("version", env!("CARGO_PKG_VERSION"))];
        self.registry
            .register("build", "The running program", Info::new(version));
        slot
    }

    /// All figures in the Prometheus (`OpenMetrics`) text format.
    ///
    /// # Errors
    /// Never in practice: writing to a string does not fail.
    pub fn render(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }

    /// The handles of one source.
    #[must_use]
    pub fn source(&self, name: &SourceName) -> SourceMetrics {
        let label = SourceLabel {
            source: name.to_string(),
        };
        SourceMetrics {
            name: name.clone(),
            received: self.received.get_or_create_owned(&label),
            committed: self.committed.get_or_create_owned(&label),
            duplicates: self.duplicates.get_or_create_owned(&label),
            link_gaps: self.link_gaps.get_or_create_owned(&label),
            connected: self.source_connected.get_or_create_owned(&label),
            dropped: self.dropped.clone(),
            frames_rejected: self.frames_rejected.clone(),
            modbus: self.modbus.clone(),
        }
    }
}

/// Where the log is put once it is open; its figures are missing before.
#[derive(Clone, Debug, Default)]
pub struct LogSlot(Arc<OnceLock<CommitLog>>);

impl LogSlot {
    /// Puts the log there. A second one is ignored.
    pub fn set(&self, log: &CommitLog) {
        self.0.get_or_init(|| log.clone());
    }
}

#[derive(Debug)]
struct LogCollector {
    slot: LogSlot,
    bytes_max: u64,
}

impl Collector for LogCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(log) = self.slot.0.get() else {
            return Ok(());
        };
        let stats = log.stats();
        let levels = [
            (
                "buffer_records",
                "Committed and not yet delivered records",
                stats.undelivered,
            ),
            ("buffer_bytes", "Disk space the log uses", stats.disk_bytes),
            (
                "buffer_bytes_max",
                "Disk space the log may use",
                self.bytes_max,
            ),
        ];
        for (name, help, value) in levels {
            let value = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            let metric = encoder.encode_descriptor(name, help, None, value.metric_type())?;
            value.encode(metric)?;
        }
        let age = ConstGauge::new(oldest_age_seconds(log));
        let help = "Age of the oldest undelivered record";
        let metric = encoder.encode_descriptor(
            "buffer_oldest_age_seconds",
            help,
            None,
            age.metric_type(),
        )?;
        age.encode(metric)?;
        let written = ConstCounter::new(stats.written_bytes);
        let help = "Bytes written to the log's files";
        let metric =
            encoder.encode_descriptor("disk_written_bytes", help, None, written.metric_type())?;
        written.encode(metric)
    }
}

/// Seconds since the oldest undelivered record was received: by the monotonic clock within a boot,
/// else by the wall clock if that can be right; 0 if there is none.
fn oldest_age_seconds(log: &CommitLog) -> f64 {
    let mut cursor = log.cursor(log.committed());
    let Ok(Some(Item::Batch(batch))) = cursor.next() else {
        return 0.0;
    };
    batch.records().next().map_or(0.0, |record| {
        let (now, received) = (clock::now(), record.received);
        let age_ms = if record.boot_id == clock::boot_id() {
            now.mono_ms.saturating_sub(received.mono_ms)
        } else if clock::is_plausible(received.wall_ms) {
            u64::try_from(now.wall_ms.saturating_sub(received.wall_ms)).unwrap_or(0)
        } else {
            0
        };
        age_ms as f64 / 1000.0
    })
}

/// 0.1 ms to 52 s, doubling.
fn durations() -> impl Iterator<Item = f64> {
    prometheus_client::metrics::histogram::exponential_buckets(0.0001, 2.0, 20)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commit_log::Outcome;
    use crate::record::Offset;

    #[test]
    fn a_finding_is_counted_by_its_case_with_the_records_it_cost() {
        let metrics = Metrics::new();
        metrics.report(&Finding {
            outcome: Outcome::CorruptBatch,
            path: "/log/00000000000000000000.seg".into(),
            position: Some(4096),
            lost: Some((Offset::new(7), Offset::new(9))),
        });
        let text = metrics.render().expect("text");
        let counted = "edge_gateway_buffer_recoveries_total{outcome=\"corrupt_batch\"} 1";
        assert!(text.contains(counted), "{text}");
        let lost =
            "edge_gateway_records_dropped_total{source=\"unknown\",reason=\"corrupt_batch\"} 3";
        assert!(text.contains(lost), "{text}");
    }
}
