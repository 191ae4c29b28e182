//! Reading the log for the forwarder: what was found amiss, reads that fail, and waiting, the same
//! for both ways of delivery.
//!
//! What it has handed out is on its way to Kafka: `drop_oldest` and `age_max` do not count it as
//! lost.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::backoff::FailedReads;
use super::encode::Outgoing;
use super::{Flow, ForwarderError};
use crate::commit_log::{CommitLog, Condition, Cursor, Item};
use crate::metrics::Metrics;
use crate::record::Offset;

/// What reading brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    Some,
    Nothing,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Reader {
    log: CommitLog,
    cursor: Cursor,
    metrics: Arc<Metrics>,
    failed_reads: FailedReads,
}

impl Reader {
    /// Begins at the committed offset.
    pub(super) fn new(log: CommitLog, metrics: Arc<Metrics>) -> Self {
        Self {
            cursor: log.delivery_cursor(log.committed()),
            log,
            metrics,
            failed_reads: FailedReads::default(),
        }
    }

    /// Goes on at `offset`, forwards or backwards.
    pub(super) fn seek(&mut self, offset: Offset) {
        self.cursor.seek(offset);
    }

    /// Hands what comes next to `forward`, until it says [`Flow::Break`]; the caller seeks then.
    ///
    /// # Errors
    /// [`ForwarderError::Read`] if reading has failed too often in a row, and those of `forward`.
    pub(super) fn forward_next(
        &mut self,
        mut forward: impl FnMut(&Outgoing<'_>) -> Result<Flow, ForwarderError>,
    ) -> Result<Read, ForwarderError> {
        while let Some(finding) = self.cursor.take_finding() {
            self.metrics.report(&finding);
        }
        let item = match self.cursor.next() {
            Ok(item) => item,
            Err(error) => {
                self.failed_reads.another(error)?;
                return Ok(Read::Some);
            }
        };
        self.failed_reads.end();
        match item {
            None => return Ok(Read::Nothing),
            Some(Item::Hole(hole)) => {
                for marker in Outgoing::markers(&hole) {
                    if forward(&marker)? == Flow::Break {
                        break;
                    }
                }
            }
            Some(Item::Batch(batch)) => {
                for record in batch.records() {
                    if forward(&Outgoing::Record(&record))? == Flow::Break {
                        break;
                    }
                }
            }
        }
        Ok(Read::Some)
    }

    /// Waits for records behind the last, at most `timeout`.
    pub(super) fn wait(&self, timeout: Duration) {
        let position = self.cursor.position();
        let progress = self.log.wait(position, timeout);
        match progress.condition {
            Condition::Running | Condition::Full => {}
            // The log no longer makes us wait.
            Condition::Poisoned | Condition::Closed => {
                if progress.synced <= position {
                    thread::sleep(timeout);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::clock::{self, SystemClock};
    use crate::commit_log::fs::RealFs;
    use crate::commit_log::{CommitReport, Compression, Observer, Options, Progress};
    use crate::record::{NewRecord, Origin, PayloadKind, Settled, SourceName};

    const PATIENCE: Duration = Duration::from_secs(60);

    #[derive(Debug, Clone, Default)]
    struct Dropped(Arc<AtomicU64>);

    impl Observer for Dropped {
        fn progress(&self, _progress: Progress) {}
        fn committed(&self, _report: &CommitReport) {}
        fn dropped(&self, _source: &str, _reason: &'static str, records: u64) {
            self.0.fetch_add(records, Ordering::SeqCst);
        }
    }

    fn append(log: &CommitLog, number: u64) {
        let record = NewRecord {
            source: &SourceName::new("press").expect("valid"),
            subject: "press/1",
            kind: PayloadKind::Opaque,
            origin: Origin::Mqtt {
                qos: 1,
                packet_id: 1,
                dup: false,
                settled: Settled::default(),
            },
            received: clock::now(),
            payload: &[b'x'; 10_000],
        };
        let _: Offset = log.append(&record).expect("a log that drops takes records");
        let progress = log.wait(Offset::new(number), PATIENCE);
        assert!(progress.synced > Offset::new(number));
    }

    #[test]
    fn what_it_has_handed_out_is_not_counted_as_dropped() {
        let dir = tempfile::tempdir().expect("a directory");
        let dropped = Dropped::default();
        let options = Options {
            dir: dir.path().join("log"),
            bytes_max: 1 << 20,
            segment_bytes: 256 * 1024,
            commit_interval: Duration::from_millis(1),
            drop_oldest: true,
            reserve: false,
            age_max: None,
            compression: Compression::None,
            clock: Arc::new(SystemClock::default()),
            owner: "test".to_owned(),
        };
        let opened = CommitLog::open(Arc::new(RealFs), options, Box::new(dropped.clone()), ());
        let log = opened.expect("the log opens").log;
        let mut reader = Reader::new(log.clone(), Arc::new(Metrics::new()));
        let mut handed_out = 0;
        for number in 0..300 {
            append(&log, number);
            let read = reader.forward_next(|outgoing| {
                assert!(matches!(outgoing, Outgoing::Record(_)));
                handed_out += 1;
                Ok(Flow::Continue)
            });
            assert_eq!(read.expect("readable"), Read::Some);
        }
        assert_eq!(handed_out, 300);
        let disk_bytes = log.stats().disk_bytes;
        assert!(disk_bytes < 300 * 10_000 / 2, "nothing was dropped");
        assert_eq!(dropped.0.load(Ordering::SeqCst), 0);
    }
}
