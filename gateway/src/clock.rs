//! The clocks: wall time as the system believes it, and time since boot that never steps.
//!
//! Boards without a battery-backed clock start in 1970 and jump when NTP answers, so every record
//! carries both (DESIGN §10).

use std::time::{SystemTime, UNIX_EPOCH};

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
