//! The interface between a stage's code and the executor that runs it.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use crossbeam_channel::RecvTimeoutError;
use millstream_common::{
    failure::{Failure, FailureKind},
    ids::{BlockId, StageId, TaskId},
    protocol::{
        BlockLocation, BlockMeta, QueryProgram, StateFile, TaskCounts, TaskInput, TaskOutput,
        Watermarks,
    },
    time::BatchTime,
};

use crate::{plan::Plan, state::StateServices};

/// A stage's code. One value serves every task of the stage on an executor, from many slots at once.
pub trait StageProgram: Send + Sync {
    /// Runs one task on the calling slot thread. Waits for IO only through `task`.
    ///
    /// # Errors
    /// The failure that ends the attempt, with its operator named where one is to blame.
    fn run(&self, task: &mut TaskContext<'_>) -> Result<TaskOutput, Failure>;
}

/// An application's or a query's code on an executor.
pub trait Programs: Send + Sync {
    /// The graph, for the session fingerprint.
    fn plan(&self) -> &Plan;
    /// The code of a stage.
    fn program(&self, stage: StageId) -> Option<Arc<dyn StageProgram>>;
    /// What driver and executors must agree on.
    fn session_fingerprint(&self, build_id: &str) -> String {
        self.plan().session_fingerprint(build_id)
    }
    /// The code of a query that the driver began later, from the program that it sends.
    ///
    /// # Errors
    /// When the application has no such queries, or the program can't be read.
    fn of_query(&self, program: &QueryProgram) -> Result<Arc<dyn Programs>, Failure> {
        Err(Failure::new(
            FailureKind::Internal,
            format!(
                "this application takes no queries at run time, but was sent query {}",
                program.query
            ),
        ))
    }
    /// The executor registers: whether it has what connectors need of it. May block the thread, which is within a tokio runtime.
    ///
    /// # Errors
    /// What is missing and the way out.
    fn check(&self) -> Result<(), Failure> {
        Ok(())
    }
    /// The executor closes: connectors let go of what they hold across tasks (consumers, producers, threads).
    fn close(&self) {}
}

/// What the executor provides to a running task.
pub trait TaskServices: Send + Sync {
    /// Appends one frame to a block of the running task. Counts against the executor's memory budget and may go to disk.
    ///
    /// # Errors
    /// `Io` when the disk refuses, `OutOfMemory` when the budget does.
    fn append_block(&self, block: BlockId, frame: Bytes) -> Result<(), Failure>;

    /// Reads blocks in the order given, prefetching within a bound; frames of one block come in the order they were appended.
    fn fetch_blocks(
        &self,
        locations: Vec<BlockLocation>,
        cancel: CancelToken,
    ) -> Box<dyn BlockFrames>;

    /// A folder for the task's own spill files; made on first use, deleted with the task.
    ///
    /// # Errors
    /// `Io` when it can't be made.
    fn spill_folder(&self, task: TaskId) -> Result<std::path::PathBuf, Failure>;

    /// Where a task's own tables spill: a sum of encoded row sizes in bytes, the same on every executor of a query.
    fn spill_threshold(&self) -> u64;

    /// Counts `bytes` more for the tables of the running task against the executor's memory budget; waits while other tasks hold what it would need. It
    /// may delay a task or end it, and never says where a table spills. By default nothing is counted.
    ///
    /// # Errors
    /// `OutOfMemory` when the task alone would hold more than the budget; `Cancelled`.
    fn take_memory(&self, task: TaskId, bytes: u64, cancel: &CancelToken) -> Result<(), Failure> {
        let _ = (task, bytes, cancel);
        Ok(())
    }

    /// The running task's tables let go of `bytes` that were taken.
    fn give_back_memory(&self, task: TaskId, bytes: u64) {
        let _ = (task, bytes);
    }

    /// Whether blocks are LZ4 compressed when that pays.
    fn compress_blocks(&self) -> bool;

    /// Starts work on the executor's IO runtime, and gives what stops it. See [`TaskContext::wait_for_io`].
    ///
    /// # Errors
    /// When there is no such runtime.
    fn spawn_io(&self, work: IoWork) -> Result<StopIo, Failure> {
        drop(work);
        Err(Failure::new(
            FailureKind::Internal,
            "this task has no IO runtime",
        ))
    }

    /// Where state is kept; none where tasks keep none.
    fn state(&self) -> Option<&dyn StateServices> {
        None
    }
}

/// Work for the IO runtime.
pub type IoWork = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Stops work on the IO runtime.
pub type StopIo = Box<dyn FnOnce() + Send>;

/// How often a task that waits for IO looks whether it was cancelled.
const LOOK_FOR_CANCEL: Duration = Duration::from_millis(20);

/// Frames of fetched blocks, in order. Waiting is bounded by the fetch timeout and ended by cancellation.
pub trait BlockFrames: Send {
    /// The next frame with the index of its block in the list asked for; `None` after the last.
    ///
    /// # Errors
    /// `FetchFailed` with the block's id and its executor; `Cancelled`.
    fn next(&mut self) -> Result<Option<(usize, Bytes)>, Failure>;
}

/// Tells a task that it should stop.
#[derive(Clone, Debug, Default)]
pub struct CancelToken(Arc<AtomicBool>);

impl CancelToken {
    /// A token that isn't cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancels; can't be undone.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether it was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// For loops: an error once cancelled.
    ///
    /// # Errors
    /// `Cancelled`.
    pub fn check(&self) -> Result<(), Failure> {
        if self.is_cancelled() {
            return Err(Failure::new(
                FailureKind::Cancelled,
                "the task was cancelled",
            ));
        }
        Ok(())
    }
}

/// A running task, as its program sees it.
pub struct TaskContext<'a> {
    /// The attempt.
    pub id: TaskId,
    /// The batch's time.
    pub batch_time: BatchTime,
    /// The stage's branch that this task belongs to.
    pub branch: u32,
    /// What it reads.
    pub input: TaskInput,
    /// The state that it goes on from, as the newest commit lists it.
    pub state: Vec<StateFile>,
    /// The batch's event-time watermarks.
    pub watermarks: Watermarks,
    /// The batch is a re-run after a restart: sinks must look for markers first.
    pub rerun: bool,
    /// Set when the attempt should stop; programs look at it once a chunk.
    pub cancel: CancelToken,
    /// The longest that the task may wait for input that should already be there.
    pub input_deadline: Duration,
    /// Counts; copied into the task's output when it succeeds.
    pub counts: TaskCounts,
    /// The executor.
    pub services: &'a dyn TaskServices,
}

impl TaskContext<'_> {
    /// Runs work on the executor's IO runtime, and waits for it on the slot's thread. The work has its own bound; a cancelled task stops it.
    ///
    /// # Errors
    /// `Cancelled`; `Internal` when the runtime is gone.
    pub fn wait_for_io<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Failure> {
        self.cancel.check()?;
        let (sender, receiver) = crossbeam_channel::bounded(1);
        let stop = self.services.spawn_io(Box::pin(async move {
            // Nobody waits any more for a task that was cancelled.
            let _ = sender.send(work.await);
        }))?;
        loop {
            match receiver.recv_timeout(LOOK_FOR_CANCEL) {
                Ok(value) => return Ok(value),
                Err(RecvTimeoutError::Timeout) => {
                    if let Err(cancelled) = self.cancel.check() {
                        stop();
                        return Err(cancelled);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Failure::new(
                        FailureKind::Internal,
                        "the executor's IO ended while a task waited for it",
                    ));
                }
            }
        }
    }
}

/// Sizes of what a task wrote into one exchange: one entry a partition.
pub type ExchangeMeta = Vec<BlockMeta>;
