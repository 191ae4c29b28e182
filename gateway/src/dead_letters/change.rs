//! Deleting dead letters, and sending them again.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::gone::{Fate, Tombstone, is_letter};
use super::letter::Envelope;
use super::select::Selection;
use super::{DeadLetters, NotStored};
use crate::clock;
use crate::clock::timeline::{Boots, Timeline};
use crate::commit_log::{AppendError, CommitLog, Condition, Item, ReadError};
use crate::metrics::OutcomeLabel;
use crate::record::{NewRecord, Offset, Origin, PayloadKind, RecordView, SourceName};

/// Source of tombstones: nothing counts by it.
const OWN_SOURCE: &str = "dead-letters";
/// Most runs of offsets in one tombstone, so that it fits a record.
const TOMBSTONE_RUNS_MAX: usize = 16 * 1024;
/// Letters and bytes that are sent again before their tombstone is written: what a crash repeats.
const RETRY_LETTERS_MAX: usize = 64;
const RETRY_BYTES_MAX: usize = 1 << 20;
/// Most letters of which an answer says why they were left; beyond it they are only counted.
const LEFT_MAX: usize = 100;
/// Longest wait for a full disk to take a tombstone: a stop waits for a command that is under way.
const BURIAL_PATIENCE: Duration = Duration::from_secs(10);
/// How often a wait for the main log looks whether it is to go on.
const LOOK: Duration = Duration::from_millis(100);

/// What a command has done.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Changed {
    /// Letters that are gone now.
    pub letters: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Letters that were meant and are still there, or that do not exist; the first ones of them.
    pub left: Vec<Left>,
    /// How many more are left.
    pub left_more: u64,
}

/// A letter that a command has left.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Left {
    /// Its offset in the log of dead letters.
    pub offset: u64,
    /// Why, for a person.
    pub why: String,
}

/// Why a command ended early. What it had done until then stays done.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// The letters cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The log of dead letters failed, or the disk is full.
    #[error("the log of dead letters takes no more records; what was not marked as gone stays")]
    NotStored(#[from] NotStored),
    /// The main log takes no record.
    #[error("{letters} sent again, then the buffer took no more: it is full; try again later")]
    BufferFull {
        /// Letters that were sent again before.
        letters: u64,
    },
    /// The gateway is stopping, or its log has failed.
    #[error("{letters} sent again, then the gateway stopped")]
    Stopped {
        /// Letters that were sent again before.
        letters: u64,
    },
}

/// What sending again needs of the gateway.
#[derive(Debug)]
pub struct Retry<'a> {
    /// The main log.
    pub main: &'a CommitLog,
    /// When earlier boots of the board began.
    pub boots: &'a Boots,
    /// Longest wait for room in the main log.
    pub patience: Duration,
    /// Cancelled to end early.
    pub stop: &'a CancellationToken,
}

impl Changed {
    fn leave(&mut self, offset: Offset, why: String) {
        if self.left.len() < LEFT_MAX {
            let offset = offset.get();
            self.left.push(Left { offset, why });
        } else {
            self.left_more += 1;
        }
    }
}

/// Letters to be buried together.
#[derive(Debug, Default)]
struct Burial {
    offsets: Vec<(u64, u64)>,
    letters: u64,
    bytes: u64,
}

impl Burial {
    fn add(&mut self, letter: &RecordView<'_>) {
        let at = letter.offset.get();
        match self.offsets.last_mut() {
            Some((_, last)) if *last + 1 == at => *last = at,
            Some(_) | None => self.offsets.push((at, at)),
        }
        self.letters += 1;
        self.bytes += letter.payload.len() as u64;
    }
}

impl DeadLetters {
    /// Deletes what is meant; on return that is durable. Blocks the calling thread.
    ///
    /// # Errors
    /// [`ChangeError`]
    pub fn delete(&self, selection: &Selection) -> Result<Changed, ChangeError> {
        let mut changed = Changed::default();
        let mut burials = VecDeque::from([Burial::default()]);
        let mut missing = Missing::of(selection);
        self.each(selection, |record, _| {
            missing.found(record.offset);
            if burials
                .back()
                .is_none_or(|b| b.offsets.len() >= TOMBSTONE_RUNS_MAX)
            {
                burials.push_back(Burial::default());
            }
            if let Some(burial) = burials.back_mut() {
                burial.add(record);
            }
        })?;
        for burial in burials {
            self.bury(Fate::Deleted, burial, &mut changed)?;
        }
        missing.tell(&mut changed);
        Ok(changed)
    }

    /// Sends what is meant again, through the main log, and marks it as gone once it is synced
    /// there (D3). Blocks the calling thread.
    ///
    /// # Errors
    /// [`ChangeError`]
    pub fn retry(&self, selection: &Selection, retry: &Retry<'_>) -> Result<Changed, ChangeError> {
        let timeline = Timeline::new(clock::boot_id(), retry.boots.clone());
        let mut changed = Changed::default();
        let mut missing = Missing::of(selection);
        // What comes after this is none of this command's: a record that is refused at once, say.
        let end = self.log.progress().synced;
        let mut cursor = self.log.cursor(self.log.committed());
        let mut group = Group::default();
        while cursor.position() < end {
            let batch = match cursor.next()? {
                Some(Item::Batch(batch)) => batch,
                Some(Item::Hole(_)) => continue,
                None => break,
            };
            for record in batch.records().take_while(|record| record.offset < end) {
                if !selection.may_mean(&record) || self.tally.has(record.offset) {
                    continue;
                }
                let letter = Envelope::of(&record).filter(|l| selection.means(&record, l));
                let Some(letter) = letter else { continue };
                missing.found(record.offset);
                match group.append(&record, &letter, retry, &timeline) {
                    Ok(()) => {}
                    Err(Refused::Letter(why)) => changed.leave(record.offset, why),
                    Err(Refused::Main(stop)) => {
                        self.finish(group, retry, &mut changed)?;
                        return Err(stop.after(changed.letters));
                    }
                }
                if group.is_full() {
                    self.finish(std::mem::take(&mut group), retry, &mut changed)?;
                    if retry.stop.is_cancelled() {
                        return Err(Stop::Over.after(changed.letters));
                    }
                }
            }
        }
        self.finish(group, retry, &mut changed)?;
        missing.tell(&mut changed);
        Ok(changed)
    }

    /// Waits until the group is synced in the main log, then buries its letters.
    fn finish(
        &self,
        group: Group,
        retry: &Retry<'_>,
        changed: &mut Changed,
    ) -> Result<(), ChangeError> {
        let Some(last) = group.last else {
            return Ok(());
        };
        let patience = Instant::now() + retry.patience;
        loop {
            let progress = retry.main.wait(last, LOOK);
            if progress.synced > last {
                return self.bury(Fate::Retried, group.burial, changed);
            }
            let letters = changed.letters;
            match progress.condition {
                Condition::Poisoned | Condition::Closed => {
                    return Err(ChangeError::Stopped { letters });
                }
                // They may still be synced, and are then sent twice: never lost.
                Condition::Running | Condition::Full if Instant::now() >= patience => {
                    return Err(ChangeError::BufferFull { letters });
                }
                Condition::Running | Condition::Full => {}
            }
        }
    }

    /// Writes the tombstone of some letters; on return it is synced.
    fn bury(&self, fate: Fate, burial: Burial, changed: &mut Changed) -> Result<(), ChangeError> {
        if burial.letters == 0 {
            return Ok(());
        }
        let tombstone = Tombstone {
            fate,
            offsets: burial.offsets,
            letters: burial.letters,
            bytes: burial.bytes,
        };
        let source = SourceName::new(OWN_SOURCE).expect("a valid name");
        let record = NewRecord {
            source: &source,
            subject: "",
            kind: PayloadKind::Note,
            origin: Origin::Line,
            received: clock::now(),
            payload: &tombstone.to_bytes(),
        };
        self.append_until(&record, Some(Instant::now() + BURIAL_PATIENCE))?;
        changed.letters += burial.letters;
        changed.bytes += burial.bytes;
        let outcome = fate.label();
        let removed = &self.figures.removed;
        let counter = removed.get_or_create(&OutcomeLabel { outcome });
        counter.inc_by(burial.letters);
        tracing::info!(letters = burial.letters, outcome, "dead letters removed");
        Ok(())
    }

    /// Frees the space of a leading run of letters that are gone, as far as the main log will not
    /// hand out their records again (D4).
    ///
    /// # Errors
    /// [`ReadError`]
    pub fn reclaim(&self, main: &CommitLog) -> Result<(), ReadError> {
        let (identity, committed) = (main.identity(), main.committed().get());
        let mut free = self.log.committed();
        let mut cursor = self.log.cursor(free);
        'run: while let Some(item) = cursor.next()? {
            let batch = match item {
                Item::Batch(batch) => batch,
                Item::Hole(hole) => {
                    free = hole.last.plus(1);
                    continue;
                }
            };
            for record in batch.records() {
                let stays = is_letter(&record)
                    && (!self.tally.has(record.offset)
                        || Envelope::of(&record)
                            .is_some_and(|letter| letter.may_come_again(&identity, committed)));
                if stays {
                    break 'run;
                }
                free = record.offset.plus(1);
            }
        }
        self.tally.all_below(free);
        self.log.commit(free);
        Ok(())
    }
}

/// Letters whose records are in the main log again, not yet known to be synced.
#[derive(Debug, Default)]
struct Group {
    burial: Burial,
    bytes: usize,
    last: Option<Offset>,
}

/// Why a letter is not sent again.
enum Refused {
    /// For its own sake.
    Letter(String),
    /// The main log takes nothing.
    Main(Stop),
}

enum Stop {
    Full,
    Over,
}

impl Stop {
    fn after(self, letters: u64) -> ChangeError {
        match self {
            Self::Full => ChangeError::BufferFull { letters },
            Self::Over => ChangeError::Stopped { letters },
        }
    }
}

impl Group {
    fn is_full(&self) -> bool {
        self.burial.letters >= RETRY_LETTERS_MAX as u64 || self.bytes >= RETRY_BYTES_MAX
    }

    fn append(
        &mut self,
        record: &RecordView<'_>,
        letter: &Envelope,
        retry: &Retry<'_>,
        timeline: &Timeline,
    ) -> Result<(), Refused> {
        if !letter.is_whole() {
            return Err(Refused::Letter(format!(
                "only the first {} of its {} bytes were kept",
                letter.payload.len(),
                letter.payload_bytes
            )));
        }
        let source =
            SourceName::new(record.source).map_err(|error| Refused::Letter(error.to_string()))?;
        let again = letter.record_again(&source, record, timeline);
        let patience = Instant::now() + retry.patience;
        loop {
            match retry.main.append(&again) {
                Ok(offset) => {
                    self.last = Some(offset);
                    self.burial.add(record);
                    self.bytes += letter.payload.len();
                    return Ok(());
                }
                Err(error @ AppendError::TooLarge { .. }) => {
                    return Err(Refused::Letter(error.to_string()));
                }
                Err(AppendError::Closed) => return Err(Refused::Main(Stop::Over)),
                Err(AppendError::Full) if retry.stop.is_cancelled() => {
                    return Err(Refused::Main(Stop::Over));
                }
                Err(AppendError::Full) if Instant::now() >= patience => {
                    return Err(Refused::Main(Stop::Full));
                }
                Err(AppendError::Full) => {
                    let _ = retry.main.wait(retry.main.progress().synced, LOOK);
                }
            }
        }
    }
}

/// Offsets that were named one by one, and not come across.
struct Missing(Vec<u64>);

impl Missing {
    fn of(selection: &Selection) -> Self {
        let singles = selection
            .offsets
            .iter()
            .filter(|(first, last)| first == last);
        Self(singles.map(|(first, _)| *first).collect())
    }

    fn found(&mut self, offset: Offset) {
        self.0.retain(|missing| *missing != offset.get());
    }

    fn tell(self, changed: &mut Changed) {
        for offset in self.0 {
            let why = "there is no such dead letter".to_owned();
            changed.leave(Offset::new(offset), why);
        }
    }
}
