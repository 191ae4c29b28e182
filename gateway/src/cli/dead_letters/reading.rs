//! Reading dead letters beside whoever has them open.

use std::path::Path;

use super::LettersError;
use crate::cli::buffer::text;
use crate::cli::complain;
use crate::commit_log::fs::RealFs;
use crate::commit_log::offline::{Event, LogDir};
use crate::dead_letters::{DIR_NAME, Envelope, Gone, Selection, Tombstone};
use crate::record::RecordView;

/// Whether to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    Continue,
    Enough,
}

/// Hands the letters that are kept and meant to `take`, oldest first. Returns how many places are
/// damaged; each is told.
pub(super) fn each(
    data_dir: &Path,
    selection: &Selection,
    mut take: impl FnMut(&RecordView<'_>, Envelope) -> Result<Flow, LettersError>,
) -> Result<u64, LettersError> {
    let log = LogDir::read(&RealFs, &data_dir.join(DIR_NAME))?;
    let gone = gone(&log)?;
    let mut damaged = 0;
    let mut scan = log.scan_from(log.committed());
    while let Some(event) = scan.next()? {
        let batch = match event {
            Event::Batch(batch) => batch,
            // What was dropped for its age or for room is no news here.
            Event::Finding(finding) if finding.what.is_damage() => {
                damaged += 1;
                complain(text::finding(&finding).trim_end());
                continue;
            }
            Event::Finding(_) => continue,
        };
        for record in batch.records() {
            if gone.has(record.offset) || !selection.may_mean(&record) {
                continue;
            }
            let letter = Envelope::of(&record).filter(|l| selection.means(&record, l));
            if let Some(letter) = letter
                && take(&record, letter)? == Flow::Enough
            {
                return Ok(damaged);
            }
        }
    }
    Ok(damaged)
}

/// Tombstones lie behind what they name, so they are read first.
fn gone(log: &LogDir<'_>) -> Result<Gone, LettersError> {
    let mut gone = Gone::below(log.committed());
    let mut scan = log.scan_from(log.committed());
    while let Some(event) = scan.next()? {
        if let Event::Batch(batch) = event {
            let tombstones = batch.records().filter_map(|record| Tombstone::of(&record));
            tombstones.for_each(|tombstone| gone.bury(&tombstone));
        }
    }
    Ok(gone)
}
