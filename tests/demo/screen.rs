//! What the demo shows: lines that change on a terminal, plain ones elsewhere, and the last table.

use std::io::IsTerminal as _;
use std::sync::atomic::{AtomicU64, Ordering};

use comfy_table::Table;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use system_tests::tally::Counts;

/// Where there is no terminal, a line every so many seconds.
const PLAIN_EVERY_SECONDS: u64 = 5;

/// A topic's result.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) topic: &'static str,
    pub(crate) sent: u64,
    pub(crate) counts: Counts,
}

impl Row {
    fn lost(&self) -> u64 {
        self.sent.saturating_sub(self.counts.distinct)
    }

    pub(crate) fn is_whole(&self) -> bool {
        let Counts {
            distinct,
            out_of_order,
            missing,
            unreadable,
            ..
        } = self.counts;
        distinct == self.sent && out_of_order == 0 && missing == 0 && unreadable == 0
    }
}

/// The final table.
pub(crate) fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.set_header([
        "topic",
        "sent",
        "delivered",
        "lost",
        "duplicated",
        "out of order",
    ]);
    for row in rows {
        let Counts {
            distinct,
            duplicates,
            out_of_order,
            ..
        } = row.counts;
        let figures = [row.sent, distinct, row.lost(), duplicates, out_of_order];
        let cells = figures.map(|figure| figure.to_string());
        table.add_row(std::iter::once(row.topic.to_owned()).chain(cells));
    }
    table
}

/// The live part.
#[derive(Debug)]
pub(crate) struct Screen {
    progress: MultiProgress,
    bar: ProgressBar,
    lines: Vec<ProgressBar>,
    topics: Vec<&'static str>,
    terminal: bool,
    plain_due: AtomicU64,
}

impl Screen {
    pub(crate) fn new(seconds: u64, topics: &[&'static str]) -> Self {
        let progress = MultiProgress::new();
        let line = ProgressStyle::with_template("{msg}").expect("a valid template");
        let add = |_| progress.add(ProgressBar::new_spinner().with_style(line.clone()));
        // One line a topic, and one for Kafka and the buffer.
        let lines = (0..=topics.len()).map(add).collect();
        let style = ProgressStyle::with_template("[{bar:50}] {pos}/{len} s");
        let bar = ProgressBar::new(seconds).with_style(style.expect("a valid template"));
        let bar = progress.add(bar);
        Self {
            progress,
            bar,
            lines,
            topics: topics.to_vec(),
            terminal: std::io::stderr().is_terminal(),
            plain_due: AtomicU64::new(0),
        }
    }

    /// Says something that stays.
    pub(crate) fn say(&self, text: &str) {
        if self.terminal {
            // A terminal that is gone needs to be told nothing.
            let _ = self.progress.println(format!("— {text}"));
        } else {
            println!("— {text}");
        }
    }

    pub(crate) fn show(&self, seconds: u64, kafka_away: bool, fill: u64, delivered: &[u64]) {
        let kafka = if kafka_away { "AWAY" } else { "there" };
        let state = format!("Kafka {kafka:<6} buffered {fill:>7}");
        if !self.terminal {
            if seconds >= self.plain_due.load(Ordering::Relaxed) {
                let due = seconds - seconds % PLAIN_EVERY_SECONDS + PLAIN_EVERY_SECONDS;
                self.plain_due.store(due, Ordering::Relaxed);
                println!(
                    "{seconds:>3} s  {state}  delivered {}",
                    delivered.iter().sum::<u64>()
                );
            }
            return;
        }
        self.bar.set_position(seconds);
        self.lines[0].set_message(state);
        for ((line, topic), count) in self.lines[1..].iter().zip(&self.topics).zip(delivered) {
            line.set_message(format!("{topic:<20} delivered {count:>7}"));
        }
    }

    pub(crate) fn finish(&self) {
        for line in &self.lines {
            line.finish();
        }
        self.bar.finish();
    }
}
