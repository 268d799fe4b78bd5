//! What this crate's tests share: ids, frames, programs, a store.

use std::{path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use millstream_common::{
    config::Config,
    failure::Failure,
    frame::{Compression, Frame},
    ids::{BatchId, BlockId, Epoch, ExecutorId, QueryId, StageId, TaskId},
    protocol::{BlockLocation, BlockMeta, TaskOutput},
    telemetry::metrics::Metrics,
    time::SystemClock,
};
use millstream_dataflow::program::{StageProgram, TaskContext};
use millstream_proto::peers::Peers;
use tempfile::TempDir;
use tokio::runtime::Handle;
use uuid::Uuid;

use crate::{
    blocks::{BlockStore, SpillFolder},
    fetch::Fetcher,
    memory::MemoryBudget,
    options::Tuning,
};

/// How long a test waits for what must come.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) fn query() -> QueryId {
    QueryId(Uuid::from_u128(7))
}

pub(crate) fn task(partition: u32) -> TaskId {
    TaskId {
        query: query(),
        epoch: Epoch(1),
        batch: BatchId(0),
        stage: StageId(0),
        partition,
        attempt: 0,
    }
}

pub(crate) fn block(map: u32, partition: u32) -> BlockId {
    BlockId {
        task: task(map),
        exchange: 0,
        partition,
    }
}

pub(crate) fn frame(payload: &[u8]) -> Bytes {
    let mut frame = Vec::new();
    Frame::encode(payload, 1, Compression::None, &mut frame).expect("frame");
    Bytes::from(frame)
}

/// A program that is a function.
pub(crate) struct Function<F>(pub(crate) F);

impl<F> StageProgram for Function<F>
where
    F: Fn(&mut TaskContext<'_>) -> Result<TaskOutput, Failure> + Send + Sync,
{
    fn run(&self, task: &mut TaskContext<'_>) -> Result<TaskOutput, Failure> {
        (self.0)(task)
    }
}

/// A block store with all around it.
pub(crate) struct Shelf {
    pub(crate) executor: ExecutorId,
    pub(crate) store: Arc<BlockStore>,
    pub(crate) budget: Arc<MemoryBudget>,
    pub(crate) folder: Arc<SpillFolder>,
    pub(crate) metrics: Metrics,
    _parent: TempDir,
}

impl Shelf {
    pub(crate) fn new(block_limit: u64) -> Self {
        let parent = tempfile::tempdir().expect("folder");
        let folder = Arc::new(SpillFolder::create(parent.path()).expect("spill folder"));
        let budget = Arc::new(MemoryBudget::new(64 << 20, block_limit));
        let metrics = Metrics::of_executor();
        let store = BlockStore::new(Arc::clone(&budget), Arc::clone(&folder), metrics.clone());
        Self {
            executor: ExecutorId::random(),
            store: Arc::new(store),
            budget,
            folder,
            metrics,
            _parent: parent,
        }
    }

    /// Puts a block there and says where it is.
    pub(crate) fn put(&self, block: BlockId, frames: &[Bytes], address: &str) -> BlockLocation {
        for frame in frames {
            self.store.append(block, frame.clone()).expect("append");
        }
        BlockLocation {
            task: block.task,
            exchange: block.exchange,
            partition: block.partition,
            executor: self.executor,
            address: address.to_owned(),
            meta: BlockMeta {
                bytes: frames.iter().map(|frame| frame.len() as u64).sum(),
                rows: frames.len() as u64,
                checksum: 0,
            },
        }
    }

    pub(crate) fn spill_files(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.folder.path()).expect("folder");
        entries
            .map(|entry| entry.expect("entry").path())
            .filter(|path| path.to_string_lossy().contains("blocks-"))
            .collect()
    }

    pub(crate) fn fetcher(&self, peers: Option<Peers>, tuning: Tuning, io: Handle) -> Fetcher {
        Fetcher {
            own: self.executor,
            store: Arc::clone(&self.store),
            peers: peers.map(Arc::new),
            io,
            budget: Arc::clone(&self.budget),
            clock: Arc::new(SystemClock::new()),
            tuning,
            metrics: self.metrics.clone(),
        }
    }
}

pub(crate) fn tuning() -> Tuning {
    Tuning::of_config(&Config::default())
}
