//! What a task's operators hold in memory, counted against the executor's budget.
//!
//! The engine asks its pool from within a plan, where a task must not wait. So the pool says yes and counts, and the task settles with the budget each time it
//! has the plan back: there it may wait for other tasks, or end.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use arrow::{array::Array, record_batch::RecordBatch};
use datafusion::{
    execution::{
        TaskContext as EngineContext,
        memory_pool::{MemoryLimit, MemoryPool, MemoryReservation},
        runtime_env::RuntimeEnv,
    },
    prelude::SessionContext,
};
use millstream_common::{failure::Failure, ids::TaskId};
use millstream_dataflow::program::{CancelToken, TaskServices};

/// Less than this isn't worth asking for.
const GRAIN: u64 = 64 << 10;

/// Bytes of rows, about; without what else is in the buffers that they are slices of.
pub(crate) fn memory_of(rows: &RecordBatch) -> usize {
    let columns = rows.columns().iter();
    columns
        .map(|column| {
            let sliced = column.to_data().get_slice_memory_size();
            sliced.unwrap_or_else(|_| column.get_array_memory_size())
        })
        .sum()
}

/// Counts what the operators of one plan hold.
#[derive(Debug, Default)]
pub(crate) struct CountingPool(AtomicUsize);

impl CountingPool {
    /// A context of this session whose pool this is.
    pub(crate) fn context(self: &Arc<Self>, session: &SessionContext) -> Arc<EngineContext> {
        let mut runtime = RuntimeEnv::clone(&session.runtime_env());
        runtime.memory_pool = Arc::clone(self) as Arc<dyn MemoryPool>;
        let context = EngineContext::from(session);
        Arc::new(context.with_runtime(Arc::new(runtime)))
    }
}

impl fmt::Display for CountingPool {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

impl MemoryPool for CountingPool {
    fn name(&self) -> &str {
        "task"
    }

    fn grow(&self, _: &MemoryReservation, additional: usize) {
        self.0.fetch_add(additional, Ordering::Relaxed);
    }

    fn shrink(&self, _: &MemoryReservation, shrink: usize) {
        self.0.fetch_sub(shrink, Ordering::Relaxed);
    }

    fn try_grow(
        &self,
        reservation: &MemoryReservation,
        additional: usize,
    ) -> datafusion::error::Result<()> {
        self.grow(reservation, additional);
        Ok(())
    }

    fn reserved(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Infinite
    }
}

/// What a task has taken of the budget; given back when this is dropped.
pub(crate) struct Held<'a> {
    services: &'a dyn TaskServices,
    task: TaskId,
    bytes: u64,
}

impl<'a> Held<'a> {
    pub(crate) fn new(services: &'a dyn TaskServices, task: TaskId) -> Self {
        Self {
            services,
            task,
            bytes: 0,
        }
    }

    /// Holds so much from now on; where that is more, the task may wait for others.
    ///
    /// # Errors
    /// `OutOfMemory` when the task alone would hold more than the budget; `Cancelled`.
    pub(crate) fn settle(&mut self, bytes: usize, cancel: &CancelToken) -> Result<(), Failure> {
        let bytes = bytes as u64 / GRAIN * GRAIN;
        if bytes > self.bytes {
            self.services
                .take_memory(self.task, bytes - self.bytes, cancel)?;
        } else if bytes < self.bytes {
            self.services
                .give_back_memory(self.task, self.bytes - bytes);
        }
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.services.give_back_memory(self.task, self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use bytes::Bytes;
    use millstream_common::{
        failure::FailureKind,
        ids::{BatchId, BlockId, Epoch, QueryId, StageId},
        protocol::BlockLocation,
    };
    use millstream_dataflow::program::BlockFrames;
    use parking_lot::Mutex;

    use super::*;

    /// A budget for one task.
    struct Budget {
        limit: u64,
        held: Mutex<u64>,
    }

    impl TaskServices for Budget {
        fn append_block(&self, _: BlockId, _: Bytes) -> Result<(), Failure> {
            Ok(())
        }

        fn fetch_blocks(&self, _: Vec<BlockLocation>, _: CancelToken) -> Box<dyn BlockFrames> {
            struct Nothing;
            impl BlockFrames for Nothing {
                fn next(&mut self) -> Result<Option<(usize, Bytes)>, Failure> {
                    Ok(None)
                }
            }
            Box::new(Nothing)
        }

        fn spill_folder(&self, _: TaskId) -> Result<PathBuf, Failure> {
            Err(Failure::new(FailureKind::Io, "no folder"))
        }

        fn spill_threshold(&self) -> u64 {
            0
        }

        fn take_memory(&self, _: TaskId, bytes: u64, _: &CancelToken) -> Result<(), Failure> {
            let mut held = self.held.lock();
            if *held + bytes > self.limit {
                return Err(Failure::new(FailureKind::OutOfMemory, "no more"));
            }
            *held += bytes;
            Ok(())
        }

        fn give_back_memory(&self, _: TaskId, bytes: u64) {
            *self.held.lock() -= bytes;
        }

        fn compress_blocks(&self) -> bool {
            false
        }
    }

    #[test]
    fn what_operators_reserve_is_taken_of_the_budget_and_given_back() {
        let budget = Budget {
            limit: 10 * GRAIN,
            held: Mutex::new(0),
        };
        let task = TaskId {
            query: QueryId(uuid::Uuid::nil()),
            epoch: Epoch(1),
            batch: BatchId(0),
            stage: StageId(0),
            partition: 0,
            attempt: 0,
        };
        let cancel = CancelToken::new();
        let pool = Arc::new(CountingPool::default());
        let context = pool.context(&SessionContext::new());
        let consumer = datafusion::execution::memory_pool::MemoryConsumer::new("sort");
        let reservation = consumer.register(context.memory_pool());
        let grain = usize::try_from(GRAIN).unwrap();
        let mut held = Held::new(&budget, task);
        reservation.try_grow(grain - 1).unwrap();
        held.settle(pool.reserved(), &cancel).unwrap();
        assert_eq!(*budget.held.lock(), 0, "too little to ask for");
        reservation.try_grow(4 * grain).unwrap();
        held.settle(pool.reserved(), &cancel).unwrap();
        assert_eq!(*budget.held.lock(), 4 * GRAIN);
        reservation.try_grow(7 * grain).unwrap();
        let refused = held.settle(pool.reserved(), &cancel).unwrap_err();
        assert_eq!(refused.kind, FailureKind::OutOfMemory);
        reservation.shrink(9 * grain);
        held.settle(pool.reserved(), &cancel).unwrap();
        assert_eq!(*budget.held.lock(), 2 * GRAIN);
        drop(held);
        assert_eq!(*budget.held.lock(), 0);
    }
}
