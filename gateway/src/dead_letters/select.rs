//! Which dead letters are meant.

use serde::{Deserialize, Serialize};

use super::letter::Envelope;
use crate::record::RecordView;

/// Most runs of offsets that one command may name.
pub const RUNS_MAX: usize = 1_000;

/// Which dead letters are meant: those that fit everything which is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Selection {
    /// First and last offset of runs in the log of dead letters; empty for any.
    pub offsets: Vec<(u64, u64)>,
    /// Why they were set aside.
    pub reason: Option<String>,
    /// The source that received them.
    pub source: Option<String>,
    /// The topic they were meant for.
    pub topic: Option<String>,
}

impl Selection {
    /// Whether it is all of them.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a letter is meant, as far as its record tells.
    #[must_use]
    pub fn may_mean(&self, record: &RecordView<'_>) -> bool {
        let at = record.offset.get();
        let within = |(first, last): &(u64, u64)| (*first..=*last).contains(&at);
        (self.offsets.is_empty() || self.offsets.iter().any(within))
            && fits(self.source.as_deref(), record.source)
    }

    /// Whether a letter is meant.
    #[must_use]
    pub fn means(&self, record: &RecordView<'_>, letter: &Envelope) -> bool {
        let topic = letter.topic.as_deref().unwrap_or_default();
        self.may_mean(record)
            && fits(self.reason.as_deref(), &letter.reason)
            && fits(self.topic.as_deref(), topic)
    }
}

fn fits(wanted: Option<&str>, found: &str) -> bool {
    wanted.is_none_or(|wanted| wanted == found)
}
