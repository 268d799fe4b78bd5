//! Task and block ids, uuids.

use bytes::Bytes;
use millstream_common::ids::{BatchId, BlockId, Epoch, ExecutorId, QueryId, StageId, TaskId};
use uuid::Uuid;

use super::{ConversionError, require};
use crate::pb;

pub(super) fn wire_query(query: QueryId) -> Bytes {
    Bytes::copy_from_slice(query.0.as_bytes())
}

pub(super) fn wire_executor(executor: ExecutorId) -> Bytes {
    Bytes::copy_from_slice(executor.0.as_bytes())
}

pub(super) fn query(
    bytes: &[u8],
    message: &'static str,
    field: &'static str,
) -> Result<QueryId, ConversionError> {
    uuid(bytes, message, field).map(QueryId)
}

pub(super) fn executor(
    bytes: &[u8],
    message: &'static str,
    field: &'static str,
) -> Result<ExecutorId, ConversionError> {
    uuid(bytes, message, field).map(ExecutorId)
}

fn uuid(bytes: &[u8], message: &'static str, field: &'static str) -> Result<Uuid, ConversionError> {
    Uuid::from_slice(bytes).map_err(|_| {
        ConversionError::new(
            message,
            field,
            format!("an id has 16 bytes, this has {}", bytes.len()),
        )
    })
}

impl From<TaskId> for pb::TaskId {
    fn from(task: TaskId) -> Self {
        Self {
            query: wire_query(task.query),
            epoch: task.epoch.0,
            batch: task.batch.0,
            stage: task.stage.0,
            partition: task.partition,
            attempt: task.attempt,
        }
    }
}

impl TryFrom<pb::TaskId> for TaskId {
    type Error = ConversionError;

    fn try_from(task: pb::TaskId) -> Result<Self, ConversionError> {
        Ok(Self {
            query: query(&task.query, "TaskId", "query")?,
            epoch: Epoch(task.epoch),
            batch: BatchId(task.batch),
            stage: StageId(task.stage),
            partition: task.partition,
            attempt: task.attempt,
        })
    }
}

impl From<BlockId> for pb::BlockId {
    fn from(block: BlockId) -> Self {
        Self {
            task: Some(block.task.into()),
            exchange: block.exchange,
            partition: block.partition,
        }
    }
}

impl TryFrom<pb::BlockId> for BlockId {
    type Error = ConversionError;

    fn try_from(block: pb::BlockId) -> Result<Self, ConversionError> {
        Ok(Self {
            task: require(block.task, "BlockId", "task")?.try_into()?,
            exchange: block.exchange,
            partition: block.partition,
        })
    }
}
