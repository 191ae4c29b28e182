//! What has gone wrong with a transaction, by what is to be done.

use rdkafka::error::RDKafkaErrorCode;

use super::super::lane::Trouble;
use crate::kafka::{TransactionClass, TransactionError};

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The transaction must be aborted; the producer remains.
    Abort(Trouble),
    /// A new producer is needed, and the position must be read back.
    Anew {
        /// librdkafka's code.
        code: RDKafkaErrorCode,
        /// For a person.
        text: String,
        /// Another producer of the same id may have taken over.
        fenced: bool,
    },
}

impl Failure {
    /// What the failure of any call but a commit means.
    pub(super) fn of(error: TransactionError) -> Self {
        match error.class {
            TransactionClass::Abort => Self::Abort(Trouble::of(error.code, None)),
            TransactionClass::Again | TransactionClass::Fatal | TransactionClass::Fenced => {
                Self::anew(error)
            }
        }
    }

    /// What the failure of a commit means: whether Kafka has it is to be read back (E2).
    pub(super) fn anew(error: TransactionError) -> Self {
        Self::Anew {
            code: error.code,
            fenced: error.class == TransactionClass::Fenced,
            text: error.text,
        }
    }

    /// Both together: a producer of no more use outweighs a transaction to abort.
    pub(super) fn joined(self, other: Self) -> Self {
        match (self, other) {
            (Self::Abort(one), Self::Abort(other)) => Self::Abort(one.joined(other)),
            (anew @ Self::Anew { .. }, _) | (Self::Abort(_), anew @ Self::Anew { .. }) => anew,
        }
    }
}
