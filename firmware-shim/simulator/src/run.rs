//! The life of a run: sending, draining, ended; signals, patience and the display.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::progress::{Counters, Display};
use crate::schedule::Schedule;

/// How often the display and the patience are looked after.
const TICK: Duration = Duration::from_millis(200);

/// What the senders are to do. Only goes forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Make new messages.
    Sending,
    /// Make none, wait for the acknowledgement of those sent.
    Draining,
    /// End at once.
    Aborted,
}

/// What senders and supervisor share.
#[derive(Debug)]
pub struct Run {
    schedule: Schedule,
    counters: Arc<Counters>,
    phase: watch::Sender<Phase>,
    started: Instant,
}

impl Run {
    /// A run that begins now.
    #[must_use]
    pub fn new(schedule: Schedule) -> Self {
        Self {
            schedule,
            counters: Arc::default(),
            phase: watch::Sender::new(Phase::Sending),
            started: Instant::now(),
        }
    }

    /// When which message is due.
    #[must_use]
    pub const fn schedule(&self) -> Schedule {
        self.schedule
    }

    /// The counters, to count on.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// The phase, to be watched.
    #[must_use]
    pub fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Time since the beginning.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Tells the senders to go on to `phase`; never back.
    pub fn advance(&self, phase: Phase) {
        self.phase.send_if_modified(|present| {
            let forward = phase > *present;
            *present = phase.max(*present);
            forward
        });
    }

    /// Watches over `work` until it ends: SIGTERM and SIGINT stop the sending, a second one the
    /// run; so do `ack_timeout` without an acknowledgement after the last message was sent.
    ///
    /// # Errors
    /// Those of `work`, and [`std::io::Error`] if signals cannot be received.
    pub async fn supervise<E: From<std::io::Error>>(
        &self,
        ack_timeout: Duration,
        work: impl Future<Output = Result<(), E>>,
    ) -> Result<(), E> {
        let mut signals = (
            signal(SignalKind::terminate())?,
            signal(SignalKind::interrupt())?,
        );
        let mut display = Display::new(self.schedule.count);
        let mut patience = Patience::new(ack_timeout, Instant::now());
        let mut tick = tokio::time::interval(TICK);
        let mut work = pin!(work);
        let result = loop {
            tokio::select! {
                result = &mut work => break result,
                () = either(&mut signals) => self.on_signal(),
                _ = tick.tick() => {
                    display.update(&self.counters, Instant::now());
                    if patience.is_over(Instant::now(), self.total(), self.sending_is_over()) {
                        self.advance(Phase::Aborted);
                    }
                }
            }
        };
        display.finish();
        result
    }

    fn on_signal(&self) {
        let present = *self.phase.borrow();
        self.advance(match present {
            Phase::Sending => Phase::Draining,
            Phase::Draining | Phase::Aborted => Phase::Aborted,
        });
    }

    fn total(&self) -> u64 {
        Counters::get(&self.counters.sent) + Counters::get(&self.counters.acknowledged)
    }

    fn sending_is_over(&self) -> bool {
        let sent = Counters::get(&self.counters.sent);
        *self.phase.borrow() != Phase::Sending || self.schedule.is_over(sent, self.elapsed())
    }
}

async fn either(signals: &mut (Signal, Signal)) {
    tokio::select! {
        _ = signals.0.recv() => {}
        _ = signals.1.recv() => {}
    }
}

/// How long to wait for acknowledgements once all is sent.
#[derive(Debug)]
struct Patience {
    timeout: Duration,
    total: u64,
    since: Instant,
}

impl Patience {
    const fn new(timeout: Duration, now: Instant) -> Self {
        Self {
            timeout,
            total: 0,
            since: now,
        }
    }

    /// Whether nothing has moved for too long. `total` grows with everything sent or acknowledged.
    fn is_over(&mut self, now: Instant, total: u64, sending_is_over: bool) -> bool {
        if !sending_is_over || total != self.total {
            self.total = total;
            self.since = now;
        }
        now.duration_since(self.since) > self.timeout
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNLIMITED: Schedule = Schedule {
        rate: 1.0,
        count: None,
        duration: None,
    };

    #[test]
    fn patience_begins_with_the_last_message_and_again_with_every_acknowledgement() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut patience = Patience::new(Duration::from_secs(60), start);
        assert!(!patience.is_over(at(1_000), 5, false), "still sending");
        assert!(!patience.is_over(at(1_060), 5, true));
        assert!(!patience.is_over(at(1_061), 6, true), "one acknowledged");
        assert!(!patience.is_over(at(1_121), 6, true));
        assert!(patience.is_over(at(1_122), 6, true));
    }

    #[test]
    fn a_phase_never_goes_back() {
        let run = Run::new(UNLIMITED);
        run.on_signal();
        assert_eq!(*run.phase().borrow(), Phase::Draining);
        run.on_signal();
        run.advance(Phase::Draining);
        assert_eq!(*run.phase().borrow(), Phase::Aborted);
    }
}
