//! Rows into the blocks of an exchange: one buffer a partition, handed over as frames.

use bytes::Bytes;
use millstream_common::{
    codec::RowWriter,
    failure::{Failure, FailureKind},
    frame::{Compression, ContentHash, Frame},
    ids::BlockId,
    protocol::BlockMeta,
};
use serde::Serialize;

use crate::task::{Task, codec_failure};

/// A frame is closed at about this many bytes.
const FRAME_BYTES: usize = 256 << 10;
/// With many partitions frames are smaller, so that the buffers of a task stay below about this.
const BUFFERS_BYTES: usize = 16 << 20;
const MIN_FRAME_BYTES: usize = 4 << 10;

struct PartitionBuffer {
    rows: RowWriter,
    hash: ContentHash,
    meta: BlockMeta,
}

/// Writes the rows of a task into one exchange of its stage.
pub struct ExchangeWriter<'t, 'a> {
    task: &'t Task<'a>,
    exchange: u32,
    /// The partition that the first buffer is for.
    first_partition: u32,
    frame_bytes: usize,
    compression: Compression,
    buffers: Vec<PartitionBuffer>,
    frame: Vec<u8>,
}

impl<'t, 'a> ExchangeWriter<'t, 'a> {
    /// A writer to partitions `0..partitions`.
    pub fn new(task: &'t Task<'a>, exchange: u32, partitions: u32) -> Self {
        Self::starting_at(task, exchange, 0, partitions)
    }

    /// A writer to the one partition that a task of a keeping exchange writes: its own.
    pub fn keeping(task: &'t Task<'a>, exchange: u32) -> Self {
        Self::starting_at(task, exchange, task.id().partition, 1)
    }

    fn starting_at(
        task: &'t Task<'a>,
        exchange: u32,
        first_partition: u32,
        partitions: u32,
    ) -> Self {
        let count = partitions.max(1) as usize;
        let buffers = (0..count).map(|_| PartitionBuffer {
            rows: RowWriter::new(),
            hash: ContentHash::new(),
            meta: BlockMeta::default(),
        });
        Self {
            exchange,
            first_partition,
            frame_bytes: (BUFFERS_BYTES / count).clamp(MIN_FRAME_BYTES, FRAME_BYTES),
            compression: if task.services().compress_blocks() {
                Compression::Lz4
            } else {
                Compression::None
            },
            buffers: buffers.collect(),
            frame: Vec::new(),
            task,
        }
    }

    /// Appends a row to the block of the buffer's partition, counted from the first.
    ///
    /// # Errors
    /// When the row can't be encoded, and those of [`TaskServices::append_block`](crate::program::TaskServices::append_block).
    #[inline]
    pub fn push<T: Serialize>(&mut self, buffer: u32, row: &T) -> Result<(), Failure> {
        let Some(partition) = self.buffers.get_mut(buffer as usize) else {
            return Err(Failure::new(
                FailureKind::Internal,
                format!(
                    "a row was routed to partition {buffer} of {}",
                    self.buffers.len()
                ),
            ));
        };
        partition
            .rows
            .push(row)
            .map_err(|error| codec_failure(&error))?;
        if partition.rows.bytes().len() >= self.frame_bytes {
            self.close_frame(buffer as usize)?;
        }
        Ok(())
    }

    #[cold]
    fn close_frame(&mut self, buffer: usize) -> Result<(), Failure> {
        let partition = &mut self.buffers[buffer];
        let count = partition.rows.rows();
        if count == 0 {
            return Ok(());
        }
        let payload = partition.rows.bytes();
        self.frame.clear();
        Frame::encode(payload, count, self.compression, &mut self.frame).map_err(|error| {
            Failure::caused_by(
                FailureKind::Internal,
                "a frame of rows could not be made",
                &error,
            )
        })?;
        partition.hash.update(payload, count);
        partition.meta.rows += u64::from(count);
        partition.meta.bytes += self.frame.len() as u64;
        partition.rows.clear();
        // A copy of its own size: the scratch buffer has room for what compresses worst.
        let frame = Bytes::copy_from_slice(&self.frame);
        let block = BlockId {
            task: self.task.id(),
            exchange: self.exchange,
            partition: self.first_partition + buffer as u32,
        };
        self.task.services().append_block(block, frame)
    }

    /// Writes what is buffered, and says what each block has become. Rows are counted as written to the shuffle.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn finish(mut self) -> Result<Vec<BlockMeta>, Failure> {
        for buffer in 0..self.buffers.len() {
            self.close_frame(buffer)?;
        }
        let mut metas = Vec::with_capacity(self.buffers.len());
        for partition in &mut self.buffers {
            partition.meta.checksum = partition.hash.finish().hash;
            metas.push(partition.meta);
        }
        let rows: u64 = metas.iter().map(|meta| meta.rows).sum();
        self.task
            .count(|counts| counts.shuffle_rows_written += rows);
        Ok(metas)
    }
}
