//! Gap markers: what tells the far end that records are missing (G7).
//!
//! One is sent where the cursor crosses a hole in the log, and for every gap that a source noted.

use serde::Serialize;

use super::in_flight::Span;
use crate::commit_log::{Hole, Loss};
use crate::record::{GapNote, RecordView};

/// A gap, as the value of its marker (DESIGN §8).
#[derive(Debug, Serialize)]
pub(super) struct Gap<'a> {
    /// `None` where the log no longer knows whose the records were.
    source: Option<&'a str>,
    reason: &'a str,
    first_offset: u64,
    last_offset: u64,
    records: Option<u64>,
}

/// The note of a source cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the note of a gap cannot be read")]
pub(super) struct UnreadableNote(#[from] serde_cbor::Error);

impl<'a> Gap<'a> {
    /// The gap that a hole in the log leaves for one source, or for all of them where it is not
    /// known whose the records were.
    pub(super) fn of_hole(hole: &'a Hole, loss: Option<&'a Loss>) -> Self {
        let all = Some(hole.last.plus(1).since(hole.first));
        Self {
            source: loss.and_then(|loss| loss.source.as_deref()),
            reason: hole.reason,
            first_offset: hole.first.get(),
            last_offset: hole.last.get(),
            records: loss.map_or(all, |loss| loss.records),
        }
    }

    /// The gap that a source noted; it lies at the offset of the note.
    pub(super) fn of_note(record: &RecordView<'a>, note: &'a GapNote) -> Self {
        Self {
            source: Some(record.source),
            reason: &note.reason,
            first_offset: record.offset.get(),
            last_offset: record.offset.get(),
            records: note.records,
        }
    }

    /// Appends the marker's value.
    pub(super) fn append_json(&self, out: &mut Vec<u8>) {
        serde_json::to_writer(out, self).expect("strings and numbers are written to memory");
    }

    pub(super) fn span(&self) -> Span {
        Span {
            first: crate::record::Offset::new(self.first_offset),
            last: crate::record::Offset::new(self.last_offset),
            more_follow: false,
        }
    }

    pub(super) fn source(&self) -> Option<&'a str> {
        self.source
    }
}

/// Reads the note of a source.
///
/// # Errors
/// [`UnreadableNote`]
pub(super) fn read_note(payload: &[u8]) -> Result<GapNote, UnreadableNote> {
    Ok(serde_cbor::from_slice(payload)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Offset;

    #[test]
    fn the_marker_of_a_hole_says_what_is_missing_and_why() {
        let hole = Hole {
            first: Offset::new(10),
            last: Offset::new(14),
            reason: "corrupt",
            losses: Vec::new(),
        };
        let mut value = Vec::new();
        Gap::of_hole(&hole, None).append_json(&mut value);
        assert_eq!(
            String::from_utf8(value).expect("UTF-8"),
            r#"{"source":null,"reason":"corrupt","first_offset":10,"last_offset":14,"records":5}"#
        );
    }

    #[test]
    fn the_marker_of_a_drop_says_how_many_records_of_which_source() {
        let loss = |source: &str, records| Loss {
            source: Some(source.to_owned()),
            records,
        };
        let hole = Hole {
            first: Offset::new(10),
            last: Offset::new(14),
            reason: "buffer_full",
            losses: vec![loss("city", Some(3)), loss("press", None)],
        };
        let marker = |index: usize| {
            let mut value = Vec::new();
            Gap::of_hole(&hole, Some(&hole.losses[index])).append_json(&mut value);
            String::from_utf8(value).expect("UTF-8")
        };
        assert_eq!(
            [marker(0), marker(1)],
            [
                r#"{"source":"city","reason":"buffer_full","first_offset":10,"last_offset":14,"records":3}"#,
                r#"{"source":"press","reason":"buffer_full","first_offset":10,"last_offset":14,"records":null}"#,
            ]
        );
    }
}
