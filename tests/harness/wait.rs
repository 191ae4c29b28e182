//! Waiting for a condition, with a deadline.

use std::time::{Duration, Instant};

/// How often a condition is looked at. Chosen by eye, not measured.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Waits until `probe` gives a value and returns it.
///
/// # Panics
/// When `within` has passed; `what` says what did not happen.
pub fn until_some<T>(what: &str, within: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(
            Instant::now() < deadline,
            "{what}: not within {} s",
            within.as_secs_f32()
        );
        std::thread::sleep(LOOK_INTERVAL);
    }
}

/// Waits until `condition` holds.
///
/// # Panics
/// When `within` has passed; `what` says what did not happen.
pub fn until(what: &str, within: Duration, mut condition: impl FnMut() -> bool) {
    until_some(what, within, || condition().then_some(()));
}
