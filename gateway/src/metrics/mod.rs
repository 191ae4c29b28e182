//! Every figure the gateway exports, by the names of DESIGN §9.
//!
//! Sources and the forwarder hold resolved handles ([`SourceMetrics`], a topic's counter), so that
//! counting a record is one atomic addition and no map look-up.

mod labels;
mod log;
mod modbus;

use std::sync::atomic::{AtomicI64, AtomicU64};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry};

use crate::commit_log::{Finding, Severity};
use crate::dead_letters::LetterFigures;
use crate::record::SourceName;
use crate::registry::RegistryFigures;
pub use labels::{
    OutcomeLabel, ReasonLabel, SourceLabel, SourceReason, TopicLabel, UnitCode, UnitLabel,
    UnitResult,
};
use log::LogCollector;
pub use log::LogSlot;
pub use modbus::{ModbusFigures, UnitMetrics};

type Count = Counter<u64, AtomicU64>;
type Level = Gauge<i64, AtomicI64>;

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
    /// Reception to delivery report, in seconds.
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
        UnitMetrics::new(&self.modbus, UnitLabel { source, unit })
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
        self.register_records();
        self.register_sources();
        self.register_delivery();
        self.register_parking();
        let r = &mut self.registry;
        self.modbus.register(r);
        self.letters.register(r);
        self.devices.register(r);
        self
    }

    fn register(&mut self, name: &str, help: &str, figure: impl Metric) {
        self.registry.register(name, help, figure);
    }

    fn register_records(&mut self) {
        let (received, committed) = (self.received.clone(), self.committed.clone());
        let (delivered, dropped) = (self.delivered.clone(), self.dropped.clone());
        self.register("records_received", "Records taken off the wire", received);
        self.register("records_committed", "Records made durable", committed);
        let help = "Records Kafka reported delivered";
        self.register("records_delivered", help, delivered);
        self.register("records_dropped", "Records dropped", dropped);
        let help = "Records set aside as dead letters";
        self.register("dead_letters", help, self.dead_letters.clone());
        let help = "Records whose topic name had characters replaced, or was cut";
        let repaired = self.topic_names_repaired.clone();
        self.register("topic_names_repaired", help, repaired);
        let help = "Damage and remains found in the log, by case";
        self.register("buffer_recoveries", help, self.recoveries.clone());
    }

    fn register_sources(&mut self) {
        let help = "Redeliveries recognised and not stored again";
        self.register("duplicates_suppressed", help, self.duplicates.clone());
        let help = "Frames rejected on the line";
        self.register("frames_rejected", help, self.frames_rejected.clone());
        let help = "Messages a device lost before they reached the gateway";
        self.register("link_gap_records", help, self.link_gaps.clone());
        let help = "1 while the source has its port or session";
        self.register("source_connected", help, self.source_connected.clone());
    }

    fn register_delivery(&mut self) {
        let help = "1 while a broker answers";
        self.register("kafka_connected", help, self.kafka_connected.clone());
        let help = "Write and sync of one group commit";
        let duration = self.commit_duration.clone();
        self.register("commit_duration_seconds", help, duration);
        let help = "From reception to the delivery report, to within 20 ms";
        let duration = self.delivery_duration.clone();
        self.register("delivery_duration_seconds", help, duration);
    }

    fn register_parking(&mut self) {
        let help = "Records parked because Kafka takes none for their topic";
        self.register("records_parked", help, self.records_parked.clone());
        let help = "Topics whose records are parked";
        self.register("parking_topics", help, self.parking_topics.clone());
        let help = "Parked records that wait";
        self.register("parking_records", help, self.parking_records.clone());
        let help = "Disk space of parked records";
        self.register("parking_bytes", help, self.parking_bytes.clone());
        let help = "1 while a record that cannot be parked holds up delivery";
        self.register("parking_held", help, self.parking_held.clone());
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
