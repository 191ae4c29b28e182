//! Reading the log for the forwarder: what was found amiss, reads that fail, and waiting, the same
//! for both ways of delivery.
//!
//! What it has handed out is on its way to Kafka: `drop_oldest` and `age_max` do not count it as
//! lost.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::backoff::FailedReads;
use super::encode::Outgoing;
use super::rounds::{Hold, Rounds};
use super::{Flow, ForwarderError};
use crate::commit_log::{CommitLog, Condition, Cursor, Item};
use crate::metrics::Metrics;
use crate::record::Offset;

/// Longest rest before a round at a time: its caller may be asked to end.
const REST_MAX: Duration = Duration::from_millis(50);

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
    rounds: Rounds,
}

impl Reader {
    /// Begins at the committed offset.
    pub(super) fn new(log: CommitLog, metrics: Arc<Metrics>) -> Self {
        Self {
            rounds: Rounds::new(Duration::ZERO),
            cursor: log.delivery_cursor(log.committed()),
            log,
            metrics,
            failed_reads: FailedReads::default(),
        }
    }

    /// Reads in rounds ([`super::rounds`]).
    pub(super) fn in_rounds(self, linger: Duration) -> Self {
        Self {
            rounds: Rounds::new(linger),
            ..self
        }
    }

    /// From here on no round waits.
    pub(super) fn hurry(&mut self) {
        self.rounds.hurry();
    }

    /// Goes on at `offset`, forwards or backwards.
    pub(super) fn seek(&mut self, offset: Offset) {
        self.cursor.seek(offset);
        self.rounds.begin_anew();
    }

    /// Hands what comes next to `forward`, until it says [`Flow::Break`]; the caller seeks then. Nothing,
    /// if the next round is not to begin yet.
    ///
    /// # Errors
    /// [`ForwarderError::Read`] if reading has failed too often in a row, and those of `forward`.
    pub(super) fn forward_next(
        &mut self,
        mut forward: impl FnMut(&Outgoing<'_>) -> Result<Flow, ForwarderError>,
    ) -> Result<Read, ForwarderError> {
        if self.rounds.hold(Instant::now) != Hold::No {
            return Ok(Read::Nothing);
        }
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
        if item.is_some() {
            self.rounds.goes_on(Instant::now);
        }
        match item {
            None => {
                self.rounds.ends();
                return Ok(Read::Nothing);
            }
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

    /// Waits for records behind the last, and for the next round, at most `timeout`.
    pub(super) fn wait(&mut self, timeout: Duration) {
        match self.rounds.hold(Instant::now) {
            Hold::No => {
                self.wait_behind(self.cursor.position(), timeout);
            }
            // Not at the log, which would wake us for each group commit.
            Hold::Rest(left) => thread::sleep(left.min(timeout).min(REST_MAX)),
            Hold::UntilCommit(left) => {
                let synced = self.log.progress().synced;
                if self.wait_behind(synced, left.min(timeout)) {
                    self.rounds.committed();
                }
            }
        }
    }

    /// Waits until more than `offset` is synced, at most `timeout`. True if it is.
    fn wait_behind(&self, offset: Offset, timeout: Duration) -> bool {
        let progress = self.log.wait(offset, timeout);
        let is_synced = progress.synced > offset;
        match progress.condition {
            Condition::Running | Condition::Full => {}
            // The log no longer makes us wait.
            Condition::Poisoned | Condition::Closed => {
                if !is_synced {
                    thread::sleep(timeout);
                }
            }
        }
        is_synced
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

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
        append_bytes(log, number, &[b'x'; 10_000]);
    }

    fn append_bytes(log: &CommitLog, number: u64, payload: &[u8]) {
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
            payload,
        };
        let _: Offset = log.append(&record).expect("a log that drops takes records");
        let progress = log.wait(Offset::new(number), PATIENCE);
        assert!(progress.synced > Offset::new(number));
    }

    fn open(dir: &Path, dropped: &Dropped) -> CommitLog {
        let options = Options {
            dir: dir.join("log"),
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
        opened.expect("the log opens").log
    }

    /// How many records it hands out until it has no more.
    fn read_all(reader: &mut Reader) -> usize {
        let mut handed_out = 0;
        let mut count = |_: &Outgoing<'_>| {
            handed_out += 1;
            Ok(Flow::Continue)
        };
        while reader.forward_next(&mut count).expect("readable") == Read::Some {}
        handed_out
    }

    #[test]
    fn within_linger_records_wait_for_the_next_round() {
        let dir = tempfile::tempdir().expect("a directory");
        let log = open(dir.path(), &Dropped::default());
        let reader = Reader::new(log.clone(), Arc::new(Metrics::new()));
        let mut reader = reader.in_rounds(Duration::from_secs(3600));
        append_bytes(&log, 0, b"first");
        assert_eq!(read_all(&mut reader), 1, "it goes at once");
        append_bytes(&log, 1, b"second");
        assert_eq!(read_all(&mut reader), 0);
        reader.wait(Duration::ZERO);
        assert_eq!(read_all(&mut reader), 0, "an hour is not over");
        reader.seek(Offset::ZERO);
        assert_eq!(read_all(&mut reader), 2, "what is sent again does not wait");
        append_bytes(&log, 2, b"third");
        reader.hurry();
        assert_eq!(read_all(&mut reader), 1, "the gateway is to end");
    }

    #[test]
    fn a_round_begins_with_a_group_commit() {
        let dir = tempfile::tempdir().expect("a directory");
        let log = open(dir.path(), &Dropped::default());
        let reader = Reader::new(log.clone(), Arc::new(Metrics::new()));
        // Half of it has passed soon, the whole of it has not.
        let mut reader = reader.in_rounds(PATIENCE);
        append_bytes(&log, 0, b"first");
        assert_eq!(read_all(&mut reader), 1);
        append_bytes(&log, 1, b"second");
        reader.rounds.rested();
        assert_eq!(read_all(&mut reader), 0);
        let stop = Arc::new(AtomicBool::new(false));
        let (more, over) = (log.clone(), Arc::clone(&stop));
        let appending = thread::spawn(move || {
            let numbers = (2..).take_while(|_| !over.load(Ordering::SeqCst));
            numbers.for_each(|number| append_bytes(&more, number, b"more"));
        });
        let give_up = Instant::now() + PATIENCE / 4;
        let mut read = 0;
        while read == 0 && Instant::now() < give_up {
            reader.wait(PATIENCE);
            read = read_all(&mut reader);
        }
        stop.store(true, Ordering::SeqCst);
        appending.join().expect("the thread appends");
        assert!(read >= 2, "{read} records");
    }

    #[test]
    fn what_it_has_handed_out_is_not_counted_as_dropped() {
        let dir = tempfile::tempdir().expect("a directory");
        let dropped = Dropped::default();
        let log = open(dir.path(), &dropped);
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
