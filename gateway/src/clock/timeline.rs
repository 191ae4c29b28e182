//! When a record was received, told right on a board whose clock was wrong (DESIGN §10).
//!
//! A board without a battery-backed clock starts in 1970, or at the date its image was made, and
//! jumps when NTP answers. The monotonic clock of a boot does not jump, so one good look at both
//! clocks dates every record of that boot: *wall at boot* = wall − monotonic. For the boot we are
//! in that look is taken now; for earlier ones it was kept with the records ([`Boots`]).
//!
//! | boot of the record            | recorded wall time          | time                 | quality   |
//! |-------------------------------|-----------------------------|----------------------|-----------|
//! | wall at boot is known         | agrees with it              | as recorded          | synced    |
//! | wall at boot is known         | differs                     | by the monotonic one | corrected |
//! | not known                     | plausible                   | as recorded          | synced    |
//! | not known                     | before the program was made | that of forwarding, once the clock is set | unsynced |
//!
//! A record that was set aside in an earlier boot and is sent again has no monotonic time
//! ([`Stamp::DATED`]): the lower two rows hold for it.
//!
//! Steps alone make the two differ: NTP slews both clocks alike. A clock that ran hours fast until
//! it was set is the second row too.

use super::is_plausible;
use crate::record::Stamp;

/// Recorded and reckoned time agree if they differ by less: looks at two clocks are not taken in
/// one instant, and a leap second is no step.
const AGREE_MS: u64 = 2_000;
/// Boots remembered. Only boots that stored records count; a board that stores some and restarts
/// this often while Kafka is away has its oldest records dated by their recorded time.
const BOOTS_MAX: usize = 64;

/// The wall time at which each boot began, as far as its records knew.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Boots(Vec<(u64, i64)>);

impl Boots {
    /// Learns from a record that was received in `boot`: the newest plausible look counts, since a
    /// clock that was set is better than it was before.
    pub fn learn(&mut self, boot: u64, received: Stamp) {
        if !is_plausible(received.wall_ms) || received.mono_ms == Stamp::DATED {
            return;
        }
        let wall_at_boot = wall_at_boot(received);
        match self.0.iter_mut().rev().find(|(known, _)| *known == boot) {
            Some((_, known)) if known.abs_diff(wall_at_boot) <= AGREE_MS => {}
            Some((_, known)) => *known = wall_at_boot,
            None => {
                if self.0.len() == BOOTS_MAX {
                    self.0.remove(0);
                }
                self.0.push((boot, wall_at_boot));
            }
        }
    }

    fn wall_at_boot(&self, boot: u64) -> Option<i64> {
        let mut known = self.0.iter().rev();
        known.find(|(known, _)| *known == boot).map(|(_, at)| *at)
    }
}

/// How well a time is known: the header `timequality`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeQuality {
    /// As the wall clock said, and nothing speaks against it.
    Synced,
    /// Reckoned by the monotonic clock, since the wall clock was set later.
    Corrected,
    /// Not known: the time of forwarding, or none.
    Unsynced,
}

impl TimeQuality {
    /// The header's value.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Synced => "synced",
            Self::Corrected => "corrected",
            Self::Unsynced => "unsynced",
        }
    }
}

/// A time and how well it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dated {
    /// Milliseconds since the Unix epoch; `None` if the clock is still wrong and nothing is known.
    pub wall_ms: Option<i64>,
    /// How well.
    pub quality: TimeQuality,
}

/// Dates records.
#[derive(Debug)]
pub struct Timeline {
    boot: u64,
    earlier: Boots,
    /// Wall at boot by the last plausible look that differed from those before.
    at_boot: Option<i64>,
}

impl Timeline {
    /// For a gateway that runs in `boot`; `earlier` is what the log knew when it was opened.
    #[must_use]
    pub fn new(boot: u64, earlier: Boots) -> Self {
        Self {
            boot,
            earlier,
            at_boot: None,
        }
    }

    /// Whether the clock has been set since the last call: records dated before would have another
    /// date now. A clock that is found plausible for the first time counts.
    pub fn was_set(&mut self, now: Stamp) -> bool {
        if !is_plausible(now.wall_ms) {
            return false;
        }
        let at_boot = wall_at_boot(now);
        let agrees = |known: i64| known.abs_diff(at_boot) <= AGREE_MS;
        if self.at_boot.is_some_and(agrees) {
            return false;
        }
        self.at_boot = Some(at_boot);
        true
    }

    /// When a record of an earlier boot was received, if that is known: reckoned by the monotonic
    /// clock of that boot, else as recorded.
    #[must_use]
    pub fn known(&self, boot: u64, received: Stamp) -> Option<i64> {
        let dated = self.date(boot, received, Stamp::default());
        dated.wall_ms
    }

    /// When a record was received that was stored in `boot`. `now` is the present moment.
    #[must_use]
    pub fn date(&self, boot: u64, received: Stamp, now: Stamp) -> Dated {
        let now_plausible = is_plausible(now.wall_ms);
        let known = if received.mono_ms == Stamp::DATED {
            None
        } else if boot == self.boot && now_plausible {
            Some(wall_at_boot(now))
        } else {
            self.earlier.wall_at_boot(boot)
        };
        let recorded = is_plausible(received.wall_ms).then_some(received.wall_ms);
        let synced = |wall_ms| Dated {
            wall_ms: Some(wall_ms),
            quality: TimeQuality::Synced,
        };
        match (known, recorded) {
            (Some(at_boot), recorded) => {
                let reckoned = at_boot.saturating_add(millis(received.mono_ms));
                match recorded {
                    Some(wall_ms) if wall_ms.abs_diff(reckoned) <= AGREE_MS => synced(wall_ms),
                    Some(_) | None => Dated {
                        wall_ms: Some(reckoned),
                        quality: TimeQuality::Corrected,
                    },
                }
            }
            (None, Some(wall_ms)) => synced(wall_ms),
            (None, None) => Dated {
                wall_ms: now_plausible.then_some(now.wall_ms),
                quality: TimeQuality::Unsynced,
            },
        }
    }
}

fn wall_at_boot(look: Stamp) -> i64 {
    look.wall_ms.saturating_sub(millis(look.mono_ms))
}

fn millis(mono_ms: u64) -> i64 {
    i64::try_from(mono_ms).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOON: i64 = 1_900_000_000_000;
    const HOUR: i64 = 3_600_000;

    fn at(wall_ms: i64, mono_ms: u64) -> Stamp {
        Stamp { wall_ms, mono_ms }
    }

    fn dated(wall_ms: i64, quality: TimeQuality) -> Dated {
        Dated {
            wall_ms: Some(wall_ms),
            quality,
        }
    }

    #[test]
    fn a_clock_that_was_right_all_along_is_believed() {
        let timeline = Timeline::new(1, Boots::default());
        assert_eq!(
            timeline.date(1, at(NOON, 5_000), at(NOON + 60_000, 65_000)),
            dated(NOON, TimeQuality::Synced)
        );
    }

    #[test]
    fn records_from_before_the_clock_was_set_are_dated_by_the_monotonic_clock() {
        let timeline = Timeline::new(1, Boots::default());
        let now = at(NOON, 100_000);
        assert_eq!(
            timeline.date(1, at(10_000, 10_000), now),
            dated(NOON - 90_000, TimeQuality::Corrected)
        );
    }

    #[test]
    fn a_time_without_a_monotonic_one_is_believed_as_it_is_and_teaches_nothing() {
        let timeline = Timeline::new(1, Boots::default());
        let now = at(NOON + 60_000, 65_000);
        assert_eq!(
            timeline.date(1, Stamp::dated(NOON - 9 * HOUR), now),
            dated(NOON - 9 * HOUR, TimeQuality::Synced)
        );
        let lost = timeline.date(1, Stamp::dated(5), now);
        assert_eq!(lost, dated(now.wall_ms, TimeQuality::Unsynced));
        let mut boots = Boots::default();
        boots.learn(1, Stamp::dated(NOON));
        assert_eq!(boots, Boots::default());
    }

    #[test]
    fn a_clock_that_ran_hours_fast_is_corrected_once_it_is_set() {
        let timeline = Timeline::new(1, Boots::default());
        let fast = at(NOON + 3 * HOUR, 50_000);
        assert_eq!(
            timeline.date(1, fast, at(NOON + 60_000, 110_000)),
            dated(NOON, TimeQuality::Corrected)
        );
    }

    #[test]
    fn a_boot_that_never_had_a_good_clock_gets_the_time_of_forwarding_once_there_is_one() {
        let timeline = Timeline::new(2, Boots::default());
        let received = at(10_000, 10_000);
        let unsynced = |wall_ms| Dated {
            wall_ms,
            quality: TimeQuality::Unsynced,
        };
        assert_eq!(timeline.date(1, received, at(7_000, 7_000)), unsynced(None));
        assert_eq!(
            timeline.date(1, received, at(NOON, 9_000)),
            unsynced(Some(NOON))
        );
    }

    #[test]
    fn a_clock_is_set_when_it_becomes_plausible_and_when_it_steps() {
        let mut timeline = Timeline::new(1, Boots::default());
        let looks = [
            (at(10_000, 10_000), false),
            (at(NOON, 60_000), true),
            (at(NOON + 5_000, 65_500), false),
            (at(NOON - 3 * HOUR, 70_000), true),
            (at(20_000, 71_000), false),
            (at(NOON - 3 * HOUR + 2_000, 72_000), false),
        ];
        for (look, expected) in looks {
            assert_eq!(timeline.was_set(look), expected, "{look:?}");
        }
    }

    #[test]
    fn an_earlier_boot_whose_clock_was_set_later_has_its_first_records_corrected() {
        let mut boots = Boots::default();
        boots.learn(1, at(10_000, 10_000));
        boots.learn(1, at(NOON, 60_000));
        let timeline = Timeline::new(2, boots);
        assert_eq!(
            timeline.date(1, at(10_000, 10_000), at(5_000, 5_000)),
            dated(NOON - 50_000, TimeQuality::Corrected)
        );
        assert_eq!(
            timeline.date(1, at(NOON, 60_000), at(5_000, 5_000)),
            dated(NOON, TimeQuality::Synced)
        );
    }

    #[test]
    fn the_boots_remembered_are_bounded_and_the_newest() {
        let mut boots = Boots::default();
        for boot in 0..1_000 {
            boots.learn(boot, at(NOON, 0));
        }
        assert_eq!(boots.0.len(), BOOTS_MAX);
        assert!(boots.wall_at_boot(999).is_some());
        assert!(boots.wall_at_boot(0).is_none());
    }

    proptest! {
        /// Whatever the clocks say, two records of one boot that are dated at the same moment by
        /// reckoning keep their distance, and no date is before the program was made.
        #[test]
        fn no_clock_gives_a_date_from_before_the_program(
            wall in any::<i64>(), mono in any::<u64>(), now_wall in any::<i64>(), now_mono in any::<u64>(),
            boot in 0..3_u64,
        ) {
            let mut boots = Boots::default();
            boots.learn(0, at(wall, mono));
            let dated = Timeline::new(1, boots).date(boot, at(wall, mono), at(now_wall, now_mono));
            if dated.quality == TimeQuality::Synced {
                prop_assert!(dated.wall_ms.is_some_and(is_plausible));
            }
        }
    }
}
