//! Whether the cluster lets a gateway have its transactions, without taking the transactional id away
//! from one that runs: for `check --connect`.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::BaseProducer;

use super::context::Context;
use super::properties::{TRANSACTION_TIMEOUT, access, properties};
use super::{Mode, Producer, TransactionError, wait_for};
use crate::config::Config;
use crate::metrics::Metrics;

const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// The most there is: more than any cluster allows that has a limit.
const TIMEOUT_MS_MAX: i32 = i32::MAX;
const LIMIT: &str = "transaction.max.timeout.ms";

/// There would be no transactions.
#[derive(Debug, thiserror::Error)]
pub enum RightsError {
    /// No client: a property that librdkafka refuses.
    #[error("the client that asks for transactions cannot be made")]
    Client(#[source] KafkaError),
    /// The id is not for us, or nobody answers for it.
    #[error("{}", source.explained(id))]
    Refused {
        /// The transactional id.
        id: String,
        /// What Kafka says.
        source: TransactionError,
    },
    /// Ours are longer than the cluster allows.
    #[error(
        "transactions of {} s are not allowed: broker {broker} has {LIMIT}={allowed_ms}. Raise it \
         on the brokers",
        TRANSACTION_TIMEOUT.as_secs()
    )]
    TooLong {
        /// The broker.
        broker: i32,
        /// Its limit.
        allowed_ms: u64,
    },
}

/// Asks for the transactional id and for the longest transaction.
///
/// # Errors
/// [`RightsError`]
pub fn inspect(config: &Config) -> Result<(), RightsError> {
    may_use_id(config)?;
    may_be_long_enough(config)
}

/// The coordinator looks at the right first and at the length of transactions next; only then does it
/// give the id to who asks. So who asks for too long ones learns whether it may have it, and leaves it
/// to whoever has it.
fn may_use_id(config: &Config) -> Result<(), RightsError> {
    let mut client = properties(config, Mode::Transactions);
    client.set("transaction.timeout.ms", TIMEOUT_MS_MAX.to_string());
    let context = Context::new(Arc::new(Metrics::new()));
    let inner = BaseProducer::from_config_and_context(&client, context);
    let producer = Producer {
        inner: inner.map_err(RightsError::Client)?,
    };
    match producer.init_transactions(ANSWER_WITHIN) {
        // A cluster without a limit: a gateway that ran with the id takes it back by itself.
        Ok(()) => Ok(()),
        Err(error) if error.code == RDKafkaErrorCode::InvalidTransactionTimeout => Ok(()),
        Err(source) => Err(RightsError::Refused {
            id: config.gateway.id.clone(),
            source,
        }),
    }
}

/// Brokers that do not let us see their limit are believed to allow it.
fn may_be_long_enough(config: &Config) -> Result<(), RightsError> {
    let admin: AdminClient<DefaultClientContext> =
        access(config).create().map_err(RightsError::Client)?;
    let Ok(metadata) = admin.inner().fetch_metadata(None, ANSWER_WITHIN) else {
        return Ok(());
    };
    let options = AdminOptions::new().request_timeout(Some(ANSWER_WITHIN));
    for broker in metadata.brokers().iter().map(|broker| broker.id()) {
        let asked =
            wait_for(admin.describe_configs([&ResourceSpecifier::Broker(broker)], &options));
        let described = asked.ok().and_then(|mut answers| answers.pop()?.ok());
        let limit = described.and_then(|found| found.get(LIMIT)?.value.clone());
        let allowed_ms = limit.and_then(|limit| limit.parse().ok());
        if let Some(allowed_ms) = allowed_ms
            && u128::from(allowed_ms) < TRANSACTION_TIMEOUT.as_millis()
        {
            return Err(RightsError::TooLong { broker, allowed_ms });
        }
    }
    Ok(())
}
