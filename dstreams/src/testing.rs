//! Runs compiled jobs batch by batch on the calling thread: a source of given rows, and a runner that executes every stage.

use std::{
    collections::BTreeMap,
    io::Write,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use jiff::tz::TimeZone;
use millstream_common::{
    failure::Failure,
    ids::{BatchId, BlockId, Epoch, ExecutorId, QueryId, SourceId, TaskId},
    protocol::{Application, BlockLocation, SinkCommit, TaskCounts, TaskInput, TaskOutput},
    time::BatchTime,
};
use millstream_connectors::source::{
    More, PlanRequest, PlannedInput, SourceDriver, SourceHistory, SplitReader, SplitSource,
};
use millstream_dataflow::{
    memory::MemoryServices,
    plan::{Branch, Exchange},
    program::{CancelToken, TaskContext},
};
use millstream_driver::output::{BatchInfo, BlockReader, PartitionResult};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::{CompileOptions, CompiledJob, Console, DStream, Data, Error, Side, StreamingContext};

/// The splits of each batch of a source.
type Batches<T> = Arc<Mutex<Vec<Vec<Vec<T>>>>>;

/// A source whose rows the test gives.
pub(crate) struct Given<T> {
    batches: Batches<T>,
    chunk_rows: usize,
}

pub(crate) struct GivenDriver;

#[async_trait]
impl SourceDriver for GivenDriver {
    async fn start(&mut self) -> Result<Value, Failure> {
        Ok(Value::Null)
    }

    async fn restore(&mut self, _history: SourceHistory) -> Result<(), Failure> {
        Ok(())
    }

    async fn plan(&mut self, _request: PlanRequest) -> Result<PlannedInput, Failure> {
        Ok(PlannedInput::default())
    }

    async fn committed(&mut self, _batch: BatchId, _input: &PlannedInput) -> Result<(), Failure> {
        Ok(())
    }
}

struct GivenReader<T> {
    rows: std::vec::IntoIter<T>,
    chunk_rows: usize,
}

impl<T: Clone + Send + Sync + 'static> SplitSource<Vec<T>> for Given<T> {
    fn open(
        &self,
        split: &Value,
        _task: &TaskContext<'_>,
    ) -> Result<Box<dyn SplitReader<Vec<T>>>, Failure> {
        let number = |at: usize| split[at].as_u64().unwrap() as usize;
        let rows = self.batches.lock()[number(0)][number(1)].clone();
        Ok(Box::new(GivenReader {
            rows: rows.into_iter(),
            chunk_rows: self.chunk_rows,
        }))
    }
}

impl<T: Send> SplitReader<Vec<T>> for GivenReader<T> {
    fn next(&mut self, chunk: &mut Vec<T>, task: &mut TaskContext<'_>) -> Result<More, Failure> {
        chunk.extend(self.rows.by_ref().take(self.chunk_rows));
        task.counts.input_rows += chunk.len() as u64;
        Ok(if self.rows.len() > 0 {
            More::Yes
        } else {
            More::No
        })
    }
}

pub(crate) fn context(parallelism: u32) -> StreamingContext {
    context_with(parallelism, BTreeMap::new())
}

pub(crate) fn context_with(
    parallelism: u32,
    configuration: BTreeMap<String, String>,
) -> StreamingContext {
    let application = Application {
        name: "test".to_owned(),
        arguments: Value::Null,
        configuration,
        parallelism,
        batch_interval_millis: 1000,
        build_id: String::new(),
        recorded: BTreeMap::new(),
    };
    StreamingContext::new(application, Side::Driver)
}

/// A stream of these batches, each a list of splits.
pub(crate) fn given<T: Data + Clone>(
    ssc: &StreamingContext,
    batches: Vec<Vec<Vec<T>>>,
) -> DStream<T> {
    given_in_chunks(ssc, batches, 1000)
}

pub(crate) fn given_in_chunks<T: Data + Clone>(
    ssc: &StreamingContext,
    batches: Vec<Vec<Vec<T>>>,
    chunk_rows: usize,
) -> DStream<T> {
    let source = Given {
        batches: Arc::new(Mutex::new(batches)),
        chunk_rows,
    };
    ssc.source(
        "given",
        json!({}),
        Arc::new(|| Ok(Box::new(GivenDriver))),
        Arc::new(source),
    )
}

/// Text that was printed.
#[derive(Clone, Default)]
pub(crate) struct Printed(Arc<Mutex<Vec<u8>>>);

impl Write for Printed {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Printed {
    pub(crate) fn take(&self) -> String {
        String::from_utf8(std::mem::take(&mut *self.0.lock())).unwrap()
    }
}

/// Stage, task, partition, and the checksum of that block.
pub(crate) type BlockChecksum = (usize, u32, usize, u64);

pub(crate) struct Runner {
    pub job: CompiledJob,
    pub services: Arc<MemoryServices>,
    pub printed: Printed,
    /// Of all blocks of the last batch.
    pub checksums: Vec<BlockChecksum>,
    pub counts: TaskCounts,
    pub commits: Vec<SinkCommit>,
    runtime: tokio::runtime::Runtime,
    query: QueryId,
}

impl Runner {
    pub(crate) fn new(ssc: &StreamingContext) -> Result<Self, Error> {
        Self::spilling_at(ssc, u64::MAX)
    }

    pub(crate) fn spilling_at(ssc: &StreamingContext, threshold: u64) -> Result<Self, Error> {
        Self::with_options(ssc, threshold, CompileOptions::default())
    }

    pub(crate) fn with_options(
        ssc: &StreamingContext,
        threshold: u64,
        options: CompileOptions,
    ) -> Result<Self, Error> {
        let printed = Printed::default();
        let options = CompileOptions {
            console: Console::new(printed.clone()),
            time_zone: TimeZone::UTC,
            ..options
        };
        Ok(Self {
            job: ssc.compile(&options)?,
            services: Arc::new(MemoryServices::new(threshold)),
            printed,
            checksums: Vec::new(),
            counts: TaskCounts::default(),
            commits: Vec::new(),
            runtime: tokio::runtime::Builder::new_current_thread()
                .build()
                .unwrap(),
            query: QueryId::random(),
        })
    }

    /// Runs a batch whose sources have so many splits each.
    pub(crate) fn run(&mut self, batch: u64, splits: &[usize]) -> Result<(), Failure> {
        self.checksums.clear();
        self.commits.clear();
        self.counts = TaskCounts::default();
        let plan = self.job.plan.clone();
        // By stage: each task's id and output; none for a task without input.
        let mut done: Vec<Vec<Option<(TaskId, TaskOutput)>>> = Vec::new();
        for (stage_id, stage) in plan.stage_ids() {
            let program = self.job.programs.program(stage_id).unwrap();
            let mut outputs = Vec::new();
            for (branch, origin) in stage.branches.iter().enumerate() {
                for (input, empty) in inputs(origin, &plan.stages, &done, batch, splits) {
                    if empty && stage.empty_to_empty {
                        outputs.push(None);
                        continue;
                    }
                    let id = TaskId {
                        query: self.query,
                        epoch: Epoch(1),
                        batch: BatchId(batch),
                        stage: stage_id,
                        partition: outputs.len() as u32,
                        attempt: 0,
                    };
                    let mut task = TaskContext {
                        id,
                        batch_time: BatchTime(batch as i64 * 1000),
                        branch: branch as u32,
                        input,
                        state: Vec::new(),
                        watermarks: Default::default(),
                        rerun: false,
                        cancel: CancelToken::new(),
                        input_deadline: Duration::from_secs(10),
                        counts: TaskCounts::default(),
                        services: &*self.services,
                    };
                    let output = program.run(&mut task)?;
                    assert_eq!(output.exchanges.len(), stage.exchanges.len());
                    assert_eq!(output.counts, task.counts);
                    self.add_counts(&output.counts);
                    for (partition, meta) in output.exchanges.iter().flatten().enumerate() {
                        self.checksums
                            .push((done.len(), id.partition, partition, meta.checksum));
                    }
                    outputs.push(Some((id, output)));
                }
            }
            done.push(outputs);
        }
        let info = BatchInfo {
            query: self.query,
            epoch: Epoch(1),
            batch: BatchId(batch),
            batch_time: BatchTime(batch as i64 * 1000),
        };
        for (output, driver) in plan.outputs.iter().zip(&self.job.outputs) {
            let mut results = Vec::new();
            let mut kept_blocks = BTreeMap::new();
            for (partition, task) in done[output.stage.0 as usize].iter().enumerate() {
                let Some((id, made)) = task else { continue };
                let kept = made
                    .exchanges
                    .first()
                    .map(|metas| location(*id, partition as u32, metas[0]));
                if let Some(kept) = &kept {
                    kept_blocks.insert(partition as u32, kept.clone());
                }
                results.push(PartitionResult {
                    partition: partition as u32,
                    result: made.result.clone(),
                    kept,
                    sink: made.sink.clone(),
                });
            }
            let commits: Vec<_> = results
                .iter()
                .filter_map(|result| result.sink.clone())
                .collect();
            let reader = Arc::new(Reader {
                services: self.services.clone(),
                kept: kept_blocks,
                reads: AtomicU64::new(0),
            });
            self.runtime
                .block_on(driver.complete(info, &results, reader))?;
            self.runtime.block_on(driver.publish(info, &commits))?;
            self.commits.extend(commits);
        }
        self.services.clear();
        Ok(())
    }

    fn add_counts(&mut self, counts: &TaskCounts) {
        self.counts.input_rows += counts.input_rows;
        self.counts.shuffle_rows_read += counts.shuffle_rows_read;
        self.counts.shuffle_rows_written += counts.shuffle_rows_written;
        self.counts.output_rows += counts.output_rows;
        self.counts.spilled_bytes += counts.spilled_bytes;
    }
}

fn location(
    task: TaskId,
    partition: u32,
    meta: millstream_common::protocol::BlockMeta,
) -> BlockLocation {
    BlockLocation {
        task,
        exchange: 0,
        partition,
        executor: ExecutorId(uuid::Uuid::nil()),
        address: "test".to_owned(),
        meta,
    }
}

/// The inputs of a branch's tasks, and whether each is empty.
fn inputs(
    branch: &Branch,
    stages: &[millstream_dataflow::plan::StagePlan],
    done: &[Vec<Option<(TaskId, TaskOutput)>>],
    batch: u64,
    splits: &[usize],
) -> Vec<(TaskInput, bool)> {
    match branch {
        Branch::Source(SourceId(source)) => (0..splits[*source as usize])
            .map(|split| {
                let input = TaskInput::Split {
                    source: SourceId(*source),
                    split: json!([batch, split]),
                };
                (input, false)
            })
            .collect(),
        Branch::Exchanges(references) => {
            let first = references[0];
            let upstream = first.stage.0 as usize;
            let exchange = stages[upstream].exchanges[first.exchange as usize];
            let count = match exchange {
                Exchange::Hash(count) | Exchange::RoundRobin(count) => count,
                Exchange::Gather => 1,
                Exchange::Keep => done[upstream].len() as u32,
            };
            let mut tasks = Vec::new();
            for partition in 0..count {
                let mut lists = Vec::new();
                for reference in references {
                    let mut list = Vec::new();
                    for (map, task) in done[reference.stage.0 as usize].iter().enumerate() {
                        let Some((id, output)) = task else { continue };
                        let metas = &output.exchanges[reference.exchange as usize];
                        let meta = match exchange {
                            Exchange::Keep if map as u32 != partition => continue,
                            Exchange::Keep => metas[0],
                            _ => metas[partition as usize],
                        };
                        if meta.rows > 0 {
                            list.push(location(*id, partition, meta));
                        }
                    }
                    lists.push(list);
                }
                let empty = lists.iter().all(Vec::is_empty);
                tasks.push((TaskInput::Blocks(lists), empty));
            }
            tasks
        }
    }
}

struct Reader {
    services: Arc<MemoryServices>,
    kept: BTreeMap<u32, BlockLocation>,
    reads: AtomicU64,
}

#[async_trait]
impl BlockReader for Reader {
    async fn read(&self, partition: u32, _max_bytes: u64) -> Result<Vec<Bytes>, Failure> {
        self.reads
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let kept = &self.kept[&partition];
        Ok(self.services.frames(BlockId {
            task: kept.task,
            exchange: kept.exchange,
            partition: kept.partition,
        }))
    }
}

/// What a stream gives for batch 0: a batch per element, collected on the driver.
pub(crate) fn collected<T: Data>(stream: &DStream<T>) -> Arc<Mutex<Vec<Vec<T>>>> {
    let batches = Arc::new(Mutex::new(Vec::new()));
    let collecting = batches.clone();
    stream.for_each_batch(move |batch, _| {
        collecting.lock().push(batch.collect()?);
        Ok::<(), Failure>(())
    });
    batches
}
