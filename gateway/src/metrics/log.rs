//! The figures that are asked of the log at each scrape.

use std::sync::{Arc, OnceLock};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::clock;
use crate::commit_log::{CommitLog, Item};

/// Where the log is put once it is open; its figures are missing before.
#[derive(Clone, Debug, Default)]
pub struct LogSlot(Arc<OnceLock<CommitLog>>);

impl LogSlot {
    /// Puts the log there. A second one is ignored.
    pub fn set(&self, log: &CommitLog) {
        self.0.get_or_init(|| log.clone());
    }
}

/// Asks the log for its figures at each scrape.
#[derive(Debug)]
pub(super) struct LogCollector {
    pub(super) slot: LogSlot,
    pub(super) bytes_max: u64,
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
