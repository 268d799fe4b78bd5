//! [`TaskServices`] with everything in memory: for tests of operators and connectors, and to run a plan without an executor.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use millstream_common::{
    failure::{Failure, FailureKind},
    ids::{BlockId, TaskId},
    protocol::BlockLocation,
};
use parking_lot::Mutex;
use tempfile::TempDir;

use crate::program::{BlockFrames, CancelToken, TaskServices};

/// Blocks in memory, spill files in a temporary folder.
pub struct MemoryServices {
    blocks: Mutex<HashMap<BlockId, Vec<Bytes>>>,
    folders: Mutex<HashMap<TaskId, TempDir>>,
    spill_threshold: u64,
    compress: bool,
    memory_taken: AtomicU64,
}

impl MemoryServices {
    /// Services whose tables spill at this weight, in bytes.
    pub fn new(spill_threshold: u64) -> Self {
        Self {
            blocks: Mutex::default(),
            folders: Mutex::default(),
            spill_threshold,
            compress: true,
            memory_taken: AtomicU64::new(0),
        }
    }

    /// The same without compression.
    pub fn uncompressed(mut self) -> Self {
        self.compress = false;
        self
    }

    /// The frames of a block; none for one that was never written.
    pub fn frames(&self, block: BlockId) -> Vec<Bytes> {
        self.blocks.lock().get(&block).cloned().unwrap_or_default()
    }

    /// Changes a block, to see what becomes of a damaged one.
    pub fn change(&self, block: BlockId, change: impl FnOnce(&mut Vec<Bytes>)) {
        if let Some(frames) = self.blocks.lock().get_mut(&block) {
            change(frames);
        }
    }

    /// What tables hold, bytes.
    pub fn memory_taken(&self) -> u64 {
        self.memory_taken.load(Ordering::Relaxed)
    }

    /// Forgets all blocks and spill files.
    pub fn clear(&self) {
        self.blocks.lock().clear();
        self.folders.lock().clear();
    }
}

impl TaskServices for MemoryServices {
    fn append_block(&self, block: BlockId, frame: Bytes) -> Result<(), Failure> {
        self.blocks.lock().entry(block).or_default().push(frame);
        Ok(())
    }

    fn fetch_blocks(
        &self,
        locations: Vec<BlockLocation>,
        cancel: CancelToken,
    ) -> Box<dyn BlockFrames> {
        let mut frames = Vec::new();
        for (index, location) in locations.iter().enumerate() {
            let block = BlockId {
                task: location.task,
                exchange: location.exchange,
                partition: location.partition,
            };
            frames.extend(self.frames(block).into_iter().map(|frame| (index, frame)));
        }
        Box::new(MemoryFrames {
            frames: frames.into_iter(),
            cancel,
        })
    }

    fn spill_folder(&self, task: TaskId) -> Result<PathBuf, Failure> {
        let mut folders = self.folders.lock();
        if let Some(folder) = folders.get(&task) {
            return Ok(folder.path().to_owned());
        }
        let folder = TempDir::new().map_err(|error| {
            Failure::caused_by(
                FailureKind::Io,
                "making a folder for spill files failed",
                &error,
            )
        })?;
        let path = folder.path().to_owned();
        folders.insert(task, folder);
        Ok(path)
    }

    fn spill_threshold(&self) -> u64 {
        self.spill_threshold
    }

    fn take_memory(&self, _: TaskId, bytes: u64, cancel: &CancelToken) -> Result<(), Failure> {
        cancel.check()?;
        self.memory_taken.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    fn give_back_memory(&self, _: TaskId, bytes: u64) {
        self.memory_taken.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn compress_blocks(&self) -> bool {
        self.compress
    }
}

struct MemoryFrames {
    frames: std::vec::IntoIter<(usize, Bytes)>,
    cancel: CancelToken,
}

impl BlockFrames for MemoryFrames {
    fn next(&mut self) -> Result<Option<(usize, Bytes)>, Failure> {
        self.cancel.check()?;
        Ok(self.frames.next())
    }
}
