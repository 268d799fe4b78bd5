//! The Kafka sink against a real broker: transactions, fences and markers can be seen nowhere else.

mod driver_half;
mod faults;
mod writes;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use millstream_common::{
    failure::{Failure, FailureKind, Retry},
    ids::{BatchId, BlockId, Epoch, QueryId, StageId, TaskId},
    protocol::{BlockLocation, SinkCommit, TaskCounts, TaskInput},
    time::{BatchTime, Clock as _, SystemClock},
};
use millstream_connectors::{
    kafka::sink::{KafkaSink, ProducerRecord, Settings},
    sink::{Sink as _, SinkWriter, WriteId},
};
use millstream_dataflow::program::{BlockFrames, CancelToken, TaskContext, TaskServices};
use millstream_integration_tests::kafka::{Isolation, KafkaBroker, KafkaClient};

const SOON: Duration = Duration::from_secs(30);

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
            state: Vec::new(),
            watermarks: Default::default(),
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
