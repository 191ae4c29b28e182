//! One measurement: something takes records, and between two looks at it so many were taken.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::usage::Usage;
use crate::error::BenchError;

/// How often progress is looked at. A look at the gateway costs it 0.1 to 0.2 ms.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// Most records in the queue of the bare producer, which is always full; the gateway has fewer.
const QUEUED_MAX: u64 = 100_000;
/// Longest time without progress.
const PATIENCE: Duration = Duration::from_secs(60);

/// Who is measured.
pub(super) trait Subject {
    /// Its process.
    fn process(&self) -> u32;

    /// How many records it has taken; `None` if it does not say just now.
    fn taken(&self) -> Option<u64>;
}

/// What was measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measured {
    pub(super) records: u64,
    pub(super) seconds: f64,
    pub(super) cpu_seconds: f64,
    pub(super) switches: u64,
    /// Most that it ever had.
    pub(super) rss_kib: u64,
}

impl Measured {
    pub(super) fn per_second(&self) -> f64 {
        self.records as f64 / self.seconds
    }

    pub(super) fn cpu_per_million(&self) -> f64 {
        self.cpu_seconds * 1e6 / self.records as f64
    }

    pub(super) fn switches_per_record(&self) -> f64 {
        self.switches as f64 / self.records as f64
    }

    pub(super) fn rss_mib(&self) -> f64 {
        self.rss_kib as f64 / 1024.0
    }
}

/// A look at the subject.
struct Look {
    at: Instant,
    taken: u64,
    usage: Usage,
}

/// How long to warm up, and to measure.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    pub(super) warm_up: Duration,
    pub(super) measured: Duration,
}

/// Measures for a time, and tells `done` how far the subject is.
pub(super) fn for_time(
    subject: &impl Subject,
    times: Times,
    done: &Arc<AtomicU64>,
) -> Result<Measured, BenchError> {
    let first = until(subject, done, |look| look.taken > 0)?;
    let begin = until(subject, done, |look| look.at - first.at >= times.warm_up)?;
    let end = until(subject, done, |look| look.at - begin.at >= times.measured)?;
    between(&begin, &end)
}

/// Measures while a backlog of `count` is sent: not the first tenth, in which programs and
/// connections start, nor the last records, which lie in the producer's queue and have been paid for
/// in part.
pub(super) fn for_count(subject: &impl Subject, count: u64) -> Result<Measured, BenchError> {
    let done = Arc::default();
    let begin = until(subject, &done, |look| look.taken >= count / 10)?;
    let end = until(subject, &done, |look| look.taken >= count - QUEUED_MAX)?;
    between(&begin, &end)
}

/// Looks until `enough`, and returns the last look.
fn until(
    subject: &impl Subject,
    done: &Arc<AtomicU64>,
    enough: impl Fn(&Look) -> bool,
) -> Result<Look, BenchError> {
    let (mut taken, mut moved_at) = (0, Instant::now());
    loop {
        let now = look(subject, taken)?;
        done.store(now.taken, Ordering::Relaxed);
        if enough(&now) {
            return Ok(now);
        }
        if now.taken > taken {
            (taken, moved_at) = (now.taken, now.at);
        } else if now.at - moved_at > PATIENCE {
            let what = format!("{taken} records were taken, then none");
            return Err(BenchError::Stuck(what));
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
}

fn look(subject: &impl Subject, before: u64) -> Result<Look, BenchError> {
    let taken = subject.taken().unwrap_or(before);
    Ok(Look {
        at: Instant::now(),
        taken,
        usage: Usage::of(&subject.process().to_string())?,
    })
}

fn between(begin: &Look, end: &Look) -> Result<Measured, BenchError> {
    let records = end.taken - begin.taken;
    if records == 0 {
        return Err(BenchError::Stuck("it was over too soon".to_owned()));
    }
    Ok(Measured {
        records,
        seconds: (end.at - begin.at).as_secs_f64(),
        cpu_seconds: end.usage.cpu_seconds - begin.usage.cpu_seconds,
        switches: end.usage.switches - begin.usage.switches,
        rss_kib: end.usage.rss_kib,
    })
}
