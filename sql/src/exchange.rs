//! Batches into the blocks of an exchange, and out of them.

use std::sync::Arc;

use arrow::{
    array::UInt32Array,
    compute::{concat_batches, take_record_batch},
    datatypes::SchemaRef,
    record_batch::RecordBatch,
    row::{RowConverter, SortField},
};
use bytes::Bytes;
use millstream_common::{
    failure::{Failure, FailureKind},
    frame::{Compression, ContentHash, Frame},
    ids::BlockId,
    protocol::{BlockLocation, BlockMeta, TaskInput},
    routing::{PartitionCount, Slot},
};
use millstream_dataflow::{
    program::{BlockFrames, TaskContext},
    read::decode_frame,
};

use crate::{
    error::{Error, task_failure},
    ipc, keys,
};

/// A frame is closed at so many rows, or at about so many bytes.
const FRAME_ROWS: usize = 8_192;
const FRAME_BYTES: usize = 1 << 20;

/// Which partition a row goes to.
#[derive(Clone, Debug)]
pub(crate) enum Route {
    /// The only one.
    Gather,
    /// That of the key in these columns.
    Hash {
        columns: Vec<usize>,
        partitions: PartitionCount,
    },
}

/// Writes a task's batches into exchange 0 of its stage.
pub(crate) struct ExchangeWriter {
    route: Route,
    schema: SchemaRef,
    rows: RowConverter,
    compression: Compression,
    partitions: Vec<Partition>,
}

#[derive(Default)]
struct Partition {
    waiting: Vec<RecordBatch>,
    waiting_rows: usize,
    waiting_bytes: usize,
    hash: ContentHash,
    meta: BlockMeta,
}

impl ExchangeWriter {
    pub(crate) fn new(
        route: Route,
        schema: SchemaRef,
        task: &TaskContext<'_>,
    ) -> Result<Self, Failure> {
        let fields = schema.fields().iter();
        let fields = fields.map(|field| SortField::new(field.data_type().clone()));
        let rows = RowConverter::new(fields.collect()).map_err(|error| internal(&error))?;
        let count = match &route {
            Route::Gather => 1,
            Route::Hash { partitions, .. } => partitions.get() as usize,
        };
        Ok(Self {
            route,
            schema,
            rows,
            compression: match task.services.compress_blocks() {
                true => Compression::Lz4,
                false => Compression::None,
            },
            partitions: (0..count).map(|_| Partition::default()).collect(),
        })
    }

    pub(crate) fn push(
        &mut self,
        batch: &RecordBatch,
        task: &mut TaskContext<'_>,
    ) -> Result<(), Failure> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let Route::Hash {
            columns,
            partitions,
        } = &self.route
        else {
            return self.wait(0, batch.clone(), task);
        };
        let key: Vec<_> = columns
            .iter()
            .map(|column| Arc::clone(batch.column(*column)))
            .collect();
        let keys = keys::encode(&key, batch.num_rows()).map_err(task_failure)?;
        let mut rows: Vec<Vec<u32>> = vec![Vec::new(); partitions.get() as usize];
        for (row, key) in (0u32..).zip(keys.iter()) {
            rows[Slot::of(key).partition(*partitions) as usize].push(row);
        }
        for (partition, rows) in rows.into_iter().enumerate() {
            if rows.is_empty() {
                continue;
            }
            let taken = take_record_batch(batch, &UInt32Array::from(rows));
            self.wait(partition, taken.map_err(|error| internal(&error))?, task)?;
        }
        Ok(())
    }

    fn wait(
        &mut self,
        partition: usize,
        batch: RecordBatch,
        task: &mut TaskContext<'_>,
    ) -> Result<(), Failure> {
        let into = &mut self.partitions[partition];
        into.waiting_rows += batch.num_rows();
        into.waiting_bytes += batch.get_array_memory_size();
        into.waiting.push(batch);
        if into.waiting_rows >= FRAME_ROWS || into.waiting_bytes >= FRAME_BYTES {
            self.close_frame(partition, task)?;
        }
        Ok(())
    }

    fn close_frame(&mut self, partition: usize, task: &mut TaskContext<'_>) -> Result<(), Failure> {
        let from = &mut self.partitions[partition];
        if from.waiting_rows == 0 {
            return Ok(());
        }
        let waiting = std::mem::take(&mut from.waiting);
        (from.waiting_rows, from.waiting_bytes) = (0, 0);
        let batch = concat_batches(&self.schema, &waiting).map_err(|error| internal(&error))?;
        let rows = self
            .rows
            .convert_columns(batch.columns())
            .map_err(|error| internal(&error))?;
        for row in &rows {
            from.hash.update(row.as_ref(), 1);
        }
        let mut payload = Vec::new();
        ipc::append(&self.schema, [&batch], &mut payload).map_err(task_failure)?;
        let count = u32::try_from(batch.num_rows()).unwrap_or(u32::MAX);
        let mut frame = Vec::new();
        Frame::encode(&payload, count, self.compression, &mut frame).map_err(|error| {
            Failure::caused_by(
                FailureKind::Internal,
                "a frame of rows could not be made",
                &error,
            )
        })?;
        from.meta.rows += u64::from(count);
        from.meta.bytes += frame.len() as u64;
        task.counts.shuffle_rows_written += u64::from(count);
        let block = BlockId {
            task: task.id,
            exchange: 0,
            partition: u32::try_from(partition).unwrap_or(u32::MAX),
        };
        task.services.append_block(block, Bytes::from(frame))
    }

    /// Writes what waits, and says what each block has become.
    pub(crate) fn finish(mut self, task: &mut TaskContext<'_>) -> Result<Vec<BlockMeta>, Failure> {
        for partition in 0..self.partitions.len() {
            self.close_frame(partition, task)?;
        }
        let finished = self.partitions.into_iter().map(|mut partition| {
            partition.meta.checksum = partition.hash.finish().hash;
            partition.meta
        });
        Ok(finished.collect())
    }
}

fn internal(error: &dyn std::error::Error) -> Failure {
    Failure::caused_by(
        FailureKind::Internal,
        "rows could not be written into an exchange",
        error,
    )
}

/// Reads one of the exchanges that a task's branch reads.
pub(crate) struct ExchangeReader {
    locations: Vec<BlockLocation>,
    frames: Box<dyn BlockFrames>,
    ready: std::collections::VecDeque<RecordBatch>,
}

impl ExchangeReader {
    pub(crate) fn open(list: usize, task: &mut TaskContext<'_>) -> Result<Self, Failure> {
        let locations = match &mut task.input {
            TaskInput::Blocks(lists) => lists.get_mut(list).map(std::mem::take),
            TaskInput::Split { .. } => None,
        };
        let locations = locations.ok_or_else(|| {
            Failure::new(
                FailureKind::Internal,
                format!(
                    "the task should read exchange {list} of its branch, but was given none such"
                ),
            )
        })?;
        Ok(Self {
            frames: task
                .services
                .fetch_blocks(locations.clone(), task.cancel.clone()),
            locations,
            ready: Default::default(),
        })
    }

    pub(crate) fn next(
        &mut self,
        task: &mut TaskContext<'_>,
    ) -> Result<Option<RecordBatch>, Failure> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                task.counts.shuffle_rows_read += batch.num_rows() as u64;
                return Ok(Some(batch));
            }
            let Some((location, bytes)) = self.frames.next()? else {
                return Ok(None);
            };
            let read = decode_frame(&bytes)
                .and_then(|frame| ipc::read(&frame.payload).map_err(|error| error.to_string()));
            match read {
                Ok((_, batches)) => self.ready.extend(batches),
                Err(reason) => return Err(self.damaged(location, &reason)),
            }
        }
    }

    fn damaged(&self, location: usize, reason: &str) -> Failure {
        match self.locations.get(location) {
            Some(location) => location.damaged(reason),
            None => task_failure(Error::internal(
                "a frame came for a block that was not asked for",
            )),
        }
    }
}
