//! What the forwarder does with each record before librdkafka has it, done for nobody: the guard
//! against slower code (`tests/bench/guard`) counts its instructions.

use std::sync::Arc;

use super::encode::{Encoder, Outgoing};
use super::reader::{Read, Reader};
use super::{Flow, ForwarderContext, ForwarderError};
use crate::config::Config;

/// Reads what is not delivered, makes the message of each record, and sends none. Returns how many it
/// made; nothing of the log changes.
///
/// # Errors
/// [`ForwarderError::Read`]
#[doc(hidden)]
pub fn rehearse(config: &Config, context: &ForwarderContext) -> Result<u64, ForwarderError> {
    let metrics = Arc::clone(&context.metrics);
    let identity = context.log.identity();
    let mut encoder = Encoder::new(config, &identity, context.boots.clone(), metrics);
    let mut reader = Reader::new(context.log.clone(), Arc::clone(&context.metrics));
    let mut made = 0;
    let mut make = |outgoing: &Outgoing<'_>| {
        let is_made = !encoder.passes_over(outgoing) && encoder.encode(outgoing).is_ok();
        made += u64::from(is_made);
        Ok(Flow::Continue)
    };
    while reader.forward_next(&mut make)? == Read::Some {}
    Ok(made)
}
