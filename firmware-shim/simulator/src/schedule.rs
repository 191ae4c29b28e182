//! When a message is due: counted from the start, so that no delay adds up.
//!
//! A loop that sleeps for `1 / rate` after each message sends too little, by the time that sending
//! takes. Here the number that is due follows from the time since the start alone; whoever comes
//! late sends the ones that were missed together.

use std::time::Duration;

/// A rate, and where it ends.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// Messages a second; 0 means as fast as they are taken.
    pub rate: f64,
    /// Messages in all; `None` for no end.
    pub count: Option<u64>,
    /// How long new messages are made; `None` for no end.
    pub duration: Option<Duration>,
}

impl Schedule {
    /// How many messages are due once `elapsed` has passed since the start.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a float cast saturates, and neither the time nor the rate is negative"
    )]
    pub fn due(&self, elapsed: Duration) -> u64 {
        let limit = self.count.unwrap_or(u64::MAX);
        if self.rate <= 0.0 {
            return limit;
        }
        let elapsed = self
            .duration
            .map_or(elapsed, |duration| elapsed.min(duration));
        let due = (elapsed.as_secs_f64() * self.rate) as u64;
        due.saturating_add(1).min(limit)
    }

    /// When message `number` (from 0) is due, as time since the start.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "no run has 2^53 messages")]
    pub fn due_at(&self, number: u64) -> Duration {
        if self.rate <= 0.0 {
            return Duration::ZERO;
        }
        let seconds = number as f64 / self.rate;
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }

    /// Whether no more messages are to be made after `made` of them and `elapsed` since the start.
    #[must_use]
    pub fn is_over(&self, made: u64, elapsed: Duration) -> bool {
        self.count.is_some_and(|count| made >= count)
            || self.duration.is_some_and(|duration| elapsed >= duration)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(rate: f64, count: u64) -> Schedule {
        Schedule {
            rate,
            count: Some(count),
            duration: None,
        }
    }

    #[test]
    fn an_hour_of_uneven_wake_ups_does_not_drift() {
        let schedule = at(333.0, u64::MAX);
        let mut made = 0;
        let mut now = Duration::ZERO;
        let mut step = 0;
        while now < Duration::from_secs(3600) {
            made = made.max(schedule.due(now));
            step = (step * 31 + 7) % 97;
            now += Duration::from_millis(step + 1);
        }
        let exact = (now.as_secs_f64() * 333.0) as u64;
        assert!(exact.abs_diff(made) <= 333 / 10, "{made} of {exact}");
    }

    #[test]
    fn a_message_is_due_at_the_moment_that_due_at_names() {
        let schedule = at(7.0, 1_000);
        for number in 0..1_000 {
            let moment = schedule.due_at(number) + Duration::from_nanos(1);
            assert_eq!(schedule.due(moment), number + 1);
        }
    }

    #[test]
    fn count_and_duration_end_a_schedule() {
        assert_eq!(at(10.0, 5).due(Duration::from_secs(60)), 5);
        assert!(at(10.0, 5).is_over(5, Duration::ZERO));
        let timed = Schedule {
            rate: 10.0,
            count: None,
            duration: Some(Duration::from_secs(2)),
        };
        assert_eq!(timed.due(Duration::from_secs(60)), 21);
        assert!(!timed.is_over(20, Duration::from_millis(1_999)));
        assert!(timed.is_over(20, Duration::from_secs(2)));
    }

    #[test]
    fn rate_zero_means_everything_at_once() {
        assert_eq!(at(0.0, 5).due(Duration::ZERO), 5);
        assert_eq!(at(0.0, 5).due_at(4), Duration::ZERO);
    }
}
