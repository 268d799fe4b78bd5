//! Both halves of a Kafka source, driven by hand.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use millstream_common::failure::Failure;
use millstream_common::ids::{BatchId, BlockId, Epoch, QueryId, StageId, TaskId};
use millstream_common::protocol::{BlockLocation, TaskCounts, TaskInput};
use millstream_common::time::{BatchTime, Clock, SystemClock};
use millstream_connectors::kafka::{
    KafkaDriver, KafkaSplits, OffsetRange, Record, Settings, StartingOffsets, Subscription,
};
use millstream_connectors::source::{
    More, PlanRequest, PlannedInput, SourceDriver, SplitReader, SplitSource,
};
use millstream_dataflow::program::{BlockFrames, CancelToken, TaskContext, TaskServices};
use millstream_integration_tests::kafka::KafkaClient;
use millstream_integration_tests::wait::wait_for;
use tokio::runtime::Runtime;

/// Of everything that must happen at once but takes its time on a busy machine.
pub const SOON: Duration = Duration::from_secs(20);

/// A source reads without the executor's services.
pub struct NoServices;

impl TaskServices for NoServices {
    fn append_block(&self, _: BlockId, _: Bytes) -> Result<(), Failure> {
        unreachable!()
    }

    fn fetch_blocks(&self, _: Vec<BlockLocation>, _: CancelToken) -> Box<dyn BlockFrames> {
        unreachable!()
    }

    fn spill_folder(&self, _: TaskId) -> Result<PathBuf, Failure> {
        unreachable!()
    }

    fn spill_threshold(&self) -> u64 {
        unreachable!()
    }

    fn compress_blocks(&self) -> bool {
        unreachable!()
    }
}

pub fn task() -> TaskContext<'static> {
    TaskContext {
        id: TaskId {
            query: QueryId::random(),
            epoch: Epoch(1),
            batch: BatchId(0),
            stage: StageId(0),
            partition: 0,
            attempt: 0,
        },
        batch_time: BatchTime(0),
        branch: 0,
        input: TaskInput::Blocks(Vec::new()),
        state: Vec::new(),
        watermarks: Default::default(),
        rerun: false,
        cancel: CancelToken::new(),
        input_deadline: SOON,
        counts: TaskCounts::default(),
        services: &NoServices,
    }
}

pub struct Source {
    runtime: Runtime,
    pub driver: KafkaDriver,
    pub splits: KafkaSplits,
}

impl Source {
    /// Both halves; not started.
    pub fn with(settings: Settings) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let settings = Arc::new(settings);
        Self {
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build()
                .unwrap(),
            driver: KafkaDriver::new(Arc::clone(&settings), Arc::clone(&clock)).unwrap(),
            splits: KafkaSplits::new(settings, clock),
        }
    }

    pub fn start(&mut self) -> Result<serde_json::Value, Failure> {
        self.runtime.block_on(self.driver.start())
    }

    pub fn restore(&mut self, start: serde_json::Value, logged: &[PlannedInput]) {
        let logged = logged.iter().cloned().map(|input| (BatchId(0), input));
        let history = millstream_connectors::source::SourceHistory {
            start,
            seen: None,
            logged: logged.collect(),
        };
        self.runtime.block_on(self.driver.restore(history)).unwrap();
    }

    pub fn plan(&mut self) -> Result<PlannedInput, Failure> {
        self.plan_at_most(None)
    }

    pub fn plan_at_most(&mut self, max_rows: Option<u64>) -> Result<PlannedInput, Failure> {
        let request = PlanRequest {
            batch: BatchId(0),
            batch_time: BatchTime(0),
            max_rows,
            interval_millis: 1_000,
        };
        self.runtime.block_on(self.driver.plan(request))
    }

    pub fn committed(&mut self, input: &PlannedInput) -> Result<(), Failure> {
        self.runtime
            .block_on(self.driver.committed(BatchId(0), input))
    }

    pub fn stop(&mut self) {
        self.runtime.block_on(self.driver.stop());
        self.splits.close();
    }

    /// Plans and reads until `wanted` rows came, and gives them in reading order.
    pub fn read_rows(&mut self, wanted: usize) -> Vec<Record> {
        let mut rows = Vec::new();
        wait_for(SOON, &format!("{wanted} rows"), || {
            for range in ranges(&self.plan().unwrap()) {
                rows.extend(self.read(&range).unwrap());
            }
            (rows.len() >= wanted).then_some(())
        })
        .unwrap_or_else(|error| panic!("{error}: {} rows", rows.len()));
        assert_eq!(rows.len(), wanted);
        rows
    }

    pub fn open(&self, range: &OffsetRange) -> Box<dyn SplitReader<Vec<Record>>> {
        let split = serde_json::to_value(range).unwrap();
        self.splits.open(&split, &task()).unwrap()
    }

    pub fn read(&self, range: &OffsetRange) -> Result<Vec<Record>, Failure> {
        self.read_as(range, &mut task())
    }

    pub fn read_as(
        &self,
        range: &OffsetRange,
        task: &mut TaskContext<'_>,
    ) -> Result<Vec<Record>, Failure> {
        let split = serde_json::to_value(range).unwrap();
        let mut reader = self.splits.open(&split, task)?;
        read_rest(reader.as_mut(), task)
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.stop();
    }
}

pub fn read_rest(
    reader: &mut dyn SplitReader<Vec<Record>>,
    task: &mut TaskContext<'_>,
) -> Result<Vec<Record>, Failure> {
    let mut rows = Vec::new();
    loop {
        let mut chunk = Vec::new();
        let more = reader.next(&mut chunk, task)?;
        rows.append(&mut chunk);
        if more == More::No {
            return Ok(rows);
        }
    }
}

/// Settings that begin at the earliest offsets and look for new partitions each time.
pub fn settings(kafka: &KafkaClient, subscription: Subscription) -> Settings {
    let mut settings = Settings::new(kafka.bootstrap(), subscription);
    settings.starting_offsets = StartingOffsets::Earliest;
    settings.metadata_interval = Duration::ZERO;
    settings
}

/// As [`settings`], of one topic.
pub fn of_topic(kafka: &KafkaClient, topic: &str) -> Settings {
    settings(kafka, Subscription::Topics(vec![topic.to_owned()]))
}

pub fn ranges(input: &PlannedInput) -> Vec<OffsetRange> {
    let range = |split: &millstream_connectors::source::Split| {
        serde_json::from_value(split.split.clone()).unwrap()
    };
    input.splits.iter().map(range).collect()
}

pub fn range(topic: &str, partition: i32, from: i64, until: i64) -> OffsetRange {
    OffsetRange {
        topic: topic.to_owned(),
        partition,
        from,
        until,
    }
}

pub fn offsets(rows: &[Record]) -> Vec<i64> {
    rows.iter().map(|row| row.offset).collect()
}

pub fn texts(rows: &[Record]) -> Vec<String> {
    let text = |row: &Record| row.clone().text().to_string();
    rows.iter().map(text).collect()
}
