//! What running tasks get from the executor: blocks to write, blocks to read, a place on disk, settings.

use std::{path::PathBuf, sync::Arc};

use bytes::Bytes;
use millstream_common::{
    failpoint,
    failure::Failure,
    ids::{BlockId, TaskId},
    protocol::BlockLocation,
};
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

    /// A task has ended: its folder goes, and its blocks too if it failed.
    pub(crate) fn end_task(&self, task: TaskId, succeeded: bool) {
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
        self.store.make_room()
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
