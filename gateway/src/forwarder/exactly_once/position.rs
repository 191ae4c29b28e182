//! The position that is kept in the offsets topic, and where to go on from it.
//!
//! The position names the log by its identity, so that the offset of one log is never taken for
//! that of another: of a directory that was emptied or replaced. One that was *restored from an old
//! copy* has the old identity; it is noticed because it ends below the position, or because the
//! record before the position is another than the one that was delivered.
//!
//! Pure; nothing here reads or sends.

use serde::{Deserialize, Serialize};

use super::super::parking::ParkedPosition;
use crate::record::{Offset, RecordView};

/// How many logs that were replaced are remembered: enough for two boards that fight over one id.
const SUPERSEDED_MAX: usize = 4;

/// The value of a gateway's record in the offsets topic, in JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Position {
    /// Identity of the log.
    pub(super) log: String,
    /// Every record below is in Kafka, or a dead letter, or was counted as lost.
    pub(super) offset: u64,
    /// Fingerprint of the record before `offset`; `None` if that was a hole.
    #[serde(default)]
    pub(super) fingerprint: Option<u32>,
    /// Random name of the process that wrote it.
    pub(super) instance: String,
    /// Its host.
    pub(super) host: String,
    /// When, in RFC 3339, by its wall clock.
    pub(super) time: String,
    /// Logs that this gateway had before, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) superseded: Vec<Superseded>,
    /// Where the returned part of each parking log ends.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) parking: Vec<ParkedPosition>,
}

/// Where delivery from another log of the same gateway had come to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Superseded {
    pub(super) log: String,
    pub(super) offset: u64,
    #[serde(default)]
    pub(super) fingerprint: Option<u32>,
}

/// What the offsets topic says of this gateway: positions, oldest first, until one was taken.
#[derive(Debug, Default)]
pub(super) struct History {
    /// The last one written, by whomever.
    pub(super) newest: Option<Position>,
    /// The highest of each log, newest log first.
    logs: Vec<Superseded>,
}

impl History {
    /// Takes the next value. False if it can't be read.
    pub(super) fn take(&mut self, value: &[u8]) -> bool {
        let Ok(position) = serde_json::from_slice::<Position>(value) else {
            return false;
        };
        for known in position.superseded.iter().rev() {
            self.note(known.clone());
        }
        self.note(Superseded {
            log: position.log.clone(),
            offset: position.offset,
            fingerprint: position.fingerprint,
        });
        self.newest = Some(position);
        true
    }

    fn note(&mut self, found: Superseded) {
        let known = self.logs.iter().position(|known| known.log == found.log);
        let highest = match known.map(|index| self.logs.remove(index)) {
            Some(known) if known.offset > found.offset => known,
            Some(_) | None => found,
        };
        self.logs.insert(0, highest);
    }

    /// How far delivery from `log` has come.
    pub(super) fn of(&self, log: &str) -> Option<&Superseded> {
        self.logs.iter().find(|known| known.log == log)
    }

    /// What a position of `log` is to remember of the others.
    pub(super) fn superseded_by(&self, log: &str) -> Vec<Superseded> {
        let others = self.logs.iter().filter(|known| known.log != log);
        others.take(SUPERSEDED_MAX).cloned().collect()
    }
}

/// What the log says of itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct LogFacts<'a> {
    pub(super) identity: &'a str,
    /// By its own slots.
    pub(super) committed: Offset,
    /// Where it ended when it was opened.
    pub(super) opened_at: Offset,
}

/// Where to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resume {
    /// At the log's own committed offset: nothing is known of this gateway.
    Unknown,
    /// At the log's own committed offset: what is known is of other logs.
    Replaced,
    /// At the log's own committed offset, which is at or past the position.
    Local,
    /// At the position, if the record before it has this fingerprint.
    Ahead {
        offset: Offset,
        fingerprint: Option<u32>,
    },
    /// The log ends below the position: restored from an old copy.
    Restored { offset: Offset },
}

/// Decides at the first contact of a run.
pub(super) fn resume(history: &History, facts: LogFacts<'_>) -> Resume {
    let Some(known) = history.of(facts.identity) else {
        return match history.newest {
            Some(_) => Resume::Replaced,
            None => Resume::Unknown,
        };
    };
    let offset = Offset::new(known.offset);
    if offset > facts.opened_at {
        Resume::Restored { offset }
    } else if offset <= facts.committed {
        Resume::Local
    } else {
        Resume::Ahead {
            offset,
            fingerprint: known.fingerprint,
        }
    }
}

/// Tells records apart that have the same offset in two histories of a log.
pub(super) fn fingerprint(record: &RecordView<'_>) -> u32 {
    let mut crc = crc32c::crc32c(record.source.as_bytes());
    crc = crc32c::crc32c_append(crc, record.subject.as_bytes());
    crc = crc32c::crc32c_append(crc, &record.received.wall_ms.to_le_bytes());
    crc = crc32c::crc32c_append(crc, &record.received.mono_ms.to_le_bytes());
    crc32c::crc32c_append(crc, record.payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(log: &str, offset: u64) -> Position {
        Position {
            log: log.to_owned(),
            offset,
            instance: "i".to_owned(),
            ..Position::default()
        }
    }

    fn history(positions: &[Position]) -> History {
        let mut history = History::default();
        for position in positions {
            assert!(history.take(&serde_json::to_vec(position).expect("JSON")));
        }
        history
    }

    fn facts(identity: &str, committed: u64, opened_at: u64) -> LogFacts<'_> {
        LogFacts {
            identity,
            committed: Offset::new(committed),
            opened_at: Offset::new(opened_at),
        }
    }

    #[test]
    fn the_greater_of_position_and_slot_counts() {
        let history = history(&[position("a", 10)]);
        assert_eq!(resume(&history, facts("a", 10, 20)), Resume::Local);
        assert_eq!(resume(&history, facts("a", 15, 20)), Resume::Local);
        let ahead = Resume::Ahead {
            offset: Offset::new(10),
            fingerprint: None,
        };
        assert_eq!(resume(&history, facts("a", 4, 20)), ahead);
        assert_eq!(resume(&history, facts("a", 4, 10)), ahead);
    }

    #[test]
    fn a_log_that_ends_below_the_position_was_restored() {
        let history = history(&[position("a", 10)]);
        let restored = Resume::Restored {
            offset: Offset::new(10),
        };
        assert_eq!(resume(&history, facts("a", 4, 9)), restored);
    }

    #[test]
    fn the_position_of_another_log_says_nothing_of_this_one() {
        assert_eq!(resume(&history(&[]), facts("b", 4, 9)), Resume::Unknown);
        let history = history(&[position("a", 1000)]);
        assert_eq!(resume(&history, facts("b", 4, 9)), Resume::Replaced);
    }

    #[test]
    fn the_position_of_a_log_outlives_a_rival_and_compaction() {
        let mut first = history(&[position("a", 10), position("b", 3)]);
        assert_eq!(first.of("a").map(|known| known.offset), Some(10));
        let mut rival = position("b", 4);
        rival.superseded = first.superseded_by("b");
        // All that compaction has left.
        let compacted = history(&[rival.clone()]);
        let ahead = resume(&compacted, facts("a", 2, 50));
        assert!(matches!(ahead, Resume::Ahead { offset, .. } if offset == Offset::new(10)));
        assert!(first.take(&serde_json::to_vec(&rival).expect("JSON")));
        assert_eq!(first.superseded_by("a").len(), 1);
    }

    #[test]
    fn an_older_position_never_lowers_a_newer_one() {
        let history = history(&[position("a", 10), position("a", 7)]);
        assert_eq!(history.of("a").map(|known| known.offset), Some(10));
    }

    #[test]
    fn a_position_of_a_later_version_is_read() {
        let mut history = History::default();
        let value = br#"{"log":"a","offset":5,"instance":"i","host":"h","time":"t","more":[1]}"#;
        assert!(history.take(value));
        assert_eq!(history.of("a").map(|known| known.offset), Some(5));
        assert!(!history.take(b"no JSON"));
    }

    #[test]
    fn as_many_logs_are_remembered_as_fit() {
        let positions: Vec<Position> = (0..9).map(|log| position(&log.to_string(), log)).collect();
        let superseded = history(&positions).superseded_by("8");
        let names: Vec<&str> = superseded.iter().map(|known| known.log.as_str()).collect();
        assert_eq!(names, ["7", "6", "5", "4"]);
    }
}
