//! The Kafka sink against a real broker: transactions, fences and markers can be seen nowhere else.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use bytes::Bytes;
use millstream_common::{
    failure::{Failure, FailureKind, Retry},
    ids::{BatchId, BlockId, Epoch, QueryId, StageId, TaskId},
    protocol::{BlockLocation, SinkCommit, TaskCounts, TaskInput},
    time::{BatchTime, Clock as _, SystemClock},
};
use millstream_connectors::{
    kafka::sink::{KafkaSink, KafkaSinkDriver, ProducerRecord, Settings},
    sink::{Sink as _, SinkDriver as _, SinkWriter, WriteId},
};
use millstream_dataflow::program::{BlockFrames, CancelToken, TaskContext, TaskServices};
use millstream_integration_tests::{
    kafka::{BrokerOptions, Isolation, KafkaBroker, KafkaClient},
    proxy::Moment,
    wait::{Deadline, wait_until},
};

const SOON: Duration = Duration::from_secs(30);
/// The number of Kafka's request that ends a transaction.
const END_TXN: [u8; 2] = 26_u16.to_be_bytes();

/// A sink asks the executor for nothing.
struct NoServices;

impl TaskServices for NoServices {
    fn append_block(&self, _block: BlockId, _frame: Bytes) -> Result<(), Failure> {
        panic!("a sink appends no block")
    }

    fn fetch_blocks(
        &self,
        _locations: Vec<BlockLocation>,
        _cancel: CancelToken,
    ) -> Box<dyn BlockFrames> {
        panic!("a sink fetches no block")
    }

    fn spill_folder(&self, _task: TaskId) -> Result<PathBuf, Failure> {
        panic!("a sink doesn't spill")
    }

    fn spill_threshold(&self) -> u64 {
        u64::MAX
    }

    fn compress_blocks(&self) -> bool {
        false
    }
}

type Writer = Box<dyn SinkWriter<Vec<ProducerRecord>>>;

/// One output of one query.
#[derive(Clone)]
struct Output {
    kafka: KafkaClient,
    query: QueryId,
    name: String,
    topic: String,
    settings: Settings,
}

/// One attempt, and how it was launched.
#[derive(Clone, Copy)]
struct Attempt {
    partition: u32,
    batch: u64,
    epoch: u64,
    attempt: u32,
    rerun: bool,
}

fn batch(batch: u64) -> Attempt {
    Attempt {
        partition: 0,
        batch,
        epoch: 1,
        attempt: 0,
        rerun: false,
    }
}

fn rerun(batch: u64) -> Attempt {
    Attempt {
        epoch: 2,
        rerun: true,
        ..self::batch(batch)
    }
}

impl Output {
    fn new(kafka: &KafkaClient, name: &str) -> Self {
        let topic = kafka.unique_topic(name, 1).unwrap();
        let mut settings = Settings::new(kafka.bootstrap(), Some(topic.clone()));
        settings.build_id = "build-1".to_owned();
        Self {
            kafka: kafka.clone(),
            query: QueryId::random(),
            name: name.to_owned(),
            topic,
            settings,
        }
    }

    fn shared(name: &str) -> Self {
        Self::new(KafkaBroker::shared().client(), name)
    }

    /// An executor's sink.
    fn sink(&self) -> KafkaSink {
        KafkaSink::new(
            Arc::new(self.settings.clone()),
            Arc::new(SystemClock::new()),
        )
    }

    fn task(&self, attempt: Attempt) -> TaskContext<'static> {
        TaskContext {
            id: TaskId {
                query: self.query,
                epoch: Epoch(attempt.epoch),
                batch: BatchId(attempt.batch),
                stage: StageId(0),
                partition: attempt.partition,
                attempt: attempt.attempt,
            },
            batch_time: BatchTime(SystemClock::new().wall_millis()),
            branch: 0,
            input: TaskInput::Blocks(Vec::new()),
            rerun: attempt.rerun,
            cancel: CancelToken::new(),
            input_deadline: SOON,
            counts: TaskCounts::default(),
            services: &NoServices,
        }
    }

    fn writer(&self, sink: &KafkaSink, attempt: Attempt) -> (Writer, TaskContext<'static>) {
        let task = self.task(attempt);
        let writer = sink.writer(WriteId::of(&task, &self.name), &task).unwrap();
        (writer, task)
    }

    fn write(
        &self,
        sink: &KafkaSink,
        attempt: Attempt,
        values: &[&str],
    ) -> Result<SinkCommit, Failure> {
        let (mut writer, mut task) = self.writer(sink, attempt);
        for value in values {
            writer.write(rows(&[value]), &mut task)?;
        }
        writer.finish(&mut task)
    }

    /// Tries again as the driver does.
    fn write_until_done(&self, sink: &KafkaSink, mut attempt: Attempt, values: &[&str]) -> u32 {
        for _ in 0..10 {
            match self.write(sink, attempt, values) {
                Ok(_) => return attempt.attempt,
                Err(failure) => {
                    assert_ne!(failure.retry, Retry::Never, "{failure}");
                    attempt.attempt += 1;
                }
            }
        }
        panic!("ten attempts failed");
    }

    fn marker(&self, partition: u32) -> BTreeMap<i32, i64> {
        let group = format!("millstream-marker-{}-{}-{partition}", self.query, self.name);
        self.kafka.committed_offsets(&group, &self.topic).unwrap()
    }

    fn seen(&self) -> Vec<String> {
        let records = self
            .kafka
            .consume_all(&self.topic, Isolation::ReadCommitted)
            .unwrap();
        records.iter().map(|record| record.text()).collect()
    }
}

fn rows(values: &[&str]) -> Vec<ProducerRecord> {
    values
        .iter()
        .map(|value| ProducerRecord::value(*value))
        .collect()
}

fn kind(result: Result<SinkCommit, Failure>) -> FailureKind {
    result.unwrap_err().kind
}

fn code(result: Result<SinkCommit, Failure>) -> String {
    result.unwrap_err().code
}

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

#[test]
fn the_driver_half_finds_or_makes_the_topics() {
    let mut output = Output::shared("sink-check");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let check = |settings: &Settings| {
        let driver = KafkaSinkDriver::new(Arc::new(settings.clone()), Arc::new(SystemClock::new()));
        runtime.block_on(driver.check(output.query, BatchId(0)))
    };
    assert_eq!(check(&output.settings), Ok(Vec::new()));

    let missing = format!("{}-made", output.topic);
    let mut settings = output.settings.clone();
    settings.topic = Some(missing.clone());
    let failure = check(&settings).unwrap_err();
    assert_eq!(failure.code, "kafka.unknown_topic");
    assert!(
        failure
            .message
            .contains(&format!("--create --topic {missing}")),
        "{failure}"
    );
    settings.topic_create = true;
    settings.topic_partitions = Some(3);
    settings.marker_topic = Some(format!("{missing}-markers"));
    assert_eq!(check(&settings), Ok(Vec::new()));
    assert_eq!(output.kafka.partition_count(&missing).unwrap(), 3);
    assert_eq!(
        output
            .kafka
            .partition_count(&format!("{missing}-markers"))
            .unwrap(),
        1
    );
    assert_eq!(check(&settings), Ok(Vec::new()));

    settings
        .properties
        .insert("compression.tipe".to_owned(), "lz4".to_owned());
    assert_eq!(check(&settings).unwrap_err().code, "kafka.properties");

    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    output.settings.brokers = nobody.local_addr().unwrap().to_string();
    output.settings.request_timeout = Duration::from_secs(1);
    let settings = output.settings.clone();
    drop(nobody);
    let driver = KafkaSinkDriver::new(Arc::new(settings), Arc::new(SystemClock::new()));
    let failure = runtime
        .block_on(driver.check(output.query, BatchId(0)))
        .unwrap_err();
    assert_eq!(failure.code, "kafka.no_broker");
}
