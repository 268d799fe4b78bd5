//! A task to run operators in.

use std::time::Duration;

use millstream_common::{
    ids::{BatchId, Epoch, ExecutorId, QueryId, StageId, TaskId},
    protocol::{BlockLocation, BlockMeta, TaskCounts, TaskInput},
    time::BatchTime,
};

use crate::{
    memory::MemoryServices,
    program::{CancelToken, TaskContext},
    rows::{BoxRows, for_each_chunk},
    task::Task,
};

pub(crate) fn context(
    services: &MemoryServices,
    partition: u32,
    input: TaskInput,
) -> TaskContext<'_> {
    TaskContext {
        id: TaskId {
            query: QueryId(Default::default()),
            epoch: Epoch(1),
            batch: BatchId(0),
            stage: StageId(0),
            partition,
            attempt: 0,
        },
        batch_time: BatchTime(0),
        branch: 0,
        input,
        state: Vec::new(),
        watermarks: Default::default(),
        rerun: false,
        cancel: CancelToken::new(),
        input_deadline: Duration::from_secs(1),
        counts: TaskCounts::default(),
        services,
    }
}

pub(crate) fn task(services: &MemoryServices, partition: u32) -> Task<'_> {
    Task::new(&mut context(
        services,
        partition,
        TaskInput::Blocks(Vec::new()),
    ))
}

/// A task that reads these blocks.
pub(crate) fn reading(services: &MemoryServices, blocks: Vec<BlockLocation>) -> Task<'_> {
    Task::new(&mut context(services, 0, TaskInput::Blocks(vec![blocks])))
}

/// Where `partition` of what the task of `map` wrote is.
pub(crate) fn location(map: &Task<'_>, partition: u32, meta: BlockMeta) -> BlockLocation {
    BlockLocation {
        task: map.id(),
        exchange: 0,
        partition,
        executor: ExecutorId(Default::default()),
        address: "here".to_owned(),
        meta,
    }
}

pub(crate) fn all<T>(mut rows: BoxRows<'_, T>, task: &Task<'_>) -> Vec<T> {
    let mut all = Vec::new();
    for_each_chunk(&mut *rows, task, |chunk| {
        all.append(chunk);
        Ok(())
    })
    .unwrap();
    all
}
