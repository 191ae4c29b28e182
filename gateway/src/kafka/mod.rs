//! Kafka's side: the producer with its properties, its delivery reports, and what its errors mean.
//!
//! A thin wrapper, so that the rest of the gateway meets neither librdkafka's properties nor its
//! codes:
//!
//! - [`properties`] builds the client's properties, those that guarantees rest on last, so that
//!   nothing else can override them.
//! - [`Producer`] hands messages to librdkafka and collects delivery reports. It belongs to one
//!   thread and runs none of its own: librdkafka's threads do the work, and a report is seen when
//!   [`Producer::serve`] is called. A polling thread was rejected: rdkafka's blocking poll cannot
//!   be interrupted, spins in its last millisecond, and would put a lock between report and ring.
//! - [`class`] says of every code what is to be done: wait, set the record aside, wait for the
//!   topic, or begin anew.
//! - [`TransactionError`] says of a failed transaction whether to call again, abort, or begin anew.
//! - [`CopyProducer`] is for copies that nothing rests on.
//! - [`offsets`] is the compacted topic in which exactly-once delivery keeps its position;
//!   [`rights`] says whether the cluster lets us have transactions.
//! - The connection's state goes to `edge_gateway_kafka_connected` and, when it changes, to the
//!   log.
//!
//! Invariants:
//! - **K1** A message that [`Producer::send`] has taken gets exactly one report, unless the
//!   producer is dropped first.
//! - **K2** Once one message of a streaming producer has failed after it was sent, no later
//!   message leaves the producer (`enable.gapless.guarantee`): order outlives a refusal.

mod context;
mod copies;
mod error;
mod murmur2;
pub mod offsets;
mod producer;
mod properties;
pub mod rights;
mod transactions;

pub use context::Report;
pub use copies::CopyProducer;
pub use error::{Class, class};
pub use producer::{Message, Producer, SendRefused};
pub use properties::{Mode, TRANSACTION_TIMEOUT, properties};
pub use transactions::{TransactionClass, TransactionError};

use rdkafka::error::KafkaError;

/// The admin client's answers come from a thread of its own; here they are waited for.
fn wait_for<T>(answer: impl Future<Output = Result<T, KafkaError>>) -> Result<T, KafkaError> {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.map_err(|error| KafkaError::AdminOpCreation(error.to_string()))?;
    runtime.block_on(answer)
}
