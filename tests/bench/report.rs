//! The table, and the same as JSON.

use std::fmt;
use std::path::Path;

use comfy_table::{Table, presets};
use serde::Serialize;

use crate::error::BenchError;
use crate::machine::Machine;

/// What a figure should be.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Target {
    AtLeast(f64),
    AtMost(f64),
    /// It is there to explain the others.
    None,
}

/// A figure, measured several times.
#[derive(Debug, Serialize)]
struct Row {
    what: String,
    /// It is shown, and compared with its target, with so many.
    decimals: usize,
    target: Target,
    samples: Vec<f64>,
}

/// All figures.
#[derive(Debug)]
pub(crate) struct Report {
    machine: Machine,
    rows: Vec<Row>,
}

/// A figure, as others read it.
#[derive(Serialize)]
struct Summary<'a> {
    #[serde(flatten)]
    row: &'a Row,
    median: f64,
    least: f64,
    most: f64,
    /// None if there is no target.
    met: Option<bool>,
}

#[derive(Serialize)]
struct Summaries<'a> {
    machine: &'a Machine,
    rows: Vec<Summary<'a>>,
}

impl Row {
    fn median(&self) -> f64 {
        let mut sorted = self.samples.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        match sorted.len() % 2 {
            0 => (sorted[middle - 1] + sorted[middle]) / 2.0,
            _ => sorted[middle],
        }
    }

    fn least(&self) -> f64 {
        self.samples.iter().copied().fold(f64::INFINITY, f64::min)
    }

    fn most(&self) -> f64 {
        let samples = self.samples.iter().copied();
        samples.fold(f64::NEG_INFINITY, f64::max)
    }

    fn summary(&self) -> Summary<'_> {
        Summary {
            row: self,
            median: self.median(),
            least: self.least(),
            most: self.most(),
            met: self.met(),
        }
    }

    fn rounded(&self, value: f64) -> f64 {
        let scale = 10_f64.powi(self.decimals as i32);
        (value * scale).round() / scale
    }

    fn met(&self) -> Option<bool> {
        let median = self.rounded(self.median());
        match self.target {
            Target::AtLeast(least) => Some(median >= least),
            Target::AtMost(most) => Some(median <= most),
            Target::None => None,
        }
    }

    fn cells(&self) -> [String; 5] {
        let text = |value: f64| format!("{value:.*}", self.decimals);
        let target = match self.target {
            Target::AtLeast(value) => format!("≥ {}", text(value)),
            Target::AtMost(value) => format!("≤ {}", text(value)),
            Target::None => String::new(),
        };
        let met = match self.met() {
            Some(true) => "met",
            Some(false) => "NOT met",
            None => "",
        };
        let range = format!("{} to {}", text(self.least()), text(self.most()));
        [
            self.what.clone(),
            target,
            text(self.median()),
            range,
            met.to_owned(),
        ]
    }
}

impl Report {
    pub(crate) fn new(machine: Machine) -> Self {
        Self {
            machine,
            rows: Vec::new(),
        }
    }

    /// Adds a sample of the figure `what`.
    pub(crate) fn add(&mut self, what: &str, decimals: usize, target: Target, sample: f64) {
        if let Some(row) = self.rows.iter_mut().find(|row| row.what == what) {
            row.samples.push(sample);
            return;
        }
        self.rows.push(Row {
            what: what.to_owned(),
            decimals,
            target,
            samples: vec![sample],
        });
    }

    /// Writes it as JSON.
    pub(crate) fn write(&self, path: &Path) -> Result<(), BenchError> {
        let summaries = Summaries {
            machine: &self.machine,
            rows: self.rows.iter().map(Row::summary).collect(),
        };
        let json = serde_json::to_string_pretty(&summaries)
            .map_err(|error| BenchError::io("write the figures")(error.into()))?;
        std::fs::write(path, json).map_err(BenchError::io("write the figures"))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_preset(presets::ASCII_MARKDOWN);
        table.set_header(["", "target", "median", "min to max", ""]);
        for row in &self.rows {
            table.add_row(row.cells());
        }
        write!(f, "{table}")
    }
}
