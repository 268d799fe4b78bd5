//! The contract of sources. The driver half is async and runs on the driver alone; the executor half is synchronous and runs on a slot thread.

use async_trait::async_trait;
use millstream_common::{failure::Failure, ids::BatchId, time::BatchTime};
use millstream_dataflow::program::TaskContext;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A piece of a source's input for one batch; one task reads it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Split {
    /// What the executor half needs to read exactly this, again and again. Goes into the offset log.
    pub split: Value,
    /// Tasks with the same key prefer the same executor over batches (`topic/partition`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locality: Option<String>,
    /// Rows, where the source knows (Kafka: the length of the offset range).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
}

/// What a source planned for a batch; goes into `offsets/<batch>`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PlannedInput {
    /// New splits; none for a batch without input.
    pub splits: Vec<Split>,
    /// The source's position after this batch: enough, with the start and the newest `seen`, to plan the next one.
    pub position: Value,
}

/// What a source is asked to plan.
#[derive(Clone, Copy, Debug)]
pub struct PlanRequest {
    /// The batch.
    pub batch: BatchId,
    /// Its time.
    pub batch_time: BatchTime,
    /// At most this many rows (the rate controller's cap), where the source can count them.
    pub max_rows: Option<u64>,
    /// The batch interval in milliseconds, for limits given per second.
    pub interval_millis: u64,
}

/// What a source had before, at a restart.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceHistory {
    /// What [`SourceDriver::start`] gave at the first start.
    pub start: Value,
    /// The newest [`SourceDriver::seen`] with its batch.
    pub seen: Option<(BatchId, Value)>,
    /// The inputs logged after `seen` (after the start, where there is none), oldest first. At least the newest logged input is here where there is one.
    pub logged: Vec<(BatchId, PlannedInput)>,
}

/// The driver half of a source.
#[async_trait]
pub trait SourceDriver: Send {
    /// First start of a query: finds where to begin. The value is logged before the first batch, and given back in [`SourceHistory`].
    ///
    /// # Errors
    /// What is wrong with the source (no broker, no topic, no folder) and the way out.
    async fn start(&mut self) -> Result<Value, Failure>;

    /// Goes on from the log. Called on a source that has planned already when the driver must read the logs again: it goes back to what they say.
    ///
    /// # Errors
    /// When what was logged can't be gone on with.
    async fn restore(&mut self, history: SourceHistory) -> Result<(), Failure>;

    /// Names what is new since the last plan. Waits no longer than a bound of its own.
    ///
    /// # Errors
    /// With `retry` `Backoff` the driver logs it and asks again (broker away); with `Never` the query stops (data loss under `fail`).
    async fn plan(&mut self, request: PlanRequest) -> Result<PlannedInput, Failure>;

    /// The batch was committed; told again after a restart, so it must be idempotent. Kafka commits group offsets here.
    ///
    /// # Errors
    /// Logged, never fatal.
    async fn committed(&mut self, batch: BatchId, input: &PlannedInput) -> Result<(), Failure>;

    /// Everything taken so far, compacted, for a source whose position is more than its newest entry (files seen). Asked right after a
    /// [`plan`](Self::plan), so it covers that batch and none after it; once the batch is committed the driver puts it under `sources/<i>/seen/<batch>`, before it
    /// purges offsets entries.
    fn seen(&self) -> Option<Value> {
        None
    }

    /// The newest position that the last [`plan`](Self::plan) saw, in the terms of [`PlannedInput::position`], for a source that knows it; for progress.
    fn latest(&self) -> Option<Value> {
        None
    }

    /// How far the committed position is behind what there is, per partition label; for metrics.
    fn lag(&self) -> Vec<(String, u64)> {
        Vec::new()
    }

    /// The query stops.
    async fn stop(&mut self) {}
}

/// Whether a reader has more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum More {
    /// Call again.
    Yes,
    /// The split is at its end; rows may have been given with this call too.
    No,
}

/// Reads one split.
pub trait SplitReader<Chunk>: Send {
    /// Fills the empty `chunk` with the next rows, about a thousand; it may stay empty.
    ///
    /// # Errors
    /// Names the split and what is wrong with it.
    fn next(&mut self, chunk: &mut Chunk, task: &mut TaskContext<'_>) -> Result<More, Failure>;
}

/// The executor half of a source: one value an executor and query, shared by its slots; it may hold consumers across tasks.
pub trait SplitSource<Chunk>: Send + Sync {
    /// Opens a split for the task.
    ///
    /// # Errors
    /// When the split can't be read.
    fn open(
        &self,
        split: &Value,
        task: &TaskContext<'_>,
    ) -> Result<Box<dyn SplitReader<Chunk>>, Failure>;

    /// Lets go of what is held across tasks.
    fn close(&self) {}
}
