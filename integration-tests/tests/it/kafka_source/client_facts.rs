//! What the source takes for granted of librdkafka and Kafka.

use std::time::Duration;

use millstream_integration_tests::kafka::{KafkaBroker, KafkaClient, NewRecord, Outcome};
use millstream_integration_tests::process::unique_marker;
use millstream_integration_tests::wait::{wait_for, wait_until};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};

use super::fixture::SOON;

fn consumer(kafka: &KafkaClient, isolation: &str) -> BaseConsumer {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", kafka.bootstrap())
        .set("group.id", "facts")
        .set("isolation.level", isolation)
        .set("auto.offset.reset", "error")
        .set("enable.partition.eof", "true")
        .set("enable.auto.commit", "false")
        .set("fetch.wait.max.ms", "100");
    config.create().unwrap()
}

fn at(topic: &str, offset: Offset) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, 0, offset).unwrap();
    list
}

fn newest_and_oldest(consumer: &BaseConsumer, topic: &str) -> [Offset; 2] {
    [Offset::End, Offset::Beginning].map(|end| {
        let answer = consumer.offsets_for_times(at(topic, end), SOON).unwrap();
        answer.elements()[0].offset()
    })
}

/// Offsets of the records up to the next end of the partition.
fn until_end(consumer: &BaseConsumer) -> Vec<i64> {
    let mut seen = Vec::new();
    wait_for(SOON, "the end of the partition", || {
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => seen.push(message.offset()),
            Some(Err(KafkaError::PartitionEOF(_))) => return Some(()),
            Some(Err(error)) => panic!("{error}"),
            None => {}
        }
        None
    })
    .unwrap();
    seen
}

#[test]
fn a_lookup_by_the_times_end_and_beginning_gives_the_stable_offsets() {
    let kafka = KafkaBroker::shared().client();
    let topic = kafka.unique_topic("lookup", 1).unwrap();
    kafka.produce_lines(&topic, 0, ["a", "b", "c"]).unwrap();
    kafka.delete_records(&topic, 0, 1).unwrap();
    let id = format!("open-{}", unique_marker());
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", kafka.bootstrap())
        .set("transactional.id", &id)
        .create()
        .unwrap();
    producer.init_transactions(SOON).unwrap();
    producer.begin_transaction().unwrap();
    producer
        .send(BaseRecord::<[u8], [u8]>::to(&topic).payload(b"open"))
        .unwrap();
    producer.flush(SOON).unwrap();

    let committed = consumer(kafka, "read_committed");
    let uncommitted = consumer(kafka, "read_uncommitted");
    assert_eq!(
        newest_and_oldest(&committed, &topic),
        [Offset::Offset(3), Offset::Offset(1)]
    );
    assert_eq!(
        newest_and_oldest(&uncommitted, &topic)[0],
        Offset::Offset(4)
    );
    producer.commit_transaction(SOON).unwrap();
    wait_until(SOON, "the marker", || {
        newest_and_oldest(&committed, &topic)[0] == Offset::Offset(5)
    })
    .unwrap();
}

#[test]
fn the_position_moves_over_markers_and_a_seek_begins_anew() {
    let kafka = KafkaBroker::shared().client();
    let topic = kafka.unique_topic("position", 1).unwrap();
    let records = ["a", "b"].map(NewRecord::value);
    kafka
        .produce_transaction(&topic, &records, Outcome::Commit)
        .unwrap();
    kafka
        .produce_transaction(&topic, &records, Outcome::Abort)
        .unwrap();
    let consumer = consumer(kafka, "read_committed");
    wait_until(SOON, "the markers", || {
        newest_and_oldest(&consumer, &topic)[0] == Offset::Offset(6)
    })
    .unwrap();
    let position = || {
        let positions = consumer.position().unwrap();
        positions.find_partition(&topic, 0).unwrap().offset()
    };
    consumer
        .incremental_assign(&at(&topic, Offset::Offset(0)))
        .unwrap();
    assert_eq!(position(), Offset::Invalid);
    assert_eq!(until_end(&consumer), [0, 1]);
    assert_eq!(position(), Offset::Offset(6));

    consumer.seek(&topic, 0, Offset::Offset(1), SOON).unwrap();
    assert_eq!(position(), Offset::Invalid, "forgotten by the seek");
    assert_eq!(until_end(&consumer), [1]);
    consumer.seek(&topic, 0, Offset::Offset(6), SOON).unwrap();
    assert_eq!(until_end(&consumer), [0; 0], "the end is told again");

    consumer
        .incremental_unassign(&at(&topic, Offset::Invalid))
        .unwrap();
    assert!(consumer.poll(Duration::ZERO).is_none());
    consumer
        .incremental_assign(&at(&topic, Offset::Offset(0)))
        .unwrap();
    assert_eq!(until_end(&consumer), [0, 1]);
}

#[test]
fn nothing_of_before_comes_after_a_seek() {
    let kafka = KafkaBroker::shared().client();
    let topic = kafka.unique_topic("seek", 1).unwrap();
    let lines: Vec<String> = (0..5_000).map(|n| format!("line {n}")).collect();
    kafka.produce_lines(&topic, 0, &lines).unwrap();
    let consumer = consumer(kafka, "read_committed");
    consumer
        .incremental_assign(&at(&topic, Offset::Offset(0)))
        .unwrap();
    let next = || {
        wait_for(SOON, "a record", || {
            consumer
                .poll(Duration::from_millis(100))
                .and_then(|polled| polled.ok().map(|message| message.offset()))
        })
        .unwrap()
    };
    assert_eq!(next(), 0);
    for target in (0..5_000).step_by(617) {
        consumer
            .seek(&topic, 0, Offset::Offset(target), SOON)
            .unwrap();
        assert_eq!((next(), next()), (target, target + 1));
        consumer
            .incremental_unassign(&at(&topic, Offset::Invalid))
            .unwrap();
        consumer
            .incremental_assign(&at(&topic, Offset::Offset(target / 2)))
            .unwrap();
        assert_eq!(next(), target / 2);
    }
}
