//! How far a run is: counters, the bar or lines on stderr, and the report at the end.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

/// How often a line is written where there is no terminal for a bar.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// What the senders have done so far. Shared by all of them; each number only grows.
#[derive(Debug, Default)]
pub struct Counters {
    /// Messages handed to the line or the broker for the first time.
    pub sent: AtomicU64,
    /// Messages that the other end took responsibility for.
    pub acknowledged: AtomicU64,
    /// Messages handed over once more.
    pub resent: AtomicU64,
    /// Messages that the broker refused for good.
    pub refused: AtomicU64,
    /// Connections that were lost.
    pub reconnects: AtomicU64,
    /// Sessions that the broker had forgotten when it should have known them.
    pub sessions_lost: AtomicU64,
    /// Frames or lines damaged on purpose.
    pub damaged: AtomicU64,
    /// Messages that a device overwrote before they were acknowledged.
    pub overwritten: AtomicU64,
}

impl Counters {
    /// Adds to a counter.
    pub fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }

    /// Reads a counter.
    #[must_use]
    pub fn get(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }
}

/// What a run has done.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Messages sent, each counted once.
    pub sent: u64,
    /// Messages acknowledged; null where the other end does not acknowledge.
    pub acknowledged: Option<u64>,
    /// Devices simulated.
    pub devices: u32,
    /// Messages sent again.
    pub resent: u64,
    /// Messages that the broker refused.
    pub refused: u64,
    /// Connections lost.
    pub reconnects: u64,
    /// Sessions that the broker had forgotten.
    pub sessions_lost: u64,
    /// Frames or lines damaged on purpose.
    pub damaged: u64,
    /// Messages overwritten in a device.
    pub overwritten: u64,
    /// Length of the run.
    pub seconds: f64,
    /// Mean rate of messages acknowledged, or sent where nothing is acknowledged.
    pub per_second: f64,
}

impl Report {
    /// The report of a run that took `elapsed`.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    pub fn new(counters: &Counters, devices: u32, acknowledging: bool, elapsed: Duration) -> Self {
        let sent = Counters::get(&counters.sent);
        let acknowledged = acknowledging.then(|| Counters::get(&counters.acknowledged));
        let seconds = elapsed.as_secs_f64();
        Self {
            sent,
            acknowledged,
            devices,
            resent: Counters::get(&counters.resent),
            refused: Counters::get(&counters.refused),
            reconnects: Counters::get(&counters.reconnects),
            sessions_lost: Counters::get(&counters.sessions_lost),
            damaged: Counters::get(&counters.damaged),
            overwritten: Counters::get(&counters.overwritten),
            seconds: (seconds * 1000.0).round() / 1000.0,
            per_second: (acknowledged.unwrap_or(sent) as f64 / seconds.max(1e-3)).round(),
        }
    }

    /// Whether all that was sent was acknowledged, where acknowledgement exists.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.acknowledged
            .is_none_or(|acknowledged| acknowledged == self.sent)
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "sent {} from {} devices", self.sent, self.devices)?;
        match self.acknowledged {
            Some(acknowledged) => write!(f, ", acknowledged {acknowledged}")?,
            None => write!(f, ", not acknowledged by protocol")?,
        }
        let rare = [
            ("resent", self.resent),
            ("refused", self.refused),
            ("reconnects", self.reconnects),
            ("sessions lost", self.sessions_lost),
            ("damaged", self.damaged),
            ("overwritten", self.overwritten),
        ];
        for (name, count) in rare.into_iter().filter(|(_, count)| *count > 0) {
            write!(f, ", {name} {count}")?;
        }
        write!(f, ", {:.1} s, {:.0}/s", self.seconds, self.per_second)
    }
}

/// Shows the counters while a run goes on: a bar on a terminal, a line now and then elsewhere.
#[derive(Debug)]
pub struct Display {
    bar: ProgressBar,
    line_due: Instant,
}

impl Display {
    /// A display for a run of `count` messages, or without an end.
    #[must_use]
    pub fn new(count: Option<u64>) -> Self {
        let bar = ProgressBar::with_draw_target(count, ProgressDrawTarget::stderr());
        let template = if count.is_some() {
            "{bar:24} {pos}/{len} sent, {msg}, eta {eta}"
        } else {
            "{spinner} {pos} sent, {msg}, {elapsed}"
        };
        bar.set_style(ProgressStyle::with_template(template).expect("the template is valid"));
        Self {
            bar,
            line_due: Instant::now() + LINE_INTERVAL,
        }
    }

    /// Shows the present state.
    pub fn update(&mut self, counters: &Counters, now: Instant) {
        let sent = Counters::get(&counters.sent);
        let acknowledged = Counters::get(&counters.acknowledged);
        if !self.bar.is_hidden() {
            self.bar.set_message(format!("acknowledged {acknowledged}"));
            self.bar.set_position(sent);
        } else if now >= self.line_due {
            self.line_due = now + LINE_INTERVAL;
            eprintln!("sent {sent}, acknowledged {acknowledged}");
        }
    }

    /// Leaves the terminal clean for the report.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(sent: u64, acknowledged: u64, acknowledging: bool) -> Report {
        let counters = Counters::default();
        Counters::add(&counters.sent, sent);
        Counters::add(&counters.acknowledged, acknowledged);
        Report::new(&counters, 3, acknowledging, Duration::from_secs(2))
    }

    #[test]
    fn a_run_is_complete_when_all_that_was_sent_is_acknowledged() {
        assert!(report(5, 5, true).is_complete());
        assert!(!report(5, 4, true).is_complete());
        assert!(report(5, 0, false).is_complete());
    }

    #[test]
    fn the_report_has_its_fields_in_json_and_in_words() {
        let report = report(10, 8, true);
        let json = serde_json::to_value(&report).unwrap();
        for (field, value) in [
            ("sent", 10),
            ("acknowledged", 8),
            ("devices", 3),
            ("resent", 0),
        ] {
            assert_eq!(json[field], value, "{field}");
        }
        assert_eq!(
            report.to_string(),
            "sent 10 from 3 devices, acknowledged 8, 2.0 s, 4/s"
        );
    }
}
