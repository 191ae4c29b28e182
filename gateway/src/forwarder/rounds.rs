//! When the log is read on: in rounds, each of which takes all that is synced.
//!
//! A round begins with a group commit, so that the youngest records wait for nothing: with the first one
//! that ends half of `linger` after the last round began. Where none does, what is there goes when `linger`
//! is over:
//!
//! ```text
//!  commits   │         │         │         │                   │
//!  rounds    ├── rest ───┬─ until the next commit ─┤
//!            0         linger/2                linger
//! ```
//!
//! The first record after a quiet time goes to Kafka at once. While records come all the time, those of
//! two or three commits go together: fewer requests and wake-ups than if each batch waited for a time of
//! its own in librdkafka, and no later. A backlog is one round, however long.

use std::time::{Duration, Instant};

/// What the next round waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    /// Nothing: it may begin, or one goes on.
    No,
    /// For so long, whatever comes.
    Rest(Duration),
    /// For the end of a group commit, so long at most.
    UntilCommit(Duration),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Rounds {
    linger: Duration,
    /// When the round that goes on, or the last one, began; `None` where the next need not wait.
    began: Option<Instant>,
    under_way: bool,
}

impl Rounds {
    pub(super) fn new(linger: Duration) -> Self {
        Self {
            linger,
            began: None,
            under_way: false,
        }
    }

    /// What the next round waits for.
    pub(super) fn hold(&self, now: impl FnOnce() -> Instant) -> Hold {
        let Some(began) = self.began.filter(|_| !self.under_way) else {
            return Hold::No;
        };
        let passed = now().saturating_duration_since(began);
        match self.linger.saturating_sub(passed) {
            Duration::ZERO => Hold::No,
            left if left > self.linger / 2 => Hold::Rest(left - self.linger / 2),
            left => Hold::UntilCommit(left),
        }
    }

    /// The group commit that the next round waits for has ended.
    pub(super) fn committed(&mut self) {
        self.began = None;
    }

    /// Something was read.
    pub(super) fn goes_on(&mut self, now: impl FnOnce() -> Instant) {
        if !self.under_way {
            self.under_way = true;
            self.began = (!self.linger.is_zero()).then(now);
        }
    }

    /// Nothing is left to be read.
    pub(super) fn ends(&mut self) {
        self.under_way = false;
    }

    /// What was read is read again, at once.
    pub(super) fn begin_anew(&mut self) {
        self.under_way = false;
        self.began = None;
    }

    /// Half of `linger` has passed.
    #[cfg(test)]
    pub(super) fn rested(&mut self) {
        self.began = Instant::now().checked_sub(self.linger / 2);
    }

    /// From here on nothing waits: what is there is to be sent before the gateway ends.
    pub(super) fn hurry(&mut self) {
        self.linger = Duration::ZERO;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINGER: Duration = Duration::from_millis(20);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// A round that has begun, and ended at once.
    fn ended() -> (Rounds, Instant) {
        let mut rounds = Rounds::new(LINGER);
        let start = Instant::now();
        rounds.goes_on(|| start);
        rounds.ends();
        (rounds, start)
    }

    #[test]
    fn the_first_record_after_a_quiet_time_goes_at_once() {
        let start = Instant::now();
        assert_eq!(Rounds::new(LINGER).hold(|| start), Hold::No);
        let (rounds, start) = ended();
        assert_eq!(rounds.hold(|| start + LINGER), Hold::No);
        assert_eq!(rounds.hold(|| start + LINGER * 1000), Hold::No);
    }

    #[test]
    fn the_next_round_rests_and_then_begins_with_a_commit() {
        let (mut rounds, start) = ended();
        assert_eq!(rounds.hold(|| start), Hold::Rest(ms(10)));
        assert_eq!(rounds.hold(|| start + ms(9)), Hold::Rest(ms(1)));
        assert_eq!(rounds.hold(|| start + ms(10)), Hold::UntilCommit(ms(10)));
        assert_eq!(rounds.hold(|| start + ms(19)), Hold::UntilCommit(ms(1)));
        rounds.committed();
        assert_eq!(rounds.hold(|| start + ms(19)), Hold::No);
        rounds.goes_on(|| start + ms(19));
        rounds.ends();
        assert_eq!(rounds.hold(|| start + ms(20)), Hold::Rest(ms(9)));
    }

    #[test]
    fn a_round_goes_on_as_long_as_there_is_something_to_read() {
        let mut rounds = Rounds::new(LINGER);
        let start = Instant::now();
        rounds.goes_on(|| start);
        assert_eq!(rounds.hold(|| start), Hold::No);
        rounds.goes_on(|| start + ms(15));
        assert_eq!(rounds.hold(|| start + ms(15)), Hold::No);
        rounds.ends();
        let left = rounds.hold(|| start + ms(15));
        assert_eq!(left, Hold::UntilCommit(ms(5)), "since its beginning");
    }

    #[test]
    fn what_is_read_again_does_not_wait() {
        let (mut rounds, start) = ended();
        rounds.begin_anew();
        assert_eq!(rounds.hold(|| start), Hold::No);
        rounds.goes_on(|| start + ms(1));
        rounds.ends();
        assert_eq!(rounds.hold(|| start + ms(1)), Hold::Rest(ms(10)));
    }

    #[test]
    fn nobody_waits_who_is_in_a_hurry_or_has_no_linger() {
        let (mut rounds, start) = ended();
        rounds.hurry();
        assert_eq!(rounds.hold(|| start), Hold::No);
        let mut rounds = Rounds::new(Duration::ZERO);
        rounds.goes_on(|| start);
        rounds.ends();
        assert_eq!(rounds.hold(|| start), Hold::No);
    }
}
