//! Printing, callbacks, functions over partitions, sinks.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use millstream_common::{
    failure::{Failure, FailureKind},
    ids::{BatchId, BlockId, Epoch, ExecutorId, QueryId, StageId, TaskId},
    protocol::{BlockLocation, BlockMeta, SinkCommit},
    text::Blob,
    time::BatchTime,
};
use millstream_connectors::malformed;
use millstream_connectors::sink::{Sink, SinkBatch, SinkDriver, SinkStart, SinkWriter, WriteId};
use millstream_dataflow::program::TaskContext;
use millstream_driver::output::{BatchInfo, BlockReader, PartitionResult};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::{
    CompileOptions,
    testing::{Runner, context, context_with, given},
};

const RULE: &str = "-------------------------------------------";

#[test]
fn prints_the_first_rows_and_says_when_there_are_more() {
    let ssc = context(2);
    let pairs = given(
        &ssc,
        vec![vec![vec![("a", 1), ("b", 2)], vec![], vec![("c", 3)]]].map_rows(),
    );
    pairs.print_n(2);
    pairs.pprint_n(3);
    let mut runner = Runner::new(&ssc).unwrap();
    runner.run(0, &[3]).unwrap();
    assert_eq!(
        runner.printed.take(),
        format!(
            "{RULE}\nTime: 0 ms\n{RULE}\n(a,1)\n(b,2)\n...\n\n{RULE}\nTime: 1970-01-01 00:00:00\n{RULE}\n('a', 1)\n('b', 2)\n('c', 3)\n\n"
        )
    );
}

trait MapRows {
    fn map_rows(self) -> Vec<Vec<Vec<(String, i32)>>>;
}

impl MapRows for Vec<Vec<Vec<(&str, i32)>>> {
    fn map_rows(self) -> Vec<Vec<Vec<(String, i32)>>> {
        let own = |(text, number): (&str, i32)| (text.to_owned(), number);
        let split = |rows: Vec<(&str, i32)>| rows.into_iter().map(own).collect();
        self.into_iter()
            .map(|splits| splits.into_iter().map(split).collect())
            .collect()
    }
}

#[test]
fn printing_reads_no_more_than_it_shows() {
    let ssc = context(1);
    given(&ssc, vec![vec![(0..100_000i64).collect()]]).print();
    let mut runner = Runner::new(&ssc).unwrap();
    runner.run(0, &[1]).unwrap();
    assert!(
        runner.counts.input_rows < 5_000,
        "{}",
        runner.counts.input_rows
    );
    assert!(runner.printed.take().contains("\n9\n...\n"));
}

#[test]
fn callbacks_have_actions() {
    let ssc = context(2);
    let numbers = given(
        &ssc,
        vec![vec![vec![], vec![1i64, 2], vec![3]], vec![vec![]]],
    );
    let seen = Arc::new(Mutex::new(Vec::new()));
    let seeing = seen.clone();
    numbers.map(|n| n * 10).for_each_batch(move |batch, time| {
        let all = batch.collect()?;
        seeing.lock().push((
            time,
            batch.count(),
            batch.is_empty(),
            batch.first()?,
            batch.take(2)?,
            all,
        ));
        Ok::<(), Failure>(())
    });
    let mut runner = Runner::new(&ssc).unwrap();
    runner.run(0, &[3]).unwrap();
    runner.run(1, &[1]).unwrap();
    let first = (
        BatchTime(0),
        3,
        false,
        Some(10),
        vec![10, 20],
        vec![10, 20, 30],
    );
    let second = (BatchTime(1000), 0, true, None, vec![], vec![]);
    assert_eq!(*seen.lock(), [first, second]);
}

#[test]
fn a_callback_that_fails_ends_the_batch_and_is_named() {
    let ssc = context(1);
    let numbers = given(&ssc, vec![vec![vec![1i64]], vec![vec![1i64, 2]]]);
    numbers
        .for_each_batch(|batch, _| match batch.count() {
            1 => Err("the database is away".to_owned()),
            _ => panic!("two rows"),
        })
        .named("save");
    let mut runner = Runner::new(&ssc).unwrap();
    let failure = runner.run(0, &[1]).unwrap_err();
    assert_eq!(failure.kind, FailureKind::UserCode);
    assert_eq!(failure.operator.as_deref(), Some("save"));
    assert!(failure.message.contains("the database is away"));
    let panicked = runner.run(1, &[1]).unwrap_err();
    assert_eq!(panicked.operator.as_deref(), Some("save"));
    assert!(panicked.message.contains("panicked"), "{panicked}");
}

#[test]
fn what_is_no_text_is_treated_in_a_callback_as_configured() {
    let called = |policy: &str| {
        let configuration = [("input.on_malformed".to_owned(), policy.to_owned())];
        let ssc = context_with(1, configuration.into());
        let values = given(&ssc, vec![vec![vec![Blob::from_vec(b"caf\xe9".to_vec())]]]);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let seeing = seen.clone();
        values.for_each_batch(move |batch, _| {
            for value in batch.collect()? {
                let text = malformed::text(value, || "the value".to_owned());
                seeing.lock().push(text.to_string());
            }
            Ok::<(), Failure>(())
        });
        let ran = Runner::new(&ssc).unwrap().run(0, &[1]);
        ran.map(|()| seen.lock().clone())
    };
    assert_eq!(called("replace"), Ok(vec!["caf\u{fffd}".to_owned()]));
    let failure = called("fail").unwrap_err();
    assert_eq!(failure.kind, FailureKind::BadInput);
    assert!(
        failure.message.contains("the value is not UTF-8"),
        "{failure}"
    );
}

/// Blocks whose executor is gone.
struct Gone(TaskId);

#[async_trait]
impl BlockReader for Gone {
    async fn read(&self, partition: u32, _max_bytes: u64) -> Result<Vec<Bytes>, Failure> {
        let block = BlockId {
            task: self.0,
            exchange: 0,
            partition,
        };
        let executor = ExecutorId(uuid::Uuid::nil());
        let kind = FailureKind::FetchFailed { block, executor };
        Err(Failure::new(kind, "connection refused"))
    }
}

#[test]
fn a_callback_that_could_not_read_rows_leaves_them_to_be_made_again() {
    let ssc = context(1);
    let numbers = given(&ssc, vec![vec![vec![1i64]]]);
    numbers.for_each_batch(|batch, _| {
        let first = batch.first().map_err(|failure| failure.message)?;
        assert_eq!(first, Some(1));
        Ok::<(), String>(())
    });
    numbers.for_each_batch(|batch, _| {
        batch.collect().expect("rows");
    });
    numbers.for_each_batch(|batch, _| {
        // Its own affair.
        let _ = batch.collect();
    });
    numbers.for_each_batch(|_, _| Err("the database is away"));
    let runner = Runner::new(&ssc).unwrap();
    let info = BatchInfo {
        query: QueryId::random(),
        epoch: Epoch(1),
        batch: BatchId(4),
        batch_time: BatchTime(4_000),
    };
    let task = TaskId {
        query: info.query,
        epoch: info.epoch,
        batch: info.batch,
        stage: StageId(0),
        partition: 0,
        attempt: 0,
    };
    let meta = BlockMeta {
        rows: 1,
        ..BlockMeta::default()
    };
    let kept = BlockLocation {
        task,
        exchange: 0,
        partition: 0,
        executor: ExecutorId(uuid::Uuid::nil()),
        address: "gone".to_owned(),
        meta,
    };
    let results = [PartitionResult {
        partition: 0,
        result: None,
        kept: Some(kept),
        sink: None,
    }];
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let complete = |output: usize| {
        let blocks = Arc::new(Gone(task));
        let driver = &runner.job.outputs[output];
        runtime.block_on(driver.complete(info, &results, blocks))
    };
    for output in [0, 1] {
        let failure = complete(output).unwrap_err();
        let missed =
            matches!(failure.kind, FailureKind::FetchFailed { block, .. } if block.task == task);
        assert!(missed, "{failure}");
    }
    assert_eq!(complete(2), Ok(()));
    assert_eq!(complete(3).unwrap_err().kind, FailureKind::UserCode);
}

#[test]
fn the_limit_of_a_callback_is_on_rows_as_they_are_decompressed() {
    let ssc = context(1);
    let same = vec![String::from_utf8(vec![b'a'; 1_000]).unwrap(); 200];
    let lines = given(&ssc, vec![vec![same]]);
    lines.for_each_batch(|batch, _| batch.collect().map(drop));
    let options = CompileOptions {
        collect_max_bytes: 100_000,
        ..CompileOptions::default()
    };
    let mut runner = Runner::with_options(&ssc, u64::MAX, options).unwrap();
    let failure = runner.run(0, &[1]).expect_err("200,000 bytes");
    assert!(failure.message.contains("collect.max_bytes"), "{failure}");
}

#[test]
fn partitions_are_given_whole_to_executors() {
    let ssc = context(2);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let seeing = seen.clone();
    let numbers = given(&ssc, vec![vec![vec![1i64, 2], vec![], vec![3, 4, 5]]]);
    numbers.for_each_partition_of(move |of, rows| {
        // What isn't asked for is read all the same.
        let first: Vec<i64> = rows.take(2).collect();
        seeing.lock().push((of.batch, of.partition, first));
    });
    numbers.for_each_partition(|rows| match rows.sum::<i64>() {
        12 => Err("a dozen".to_owned()),
        _ => Ok(()),
    });
    let mut runner = Runner::new(&ssc).unwrap();
    let failure = runner.run(0, &[3]).unwrap_err();
    assert_eq!(failure.operator.as_deref(), Some("for-each-partition-1"));
    assert_eq!(failure.message, "a user function failed: a dozen");
    let of = |partition, rows: &[i64]| (BatchId(0), partition, rows.to_vec());
    assert_eq!(*seen.lock(), [of(0, &[1, 2]), of(1, &[]), of(2, &[3, 4])]);
}

#[derive(Default)]
struct Collecting {
    published: Mutex<Vec<SinkCommit>>,
    closed: Mutex<u32>,
}

struct CollectingWriter(WriteId, Vec<i64>);

impl Sink<Vec<i64>> for Collecting {
    fn writer(
        &self,
        id: WriteId,
        _task: &TaskContext<'_>,
    ) -> Result<Box<dyn SinkWriter<Vec<i64>>>, Failure> {
        Ok(Box::new(CollectingWriter(id, Vec::new())))
    }

    fn close(&self) {
        *self.closed.lock() += 1;
    }
}

impl SinkWriter<Vec<i64>> for CollectingWriter {
    fn write(&mut self, mut chunk: Vec<i64>, _task: &mut TaskContext<'_>) -> Result<(), Failure> {
        self.1.append(&mut chunk);
        Ok(())
    }

    fn finish(self: Box<Self>, _task: &mut TaskContext<'_>) -> Result<SinkCommit, Failure> {
        Ok(SinkCommit {
            partition: self.0.partition,
            rows: self.1.len() as u64,
            checksum: 0,
            payload: json!([self.0.output, self.1]),
        })
    }
}

#[async_trait]
impl SinkDriver for Collecting {
    async fn check(&self, _start: &SinkStart) -> Result<Vec<std::path::PathBuf>, Failure> {
        Ok(Vec::new())
    }

    async fn publish(&self, _batch: SinkBatch, winners: &[SinkCommit]) -> Result<(), Failure> {
        self.published.lock().extend_from_slice(winners);
        Ok(())
    }

    async fn sweep(&self, _batch: SinkBatch) {}
}

#[test]
fn sinks_get_rows_and_publish_their_commits() {
    let ssc = context(1);
    let sink = Arc::new(Collecting::default());
    let numbers = given(&ssc, vec![vec![vec![1i64, 2], vec![3]]]);
    numbers.sink("collecting", Value::Null, sink.clone(), sink.clone());
    let mut runner = Runner::new(&ssc).unwrap();
    runner.run(0, &[2]).unwrap();
    let published: Vec<Value> = sink
        .published
        .lock()
        .iter()
        .map(|commit| commit.payload.clone())
        .collect();
    assert_eq!(
        published,
        [
            json!(["collecting-0", [1, 2]]),
            json!(["collecting-0", [3]])
        ]
    );
    assert_eq!(runner.counts.output_rows, 3);
    runner.job.programs.close();
    assert_eq!(*sink.closed.lock(), 1);
}
