//! Lost connections, lost brokers, lost records.

use std::thread;
use std::time::Duration;

use millstream_common::failure::{FailureKind, Retry};
use millstream_connectors::kafka::{OnDataLoss, Subscription};
use millstream_connectors::source::More;
use millstream_integration_tests::kafka::{
    BrokerOptions, Isolation, KafkaBroker, KafkaClient, NewRecord, Stop,
};
use millstream_integration_tests::wait::{wait_for, wait_until};

use super::fixture::{
    SOON, Source, of_topic, offsets, range, ranges, read_rest, settings, task, texts,
};

const ROWS: i64 = 60_000;

fn fill(kafka: &KafkaClient, topic: &str) {
    kafka.create_topic(topic, 1).unwrap();
    let line =
        |n| format!("line {n} that is long enough to fill more than one answer of the broker");
    kafka.produce_lines(topic, 0, (0..ROWS).map(line)).unwrap();
}

/// Reads a range whose broker is troubled by `trouble` when its first rows are there.
fn read_through(source: &Source, topic: &str, trouble: impl FnOnce() + Send) {
    let mut reader = source.open(&range(topic, 0, 0, ROWS));
    let mut task = task();
    task.input_deadline = Duration::from_secs(60);
    let mut rows = Vec::new();
    while rows.is_empty() {
        assert_eq!(reader.next(&mut rows, &mut task).unwrap(), More::Yes);
    }
    thread::scope(|scope| {
        let troubling = scope.spawn(trouble);
        rows.extend(read_rest(reader.as_mut(), &mut task).unwrap());
        troubling.join().unwrap();
    });
    assert_eq!(offsets(&rows), (0..ROWS).collect::<Vec<i64>>());
}

#[test]
fn a_broker_or_a_connection_that_comes_back_loses_nothing() {
    let options = BrokerOptions {
        properties: vec![("log.cleaner.backoff.ms".to_owned(), "100".to_owned())],
        proxied: true,
        ..BrokerOptions::default()
    };
    let broker = KafkaBroker::start_with(&options).unwrap();
    let kafka = broker.client();
    let proxy = broker.proxy().unwrap();
    let through_proxy = KafkaClient::new(proxy.address().to_string());
    fill(kafka, "troubled");
    let source = |settings_of: &KafkaClient| {
        let mut settings = of_topic(settings_of, "troubled");
        settings.read_ahead_bytes = 64 * 1024;
        settings.plan_timeout = Duration::from_millis(500);
        let small = [
            ("queued.max.messages.kbytes", "64"),
            ("fetch.message.max.bytes", "65536"),
            ("socket.timeout.ms", "10000"),
        ];
        for (name, value) in small {
            settings
                .properties
                .insert(name.to_owned(), value.to_owned());
        }
        Source::with(settings)
    };
    let mut troubled = source(&through_proxy);
    troubled.start().unwrap();
    read_through(&troubled, "troubled", || {
        proxy.cut();
        assert!(
            through_proxy
                .broker_count(Duration::from_millis(300))
                .is_err()
        );
        proxy.heal();
    });
    read_through(&troubled, "troubled", || {
        proxy.stall();
        assert!(
            through_proxy
                .broker_count(Duration::from_millis(300))
                .is_err()
        );
        proxy.heal();
    });
    proxy.cut();
    let failure = troubled.plan().unwrap_err();
    assert_eq!(
        (&failure.kind, failure.retry),
        (&FailureKind::Io, Retry::Backoff)
    );
    proxy.heal();
    let planned = wait_for(SOON, "a plan", || troubled.plan().ok()).unwrap();
    assert_eq!(ranges(&planned), [range("troubled", 0, 0, ROWS)]);

    let direct = source(kafka);
    read_through(&direct, "troubled", || broker.restart(Stop::Kill).unwrap());
    compacted_topics_have_gaps(kafka);
}

/// Here because it wants a broker that compacts often.
fn compacted_topics_have_gaps(kafka: &KafkaClient) {
    let topic_settings = [
        ("cleanup.policy", "compact"),
        ("segment.ms", "100"),
        ("min.cleanable.dirty.ratio", "0.01"),
        ("max.compaction.lag.ms", "100"),
    ];
    kafka
        .create_topic_with("compacted", 1, &topic_settings)
        .unwrap();
    let keyed = |key: String| NewRecord {
        partition: Some(0),
        key: Some(key.into_bytes()),
        value: Some(b"value".to_vec()),
        ..NewRecord::default()
    };
    let many: Vec<NewRecord> = (0..200).map(|n| keyed(format!("{}", n % 7))).collect();
    kafka.produce("compacted", &many).unwrap();
    let there = || -> Vec<i64> {
        let records = kafka.consume_all("compacted", Isolation::ReadCommitted);
        records
            .unwrap()
            .iter()
            .map(|record| record.offset)
            .collect()
    };
    wait_until(SOON, "compaction", || {
        kafka
            .produce("compacted", &[keyed("0".to_owned())])
            .unwrap();
        there().first() > Some(&0)
    })
    .unwrap();
    let end = kafka.end_offsets("compacted").unwrap()[&0];
    let source = Source::with(of_topic(kafka, "compacted"));
    let mut from = 0;
    let mut read = Vec::new();
    while from < end {
        let until = (from + 23).min(end);
        read.extend(source.read(&range("compacted", 0, from, until)).unwrap());
        from = until;
    }
    let now_there = there();
    assert!(now_there.len() < 150, "{now_there:?}");
    let read = offsets(&read);
    assert!(now_there.iter().all(|offset| read.contains(offset)));
    assert!(read.is_sorted() && read.len() < 200);
}

#[test]
fn records_that_expired_fail_the_range_or_are_skipped() {
    let kafka = KafkaBroker::shared().client();
    let topic = kafka.unique_topic("expired", 2).unwrap();
    for partition in [0, 1] {
        let lines = ["a", "b", "c", "d", "e"];
        kafka.produce_lines(&topic, partition, lines).unwrap();
    }
    let mut failing = Source::with(of_topic(kafka, &topic));
    failing.start().unwrap();
    let planned = failing.plan().unwrap();
    kafka.delete_records(&topic, 0, 3).unwrap();
    let [lost, whole] = &ranges(&planned)[..] else {
        panic!("{planned:?}")
    };
    let failure = failing.read(lost).unwrap_err();
    assert_eq!(
        (&failure.kind, failure.retry),
        (&FailureKind::DataLoss, Retry::Never)
    );
    assert!(
        failure.message.contains("offset 0") && failure.message.contains("has 3 to 5"),
        "{failure}"
    );
    assert_eq!(texts(&failing.read(whole).unwrap()).len(), 5);

    let mut settings = of_topic(kafka, &topic);
    settings.on_data_loss = OnDataLoss::Warn;
    let warning = Source::with(settings);
    assert_eq!(texts(&warning.read(lost).unwrap()), ["d", "e"]);
    assert_eq!(warning.read(&range(&topic, 0, 0, 2)).unwrap(), []);
    assert_eq!(texts(&warning.read(whole).unwrap()).len(), 5);
}

#[test]
fn a_topic_that_was_made_anew_is_noticed() {
    let kafka = KafkaBroker::shared().client();
    let topic = kafka.unique_topic("anew", 2).unwrap();
    let start = |on_data_loss| {
        let topics = Subscription::Topics(vec![topic.clone()]);
        let mut settings = settings(kafka, topics);
        settings.on_data_loss = on_data_loss;
        let mut source = Source::with(settings);
        source.start().unwrap();
        source
    };
    let mut failing = start(OnDataLoss::Fail);
    let mut warning = start(OnDataLoss::Warn);
    kafka.produce_lines(&topic, 0, ["a", "b", "c"]).unwrap();
    assert_eq!(failing.read_rows(3).len(), 3);
    assert_eq!(warning.read_rows(3).len(), 3);
    kafka.delete_topic(&topic).unwrap();

    let lost = wait_for(SOON, "the loss", || {
        let failure = failing.plan().unwrap_err();
        (failure.kind == FailureKind::DataLoss).then_some(failure)
    })
    .unwrap();
    assert!(lost.message.contains("is not there any more"), "{lost}");
    wait_until(SOON, "going on without the topic", || {
        warning
            .plan()
            .is_ok_and(|planned| planned.splits.is_empty())
    })
    .unwrap();

    kafka.create_topic(&topic, 1).unwrap();
    kafka.produce_lines(&topic, 0, ["d"]).unwrap();
    assert_eq!(texts(&warning.read_rows(1)), ["d"]);
    let old_range = failing.read(&range(&topic, 0, 2, 3));
    let failure = old_range.unwrap_err();
    assert_eq!(failure.kind, FailureKind::DataLoss, "{failure}");
}

#[test]
fn an_assigned_topic_that_is_deleted_is_noticed() {
    let kafka = KafkaBroker::shared().client();
    let topic = kafka.unique_topic("assigned", 1).unwrap();
    let other = kafka.unique_topic("assigned-too", 1).unwrap();
    let start = |on_data_loss| {
        let places = vec![(topic.clone(), 0), (other.clone(), 0)];
        let mut settings = settings(kafka, Subscription::Assign(places));
        settings.on_data_loss = on_data_loss;
        let mut source = Source::with(settings);
        source.start().unwrap();
        source
    };
    let mut failing = start(OnDataLoss::Fail);
    let mut warning = start(OnDataLoss::Warn);
    kafka.delete_topic(&topic).unwrap();
    let lost = wait_for(SOON, "the loss", || {
        let failure = failing.plan().err()?;
        (failure.kind == FailureKind::DataLoss).then_some(failure)
    })
    .unwrap();
    assert!(
        lost.message
            .contains(&format!("{topic}/0 was read up to offset 0")),
        "{lost}"
    );
    wait_until(SOON, "going on without the topic", || {
        warning
            .plan()
            .is_ok_and(|planned| planned.position.get(&topic).is_none())
    })
    .unwrap();
    kafka.produce_lines(&other, 0, ["a"]).unwrap();
    assert_eq!(texts(&warning.read_rows(1)), ["a"]);
}

#[test]
fn a_topic_that_is_shorter_than_what_was_read_is_noticed() {
    let kafka = KafkaBroker::shared().client();
    let topic = kafka.unique_topic("shorter", 1).unwrap();
    kafka.produce_lines(&topic, 0, ["a", "b", "c"]).unwrap();
    let start = |on_data_loss| {
        let mut settings = of_topic(kafka, &topic);
        settings.on_data_loss = on_data_loss;
        let mut source = Source::with(settings);
        source.start().unwrap();
        source
    };
    let (mut failing, mut warning) = (start(OnDataLoss::Fail), start(OnDataLoss::Warn));
    assert_eq!(failing.read_rows(3).len(), 3);
    assert_eq!(warning.read_rows(3).len(), 3);
    kafka.delete_topic(&topic).unwrap();
    kafka.create_topic(&topic, 1).unwrap();
    kafka.produce_lines(&topic, 0, ["d"]).unwrap();
    let failure = failing.plan().unwrap_err();
    assert_eq!(failure.kind, FailureKind::DataLoss, "{failure}");
    assert!(failure.message.contains("has 0 to 1"), "{failure}");
    assert_eq!(texts(&warning.read_rows(1)), ["d"]);
}

#[test]
fn a_range_whose_end_is_gone_fails_or_ends_with_what_is_there() {
    let kafka = KafkaBroker::shared().client();
    let topic = kafka.unique_topic("cut", 2).unwrap();
    for partition in [0, 1] {
        kafka
            .produce_lines(&topic, partition, ["a", "b", "c", "d"])
            .unwrap();
    }
    let start = |on_data_loss| {
        let mut settings = of_topic(kafka, &topic);
        settings.on_data_loss = on_data_loss;
        let mut source = Source::with(settings);
        source.start().unwrap();
        let planned = ranges(&source.plan().unwrap());
        (source, planned)
    };
    let (failing, planned) = start(OnDataLoss::Fail);
    let (warning, _) = start(OnDataLoss::Warn);
    let whole = [0, 1].map(|partition| range(&topic, partition, 0, 4));
    assert_eq!(planned, whole);
    kafka.delete_topic(&topic).unwrap();
    kafka.create_topic(&topic, 1).unwrap();
    kafka.produce_lines(&topic, 0, ["e", "f"]).unwrap();

    let read = |source: &Source, range| {
        let mut hurried = task();
        hurried.input_deadline = Duration::from_secs(1);
        source.read_as(range, &mut hurried)
    };
    for (range, found) in [(&whole[0], "ends at 2"), (&whole[1], "was deleted")] {
        let failure = read(&failing, range).unwrap_err();
        assert_eq!(
            (&failure.kind, failure.retry),
            (&FailureKind::DataLoss, Retry::Never),
            "{failure}"
        );
        let named = format!("offsets 0 to 4 of {topic}/{}", range.partition);
        assert!(
            failure.message.contains(&named) && failure.message.contains(found),
            "{failure}"
        );
    }
    assert_eq!(texts(&read(&warning, &whole[0]).unwrap()), ["e", "f"]);
    assert_eq!(read(&warning, &whole[1]).unwrap(), []);

    // The end comes into being again: then it is no loss.
    kafka.produce_lines(&topic, 0, ["g", "h"]).unwrap();
    for source in [&failing, &warning] {
        let rows = read(source, &whole[0]).unwrap();
        assert_eq!(texts(&rows), ["e", "f", "g", "h"]);
    }
}
