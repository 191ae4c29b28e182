//! What one source has received since the last collection, summed up by subject.

use std::collections::HashMap;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex};

use super::figures::Count;
use super::lock;
use crate::record::{NewRecord, Origin, PayloadKind, SourceName};

/// Subjects a table holds between two collections. Chosen by eye: more than a source of one board
/// hears in five seconds.
const SUBJECTS_MAX: usize = 8192;
/// Bytes of all subjects of a table: an MQTT topic may have 64 KiB.
const SUBJECT_BYTES_MAX: usize = 1 << 20;

/// A source's end of the registry. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Watch(Arc<Table>);

impl Watch {
    pub(super) fn new(table: Arc<Table>) -> Self {
        Self(table)
    }

    /// Takes note of a record that the log has taken. One look-up; allocates only for a subject
    /// that was not seen since the last collection. Never waits for the disk.
    pub fn note(&self, record: &NewRecord<'_>) {
        match record.kind {
            PayloadKind::Opaque | PayloadKind::SenmlCbor => self.0.note(record),
            // No message of a device.
            PayloadKind::Gap | PayloadKind::Note => {}
        }
    }
}

/// One subject since the last collection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) first_ms: i64,
    pub(super) last_ms: i64,
    pub(super) records: u64,
    pub(super) bytes: u64,
    /// Of the last record.
    pub(super) origin: Origin,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) source: SourceName,
    subjects: Mutex<Subjects>,
    wake: SyncSender<()>,
    dropped: Count,
}

#[derive(Debug, Default)]
struct Subjects {
    seen: HashMap<Box<str>, Seen>,
    bytes: usize,
}

impl Table {
    pub(super) fn new(source: SourceName, wake: SyncSender<()>, dropped: Count) -> Self {
        Self {
            source,
            subjects: Mutex::default(),
            wake,
            dropped,
        }
    }

    fn note(&self, record: &NewRecord<'_>) {
        let mut subjects = lock(&self.subjects);
        let at_ms = record.received.wall_ms;
        if let Some(seen) = subjects.seen.get_mut(record.subject) {
            seen.last_ms = at_ms;
            seen.records += 1;
            seen.bytes += record.payload.len() as u64;
            seen.origin = record.origin;
            return;
        }
        let bytes = subjects.bytes + record.subject.len();
        if subjects.seen.len() >= SUBJECTS_MAX || bytes > SUBJECT_BYTES_MAX {
            self.dropped.inc();
            return;
        }
        subjects.bytes = bytes;
        let seen = Seen {
            first_ms: at_ms,
            last_ms: at_ms,
            records: 1,
            bytes: record.payload.len() as u64,
            origin: record.origin,
        };
        subjects.seen.insert(record.subject.into(), seen);
        let is_first = subjects.seen.len() == 1;
        drop(subjects);
        if is_first {
            // Full means that the collector is awake already, and it looks at every table.
            let _ = self.wake.try_send(());
        }
    }

    /// Empties the table.
    pub(super) fn take(&self) -> HashMap<Box<str>, Seen> {
        std::mem::take(&mut *lock(&self.subjects)).seen
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;
    use crate::record::Stamp;

    fn note(watch: &Watch, source: &SourceName, subject: &str) {
        watch.note(&NewRecord {
            source,
            subject,
            kind: PayloadKind::Opaque,
            origin: Origin::Line,
            received: Stamp::default(),
            payload: b"12",
        });
    }

    #[test]
    fn a_table_is_bounded_in_subjects_and_bytes_and_counts_what_does_not_fit() {
        let (wake, woken) = sync_channel(1);
        let (source, dropped) = (SourceName::new("city").expect("valid"), Count::default());
        let table = Arc::new(Table::new(source.clone(), wake, dropped.clone()));
        let watch = Watch::new(Arc::clone(&table));
        for number in 0..SUBJECTS_MAX + 5 {
            note(&watch, &source, &number.to_string());
        }
        note(&watch, &source, "0");
        assert_eq!(dropped.get(), 5, "known subjects go on");
        assert_eq!(woken.try_iter().count(), 1, "woken once");
        let taken = table.take();
        assert_eq!(taken.len(), SUBJECTS_MAX);
        assert_eq!((taken["0"].records, taken["0"].bytes), (2, 4));

        for number in 0..20 {
            note(&watch, &source, &format!("{number}{}", "x".repeat(60_000)));
        }
        assert_eq!(dropped.get(), 8);
        assert_eq!(woken.try_iter().count(), 1, "woken again once it was empty");
    }
}
