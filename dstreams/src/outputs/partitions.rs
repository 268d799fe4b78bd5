//! for_each_partition: a function that executors call with the rows of each partition.

use std::{marker::PhantomData, sync::Arc};

use async_trait::async_trait;
use millstream_common::{failure::Failure, ids::BatchId, protocol::TaskOutput, time::BatchTime};
use millstream_dataflow::{
    combine::Data,
    partitions::consume,
    rows::BoxRows,
    stage::Exit,
    task::{OperatorIndex, Task},
};
use millstream_driver::output::OutputDriver;
use serde_json::Value;

use crate::{
    error::{Outcome, user_failure},
    graph::{Node, Shape},
    outputs::Output,
    stream::DStream,
};

/// Which partition of which batch a function was called for. Batch and partition together are the same at every attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionInfo {
    /// The batch.
    pub batch: BatchId,
    /// Its time.
    pub batch_time: BatchTime,
    /// The partition.
    pub partition: u32,
    /// Which attempt of the task this is, from 0.
    pub attempt: u32,
}

impl<T: Data> DStream<T> {
    /// Calls `f` on executors with the rows of every partition of every batch. A task that fails is run again, so `f` may be called more than once
    /// for a partition: [`for_each_partition_of`](Self::for_each_partition_of) tells it which.
    pub fn for_each_partition<F, R>(&self, f: F) -> Output
    where
        F: Fn(&mut dyn Iterator<Item = T>) -> R + Send + Sync + 'static,
        R: Outcome + 'static,
    {
        self.for_each_partition_of(move |_, rows| f(rows))
    }

    /// As [`for_each_partition`](Self::for_each_partition); `f` is told which partition of which batch it is called for.
    pub fn for_each_partition_of<F, R>(&self, f: F) -> Output
    where
        F: Fn(PartitionInfo, &mut dyn Iterator<Item = T>) -> R + Send + Sync + 'static,
        R: Outcome + 'static,
    {
        let f = Arc::new(f);
        self.add_output(Node {
            kind: "for-each-partition".to_owned(),
            name: None,
            inputs: vec![self.node],
            shape: Shape::Output {
                settings: Value::Null,
                exchanges: Vec::new(),
                program: Box::new(move |with, open| {
                    let exit = CallWithRows {
                        f: f.clone(),
                        operator: with.node.operator(),
                        outcome: PhantomData,
                    };
                    Ok(with.program(with.typed::<T>(open)?, exit))
                }),
                driver: Box::new(|_, _| Arc::new(NothingToDo)),
                check: None,
                close: None,
                empty_to_empty: false,
                speculative: false,
            },
            keeping: None,
        })
    }
}

struct CallWithRows<F, R> {
    f: Arc<F>,
    operator: OperatorIndex,
    outcome: PhantomData<fn() -> R>,
}

impl<T, F, R> Exit<T> for CallWithRows<F, R>
where
    T: Data,
    F: Fn(PartitionInfo, &mut dyn Iterator<Item = T>) -> R + Send + Sync,
    R: Outcome,
{
    fn run(&self, rows: BoxRows<'_, T>, task: &Task<'_>) -> Result<TaskOutput, Failure> {
        let info = PartitionInfo {
            batch: task.id().batch,
            batch_time: task.batch_time(),
            partition: task.id().partition,
            attempt: task.id().attempt,
        };
        let outcome = consume(rows, self.operator, task, |rows| {
            let mut count = 0u64;
            let outcome = (self.f)(info, &mut rows.inspect(|_| count += 1));
            task.count(|counts| counts.output_rows += count);
            outcome
        })?;
        outcome.into_result().map_err(user_failure)?;
        Ok(TaskOutput::default())
    }
}

struct NothingToDo;

#[async_trait]
impl OutputDriver for NothingToDo {}
