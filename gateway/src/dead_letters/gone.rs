//! Which dead letters are gone though their bytes are still there, and how many are kept.
//!
//! The log of dead letters is only ever appended to. Letters that were deleted or sent again are
//! forgotten by a [`Tombstone`] behind them: a record that names their offsets. Segments leave the
//! log oldest first, so that a tombstone never leaves before the letters it names.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::figures::LetterFigures;
use crate::commit_log::{BadCheckpoint, DurableState};
use crate::record::{Offset, PayloadKind, RecordView};

/// What became of a letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// Somebody did not want it.
    Deleted,
    /// Its record is in the main log again.
    Retried,
}

impl Fate {
    /// As in the `outcome` label of the metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Deleted => "deleted",
            Self::Retried => "retried",
        }
    }
}

/// Says that letters before it are gone. The payload of a note, in CBOR.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// What became of them.
    pub fate: Fate,
    /// Their offsets, as first and last of runs.
    pub offsets: Vec<(u64, u64)>,
    /// How many they are.
    pub letters: u64,
    /// Bytes of their records' payloads.
    pub bytes: u64,
}

impl Tombstone {
    /// The tombstone that a record of the dead letters' log carries; `None` for what is none.
    #[must_use]
    pub fn of(record: &RecordView<'_>) -> Option<Self> {
        match record.kind {
            PayloadKind::Note => serde_cbor::from_slice(record.payload).ok(),
            PayloadKind::Opaque | PayloadKind::SenmlCbor | PayloadKind::Gap => None,
        }
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        serde_cbor::to_vec(self).expect("texts and numbers are always CBOR")
    }
}

/// A set of offsets, as runs that neither touch nor overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gone {
    /// Everything below is gone.
    below: u64,
    /// First offset of a run → last.
    runs: BTreeMap<u64, u64>,
}

impl Gone {
    /// What is gone of a log whose committed offset is `below`.
    #[must_use]
    pub fn below(below: Offset) -> Self {
        Self {
            below: below.get(),
            runs: BTreeMap::new(),
        }
    }

    /// Whether the letter at this offset is gone.
    #[must_use]
    pub fn has(&self, offset: Offset) -> bool {
        let offset = offset.get();
        let run = self.runs.range(..=offset).next_back();
        offset < self.below || run.is_some_and(|(_, last)| *last >= offset)
    }

    /// Takes in what a tombstone says.
    pub fn bury(&mut self, tombstone: &Tombstone) {
        for (first, last) in &tombstone.offsets {
            if first <= last {
                self.insert(*first, *last);
            }
        }
    }

    fn insert(&mut self, mut first: u64, mut last: u64) {
        while let Some((&start, &end)) = self.runs.range(..=last.saturating_add(1)).next_back() {
            if end.saturating_add(1) < first {
                break;
            }
            first = first.min(start);
            last = last.max(end);
            self.runs.remove(&start);
        }
        self.runs.insert(first, last);
    }

    fn all_below(&mut self, offset: Offset) {
        self.below = self.below.max(offset.get());
        let below = self.below;
        self.runs.retain(|_, last| *last >= below);
    }
}

/// How many letters are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Letters.
    pub letters: u64,
    /// Bytes of what is kept of them.
    pub bytes: u64,
}

impl Count {
    pub(super) fn add(&mut self, letter: &RecordView<'_>) {
        self.letters += 1;
        self.bytes += letter.payload.len() as u64;
    }

    fn sub(&mut self, letters: u64, bytes: u64) {
        self.letters = self.letters.saturating_sub(letters);
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

/// Longest wait for the log's thread to tell of a record that it has synced: it does so next.
const TOLD_WAIT: Duration = Duration::from_secs(5);

/// What is known of the log as far as it is synced. It follows the log's own thread, so that what
/// is counted and what is dropped are always of the same moment. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    inner: Arc<(Mutex<Known>, Condvar)>,
    figures: LetterFigures,
}

#[derive(Debug, Default)]
struct Known {
    gone: Gone,
    count: Count,
    /// The log was read; from here on each record counts when it is synced.
    is_live: bool,
    /// Everything below has been told.
    told: Offset,
}

impl Tally {
    pub(super) fn new(figures: LetterFigures) -> Self {
        Self {
            inner: Arc::default(),
            figures,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // Every critical section leaves it whole at each of its steps.
        self.inner.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What reading the log has brought.
    pub(super) fn go_live(&self, gone: Gone, count: Count) {
        let mut known = self.lock();
        known.gone = gone;
        known.count = count;
        known.is_live = true;
        self.figures.show(known.count);
    }

    /// Waits until a record that is synced has been told of, which happens right after.
    pub(super) fn wait_for(&self, offset: Offset) {
        let known = self.lock();
        let untold = |known: &mut Known| known.told <= offset;
        let waited = self.inner.1.wait_timeout_while(known, TOLD_WAIT, untold);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    pub(super) fn has(&self, offset: Offset) -> bool {
        self.lock().gone.has(offset)
    }

    pub(super) fn count(&self) -> Count {
        self.lock().count
    }

    /// The log's committed offset moves here.
    pub(super) fn all_below(&self, offset: Offset) {
        self.lock().gone.all_below(offset);
    }

    /// The log is about to drop a record. True if it is a letter that was still wanted.
    pub(super) fn drop_letter(&self, record: &RecordView<'_>) -> bool {
        let mut known = self.lock();
        if known.gone.has(record.offset) {
            return false;
        }
        known.count.sub(1, record.payload.len() as u64);
        self.figures.show(known.count);
        true
    }
}

impl DurableState for Tally {
    fn apply(&mut self, record: &RecordView<'_>) {
        let mut known = self.lock();
        known.told = record.offset.plus(1);
        self.inner.1.notify_all();
        if !known.is_live {
            return;
        }
        if let Some(tombstone) = Tombstone::of(record) {
            known.gone.bury(&tombstone);
            known.count.sub(tombstone.letters, tombstone.bytes);
        } else if is_letter(record) {
            known.count.add(record);
        }
        self.figures.show(known.count);
    }

    /// Nothing: the tombstones themselves are read when the log is opened.
    fn checkpoint(&self, _out: &mut Vec<u8>) {}

    fn restore(&mut self, _bytes: &[u8]) -> Result<(), BadCheckpoint> {
        Ok(())
    }
}

/// Whether a record is a letter, as far as its kind tells.
pub(super) fn is_letter(record: &RecordView<'_>) -> bool {
    match record.kind {
        PayloadKind::Opaque => true,
        PayloadKind::SenmlCbor | PayloadKind::Gap | PayloadKind::Note => false,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn runs_hold_what_a_plain_set_would(
            buried in prop::collection::vec((0_u64..60, 0_u64..6), 0..20),
            below in 0_u64..30,
        ) {
            let mut gone = Gone::default();
            let mut plain = BTreeSet::new();
            for (first, more) in buried {
                let offsets = vec![(first, first + more)];
                gone.bury(&Tombstone { fate: Fate::Deleted, offsets, letters: 0, bytes: 0 });
                plain.extend(first..=first + more);
            }
            let touching = gone.runs.iter().zip(gone.runs.iter().skip(1));
            for ((_, last), (first, _)) in touching {
                prop_assert!(last + 1 < *first, "{gone:?}");
            }
            gone.all_below(Offset::new(below));
            plain.extend(0..below);
            for offset in 0..70 {
                prop_assert_eq!(gone.has(Offset::new(offset)), plain.contains(&offset), "{}", offset);
            }
        }
    }
}
