//! What the driver half asks the brokers, and what it says when they don't answer.

use std::{sync::Arc, time::Duration};

use millstream_common::failure::{Failure, FailureKind, Fault, Retry};
use parking_lot::Mutex;
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{CommitMode, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode},
};

use super::{
    Settings, Subscription,
    client::{self, Consumer},
    driver::{Offsets, Place},
};

/// The code of a failure that passes by itself: an election of leaders is under way.
pub(super) const NO_LEADER: &str = "kafka.no_leader";

/// Brokers name folders after topics.
const LONGEST_TOPIC: usize = 249;

/// The client, made if it is not there yet.
pub(super) fn connected(
    client: &Mutex<Option<Arc<Consumer>>>,
    settings: &Settings,
) -> Result<Arc<Consumer>, Failure> {
    let mut client = client.lock();
    if let Some(consumer) = &*client {
        return Ok(Arc::clone(consumer));
    }
    let consumer = client::consumer(&settings.client()).map_err(|error| {
        let message = "could not make a Kafka client; see the consumer's properties";
        user(Failure::caused_by(FailureKind::Io, message, &error).with_code("kafka.properties"))
    })?;
    Ok(Arc::clone(client.insert(Arc::new(consumer))))
}

/// Commits group offsets. Without a coordinator librdkafka waits for `session.timeout.ms`.
pub(super) fn commit(
    client: &Mutex<Option<Arc<Consumer>>>,
    settings: &Settings,
    positions: &Offsets,
) -> Result<(), Failure> {
    let consumer = connected(client, settings)?;
    let mut list = TopicPartitionList::new();
    for ((topic, partition), offset) in positions {
        list.add_partition_offset(topic, *partition, Offset::Offset(*offset))
            .map_err(|error| commit_failed(&settings.group, &error))?;
    }
    consumer
        .commit(&list, CommitMode::Sync)
        .map_err(|error| commit_failed(&settings.group, &error))
}

pub(super) fn partitions_of(
    consumer: &Consumer,
    topic: &str,
    brokers: &str,
    timeout: Duration,
) -> Result<Vec<Place>, Failure> {
    let metadata = consumer
        .fetch_metadata(Some(topic), timeout)
        .map_err(|error| no_broker(brokers, timeout, &error))?;
    let found = metadata.topics().iter().find(|found| found.name() == topic);
    let partitions: Vec<Place> = found
        .map(|found| {
            found
                .partitions()
                .iter()
                .map(|partition| (topic.to_owned(), partition.id()))
                .collect()
        })
        .unwrap_or_default();
    Ok(partitions)
}

pub(super) fn unknown_topic(topic: &str, brokers: &str) -> Failure {
    let message = format!(
        "topic {topic} is not there (brokers {brokers}); make it, for example with: kafka-topics.sh --bootstrap-server {brokers} --create --topic {topic} --partitions 4"
    );
    user(Failure::new(FailureKind::Io, message).with_code("kafka.unknown_topic"))
}

/// Refuses topics that can't be.
pub(super) fn check_names(subscription: &Subscription) -> Result<(), Failure> {
    let impossible = match subscription {
        Subscription::Topics(topics) => topics.iter().find_map(|topic| impossible_topic(topic)),
        Subscription::Assign(places) => {
            places.iter().find_map(|(topic, _)| impossible_topic(topic))
        }
        Subscription::Pattern(_) => None,
    };
    impossible.map_or(Ok(()), Err)
}

/// What no topic can be called, told before a broker is asked: it would say no more than that there is none.
pub(super) fn impossible_topic(topic: &str) -> Option<Failure> {
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let is_possible = (1..=LONGEST_TOPIC).contains(&topic.len())
        && topic.chars().all(known)
        && !matches!(topic, "." | "..");
    if is_possible {
        return None;
    }
    // A record may name anything as its topic.
    let shown: String = topic.chars().take(LONGEST_TOPIC + 1).collect();
    let message = format!(
        "`{}` can't be the name of a Kafka topic: that has 1 to {LONGEST_TOPIC} of the characters a to z, A to Z, 0 to 9, `.`, `_` and `-`, and is neither `.` nor `..`",
        shown.escape_debug()
    );
    Some(user(
        Failure::new(FailureKind::BadInput, message).with_code("kafka.topic_name"),
    ))
}

/// One request for all partitions: a lookup by time whose "time" is the protocol's word for the newest or oldest offset.
pub(super) fn offsets_at(
    consumer: &Consumer,
    places: &[Place],
    at: Offset,
    brokers: &str,
    timeout: Duration,
) -> Result<Offsets, Failure> {
    if places.is_empty() {
        return Ok(Offsets::new());
    }
    let mut asked = TopicPartitionList::new();
    for (topic, partition) in places {
        asked
            .add_partition_offset(topic, *partition, at)
            .map_err(|error| no_broker(brokers, timeout, &error))?;
    }
    let answered = consumer
        .offsets_for_times(asked, timeout)
        .map_err(|error| no_offsets(brokers, timeout, &error))?;
    let mut offsets = Offsets::new();
    for element in answered.elements() {
        let place = (element.topic().to_owned(), element.partition());
        element.error().map_err(|error| {
            let message = format!("the broker gave no offset for {}/{}", place.0, place.1);
            Failure::caused_by(FailureKind::Io, message, &error).with_code("kafka.no_offset")
        })?;
        match element.offset() {
            Offset::Offset(offset) => {
                offsets.insert(place, offset);
            }
            other => {
                let message = format!(
                    "the broker gave no offset for {}/{} but {other:?}; ask again",
                    place.0, place.1
                );
                return Err(Failure::new(FailureKind::Io, message));
            }
        }
    }
    Ok(offsets)
}

fn no_offsets(brokers: &str, timeout: Duration, error: &KafkaError) -> Failure {
    match error.rdkafka_error_code() {
        Some(
            RDKafkaErrorCode::UnknownPartition
            | RDKafkaErrorCode::LeaderNotAvailable
            | RDKafkaErrorCode::NotLeaderForPartition,
        ) => {
            let message = format!(
                "a partition to read has no leader among the brokers {brokers}; where that lasts, see: kafka-topics.sh --bootstrap-server {brokers} --describe"
            );
            Failure::caused_by(FailureKind::Io, message, error).with_code(NO_LEADER)
        }
        _ => no_broker(brokers, timeout, error),
    }
}

pub(super) fn no_broker(brokers: &str, timeout: Duration, error: &KafkaError) -> Failure {
    let message = format!(
        "no answer from the Kafka brokers {brokers} within {timeout:?}; see whether one listens there, for example with: kcat -L -b {brokers}"
    );
    Failure::caused_by(FailureKind::Io, message, error).with_code("kafka.no_broker")
}

fn commit_failed(group: &str, error: &KafkaError) -> Failure {
    let message = format!(
        "could not commit the group offsets of {group}; only lag tools see them, no record is lost or doubled"
    );
    Failure::caused_by(FailureKind::Io, message, error).with_code("kafka.group_commit")
}

pub(super) fn user(mut failure: Failure) -> Failure {
    failure.fault = Fault::User;
    failure.with_retry(Retry::Never)
}

#[cfg(test)]
mod tests {
    use millstream_common::time::SystemClock;

    use super::*;
    use crate::kafka::KafkaDriver;

    #[test]
    fn an_election_is_told_from_brokers_that_do_not_answer() {
        let code = |error| {
            let error = KafkaError::OffsetFetch(error);
            no_offsets("kafka:9092", Duration::from_secs(10), &error).code
        };
        for passing in [
            RDKafkaErrorCode::UnknownPartition,
            RDKafkaErrorCode::LeaderNotAvailable,
            RDKafkaErrorCode::NotLeaderForPartition,
        ] {
            assert_eq!(code(passing), NO_LEADER);
        }
        for silent in [
            RDKafkaErrorCode::AllBrokersDown,
            RDKafkaErrorCode::OperationTimedOut,
        ] {
            assert_eq!(code(silent), "kafka.no_broker");
        }
    }

    #[test]
    fn a_broker_that_does_not_answer_is_told_with_its_cause_once() {
        let error = KafkaError::MetadataFetch(RDKafkaErrorCode::BrokerTransportFailure);
        let told = no_broker("kafka:9092", Duration::from_secs(10), &error).to_string();
        let cause = "Local: Broker transport failure";
        assert_eq!(told.matches(cause).count(), 1, "{told}");
    }

    #[test]
    fn topics_are_named_by_kafkas_rule() {
        let longest = "t".repeat(LONGEST_TOPIC);
        for topic in ["lines", "a.b_c-D9", "...", "_", &longest] {
            assert_eq!(impossible_topic(topic), None, "{topic}");
        }
        let too_long = "t".repeat(LONGEST_TOPIC + 1);
        for topic in ["", "a b", "a/b", "zeilen-ü", ".", "..", "a\0", &too_long] {
            let failure = impossible_topic(topic).expect(topic);
            assert_eq!(failure.code, "kafka.topic_name", "{topic}");
            assert_eq!(failure.fault, Fault::User);
            assert!(failure.message.contains("1 to 249"), "{failure}");
        }
    }

    #[test]
    fn a_source_of_a_topic_that_cannot_be_is_refused() {
        let of = |subscription| {
            let settings = Settings::new("127.0.0.1:1", subscription);
            let clock = Arc::new(SystemClock::new());
            KafkaDriver::new(Arc::new(settings), clock).err()
        };
        let code = |subscription| of(subscription).map(|failure| failure.code);
        let two = |second: &str| ["lines".to_owned(), second.to_owned()];
        assert_eq!(code(Subscription::Topics(two("more").into())), None);
        let refused = Some("kafka.topic_name".to_owned());
        assert_eq!(code(Subscription::Topics(two("a b").into())), refused);
        let assigned = two("..").map(|topic| (topic, 0));
        assert_eq!(code(Subscription::Assign(assigned.into())), refused);
    }
}
