//! What every source and sink must pass, whatever it connects to. A connector's tests implement [`SourceUnderTest`] or [`SinkUnderTest`] and call
//! [`check_source`] or [`check_sink`].
//!
//! Layout:
//! - `sinks`: what is asked of sinks
//! - `sources`: what is asked of sources

mod sinks;
mod sources;

use std::{path::PathBuf, time::Duration};

use bytes::Bytes;
use millstream_common::{
    failure::{Failure, FailureKind},
    ids::{BatchId, BlockId, Epoch, QueryId, StageId, TaskId},
    protocol::{BlockLocation, TaskCounts, TaskInput},
    time::BatchTime,
};
use millstream_dataflow::program::{
    BlockFrames, CancelToken, IoWork, StopIo, TaskContext, TaskServices,
};
use thiserror::Error;

pub use sinks::{SinkUnderTest, check_sink};
pub use sources::{SourceUnderTest, check_source, read_split};

/// What a connector did wrong.
#[derive(Debug, Error)]
pub enum Violation {
    /// A call failed that should not.
    #[error("{step}: {failure}")]
    Failed {
        /// What was tried.
        step: &'static str,
        /// How it failed.
        failure: Failure,
    },
    /// It did something else than it must.
    #[error("{rule}: {found}")]
    Broken {
        /// What must hold.
        rule: &'static str,
        /// What was there.
        found: String,
    },
}

fn during<T>(step: &'static str, result: Result<T, Failure>) -> Result<T, Violation> {
    result.map_err(|failure| Violation::Failed { step, failure })
}

fn must(holds: bool, rule: &'static str, found: impl FnOnce() -> String) -> Result<(), Violation> {
    if holds {
        return Ok(());
    }
    Err(Violation::Broken {
        rule,
        found: found(),
    })
}

/// Services of a task that only reads a split or writes to a sink: no blocks, no spilling. IO runs on the tokio runtime of the caller, which must
/// have a thread to spare.
#[derive(Debug, Default)]
pub struct NoServices;

fn refused() -> Failure {
    Failure::new(
        FailureKind::Internal,
        "a connector has no use for blocks and spill files",
    )
}

struct NoFrames;

impl BlockFrames for NoFrames {
    fn next(&mut self) -> Result<Option<(usize, Bytes)>, Failure> {
        Err(refused())
    }
}

impl TaskServices for NoServices {
    fn append_block(&self, _: BlockId, _: Bytes) -> Result<(), Failure> {
        Err(refused())
    }

    fn fetch_blocks(&self, _: Vec<BlockLocation>, _: CancelToken) -> Box<dyn BlockFrames> {
        Box::new(NoFrames)
    }

    fn spill_folder(&self, _: TaskId) -> Result<PathBuf, Failure> {
        Err(refused())
    }

    fn spill_threshold(&self) -> u64 {
        u64::MAX
    }

    fn compress_blocks(&self) -> bool {
        false
    }

    fn spawn_io(&self, work: IoWork) -> Result<StopIo, Failure> {
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| refused())?;
        let running = runtime.spawn(work);
        Ok(Box::new(move || running.abort()))
    }
}

/// Which attempt a test runs.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    /// The query.
    pub query: QueryId,
    /// The driver's epoch.
    pub epoch: Epoch,
    /// The batch.
    pub batch: BatchId,
    /// Partition.
    pub partition: u32,
    /// Try.
    pub attempt: u32,
}

impl Attempt {
    /// The first attempt of a partition of a batch, in epoch 1. Batch times are 1,000 ms apart, from 1,000.
    pub fn first(query: QueryId, batch: u64, partition: u32) -> Self {
        Self {
            query,
            epoch: Epoch(1),
            batch: BatchId(batch),
            partition,
            attempt: 0,
        }
    }

    /// The batch's time.
    pub fn batch_time(&self) -> BatchTime {
        batch_time(self.batch)
    }

    /// The running task.
    pub fn task<'a>(&self, services: &'a NoServices) -> TaskContext<'a> {
        TaskContext {
            id: TaskId {
                query: self.query,
                epoch: self.epoch,
                batch: self.batch,
                stage: StageId(0),
                partition: self.partition,
                attempt: self.attempt,
            },
            batch_time: self.batch_time(),
            branch: 0,
            input: TaskInput::Blocks(Vec::new()),
            state: Vec::new(),
            watermarks: Default::default(),
            rerun: false,
            cancel: CancelToken::new(),
            input_deadline: Duration::from_secs(30),
            counts: TaskCounts::default(),
            services,
        }
    }
}

fn batch_time(batch: BatchId) -> BatchTime {
    let millis = batch.0.saturating_add(1).saturating_mul(1_000);
    BatchTime(i64::try_from(millis).unwrap_or(i64::MAX))
}
