//! The `match` of a route: an MQTT topic filter whose levels may also be captures, as in
//! `city/{district}/air/{device}`.
//!
//! A capture stands for one whole level, as `+` does, and keeps it. `#` stands at the end, for any
//! number of levels and for none, so that `city/#` matches `city` as well. A wildcard or capture in
//! the first level does not match subjects that begin with `$` (MQTT 5.0, section 4.7.2).

use std::ops::Range;

/// A compiled `match`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    levels: Vec<Level>,
    captures: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Level {
    Exact(String),
    Any,
    /// Captures are numbered in the order in which they stand.
    Capture,
    Rest,
}

/// Why a text is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// The text is empty.
    #[error("the pattern is empty; \"#\" matches every subject")]
    Empty,
    /// It holds U+0000, which no topic does.
    #[error("the pattern holds a NUL character, which no topic has")]
    Nul,
    /// `#` is followed by another level.
    #[error("\"#\" matches all the rest and must be the last level")]
    RestNotLast,
    /// A level that is only partly a wildcard or capture.
    #[error("level {level:?} mixes text with a wildcard or capture, which stand for whole levels")]
    Mixed {
        /// The level.
        level: String,
    },
    /// `{…}` around something that is no name.
    #[error("{name:?} is no name for a capture: letters, digits, \"_\" and \"-\"")]
    Name {
        /// What was given.
        name: String,
    },
    /// `{source}` or `{subject}`, which every record has anyway.
    #[error("{{{name}}} is given by every record and cannot be a capture")]
    Reserved {
        /// The name.
        name: String,
    },
    /// Two captures of one name.
    #[error("there are two captures {{{name}}}")]
    Twice {
        /// The name.
        name: String,
    },
}

impl Pattern {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// [`PatternError`] says which level is wrong, and how.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        if text.contains('\0') {
            return Err(PatternError::Nul);
        }
        let mut pattern = Self {
            levels: Vec::new(),
            captures: Vec::new(),
        };
        for level in text.split('/') {
            if pattern.levels.last() == Some(&Level::Rest) {
                return Err(PatternError::RestNotLast);
            }
            let level = pattern.level(level)?;
            pattern.levels.push(level);
        }
        Ok(pattern)
    }

    /// Names of the captures, in the order in which they stand.
    #[must_use]
    pub fn captures(&self) -> &[String] {
        &self.captures
    }

    /// Which capture is `{device}`.
    pub(super) fn device(&self) -> Option<usize> {
        self.captures.iter().position(|name| name == "device")
    }

    /// The first level, where it is plain text.
    #[must_use]
    pub fn first_level(&self) -> Option<&str> {
        match self.levels.first() {
            Some(Level::Exact(text)) => Some(text),
            Some(Level::Any | Level::Capture | Level::Rest) | None => None,
        }
    }

    /// Whether `subject` matches; if so, `captures` holds where in it each capture lies, otherwise
    /// anything.
    pub(super) fn matches(&self, subject: &str, captures: &mut Vec<Range<usize>>) -> bool {
        captures.clear();
        if subject.starts_with('$') && self.first_level().is_none() {
            return false;
        }
        let mut next = Some(0);
        for level in &self.levels {
            if *level == Level::Rest {
                return true;
            }
            let Some(start) = next else { return false };
            // Levels are short: looking at each byte costs less than a search that is prepared for more.
            let end = subject.as_bytes()[start..]
                .iter()
                .position(|byte| *byte == b'/')
                .map_or(subject.len(), |at| start + at);
            match level {
                Level::Exact(text) if *text != subject[start..end] => return false,
                Level::Capture => captures.push(start..end),
                Level::Exact(_) | Level::Any | Level::Rest => {}
            }
            next = (end < subject.len()).then_some(end + 1);
        }
        next.is_none()
    }

    fn level(&mut self, text: &str) -> Result<Level, PatternError> {
        match text {
            "+" => return Ok(Level::Any),
            "#" => return Ok(Level::Rest),
            _ => {}
        }
        if let Some(name) = text.strip_prefix('{').and_then(|t| t.strip_suffix('}')) {
            self.capture(name)?;
            return Ok(Level::Capture);
        }
        if text.contains(['+', '#', '{', '}']) {
            return Err(PatternError::Mixed {
                level: text.to_owned(),
            });
        }
        Ok(Level::Exact(text.to_owned()))
    }

    fn capture(&mut self, name: &str) -> Result<(), PatternError> {
        let name = name.to_owned();
        if !is_name(&name) {
            return Err(PatternError::Name { name });
        }
        if matches!(name.as_str(), "source" | "subject") {
            return Err(PatternError::Reserved { name });
        }
        if self.captures.contains(&name) {
            return Err(PatternError::Twice { name });
        }
        self.captures.push(name);
        Ok(())
    }
}

fn is_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
    !name.is_empty() && name.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn captured(pattern: &str, subject: &str) -> Option<Vec<String>> {
        let mut captures = Vec::new();
        Pattern::parse(pattern)
            .expect("valid pattern")
            .matches(subject, &mut captures)
            .then(|| {
                let text = |range: Range<usize>| subject[range].to_owned();
                captures.into_iter().map(text).collect()
            })
    }

    #[test]
    fn captures_are_whole_levels_in_their_order() {
        let found = captured("city/{district}/air/{device}", "city/north/air/a-7");
        assert_eq!(found, Some(vec!["north".to_owned(), "a-7".to_owned()]));
        assert_eq!(captured("{a}/x", "/x"), Some(vec![String::new()]));
    }

    #[test]
    fn a_capture_or_plus_matches_one_level_and_no_other_number() {
        for subject in ["a", "a/b/c", "a/b/"] {
            assert_eq!(captured("a/{b}", subject), None, "{subject}");
            assert_eq!(captured("a/+", subject), None, "{subject}");
        }
        assert!(captured("a/+", "a/").is_some());
    }

    #[test]
    fn rest_matches_its_parent_level_too() {
        for subject in ["city", "city/", "city/a/b"] {
            assert!(captured("city/#", subject).is_some(), "{subject}");
        }
        assert!(captured("city/#", "cityhall").is_none());
        assert!(captured("#", "/").is_some());
    }

    #[test]
    fn wildcards_in_the_first_level_leave_dollar_topics_alone() {
        for pattern in ["#", "+/x", "{a}/x"] {
            assert_eq!(captured(pattern, "$SYS/x"), None, "{pattern}");
        }
        assert!(captured("$SYS/+", "$SYS/x").is_some());
    }

    #[test]
    fn what_is_no_pattern_is_refused_with_its_reason() {
        let mixed = |level: &str| PatternError::Mixed {
            level: level.to_owned(),
        };
        for (text, expected) in [
            ("", PatternError::Empty),
            ("a\0", PatternError::Nul),
            ("#/a", PatternError::RestNotLast),
            ("a/b#", mixed("b#")),
            ("a+/b", mixed("a+")),
            ("a/x{b}", mixed("x{b}")),
            ("{}", PatternError::Name { name: "".into() }),
            ("{a b}", PatternError::Name { name: "a b".into() }),
            (
                "{source}",
                PatternError::Reserved {
                    name: "source".into(),
                },
            ),
            ("{a}/{a}", PatternError::Twice { name: "a".into() }),
        ] {
            assert_eq!(Pattern::parse(text), Err(expected), "{text:?}");
        }
    }

    /// The rules of MQTT section 4.7 on lists of levels, by recursion.
    fn model(pattern: &[&str], subject: &[&str]) -> bool {
        match (pattern.split_first(), subject.split_first()) {
            (Some((&"#", _)), _) | (None, None) => true,
            (Some((&level, patterns)), Some((&found, subjects))) => {
                let one = level == "+" || level.starts_with('{') || level == found;
                one && model(patterns, subjects)
            }
            (Some(_), None) | (None, Some(_)) => false,
        }
    }

    proptest! {
        #[test]
        fn a_pattern_matches_what_the_rules_of_mqtt_say(
            levels in prop::collection::vec(prop::sample::select(vec!["", "a", "b", "+", "{}"]), 1..5),
            rest in any::<bool>(),
            subject in prop::collection::vec(prop::sample::select(vec!["", "a", "b"]), 1..6),
        ) {
            let mut levels: Vec<String> = levels
                .iter()
                .enumerate()
                .map(|(n, level)| if *level == "{}" { format!("{{c{n}}}") } else { (*level).to_owned() })
                .collect();
            if rest {
                levels.push("#".to_owned());
            }
            let text = levels.join("/");
            prop_assume!(!text.is_empty());
            let names: Vec<&str> = levels.iter().map(String::as_str).collect();
            let found = captured(&text, &subject.join("/"));
            prop_assert_eq!(found.is_some(), model(&names, &subject));
            let expected: Vec<&str> = names
                .iter()
                .zip(&subject)
                .filter(|(level, _)| level.starts_with('{'))
                .map(|(_, found)| *found)
                .collect();
            prop_assert!(found.is_none_or(|found| found == expected));
        }

        #[test]
        fn no_text_makes_the_parser_or_the_matcher_panic(
            text in "[a/+#{}$é]{0,12}",
            subject in "[a/$é]{0,12}",
        ) {
            if let Ok(pattern) = Pattern::parse(&text) {
                let mut captures = Vec::new();
                if pattern.matches(&subject, &mut captures) {
                    prop_assert_eq!(captures.len(), pattern.captures().len());
                }
            }
        }
    }
}
