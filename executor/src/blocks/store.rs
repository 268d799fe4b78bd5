//! The block store: frames of blocks by the task that wrote them.
//!
//! Blocks live and die with their task, so they are kept by task: dropping an attempt, a batch or an epoch touches only its own
//! entries, and a task's blocks spill into one file. Spilling takes the oldest task's frames first. Frames keep their order
//! wherever they lie.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use dashmap::DashMap;
use hashbrown::HashMap;
use millstream_common::{
    failure::Failure,
    ids::{BlockId, TaskId},
    telemetry::metrics::Metrics,
};
use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_64;

use super::spill::{SpillFile, SpillFolder};
use crate::memory::MemoryBudget;

/// All blocks of an executor. Shared by slot threads and the IO runtime; no lock is held over a disk access.
pub struct BlockStore {
    tasks: DashMap<TaskId, Arc<TaskBlocks>>,
    created: AtomicU64,
    budget: Arc<MemoryBudget>,
    folder: Arc<SpillFolder>,
    metrics: Metrics,
}

/// The blocks of one attempt. Gives its memory back to the budget when its last user is gone.
struct TaskBlocks {
    order: u64,
    memory: AtomicU64,
    budget: Arc<MemoryBudget>,
    blocks: Mutex<HashMap<(u32, u32), Vec<StoredFrame>>>,
    // Held by whoever is spilling this task.
    file: Mutex<Option<Arc<SpillFile>>>,
}

impl Drop for TaskBlocks {
    fn drop(&mut self) {
        self.budget
            .remove_blocks(self.memory.load(Ordering::Relaxed));
    }
}

/// A frame of a block, where it lies.
#[derive(Clone)]
pub struct StoredFrame(Place);

#[derive(Clone)]
enum Place {
    Memory(Bytes),
    Disk {
        file: Arc<SpillFile>,
        offset: u64,
        length: usize,
        checksum: u64,
    },
}

/// A spilled frame that can't be read back: the block is lost.
#[derive(Debug, thiserror::Error)]
#[error("a spilled frame in {path} can't be read back: {problem}")]
pub struct Unreadable {
    path: String,
    problem: String,
}

impl StoredFrame {
    /// Its length, bytes.
    pub fn length(&self) -> usize {
        match &self.0 {
            Place::Memory(bytes) => bytes.len(),
            Place::Disk { length, .. } => *length,
        }
    }

    /// The frame if it is in memory.
    pub fn in_memory(&self) -> Option<Bytes> {
        match &self.0 {
            Place::Memory(bytes) => Some(bytes.clone()),
            Place::Disk { .. } => None,
        }
    }

    /// The frame, from memory without a copy or from disk, checked. Waits for the disk.
    ///
    /// # Errors
    /// [`Unreadable`] when the file is cut or altered.
    pub fn read(&self) -> Result<Bytes, Unreadable> {
        let (file, offset, length, checksum) = match &self.0 {
            Place::Memory(bytes) => return Ok(bytes.clone()),
            Place::Disk {
                file,
                offset,
                length,
                checksum,
            } => (file, *offset, *length, *checksum),
        };
        let unreadable = |problem: String| Unreadable {
            path: file.path().display().to_string(),
            problem,
        };
        let bytes = file
            .read(offset, length)
            .map_err(|error| unreadable(error.to_string()))?;
        if xxh3_64(&bytes) != checksum {
            return Err(unreadable("the bytes differ from what was written".into()));
        }
        Ok(Bytes::from(bytes))
    }
}

impl BlockStore {
    /// An empty store that counts against `budget` and spills into `folder`.
    pub fn new(budget: Arc<MemoryBudget>, folder: Arc<SpillFolder>, metrics: Metrics) -> Self {
        Self {
            tasks: DashMap::new(),
            created: AtomicU64::new(0),
            budget,
            folder,
            metrics,
        }
    }

    /// Appends a frame to a block; past the budget moves the oldest tasks' frames to disk. Says whether it is the first frame of its
    /// task.
    ///
    /// # Errors
    /// `Io` when the disk refuses.
    pub fn append(&self, block: BlockId, frame: Bytes) -> Result<bool, Failure> {
        let length = frame.len() as u64;
        let mut is_first = false;
        let task = {
            let entry = self.tasks.entry(block.task).or_insert_with(|| {
                is_first = true;
                Arc::new(self.new_task())
            });
            Arc::clone(&entry)
        };
        {
            let mut blocks = task.blocks.lock();
            let frames = blocks.entry((block.exchange, block.partition)).or_default();
            frames.push(StoredFrame(Place::Memory(frame)));
            task.memory.fetch_add(length, Ordering::Relaxed);
            self.budget.add_blocks(length);
        }
        self.metrics.executor().shuffle_written_bytes.inc_by(length);
        self.make_room()?;
        Ok(is_first)
    }

    /// Moves the oldest tasks' frames to disk if blocks fill more than their share, or all together more than the budget.
    ///
    /// # Errors
    /// `Io` when the disk refuses.
    pub fn make_room(&self) -> Result<(), Failure> {
        if self.budget.blocks_are_over() {
            self.spill()?;
        }
        Ok(())
    }

    fn new_task(&self) -> TaskBlocks {
        TaskBlocks {
            order: self.created.fetch_add(1, Ordering::Relaxed),
            memory: AtomicU64::new(0),
            budget: Arc::clone(&self.budget),
            blocks: Mutex::default(),
            file: Mutex::default(),
        }
    }

    fn spill(&self) -> Result<(), Failure> {
        let mut candidates: Vec<(u64, Arc<TaskBlocks>)> = self
            .tasks
            .iter()
            .map(|entry| (entry.order, Arc::clone(entry.value())))
            .filter(|(_, task)| task.memory.load(Ordering::Relaxed) > 0)
            .collect();
        candidates.sort_unstable_by_key(|(order, _)| *order);
        let mut busy = Vec::new();
        for (_, task) in &candidates {
            if !self.budget.blocks_are_high() {
                return Ok(());
            }
            match task.file.try_lock() {
                Some(mut slot) => self.spill_task(task, &mut slot)?,
                None => busy.push(task),
            }
        }
        // Whoever appends doesn't outrun those that are spilling.
        for task in busy {
            if !self.budget.blocks_are_over() {
                return Ok(());
            }
            self.spill_task(task, &mut task.file.lock())?;
        }
        Ok(())
    }

    /// Moves frames of a task to disk until blocks fill little enough.
    fn spill_task(
        &self,
        task: &TaskBlocks,
        slot: &mut Option<Arc<SpillFile>>,
    ) -> Result<(), Failure> {
        let file = match slot {
            Some(file) => Arc::clone(file),
            None => {
                let file = Arc::new(self.folder.create_file()?);
                *slot = Some(Arc::clone(&file));
                file
            }
        };
        // Frames are only ever appended, so their indexes hold while the lock is released for the writes.
        let mut wanted: Vec<((u32, u32), usize, Bytes)> = Vec::new();
        for (key, frames) in task.blocks.lock().iter() {
            for (index, frame) in frames.iter().enumerate() {
                if let Place::Memory(bytes) = &frame.0 {
                    wanted.push((*key, index, bytes.clone()));
                }
            }
        }
        for (key, index, bytes) in wanted {
            if !self.budget.blocks_are_high() {
                break;
            }
            let offset = file.append(&bytes)?;
            let spilled = StoredFrame(Place::Disk {
                file: Arc::clone(&file),
                offset,
                length: bytes.len(),
                checksum: xxh3_64(&bytes),
            });
            let length = bytes.len() as u64;
            let mut blocks = task.blocks.lock();
            let frame = blocks
                .get_mut(&key)
                .and_then(|frames| frames.get_mut(index));
            if let Some(frame) = frame {
                *frame = spilled;
                task.memory.fetch_sub(length, Ordering::Relaxed);
                self.budget.remove_blocks(length);
                self.metrics.executor().spilled_bytes.inc_by(length);
            }
        }
        Ok(())
    }

    /// A block's frames in the order they were appended; `None` if the block isn't here.
    pub fn frames(&self, block: BlockId) -> Option<Vec<StoredFrame>> {
        let task = Arc::clone(self.tasks.get(&block.task)?.value());
        let blocks = task.blocks.lock();
        blocks.get(&(block.exchange, block.partition)).cloned()
    }

    /// Drops the blocks of one attempt.
    pub fn drop_task(&self, task: TaskId) {
        self.tasks.remove(&task);
    }

    /// Drops everything.
    pub fn clear(&self) {
        self.tasks.clear();
    }

    /// Bytes on disk.
    pub fn spilled_bytes(&self) -> u64 {
        self.folder.spilled_bytes()
    }

    /// Attempts that have blocks here.
    pub fn task_count(&self) -> usize {
        self.tasks.len()
    }
}

impl fmt::Debug for BlockStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("BlockStore")
            .field("tasks", &self.tasks.len())
            .field("budget", &self.budget)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread, time::Duration};

    use super::*;
    use crate::testing::block;

    #[test]
    fn who_appends_waits_for_whoever_spills_its_blocks() {
        let parent = tempfile::tempdir().expect("folder");
        let folder = Arc::new(SpillFolder::create(parent.path()).expect("spill folder"));
        let budget = Arc::new(MemoryBudget::new(2_000, 1_000));
        let metrics = Metrics::of_executor();
        let store = BlockStore::new(Arc::clone(&budget), folder, metrics);
        let append = |bytes| store.append(block(0, 0), Bytes::from(vec![7; bytes]));
        append(900).expect("fits");
        let task = Arc::clone(store.tasks.iter().next().expect("a task").value());
        let spilling = task.file.lock();
        let (appended, done) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(move || appended.send(append(200)).expect("heard"));
            let early = done.recv_timeout(Duration::from_millis(100));
            assert!(early.is_err(), "it went on beyond the limit");
            drop(spilling);
            let outcome = done.recv().expect("told");
            outcome.expect("appended");
        });
        assert!(budget.block_bytes() <= 1_000);
    }
}
