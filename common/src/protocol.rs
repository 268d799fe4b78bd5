//! What driver and executors say to each other, as plain values. The wire form is the `proto` crate's; the in-process
//! transport of `local[N]` passes these as they are.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    failure::{Failure, FailureKind},
    ids::{BatchId, BlockId, Epoch, ExecutorId, OutputIndex, QueryId, SourceId, StageId, TaskId},
    time::BatchTime,
};

/// The version of the session protocol; both sides must have the same.
pub const PROTOCOL_VERSION: u32 = 1;

/// What an executor says when it registers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RegisterRequest {
    /// [`PROTOCOL_VERSION`] of the executor.
    pub protocol: u32,
    /// Millstream's version.
    pub version: String,
    /// Hash of the executor's executable.
    pub build_id: String,
    /// Task slots.
    pub cores: u32,
    /// Where its blocks are served, `host:port`; empty for the in-process transport.
    pub block_address: String,
    /// Where its `/metrics` is, `host:port`; empty where there is none.
    pub http_address: String,
    /// Its process id, for people and tests.
    pub process_id: u32,
    /// The host's name, for locality.
    pub host: String,
}

/// What the driver answers to a registration that it accepts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RegisterReply {
    /// The executor's id from now on.
    pub executor: ExecutorId,
    /// The application as the driver runs it.
    pub application: Application,
    /// Files that prove that driver and executors share a file system.
    pub shared_files: Vec<SharedFile>,
}

/// What an executor needs to build the same graph as the driver.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Application {
    /// Its name.
    pub name: String,
    /// Its own arguments, as JSON.
    pub arguments: Value,
    /// The effective configuration, key to text; holds no secret.
    pub configuration: BTreeMap<String, String>,
    /// The partition count of exchanges, fixed at the query's first start.
    pub parallelism: u32,
    /// The batch interval in milliseconds; 0 runs batches back to back.
    pub batch_interval_millis: u64,
    /// Hash of the driver's executable.
    pub build_id: String,
    /// What the job function saw through the context: name to value.
    pub recorded: BTreeMap<String, Value>,
}

/// A file that the driver wrote, to be read by each executor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedFile {
    /// Its absolute path.
    pub path: String,
    /// Its content.
    pub nonce: String,
    /// What lives there, for the message: `checkpoint` or `output`.
    pub purpose: String,
}

/// An executor's first message on its session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// Who speaks.
    pub executor: ExecutorId,
    /// The session fingerprint that its own graph gives.
    pub fingerprint: String,
    /// Shared files that it could not read alike: path and what was seen.
    pub unshared: Vec<String>,
}

/// A query that the driver runs, and under which epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct QueryGrant {
    /// The query.
    pub query: QueryId,
    /// The driver's epoch of it.
    pub epoch: Epoch,
}

/// What the driver tells an executor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToExecutor {
    /// The driver's full truth, first on every session: what it runs, and which attempts it wants from this executor.
    /// Whatever else the executor has of lower epochs or other queries it drops; wanted attempts that it doesn't know it reports as lost.
    Reconcile {
        /// Every query, with its epoch.
        queries: Vec<QueryGrant>,
        /// Attempts whose report the driver still waits for.
        wanted: Vec<TaskId>,
    },
    /// A query's program, before the first launch of that query on this session; only for queries whose code isn't the application's.
    Program(Box<QueryProgram>),
    /// Tasks of one stage.
    Launch(StageLaunch),
    /// Attempts to stop; each is still reported, as cancelled.
    Cancel(Vec<TaskId>),
    /// All blocks of batches up to and including this one may go.
    DropBatches {
        /// The query.
        query: QueryId,
        /// The driver's epoch of it.
        epoch: Epoch,
        /// The newest batch that is no longer needed.
        through: BatchId,
    },
    /// Finish and exit; an executor of `local-cluster` does so by itself when its driver is gone.
    Shutdown {
        /// Why, for the log.
        reason: String,
    },
}

/// What an executor needs to run a query that isn't part of the application's own graph.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QueryProgram {
    /// The query.
    pub query: QueryId,
    /// The program, in the terms of the API that made it.
    pub bytes: Bytes,
    /// The folder of the query's checkpoint, below which its state files are.
    pub checkpoint: Option<String>,
    /// Files that prove that driver and executors share a file system.
    pub shared_files: Vec<SharedFile>,
}

/// Tasks of one stage bound for one executor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageLaunch {
    /// The query.
    pub query: QueryId,
    /// The driver's epoch of it.
    pub epoch: Epoch,
    /// The batch.
    pub batch: BatchId,
    /// The batch's time.
    pub batch_time: BatchTime,
    /// The stage.
    pub stage: StageId,
    /// The output that the stage feeds, where it ends in one.
    pub output: Option<OutputIndex>,
    /// The batch is a re-run after a restart, by this or another build: sinks must look for markers first.
    pub rerun: bool,
    /// Event-time watermarks of the batch.
    pub watermarks: Watermarks,
    /// Of a re-run: where the tables of tasks spilled when the batch was logged, bytes. Without it, and of other batches, the registration's configuration counts.
    #[serde(default)]
    pub spill_threshold: Option<u64>,
    /// The tasks.
    pub tasks: Vec<TaskSpec>,
}

/// A batch's event-time watermarks, milliseconds since the Unix epoch; none before any event time was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watermarks {
    /// The batch before's: rows at or before it are late.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub late: Option<i64>,
    /// The batch's own: state at or before it is let go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evict: Option<i64>,
}

/// One task: which attempt, and what it reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskSpec {
    /// Partition within the stage.
    pub partition: u32,
    /// Attempt number.
    pub attempt: u32,
    /// The stage's branch that the partition belongs to.
    pub branch: u32,
    /// What it reads.
    pub input: TaskInput,
    /// The state that the partition's stateful operators go on from: by operator, its files as the newest commit lists them, oldest first.
    pub state: Vec<StateFile>,
}

impl StageLaunch {
    /// The attempt that one of its tasks is.
    pub fn task_id(&self, spec: &TaskSpec) -> TaskId {
        TaskId {
            query: self.query,
            epoch: self.epoch,
            batch: self.batch,
            stage: self.stage,
            partition: spec.partition,
            attempt: spec.attempt,
        }
    }
}

/// What a task reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum TaskInput {
    /// A split of a source, in the source's own terms.
    Split {
        /// The source.
        source: SourceId,
        /// The split.
        split: Value,
    },
    /// Blocks, one list per exchange that the branch reads, in the branch's order; each list in map order, empty blocks left out.
    Blocks(Vec<Vec<BlockLocation>>),
}

/// Where a block is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockLocation {
    /// The attempt that wrote it.
    pub task: TaskId,
    /// Which of that stage's exchanges.
    pub exchange: u32,
    /// Which partition of the exchange.
    pub partition: u32,
    /// Who has it.
    pub executor: ExecutorId,
    /// Where that executor serves blocks.
    pub address: String,
    /// Size and checksum as its writer reported them.
    pub meta: BlockMeta,
}

impl BlockLocation {
    /// The block that is there.
    pub fn block(&self) -> BlockId {
        BlockId {
            task: self.task,
            exchange: self.exchange,
            partition: self.partition,
        }
    }

    /// That the block could not be had from there; it is made again.
    pub fn not_fetched(&self, reason: &str) -> Failure {
        let message = format!(
            "{} could not be fetched from executor {} at {}: {reason}",
            self.block(),
            self.executor,
            self.address
        );
        self.fetch_failed(message)
    }

    /// That what came from there is not what its writer made; the block is made again.
    pub fn damaged(&self, reason: &str) -> Failure {
        let (block, address) = (self.block(), &self.address);
        self.fetch_failed(format!("{block} from {address} is damaged: {reason}"))
    }

    fn fetch_failed(&self, message: String) -> Failure {
        let kind = FailureKind::FetchFailed {
            block: self.block(),
            executor: self.executor,
        };
        Failure::new(kind, message)
    }
}

/// What the writer of a block says of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockMeta {
    /// Bytes of all its frames as stored.
    pub bytes: u64,
    /// Rows.
    pub rows: u64,
    /// Content checksum: of the encoded rows in order, whatever the framing and compression.
    pub checksum: u64,
}

/// What an executor tells the driver.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToDriver {
    /// The executor's full truth, its answer to `Reconcile`.
    Truth {
        /// Attempts that it is running or has queued.
        running: Vec<TaskId>,
        /// Finished attempts whose blocks it still holds or whose report may not have arrived.
        finished: Vec<TaskReport>,
    },
    /// An attempt ended.
    Report(Box<TaskReport>),
    /// The executor lives.
    Heartbeat(Heartbeat),
    /// The executor was told to stop (SIGTERM): it takes nothing of later batches.
    Leaving,
}

/// A sign of life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Tasks running now.
    pub running: u32,
    /// Resident memory of the process, bytes.
    pub resident_bytes: u64,
    /// Blocks in memory, bytes.
    pub block_bytes: u64,
    /// Blocks on disk, bytes.
    pub spilled_bytes: u64,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskReport {
    /// The attempt.
    pub task: TaskId,
    /// What came of it.
    pub outcome: Result<TaskOutput, Failure>,
    /// How long it ran, microseconds.
    pub run_micros: u64,
}

/// What a successful attempt leaves.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TaskOutput {
    /// One list per exchange of the stage; one entry per partition of the exchange.
    pub exchanges: Vec<Vec<BlockMeta>>,
    /// Bytes for the driver's half of the output (rendered rows, partial results), under `collect.max_bytes`.
    pub result: Option<Bytes>,
    /// What the sink's writer returned.
    pub sink: Option<SinkCommit>,
    /// The state of the partition's stateful operators after this batch: by operator all its files, oldest first. A task that left an operator's
    /// state as it was lists the files that it was given.
    pub state: Vec<StateFile>,
    /// The event times seen by each operator that watches them.
    pub event_times: BTreeMap<String, EventTimesSeen>,
    /// Counts taken once, from the winning attempt.
    pub counts: TaskCounts,
}

/// Event times that were seen, milliseconds since the Unix epoch; at least one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct EventTimesSeen {
    /// The earliest.
    pub min: i64,
    /// The latest.
    pub max: i64,
    /// The latest of those that count for the watermark: that are not too far ahead of their batch.
    pub counted: Option<i64>,
    /// Their mean.
    pub mean: f64,
    /// How many.
    pub count: u64,
}

impl EventTimesSeen {
    /// With these others.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        let count = self.count.saturating_add(other.count);
        let share = other.count as f64 / count.max(1) as f64;
        Self {
            min: self.min.min(other.min),
            max: self.max.max(other.max),
            counted: self.counted.max(other.counted),
            mean: self.mean + (other.mean - self.mean) * share,
            count,
        }
    }
}

/// Counts of one attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskCounts {
    /// Rows read from a split.
    pub input_rows: u64,
    /// Bytes read from a split.
    pub input_bytes: u64,
    /// Malformed records that were dropped or replaced.
    pub malformed: u64,
    /// Rows read from blocks.
    pub shuffle_rows_read: u64,
    /// Rows written to blocks.
    pub shuffle_rows_written: u64,
    /// Rows handed to a sink or the driver.
    pub output_rows: u64,
    /// Bytes spilled to disk by the task itself.
    pub spilled_bytes: u64,
    /// Records read from Kafka.
    pub kafka_records: u64,
    /// Kafka ranges that had been read ahead whole when the task opened them.
    pub kafka_ranges_buffered: u64,
    /// Kafka ranges of which the task had to wait for records.
    pub kafka_ranges_awaited: u64,
    /// Rows left out because their event time was behind the watermark.
    pub late_rows: u64,
    /// Groups of state that were made or changed.
    pub state_rows_updated: u64,
    /// Groups of state that were let go.
    pub state_rows_removed: u64,
    /// Memory of the state after the task, bytes.
    pub state_memory_bytes: u64,
    /// Finding and changing the groups that were touched, microseconds.
    pub state_update_micros: u64,
    /// Finding the groups that are over, microseconds.
    pub state_removal_micros: u64,
    /// Making the changes of state durable, microseconds.
    pub state_commit_micros: u64,
}

impl TaskCounts {
    /// Adds another task's.
    pub fn add(&mut self, other: &Self) {
        self.input_rows += other.input_rows;
        self.input_bytes += other.input_bytes;
        self.malformed += other.malformed;
        self.shuffle_rows_read += other.shuffle_rows_read;
        self.shuffle_rows_written += other.shuffle_rows_written;
        self.output_rows += other.output_rows;
        self.spilled_bytes += other.spilled_bytes;
        self.kafka_records += other.kafka_records;
        self.kafka_ranges_buffered += other.kafka_ranges_buffered;
        self.kafka_ranges_awaited += other.kafka_ranges_awaited;
        self.late_rows += other.late_rows;
        self.state_rows_updated += other.state_rows_updated;
        self.state_rows_removed += other.state_rows_removed;
        self.state_memory_bytes += other.state_memory_bytes;
        self.state_update_micros += other.state_update_micros;
        self.state_removal_micros += other.state_removal_micros;
        self.state_commit_micros += other.state_commit_micros;
    }
}

/// What one attempt left at a sink, for `commits/<batch>` and the driver half.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SinkCommit {
    /// The sink partition.
    pub partition: u32,
    /// Rows written, or that a marker says were written.
    pub rows: u64,
    /// Content checksum of the rows in order.
    pub checksum: u64,
    /// What the driver half needs to publish: staged files, handles.
    pub payload: Value,
}

/// A state file that counts once a commit lists it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateFile {
    /// The stateful operator's stable id.
    pub operator: String,
    /// The state partition.
    pub partition: u32,
    /// The file's name below the checkpoint.
    pub file: String,
    /// Where in the file.
    pub offset: u64,
    /// How long.
    pub length: u64,
    /// Checksum of those bytes.
    pub checksum: u64,
    /// Rows of the state partition once this file is added to those before it.
    #[serde(default)]
    pub rows: u64,
}
