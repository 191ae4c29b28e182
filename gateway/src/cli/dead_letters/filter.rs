//! Which dead letters a command is about.

use super::LettersError;
use crate::dead_letters::{RUNS_MAX, Selection};

/// Arguments that choose dead letters.
#[derive(Debug, clap::Args)]
pub(super) struct Filter {
    /// Only those set aside for this reason: too_large, invalid_record, …
    #[arg(long, value_name = "REASON")]
    reason: Option<String>,
    /// Only those of this source
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// Only those meant for this Kafka topic
    #[arg(long, value_name = "TOPIC")]
    topic: Option<String>,
}

impl Filter {
    /// Those that fit and lie at `offsets`; none means any.
    pub(super) fn selection(&self, offsets: &[(u64, u64)]) -> Result<Selection, LettersError> {
        if offsets.len() > RUNS_MAX {
            let (given, most) = (offsets.len(), RUNS_MAX);
            return Err(LettersError::TooMany { given, most });
        }
        Ok(Selection {
            offsets: offsets.to_vec(),
            reason: self.reason.clone(),
            source: self.source.clone(),
            topic: self.topic.clone(),
        })
    }
}

/// `7` or `7-12`.
pub(super) fn offsets(text: &str) -> Result<(u64, u64), String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let number = |text: &str| text.parse().map_err(|_| "write 7, or 7-12".to_owned());
    let (first, last): (u64, u64) = (number(first)?, number(last)?);
    if first > last {
        return Err(format!("{first} is behind {last}"));
    }
    Ok((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_numbers_and_ranges() {
        assert_eq!(offsets("7"), Ok((7, 7)));
        assert_eq!(offsets("7-12"), Ok((7, 12)));
        for text in ["", "-", "7-", "-7", "x", "7-x", "12-7", "7-8-9"] {
            assert!(offsets(text).is_err(), "{text}");
        }
    }
}
