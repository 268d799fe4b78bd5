//! What is told of batches: to the log, the API and the user.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use millstream_common::{
    ids::{BatchId, Epoch, QueryId},
    protocol::{TaskCounts, Watermarks},
    time::BatchTime,
};
use serde_json::Value;

use crate::scheduler::message::BatchSummary;

/// How many finished batches are kept for the API.
pub const RECENT_BATCHES: usize = 1_000;

/// A batch that was committed and published.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchProgress {
    /// The query.
    pub query: QueryId,
    /// The driver's epoch.
    pub epoch: Epoch,
    /// The batch.
    pub batch: BatchId,
    /// Its time.
    pub batch_time: BatchTime,
    /// It ran again after a restart.
    pub rerun: bool,
    /// From its batch time to its start, milliseconds.
    pub scheduling_delay_millis: f64,
    /// From its start to its being committed and published, milliseconds.
    pub processing_millis: f64,
    /// Batches that wait behind it.
    pub queued: usize,
    /// How long its parts took.
    pub parts: PartTimes,
    /// The event-time watermarks it ran with.
    pub watermarks: Watermarks,
    /// What each source gave.
    pub sources: Vec<SourceProgress>,
    /// What its stages came to.
    pub summary: BatchSummary,
    /// State after it, by operator.
    pub state: Vec<StateProgress>,
}

impl BatchProgress {
    /// Rows read.
    pub fn input_rows(&self) -> u64 {
        self.summary.counts.input_rows
    }

    /// From the batch time to the end, milliseconds.
    pub fn total_delay_millis(&self) -> f64 {
        self.scheduling_delay_millis + self.processing_millis
    }
}

/// How long the parts of a batch took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartTimes {
    /// Asking the sources what is new.
    pub planning: Duration,
    /// Writing its entry of the offset log.
    pub logging: Duration,
    /// Its tasks and its outputs.
    pub running: Duration,
    /// Writing its commit, and making what it wrote seen.
    pub committing: Duration,
}

/// An operator's state after a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateProgress {
    /// The operator's stable id.
    pub operator: String,
    /// Rows.
    pub rows: u64,
    /// Bytes of the files that it consists of.
    pub bytes: u64,
    /// Partitions that have any.
    pub partitions: u32,
    /// What the tasks of its stage came to in the batch.
    pub counts: TaskCounts,
}

/// What a source gave a batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SourceProgress {
    /// The source's stable id.
    pub id: String,
    /// Splits.
    pub splits: usize,
    /// The source's position before the batch; null where it has none.
    pub before: Value,
    /// The source's position after the batch, in its own terms. That of a source which has none is the newest batch that took something of it.
    pub position: Value,
    /// The newest position that the source saw when the batch was planned; null where it doesn't know.
    pub latest: Value,
    /// Rows, where the source could tell beforehand.
    pub rows: Option<u64>,
    /// Rows read.
    pub read: u64,
    /// How far the source was behind when the batch was planned, by partition label.
    pub lag: Vec<(String, u64)>,
}

/// What a query does now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueryStatus {
    /// The batch that was started and isn't committed and published yet.
    pub running: Option<(BatchId, BatchTime)>,
    /// Batches that wait behind it.
    pub queued: usize,
    /// Tasks wait and there is no executor.
    pub waits_for_executor: bool,
    /// The source that can't plan, by its stable id.
    pub waits_for_source: Option<String>,
    /// How often the sources were asked while nothing ran, back to back, and had nothing new.
    pub empty_looks: u64,
}

/// The newest batches, oldest first.
#[derive(Clone, Debug, Default)]
pub struct RecentBatches {
    batches: VecDeque<Arc<BatchProgress>>,
}

impl RecentBatches {
    /// Adds a batch; the oldest goes when there are more than [`RECENT_BATCHES`].
    pub fn push(&mut self, batch: Arc<BatchProgress>) {
        if self.batches.len() == RECENT_BATCHES {
            self.batches.pop_front();
        }
        self.batches.push_back(batch);
    }

    /// All of them, oldest first.
    pub fn all(&self) -> Vec<Arc<BatchProgress>> {
        self.batches.iter().map(Arc::clone).collect()
    }
}
