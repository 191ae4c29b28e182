//! Free TCP ports on the loopback interface.
//!
//! They lie below the range that outgoing connections take theirs from: a broker that is down for a
//! while finds its port free again when it returns.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};

/// Below 32,768, where Linux's ephemeral ports begin; above what services are registered for here.
const FIRST: u32 = 16_000;
const COUNT: u32 = 16_000;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A port that nobody listens on, and that this process has not been given before.
///
/// # Panics
/// If no port is free.
#[must_use]
pub fn free() -> u16 {
    // Test binaries that run side by side begin at different places.
    let start = std::process::id().wrapping_mul(131);
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + start.wrapping_add(step) % COUNT;
        let port = u16::try_from(port).expect("the range lies within 16 bits");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port from {FIRST} on");
}
