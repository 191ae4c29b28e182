//! Reading a TOML document key by key, gathering mistakes on the way.
//!
//! serde stops at the first mistake, so the document is parsed to a tree that knows where in the
//! file each value stands, and the readers of the sections ask it for their keys. What a section
//! was never asked for is an unknown key.
//!
//! A getter that finds a mistake adds it and returns `None`; its caller goes on with a stand-in,
//! since a configuration with mistakes is never handed out.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::nearest::nearest;
use super::report::{Mistakes, Place};
use super::units;

/// A table of the document, or one that isn't there and therefore empty.
pub(super) struct Section<'a> {
    key: String,
    place: Place,
    table: Option<&'a DeTable<'a>>,
    asked: Vec<&'static str>,
    mistakes: &'a Mistakes,
}

/// A value of the document.
#[derive(Clone)]
pub(super) struct Value<'a> {
    key: String,
    place: Place,
    value: &'a DeValue<'a>,
    mistakes: &'a Mistakes,
}

/// Whether the file has this value: where the text is no TOML, the parser goes on with one of its
/// own, which stands nowhere.
fn is_there(value: &Spanned<DeValue<'_>>) -> bool {
    !value.span().is_empty()
}

impl<'a> Section<'a> {
    pub(super) fn root(table: &'a DeTable<'a>, mistakes: &'a Mistakes) -> Self {
        Self {
            key: String::new(),
            place: Place::File,
            table: Some(table),
            asked: Vec::new(),
            mistakes,
        }
    }

    /// A value, if it is there.
    pub(super) fn get(&mut self, name: &'static str) -> Option<Value<'a>> {
        self.asked.push(name);
        let value = self.table?.get(name).filter(|value| is_there(value))?;
        Some(Value {
            key: self.path(name),
            place: Place::At(value.span().start),
            value: value.get_ref(),
            mistakes: self.mistakes,
        })
    }

    /// A value that must be there.
    pub(super) fn required(&mut self, name: &'static str, example: &str) -> Option<Value<'a>> {
        let value = self.get(name);
        if value.is_none() {
            let hint = format!("write, for example, {example}");
            self.mistakes
                .add_missing(self.place.clone(), &self.path(name), hint);
        }
        value
    }

    /// A table below; an empty one if it isn't there.
    pub(super) fn section(&mut self, name: &'static str) -> Section<'a> {
        let below = self.get(name).and_then(|value| value.section());
        below.unwrap_or_else(|| Section {
            key: self.path(name),
            place: self.place.clone(),
            table: None,
            asked: Vec::new(),
            mistakes: self.mistakes,
        })
    }

    /// All values, whatever their keys, in the order of the file.
    pub(super) fn entries(&self) -> Vec<(&'a str, Value<'a>)> {
        let mut entries: Vec<_> = self
            .table
            .iter()
            .flat_map(|table| table.iter())
            .map(|(name, value)| {
                let value = Value {
                    key: self.path(name.get_ref()),
                    place: Place::At(name.span().start),
                    value: value.get_ref(),
                    mistakes: self.mistakes,
                };
                (name.get_ref().as_ref(), value)
            })
            .collect();
        entries.sort_by(|(_, a), (_, b)| a.place.cmp(&b.place));
        entries
    }

    /// Where mistakes go, for values that stand in other files.
    pub(super) fn mistakes(&self) -> &'a Mistakes {
        self.mistakes
    }

    /// A mistake of the section as a whole.
    pub(super) fn wrong(&self, what: impl Into<String>, hint: impl Into<String>) {
        self.mistakes.add(self.place.clone(), &self.key, what, hint);
    }

    /// The section lacks `name`, which it needs in this place.
    pub(super) fn missing(&self, name: &str, hint: impl Into<String>) {
        self.mistakes
            .add_missing(self.place.clone(), &self.path(name), hint);
    }

    /// Ends the reading of the section: keys it was not asked for are mistakes.
    pub(super) fn finish(self) {
        for (name, value) in self.entries() {
            if self.asked.contains(&name) {
                continue;
            }
            let hint = match nearest(name, self.asked.iter().copied()) {
                Some(near) => format!("did you mean {near:?}?"),
                None => format!("known here: {}", self.asked.join(", ")),
            };
            value.wrong("is not a known key", hint);
        }
    }

    fn path(&self, name: &str) -> String {
        if self.key.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.key)
        }
    }
}

impl<'a> Value<'a> {
    /// Where it stands.
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// Adds a mistake in this value.
    pub(super) fn wrong(&self, what: impl Into<String>, hint: impl Into<String>) {
        self.mistakes.add(self.place.clone(), &self.key, what, hint);
    }

    /// The value as a table, with a section's manners.
    pub(super) fn section(&self) -> Option<Section<'a>> {
        let DeValue::Table(table) = self.value else {
            self.wrong_type("a table", &format!("[{}]", self.key));
            return None;
        };
        Some(Section {
            key: self.key.clone(),
            place: self.place.clone(),
            table: Some(table),
            asked: Vec::new(),
            mistakes: self.mistakes,
        })
    }

    /// The values of a list.
    pub(super) fn list(&self, example: &str) -> Option<Vec<Value<'a>>> {
        let DeValue::Array(items) = self.value else {
            self.wrong_type("a list", example);
            return None;
        };
        let item = |(number, item): (usize, &'a Spanned<DeValue<'a>>)| Value {
            key: format!("{}[{number}]", self.key),
            place: Place::At(item.span().start),
            value: item.get_ref(),
            mistakes: self.mistakes,
        };
        let items = items.iter().enumerate();
        Some(
            items
                .filter(|(_, value)| is_there(value))
                .map(item)
                .collect(),
        )
    }

    /// The value as text.
    pub(super) fn text(&self, example: &str) -> Option<&'a str> {
        let DeValue::String(text) = self.value else {
            self.wrong_type("text", &format!("{example:?}"));
            return None;
        };
        Some(text.as_ref())
    }

    /// Text that is an absolute path.
    pub(super) fn path(&self, example: &str) -> Option<PathBuf> {
        let path = PathBuf::from(self.text(example)?);
        if !path.is_absolute() {
            let what = format!("{:?} is not an absolute path", path.display().to_string());
            self.wrong(
                what,
                format!("write it from the root, for example {example:?}"),
            );
            return None;
        }
        Some(path)
    }

    /// An absolute path of a file that can be read now.
    pub(super) fn readable_file(&self, example: &str) -> Option<PathBuf> {
        let path = self.path(example)?;
        let readable = std::fs::File::open(&path).and_then(|file| file.metadata());
        match readable {
            Ok(metadata) if metadata.is_dir() => {
                self.wrong(format!("{} is a directory", path.display()), "name a file");
                None
            }
            Ok(_) => Some(path),
            Err(error) => {
                let what = format!("cannot read {}: {error}", path.display());
                self.wrong(what, "create it, or let the gateway's user read it");
                None
            }
        }
    }

    /// True or false.
    pub(super) fn boolean(&self) -> Option<bool> {
        let DeValue::Boolean(boolean) = self.value else {
            self.wrong_type("true or false", "true");
            return None;
        };
        Some(*boolean)
    }

    /// A whole number within bounds.
    pub(super) fn integer(&self, range: RangeInclusive<u64>) -> Option<u64> {
        let bounds = format!("a whole number from {} to {}", range.start(), range.end());
        let DeValue::Integer(integer) = self.value else {
            self.wrong_type(&bounds, &range.start().to_string());
            return None;
        };
        let number = u64::from_str_radix(integer.as_str(), integer.radix()).ok();
        let number = number.filter(|number| range.contains(number));
        if number.is_none() {
            self.wrong(
                format!("{integer} is out of range"),
                format!("write {bounds}"),
            );
        }
        number
    }

    /// A finite number, whole or not.
    pub(super) fn float(&self, example: &str) -> Option<f64> {
        let number = match self.value {
            DeValue::Float(number) => number.as_str().replace('_', "").parse().ok(),
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
                .ok()
                .map(|number| number as f64),
            DeValue::String(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_)
            | DeValue::Array(_)
            | DeValue::Table(_) => {
                self.wrong_type("a number", example);
                return None;
            }
        };
        let number = number.filter(|number: &f64| number.is_finite());
        if number.is_none() {
            self.wrong(
                "is no finite number",
                format!("write, for example, {example}"),
            );
        }
        number
    }

    /// A size within bounds, in bytes.
    pub(super) fn size(&self, range: RangeInclusive<u64>) -> Option<u64> {
        let bytes = self.quantity("size", "\"64 MiB\"", units::size)?;
        if range.contains(&bytes) {
            return Some(bytes);
        }
        let [least, most] = [range.start(), range.end()].map(|bytes| units::show_size(*bytes));
        self.out_of_range(&units::show_size(bytes), &least, &most);
        None
    }

    /// A duration within bounds.
    pub(super) fn duration(&self, range: RangeInclusive<Duration>) -> Option<Duration> {
        let zero = matches!(self.value, DeValue::Integer(n) if n.as_str() == "0");
        let duration = if zero {
            Duration::ZERO
        } else {
            self.quantity("duration", "\"250 ms\", \"30 min\"", units::duration)?
        };
        if range.contains(&duration) {
            return Some(duration);
        }
        let [least, most] = [range.start(), range.end()].map(|time| units::show_duration(*time));
        self.out_of_range(&units::show_duration(duration), &least, &most);
        None
    }

    /// One of a few words, each with what it means.
    pub(super) fn choice<T: Copy>(&self, allowed: &[(&str, T)]) -> Option<T> {
        let words: Vec<String> = allowed
            .iter()
            .map(|(word, _)| format!("{word:?}"))
            .collect();
        let text = self.text(allowed[0].0)?;
        if let Some((_, meaning)) = allowed.iter().find(|(word, _)| *word == text) {
            return Some(*meaning);
        }
        let near = nearest(text, allowed.iter().map(|(word, _)| *word))
            .map_or(String::new(), |near| format!("; did you mean {near:?}?"));
        let hint = format!("allowed: {}{near}", words.join(", "));
        self.wrong(format!("{text:?} is not one of the allowed values"), hint);
        None
    }

    /// A value that librdkafka takes: text, a number or a truth value, as text.
    pub(super) fn scalar(&self) -> Option<String> {
        match self.value {
            DeValue::String(text) => Some(text.to_string()),
            DeValue::Integer(number) => Some(number.to_string()),
            DeValue::Float(number) => Some(number.as_str().to_owned()),
            DeValue::Boolean(truth) => Some(truth.to_string()),
            DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => {
                self.wrong_type("text, a number, true or false", "\"value\"");
                None
            }
        }
    }

    /// The value as a truth value.
    pub(super) fn truth(&self) -> Option<bool> {
        let DeValue::Boolean(truth) = self.value else {
            self.wrong_type("true or false", "true");
            return None;
        };
        Some(*truth)
    }

    /// Whether the value is a table.
    pub(super) fn is_table(&self) -> bool {
        matches!(self.value, DeValue::Table(_))
    }

    /// Whether the value is a list.
    pub(super) fn is_list(&self) -> bool {
        matches!(self.value, DeValue::Array(_))
    }

    fn quantity<T>(
        &self,
        kind: &str,
        examples: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let DeValue::String(text) = self.value else {
            self.wrong_type(&format!("a {kind} with its unit"), examples);
            return None;
        };
        let quantity = parse(text);
        if quantity.is_none() {
            let hint = format!("write a whole number and a unit, as in {examples}");
            self.wrong(format!("{text:?} is not a {kind}"), hint);
        }
        quantity
    }

    fn out_of_range(&self, given: &str, least: &str, most: &str) {
        let hint = format!("write {least:?} to {most:?}");
        self.wrong(format!("{given:?} is out of range"), hint);
    }

    fn wrong_type(&self, expected: &str, example: &str) {
        let found = match self.value {
            DeValue::String(_) => "text",
            DeValue::Integer(_) | DeValue::Float(_) => "a number",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        let what = format!("is {found} where {expected} is expected");
        self.wrong(what, format!("write, for example, {example}"));
    }
}
