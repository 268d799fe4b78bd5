//! The contract of the driver half of outputs: printing, callbacks, sinks.

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use millstream_common::{
    failure::Failure,
    ids::{BatchId, Epoch, QueryId},
    protocol::{BlockLocation, SinkCommit},
    time::BatchTime,
};
use millstream_connectors::sink::{SinkBatch, SinkDriver, SinkStart};

/// The batch that an output is called for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchInfo {
    /// The query.
    pub query: QueryId,
    /// The driver's epoch of the query.
    pub epoch: Epoch,
    /// The batch.
    pub batch: BatchId,
    /// Its time.
    pub batch_time: BatchTime,
}

/// What one task of the output's stage left.
#[derive(Clone, Debug)]
pub struct PartitionResult {
    /// The task's partition; partitions whose task didn't run for want of input are absent.
    pub partition: u32,
    /// What it returned.
    pub result: Option<Bytes>,
    /// Rows kept as blocks (exchange 0 of the stage), where it keeps any.
    pub kept: Option<BlockLocation>,
    /// What its sink writer returned.
    pub sink: Option<SinkCommit>,
}

/// Reads kept blocks on the driver, for outputs that compute there.
#[async_trait]
pub trait BlockReader: Send + Sync {
    /// All frames of the block that the stage's task for `partition` kept, in order.
    ///
    /// # Errors
    /// `FetchFailed` when its executor doesn't give it: [`OutputDriver::complete`] hands that on. `OutOfMemory` past `max_bytes`.
    async fn read(&self, partition: u32, max_bytes: u64) -> Result<Vec<Bytes>, Failure>;
}

/// The driver half of an output.
#[async_trait]
pub trait OutputDriver: Send + Sync {
    /// At start, before the first batch: is everything there? Folders that driver and executors must share are returned.
    ///
    /// # Errors
    /// What is missing and the way out.
    async fn check(&self, _start: &SinkStart) -> Result<Vec<PathBuf>, Failure> {
        Ok(Vec::new())
    }

    /// The output's stage is done: results in partition order (print, callback). Runs before the batch is committed, on
    /// the IO threads: what blocks needs a thread of its own (`spawn_blocking`).
    ///
    /// # Errors
    /// `FetchFailed` of a kept block: the tasks that are lost with it run again, then this is called again. Anything else ends the batch and the query.
    async fn complete(
        &self,
        _batch: BatchInfo,
        _results: &[PartitionResult],
        _blocks: Arc<dyn BlockReader>,
    ) -> Result<(), Failure> {
        Ok(())
    }

    /// The batch is committed with these winners: make them seen. Called again after a restart for the newest commit; idempotent.
    ///
    /// # Errors
    /// Stops the query; the next start tries again.
    async fn publish(&self, _batch: BatchInfo, _winners: &[SinkCommit]) -> Result<(), Failure> {
        Ok(())
    }

    /// Whether [`publish`](Self::publish) and [`sweep`](Self::sweep) have anything to do. Where no output's have, a committed batch is over at once; an output
    /// that overrides either must say so here.
    fn publishes(&self) -> bool {
        false
    }

    /// After a publish: nothing that other attempts left behind is needed. Best effort.
    async fn sweep(&self, _batch: BatchInfo) {}
}

/// An output that is a sink.
pub struct SinkOutput(pub Arc<dyn SinkDriver>);

impl From<BatchInfo> for SinkBatch {
    fn from(info: BatchInfo) -> Self {
        Self {
            query: info.query,
            epoch: info.epoch,
            batch: info.batch,
            batch_time: info.batch_time,
        }
    }
}

#[async_trait]
impl OutputDriver for SinkOutput {
    async fn check(&self, start: &SinkStart) -> Result<Vec<PathBuf>, Failure> {
        self.0.check(start).await
    }

    async fn publish(&self, batch: BatchInfo, winners: &[SinkCommit]) -> Result<(), Failure> {
        self.0.publish(batch.into(), winners).await
    }

    fn publishes(&self) -> bool {
        self.0.publishes()
    }

    async fn sweep(&self, batch: BatchInfo) {
        self.0.sweep(batch.into()).await;
    }
}
