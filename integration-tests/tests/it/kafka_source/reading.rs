//! The executor half: what is in a range, and what is read ahead.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use millstream_common::failure::{Failure, FailureKind, Retry};
use millstream_connectors::kafka::{KafkaSplits, Record, Settings};
use millstream_connectors::malformed::OnMalformed;
use millstream_connectors::source::{More, SplitSource};
use millstream_integration_tests::kafka::{KafkaBroker, NewRecord, Outcome};
use millstream_integration_tests::wait::{Deadline, wait_until};

use super::fixture::{Source, of_topic, offsets, range, ranges, read_rest, task, texts};

fn lines(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("line number {n}")).collect()
}

#[test]
fn a_record_comes_whole_and_a_range_reads_alike_each_time() {
    let kafka = KafkaBroker::shared().client();
    let topic = kafka.unique_topic("whole", 1).unwrap();
    let full = NewRecord {
        partition: Some(0),
        timestamp: Some(1_624_532_215_000),
        key: Some(b"key".to_vec()),
        value: Some(b"value".to_vec()),
        headers: vec![
            ("same".to_owned(), b"1".to_vec()),
            (
                "same".to_owned(),
                b"a header that does not lie inline".to_vec(),
            ),
        ],
    };
    let tombstone = NewRecord {
        partition: Some(0),
        key: Some(b"key".to_vec()),
        ..NewRecord::default()
    };
    kafka.produce(&topic, &[full, tombstone]).unwrap();
    kafka.produce_lines(&topic, 0, lines(3_000)).unwrap();
    let mut source = Source::with(of_topic(kafka, &topic));
    source.start().unwrap();
    let rows = source.read_rows(3_002);
    assert_eq!(offsets(&rows), (0..3_002).collect::<Vec<i64>>());
    let Record {
        timestamp,
        key,
        value,
        headers,
        ..
    } = &rows[0];
    assert_eq!(*timestamp, Some(1_624_532_215_000));
    assert_eq!(key.as_deref(), Some(b"key".as_slice()));
    assert_eq!(value.as_deref(), Some(b"value".as_slice()));
    let headers: Vec<_> = headers
        .iter()
        .map(|h| (h.key.as_str(), h.value.as_deref().unwrap()))
        .collect();
    assert_eq!(
        headers,
        [
            ("same", b"1".as_slice()),
            ("same", b"a header that does not lie inline")
        ]
    );
    assert_eq!(
        (rows[1].value.as_ref(), rows[1].clone().text().len()),
        (None, 0)
    );
    assert!(rows[1].timestamp.is_some() && rows[1].headers.is_empty());

    for (from, until) in [
        (0, 3_002),
        (1_500, 1_501),
        (7, 2_900),
        (2_900, 3_002),
        (0, 1),
    ] {
        let again = source.read(&range(&topic, 0, from, until)).unwrap();
        let (first, last) = (from as usize, until as usize);
        assert!(again == rows[first..last], "{from} to {until}");
    }
}

#[test]
fn ranges_end_at_markers_and_aborted_records_wherever_they_are_cut() {
    let kafka = KafkaBroker::shared().client();
    let topic = kafka.unique_topic("markers", 1).unwrap();
    let records = |values: [&str; 2]| values.map(NewRecord::value);
    let mut source = Source::with(of_topic(kafka, &topic));
    source.start().unwrap();
    for (values, outcome) in [
        (["a", "b"], Outcome::Commit),
        (["x", "y"], Outcome::Abort),
        (["c", "d"], Outcome::Commit),
        (["x", "z"], Outcome::Abort),
    ] {
        kafka
            .produce_transaction(&topic, &records(values), outcome)
            .unwrap();
    }
    assert_eq!(texts(&source.read_rows(4)), ["a", "b", "c", "d"]);
    let end = kafka.end_offsets(&topic).unwrap()[&0];
    assert_eq!(end, 12);
    wait_until(
        super::fixture::SOON,
        "the last markers to be planned",
        || {
            let planned = source.plan().unwrap();
            for range in ranges(&planned) {
                assert_eq!(source.read(&range).unwrap(), []);
            }
            planned.position[&topic]["0"] == end
        },
    )
    .unwrap();

    let there = [0, 1, 6, 7];
    let took = Deadline::after(Duration::from_secs(20));
    for from in 0..end {
        for until in [from + 1, from + 3, end] {
            let until = until.min(end);
            let expected: Vec<i64> = there
                .into_iter()
                .filter(|offset| (from..until).contains(offset))
                .collect();
            let rows = source.read(&range(&topic, 0, from, until)).unwrap();
            assert_eq!(offsets(&rows), expected, "{from} to {until}");
        }
    }
    assert!(!took.has_passed(), "a marker at a range's end costs a wait");
}

#[test]
fn records_that_come_after_the_end_was_seen_are_read() {
    let kafka = KafkaBroker::shared().client();
    let topic = kafka.unique_topic("late", 1).unwrap();
    kafka.produce_lines(&topic, 0, ["a"]).unwrap();
    let source = Source::with(of_topic(kafka, &topic));
    // Nothing of the second range is there yet: its reader meets the end, several times.
    thread::scope(|scope| {
        let reading = scope.spawn(|| source.read(&range(&topic, 0, 0, 4)).unwrap());
        let ahead = source.splits.read_ahead();
        wait_until(super::fixture::SOON, "the range to be opened", || {
            ahead.repositioned.load(Ordering::Relaxed) == 1
        })
        .unwrap();
        for line in ["b", "c", "d"] {
            kafka.produce_lines(&topic, 0, [line]).unwrap();
        }
        assert_eq!(texts(&reading.join().unwrap()), ["a", "b", "c", "d"]);
    });
}

#[test]
fn steady_batches_are_read_ahead() {
    let kafka = KafkaBroker::shared().client();
    let topic = kafka.unique_topic("steady", 2).unwrap();
    let mut source = Source::with(of_topic(kafka, &topic));
    source.start().unwrap();
    let mut rows = 0;
    for _ in 0..30 {
        for partition in [0, 1] {
            kafka.produce_lines(&topic, partition, lines(50)).unwrap();
        }
        rows += source.read_rows(100).len();
    }
    assert_eq!(rows, 3_000);
    let ahead = source.splits.read_ahead();
    let repositioned = ahead.repositioned.load(Ordering::Relaxed);
    let hits = ahead.buffered.load(Ordering::Relaxed) + ahead.partly.load(Ordering::Relaxed);
    assert_eq!(repositioned, 2, "once a partition");
    assert!(hits >= 58, "{hits}");
}

#[test]
fn a_tiny_buffer_starves_nobody() {
    let kafka = KafkaBroker::shared().client();
    let topic = kafka.unique_topic("tiny", 6).unwrap();
    for partition in 0..6 {
        kafka
            .produce_lines(&topic, partition, lines(5_000))
            .unwrap();
    }
    let mut settings = of_topic(kafka, &topic);
    settings.read_ahead_bytes = 1;
    let source = Source::with(settings);
    let expected: Vec<i64> = (0..5_000).collect();
    // All are begun, so all are fetched; then they are read to the end one after another, in both orders.
    for order in [[0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0]] {
        let mut begun = Vec::new();
        for partition in order {
            let mut reader = source.open(&range(&topic, partition, 0, 5_000));
            let mut rows = Vec::new();
            while rows.is_empty() {
                assert_eq!(reader.next(&mut rows, &mut task()).unwrap(), More::Yes);
            }
            begun.push((reader, rows));
        }
        for (mut reader, mut rows) in begun {
            rows.extend(read_rest(reader.as_mut(), &mut task()).unwrap());
            assert_eq!(offsets(&rows), expected);
        }
    }
    thread::scope(|scope| {
        for partition in 0..6 {
            let (source, topic, expected) = (&source.splits, &topic, &expected);
            scope.spawn(move || {
                for _ in 0..2 {
                    let split = range(topic, partition, 0, 5_000);
                    let split = serde_json::to_value(split).unwrap();
                    let mut task = task();
                    let mut reader = SplitSource::open(source, &split, &task).unwrap();
                    let rows = read_rest(reader.as_mut(), &mut task).unwrap();
                    assert_eq!(&offsets(&rows), expected);
                }
            });
        }
    });
}

#[test]
fn a_newer_reader_of_a_partition_ends_the_older_one() {
    let kafka = KafkaBroker::shared().client();
    let topic = kafka.unique_topic("newer", 1).unwrap();
    kafka.produce_lines(&topic, 0, lines(5_000)).unwrap();
    let source = Source::with(of_topic(kafka, &topic));
    let wanted = range(&topic, 0, 0, 5_000);
    let mut older = source.open(&wanted);
    let mut chunk = Vec::new();
    while chunk.is_empty() {
        older.next(&mut chunk, &mut task()).unwrap();
    }
    let mut newer = source.open(&wanted);
    let failure = read_rest(older.as_mut(), &mut task()).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Superseded);
    drop(older);
    let rows = read_rest(newer.as_mut(), &mut task()).unwrap();
    assert_eq!(offsets(&rows), (0..5_000).collect::<Vec<i64>>());
}

fn malformed(on_malformed: OnMalformed, adjust: impl FnOnce(&mut Settings)) -> (Source, String) {
    let kafka = KafkaBroker::shared().client();
    let topic = kafka.unique_topic("malformed", 1).unwrap();
    let records = [b"good".to_vec(), b"b\xffd".to_vec(), b"long, long".to_vec()];
    kafka
        .produce(&topic, &records.map(NewRecord::value))
        .unwrap();
    let mut settings = of_topic(kafka, &topic);
    settings.on_malformed = on_malformed;
    adjust(&mut settings);
    (Source::with(settings), topic)
}

#[test]
fn values_that_are_not_text_fail_are_dropped_or_replaced() {
    let (source, topic) = malformed(OnMalformed::Fail, |_| {});
    let rows = source.read(&range(&topic, 0, 0, 3)).unwrap();
    assert_eq!(rows[1].value.as_deref(), Some(b"b\xffd".as_slice()));
    let bad = rows[1].clone();
    let thrown = catch_unwind(AssertUnwindSafe(|| bad.text())).unwrap_err();
    let failure = thrown.downcast::<Failure>().unwrap();
    assert_eq!(failure.kind, FailureKind::BadInput);
    assert!(
        failure.message.contains(&format!("offset 1 of {topic}/0")),
        "{failure}"
    );

    let (source, topic) = malformed(OnMalformed::Drop, |_| {});
    let mut counting = task();
    let rows = source
        .read_as(&range(&topic, 0, 0, 3), &mut counting)
        .unwrap();
    assert_eq!(texts(&rows), ["good", "long, long"]);
    assert_eq!(
        (counting.counts.malformed, counting.counts.input_rows),
        (1, 3)
    );

    let (source, topic) = malformed(OnMalformed::Replace, |_| {});
    let rows = source.read(&range(&topic, 0, 0, 3)).unwrap();
    assert_eq!(texts(&rows), ["good", "b\u{fffd}d", "long, long"]);
}

#[test]
fn a_value_that_is_too_long_fails_or_is_dropped() {
    for policy in [OnMalformed::Fail, OnMalformed::Replace] {
        let (source, topic) = malformed(policy, |settings| settings.max_record_bytes = 9);
        let failure = source.read(&range(&topic, 0, 0, 3)).unwrap_err();
        assert_eq!(failure.kind, FailureKind::BadInput);
        assert!(
            failure.message.contains("offset 2") && failure.message.contains("has 10 bytes"),
            "{failure}"
        );
    }
    let (source, topic) = malformed(OnMalformed::Drop, |settings| settings.max_record_bytes = 9);
    let rows = source.read(&range(&topic, 0, 0, 3)).unwrap();
    assert_eq!(texts(&rows), ["good"]);
}

#[test]
fn a_wait_ends_when_it_is_cancelled_or_its_time_is_over() {
    let kafka = KafkaBroker::shared().client();
    let topic = kafka.unique_topic("wait", 1).unwrap();
    kafka.produce_lines(&topic, 0, ["a"]).unwrap();
    let records = [NewRecord::value("b")];
    let transaction = kafka.open_transaction(&topic, &records).unwrap();
    let source = Source::with(of_topic(kafka, &topic));
    let mut hurried = task();
    hurried.input_deadline = Duration::from_millis(300);
    let failure = source
        .read_as(&range(&topic, 0, 0, 2), &mut hurried)
        .unwrap_err();
    assert_eq!(
        (&failure.kind, failure.retry),
        (&FailureKind::Io, Retry::Backoff)
    );
    assert!(
        failure
            .message
            .contains(&format!("offsets 0 to 2 of {topic}/0")),
        "{failure}"
    );

    let mut patient = task();
    let cancel = patient.cancel.clone();
    let waited = Deadline::after(Duration::from_secs(5));
    let failure = thread::scope(|scope| {
        let source: &KafkaSplits = &source.splits;
        let split = serde_json::to_value(range(&topic, 0, 0, 2)).unwrap();
        let mut reader = source.open(&split, &patient).unwrap();
        let mut chunk = Vec::new();
        while chunk.is_empty() {
            reader.next(&mut chunk, &mut patient).unwrap();
        }
        let reading = scope.spawn(move || read_rest(reader.as_mut(), &mut patient).unwrap_err());
        cancel.cancel();
        reading.join().unwrap()
    });
    assert_eq!(failure.kind, FailureKind::Cancelled);
    assert!(!waited.has_passed());

    transaction.end(Outcome::Commit).unwrap();
    let rows = source.read(&range(&topic, 0, 0, 2)).unwrap();
    assert_eq!(texts(&rows), ["a", "b"]);
}
