//! A table of figures, each with its budget.

use std::fmt::Write as _;

/// Figures of one test.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    what: String,
    found: f64,
    /// None for what is only told.
    most: Option<f64>,
    unit: &'static str,
}

impl Row {
    fn is_kept(&self) -> bool {
        self.most.is_none_or(|most| self.found <= most)
    }
}

impl Budget {
    /// A figure that must not be above `most`.
    pub(crate) fn at_most(&mut self, what: &str, found: f64, most: f64, unit: &'static str) {
        self.add(what, found, Some(most), unit);
    }

    /// A figure of which nothing is demanded.
    pub(crate) fn tell(&mut self, what: &str, found: f64, unit: &'static str) {
        self.add(what, found, None, unit);
    }

    fn add(&mut self, what: &str, found: f64, most: Option<f64>, unit: &'static str) {
        let what = what.to_owned();
        self.rows.push(Row {
            what,
            found,
            most,
            unit,
        });
    }

    /// Prints the table.
    ///
    /// # Panics
    /// If a budget is not kept.
    pub(crate) fn settle(self) {
        let mut table = "| | found | at most |\n|---|---|---|\n".to_owned();
        for row in &self.rows {
            let most = row.most.map_or(String::new(), |most| format!("{most}"));
            // Writing to a string does not fail.
            let _ = writeln!(
                table,
                "| {} | {:.1} {} | {most} |",
                row.what, row.found, row.unit
            );
        }
        println!("{table}");
        let over: Vec<&Row> = self.rows.iter().filter(|row| !row.is_kept()).collect();
        assert!(over.is_empty(), "over budget: {over:?}");
    }
}

#[test]
#[should_panic(expected = "over budget: [Row { what: \"b\"")]
fn what_is_over_its_budget_fails() {
    let mut budget = Budget::default();
    budget.at_most("a", 1.0, 1.0, "");
    budget.at_most("b", 1.1, 1.0, "");
    budget.tell("c", 9.0, "");
    budget.settle();
}
