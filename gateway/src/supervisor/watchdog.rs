//! Whether the pipeline gets on, judged from outside by what it shows.
//!
//! Standstill is counted in looks, not in time: a process that was stopped, or a board that was
//! asleep, has not stood still for longer than it ran.

use crate::commit_log::Condition;
use crate::record::Offset;

/// What the pipeline shows at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Signs {
    /// How far the log is synced.
    pub(super) synced: Offset,
    /// Records appended that wait for a sync.
    pub(super) unsynced: u64,
    /// Of the log.
    pub(super) condition: Condition,
    /// Beats of the forwarder.
    pub(super) forwarder_beats: u64,
}

/// What no longer gets on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stalled {
    /// Records wait, there is space, and nothing is synced.
    Log,
    /// The forwarder does not get round its loop, which it does even while Kafka is away.
    Forwarder,
}

impl Stalled {
    /// For people.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Log => "the commit log stands still: records wait and are not synced",
            Self::Forwarder => "the forwarder stands still",
        }
    }
}

/// How many looks in a row something has shown no change.
#[derive(Debug, Default)]
struct Standstill {
    seen: Option<u64>,
    looks: u32,
}

impl Standstill {
    fn look(&mut self, mark: u64, is_busy: bool) -> u32 {
        let moved = self.seen.replace(mark) != Some(mark);
        self.looks = if moved || !is_busy { 0 } else { self.looks + 1 };
        self.looks
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Watchdog {
    looks_max: u32,
    log: Standstill,
    forwarder: Standstill,
}

impl Watchdog {
    /// What shows no change for more than `looks_max` looks is stalled.
    pub(super) fn new(looks_max: u32) -> Self {
        Self {
            looks_max,
            log: Standstill::default(),
            forwarder: Standstill::default(),
        }
    }

    /// Looks once.
    pub(super) fn look(&mut self, signs: Signs) -> Option<Stalled> {
        let is_busy = match signs.condition {
            Condition::Running => signs.unsynced > 0,
            // It waits for space, or the gateway ends.
            Condition::Full | Condition::Poisoned | Condition::Closed => false,
        };
        let log = self.log.look(signs.synced.get(), is_busy);
        let forwarder = self.forwarder.look(signs.forwarder_beats, true);
        if log > self.looks_max {
            Some(Stalled::Log)
        } else if forwarder > self.looks_max {
            Some(Stalled::Forwarder)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Signs = Signs {
        synced: Offset::ZERO,
        unsynced: 0,
        condition: Condition::Running,
        forwarder_beats: 0,
    };

    fn after(looks: u32, signs: impl Fn(u64) -> Signs) -> Option<Stalled> {
        let mut watchdog = Watchdog::new(3);
        (0..u64::from(looks))
            .map(|look| watchdog.look(signs(look)))
            .last()
            .flatten()
    }

    #[test]
    fn an_idle_pipeline_gets_on() {
        let idle = |look| Signs {
            forwarder_beats: look,
            ..IDLE
        };
        assert_eq!(after(100, idle), None);
    }

    #[test]
    fn a_forwarder_that_no_longer_beats_is_stalled_and_not_sooner_than_allowed() {
        assert_eq!(after(4, |_| IDLE), None);
        assert_eq!(after(5, |_| IDLE), Some(Stalled::Forwarder));
    }

    #[test]
    fn records_that_wait_for_a_sync_that_does_not_come_are_a_stall() {
        let waiting = |look| Signs {
            unsynced: 7,
            forwarder_beats: look,
            ..IDLE
        };
        assert_eq!(after(4, waiting), None);
        assert_eq!(after(5, waiting), Some(Stalled::Log));
    }

    #[test]
    fn records_that_wait_while_others_are_synced_are_none() {
        let busy = |look| Signs {
            synced: Offset::new(look),
            unsynced: 7,
            forwarder_beats: look,
            ..IDLE
        };
        assert_eq!(after(100, busy), None);
    }

    #[test]
    fn a_full_buffer_is_no_stall() {
        let full = |look| Signs {
            unsynced: 7,
            condition: Condition::Full,
            forwarder_beats: look,
            ..IDLE
        };
        assert_eq!(after(100, full), None);
    }

    #[test]
    fn what_gets_on_again_is_stalled_no_longer() {
        let mut watchdog = Watchdog::new(0);
        assert_eq!(watchdog.look(IDLE), None);
        assert_eq!(watchdog.look(IDLE), Some(Stalled::Forwarder));
        let beaten = Signs {
            forwarder_beats: 1,
            ..IDLE
        };
        assert_eq!(watchdog.look(beaten), None);
    }
}
