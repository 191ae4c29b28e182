//! The serial source.

use super::{SourceContext, SourceError};
use crate::config::Serial;

/// Runs a serial source until it is stopped.
///
/// # Errors
/// [`SourceError::LogFailed`].
pub async fn run(_config: Serial, _context: SourceContext) -> Result<(), SourceError> {
    unimplemented!()
}
