//! The contract of sinks. A write is identified by (query, output id, sink partition, batch); an attempt writes so that only one attempt's rows
//! are ever seen, and the driver half publishes the winners of a committed batch.

use async_trait::async_trait;
use millstream_common::{
    failure::Failure,
    ids::{BatchId, Epoch, QueryId},
    protocol::SinkCommit,
    time::BatchTime,
};
use millstream_dataflow::program::TaskContext;
use serde::{Deserialize, Serialize};

/// Identifies a write of one attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteId {
    /// The query.
    pub query: QueryId,
    /// The output's stable id.
    pub output: String,
    /// The sink partition: the task's partition in its stage.
    pub partition: u32,
    /// The batch.
    pub batch: BatchId,
    /// The driver's epoch.
    pub epoch: Epoch,
    /// The attempt.
    pub attempt: u32,
}

impl WriteId {
    /// The write of this task to this output.
    pub fn of(task: &TaskContext<'_>, output: &str) -> Self {
        Self {
            query: task.id.query,
            output: output.to_owned(),
            partition: task.id.partition,
            batch: task.id.batch,
            epoch: task.id.epoch,
            attempt: task.id.attempt,
        }
    }
}

/// The executor half of a sink: one value an executor and query, shared by its slots; it may hold producers across tasks.
pub trait Sink<Chunk>: Send + Sync {
    /// Begins an attempt's write.
    ///
    /// # Errors
    /// When the sink can't be reached or refuses.
    fn writer(
        &self,
        id: WriteId,
        task: &TaskContext<'_>,
    ) -> Result<Box<dyn SinkWriter<Chunk>>, Failure>;

    /// When an executor registers: whether this process has what every write needs and only it can know. May block the thread, which is within a
    /// tokio runtime.
    ///
    /// # Errors
    /// What is missing and the way out. The executor ends with it.
    fn check(&self) -> Result<(), Failure> {
        Ok(())
    }

    /// Lets go of what is held across tasks.
    fn close(&self) {}
}

impl<Chunk> Sink<Chunk> for Box<dyn Sink<Chunk>> {
    fn writer(
        &self,
        id: WriteId,
        task: &TaskContext<'_>,
    ) -> Result<Box<dyn SinkWriter<Chunk>>, Failure> {
        (**self).writer(id, task)
    }

    fn check(&self) -> Result<(), Failure> {
        (**self).check()
    }

    fn close(&self) {
        (**self).close();
    }
}

/// One attempt's write. Dropped without [`finish`](Self::finish), it must leave nothing that a reader sees.
pub trait SinkWriter<Chunk>: Send {
    /// Writes rows.
    ///
    /// # Errors
    /// `Superseded` when a newer attempt fenced this one.
    fn write(&mut self, chunk: Chunk, task: &mut TaskContext<'_>) -> Result<(), Failure>;

    /// Makes the write durable (transaction committed, files staged) and says what the driver needs to publish it.
    ///
    /// # Errors
    /// `Superseded`, or `Nondeterministic` when a marker with another checksum was met.
    fn finish(self: Box<Self>, task: &mut TaskContext<'_>) -> Result<SinkCommit, Failure>;
}

/// A batch, for a sink's driver half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SinkBatch {
    /// The query.
    pub query: QueryId,
    /// The driver's epoch of the query.
    pub epoch: Epoch,
    /// The batch.
    pub batch: BatchId,
    /// Its time.
    pub batch_time: BatchTime,
}

/// What a sink's driver half knows when its query starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkStart {
    /// The query.
    pub query: QueryId,
    /// The output's stable id.
    pub output: String,
    /// The next batch to run.
    pub next: BatchId,
    /// Where `next` was begun before and not committed.
    pub interrupted: Option<Interrupted>,
}

/// A batch that was begun and not committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interrupted {
    /// The build that began it.
    pub build: String,
    /// How many sink partitions the output has in it.
    pub partitions: u32,
}

/// The driver half of a sink.
#[async_trait]
pub trait SinkDriver: Send + Sync {
    /// At start, before the first batch: is everything there that writing needs, and did no other build write half of a batch that this one would finish?
    /// Folders that driver and executors must share are returned, to be proven at registration.
    ///
    /// # Errors
    /// What is missing and the way out.
    async fn check(&self, start: &SinkStart) -> Result<Vec<std::path::PathBuf>, Failure>;

    /// The batch is committed with these winners, in partition order: make them seen. Called again after a restart for the newest commit; idempotent.
    ///
    /// # Errors
    /// Stops the query; the next start tries again.
    async fn publish(&self, batch: SinkBatch, winners: &[SinkCommit]) -> Result<(), Failure>;

    /// Whether [`publish`](Self::publish) and [`sweep`](Self::sweep) have anything to do; false spares each batch a look at the checkpoint.
    fn publishes(&self) -> bool {
        true
    }

    /// After a publish: nothing that the batch's other attempts, or earlier ones', left behind is needed. Best effort.
    async fn sweep(&self, batch: SinkBatch);
}
