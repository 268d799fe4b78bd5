//! What a reader sees of what is written.

use std::{collections::BTreeMap, time::Duration};

use millstream_connectors::kafka::sink::ProducerRecord;
use millstream_integration_tests::{kafka::Isolation, wait::Deadline};

use super::{Attempt, Output, SOON, batch, rows};

#[test]
fn rows_and_marker_are_seen_together_and_once() {
    let output = Output::shared("sink-rows");
    let sink = output.sink();
    let (mut writer, mut task) = output.writer(&sink, batch(0));
    let first = ProducerRecord::value("a")
        .key("k")
        .header("h", "x")
        .timestamp(1_700_000_000_000);
    writer.write(vec![first], &mut task).unwrap();
    writer
        .write(
            vec![
                ProducerRecord::tombstone("gone"),
                ProducerRecord::value("").key(""),
            ],
            &mut task,
        )
        .unwrap();
    assert!(output.seen().is_empty());
    assert_eq!(output.marker(0), BTreeMap::new());
    let commit = writer.finish(&mut task).unwrap();
    assert_eq!((commit.partition, commit.rows), (0, 3));

    let records = output
        .kafka
        .consume_all(&output.topic, Isolation::ReadCommitted)
        .unwrap();
    let [first, tombstone, empty] = &records[..] else {
        panic!("{records:?}");
    };
    assert_eq!(first.text(), "a");
    assert_eq!(first.key.as_deref(), Some(&b"k"[..]));
    assert_eq!(first.headers, [("h".to_owned(), Some(b"x".to_vec()))]);
    assert_eq!(first.timestamp, Some(1_700_000_000_000));
    assert_eq!(
        (&tombstone.value, tombstone.key.as_deref()),
        (&None, Some(&b"gone"[..]))
    );
    assert_eq!(
        (empty.value.as_deref(), empty.key.as_deref()),
        (Some(&b""[..]), Some(&b""[..]))
    );
    assert_eq!(output.marker(0), BTreeMap::from([(0, 1)]));

    // A sink partition without rows writes nothing, not even a marker.
    let empty = output.write(&sink, batch(1), &[]).unwrap();
    assert_eq!(empty.rows, 0);
    assert_eq!(output.marker(0), BTreeMap::from([(0, 1)]));
    let ends = output.kafka.end_offsets(&output.topic).unwrap();
    output.write(&sink, batch(2), &["b"]).unwrap();
    assert_eq!(output.marker(0), BTreeMap::from([(0, 3)]));
    // One row and the transaction's own record: the producer was used again, and nothing else was written.
    assert_eq!(
        output.kafka.end_offsets(&output.topic).unwrap()[&0],
        ends[&0] + 2
    );
    // The report was lost, the driver launches the task again on the same executor.
    let again = Attempt {
        attempt: 1,
        ..batch(2)
    };
    let commit = output.write(&sink, again, &["b"]).unwrap();
    assert_eq!(commit.rows, 1);
    assert_eq!(output.seen(), ["a", "", "", "b"]);
}

#[test]
fn outputs_and_sink_partitions_do_not_skip_each_others_rows() {
    let first = Output::shared("sink-two-a");
    let mut second = first.clone();
    second.name = "sink-two-b".to_owned();
    let other_partition = Attempt {
        partition: 1,
        ..batch(0)
    };
    let sink = first.sink();
    first.write(&sink, batch(0), &["a"]).unwrap();
    second.write(&second.sink(), batch(0), &["b"]).unwrap();
    first.write(&sink, other_partition, &["c"]).unwrap();
    assert_eq!(first.seen(), ["a", "b", "c"]);
    assert_eq!(first.marker(1), BTreeMap::from([(0, 1)]));
}

#[test]
fn a_sink_partition_may_move_and_come_back() {
    let output = Output::shared("sink-move");
    let (one, other) = (output.sink(), output.sink());
    output.write(&one, batch(0), &["0"]).unwrap();
    output.write(&other, batch(1), &["1"]).unwrap();
    output.write(&one, batch(2), &["2"]).unwrap();
    // Without rows for a while, but not moved.
    output.write(&one, batch(5), &["5"]).unwrap();
    assert_eq!(output.seen(), ["0", "1", "2", "5"]);
    assert_eq!(output.marker(0), BTreeMap::from([(0, 6)]));
}

#[test]
fn many_rows_take_their_turns_in_the_queue() {
    let mut output = Output::shared("sink-many");
    for (name, value) in [
        ("queue.buffering.max.messages", "500"),
        ("compression.type", "lz4"),
    ] {
        output
            .settings
            .properties
            .insert(name.to_owned(), value.to_owned());
    }
    let sink = output.sink();
    let (mut writer, mut task) = output.writer(&sink, batch(0));
    let values: Vec<String> = (0..20_000).map(|value: u32| value.to_string()).collect();
    for chunk in values.chunks(1_000) {
        let chunk: Vec<&str> = chunk.iter().map(String::as_str).collect();
        writer.write(rows(&chunk), &mut task).unwrap();
    }
    assert_eq!(writer.finish(&mut task).unwrap().rows, 20_000);
    assert_eq!(output.seen(), values);
}

#[test]
fn a_small_transaction_takes_milliseconds() {
    let output = Output::shared("sink-latency");
    let sink = output.sink();
    let opening = Deadline::after(SOON);
    output.write(&sink, batch(0), &["first"]).unwrap();
    let opened = opening.elapsed();
    let mut times: Vec<Duration> = Vec::new();
    for number in 1..=50 {
        // As between batches: the broker has finished with the last transaction.
        output.marker(0);
        let begun = Deadline::after(SOON);
        output
            .write(&sink, batch(number), &["a", "b", "c"])
            .unwrap();
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    println!(
        "a transaction of three rows: median {:?}, slowest {:?}; with a new producer {opened:?}",
        times[25], times[49]
    );
}
