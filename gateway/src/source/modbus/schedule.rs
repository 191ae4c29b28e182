//! Which unit is polled when. Holds no clock and does no I/O.
//!
//! Time is counted from the start of the source. A unit's polls stand on a grid, phase + k ×
//! interval, whatever a poll takes: they never drift.
//!
//! - **S1** A unit is polled at a time of its grid or, while others have the bus, as soon after it
//!   as they let it; the unit that has waited longest comes first.
//! - **S2** A poll that is not answered is repeated up to `retries` times, each time behind the
//!   units that are due by then. A unit that left a whole poll unanswered gets one try a poll.
//! - **S3** After k unanswered polls a unit rests for interval × 2^(k−1), at most `backoff_max`, and
//!   returns on its grid; so a dead unit costs the bus one timeout a rest.
//! - **S4** Times of the grid that have passed while a unit waited, was polled or rested are
//!   skipped, never made up for, and counted.

use std::time::Duration;

/// A unit's share of the configuration.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timing {
    pub(super) interval: Duration,
    pub(super) phase: Duration,
    pub(super) retries: u32,
    pub(super) backoff_max: Duration,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Poll the unit of this number.
    Poll(usize),
    /// Nothing until then.
    Wait(Duration),
}

/// What came of one try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The unit answered, be it with an exception.
    Given,
    /// It did not.
    None,
}

/// What that means for the unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) state: State,
    /// Polls of the grid that will not take place.
    pub(super) skipped: u64,
}

/// How a unit stands after a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It answers, as before.
    Up,
    /// It answers again.
    Back,
    /// Its poll will be repeated.
    Retrying,
    /// The first poll that it left unanswered has ended.
    Lost,
    /// Another one has.
    Down,
}

#[derive(Debug)]
struct Unit {
    timing: Timing,
    /// The time of the grid whose poll is to be made.
    slot: Duration,
    /// When: the slot, or later for a repeated poll.
    due: Duration,
    tries: u32,
    unanswered: u32,
}

/// The schedule of one source.
#[derive(Debug)]
pub(super) struct Schedule {
    units: Vec<Unit>,
}

impl Schedule {
    pub(super) fn new(timings: impl IntoIterator<Item = Timing>) -> Self {
        let unit = |timing: Timing| Unit {
            timing,
            slot: timing.phase,
            due: timing.phase,
            tries: 0,
            unanswered: 0,
        };
        Self {
            units: timings.into_iter().map(unit).collect(),
        }
    }

    /// What to do at `now`.
    pub(super) fn next(&self, now: Duration) -> Next {
        let units = self.units.iter().enumerate();
        match units.min_by_key(|(number, unit)| (unit.due, *number)) {
            Some((number, unit)) if unit.due <= now => Next::Poll(number),
            Some((_, unit)) => Next::Wait(unit.due),
            None => Next::Wait(Duration::MAX),
        }
    }

    /// Takes what came of a try of unit `number`, which ended at `now`.
    pub(super) fn done(&mut self, number: usize, answer: Answer, now: Duration) -> Verdict {
        let unit = &mut self.units[number];
        match answer {
            Answer::Given => {
                let state = match std::mem::take(&mut unit.unanswered) {
                    0 => State::Up,
                    _ => State::Back,
                };
                let skipped = unit.advance(now);
                Verdict { state, skipped }
            }
            Answer::None if unit.unanswered == 0 && unit.tries < unit.timing.retries => {
                unit.tries += 1;
                unit.due = now;
                Verdict {
                    state: State::Retrying,
                    skipped: 0,
                }
            }
            Answer::None => {
                unit.unanswered = unit.unanswered.saturating_add(1);
                let state = match unit.unanswered {
                    1 => State::Lost,
                    _ => State::Down,
                };
                let skipped = unit.advance(now.saturating_add(unit.rest()));
                Verdict { state, skipped }
            }
        }
    }
}

impl Unit {
    /// S3.
    fn rest(&self) -> Duration {
        let doublings = self.unanswered.saturating_sub(1).min(31);
        let rest = self.timing.interval.saturating_mul(1 << doublings);
        rest.min(self.timing.backoff_max)
    }

    /// Goes to the first time of the grid after `time`; returns how many lie between.
    fn advance(&mut self, time: Duration) -> u64 {
        let interval = self.timing.interval.as_nanos().max(1);
        let passed = time.saturating_sub(self.slot).as_nanos() / interval;
        let skipped = u64::try_from(passed).unwrap_or(u64::MAX);
        let steps = u32::try_from(passed).unwrap_or(u32::MAX).saturating_add(1);
        let ahead = self.timing.interval.saturating_mul(steps);
        self.slot = self.slot.saturating_add(ahead);
        self.due = self.slot;
        self.tries = 0;
        skipped
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn timing(interval_ms: u32, phase_ms: u32) -> Timing {
        Timing {
            interval: MS * interval_ms,
            phase: MS * phase_ms,
            retries: 2,
            backoff_max: Duration::from_secs(8),
        }
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn polls_stay_on_the_grid_however_long_each_takes() {
        let mut schedule = Schedule::new([timing(1000, 300)]);
        for k in 0..50 {
            let slot = at(k) + 300 * MS;
            assert_eq!(schedule.next(slot - MS), Next::Wait(slot));
            assert_eq!(schedule.next(slot), Next::Poll(0));
            let took = MS * (k as u32 * 13 % 900);
            let verdict = schedule.done(0, Answer::Given, slot + took);
            assert_eq!((verdict.state, verdict.skipped), (State::Up, 0));
        }
    }

    #[test]
    fn a_poll_that_takes_longer_than_its_interval_skips_what_it_missed() {
        let mut schedule = Schedule::new([timing(1000, 0)]);
        let verdict = schedule.done(0, Answer::Given, at(3) + 500 * MS);
        assert_eq!(verdict.skipped, 3);
        assert_eq!(schedule.next(at(3)), Next::Wait(at(4)));
    }

    #[test]
    fn a_repeated_poll_waits_behind_units_that_are_due_by_then() {
        let mut schedule = Schedule::new([timing(10_000, 0), timing(10_000, 100)]);
        assert_eq!(schedule.next(at(0)), Next::Poll(0));
        let failed = schedule.done(0, Answer::None, 500 * MS);
        assert_eq!(failed.state, State::Retrying);
        assert_eq!(schedule.next(500 * MS), Next::Poll(1));
        schedule.done(1, Answer::Given, 520 * MS);
        assert_eq!(schedule.next(520 * MS), Next::Poll(0));
    }

    #[test]
    fn a_dead_unit_is_tried_less_and_less_often_and_at_most_once_a_poll() {
        let mut schedule = Schedule::new([timing(1000, 0)]);
        for _ in 0..2 {
            assert_eq!(schedule.done(0, Answer::None, at(0)).state, State::Retrying);
        }
        assert_eq!(schedule.done(0, Answer::None, at(0)).state, State::Lost);
        let mut now = at(0);
        let mut pauses = Vec::new();
        for _ in 0..6 {
            let Next::Wait(due) = schedule.next(now) else {
                panic!("it rests");
            };
            pauses.push((due - now).as_secs());
            now = due;
            assert_eq!(schedule.done(0, Answer::None, now).state, State::Down);
        }
        assert_eq!(pauses, [2, 3, 5, 9, 9, 9]);
    }

    #[test]
    fn a_unit_that_answers_again_has_all_of_its_tries_again() {
        let mut schedule = Schedule::new([timing(1000, 0)]);
        for _ in 0..3 {
            schedule.done(0, Answer::None, at(0));
        }
        assert_eq!(schedule.done(0, Answer::Given, at(2)).state, State::Back);
        assert_eq!(schedule.next(at(2)), Next::Wait(at(3)));
        assert_eq!(schedule.done(0, Answer::None, at(3)).state, State::Retrying);
    }

    proptest! {
        /// Whatever units answer and however long it takes: time of the grid that is neither polled
        /// nor still to come has been counted as skipped, and no unit waits while the bus is idle.
        #[test]
        fn every_time_of_the_grid_is_polled_or_counted(
            timings in proptest::collection::vec((100_u32..3000, 0_u32..3000), 1..5),
            tries in proptest::collection::vec((any::<bool>(), 1_u32..1500), 1..200),
        ) {
            let mut schedule = Schedule::new(timings.iter().map(|(i, p)| timing(*i, *p % *i)));
            let mut polled_or_skipped = vec![0_u64; timings.len()];
            let mut now = Duration::ZERO;
            for (answered, took_ms) in tries {
                if let Next::Wait(due) = schedule.next(now) {
                    prop_assert!(due > now);
                    now = due;
                }
                let Next::Poll(number) = schedule.next(now) else {
                    return Err(TestCaseError::fail("a unit is due"));
                };
                let unit = &schedule.units[number];
                prop_assert!(schedule.units.iter().all(|other| unit.due <= other.due));
                now += MS * took_ms;
                let answer = if answered { Answer::Given } else { Answer::None };
                let verdict = schedule.done(number, answer, now);
                if verdict.state != State::Retrying {
                    polled_or_skipped[number] += 1 + verdict.skipped;
                }
                for (unit, count) in schedule.units.iter().zip(&polled_or_skipped) {
                    let grid = unit.timing.phase + unit.timing.interval * *count as u32;
                    prop_assert_eq!(unit.slot, grid);
                    prop_assert!(unit.due >= unit.slot);
                }
            }
        }

        /// S2, S3: over a long time a dead unit takes no more tries than its rests allow.
        #[test]
        fn a_dead_unit_costs_one_try_a_rest(interval_ms in 100_u32..4000) {
            let mut schedule = Schedule::new([timing(interval_ms, 0)]);
            let mut now = Duration::ZERO;
            let mut tries = 0;
            while now < at(3600) {
                match schedule.next(now) {
                    Next::Poll(number) => {
                        now += 500 * MS;
                        tries += 1;
                        schedule.done(number, Answer::None, now);
                    }
                    Next::Wait(due) => now = due,
                }
            }
            prop_assert!(tries <= 3 + 7 + 3600 / 8, "{}", tries);
        }
    }
}
