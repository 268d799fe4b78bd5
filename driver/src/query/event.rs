//! What goes into the query's state machine and what comes out of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use millstream_common::{
    failure::Failure,
    ids::{BatchId, Epoch, ExecutorId, OutputIndex, QueryId, SourceId, TaskId},
    protocol::{SinkCommit, Watermarks},
    time::{BatchTime, Tick},
};
use millstream_connectors::source::{PlanRequest, PlannedInput, SourceHistory, Split};
use millstream_dataflow::plan::CheckpointFingerprint;
use serde_json::Value;

use super::{
    checkpoint::RawCheckpoint,
    error::{QueryError, Stopped, StoreFailure},
    progress::{BatchProgress, QueryStatus},
    rate::RateOptions,
    state::StateFiles,
};
use crate::{
    output::PartitionResult,
    scheduler::message::{self, BatchSummary},
};

/// What the scheduler tells a query.
#[derive(Clone, Debug)]
pub enum QueryNews {
    /// An output's stage is done.
    OutputReady {
        /// The batch.
        batch: BatchId,
        /// The output.
        output: OutputIndex,
        /// What its tasks left, in partition order.
        results: Vec<PartitionResult>,
    },
    /// Every output is done.
    BatchDone {
        /// The batch.
        batch: BatchId,
        /// What it came to.
        summary: BatchSummary,
    },
    /// The batch can't be done.
    BatchFailed {
        /// The batch.
        batch: BatchId,
        /// Why.
        failure: Failure,
    },
    /// Tasks wait and no executor can take them.
    NoExecutor {
        /// The batch.
        batch: BatchId,
    },
}

impl QueryNews {
    /// The scheduler's action as news for its query; the action itself where it is for somebody else.
    ///
    /// # Errors
    /// The action, unchanged.
    pub fn from_action(action: message::Action) -> Result<(QueryId, Self), message::Action> {
        Ok(match action {
            message::Action::OutputReady {
                query,
                batch,
                output,
                results,
            } => (
                query,
                Self::OutputReady {
                    batch,
                    output,
                    results,
                },
            ),
            message::Action::BatchDone {
                query,
                batch,
                summary,
            } => (query, Self::BatchDone { batch, summary }),
            message::Action::BatchFailed {
                query,
                batch,
                failure,
            } => (query, Self::BatchFailed { batch, failure }),
            message::Action::NoExecutor { query, batch } => (query, Self::NoExecutor { batch }),
            other => return Err(other),
        })
    }
}

/// An output, as far as the state machine needs to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputInfo {
    /// Stable id.
    pub id: String,
    /// Whether it has something to do after a commit, before the next batch may be logged.
    pub publishes: bool,
}

/// A column of event times that a query watches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventTime {
    /// Under this name tasks report the latest one.
    pub id: String,
    /// How far the watermark stays behind it.
    pub delay_millis: i64,
}

/// When batches run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trigger {
    /// At each multiple of the interval, with or without input. With interval 0 as soon as there is input.
    #[default]
    Interval,
    /// At multiples of so many milliseconds, if there is input. A batch that takes longer is followed by the next at once, and no multiple is made up for.
    ProcessingTime(u64),
    /// One batch of what is there, then the query ends.
    Once,
    /// As many batches as what is there needs, then the query ends.
    AvailableNow,
}

/// How batches follow each other. The default is that of a query without event times.
#[derive(Clone, Debug, Default)]
pub struct BatchRules {
    /// When they run. All but [`Trigger::Interval`] want the interval 0.
    pub trigger: Trigger,
    /// Columns of event times, whose latest make the watermark.
    pub event_times: Vec<EventTime>,
    /// State or output waits for the watermark: when it has moved, a batch is due even without input.
    pub waits_for_watermark: bool,
}

/// What the state machine starts from.
#[derive(Clone, Debug)]
pub struct CoreOptions {
    /// The query's id if this is its first start.
    pub fresh_query: QueryId,
    /// Unlike that of any other run of a driver; the nonces of entries begin with it.
    pub session: String,
    /// Where this driver can be reached, for people.
    pub address: String,
    /// This driver's build.
    pub build_id: String,
    /// What the checkpoint must agree with.
    pub fingerprint: CheckpointFingerprint,
    /// The version of the rule from keys to partitions.
    pub routing_version: u32,
    /// The application's arguments.
    pub arguments: Value,
    /// The configuration, without secrets.
    pub configuration: BTreeMap<String, String>,
    /// Configuration that affects results.
    pub affecting: BTreeMap<String, String>,
    /// What the job function saw through the context.
    pub recorded: BTreeMap<String, Value>,
    /// Stable ids of the sources, in order.
    pub sources: Vec<String>,
    /// The outputs, in order.
    pub outputs: Vec<OutputInfo>,
    /// The batch interval, milliseconds; 0 runs batches back to back.
    pub interval_millis: u64,
    /// Planned batches that may wait behind the running one.
    pub max_queued: usize,
    /// Committed batches whose entries are kept; at least 2.
    pub retained_batches: u64,
    /// The rate controller's settings; none leaves it off.
    pub rate: Option<RateOptions>,
    /// How batches follow each other.
    pub rules: BatchRules,
}

/// Tells answers apart that belong to a state that was given up; see [`Event`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Life(pub u32);

/// What became of a put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PutResult {
    /// The entry is there and is ours.
    Won,
    /// There was an entry already: these bytes.
    Lost(Bytes),
}

/// What a source planned.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SourcePlanned {
    /// The input.
    pub input: PlannedInput,
    /// Everything taken up to and including this batch, where it was asked for and the source keeps it.
    pub seen: Option<Value>,
    /// How far the source is behind, by partition label.
    pub lag: Vec<(String, u64)>,
    /// The newest position that it saw, where it knows.
    pub latest: Option<Value>,
}

/// What happened. Answers carry the life in which they were asked for; the machine ignores those of an earlier one.
#[derive(Clone, Debug)]
pub enum Event {
    /// Begin.
    Start {
        /// The wall clock, milliseconds since the Unix epoch.
        wall_millis: i64,
    },
    /// The time asked for by [`Action::WakeAt`] came.
    Timer {
        /// The wall clock, milliseconds since the Unix epoch.
        wall_millis: i64,
    },
    /// The answer to [`Action::ReadCheckpoint`].
    Checkpoint {
        /// Of the question.
        life: Life,
        /// What is in the checkpoint.
        raw: Result<RawCheckpoint, StoreFailure>,
    },
    /// The answer to [`Action::Put`].
    Put {
        /// Of the question.
        life: Life,
        /// The entry's name.
        name: String,
        /// What became of it. A failure means that it isn't known.
        result: Result<PutResult, StoreFailure>,
    },
    /// The answer to [`Action::ListEpochs`].
    Epochs {
        /// Of the question.
        life: Life,
        /// The highest epoch listed.
        highest: Result<Epoch, StoreFailure>,
    },
    /// The answer to [`Action::Delete`].
    Deleted {
        /// Of the question.
        life: Life,
        /// Whether all are gone.
        result: Result<(), StoreFailure>,
    },
    /// The answer to [`Action::StartSource`].
    SourceStarted {
        /// Of the question.
        life: Life,
        /// The source.
        source: SourceId,
        /// Where it begins.
        result: Result<Value, Failure>,
    },
    /// The answer to [`Action::RestoreSource`].
    SourceRestored {
        /// Of the question.
        life: Life,
        /// The source.
        source: SourceId,
        /// Whether it can go on.
        result: Result<(), Failure>,
    },
    /// The answer to [`Action::CheckOutputs`].
    OutputsChecked {
        /// Of the question.
        life: Life,
        /// Whether they are ready; if not, which one and why.
        result: Result<(), (OutputIndex, Failure)>,
    },
    /// The answer to [`Action::Plan`].
    Planned {
        /// Of the question.
        life: Life,
        /// The batch.
        batch: BatchId,
        /// The source.
        source: SourceId,
        /// What is new.
        result: Result<SourcePlanned, Failure>,
    },
    /// From the scheduler.
    News(QueryNews),
    /// The answer to [`Action::Complete`].
    Completed {
        /// Of the question.
        life: Life,
        /// The batch.
        batch: BatchId,
        /// The output.
        output: OutputIndex,
        /// Whether the driver half did it.
        result: Result<(), Failure>,
    },
    /// The answer to [`Action::Publish`].
    Published {
        /// Of the question.
        life: Life,
        /// The batch.
        batch: BatchId,
        /// Whether everything is seen now; if not, which output failed and why.
        result: Result<(), (OutputIndex, Failure)>,
    },
    /// End: gracefully after the planned batches, or at once.
    Stop {
        /// Finish planned batches first.
        graceful: bool,
    },
}

/// A batch of this driver, for outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchRef {
    /// The batch.
    pub batch: BatchId,
    /// Its time.
    pub batch_time: BatchTime,
}

/// What is to be done.
#[derive(Clone, Debug)]
pub enum Action {
    /// Read every entry: names of offsets entries and commits as of one moment, sources' entries after those, so that what a running driver purges meanwhile is
    /// found in what is read later.
    ReadCheckpoint {
        /// Goes into the answer.
        life: Life,
    },
    /// Put an entry if there is none. When the outcome isn't known: read it back; the same bytes mean won.
    Put {
        /// Goes into the answer.
        life: Life,
        /// Its name.
        name: String,
        /// Its bytes.
        bytes: Bytes,
    },
    /// Find the highest epoch listed.
    ListEpochs {
        /// Goes into the answer.
        life: Life,
    },
    /// Delete entries in this order; stop at the first that fails.
    Delete {
        /// Goes into the answer.
        life: Life,
        /// Their names.
        names: Vec<String>,
    },
    /// Ask a source where it begins.
    StartSource {
        /// Goes into the answer.
        life: Life,
        /// The source.
        source: SourceId,
    },
    /// Let a source go on.
    RestoreSource {
        /// Goes into the answer.
        life: Life,
        /// The source.
        source: SourceId,
        /// What it had before.
        history: SourceHistory,
    },
    /// Ask the outputs whether everything is there.
    CheckOutputs {
        /// Goes into the answer.
        life: Life,
        /// The query.
        query: QueryId,
        /// This driver's epoch of it.
        epoch: Epoch,
        /// The next batch to run.
        next: BatchId,
        /// Where it was begun before: the build that began it, and how many splits each source gave it.
        interrupted: Option<(String, Vec<usize>)>,
        /// The outputs' stable ids, in order.
        outputs: Vec<String>,
    },
    /// The query is claimed and checked: executors may be told of it.
    Ready {
        /// The query.
        query: QueryId,
        /// This driver's epoch of it.
        epoch: Epoch,
        /// The next batch to run.
        next: BatchId,
    },
    /// Ask a source what is new.
    Plan {
        /// Goes into the answer.
        life: Life,
        /// The source.
        source: SourceId,
        /// The question.
        request: PlanRequest,
        /// Ask for everything taken too.
        want_seen: bool,
    },
    /// Run a batch.
    Run {
        /// The batch.
        batch: BatchRef,
        /// Splits, by source.
        splits: Vec<Vec<Split>>,
        /// What state partitions go on from.
        state: Arc<StateFiles>,
        /// Event-time watermarks.
        watermarks: Watermarks,
        /// It may have run before.
        rerun: bool,
        /// Of a re-run: where tables spilled when the batch was logged, bytes.
        spill_threshold: Option<u64>,
    },
    /// Hand an output what its tasks left.
    Complete {
        /// Goes into the answer.
        life: Life,
        /// The batch.
        batch: BatchRef,
        /// The output.
        output: OutputIndex,
        /// In partition order.
        results: Vec<PartitionResult>,
    },
    /// Tell the scheduler that an output's driver half is done.
    OutputDone {
        /// The batch.
        batch: BatchId,
        /// The output.
        output: OutputIndex,
    },
    /// Tell the scheduler that an output's driver half missed a block.
    OutputFetchFailed {
        /// The batch.
        batch: BatchId,
        /// The output.
        output: OutputIndex,
        /// Whose block.
        task: TaskId,
        /// Who should have had it.
        executor: ExecutorId,
        /// What became of the fetch.
        failure: Box<Failure>,
    },
    /// Stop the batch's tasks.
    Abort {
        /// The batch.
        batch: BatchId,
    },
    /// The batch's blocks are no longer needed.
    Release {
        /// The batch.
        batch: BatchId,
    },
    /// Make a committed batch seen: each output that publishes, in order, with its winners.
    Publish {
        /// Goes into the answer.
        life: Life,
        /// The batch.
        batch: BatchRef,
        /// By output.
        winners: Vec<Vec<SinkCommit>>,
    },
    /// Tell the sources of a committed batch.
    TellCommitted {
        /// The batch.
        batch: BatchId,
        /// By source.
        inputs: Vec<PlannedInput>,
    },
    /// Let the outputs that publish remove what a committed batch's other attempts left.
    Sweep {
        /// The batch.
        batch: BatchRef,
    },
    /// Delete state files that no retained commit lists, of batches up to this one and of epochs up to ours. Best effort, again with the next purge.
    SweepState {
        /// What retained commits list.
        reached: BTreeSet<String>,
        /// The newest committed batch.
        through: BatchId,
        /// Our epoch.
        epoch: Epoch,
    },
    /// Send [`Event::Timer`] at this time; replaces an earlier wish.
    WakeAt(Tick),
    /// A batch is committed and published.
    Progress(Box<BatchProgress>),
    /// What the query does has changed.
    Status(QueryStatus),
    /// Something worth a line in the log.
    Noted(Note),
    /// The query is over; nothing follows.
    End(Result<Stopped, QueryError>),
}

/// Something worth a line in the log.
#[derive(Clone, Debug, PartialEq)]
pub enum Note {
    /// The checkpoint was claimed.
    Claimed {
        /// The epoch.
        epoch: Epoch,
        /// The first start of the query.
        first: bool,
    },
    /// A batch that was logged before runs again.
    Rerun {
        /// The batch.
        batch: BatchId,
    },
    /// An older driver's entry was there first: what was in flight is dropped, and the logs are read again.
    FoundOlder {
        /// The entry.
        name: String,
        /// Its epoch.
        epoch: Epoch,
    },
    /// Entries before the newest run are removed.
    Strays {
        /// Their names.
        names: Vec<String>,
    },
    /// Entries could not be deleted; tried again later.
    NotDeleted {
        /// Why.
        failure: StoreFailure,
    },
    /// A check for a higher epoch didn't work; tried again.
    NotChecked {
        /// Why.
        failure: StoreFailure,
    },
    /// A source can't plan; it is asked again. Said once an episode.
    SourceWaits {
        /// The source's stable id.
        source: String,
        /// Why.
        failure: Box<Failure>,
    },
    /// The episode is over.
    SourceBack {
        /// The source's stable id.
        source: String,
        /// How often it was asked in vain.
        attempts: u32,
    },
    /// As many batches are queued as may be: planning waits.
    QueueFull {
        /// How many.
        queued: usize,
    },
    /// The wall clock is behind the newest batch time in the checkpoint: the next batch waits for it.
    ClockBehind {
        /// The newest batch time.
        newest: BatchTime,
        /// The wall clock.
        wall_millis: i64,
    },
    /// Tasks wait and there is no executor. Said again now and then.
    NoExecutor {
        /// The batch.
        batch: BatchId,
    },
}
