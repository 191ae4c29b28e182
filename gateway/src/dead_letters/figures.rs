//! What is counted of dead letters beside `dead_letters_total`.

use std::sync::atomic::{AtomicI64, AtomicU64};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::gone::Count;
use crate::metrics::{OutcomeLabel, ReasonLabel};

/// Handles; clones share them.
#[derive(Clone, Debug, Default)]
pub struct LetterFigures {
    /// Letters on disk that are neither deleted nor sent again.
    pub kept: Gauge<i64, AtomicI64>,
    /// Bytes of them.
    pub kept_bytes: Gauge<i64, AtomicI64>,
    /// Letters that were removed, by outcome: `deleted`, `retried`.
    pub removed: Family<OutcomeLabel, Counter<u64, AtomicU64>>,
    /// Copies to a Kafka topic, by outcome: `delivered`, `failed`.
    pub copies: Family<OutcomeLabel, Counter<u64, AtomicU64>>,
    /// What went wrong with the control socket, by reason: `listen`, `accept`, `request`.
    pub control_errors: Family<ReasonLabel, Counter<u64, AtomicU64>>,
}

impl LetterFigures {
    /// Puts them under their names.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("dead_letters_kept", "Dead letters kept", self.kept.clone());
        registry.register(
            "dead_letters_kept_bytes",
            "Bytes of the dead letters kept",
            self.kept_bytes.clone(),
        );
        registry.register(
            "dead_letters_removed",
            "Dead letters removed by a command: deleted, retried",
            self.removed.clone(),
        );
        registry.register(
            "dead_letter_copies",
            "Copies of dead letters to Kafka: delivered, failed",
            self.copies.clone(),
        );
        registry.register(
            "control_errors",
            "Failures of the control socket",
            self.control_errors.clone(),
        );
    }

    pub(super) fn show(&self, count: Count) {
        let level = |number| i64::try_from(number).unwrap_or(i64::MAX);
        self.kept.set(level(count.letters));
        self.kept_bytes.set(level(count.bytes));
    }

    /// Counts what went wrong with the control socket.
    pub(super) fn control_error(&self, reason: &str) {
        let reason = reason.to_owned();
        self.control_errors
            .get_or_create(&ReasonLabel { reason })
            .inc();
    }
}
