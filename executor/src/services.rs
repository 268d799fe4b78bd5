//! What running tasks get from the executor: blocks to write, blocks to read, a place on disk, settings.

use std::{path::PathBuf, sync::Arc};

use bytes::Bytes;
use millstream_common::{
    failpoint,
    failure::Failure,
    ids::{BlockId, TaskId},
    protocol::BlockLocation,
};
use millstream_connectors::malformed::OnMalformed;
use millstream_dataflow::{
    program::{BlockFrames, CancelToken, IoWork, StopIo, TaskServices},
    state::StateServices,
};

use crate::{
    blocks::{BlockStore, SpillFolder},
    fetch::Fetcher,
    memory::MemoryBudget,
    options::Tuning,
    queries::States,
};

/// The services of one registration.
#[derive(Clone)]
pub struct Services {
    store: Arc<BlockStore>,
    folder: Arc<SpillFolder>,
    budget: Arc<MemoryBudget>,
    fetcher: Fetcher,
    states: Arc<States>,
    tuning: Tuning,
}

impl Services {
    /// Services over the executor's store and folder, with the driver's settings.
    pub(crate) fn new(
        store: Arc<BlockStore>,
        folder: Arc<SpillFolder>,
        fetcher: Fetcher,
        states: Arc<States>,
        tuning: Tuning,
    ) -> Self {
        Self {
            store,
            folder,
            budget: Arc::clone(&fetcher.budget),
            fetcher,
            states,
            tuning,
        }
    }

    /// The same with another spill threshold, bytes.
    pub(crate) fn spilling_at(&self, bytes: u64) -> Self {
        let mut other = self.clone();
        other.tuning.spill_threshold = bytes;
        other
    }

    /// What becomes of records that a task finds malformed as it decodes them.
    pub(crate) fn on_malformed(&self) -> OnMalformed {
        self.tuning.on_malformed
    }

    /// A task has ended: its folder goes, and its blocks too if it failed. Memory that it still holds would make others wait for ever.
    pub(crate) fn end_task(&self, task: TaskId, succeeded: bool) {
        let forgotten = self.budget.forget_task(task);
        if forgotten > 0 {
            tracing::debug!(%task, bytes = forgotten, "a task ended and had not given back its memory");
        }
        self.folder.remove_task_folder(task);
        if !succeeded {
            self.store.drop_task(task);
        }
    }
}

impl TaskServices for Services {
    fn append_block(&self, block: BlockId, frame: Bytes) -> Result<(), Failure> {
        let is_first = self.store.append(block, frame)?;
        if is_first {
            failpoint!(
                "executor.map.writing",
                batch = block.task.batch,
                stage = block.task.stage,
                partition = block.task.partition,
                attempt = block.task.attempt
            );
        }
        Ok(())
    }

    fn fetch_blocks(
        &self,
        locations: Vec<BlockLocation>,
        cancel: CancelToken,
    ) -> Box<dyn BlockFrames> {
        Box::new(self.fetcher.fetch(locations, cancel))
    }

    fn spill_folder(&self, task: TaskId) -> Result<PathBuf, Failure> {
        self.folder.task_folder(task)
    }

    fn spill_threshold(&self) -> u64 {
        self.tuning.spill_threshold
    }

    fn take_memory(&self, task: TaskId, bytes: u64, cancel: &CancelToken) -> Result<(), Failure> {
        self.budget.take_for_task(task, bytes, cancel)?;
        self.store
            .make_room()
            .inspect_err(|_| self.budget.give_back_of_task(task, bytes))
    }

    fn give_back_memory(&self, task: TaskId, bytes: u64) {
        self.budget.give_back_of_task(task, bytes);
    }

    fn compress_blocks(&self) -> bool {
        self.tuning.compress_blocks
    }

    fn spawn_io(&self, work: IoWork) -> Result<StopIo, Failure> {
        let running = self.fetcher.io.spawn(work);
        Ok(Box::new(move || running.abort()))
    }

    fn state(&self) -> Option<&dyn StateServices> {
        Some(&*self.states)
    }
}

#[cfg(test)]
mod tests {
    use tokio::runtime::Runtime;

    use super::*;
    use crate::{
        background::Background,
        testing::{Shelf, block, frame, task, tuning},
    };

    fn services(shelf: &Shelf, io: &Runtime) -> Services {
        let states = States::new(
            &Default::default(),
            Arc::clone(&shelf.budget),
            Background::for_tests(),
        );
        Services::new(
            Arc::clone(&shelf.store),
            Arc::clone(&shelf.folder),
            shelf.fetcher(None, tuning(), io.handle().clone()),
            Arc::new(states),
            tuning(),
        )
    }

    #[test]
    fn a_disk_that_refuses_blocks_costs_no_memory_for_good() {
        let io = Runtime::new().expect("runtime");
        let shelf = Shelf::new(64 << 20);
        let services = services(&shelf, &io);
        let kept = frame(&[7; 1_000]);
        services
            .append_block(block(0, 0), kept)
            .expect("it is in memory");
        let before = shelf.budget.used();
        std::fs::remove_dir_all(shelf.folder.path()).expect("the disk is gone");
        let cancel = CancelToken::new();
        // With the block it is more than the whole budget, so the block has to go.
        let wanted = 64 << 20;
        for attempt in 0..3 {
            let id = TaskId { attempt, ..task(1) };
            let refused = services.take_memory(id, wanted, &cancel);
            let refused = refused.expect_err("no disk");
            assert!(refused.message.contains("shuffle.spill_dir"), "{refused}");
            assert_eq!(shelf.budget.used(), before);
        }
        std::fs::create_dir(shelf.folder.path()).expect("the disk is back");
        services
            .take_memory(task(2), wanted, &cancel)
            .expect("nobody else holds memory");
        services.give_back_memory(task(2), wanted);
    }

    #[test]
    fn what_a_task_left_taken_goes_with_it() {
        let io = Runtime::new().expect("runtime");
        let shelf = Shelf::new(64 << 20);
        let services = services(&shelf, &io);
        let cancel = CancelToken::new();
        services
            .take_memory(task(1), 60 << 20, &cancel)
            .expect("fits");
        services.end_task(task(1), true);
        assert_eq!(shelf.budget.used(), 0);
        services
            .take_memory(task(2), 60 << 20, &cancel)
            .expect("fits");
        // Told late, it takes nothing from others.
        services.give_back_memory(task(1), 60 << 20);
        assert_eq!(shelf.budget.used(), 60 << 20);
        services.end_task(task(2), false);
        assert_eq!(shelf.budget.used(), 0);
    }
}
