//! What librdkafka tells us: delivery reports, errors, statistics, log lines.
//!
//! All of it arrives on the thread that calls [`Producer::serve`](super::Producer::serve), one
//! event a poll; so the locks here are never waited for, they only satisfy the compiler.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{DeliveryResult, ProducerContext};
use rdkafka::{ClientContext, Statistics};

use super::error::{Class, class};
use crate::metrics::Metrics;

/// What became of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// The number it was sent with.
    pub opaque: usize,
    /// Why it was not delivered; `None` if it was.
    pub error: Option<RDKafkaErrorCode>,
}

/// The callbacks of one producer, and what they have gathered.
pub(super) struct Context {
    metrics: Arc<Metrics>,
    reports: Mutex<Vec<Report>>,
    /// Events so far: how a poll that found nothing is told from one that did.
    events: AtomicU64,
    fatal: AtomicBool,
    /// That Kafka refuses us is said once until it answers.
    refusal_told: AtomicBool,
}

impl Context {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            metrics,
            reports: Mutex::default(),
            events: AtomicU64::new(0),
            fatal: AtomicBool::new(false),
            refusal_told: AtomicBool::new(false),
        }
    }

    /// Events seen so far.
    pub(super) fn events(&self) -> u64 {
        self.events.load(Ordering::Relaxed)
    }

    /// The producer has stopped for good.
    pub(super) fn is_fatal(&self) -> bool {
        self.fatal.load(Ordering::Relaxed)
    }

    /// Moves the reports gathered so far into `reports`, in the order of their arrival.
    pub(super) fn take_reports(&self, reports: &mut Vec<Report>) {
        reports.append(&mut self.lock());
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Report>> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count_event(&self) {
        self.events.fetch_add(1, Ordering::Relaxed);
    }

    fn set_connected(&self, connected: bool, reason: &str) {
        let level = i64::from(connected);
        if self.metrics.kafka_connected.set(level) == level {
            return;
        }
        if connected {
            self.refusal_told.store(false, Ordering::Relaxed);
            tracing::info!("Kafka answers");
        } else {
            tracing::warn!(reason, "no Kafka broker answers; records wait on disk");
        }
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.count_event();
        match level {
            // What this concerns is told by `error` or a report, once a change rather than once
            // a try.
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Error
            | RDKafkaLogLevel::Warning => {
                tracing::debug!(target: "librdkafka", facility, "{message}");
            }
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => {
                tracing::trace!(target: "librdkafka", facility, "{message}");
            }
        }
    }

    fn stats(&self, statistics: Statistics) {
        let connected = statistics.brokers.values().any(|b| b.state == "UP");
        self.set_connected(connected, "no connection is up");
    }

    fn stats_raw(&self, statistics: &[u8]) {
        self.count_event();
        match serde_json::from_slice(statistics) {
            Ok(statistics) => self.stats(statistics),
            Err(error) => tracing::debug!(%error, "statistics of librdkafka cannot be read"),
        }
    }

    /// Called twice an event by the poll of rdkafka 0.39.
    fn error(&self, error: KafkaError, reason: &str) {
        self.count_event();
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::AllBrokersDown) => self.set_connected(false, reason),
            Some(
                RDKafkaErrorCode::Authentication
                | RDKafkaErrorCode::SSL
                | RDKafkaErrorCode::ClusterAuthorizationFailed
                | RDKafkaErrorCode::UnsupportedFeature,
            ) => {
                if !self.refusal_told.swap(true, Ordering::Relaxed) {
                    tracing::warn!(reason, "Kafka refuses us");
                }
            }
            // A fatal error comes under the code of its cause.
            Some(code) if class(code) == Class::Fatal => {
                self.fatal.store(true, Ordering::Relaxed);
                tracing::debug!(reason, "the Kafka producer has stopped");
            }
            Some(_) | None => tracing::debug!(%error, reason, "librdkafka reports"),
        }
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, opaque: usize) {
        self.count_event();
        let error = match result {
            Ok(_) => None,
            Err((error, _)) => Some(
                error
                    .rdkafka_error_code()
                    .unwrap_or(RDKafkaErrorCode::Unknown),
            ),
        };
        if error.is_none() {
            self.set_connected(true, "");
        }
        self.lock().push(Report { opaque, error });
    }
}
