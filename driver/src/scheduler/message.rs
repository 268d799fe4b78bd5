//! What goes into the scheduler and what comes out of it.

use std::{collections::BTreeMap, sync::Arc};

use millstream_common::{
    failure::Failure,
    ids::{BatchId, Epoch, ExecutorId, OutputIndex, QueryId, TaskId},
    protocol::{
        EventTimesSeen, QueryGrant, QueryProgram, StageLaunch, StateFile, TaskCounts, TaskReport,
        Watermarks,
    },
    time::{BatchTime, Tick},
};
use millstream_connectors::source::Split;
use millstream_dataflow::plan::Plan;

use crate::{output::PartitionResult, query::state::StateFiles};

/// A registered executor, as far as scheduling needs to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecutorInfo {
    /// Its id, new at each registration.
    pub id: ExecutorId,
    /// Task slots.
    pub cores: u32,
    /// Its host's name.
    pub host: String,
    /// Where it serves blocks.
    pub block_address: String,
}

/// A batch to run: the plan and what its sources planned.
#[derive(Clone, Debug)]
pub struct BatchRun {
    /// The query.
    pub query: QueryId,
    /// The driver's epoch of the query.
    pub epoch: Epoch,
    /// The batch.
    pub batch: BatchId,
    /// Its time.
    pub batch_time: BatchTime,
    /// The graph.
    pub plan: Arc<Plan>,
    /// Splits, by source.
    pub splits: Vec<Vec<Split>>,
    /// What state partitions go on from.
    pub state: Arc<StateFiles>,
    /// Event-time watermarks.
    pub watermarks: Watermarks,
    /// A re-run after a restart: sinks look for markers first.
    pub rerun: bool,
    /// Of a re-run: where tables spilled when the batch was logged, bytes.
    pub spill_threshold: Option<u64>,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// What executors need to run a query that is added next; the cluster's service keeps it, the scheduler has no use for it.
    Program(Box<QueryProgram>),
    /// A program's queries may be scheduled from now on.
    QueryAdded(QueryGrant),
    /// The query ended: everything of it is dropped.
    QueryRemoved(QueryId),
    /// An executor's session is open (first or again); the answer is a `Reconcile` for it.
    Connected(ExecutorInfo),
    /// The executor's answer to `Reconcile`.
    Truth {
        /// Who.
        executor: ExecutorId,
        /// Attempts it runs or has queued.
        running: Vec<TaskId>,
        /// Finished attempts it holds.
        finished: Vec<TaskReport>,
    },
    /// An attempt ended.
    Reported {
        /// Who says so.
        executor: ExecutorId,
        /// What.
        report: Box<TaskReport>,
    },
    /// The executor is gone for good: silent too long, its process known dead, its session not back in time, or replaced.
    Lost {
        /// Who.
        executor: ExecutorId,
        /// Why, for messages.
        reason: String,
    },
    /// The executor takes nothing of later batches; it serves blocks until the running batch ends.
    Leaving(ExecutorId),
    /// Run a batch. One batch a query at a time.
    Run(BatchRun),
    /// The driver half of an output is done with what [`Action::OutputReady`] gave it; the next output may start.
    OutputDone {
        /// The query.
        query: QueryId,
        /// The batch.
        batch: BatchId,
        /// The output.
        output: OutputIndex,
    },
    /// The driver half of an output could not read a kept block: its task runs again, then `OutputReady` comes again.
    OutputFetchFailed {
        /// The query.
        query: QueryId,
        /// The batch.
        batch: BatchId,
        /// The output.
        output: OutputIndex,
        /// The attempt whose block is gone.
        task: TaskId,
        /// Who should have had it.
        executor: ExecutorId,
        /// What became of the fetch.
        failure: Box<Failure>,
    },
    /// The batch's blocks are no longer needed (committed, or given up).
    BatchReleased {
        /// The query.
        query: QueryId,
        /// The batch.
        batch: BatchId,
    },
    /// Stop the running batch's tasks. Nothing more is said of the batch.
    Abort {
        /// The query.
        query: QueryId,
        /// The batch.
        batch: BatchId,
    },
    /// The time asked for by [`Action::WakeAt`] came.
    Timer,
}

/// What is to be done.
#[derive(Clone, Debug)]
pub enum Action {
    /// Send `Reconcile`.
    Reconcile {
        /// To whom.
        executor: ExecutorId,
        /// Every query.
        queries: Vec<QueryGrant>,
        /// Attempts waited for from it.
        wanted: Vec<TaskId>,
    },
    /// Send tasks.
    Launch {
        /// To whom.
        executor: ExecutorId,
        /// The tasks.
        launch: StageLaunch,
    },
    /// Send a cancel.
    Cancel {
        /// To whom.
        executor: ExecutorId,
        /// The attempts.
        tasks: Vec<TaskId>,
    },
    /// Tell an executor that blocks of batches up to this one may go.
    DropBatches {
        /// To whom.
        executor: ExecutorId,
        /// The query, with the epoch.
        grant: QueryGrant,
        /// The newest batch no longer needed.
        through: BatchId,
    },
    /// A leaving executor is needed no more: tell it to shut down.
    Release {
        /// Whom.
        executor: ExecutorId,
    },
    /// An output's stage is done; results in partition order. Outputs become ready one after another, in definition order.
    OutputReady {
        /// The query.
        query: QueryId,
        /// The batch.
        batch: BatchId,
        /// The output.
        output: OutputIndex,
        /// What its tasks left.
        results: Vec<PartitionResult>,
    },
    /// Every output is done.
    BatchDone {
        /// The query.
        query: QueryId,
        /// The batch.
        batch: BatchId,
        /// Summed over winning attempts.
        summary: BatchSummary,
    },
    /// A task failed for good, or a stage was tried too often.
    BatchFailed {
        /// The query.
        query: QueryId,
        /// The batch.
        batch: BatchId,
        /// The reason, whole.
        failure: Failure,
    },
    /// Send [`Event::Timer`] at this time; replaces an earlier wish.
    WakeAt(Tick),
    /// Tasks have waited for a second and no executor can take them; said again after each `wait_log_interval`.
    NoExecutor {
        /// The query.
        query: QueryId,
        /// The batch.
        batch: BatchId,
    },
    /// Something worth a line in the log and a count: a retry, a lost block, an exclusion.
    Noted(Note),
}

/// What a batch came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BatchSummary {
    /// Summed counts of winning attempts.
    pub counts: TaskCounts,
    /// Tasks that succeeded.
    pub tasks: u64,
    /// Attempts that failed and were tried again.
    pub retries: u64,
    /// State files of winning attempts.
    pub state: Vec<StateFile>,
    /// Event times seen, by operator.
    pub event_times: BTreeMap<String, EventTimesSeen>,
    /// By stage.
    pub stages: Vec<StageSummary>,
    /// Rows read, by source.
    pub source_rows: Vec<u64>,
}

/// What a stage came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StageSummary {
    /// Tasks run.
    pub tasks: u32,
    /// Launch to end, microseconds.
    pub micros: u64,
    /// Summed counts of winning attempts.
    pub counts: TaskCounts,
    /// Where the stage keeps state: its memory by partition, bytes. Partitions without a task in the batch are not here.
    pub state_memory: Vec<(u32, u64)>,
}

/// Something worth saying.
#[derive(Clone, Debug, PartialEq)]
pub enum Note {
    /// An attempt failed and will be tried again.
    Retried {
        /// The attempt.
        task: TaskId,
        /// Where it ran.
        executor: ExecutorId,
        /// Why.
        failure: Box<Failure>,
    },
    /// An executor gets no more tasks of this stage.
    Excluded {
        /// Who.
        executor: ExecutorId,
        /// An attempt that failed there.
        task: TaskId,
    },
    /// Map tasks run again because their blocks are gone.
    MapOutputsLost {
        /// The attempts whose blocks are gone.
        tasks: Vec<TaskId>,
        /// Who had them.
        executor: ExecutorId,
    },
    /// The driver half of an output could not read a kept block, for the first time since an output was done; its task runs again.
    OutputMissed {
        /// The attempt whose block it is.
        task: TaskId,
        /// Who should have had it.
        executor: ExecutorId,
        /// What became of the fetch.
        failure: Box<Failure>,
    },
    /// A task that ran again wrote other rows than its earlier attempt, which had been read already; said where this is a warning only.
    Differed {
        /// The newer attempt, which counts.
        task: TaskId,
        /// The earlier one.
        earlier: TaskId,
        /// Stable ids of the stage's operators.
        operators: Vec<String>,
        /// The exchange.
        exchange: u32,
        /// Its partition.
        partition: u32,
    },
    /// Where a task was placed: on the executor that it prefers, or not.
    Placed {
        /// Tasks on their preferred executor.
        preferred: u32,
        /// Tasks elsewhere, though one was preferred.
        elsewhere: u32,
    },
}
