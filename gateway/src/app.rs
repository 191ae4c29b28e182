//! Start, run and drain: the one place that spawns tasks and threads.

use crate::config::Config;

/// Why the gateway ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum AppError {}

impl AppError {
    /// The process's exit code (DESIGN §5).
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match *self {}
    }
}

/// Runs the gateway until it is told to stop, then drains it.
///
/// # Errors
/// [`AppError`]
pub fn run(_config: Config) -> Result<(), AppError> {
    unimplemented!()
}
