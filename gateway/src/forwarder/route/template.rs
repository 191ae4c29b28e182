//! Texts with names in braces, as in `air-{district}`: topics, keys and header values of routes.
//!
//! `{source}`, `{subject}` and `{device}` are there for every record, the captures of a route for
//! its records. `{{` and `}}` are braces. A serial record's captures come from its subject, where
//! `/`, `+`, `#` and `%` of the device are percent-encoded; its `{device}`, where that is no
//! capture, is the device as it calls itself.

use std::ops::Range;

use crate::record::{Origin, RecordView};

/// A compiled template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    /// By its number in the route's pattern.
    Capture(usize),
    Source,
    Subject,
    /// The record's device, a capture of its route or not: a default template does not know.
    Device,
}

/// What a template's names stand for.
pub(super) struct Values<'a> {
    pub(super) record: &'a RecordView<'a>,
    /// Where in the subject each capture lies.
    pub(super) captures: &'a [Range<usize>],
    /// Which capture is the device.
    pub(super) device: Option<usize>,
}

impl Values<'_> {
    fn capture(&self, number: usize) -> &str {
        let range = self.captures.get(number).cloned();
        &self.record.subject[range.unwrap_or_default()]
    }

    /// The capture `{device}`, else what the serial line calls the device, else the topic.
    pub(super) fn push_device(&self, out: &mut String) {
        match (self.device, self.record.origin) {
            (Some(number), _) => out.push_str(self.capture(number)),
            (None, Origin::Mqtt { .. }) => out.push_str(self.record.subject),
            (None, Origin::Line | Origin::Link { .. }) => {
                push_serial_device(self.record.subject, out);
            }
        }
    }
}

/// Why a text is no template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// `{` without `}`.
    #[error("\"{{\" at character {character} is never closed; a brace itself is written \"{{{{\"")]
    Unclosed {
        /// Its place, from 1.
        character: usize,
    },
    /// `}` without `{`.
    #[error("\"}}\" at character {character} closes nothing; a brace itself is written \"}}}}\"")]
    Unopened {
        /// Its place, from 1.
        character: usize,
    },
    /// Nothing that the record or the route's pattern gives.
    #[error("{{{name}}} is not known here; known are {}", braced(known))]
    UnknownName {
        /// The name.
        name: String,
        /// All names that may be used.
        known: Vec<String>,
    },
}

fn braced(names: &[String]) -> String {
    let braced: Vec<String> = names.iter().map(|name| format!("{{{name}}}")).collect();
    braced.join(", ")
}

impl Template {
    /// Compiles a template that may use the names in `captures` besides those of every record.
    ///
    /// # Errors
    /// [`TemplateError`]
    pub fn parse(text: &str, captures: &[String]) -> Result<Self, TemplateError> {
        let parts = Self::scan(text, |name| part(name, captures))?;
        Ok(Self { parts })
    }

    /// Checks a template's braces alone, for when its names cannot be known.
    ///
    /// # Errors
    /// [`TemplateError`]
    pub fn check_braces(text: &str) -> Result<(), TemplateError> {
        Self::scan(text, |_| Ok(Part::Device)).map(|_| ())
    }

    /// The texts between the names.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Text(text) => Some(text.as_str()),
            Part::Capture(_) | Part::Source | Part::Subject | Part::Device => None,
        })
    }

    /// Whether the template has no names in it, so that it is the same for all records.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.texts().count() == self.parts.len()
    }

    pub(super) fn render(&self, values: &Values<'_>, out: &mut String) {
        let record = values.record;
        for part in &self.parts {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Source => out.push_str(record.source),
                Part::Subject => out.push_str(record.subject),
                Part::Device => values.push_device(out),
                Part::Capture(number) => out.push_str(values.capture(*number)),
            }
        }
    }

    fn scan(
        text: &str,
        mut named: impl FnMut(&str) -> Result<Part, TemplateError>,
    ) -> Result<Vec<Part>, TemplateError> {
        let character = |rest: &str| text[..text.len() - rest.len()].chars().count() + 1;
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            literal.push_str(&rest[..at]);
            rest = &rest[at..];
            if rest.starts_with("{{") || rest.starts_with("}}") {
                literal.push_str(&rest[..1]);
                rest = &rest[2..];
                continue;
            }
            let Some(inner) = rest.strip_prefix('{') else {
                return Err(TemplateError::Unopened {
                    character: character(rest),
                });
            };
            let Some((name, behind)) = inner.split_once('}') else {
                return Err(TemplateError::Unclosed {
                    character: character(rest),
                });
            };
            push_text(&mut parts, &mut literal);
            parts.push(named(name)?);
            rest = behind;
        }
        literal.push_str(rest);
        push_text(&mut parts, &mut literal);
        Ok(parts)
    }
}

fn push_text(parts: &mut Vec<Part>, literal: &mut String) {
    if !literal.is_empty() {
        parts.push(Part::Text(std::mem::take(literal)));
    }
}

fn part(name: &str, captures: &[String]) -> Result<Part, TemplateError> {
    match name {
        "source" => Ok(Part::Source),
        "subject" => Ok(Part::Subject),
        "device" => Ok(Part::Device),
        _ => captures
            .iter()
            .position(|capture| capture == name)
            .map(Part::Capture)
            .ok_or_else(|| unknown(name, captures)),
    }
}

fn unknown(name: &str, captures: &[String]) -> TemplateError {
    let mut known = captures.to_vec();
    for always in ["source", "device", "subject"] {
        if !known.iter().any(|name| name == always) {
            known.push(always.to_owned());
        }
    }
    TemplateError::UnknownName {
        name: name.to_owned(),
        known,
    }
}

/// [`serial_device`](crate::record::serial_device) into a buffer.
fn push_serial_device(subject: &str, out: &mut String) {
    let mut rest = subject
        .split_once('/')
        .map_or(subject, |(_, device)| device);
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let decoded = match rest.as_bytes().get(1..3) {
            Some(b"2F") => '/',
            Some(b"2B") => '+',
            Some(b"23") => '#',
            Some(b"25") => '%',
            Some(_) | None => {
                out.push('%');
                rest = &rest[1..];
                continue;
            }
        };
        out.push(decoded);
        rest = &rest[3..];
    }
    out.push_str(rest);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::record::serial_device;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn an_unknown_name_is_refused_and_the_known_ones_are_listed() {
        let error = Template::parse("air-{distrikt}", &names(&["district", "device"]));
        let error = error.expect_err("unknown name").to_string();
        assert_eq!(
            error,
            "{distrikt} is not known here; known are {district}, {device}, {source}, {subject}"
        );
    }

    #[test]
    fn a_lonely_brace_is_refused_with_its_place() {
        for (text, expected) in [
            ("é{a", TemplateError::Unclosed { character: 2 }),
            ("a}b", TemplateError::Unopened { character: 2 }),
            ("{{a}", TemplateError::Unopened { character: 4 }),
            ("{", TemplateError::Unclosed { character: 1 }),
        ] {
            assert_eq!(Template::check_braces(text), Err(expected), "{text}");
        }
    }

    #[test]
    fn a_template_of_text_alone_is_plain() {
        let plain = Template::parse("a{{b}}", &[]).expect("valid");
        assert!(plain.is_plain());
        assert_eq!(plain.texts().collect::<String>(), "a{b}");
        assert!(!Template::parse("a{device}", &[]).expect("valid").is_plain());
    }

    proptest! {
        #[test]
        fn a_serial_device_is_decoded_as_the_record_module_does(
            subject in "[a-z]{1,3}/[a%2F5B3é]{0,16}",
        ) {
            let mut device = String::new();
            push_serial_device(&subject, &mut device);
            prop_assert_eq!(device, serial_device(&subject));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "[a{}é]{0,16}") {
            let _ = Template::parse(&text, &names(&["a"]));
        }
    }
}
