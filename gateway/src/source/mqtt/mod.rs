//! The MQTT source.

use super::{SourceContext, SourceError};
use crate::config::Mqtt;

/// Runs an MQTT source until it is stopped.
///
/// # Errors
/// [`SourceError::LogFailed`].
pub async fn run(_config: Mqtt, _context: SourceContext) -> Result<(), SourceError> {
    unimplemented!()
}
