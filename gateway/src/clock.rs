//! The clocks: wall time as the system believes it, and time since boot that never steps.
//!
//! Boards without a battery-backed clock start in 1970 and jump when NTP answers, so every record
//! carries both (DESIGN §10).

pub mod timeline;

use std::fmt::Debug;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::record::Stamp;

/// The moment of the call on both clocks.
#[must_use]
pub fn now() -> Stamp {
    Stamp {
        wall_ms: wall_ms(),
        mono_ms: mono_ms(),
    }
}

/// Milliseconds since the Unix epoch; negative before it.
#[must_use]
pub fn wall_ms() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_millis()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |ms| -ms),
    }
}

/// When this program was built, in milliseconds since the Unix epoch, less a day for the clocks of
/// the machine that built it.
const BUILT_MS: i64 = {
    let mut seconds = 0;
    let digits = env!("EDGE_GATEWAY_BUILT").as_bytes();
    let mut at = 0;
    while at < digits.len() {
        seconds = seconds * 10 + (digits[at] - b'0') as i64;
        at += 1;
    }
    (seconds - 86_400) * 1000
};

/// Whether a wall clock can be right: no gateway runs before it was built.
#[must_use]
pub fn is_plausible(wall_ms: i64) -> bool {
    wall_ms >= BUILT_MS
}

/// Milliseconds since boot, time asleep included.
#[must_use]
pub fn mono_ms() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds * 1000 + nanos / 1_000_000
}

/// Identity of this boot of the machine: the first 64 bits of the kernel's boot id, 0 where there
/// is none.
#[must_use]
pub fn boot_id() -> u64 {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = text
        .chars()
        .filter(char::is_ascii_hexdigit)
        .take(16)
        .collect();
    u64::from_str_radix(&digits, 16).unwrap_or(0)
}

/// A moment as far as the machine knows it, kept once a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// The boot that `mono_ms` counts in ([`boot_id`]); 0 where it is unknown.
    pub boot_id: u64,
    /// Milliseconds since that boot ([`mono_ms`]).
    pub mono_ms: u64,
    /// Wall clock in seconds since the Unix epoch.
    pub wall_s: u32,
    /// The wall clock was known to be right.
    pub wall_synced: bool,
}

impl Moment {
    /// How long ago `earlier` was: by the monotonic clock within one boot, across boots by the wall
    /// clock where it was known to be right both times; else unknown.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Option<Duration> {
        if self.boot_id == earlier.boot_id && self.boot_id != 0 {
            let passed = self.mono_ms.saturating_sub(earlier.mono_ms);
            return Some(Duration::from_millis(passed));
        }
        let comparable = self.wall_synced && earlier.wall_synced;
        comparable
            .then(|| Duration::from_secs(u64::from(self.wall_s.saturating_sub(earlier.wall_s))))
    }
}

/// Where a log takes its time from. Injected, so that a test can boot in 1970.
pub trait Clock: Send + Sync + Debug {
    /// The moment of the call.
    fn moment(&self) -> Moment;

    /// The boot that we are in.
    fn boot_id(&self) -> u64 {
        self.moment().boot_id
    }
}

/// The clocks of the machine.
///
/// The wall clock is believed once systemd has seen it synchronised: `systemd-timesyncd`, or
/// `systemd-time-wait-sync` for other NTP daemons, then makes a file. A date that only looks likely
/// is not believed: boards without a clock often go on from the time of their last shutdown.
#[derive(Debug)]
pub struct SystemClock {
    boot_id: u64,
    synced: AtomicBool,
}

/// Made by systemd at the first synchronisation of a boot, gone with the boot.
const SYNCHRONISED: &str = "/run/systemd/timesync/synchronized";

impl Default for SystemClock {
    fn default() -> Self {
        Self {
            boot_id: boot_id(),
            synced: AtomicBool::new(false),
        }
    }
}

impl Clock for SystemClock {
    fn boot_id(&self) -> u64 {
        self.boot_id
    }

    fn moment(&self) -> Moment {
        if !self.synced.load(Ordering::Relaxed) && Path::new(SYNCHRONISED).exists() {
            self.synced.store(true, Ordering::Relaxed);
        }
        Moment {
            boot_id: self.boot_id,
            mono_ms: mono_ms(),
            wall_s: u32::try_from(wall_ms().max(0) / 1000).unwrap_or(u32::MAX),
            wall_synced: self.synced.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(boot_id: u64, mono_ms: u64, wall_s: u32, wall_synced: bool) -> Moment {
        Moment {
            boot_id,
            mono_ms,
            wall_s,
            wall_synced,
        }
    }

    #[test]
    fn within_a_boot_age_is_monotonic_whatever_the_wall_clock_says() {
        let earlier = moment(7, 1_000, 50, false);
        let now = moment(7, 61_000, 1_800_000_000, true);
        assert_eq!(now.since(&earlier), Some(Duration::from_secs(60)));
    }

    #[test]
    fn across_boots_age_is_known_only_if_both_wall_clocks_were_right() {
        let now = moment(8, 10, 1_000_500, true);
        let age = |earlier: Moment| now.since(&earlier);
        let synced = moment(7, 99_000, 1_000_000, true);
        assert_eq!(age(synced), Some(Duration::from_secs(500)));
        assert_eq!(age(moment(7, 99_000, 1_000_000, false)), None);
        let unsynced_now = moment(8, 10, 1_000_500, false);
        assert_eq!(unsynced_now.since(&synced), None);
    }

    #[test]
    fn a_machine_without_boot_identity_has_no_monotonic_age() {
        let now = moment(0, 5_000, 0, false);
        assert_eq!(now.since(&moment(0, 1_000, 0, false)), None);
    }
}
