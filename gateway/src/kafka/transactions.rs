//! The producer's transactional calls, each bounded in time, and what their failures mean.
//!
//! librdkafka goes on in the background with a call that has run out of time; the same call is then
//! made again and takes up where it was ([`TransactionClass::Again`]). rdkafka 0.39 commits in steps
//! of 100 ms while delivery reports wait to be served, so they are served first.

use std::time::Duration;

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::Producer as _;

use super::{Producer, TRANSACTION_TIMEOUT};

/// What to do about a failed transactional call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionClass {
    /// Make the same call again.
    Again,
    /// The transaction can only be aborted; the producer is as good as before after that.
    Abort,
    /// A newer producer of the same `transactional.id` has taken over, or the coordinator has ended
    /// the transaction for its age: librdkafka does not tell them apart. A new producer is needed.
    Fenced,
    /// The producer is of no more use.
    Fatal,
}

/// A transactional call failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct TransactionError {
    /// librdkafka's code.
    pub code: RDKafkaErrorCode,
    /// What to do.
    pub class: TransactionClass,
    /// For a person.
    pub text: String,
}

impl TransactionError {
    fn of(error: KafkaError) -> Self {
        let code = error
            .rdkafka_error_code()
            .unwrap_or(RDKafkaErrorCode::Unknown);
        let fenced = matches!(
            code,
            RDKafkaErrorCode::Fenced
                | RDKafkaErrorCode::ProducerFenced
                | RDKafkaErrorCode::InvalidProducerEpoch
        );
        let class = match &error {
            _ if fenced => TransactionClass::Fenced,
            // rdkafka's own wait for delivery reports, before librdkafka's call.
            KafkaError::Flush(RDKafkaErrorCode::OperationTimedOut) => TransactionClass::Again,
            KafkaError::Transaction(native) if native.is_fatal() => TransactionClass::Fatal,
            KafkaError::Transaction(native) if native.txn_requires_abort() => {
                TransactionClass::Abort
            }
            KafkaError::Transaction(native) if native.is_retriable() => TransactionClass::Again,
            _ => TransactionClass::Fatal,
        };
        let text = match error {
            KafkaError::Transaction(native) => native.string(),
            other => other.to_string(),
        };
        Self { code, class, text }
    }

    /// Why there are no transactions with the id `id`, and what to do, for a person.
    #[must_use]
    pub fn explained(&self, id: &str) -> String {
        match self.code {
            RDKafkaErrorCode::TransactionalIdAuthorizationFailed => format!(
                "Kafka does not allow us the transactional id {id:?}: grant WRITE and DESCRIBE on it"
            ),
            RDKafkaErrorCode::InvalidTransactionTimeout => format!(
                "the cluster does not allow transactions of {} s: raise transaction.max.timeout.ms \
                 on the brokers",
                TRANSACTION_TIMEOUT.as_secs()
            ),
            _ => format!("no transactions with the id {id:?}: {}", self.text),
        }
    }
}

impl Producer {
    /// Takes the `transactional.id` over from whoever had it: their open transaction is aborted, a
    /// commit that was under way is decided and its markers are written when this returns.
    ///
    /// # Errors
    /// [`TransactionError`]
    pub fn init_transactions(&self, within: Duration) -> Result<(), TransactionError> {
        let called = self.inner.init_transactions(within);
        called.map_err(TransactionError::of)
    }

    /// Begins a transaction; nothing is sent yet.
    ///
    /// # Errors
    /// [`TransactionError`]
    pub fn begin_transaction(&self) -> Result<(), TransactionError> {
        let called = self.inner.begin_transaction();
        called.map_err(TransactionError::of)
    }

    /// Commits. All delivery reports have been served before.
    ///
    /// # Errors
    /// [`TransactionError`]. Anything but [`TransactionClass::Again`] leaves open whether the
    /// transaction was committed.
    pub fn commit_transaction(&self, within: Duration) -> Result<(), TransactionError> {
        let called = self.inner.commit_transaction(within);
        called.map_err(TransactionError::of)
    }

    /// Aborts. Between calls that end in [`TransactionClass::Again`], reports must be served.
    ///
    /// # Errors
    /// [`TransactionError`]
    pub fn abort_transaction(&self, within: Duration) -> Result<(), TransactionError> {
        let called = self.inner.abort_transaction(within);
        called.map_err(TransactionError::of)
    }

    /// Why the open transaction can't be committed any more, if so: librdkafka tells it only to a
    /// transactional call, and this one changes nothing while a transaction is open.
    #[must_use]
    pub fn transaction_failure(&self) -> Option<TransactionError> {
        match self.begin_transaction() {
            // No transaction was open: now one is, which its owner begins anyway.
            Ok(()) => None,
            Err(error) if error.code == RDKafkaErrorCode::State => None,
            Err(error) => Some(error),
        }
    }
}
