//! What is asked of a running gateway by signals: SIGTERM and SIGINT to end, SIGHUP to reload.
//!
//! A reload is a drain and a new beginning of the same process, with the file read anew: nothing of
//! a configuration can then be forgotten to be applied, and what sources are not acknowledged for
//! meanwhile they send again, as after any restart. The file is checked first; one with mistakes
//! changes nothing.

use std::io;
use std::path::Path;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cli::chain;
use crate::config;

/// How a gateway ends that has not failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// For good.
    Stopped,
    /// To begin anew with its configuration file, which is valid.
    Reload,
}

/// The signals that are heeded.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// Heeds them from now on.
    ///
    /// # Errors
    /// As the system says.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for one that ends the gateway. One that asks for the reload of a `file` with mistakes
    /// is answered in the log.
    ///
    /// # Cancel safety
    /// No signal is lost but one that asks for a reload.
    pub async fn next(&mut self, file: &Path) -> Ended {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return Ended::Stopped,
                _ = self.interrupt.recv() => return Ended::Stopped,
                _ = self.hangup.recv() => {}
            }
            match config::load(file) {
                Ok(_) => return Ended::Reload,
                Err(error) => tracing::error!(
                    "not reloaded, the configuration stays as it is: {}",
                    chain(&error)
                ),
            }
        }
    }
}
