//! What is asked of sinks.

use async_trait::async_trait;
use millstream_common::{
    ids::{BatchId, Epoch, QueryId},
    protocol::SinkCommit,
};

use super::{Attempt, NoServices, Violation, batch_time, during, must};
use crate::sink::{Sink, SinkBatch, SinkDriver, SinkStart, WriteId};

/// A sink in a test: each call of `driver` or `executor` is a new process. Its output id is [`OUTPUT`](Self::OUTPUT).
#[async_trait]
pub trait SinkUnderTest: Send + Sync {
    /// What its writer takes.
    type Chunk;

    /// The output's stable id.
    const OUTPUT: &'static str;

    /// A fresh driver half.
    fn driver(&self) -> Box<dyn SinkDriver>;

    /// A fresh executor half.
    fn executor(&self) -> Box<dyn Sink<Self::Chunk>>;

    /// A chunk of these rows.
    fn chunk(&self, rows: &[String]) -> Self::Chunk;

    /// All rows that a reader of finished output sees now.
    async fn visible(&self) -> Vec<String>;

    /// Publishes only the first `count` winners and leaves everything else undone, as a driver that dies in the middle. Whether the sink can
    /// be brought into that state.
    async fn publish_partly(&self, batch: SinkBatch, winners: &[SinkCommit], count: usize) -> bool {
        let _ = (batch, winners, count);
        false
    }
}

/// What one attempt is to do.
struct Trial<'a, S: SinkUnderTest> {
    sink: &'a S,
    executor: Box<dyn Sink<S::Chunk>>,
    query: QueryId,
}

impl<S: SinkUnderTest> Trial<'_, S> {
    fn rows(batch: u64, partition: u32) -> Vec<String> {
        (0..3)
            .map(|row| format!("batch {batch} partition {partition} row {row}"))
            .collect()
    }

    /// Writes the rows of the attempt's batch and partition, in two chunks. Without `finish` the attempt is dropped.
    fn write(&self, attempt: Attempt, finish: bool) -> Result<Option<SinkCommit>, Violation> {
        let services = NoServices;
        let mut task = attempt.task(&services);
        let rows = Self::rows(attempt.batch.0, attempt.partition);
        let id = WriteId::of(&task, S::OUTPUT);
        let mut writer = during("opening a writer", self.executor.writer(id, &task))?;
        for part in rows.chunks(2) {
            let chunk = self.sink.chunk(part);
            during("writing", writer.write(chunk, &mut task))?;
        }
        if !finish {
            return Ok(None);
        }
        let commit = during("finishing", writer.finish(&mut task))?;
        must(
            commit.partition == attempt.partition && commit.rows == rows.len() as u64,
            "a commit tells its partition and rows",
            || format!("{commit:?}"),
        )?;
        Ok(Some(commit))
    }

    fn finished(&self, attempt: Attempt) -> Result<SinkCommit, Violation> {
        let commit = self.write(attempt, true)?;
        commit.ok_or(Violation::Broken {
            rule: "a finished write has a commit",
            found: "none".to_owned(),
        })
    }

    fn batch(&self, batch: u64, epoch: u64) -> SinkBatch {
        SinkBatch {
            query: self.query,
            epoch: Epoch(epoch),
            batch: BatchId(batch),
            batch_time: batch_time(BatchId(batch)),
        }
    }

    async fn expect_visible(
        &self,
        rule: &'static str,
        batches: std::ops::Range<u64>,
        partitions: u32,
    ) -> Result<(), Violation> {
        let mut expected = Vec::new();
        for batch in batches {
            for partition in 0..partitions {
                expected.append(&mut Self::rows(batch, partition));
            }
        }
        expected.sort();
        let mut visible = self.sink.visible().await;
        visible.sort();
        must(visible == expected, rule, || {
            format!("{visible:?} instead of {expected:?}")
        })
    }
}

/// Partitions of each batch.
const PARTITIONS: u32 = 3;

/// Runs a sink over some batches with attempts and drivers that die, and checks that each row is seen once, and only those of winners.
///
/// # Errors
/// The first rule that doesn't hold.
pub async fn check_sink<S: SinkUnderTest>(sink: &S) -> Result<(), Violation> {
    let query = QueryId::random();
    let trial = Trial {
        sink,
        executor: sink.executor(),
        query,
    };
    let driver = sink.driver();
    let start = |next| SinkStart {
        query,
        output: "out".to_owned(),
        next: BatchId(next),
        interrupted: None,
    };
    during("check", driver.check(&start(0)).await)?;

    // Batch 0: dropped attempts, two finished ones, publishing twice.
    let mut winners = Vec::new();
    for partition in 0..PARTITIONS {
        let mut attempt = Attempt::first(query, 0, partition);
        trial.write(attempt, false)?;
        attempt.attempt = 1;
        let earlier = trial.finished(attempt)?;
        attempt.attempt = 2;
        let winner = trial.finished(attempt)?;
        must(
            earlier.checksum == winner.checksum,
            "the same rows have the same checksum",
            || format!("{} and {}", earlier.checksum, winner.checksum),
        )?;
        winners.push(winner);
    }
    let batch = trial.batch(0, 1);
    during("publish", driver.publish(batch, &winners).await)?;
    trial
        .expect_visible("one attempt of each partition is seen", 0..1, PARTITIONS)
        .await?;
    during("publish again", driver.publish(batch, &winners).await)?;
    driver.sweep(batch).await;
    driver.sweep(batch).await;
    let successor = sink.driver();
    during("check after a restart", successor.check(&start(1)).await)?;
    let batch = trial.batch(0, 2);
    let told = successor.publish(batch, &winners).await;
    during("publish after sweep and restart", told)?;
    trial
        .expect_visible("publishing is idempotent", 0..1, PARTITIONS)
        .await?;

    // Batch 1: the driver dies while it publishes.
    let mut winners = Vec::new();
    for partition in 0..PARTITIONS {
        winners.push(trial.finished(Attempt::first(query, 1, partition))?);
    }
    sink.publish_partly(trial.batch(1, 2), &winners, 1).await;
    let successor = sink.driver();
    during("check after a death", successor.check(&start(2)).await)?;
    let batch = trial.batch(1, 3);
    during("publish the rest", successor.publish(batch, &winners).await)?;
    successor.sweep(batch).await;
    trial
        .expect_visible(
            "publishing is completed by the next driver",
            0..2,
            PARTITIONS,
        )
        .await?;

    // A late attempt of batch 1, whose driver is long gone. Whether it is refused or not, nothing may be seen of it.
    let mut late = Attempt::first(query, 1, 0);
    late.attempt = 7;
    let _ = trial.write(late, true);
    successor.sweep(batch).await;
    trial
        .expect_visible("a late attempt changes nothing", 0..2, PARTITIONS)
        .await?;

    // Batch 2: an older driver sweeps while a newer one's attempts are staged.
    let mut winners = Vec::new();
    for partition in 0..PARTITIONS {
        let mut attempt = Attempt::first(query, 2, partition);
        attempt.epoch = Epoch(4);
        winners.push(trial.finished(attempt)?);
    }
    driver.sweep(trial.batch(2, 3)).await;
    let batch = trial.batch(2, 4);
    let published = successor.publish(batch, &winners).await;
    during("publish after an older driver's sweep", published)?;
    trial
        .expect_visible("a sweep leaves what is of a higher epoch", 0..3, PARTITIONS)
        .await?;

    // Batch 3 has no rows at all.
    let empty = successor.publish(trial.batch(3, 4), &[]).await;
    during("publish of an empty batch", empty)?;
    trial
        .expect_visible("an empty batch adds no row", 0..3, PARTITIONS)
        .await?;
    trial.executor.close();
    Ok(())
}
