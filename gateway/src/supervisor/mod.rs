//! Watches whether the pipeline gets on, and tells the service manager: ready, alive, how it is.
//!
//! ```text
//!  log: synced, waiting ──┐            ┌─▶ WATCHDOG=1 while nothing is stalled
//!  forwarder: beats ──────┼─▶ look ────┼─▶ STATUS=…
//!  the runtime: runs us ──┘  every 5 s └─▶ /health
//! ```
//!
//! **Ready** is said once the log is open and every source has connected or opened its port once,
//! but no later than [`READY_WAIT`]: a gateway whose broker is away has work to do, from its other
//! sources and its buffer, and a manager that waited on would kill it. `/ready` waits for ever; the
//! status text names what is still missing. Kafka is not waited for at all.
//!
//! **Alive** means that each part still gets round: the log syncs what was appended unless it waits
//! for space, the forwarder's thread goes through its loop, which it does while Kafka is away too,
//! and this task runs, which takes a runtime that isn't stuck. After [`STALLED_AFTER`] without that
//! `/health` is red and the manager hears nothing any more: it kills and restarts the gateway, which
//! goes on from its log. Without a manager the look alone remains.

mod notify;
mod watchdog;

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, timeout};

use crate::commit_log::{CommitLog, Stats};
use crate::metrics::{Metrics, SourceLabel};
use crate::pulse::Pulse;
pub use notify::Notifier;
pub use watchdog::Stalled;
use watchdog::{Signs, Watchdog};

/// Longest wait for sources. Chosen by eye: a broker on the same board is up by then.
const READY_WAIT: Duration = Duration::from_secs(10);
/// How often is looked, unless the manager wants to hear from us more often.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// How long something may stand still. SD cards have been seen to take ten seconds for one sync;
/// the forwarder's longest calls take five.
const STALLED_AFTER: Duration = Duration::from_secs(60);
/// Looks between two status texts where nothing but numbers has changed.
const STATUS_LOOKS: u32 = 12;

/// Whether each source has been connected once, by name.
pub type Readiness = Vec<(String, watch::Receiver<bool>)>;

/// What is watched.
#[derive(Debug)]
pub struct Pipeline {
    /// The main log.
    pub log: CommitLog,
    /// Of the forwarder's thread.
    pub forwarder: Pulse,
    /// Of all sources.
    pub readiness: Readiness,
    /// Figures.
    pub metrics: Arc<Metrics>,
}

/// See the module.
#[derive(Debug)]
pub struct Supervisor {
    pipeline: Pipeline,
    notifier: Arc<Notifier>,
    watchdog: Watchdog,
    look_interval: Duration,
    verdict: watch::Sender<Option<Stalled>>,
    /// What was told last, and how many looks ago.
    status: String,
    status_looks: u32,
}

impl Supervisor {
    /// Watches a pipeline that has just been started. Also gives what stands still, if anything does.
    #[must_use]
    pub fn new(
        pipeline: Pipeline,
        notifier: Arc<Notifier>,
    ) -> (Self, watch::Receiver<Option<Stalled>>) {
        // A third of what the manager waits, so that one late look is no reason to be killed.
        let asked = notifier.watchdog().map(|within| within / 3);
        let look_interval = asked.unwrap_or(LOOK_INTERVAL).min(LOOK_INTERVAL);
        let looks_max = STALLED_AFTER.as_millis() / look_interval.as_millis().max(1);
        let (verdict, seen) = watch::channel(None);
        let supervisor = Self {
            pipeline,
            notifier,
            watchdog: Watchdog::new(u32::try_from(looks_max).unwrap_or(u32::MAX)),
            look_interval: look_interval.max(Duration::from_millis(1)),
            verdict,
            status: String::new(),
            status_looks: 0,
        };
        (supervisor, seen)
    }

    /// Watches for ever.
    pub async fn run(mut self) {
        let mut looks = looks(self.look_interval);
        let connected = all_connected(self.pipeline.readiness.clone());
        tokio::select! {
            _ = timeout(READY_WAIT, connected) => {}
            // Never ends: the watchdog hears from us while sources are waited for, too.
            () = self.look_on(&mut looks) => {}
        }
        self.notifier.send("READY=1");
        self.status_looks = STATUS_LOOKS;
        self.look_on(&mut looks).await;
    }

    async fn look_on(&mut self, looks: &mut Interval) {
        loop {
            self.look();
            looks.tick().await;
        }
    }

    fn look(&mut self) {
        let stats = self.pipeline.log.stats();
        let stalled = self.watchdog.look(Signs {
            synced: stats.progress.synced,
            unsynced: stats.unsynced,
            condition: stats.progress.condition,
            forwarder_beats: self.pipeline.forwarder.beats(),
        });
        let before = self.verdict.send_replace(stalled);
        match stalled {
            None => {
                self.notifier.send("WATCHDOG=1");
                if let Some(before) = before {
                    tracing::info!("no longer so: {}", before.as_str());
                }
            }
            Some(stalled) if before != Some(stalled) => {
                tracing::error!("{}", stalled.as_str());
            }
            Some(_) => {}
        }
        self.tell(&stats, stalled);
    }

    /// Sends the status text when what it says of connections has changed, else now and then.
    fn tell(&mut self, stats: &Stats, stalled: Option<Stalled>) {
        let status = self.connections(stalled);
        self.status_looks += 1;
        if status == self.status && self.status_looks < STATUS_LOOKS {
            return;
        }
        let waiting = stats.undelivered;
        self.notifier
            .send(&format!("STATUS={status}, {waiting} records in the buffer"));
        self.status = status;
        self.status_looks = 0;
    }

    fn connections(&self, stalled: Option<Stalled>) -> String {
        let metrics = &self.pipeline.metrics;
        let mut text = match (stalled, metrics.kafka_connected.get()) {
            (Some(stalled), _) => stalled.as_str().to_owned(),
            (None, 0) => "Kafka away".to_owned(),
            (None, _) => "Kafka connected".to_owned(),
        };
        for (name, _) in &self.pipeline.readiness {
            let source = name.clone();
            let connected = metrics
                .source_connected
                .get_or_create(&SourceLabel { source });
            if connected.get() == 0 {
                // Writing to a string does not fail.
                let _ = write!(text, ", {name} away");
            }
        }
        text
    }
}

fn looks(every: Duration) -> Interval {
    let mut looks = interval_at(Instant::now() + every, every);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    looks
}

async fn all_connected(readiness: Readiness) {
    for (_, mut ready) in readiness {
        // A source that has ended will not connect: it ends the gateway.
        let _ = ready.wait_for(|ready| *ready).await;
    }
}
