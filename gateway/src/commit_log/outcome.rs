//! What can be amiss with a log, each case by its name: what opening finds, and what a reader finds
//! in segments that opening doesn't scan.
//!
//! The log doesn't write to the journal and counts nothing: it hands a [`Finding`] to whoever
//! opened it or reads it, once, and that one reports it. A log in another format version is not
//! among them: it is refused ([`super::OpenError`]), and nothing of it is touched.

use std::fmt;
use std::path::PathBuf;

use crate::record::Offset;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// What a crash or a reused segment leaves by design.
    Normal,
    /// Dealt with; somebody may want to know how it came about.
    Notable,
    /// Synced records are lost, or guarantees weakened.
    Loss,
}

/// One case of damage or remains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Outcome {
    /// Behind the end lie batches of the segment's earlier life.
    EarlierLife,
    /// Behind the end lie batches of a tail that an earlier opening cut.
    CutRemains,
    /// The last batches were never synced and not all of them are whole: cut and zeroed.
    TornTail,
    /// Whole batches behind the last known sync: written again and synced before they count (I5).
    TailMadeDurable,
    /// A crash left a segment that was begun and holds nothing. Removed.
    BegunSegment,
    /// A segment file has no bytes.
    ZeroLengthSegment,
    /// A bad batch with good ones behind it.
    CorruptBatch,
    /// A batch has a good checksum, and its content can't be unpacked, or holds fewer records than it
    /// says.
    UndecodableBatch,
    /// The last synced batches of a segment can't be read.
    CorruptEnd,
    /// Nothing of a segment that held synced records can be read.
    UnreadableSegment,
    /// A segment file is gone.
    MissingSegment,
    /// A segment file holds a copy of another segment. Set aside.
    DuplicateSegment,
    /// Two segments hold the same offsets. Those of the newer segment count.
    OverlappingSegments,
    /// A segment of another log. Set aside.
    ForeignSegment,
    /// A file that is none of the log's. Left alone.
    ForeignFile,
    /// Slots of another log. Written anew.
    ForeignSlots,
    /// No slot can be read. Written anew.
    SlotsLost,
    /// A segment's checkpoint can't be read.
    CheckpointDamaged,
    /// The log begins behind the committed offset.
    CommittedBeforeStart,
    /// The log ends below the committed offset.
    CommittedBeyondEnd,
}

impl Outcome {
    /// The name it is counted under.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::EarlierLife => "earlier_life",
            Self::CutRemains => "cut_remains",
            Self::TornTail => "torn_tail",
            Self::TailMadeDurable => "tail_made_durable",
            Self::BegunSegment => "begun_segment",
            Self::ZeroLengthSegment => "zero_length_segment",
            Self::CorruptBatch => "corrupt_batch",
            Self::UndecodableBatch => "undecodable_batch",
            Self::CorruptEnd => "corrupt_end",
            Self::UnreadableSegment => "unreadable_segment",
            Self::MissingSegment => "missing_segment",
            Self::DuplicateSegment => "duplicate_segment",
            Self::OverlappingSegments => "overlapping_segments",
            Self::ForeignSegment => "foreign_segment",
            Self::ForeignFile => "foreign_file",
            Self::ForeignSlots => "foreign_slots",
            Self::SlotsLost => "slots_lost",
            Self::CheckpointDamaged => "checkpoint_damaged",
            Self::CommittedBeforeStart => "committed_before_start",
            Self::CommittedBeyondEnd => "committed_beyond_end",
        }
    }

    /// What happened and what an operator may do, in one sentence.
    #[must_use]
    pub fn explanation(self) -> &'static str {
        match self {
            Self::EarlierLife => "stale batches of the segment's earlier life were ignored",
            Self::CutRemains => "remains of a tail that was cut before were ignored",
            Self::TornTail => {
                "a write that a crash cut short was undone; nothing of it was acknowledged"
            }
            Self::TailMadeDurable => {
                "batches that may have been in memory only were written again and synced"
            }
            Self::BegunSegment => "a segment that a crash left without content was removed",
            Self::ZeroLengthSegment => {
                "a segment file is empty; check the file system and the storage medium"
            }
            Self::CorruptBatch => {
                "synced records can't be read and are skipped; the file is kept as *.damaged once \
                 its other records are delivered; check the storage medium"
            }
            Self::UndecodableBatch => {
                "records were damaged before they were written, and their checksum with them: they \
                 can't be decoded and are skipped; the file is kept as *.damaged once its other \
                 records are delivered; check the board's memory"
            }
            Self::CorruptEnd => {
                "the last synced records of a segment can't be read and are skipped; check the \
                 storage medium"
            }
            Self::UnreadableSegment => {
                "nothing of a segment can be read; it is kept as *.damaged; check the storage \
                 medium"
            }
            Self::MissingSegment => {
                "a segment file is gone; if it was moved away, stop the gateway and put it back \
                 before its offsets are passed"
            }
            Self::DuplicateSegment => {
                "a segment file is a copy of another one and was set aside as *.damaged; it may be \
                 deleted"
            }
            Self::OverlappingSegments => {
                "two segments hold the same offsets, as when two copies of a log are mixed; those \
                 of the newer segment count, the other file is kept as *.damaged"
            }
            Self::ForeignSegment => {
                "a segment of another log was set aside as *.foreign; move it back where it \
                 belongs"
            }
            Self::ForeignFile => "a file that is none of the log's was left alone",
            Self::ForeignSlots => {
                "the slots were of another log and were written anew; some records may be \
                 delivered twice"
            }
            Self::SlotsLost => {
                "the slots could not be read and were written anew; some records may be delivered \
                 twice"
            }
            Self::CheckpointDamaged => {
                "the state of link sessions and of redelivery could not be read here; it was taken \
                 from the segment before, or begins anew, and duplicates are then possible"
            }
            Self::CommittedBeforeStart => {
                "the oldest undelivered records are no longer in the log; if segment files were \
                 moved away, stop the gateway and put them back"
            }
            Self::CommittedBeyondEnd => {
                "the log ends below what was delivered, as when an old copy is put in its place; \
                 its offsets go on behind that"
            }
        }
    }

    /// How much it matters.
    #[must_use]
    pub fn severity(self) -> Severity {
        match self {
            Self::EarlierLife
            | Self::CutRemains
            | Self::TornTail
            | Self::TailMadeDurable
            | Self::BegunSegment => Severity::Normal,
            Self::DuplicateSegment
            | Self::ForeignSegment
            | Self::ForeignFile
            | Self::ForeignSlots
            | Self::SlotsLost
            | Self::CommittedBeyondEnd => Severity::Notable,
            Self::ZeroLengthSegment
            | Self::CorruptBatch
            | Self::UndecodableBatch
            | Self::CorruptEnd
            | Self::UnreadableSegment
            | Self::MissingSegment
            | Self::OverlappingSegments
            | Self::CheckpointDamaged
            | Self::CommittedBeforeStart => Severity::Loss,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// One finding. Its `Display` is the line for the journal, without the explanation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which case.
    pub outcome: Outcome,
    /// The file.
    pub path: PathBuf,
    /// Byte position in it, where one place is meant.
    pub position: Option<u64>,
    /// Undelivered offsets that are lost, first and last. Whose records they were is not known: the
    /// batch that would say so is what can't be read.
    pub lost: Option<(Offset, Offset)>,
}

impl Finding {
    pub(super) fn new(outcome: Outcome, path: PathBuf) -> Self {
        Self {
            outcome,
            path,
            position: None,
            lost: None,
        }
    }

    pub(super) fn at(self, position: u64) -> Self {
        Self {
            position: Some(position),
            ..self
        }
    }

    pub(super) fn lost(self, first: Offset, last: Offset) -> Self {
        Self {
            lost: Some((first, last)),
            ..self
        }
    }

    /// How many records are lost.
    #[must_use]
    pub fn records_lost(&self) -> u64 {
        self.lost
            .map_or(0, |(first, last)| last.plus(1).since(first))
    }

    /// Leaves out what was delivered: that is not lost.
    pub(super) fn clip(&mut self, committed: Offset) {
        self.lost = match self.lost {
            Some((first, last)) if last >= committed => Some((first.max(committed), last)),
            Some(_) | None => None,
        };
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if let Some(position) = self.position {
            write!(f, ", byte {position}")?;
        }
        if let Some((first, last)) = self.lost {
            write!(
                f,
                ": {} records lost, offsets {first} to {last}",
                self.records_lost()
            )?;
        }
        Ok(())
    }
}
