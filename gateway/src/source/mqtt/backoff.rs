//! How long to wait before the next attempt to connect.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// The first wait: a broker that restarts takes about that long, and a board must not busy itself.
const FIRST: Duration = Duration::from_millis(250);

/// The longest wait: what a person waits who has just repaired the network.
const LONGEST: Duration = Duration::from_secs(30);

/// A connection that lasted this long was a good one: the next wait is the first again. Chosen by
/// eye, not measured; a broker that accepts and then closes at once must not be courted.
const GOOD: Duration = Duration::from_secs(10);

/// Exponential backoff with jitter.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
}

impl Backoff {
    /// Starts at 250 ms.
    pub(super) fn new() -> Self {
        Self { next: FIRST }
    }

    /// A connection has ended that lasted so long.
    pub(super) fn lasted(&mut self, connected: Duration) {
        if connected >= GOOD {
            self.next = FIRST;
        }
    }

    /// The time to wait now: half of it fixed, half of it random, so that many gateways do not come
    /// back to a broker at once. Doubles up to 30 s.
    pub(super) fn wait(&mut self) -> Duration {
        self.wait_with(RandomState::new().hash_one(0))
    }

    fn wait_with(&mut self, random: u64) -> Duration {
        let half = self.next / 2;
        let jitter = half.mul_f64((random >> 11) as f64 / (1u64 << 53) as f64);
        self.next = (self.next * 2).min(LONGEST);
        half + jitter
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn each_wait_is_between_half_and_all_of_a_doubling_bound(
            randoms in proptest::collection::vec(any::<u64>(), 1..20),
        ) {
            let mut backoff = Backoff::new();
            let mut bound = FIRST;
            for random in randoms {
                let wait = backoff.wait_with(random);
                prop_assert!(wait >= bound / 2 && wait <= bound, "{wait:?} {bound:?}");
                bound = (bound * 2).min(LONGEST);
            }
        }
    }

    #[test]
    fn only_a_good_connection_starts_the_waits_anew() {
        let mut backoff = Backoff::new();
        for _ in 0..10 {
            backoff.wait();
        }
        backoff.lasted(Duration::from_secs(1));
        assert!(backoff.wait() >= LONGEST / 2);
        backoff.lasted(GOOD);
        assert!(backoff.wait() <= FIRST);
    }
}
