//! What each of Kafka's error codes means for the record, the topic or the producer it befell.
//!
//! Decided code by code, never by text. librdkafka retries by itself what it can, so most
//! transient codes never reach a delivery report; those that do are waited for all the same.

use rdkafka::error::RDKafkaErrorCode as Code;

/// What to do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Passes by itself: wait, then send again in order.
    Transient,
    /// Kafka will never take this record, nor one like it. The word is the reason of its dead
    /// letter.
    Record(&'static str),
    /// Kafka refused the timestamp: send once more without one.
    Timestamp,
    /// Concerns the whole topic, and ends when somebody makes it or allows it.
    Topic,
    /// The producer is of no more use: make a new one and begin from the committed offset.
    Fatal,
}

/// The class of an error code of a delivery report or of a refused send.
#[must_use]
pub fn class(code: Code) -> Class {
    match code {
        Code::MessageSizeTooLarge | Code::MessageBatchTooLarge | Code::InvalidMessageSize => {
            Class::Record("too_large")
        }
        Code::InvalidRecord
        | Code::InvalidDifferentRecord
        | Code::PolicyViolation
        | Code::UnsupportedForMessageFormat
        | Code::KeySerialization
        | Code::ValueSerialization => Class::Record("invalid_record"),
        Code::InvalidArgument => Class::Record("invalid_argument"),
        Code::InvalidTopic => Class::Record("bad_topic"),
        Code::InvalidTimestamp => Class::Timestamp,
        Code::UnknownTopic
        | Code::UnknownPartition
        | Code::UnknownTopicOrPartition
        | Code::UnknownTopicId
        | Code::TopicAuthorizationFailed
        | Code::InvalidPartitions
        | Code::InvalidRequiredAcks
        | Code::UnsupportedCompressionType => Class::Topic,
        Code::Fatal
        | Code::GaplessGuarantee
        | Code::Fenced
        | Code::ProducerFenced
        | Code::OutOfOrderSequenceNumber
        | Code::DuplicateSequenceNumber
        | Code::InvalidProducerEpoch
        | Code::UnknownProducerId
        | Code::InvalidProducerIdMapping
        | Code::InvalidTransactionalState
        | Code::TransactionCoordinatorFenced
        | Code::State
        | Code::Inconsistent
        | Code::PurgeQueue
        | Code::PurgeInflight => Class::Fatal,
        other => passing(other),
    }
}

/// The codes that pass by themselves, and those that a producer never gets: waiting harms neither.
fn passing(code: Code) -> Class {
    if is_of_the_cluster(code) || is_of_the_client(code) || is_of_other_requests(code) {
        return Class::Transient;
    }
    tracing::warn!(
        ?code,
        "Kafka error of no known class, taken for a passing one"
    );
    Class::Transient
}

/// Brokers that are away, busy, moving partitions, or do not know us (yet).
fn is_of_the_cluster(code: Code) -> bool {
    matches!(
        code,
        Code::NoError
            | Code::Unknown
            | Code::InvalidMessage
            | Code::LeaderNotAvailable
            | Code::NotLeaderForPartition
            | Code::RequestTimedOut
            | Code::BrokerNotAvailable
            | Code::ReplicaNotAvailable
            | Code::StaleControllerEpoch
            | Code::NetworkException
            | Code::CoordinatorLoadInProgress
            | Code::CoordinatorNotAvailable
            | Code::NotCoordinator
            | Code::NotEnoughReplicas
            | Code::NotEnoughReplicasAfterAppend
            | Code::ClusterAuthorizationFailed
            | Code::UnsupportedSASLMechanism
            | Code::IllegalSASLState
            | Code::UnsupportedVersion
            | Code::NotController
            | Code::InvalidRequest
            | Code::SecurityDisabled
            | Code::OperationNotAttempted
            | Code::KafkaStorageError
            | Code::LogDirNotFound
            | Code::SaslAuthenticationFailed
            | Code::ReassignmentInProgress
            | Code::ListenerNotFound
            | Code::FencedLeaderEpoch
            | Code::UnknownLeaderEpoch
            | Code::StaleBrokerEpoch
            | Code::OffsetNotAvailable
            | Code::PreferredLeaderNotAvailable
            | Code::EligibleLeadersNotAvailable
            | Code::ElectionNotNeeded
            | Code::NoReassignmentInProgress
            | Code::ThrottlingQuotaExceeded
            | Code::PrincipalDeserializationFailure
            | Code::RebootstrapRequired
    )
}

/// librdkafka's own codes: no broker was asked, or no answer came.
fn is_of_the_client(code: Code) -> bool {
    matches!(
        code,
        Code::Begin
            | Code::BadMessage
            | Code::BadCompression
            | Code::BrokerDestroy
            | Code::Fail
            | Code::BrokerTransportFailure
            | Code::CriticalSystemResource
            | Code::Resolve
            | Code::MessageTimedOut
            | Code::PartitionEOF
            | Code::FileSystem
            | Code::AllBrokersDown
            | Code::OperationTimedOut
            | Code::QueueFull
            | Code::ISRInsufficient
            | Code::NodeUpdate
            | Code::SSL
            | Code::WaitingForCoordinator
            | Code::UnknownGroup
            | Code::InProgress
            | Code::PreviousInProgress
            | Code::ExistingSubscription
            | Code::AssignPartitions
            | Code::RevokePartitions
            | Code::Conflict
            | Code::UnknownProtocol
            | Code::NotImplemented
            | Code::Authentication
            | Code::NoOffset
            | Code::Outdated
            | Code::TimedOutQueue
            | Code::UnsupportedFeature
            | Code::WaitCache
            | Code::Interrupted
            | Code::KeyDeserialization
            | Code::ValueDeserialization
            | Code::Partial
            | Code::ReadOnly
            | Code::NoEnt
            | Code::Underflow
            | Code::InvalidType
            | Code::Retry
            | Code::PollExceeded
            | Code::UnknownBroker
            | Code::NotConfigured
            | Code::Application
            | Code::AssignmentLost
            | Code::Noop
            | Code::AutoOffsetReset
            | Code::LogTruncation
            | Code::DestroyBroker
            | Code::End
            | Code::EndAll
    )
}

/// Answers to requests that a producer does not make.
fn is_of_other_requests(code: Code) -> bool {
    matches!(
        code,
        Code::OffsetOutOfRange
            | Code::OffsetMetadataTooLarge
            | Code::IllegalGeneration
            | Code::InconsistentGroupProtocol
            | Code::InvalidGroupId
            | Code::UnknownMemberId
            | Code::InvalidSessionTimeout
            | Code::RebalanceInProgress
            | Code::InvalidCommitOffsetSize
            | Code::GroupAuthorizationFailed
            | Code::TopicAlreadyExists
            | Code::InvalidReplicationFactor
            | Code::InvalidReplicaAssignment
            | Code::InvalidConfig
            | Code::InvalidTransactionTimeout
            | Code::ConcurrentTransactions
            | Code::TransactionalIdAuthorizationFailed
            | Code::DelegationTokenAuthDisabled
            | Code::DelegationTokenNotFound
            | Code::DelegationTokenOwnerMismatch
            | Code::DelegationTokenRequestNotAllowed
            | Code::DelegationTokenAuthorizationFailed
            | Code::DelegationTokenExpired
            | Code::InvalidPrincipalType
            | Code::NonEmptyGroup
            | Code::GroupIdNotFound
            | Code::FetchSessionIdNotFound
            | Code::InvalidFetchSessionEpoch
            | Code::TopicDeletionDisabled
            | Code::MemberIdRequired
            | Code::GroupMaxSizeReached
            | Code::FencedInstanceId
            | Code::GroupSubscribedToTopic
            | Code::UnstableOffsetCommit
            | Code::ResourceNotFound
            | Code::DuplicateResource
            | Code::UnacceptableCredential
            | Code::InconsistentVoterSet
            | Code::InvalidUpdateVersion
            | Code::FeatureUpdateFailed
            | Code::FencedMemberEpoch
            | Code::UnreleasedInstanceId
            | Code::UnsupportedAssignor
            | Code::StaleMemberEpoch
            | Code::UnknownSubscriptionId
            | Code::TelemetryTooLarge
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_is_too_large_is_refused_for_itself_alone() {
        assert_eq!(class(Code::MessageSizeTooLarge), Class::Record("too_large"));
    }

    #[test]
    fn brokers_that_are_away_are_waited_for() {
        for code in [
            Code::AllBrokersDown,
            Code::RequestTimedOut,
            Code::NotLeaderForPartition,
            Code::NotEnoughReplicas,
        ] {
            assert_eq!(class(code), Class::Transient, "{code:?}");
        }
    }

    #[test]
    fn a_topic_that_is_unknown_or_forbidden_concerns_the_whole_topic() {
        for code in [Code::UnknownTopic, Code::TopicAuthorizationFailed] {
            assert_eq!(class(code), Class::Topic, "{code:?}");
        }
    }
}
