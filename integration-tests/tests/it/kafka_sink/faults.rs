//! Attempts that run again, meet each other, are given up, are refused or lose their broker.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use millstream_common::{
    failure::{FailureKind, Retry},
    ids::BatchId,
};
use millstream_connectors::{
    kafka::sink::ProducerRecord,
    sink::{Sink as _, WriteId},
};
use millstream_integration_tests::{
    kafka::{BrokerOptions, Isolation, KafkaBroker},
    proxy::Moment,
    wait::wait_until,
};

use super::{Attempt, Output, SOON, batch, code, kind, rerun, rows};

/// The number of Kafka's request that ends a transaction.
const END_TXN: [u8; 2] = 26_u16.to_be_bytes();

#[test]
fn a_batch_that_is_there_is_compared_and_skipped() {
    let output = Output::shared("sink-rerun");
    let written = output.write(&output.sink(), batch(4), &["a", "b"]).unwrap();

    let skipped = output.write(&output.sink(), rerun(4), &["a", "b"]).unwrap();
    assert_eq!(skipped, written);
    let failure = output
        .write(&output.sink(), rerun(4), &["a", "c"])
        .unwrap_err();
    assert_eq!(failure.kind, FailureKind::Nondeterministic);
    assert!(
        failure
            .message
            .contains("sink partition 0 of output sink-rerun"),
        "{failure}"
    );
    assert_eq!(failure.operator.as_deref(), Some("sink-rerun"));
    assert_eq!(
        kind(output.write(&output.sink(), rerun(4), &[])),
        FailureKind::Nondeterministic
    );
    assert_eq!(
        code(output.write(&output.sink(), rerun(3), &["z"])),
        "sink.foreign_marker"
    );

    let mut rebuilt = output.clone();
    rebuilt.settings.build_id = "build-2".to_owned();
    assert_eq!(
        rebuilt
            .write(&rebuilt.sink(), rerun(4), &["a", "b"])
            .unwrap(),
        written
    );
    assert_eq!(
        code(rebuilt.write(&rebuilt.sink(), rerun(4), &["c"])),
        "sink.other_build"
    );
    rebuilt.settings.accept_mixed_batch = Some(BatchId(4));
    assert_eq!(
        rebuilt.write(&rebuilt.sink(), rerun(4), &["c"]).unwrap(),
        written
    );
    assert_eq!(output.seen(), ["a", "b"]);

    // The producer that met the marker goes on with the next batch.
    let sink = output.sink();
    output.write(&sink, rerun(4), &["a", "b"]).unwrap();
    output.write(&sink, batch(5), &["d"]).unwrap();
    assert_eq!(output.seen(), ["a", "b", "d"]);
}

#[test]
fn a_batch_older_than_the_markers_is_not_guessed_about() {
    let mut output = Output::shared("sink-old");
    output.settings.marker_retention = Duration::ZERO;
    assert_eq!(
        code(output.write(&output.sink(), rerun(0), &["a"])),
        "sink.marker_expired"
    );
    output.settings.accept_duplicates = true;
    output.write(&output.sink(), rerun(0), &["a"]).unwrap();
    assert_eq!(output.seen(), ["a"]);
}

#[test]
fn a_zombie_is_fenced_and_its_rows_are_not_seen() {
    let output = Output::shared("sink-zombie");
    let zombie = output.sink();
    output.write(&zombie, batch(0), &["0"]).unwrap();
    // Its transaction is open, its rows are with the broker.
    let (mut open, mut open_task) = output.writer(&zombie, batch(1));
    open.write(rows(&["zombie"]), &mut open_task).unwrap();
    let unread = |wanted: usize| {
        let all = output
            .kafka
            .consume_all(&output.topic, Isolation::ReadUncommitted)
            .unwrap();
        all.len() >= wanted
    };
    wait_until(SOON, "the zombie's row at the broker", || unread(2)).unwrap();

    let successor = output.sink();
    output.write(&successor, batch(1), &["1"]).unwrap();
    assert_eq!(kind(open.finish(&mut open_task)), FailureKind::Superseded);
    assert_eq!(output.seen(), ["0", "1"]);
    assert_eq!(output.marker(0), BTreeMap::from([(0, 2)]));

    // An idle producer of an executor that was stopped: the same, at the first row or at the end.
    output.write(&zombie, rerun(1), &["1"]).unwrap();
    assert_eq!(
        kind(output.write(&successor, batch(2), &["zombie"])),
        FailureKind::Superseded
    );
    // The driver launches it again: a new producer, which is the newest.
    output.write(&successor, batch(2), &["2"]).unwrap();
    assert_eq!(output.seen(), ["0", "1", "2"]);
}

#[test]
fn a_writer_that_is_dropped_leaves_nothing() {
    let output = Output::shared("sink-dropped");
    let sink = output.sink();
    let (mut writer, mut task) = output.writer(&sink, batch(0));
    writer.write(rows(&["dropped"]), &mut task).unwrap();
    drop(writer);
    // Nothing is open any more: a reader sees what was written after it at once.
    output
        .kafka
        .produce_lines(&output.topic, 0, ["after"])
        .unwrap();
    assert_eq!(output.seen(), ["after"]);
    assert_eq!(output.marker(0), BTreeMap::new());

    let (mut writer, mut task) = output.writer(&sink, batch(0));
    writer.write(rows(&["cancelled"]), &mut task).unwrap();
    task.cancel.cancel();
    assert_eq!(
        kind(
            writer
                .write(rows(&["x"]), &mut task)
                .map(|()| unreachable!())
        ),
        FailureKind::Cancelled
    );
    assert_eq!(kind(writer.finish(&mut task)), FailureKind::Cancelled);

    let again = Attempt {
        attempt: 1,
        ..batch(0)
    };
    output.write(&sink, again, &["kept"]).unwrap();
    assert_eq!(output.seen(), ["after", "kept"]);
}

#[test]
fn a_record_that_is_refused_ends_the_attempt_with_its_reason() {
    let mut output = Output::shared("sink-refused");
    let small = format!("{}-small", output.topic);
    output
        .kafka
        .create_topic_with(&small, 1, &[("max.message.bytes", "1000")])
        .unwrap();
    let sink = output.sink();
    let attempt = |record: ProducerRecord| {
        let (mut writer, mut task) = output.writer(&sink, batch(0));
        writer.write(rows(&["fine"]), &mut task)?;
        writer.write(vec![record], &mut task)?;
        writer.finish(&mut task)
    };
    let too_large = attempt(ProducerRecord::value(vec![b'x'; 2_000_000])).unwrap_err();
    assert_eq!(too_large.code, "sink.record_too_large");
    assert!(too_large.message.contains(&output.topic), "{too_large}");
    assert!(too_large.message.contains("1000000"), "{too_large}");
    let too_large =
        attempt(ProducerRecord::value(vec![b'x'; 5_000]).topic(small.as_str())).unwrap_err();
    assert_eq!(too_large.code, "sink.record_too_large", "{too_large}");
    assert!(too_large.message.contains(&small), "{too_large}");
    assert_eq!(too_large.retry, Retry::Never);
    assert_eq!(
        code(attempt(ProducerRecord::value("x").partition(7))),
        "kafka.unknown_topic"
    );
    // The producer is as good as before.
    output.write(&sink, batch(0), &["fine"]).unwrap();
    assert_eq!(output.seen(), ["fine"]);

    output.settings.topic = None;
    output.settings.marker_topic = Some(output.topic.clone());
    assert_eq!(
        code(output.write(&output.sink(), batch(1), &["x"])),
        "sink.no_topic"
    );
    output.settings.marker_topic = None;
    let task = output.task(batch(1));
    let refused = output.sink().writer(WriteId::of(&task, "x"), &task);
    assert_eq!(refused.err().unwrap().code, "sink.no_marker_topic");
}

#[test]
fn a_commit_of_unknown_outcome_is_looked_up() {
    let options = BrokerOptions {
        proxied: true,
        ..BrokerOptions::default()
    };
    let broker = KafkaBroker::start_with(&options).unwrap();
    let proxy = broker.proxy().unwrap();
    for (moment, name) in [(Moment::After, "answer"), (Moment::Before, "request")] {
        let mut output = Output::new(broker.client(), name);
        output.settings.brokers = proxy.address().to_string();
        output.settings.commit_timeout = Duration::from_secs(1);
        let sink = output.sink();
        output.write(&sink, batch(0), &["0"]).unwrap();

        let held = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&held);
        proxy.stall_at(moment, move |bytes| {
            let is_commit = bytes.get(4..6) == Some(&END_TXN[..]);
            seen.fetch_or(is_commit, Ordering::AcqRel);
            is_commit
        });
        let result = thread::scope(|scope| {
            let writing = scope.spawn(|| output.write(&sink, batch(1), &["1"]));
            wait_until(SOON, "the commit", || held.load(Ordering::Acquire)).unwrap();
            // The outcome is unknown once a new producer knocks.
            let before = proxy.accepted();
            wait_until(SOON, "a new producer", || proxy.accepted() > before).unwrap();
            proxy.heal();
            writing.join().unwrap()
        });
        match (moment, result) {
            // It had happened, and only the marker can have told.
            (Moment::After, result) => assert_eq!(result.unwrap().rows, 1),
            // The held request may still be in time, or not.
            (Moment::Before, Ok(_)) => {}
            (Moment::Before, Err(failure)) => {
                assert_eq!(failure.retry, Retry::Backoff, "{failure}")
            }
        }
        let again = Attempt {
            attempt: 1,
            ..batch(1)
        };
        output.write_until_done(&sink, again, &["1"]);
        output.write_until_done(&sink, batch(2), &["2"]);
        assert_eq!(output.seen(), ["0", "1", "2"], "{moment:?}");
        assert_eq!(output.marker(0), BTreeMap::from([(0, 3)]));
    }

    // A broker that doesn't answer at all: no longer than was said, and the reason.
    let mut output = Output::new(broker.client(), "silent");
    output.settings.brokers = proxy.address().to_string();
    output.settings.request_timeout = Duration::from_secs(1);
    proxy.stall();
    let failure = output.write(&output.sink(), batch(0), &["0"]).unwrap_err();
    assert_eq!(
        (&failure.kind, failure.retry),
        (&FailureKind::Io, Retry::Backoff)
    );
    assert!(
        failure.message.contains(&output.settings.brokers),
        "{failure}"
    );
}
