//! What Modbus sources count, by unit.

use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::labels::{UnitCode, UnitLabel, UnitResult};
use super::{Count, Level};

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
    pub(super) fn register(&self, registry: &mut Registry) {
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
    pub(super) fn new(figures: &ModbusFigures, label: UnitLabel) -> Self {
        Self {
            skipped: figures.polls_skipped.get_or_create_owned(&label),
            up: figures.unit_up.get_or_create_owned(&label),
            figures: figures.clone(),
            label,
        }
    }

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
