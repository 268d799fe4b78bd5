//! The rows of one batch: as a plan, inside of `transform`, and as computed, in a callback on the driver.

use std::{marker::PhantomData, ops::Deref, sync::Arc};

use bytes::Bytes;
use millstream_common::{
    failure::{Failure, FailureKind, Retry},
    protocol::BlockLocation,
};
use millstream_dataflow::{combine::Data, read::decode_frame};
use millstream_driver::output::{BatchInfo, BlockReader, PartitionResult};
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

struct KeptRows {
    partition: u32,
    rows: u64,
}

/// A batch whose rows were computed and lie as blocks on the executors. Actions bring them to the driver, and block until they are there.
pub struct ComputedBatch<T> {
    info: BatchInfo,
    kept: Vec<KeptRows>,
    blocks: Arc<dyn BlockReader>,
    runtime: Handle,
    max_bytes: u64,
    row: PhantomData<fn() -> T>,
}

impl<T: Data> ComputedBatch<T> {
    pub(crate) fn new(
        info: BatchInfo,
        results: &[PartitionResult],
        blocks: Arc<dyn BlockReader>,
        runtime: Handle,
        max_bytes: u64,
    ) -> Self {
        let rows = |kept: &BlockLocation| kept.meta.rows;
        let kept = results.iter().map(|result| KeptRows {
            partition: result.partition,
            rows: result.kept.as_ref().map_or(0, rows),
        });
        Self {
            info,
            kept: kept.filter(|kept| kept.rows > 0).collect(),
            blocks,
            runtime,
            max_bytes,
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
    /// When blocks can't be read, or hold more bytes than `collect.max_bytes`.
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
        let mut rows = Vec::new();
        let mut bytes_left = self.max_bytes;
        for kept in &self.kept {
            let missing = count.saturating_sub(rows.len() as u64);
            if missing == 0 {
                break;
            }
            let read = self.blocks.read(kept.partition, bytes_left);
            for frame in self.runtime.block_on(read)? {
                bytes_left = bytes_left.saturating_sub(frame.len() as u64);
                decode(&frame, &mut rows)?;
            }
        }
        rows.truncate(usize::try_from(count).unwrap_or(usize::MAX));
        Ok(rows)
    }
}

fn decode<T: Data>(frame: &Bytes, rows: &mut Vec<T>) -> Result<(), Failure> {
    let unreadable = |reason: String| {
        Failure::new(
            FailureKind::Io,
            format!("a block of rows that came to the driver can't be read: {reason}"),
        )
    };
    let frame = decode_frame(frame).map_err(unreadable)?;
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
