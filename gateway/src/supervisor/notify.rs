//! Messages to the service manager: `sd_notify(3)` without its library, which is one datagram to a
//! socket that the environment names.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The service manager's end, if there is one. Nothing is ever waited for: a manager that does not
/// read loses messages.
#[derive(Debug, Default)]
pub struct Notifier {
    manager: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Notifier {
    /// The manager that `NOTIFY_SOCKET` names, and how often `WATCHDOG_USEC` wants to hear from us.
    /// Without them nothing is sent.
    ///
    /// # Errors
    /// The socket can't be made, or its name is none.
    pub fn from_environment() -> io::Result<Self> {
        let Some(name) = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
            return Ok(Self::default());
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        let number = |variable| std::env::var(variable).ok()?.parse::<u64>().ok();
        let for_us = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|usec| for_us && *usec > 0);
        Ok(Self {
            manager: Some((socket, address(&name)?)),
            watchdog: watchdog.map(Duration::from_micros),
        })
    }

    /// How long the manager waits for a `WATCHDOG=1`, if it does.
    pub(super) fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// Sends assignments, one a line.
    pub(super) fn send(&self, text: &str) {
        let Some((socket, address)) = &self.manager else {
            return;
        };
        if let Err(error) = socket.send_to_addr(text.as_bytes(), address) {
            tracing::warn!(%error, text, "the service manager was not reached");
        }
    }

    /// The gateway drains, which may take as long as this.
    pub fn stopping(&self, within: Duration) {
        let within = within.as_micros();
        self.send(&format!(
            "STOPPING=1\nEXTEND_TIMEOUT_USEC={within}\nSTATUS=Draining"
        ));
    }

    /// The gateway begins anew; it will be ready again.
    pub fn reloading(&self) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let now_us = now.tv_sec * 1_000_000 + now.tv_nsec / 1000;
        self.send(&format!(
            "RELOADING=1\nMONOTONIC_USEC={now_us}\nSTATUS=Beginning anew with another configuration"
        ));
    }
}

/// A path, or behind an "@" a name in Linux's abstract space.
fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notifier(name: &str) -> Notifier {
        let socket = UnixDatagram::unbound().expect("a socket");
        socket.set_nonblocking(true).expect("set");
        let address = address(OsStr::new(name)).expect("an address");
        Notifier {
            manager: Some((socket, address)),
            watchdog: None,
        }
    }

    #[test]
    fn a_message_reaches_a_manager_at_a_path_and_in_the_abstract_space() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("notify").display().to_string();
        let hidden = format!("@edge-gateway-test-{}", std::process::id());
        for name in [path, hidden] {
            let address = address(OsStr::new(&name)).expect("an address");
            let manager = UnixDatagram::bind_addr(&address).expect("bound");
            notifier(&name).send("READY=1");
            let mut text = [0; 64];
            let count = manager.recv(&mut text).expect("a message");
            assert_eq!(&text[..count], b"READY=1");
        }
    }

    #[test]
    fn a_manager_that_does_not_read_is_not_waited_for() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("notify").display().to_string();
        let _manager = UnixDatagram::bind(&path).expect("bound");
        let notifier = notifier(&path);
        for _ in 0..10_000 {
            notifier.send("WATCHDOG=1");
        }
    }
}
