//! Labels of the figures.

use prometheus_client::encoding::EncodeLabelSet;

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
