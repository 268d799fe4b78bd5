//! From what Kafka says to what the scheduler does.

use std::time::Duration;

use millstream_common::failure::{Failure, FailureKind, Fault, Retry};
use rdkafka::{error::KafkaError, types::RDKafkaErrorCode as Code};

use super::super::asking;

/// A record that was not written, as its delivery report says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Undelivered {
    pub topic: String,
    pub code: Code,
    /// Bytes of its key, value and headers.
    pub bytes: usize,
}

pub(super) fn user(mut failure: Failure) -> Failure {
    failure.fault = Fault::User;
    failure.with_retry(Retry::Never)
}

/// Whether a producer with the same transactional id was started later, or the broker ended the transaction.
pub(super) fn is_fence(code: Code) -> bool {
    matches!(
        code,
        Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch
    )
}

pub(super) fn superseded(transactional_id: &str) -> Failure {
    let message = format!(
        "another attempt has taken over the sink partition (transactional id {transactional_id}); nothing of this one is seen"
    );
    Failure::new(FailureKind::Superseded, message)
}

pub(super) fn transaction_timed_out(
    transactional_id: &str,
    after: Duration,
    limit: Duration,
) -> Failure {
    let message = format!(
        "the broker ended transaction {transactional_id} after {after:.1?}: it may stay open for {limit:?}; raise kafka_sink.transaction_timeout, or make the batches smaller"
    );
    Failure::new(FailureKind::Io, message).with_code("sink.transaction_timeout")
}

/// A record was refused, by the client before it was sent or by its broker. `own_topic` was seen when the query started: a broker that doesn't know it
/// may just have been started.
pub(super) fn undelivered(
    record: &Undelivered,
    max_bytes: u64,
    brokers: &str,
    own_topic: Option<&str>,
) -> Failure {
    let Undelivered { topic, code, bytes } = record;
    if *code != Code::MessageSizeTooLarge
        && let Some(impossible) = asking::impossible_topic(topic)
    {
        return impossible;
    }
    match code {
        Code::MessageSizeTooLarge => {
            let message = format!(
                "a record for topic {topic} is too large: {bytes} bytes of key, value and headers, to which the client adds some; the sink sends at most message.max.bytes = {max_bytes}, and the topic takes at most its own max.message.bytes (1048588 unless changed); raise both, or write smaller records"
            );
            user(Failure::new(FailureKind::Io, message).with_code("sink.record_too_large"))
        }
        Code::UnknownTopicOrPartition | Code::UnknownTopic if own_topic == Some(topic.as_str()) => {
            let message = format!(
                "the brokers {brokers} don't know topic {topic}, which was there when the query started; if it was deleted, make it again, for example with: {}",
                create_command(brokers, topic)
            );
            Failure::new(FailureKind::Io, message).with_code("kafka.unknown_topic")
        }
        Code::UnknownTopicOrPartition
        | Code::UnknownTopic
        | Code::UnknownPartition
        | Code::InvalidTopic => {
            let message = format!(
                "a record was bound for topic {topic}, or a partition of it, that is not there (brokers {brokers}); make it, for example with: {}",
                create_command(brokers, topic)
            );
            user(Failure::new(FailureKind::Io, message).with_code("kafka.unknown_topic"))
        }
        Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed => {
            let message = format!(
                "the brokers {brokers} don't let this sink write to topic {topic}; grant it `Write`"
            );
            user(Failure::new(FailureKind::Io, message).with_code("sink.not_authorized"))
        }
        Code::InvalidRecord | Code::InvalidTimestamp => {
            let message = format!(
                "the broker refused a record for topic {topic} ({code}); a compacted topic takes no record without a key"
            );
            user(Failure::new(FailureKind::Io, message).with_code("sink.record_refused"))
        }
        other => Failure::new(
            FailureKind::Io,
            format!("a record for topic {topic} was not written: {other}"),
        ),
    }
}

/// A call failed for no reason that is known better.
pub(super) fn call(
    what: &str,
    transactional_id: &str,
    brokers: &str,
    error: &KafkaError,
) -> Failure {
    let message =
        format!("could not {what} (transactional id {transactional_id}, brokers {brokers})");
    let failure = Failure::caused_by(FailureKind::Io, message, error);
    match error.rdkafka_error_code() {
        Some(
            Code::TransactionalIdAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::TopicAuthorizationFailed
            | Code::ClusterAuthorizationFailed,
        ) => user(failure.with_code("sink.not_authorized")),
        Some(Code::InvalidTransactionTimeout) => {
            user(failure.with_code("sink.transaction_timeout"))
        }
        _ => failure,
    }
}

/// The producer can do nothing more.
pub(super) fn fatal(code: Code, text: &str, transactional_id: &str) -> Failure {
    let message = format!("the Kafka producer {transactional_id} gave up: {text}");
    let failure = Failure::new(FailureKind::Io, message);
    match code {
        Code::TransactionalIdAuthorizationFailed | Code::ClusterAuthorizationFailed => {
            user(failure.with_code("sink.not_authorized"))
        }
        Code::InvalidTransactionTimeout => user(failure.with_code("sink.transaction_timeout")),
        _ => failure,
    }
}

pub(super) fn properties(error: &KafkaError) -> Failure {
    let message = "could not make a Kafka client for a sink; see the output's properties";
    user(Failure::caused_by(FailureKind::Io, message, error).with_code("kafka.properties"))
}

pub(super) fn create_command(brokers: &str, topic: &str) -> String {
    format!("kafka-topics.sh --bootstrap-server {brokers} --create --topic {topic} --partitions 4")
}

pub(super) fn broke_off(error: &tokio::task::JoinError) -> Failure {
    Failure::caused_by(
        FailureKind::Internal,
        "a question to Kafka broke off",
        error,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_that_was_there_may_come_back_and_another_not() {
        let told = |topic: &str, code| {
            let record = Undelivered {
                topic: topic.to_owned(),
                code,
                bytes: 1,
            };
            undelivered(&record, 1_000, "localhost:9092", Some("counts"))
        };
        for code in [Code::UnknownTopicOrPartition, Code::UnknownTopic] {
            let own = told("counts", code);
            assert_ne!(own.retry, Retry::Never, "{own}");
            assert_eq!(own.code, "kafka.unknown_topic");
            let other = told("cuonts", code);
            assert_eq!(other.retry, Retry::Never, "{other}");
            assert_eq!(other.fault, Fault::User);
        }
        assert_eq!(
            told("counts", Code::UnknownPartition).retry,
            Retry::Never,
            "a record named a partition that the topic never had"
        );
        // Brokers say no more of such a name than of one that isn't there.
        for code in [Code::UnknownTopic, Code::InvalidTopic] {
            assert_eq!(told("what counts", code).code, "kafka.topic_name");
        }
    }
}
