//! What must hold of any directory that a log is opened on.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use edge_gateway::clock::SystemClock;
use edge_gateway::commit_log::{
    CommitLog, CommitReport, Compression, Item, Observer, OpenError, Options, Progress,
    SEGMENT_BYTES_MIN,
};
use edge_gateway::record::{NewRecord, Offset, Origin, PayloadKind, SourceName, Stamp};

use crate::memory::MemoryFs;

/// Where the log is.
pub const DIR: &str = "/log";
/// Longest wait for the writer thread; reached only when something is broken.
const PATIENCE: Duration = Duration::from_secs(20);
/// Only damage says that a log has come so far; what is beyond need only be read.
const WRITABLE_BELOW: Offset = Offset::new(1 << 61);
const PAYLOAD: &[u8] = b"appended after recovery";

/// Hears nothing.
#[derive(Debug)]
pub(crate) struct Deaf;

impl Observer for Deaf {
    fn progress(&self, _progress: Progress) {}

    fn committed(&self, _report: &CommitReport) {}

    fn dropped(&self, _source: &str, _reason: &'static str, _records: u64) {}
}

pub(crate) fn options() -> Options {
    Options {
        dir: DIR.into(),
        bytes_max: 64 * SEGMENT_BYTES_MIN,
        segment_bytes: SEGMENT_BYTES_MIN,
        commit_interval: Duration::ZERO,
        drop_oldest: false,
        reserve: false,
        age_max: None,
        compression: Compression::None,
        clock: Arc::new(SystemClock::default()),
        owner: "fuzz".to_owned(),
    }
}

/// What can be read of a log.
#[derive(Debug, PartialEq, Eq)]
struct Content {
    /// What lies before is delivered.
    from: Offset,
    end: Offset,
    /// Offset and payload.
    records: Vec<(u64, Vec<u8>)>,
    /// First and last missing offset.
    holes: Vec<(Offset, Offset)>,
}

/// Opens the log, reads it, opens it again, appends a record, and opens it once more.
///
/// A log in another format may be refused, but only before anything was changed: at the first opening,
/// or at the first reading of a segment that opening doesn't scan. What was opened, and read, and
/// appended to, is never refused for its own remains.
///
/// # Panics
/// If a log can't be opened on a disk without errors (G8), reading skips offsets without a hole
/// (G7) or does not end (G6), a second opening finds anything else than the first one (I5), or a
/// third one anything else than that and the record that was synced (I1). Only the committed offset may
/// have grown: where the slots and the newest headers are lost, older ones may know more of it, once the
/// newest segment was found to hold nothing.
pub fn holds(fs: &MemoryFs) {
    let before = fs.files();
    let Some(log) = open(fs) else {
        assert!(fs.files() == before, "refused, and changed all the same");
        return;
    };
    let Some(first) = read(&log) else { return };
    log.close();
    let log = open(fs).expect("a log that was opened can be opened again");
    let second = read(&log).expect("and read again");
    assert!(second.from >= first.from, "what is delivered stays so");
    assert_eq!(second, first.behind(second.from), "I5");
    if second.end > WRITABLE_BELOW {
        return;
    }
    let offset = append(&log);
    assert_eq!(offset, second.end, "offsets are dense");
    log.close();
    let log = open(fs).expect("a log that was appended to can be opened again");
    let third = read(&log).expect("and read again");
    let mut expected = second;
    expected.end = offset.plus(1);
    expected.records.push((offset.get(), PAYLOAD.to_vec()));
    assert_eq!(third, expected, "I1");
    log.close();
}

impl Content {
    /// Two holes side by side are one: where it is divided depends on what is found first.
    fn note_hole(&mut self, first: Offset, last: Offset) {
        match self.holes.last_mut() {
            Some(before) if before.1.plus(1) == first => before.1 = last,
            Some(_) | None => self.holes.push((first, last)),
        }
    }

    /// What of it lies at `from` or behind.
    fn behind(mut self, from: Offset) -> Self {
        self.from = from;
        self.records.retain(|(offset, _)| *offset >= from.get());
        self.holes.retain(|(_, last)| *last >= from);
        if let Some((first, _)) = self.holes.first_mut() {
            *first = from.max(*first);
        }
        self
    }
}

fn open(fs: &MemoryFs) -> Option<CommitLog> {
    match CommitLog::open(Arc::new(fs.clone()), options(), Box::new(Deaf), ()) {
        Ok(opened) => Some(opened.log),
        // Refused by design.
        Err(OpenError::NewerFormat { .. } | OpenError::OlderFormat { .. }) => None,
        Err(
            error @ (OpenError::InUse { .. }
            | OpenError::Size { .. }
            | OpenError::Storage(_)
            | OpenError::Thread(_)),
        ) => panic!("G8: {error:?}"),
    }
}

/// Appends a record and waits until it is synced.
pub(crate) fn append_payload(log: &CommitLog, payload: &[u8]) -> Offset {
    let source = SourceName::new("fuzz").expect("a valid name");
    let record = NewRecord {
        source: &source,
        subject: "fuzz/1",
        kind: PayloadKind::Opaque,
        origin: Origin::Line,
        received: Stamp {
            wall_ms: 1,
            mono_ms: 1,
        },
        payload,
    };
    let offset = log.append(&record).expect("an idle log takes a record");
    let progress = log.wait(offset, PATIENCE);
    assert!(
        progress.synced > offset,
        "{progress:?}: {:?}",
        log.failure()
    );
    offset
}

fn append(log: &CommitLog) -> Offset {
    append_payload(log, PAYLOAD)
}

/// `None` if it holds a batch that only another version of the gateway reads, in a segment that
/// opening doesn't scan.
fn read(log: &CommitLog) -> Option<Content> {
    let (from, end) = (log.committed(), log.progress().synced);
    assert!(from <= end, "committed {from} is beyond synced {end}");
    let mut content = Content {
        from,
        end,
        records: Vec::new(),
        holes: Vec::new(),
    };
    let mut cursor = log.cursor(from);
    let mut position = from;
    loop {
        let item = match cursor.next() {
            Ok(Some(item)) => item,
            Ok(None) => break,
            // A batch of another format, refused by design.
            Err(error) if error.source.kind() == ErrorKind::Unsupported => return None,
            Err(error) => panic!("this disk has no errors: {error:?}"),
        };
        let mut hole_end = None;
        match item {
            Item::Batch(batch) => {
                for record in batch.records() {
                    let previous = content.records.last().map(|(offset, _)| *offset);
                    assert!(previous < Some(record.offset.get()), "order");
                    content
                        .records
                        .push((record.offset.get(), record.payload.to_vec()));
                }
            }
            Item::Hole(hole) => {
                assert_eq!(hole.first, position, "a hole begins where reading was");
                hole_end = Some(hole.last.plus(1));
                content.note_hole(hole.first, hole.last);
            }
        }
        assert!(cursor.position() > position, "G6: reading moves on");
        position = cursor.position();
        assert!(
            hole_end.is_none_or(|end| end == position),
            "a hole ends there"
        );
        let last = content.records.last().map(|(offset, _)| *offset);
        assert!(last.is_none_or(|last| last < position.get()), "G7: order");
    }
    assert_eq!(
        position, end,
        "G7: all that is synced was read or reported missing"
    );
    Some(content)
}

/// The log's directory.
#[must_use]
pub fn dir() -> &'static Path {
    Path::new(DIR)
}
