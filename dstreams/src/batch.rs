//! The rows of one batch: as a plan, inside of `transform`, and as computed, in a callback on the driver.

use std::{marker::PhantomData, ops::Deref, sync::Arc};

use futures::{StreamExt, TryStreamExt, stream};
use millstream_common::{
    failure::{Failure, FailureKind, Retry},
    frame::Frame,
};
use millstream_dataflow::{combine::Data, read::decode_frame};
use millstream_driver::{
    blocks::too_large,
    output::{BatchInfo, BlockReader, PartitionResult},
};
use parking_lot::Mutex;
use tokio::runtime::Handle;

use crate::stream::DStream;

/// The plan of a batch, as `transform` gets it: has the operators of a stream.
pub struct Batch<T>(DStream<T>);

impl<T> Batch<T> {
    pub(crate) fn of(stream: DStream<T>) -> Self {
        Self(stream)
    }
}

impl<T> Clone for Batch<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Deref for Batch<T> {
    type Target = DStream<T>;

    fn deref(&self) -> &DStream<T> {
        &self.0
    }
}

/// What a function given to `transform` may return: a batch, or the result of an operator on one.
pub trait Plan {
    /// Its rows.
    type Row;

    /// It as a stream.
    fn into_stream(self) -> DStream<Self::Row>;
}

impl<T> Plan for Batch<T> {
    type Row = T;

    fn into_stream(self) -> DStream<T> {
        self.0
    }
}

impl<T> Plan for DStream<T> {
    type Row = T;

    fn into_stream(self) -> DStream<T> {
        self
    }
}

/// Blocks that are on their way to the driver at once.
const READ_AT_ONCE: usize = 8;

#[derive(Clone, Copy)]
struct KeptRows {
    partition: u32,
    rows: u64,
    bytes: u64,
}

/// A batch whose rows were computed and lie as blocks on the executors. Actions bring them to the driver, and block until they are there.
pub struct ComputedBatch<T> {
    info: BatchInfo,
    kept: Vec<KeptRows>,
    blocks: Arc<dyn BlockReader>,
    runtime: Handle,
    max_bytes: u64,
    missed: Missed,
    row: PhantomData<fn() -> T>,
}

/// The first block of a batch that an executor didn't give. Whatever the callback makes of that error, the batch's tasks can run again.
#[derive(Clone, Default)]
pub(crate) struct Missed(Arc<Mutex<Option<Failure>>>);

impl Missed {
    fn note(&self, failure: &Failure) {
        if matches!(failure.kind, FailureKind::FetchFailed { .. }) {
            self.0.lock().get_or_insert_with(|| failure.clone());
        }
    }

    pub(crate) fn take(&self) -> Option<Failure> {
        self.0.lock().take()
    }
}

impl<T: Data> ComputedBatch<T> {
    pub(crate) fn new(
        info: BatchInfo,
        results: &[PartitionResult],
        blocks: Arc<dyn BlockReader>,
        runtime: Handle,
        max_bytes: u64,
        missed: Missed,
    ) -> Self {
        let kept = results.iter().filter_map(|result| {
            let meta = result.kept.as_ref()?.meta;
            Some(KeptRows {
                partition: result.partition,
                rows: meta.rows,
                bytes: meta.bytes,
            })
        });
        Self {
            info,
            kept: kept.filter(|kept| kept.rows > 0).collect(),
            blocks,
            runtime,
            max_bytes,
            missed,
            row: PhantomData,
        }
    }

    /// Which batch this is.
    pub fn info(&self) -> BatchInfo {
        self.info
    }

    /// The number of rows; nothing travels for it.
    pub fn count(&self) -> u64 {
        self.kept.iter().map(|kept| kept.rows).sum()
    }

    /// Whether there are no rows; nothing travels for it.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// All rows, in the order of partitions.
    ///
    /// # Errors
    /// When blocks can't be read, or their rows have more bytes than `collect.max_bytes`, compressed or not. Hand on the error: where an executor was lost with its blocks, what it computed is
    /// computed again and the callback is called again.
    pub fn collect(&self) -> Result<Vec<T>, Failure> {
        self.read(u64::MAX)
    }

    /// The first `count` rows, in the order of partitions. Only partitions that have them are read.
    ///
    /// # Errors
    /// As [`collect`](Self::collect).
    pub fn take(&self, count: usize) -> Result<Vec<T>, Failure> {
        self.read(count as u64)
    }

    /// The first row, if there is one.
    ///
    /// # Errors
    /// As [`collect`](Self::collect).
    pub fn first(&self) -> Result<Option<T>, Failure> {
        Ok(self.read(1)?.pop())
    }

    fn read(&self, count: u64) -> Result<Vec<T>, Failure> {
        let mut wanted = Vec::new();
        let (mut wanted_rows, mut wanted_bytes) = (0u64, 0u64);
        for kept in &self.kept {
            if wanted_rows >= count {
                break;
            }
            wanted.push(*kept);
            wanted_rows = wanted_rows.saturating_add(kept.rows);
            wanted_bytes = wanted_bytes.saturating_add(kept.bytes);
        }
        if wanted_bytes > self.max_bytes {
            return Err(too_large(self.max_bytes));
        }
        let (blocks, max_bytes) = (Arc::clone(&self.blocks), self.max_bytes);
        let read = move |kept: KeptRows| {
            let blocks = Arc::clone(&blocks);
            async move { blocks.read(kept.partition, max_bytes).await }
        };
        let reading = stream::iter(wanted).map(read).buffered(READ_AT_ONCE);
        // On the runtime's threads, so that this one wakes up once, not with each message.
        let reading = self.runtime.spawn(reading.try_collect::<Vec<_>>());
        let read = self.runtime.block_on(reading).map_err(|error| {
            let message = "reading a batch's rows on the driver broke off";
            Failure::caused_by(FailureKind::Internal, message, &error)
        })?;
        let frames = read.inspect_err(|failure| self.missed.note(failure))?;
        let mut rows = Vec::new();
        let mut bytes_left = self.max_bytes;
        for frame in frames.iter().flatten() {
            if rows.len() as u64 >= count {
                break;
            }
            let frame = decode_frame(frame).map_err(unreadable)?;
            // Compressed, rows may be a hundredth of what they are in memory.
            bytes_left = bytes_left
                .checked_sub(frame.payload.len() as u64)
                .ok_or_else(|| too_large(self.max_bytes))?;
            decode(frame, &mut rows)?;
        }
        rows.truncate(usize::try_from(count).unwrap_or(usize::MAX));
        Ok(rows)
    }
}

fn unreadable(reason: String) -> Failure {
    Failure::new(
        FailureKind::Io,
        format!("a block of rows that came to the driver can't be read: {reason}"),
    )
}

fn decode<T: Data>(frame: Frame, rows: &mut Vec<T>) -> Result<(), Failure> {
    let reader = frame
        .into_rows::<T>()
        .map_err(|problem| unreadable(problem.to_string()))?;
    for row in reader {
        rows.push(row.map_err(|error| {
            Failure::new(FailureKind::UserCode, error.to_string())
                .with_code("task.codec")
                .with_retry(Retry::Never)
        })?);
    }
    Ok(())
}
