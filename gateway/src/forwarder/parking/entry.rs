//! What a parking log keeps of a record: all that the main log knew, so that it goes out later as it
//! would have then, with the same `ce_id` and the same time.
//!
//! Source, subject, kind, origin and stamp are those of the parking log's own entry. In front of the
//! payload stands what is left:
//!
//! ```text
//! u8       1 record · 2 hole
//! 16 bytes identity of the main log, hexadecimal
//! u64 LE   offset there; of a hole, the last one
//! record:  u64 LE boot · payload
//! hole:    CBOR: first offset, reason, losses
//! ```
//!
//! All markers of a hole are one entry: parked together, returned together.

use serde::{Deserialize, Serialize};

use super::super::encode::Outgoing;
use crate::clock;
use crate::commit_log::{BadCheckpoint, DurableState, Hole, Loss};
use crate::record::{NewRecord, Offset, Origin, PayloadKind, RecordView, SourceName};

const RECORD: u8 = 1;
const HOLE: u8 = 2;
const IDENTITY_BYTES: usize = 16;
const HEAD_BYTES: usize = 1 + IDENTITY_BYTES + 8;
/// Most that an entry adds to a record.
pub(super) const OVERHEAD_BYTES: usize = HEAD_BYTES + 8;
/// Stands for the source where an entry has none; a hole may be of several.
const NO_SOURCE: &str = "parking";

/// The newest offset that a parking log has taken, and of which log: what is read again after a crash
/// or an aborted transaction is recognised by it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    log: String,
    last: Offset,
}

impl Taken {
    pub(super) fn new(log: &str, last: Offset) -> Self {
        let log = log.to_owned();
        Self { log, last }
    }

    /// Whether a record of the log `log` that ends at `last` was taken before.
    pub(super) fn holds(&self, log: &str, last: Offset) -> bool {
        self.log == log && last <= self.last
    }

    /// Whether all that was taken lies below `floor` of the log `log`.
    pub(super) fn is_below(&self, log: &str, floor: Offset) -> bool {
        self.log != log || self.last < floor
    }

    fn read(payload: &[u8]) -> Option<Self> {
        let head = payload.get(1..HEAD_BYTES)?;
        let (log, last) = head.split_at(IDENTITY_BYTES);
        let last = u64::from_le_bytes(last.try_into().ok()?);
        Some(Self::new(std::str::from_utf8(log).ok()?, Offset::new(last)))
    }
}

impl DurableState for Taken {
    fn apply(&mut self, record: &RecordView<'_>) {
        if let Some(taken) = Self::read(record.payload) {
            *self = taken;
        }
    }

    fn checkpoint(&self, out: &mut Vec<u8>) {
        let text = serde_cbor::to_vec(&(&self.log, self.last.get()));
        out.extend(text.expect("texts and numbers are always CBOR"));
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), BadCheckpoint> {
        *self = Self::default();
        let (log, last) =
            serde_cbor::from_slice::<(String, u64)>(bytes).map_err(|_| BadCheckpoint)?;
        *self = Self::new(&log, Offset::new(last));
        Ok(())
    }
}

/// A hole, in CBOR.
#[derive(Debug, Serialize, Deserialize)]
struct HoleText {
    first: u64,
    reason: String,
    losses: Vec<(Option<String>, Option<u64>)>,
}

/// What was parked.
#[derive(Debug)]
pub(in super::super) enum Item<'a> {
    /// A record, with its offset in the main log.
    Record(RecordView<'a>),
    /// A hole of the main log, with all of its markers.
    Hole(Hole),
}

/// A parked record, read back.
#[derive(Debug)]
pub(in super::super) struct Entry<'a> {
    /// Identity of the main log.
    pub(in super::super) log: &'a str,
    pub(in super::super) item: Item<'a>,
}

/// Makes an entry of a record of the main log `log` and hands it to `append`; `bytes` is memory to be
/// used again.
pub(super) fn with_entry<T>(
    outgoing: &Outgoing<'_>,
    log: &str,
    bytes: &mut Vec<u8>,
    append: impl FnOnce(&NewRecord<'_>) -> T,
) -> T {
    bytes.clear();
    bytes.push(match outgoing {
        Outgoing::Record(_) | Outgoing::Parked { .. } => RECORD,
        Outgoing::Hole { .. } => HOLE,
    });
    debug_assert_eq!(log.len(), IDENTITY_BYTES, "an identity has 16 digits");
    bytes.extend_from_slice(log.as_bytes());
    bytes.extend_from_slice(&outgoing.span().last.get().to_le_bytes());
    match outgoing {
        Outgoing::Record(record) => {
            bytes.extend_from_slice(&record.boot_id.to_le_bytes());
            bytes.extend_from_slice(record.payload);
            append(&NewRecord {
                source: &source(record.source),
                subject: record.subject,
                kind: record.kind,
                origin: record.origin,
                received: record.received,
                payload: bytes,
            })
        }
        Outgoing::Hole { hole, .. } => {
            let text = serde_cbor::to_vec(&HoleText::of(hole));
            bytes.extend(text.expect("texts and numbers are always CBOR"));
            append(&NewRecord {
                source: &source(NO_SOURCE),
                subject: "",
                kind: PayloadKind::Gap,
                origin: Origin::Line,
                received: clock::now(),
                payload: bytes,
            })
        }
        Outgoing::Parked { item, log, .. } => with_entry(item, log, bytes, append),
    }
}

fn source(name: &str) -> SourceName {
    SourceName::new(name).expect("a source's name was checked before its record was appended")
}

/// Reads an entry of a parking log back. `None` if a later version wrote it.
pub(in super::super) fn read<'a>(parked: &RecordView<'a>) -> Option<Entry<'a>> {
    let payload: &'a [u8] = parked.payload;
    let (head, rest) = payload.split_at_checked(HEAD_BYTES)?;
    let log = std::str::from_utf8(&head[1..=IDENTITY_BYTES]).ok()?;
    let last = head[1 + IDENTITY_BYTES..].try_into().ok()?;
    let last = Offset::new(u64::from_le_bytes(last));
    let item = match head[0] {
        RECORD => {
            let (boot_id, payload) = rest.split_first_chunk()?;
            Item::Record(RecordView {
                offset: last,
                boot_id: u64::from_le_bytes(*boot_id),
                payload,
                ..*parked
            })
        }
        HOLE => Item::Hole(serde_cbor::from_slice::<HoleText>(rest).ok()?.hole(last)),
        _ => return None,
    };
    Some(Entry { log, item })
}

impl HoleText {
    fn of(hole: &Hole) -> Self {
        let losses = hole.losses.iter();
        Self {
            first: hole.first.get(),
            reason: hole.reason.to_owned(),
            losses: losses
                .map(|loss| (loss.source.clone(), loss.records))
                .collect(),
        }
    }

    fn hole(self, last: Offset) -> Hole {
        let losses = self.losses.into_iter();
        Hole {
            first: Offset::new(self.first),
            last,
            reason: reason(&self.reason),
            losses: losses
                .map(|(source, records)| Loss { source, records })
                .collect(),
        }
    }
}

/// The commit log's own word for why records are missing.
fn reason(text: &str) -> &'static str {
    const KNOWN: [&str; 4] = ["corrupt", "missing", "buffer_full", "age"];
    let known = KNOWN.iter().find(|known| **known == text);
    known.copied().unwrap_or("missing")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::record::Stamp;

    const LOG: &str = "0123456789abcdef";

    fn parked<T>(outgoing: &Outgoing<'_>, look: impl FnOnce(&RecordView<'_>) -> T) -> T {
        with_entry(outgoing, LOG, &mut vec![7; 3], |new| {
            look(&RecordView {
                offset: Offset::new(3),
                source: new.source.as_str(),
                subject: new.subject,
                kind: new.kind,
                origin: new.origin,
                received: new.received,
                boot_id: 99,
                payload: new.payload,
            })
        })
    }

    proptest! {
        #[test]
        fn a_record_comes_back_as_it_was(
            offset: u64, boot_id: u64, mono_ms: u64, wall_ms: i64, subject: String, payload: Vec<u8>,
        ) {
            let record = RecordView {
                offset: Offset::new(offset), source: "city", subject: &subject,
                kind: PayloadKind::SenmlCbor, origin: Origin::Line,
                received: Stamp { wall_ms, mono_ms }, boot_id, payload: &payload,
            };
            parked(&Outgoing::Record(&record), |view| {
                let entry = read(view).expect("readable");
                assert_eq!(entry.log, LOG);
                assert!(matches!(entry.item, Item::Record(found) if found == record));
                assert_eq!(Taken::read(view.payload), Some(Taken::new(LOG, record.offset)));
            });
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(payload: Vec<u8>) {
            let view = RecordView {
                offset: Offset::ZERO, source: "s", subject: "", kind: PayloadKind::Opaque,
                origin: Origin::Line, received: Stamp::default(), boot_id: 0, payload: &payload,
            };
            let _ = (read(&view).is_some(), Taken::read(&payload));
        }
    }

    #[test]
    fn a_hole_comes_back_with_all_of_its_losses() {
        let loss = |source: Option<&str>, records| Loss {
            source: source.map(str::to_owned),
            records,
        };
        let hole = Hole {
            first: Offset::new(5),
            last: Offset::new(9),
            reason: "age",
            losses: vec![loss(Some("city"), Some(3)), loss(None, None)],
        };
        let marker = Outgoing::markers(&hole).next().expect("one at least");
        parked(&marker, |view| {
            let entry = read(view).expect("readable");
            assert!(matches!(entry.item, Item::Hole(found) if found == hole));
            assert!(Taken::new(LOG, hole.last).holds(LOG, hole.first));
        });
    }

    #[test]
    fn what_was_taken_of_one_log_says_nothing_of_another() {
        let taken = Taken::new(LOG, Offset::new(5));
        assert!(taken.holds(LOG, Offset::new(5)));
        assert!(!taken.holds(LOG, Offset::new(6)));
        assert!(!taken.holds("fedcba9876543210", Offset::new(1)));
        assert!(!taken.is_below(LOG, Offset::new(5)));
        assert!(taken.is_below(LOG, Offset::new(6)));
        let mut bytes = Vec::new();
        taken.checkpoint(&mut bytes);
        let mut restored = Taken::default();
        restored.restore(&bytes).expect("readable");
        assert_eq!(restored, taken);
    }
}
