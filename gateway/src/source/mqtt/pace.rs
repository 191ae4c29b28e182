//! When publishes are read: how to wake up seldom, and lose no time by it.
//!
//! What trickles in while the log is waited for gathers in the kernel. A first look after [`GATHER`] tells
//! a burst that has ended from a trickle that goes on. A trickle is then left alone until shortly before
//! the next group commit is due, so that nearly all that has come goes with it:
//!
//! ```text
//!  commit    first publish  look                             look  commit
//!  ──┼──────────┼────────────┼─────────────────────────────────┼────┼──▶
//!                ╰─ GATHER ──╯                                 ╰LEAD╯
//! ```
//!
//! A broker that pauses may wait for acknowledgements. Where one did in the last two commits, looks
//! stay [`GATHER`] apart, so that its next pause is seen as soon.

use std::time::Duration;

use tokio::time::Instant;

/// A read of fewer bytes than this has caught up with the broker: 60 publishes of 200 bytes.
const TRICKLE_BYTES: usize = 16 * 1024;

/// How long publishes gather before the first look. If none come in that time, the broker has paused.
const GATHER: Duration = Duration::from_millis(2);

/// How long before a commit the last look is taken: timers come up to a millisecond late.
const LEAD: Duration = Duration::from_millis(2);

/// Of so few bytes between two commits, TCP's acknowledgement is worth a packet of its own: ten publishes.
const SPARSE_BYTES: usize = 2 * 1024;

/// How publishes come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Faster than they are read.
    Reading,
    /// They gather in the kernel, while the log is waited for.
    Gathering,
    /// They are read now, if any have come.
    Gathered,
    /// None have.
    Paused,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Pace {
    commit_interval: Duration,
    state: State,
    /// When the last group commit was heard of.
    committed: Instant,
    /// In how many of the commits to come a pause is to be reckoned with.
    pauses: u8,
    /// Bytes read since the last group commit, and between it and the one before.
    bytes: (usize, usize),
}

impl Pace {
    pub(super) fn new(commit_interval: Duration) -> Self {
        Self {
            commit_interval,
            state: State::Reading,
            committed: Instant::now(),
            pauses: 0,
            bytes: (0, 0),
        }
    }

    /// Publishes are left to gather, as long as the log is waited for.
    pub(super) fn gathers(&self) -> bool {
        self.state == State::Gathering
    }

    /// Nothing is to be done before more is read.
    pub(super) fn is_paused(&self) -> bool {
        self.state == State::Paused
    }

    /// There was nothing to be read: tells until when they gather now.
    pub(super) fn idle(&mut self, now: Instant) -> Option<Instant> {
        match self.state {
            State::Reading => {
                self.state = State::Gathering;
                Some(now + GATHER)
            }
            State::Gathering | State::Gathered | State::Paused => None,
        }
    }

    /// So many bytes were read: tells until when more gather.
    pub(super) fn read(&mut self, bytes: usize, now: Instant) -> Option<Instant> {
        self.bytes.0 += bytes;
        if bytes >= TRICKLE_BYTES {
            self.state = State::Reading;
            return None;
        }
        let soon = now + GATHER;
        let trickles = self.state == State::Gathered && self.pauses == 0;
        self.state = State::Gathering;
        // Where commits are far apart, who pauses is not to wait for one.
        let before_commit = (self.committed + self.commit_interval)
            .checked_sub(LEAD)
            .filter(|last| trickles && *last > soon && *last - now <= 5 * GATHER);
        Some(before_commit.unwrap_or(soon))
    }

    /// The time is over. They are read next.
    pub(super) fn gathered(&mut self) {
        self.state = State::Gathered;
    }

    /// Nothing came in that time: true if that is news.
    pub(super) fn pauses(&mut self) -> bool {
        let is_news = self.state == State::Gathered;
        if is_news {
            self.state = State::Paused;
            self.pauses = 2;
        }
        is_news
    }

    /// A group commit has ended.
    pub(super) fn committed(&mut self, now: Instant) {
        self.committed = now;
        self.pauses = self.pauses.saturating_sub(1);
        self.bytes = (0, self.bytes.0);
    }

    /// Little comes: what acknowledges it otherwise, a PUBACK, may be long in coming.
    pub(super) fn is_sparse(&self) -> bool {
        self.bytes.0.max(self.bytes.1) < SPARSE_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_millis(10);
    const FEW: usize = 200;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// A commit has just ended, and the first publish come: the pace, and when.
    fn begun(interval: Duration) -> (Pace, Instant) {
        let mut pace = Pace::new(interval);
        let now = Instant::now();
        pace.committed(now);
        assert_eq!(pace.read(FEW, now), Some(now + GATHER));
        (pace, now)
    }

    #[test]
    fn a_trickle_is_read_once_more_before_the_commit() {
        let (mut pace, start) = begun(INTERVAL);
        pace.gathered();
        let next = pace.read(FEW, start + ms(2));
        assert_eq!(next, Some(start + INTERVAL - LEAD));
        pace.gathered();
        let next = pace.read(FEW, start + ms(9));
        assert_eq!(
            next,
            Some(start + ms(11)),
            "there is no time for a longer wait"
        );
    }

    #[test]
    fn a_broker_that_pauses_is_looked_at_often_until_it_has_not_for_two_commits() {
        let (mut pace, start) = begun(INTERVAL);
        pace.gathered();
        assert!(pace.pauses());
        assert!(!pace.pauses(), "it is told once");
        for commit in 1..4 {
            let now = start + commit * INTERVAL;
            pace.committed(now);
            assert_eq!(pace.read(FEW, now), Some(now + GATHER));
            pace.gathered();
            let long = pace.read(FEW, now + ms(2)) != Some(now + ms(4));
            assert_eq!(long, commit >= 2, "after commit {commit}");
        }
    }

    #[test]
    fn it_is_sparse_until_a_commit_and_the_one_before_have_brought_more() {
        let (mut pace, start) = begun(INTERVAL);
        assert!(pace.is_sparse());
        pace.read(SPARSE_BYTES, start);
        assert!(!pace.is_sparse());
        pace.committed(start);
        assert!(!pace.is_sparse(), "as much may come again");
        pace.committed(start);
        assert!(pace.is_sparse());
    }

    #[test]
    fn what_fills_the_buffer_is_read_on_and_a_long_interval_is_not_waited_out() {
        let (mut pace, start) = begun(Duration::from_secs(3600));
        pace.gathered();
        assert_eq!(pace.read(FEW, start + ms(2)), Some(start + ms(4)));
        assert_eq!(pace.read(TRICKLE_BYTES, start), None);
        assert!(!pace.gathers());
        assert_eq!(pace.idle(start), Some(start + GATHER));
        assert!(pace.gathers());
        assert_eq!(pace.idle(start), None);
    }
}
