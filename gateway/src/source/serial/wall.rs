//! Whether the wall clock may be told to devices, and when it has stepped.
//!
//! A board without a battery-backed clock starts in 1970, or at the date its image was made. No
//! interface that is free of `unsafe` says whether NTP has answered, so a clock that stands past
//! the day on which this program was built counts as set; when NTP then moves it, that is a step, and devices
//! are told again.

use crate::clock::is_plausible;
use crate::record::Stamp;

/// A jump larger than this between two looks is a step. NTP slews 0.5 ms a second: looks that are
/// [`LOOK_INTERVAL_MS`] apart never see that much of it.
const STEP_MS: u64 = 1_000;
/// Longest time between two looks.
pub(super) const LOOK_INTERVAL_MS: u64 = 10_000;

/// What is known of the wall clock.
#[derive(Debug, Default)]
pub(super) struct WallClock {
    /// Wall time at boot, as of the last look.
    boot_ms: Option<i64>,
}

/// One look at the wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Look {
    /// Time since boot in milliseconds, for all that waits.
    pub(super) now_ms: u64,
    /// The time, if the clock is set.
    pub(super) unix_ms: Option<u64>,
    /// It has stepped since the last look.
    pub(super) stepped: bool,
}

impl WallClock {
    /// Compares the wall clock with the one that never steps.
    pub(super) fn look(&mut self, now: Stamp) -> Look {
        let mono_ms = i64::try_from(now.mono_ms).unwrap_or(i64::MAX);
        let boot_ms = now.wall_ms.saturating_sub(mono_ms);
        let stepped = self
            .boot_ms
            .is_some_and(|before| before.abs_diff(boot_ms) > STEP_MS);
        self.boot_ms = Some(boot_ms);
        Look {
            now_ms: now.mono_ms,
            unix_ms: u64::try_from(now.wall_ms)
                .ok()
                .filter(|_| is_plausible(now.wall_ms)),
            stepped,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_never_set_is_not_told_and_one_that_is_set_has_stepped() {
        let mut wall = WallClock::default();
        let at = |wall_ms, mono_ms| Stamp { wall_ms, mono_ms };
        let unset = wall.look(at(5_000, 5_000));
        assert_eq!((unset.unix_ms, unset.stepped), (None, false));
        let set = wall.look(at(1_800_000_000_000, 6_000));
        assert_eq!((set.unix_ms, set.stepped), (Some(1_800_000_000_000), true));
        let slewed = wall.look(at(1_800_000_010_900, 16_000));
        assert!(!slewed.stepped);
        assert!(wall.look(at(-1, 17_000)).stepped);
    }
}
