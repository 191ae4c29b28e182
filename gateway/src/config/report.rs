//! Mistakes in a configuration: gathered while it is read, reported all at once.

use std::cell::RefCell;
use std::fmt;
use std::path::{Path, PathBuf};

/// One mistake: where it is, what is wrong, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The file it is in.
    pub file: PathBuf,
    /// Its line, from 1; `None` where something is missing from the whole file.
    pub line: Option<usize>,
    /// Path of the key, as in `sources.city.url`; empty where the file is no TOML.
    pub key: String,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub hint: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, "{line}:")?;
        }
        if !self.key.is_empty() {
            write!(f, " {}:", self.key)?;
        }
        write!(f, " {}", self.what)?;
        if !self.hint.is_empty() {
            write!(f, "\n    {}", self.hint)?;
        }
        Ok(())
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}; name another with --config", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file has mistakes.
    #[error("{}", report(mistakes))]
    Invalid {
        /// At least one, in the order of the file.
        mistakes: Vec<Mistake>,
    },
}

fn report(mistakes: &[Mistake]) -> String {
    let mut text: String = mistakes.iter().map(|m| format!("{m}\n")).collect();
    let plural = if mistakes.len() == 1 { "" } else { "s" };
    text.push_str(&format!(
        "the configuration has {} mistake{plural}",
        mistakes.len()
    ));
    text
}

/// Where the mistakes of one run are gathered.
#[derive(Debug, Default)]
pub(super) struct Mistakes {
    found: RefCell<Vec<Found>>,
}

#[derive(Clone, Debug)]
struct Found {
    place: Place,
    absent: bool,
    key: String,
    what: String,
    hint: String,
}

/// Where a mistake is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// Nowhere: something is missing from the whole file.
    File,
    /// At a byte of the configuration file.
    At(usize),
    /// In a file that it names.
    Other { path: PathBuf, line: usize },
}

impl Mistakes {
    /// Something that is there is wrong.
    pub(super) fn add(
        &self,
        place: Place,
        key: &str,
        what: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.found.borrow_mut().push(Found {
            place,
            absent: false,
            key: key.to_owned(),
            what: what.into(),
            hint: hint.into(),
        });
    }

    /// Something that must be there isn't.
    pub(super) fn add_missing(&self, place: Place, key: &str, hint: impl Into<String>) {
        self.found.borrow_mut().push(Found {
            place,
            absent: true,
            key: key.to_owned(),
            what: "is missing".to_owned(),
            hint: hint.into(),
        });
    }

    /// How many there are so far.
    pub(super) fn count(&self) -> usize {
        self.found.borrow().len()
    }

    /// All of them, in the order of the file `path`, whose content is `text`.
    ///
    /// Where the text is no TOML, what could not be read is not reported as missing, nor is a line
    /// with a mistake of syntax (one without a key) reported more than once.
    pub(super) fn into_report(self, path: &Path, text: &str) -> Vec<Mistake> {
        let mut found = self.found.into_inner();
        if found.iter().any(|found| found.key.is_empty()) {
            found.retain(|found| !found.absent);
        }
        found.sort_by(|a, b| (&a.place, &a.key).cmp(&(&b.place, &b.key)));
        let mut report: Vec<Mistake> = found
            .into_iter()
            .map(|found| found.resolve(path, text))
            .collect();
        let broken: Vec<Option<usize>> = report
            .iter()
            .filter(|mistake| mistake.key.is_empty())
            .map(|mistake| mistake.line)
            .collect();
        report.retain(|mistake| mistake.key.is_empty() || !broken.contains(&mistake.line));
        report.dedup_by(|a, b| a.key.is_empty() && b.key.is_empty() && a.line == b.line);
        report
    }
}

impl Found {
    fn resolve(self, path: &Path, text: &str) -> Mistake {
        let (file, line) = match self.place {
            Place::File => (path.to_owned(), None),
            Place::At(at) => (path.to_owned(), Some(line_of(text, at))),
            Place::Other { path, line } => (path, Some(line)),
        };
        Mistake {
            file,
            line,
            key: self.key,
            what: self.what,
            hint: self.hint,
        }
    }
}

fn line_of(text: &str, at: usize) -> usize {
    let before = text.as_bytes().get(..at).unwrap_or(text.as_bytes());
    before.iter().filter(|byte| **byte == b'\n').count() + 1
}
