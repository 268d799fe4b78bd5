//! What a watermark lets go: rows that come too late, and groups that are over.

use arrow::{
    array::BooleanArray,
    compute::{concat_batches, filter_record_batch, not},
    record_batch::RecordBatch,
};
use hashbrown::HashSet;
use millstream_dataflow::program::TaskContext;

use super::{GroupTable, time::micros};
use crate::{error::Error, keys, program::StateSpec};

/// Without the rows whose keys were over before the batch.
pub(crate) fn in_time(
    batch: RecordBatch,
    spec: &StateSpec,
    task: &mut TaskContext<'_>,
) -> Result<RecordBatch, Error> {
    let (Some(column), Some(late)) = (spec.time, task.watermarks.late) else {
        return Ok(batch);
    };
    let late = late.saturating_mul(1_000);
    let times = micros(batch.column(column).as_ref())?;
    let is_in_time = times
        .into_iter()
        .map(|time| Some(time.is_none_or(|time| time > late)));
    let is_in_time: BooleanArray = is_in_time.collect();
    let kept = filter_record_batch(&batch, &is_in_time)?;
    task.counts.late_rows += (batch.num_rows() - kept.num_rows()) as u64;
    Ok(kept)
}

/// What a batch's watermark lets go.
pub(crate) struct Over {
    /// Of the changed groups, those that stay.
    pub(crate) kept: RecordBatch,
    /// Keys that were there before and go.
    pub(crate) removed: Vec<Box<[u8]>>,
    /// All groups that go, as they are in the end: those that the batch didn't change by time and key, then those that it did.
    pub(crate) rows: RecordBatch,
}

impl Over {
    pub(crate) fn of(
        table: &GroupTable,
        changed: &RecordBatch,
        spec: &StateSpec,
        task: &TaskContext<'_>,
    ) -> Result<Self, Error> {
        let (Some(column), Some(evict)) = (spec.time, task.watermarks.evict) else {
            return Ok(Self {
                kept: changed.clone(),
                removed: Vec::new(),
                rows: RecordBatch::new_empty(changed.schema()),
            });
        };
        let evict = evict.saturating_mul(1_000);
        let times = micros(changed.column(column).as_ref())?;
        let is_over = times
            .into_iter()
            .map(|time| Some(time.is_some_and(|time| time <= evict)));
        let is_over: BooleanArray = is_over.collect();
        let kept = filter_record_batch(changed, &not(&is_over)?)?;
        let ended = filter_record_batch(changed, &is_over)?;
        let removed = table.over(evict);
        let ended_keys = keys::encode(&ended.columns()[..spec.group_columns], ended.num_rows())?;
        let just_changed: HashSet<&[u8]> = ended_keys.iter().collect();
        let unchanged = removed
            .iter()
            .map(|key| &key[..])
            .filter(|key| !just_changed.contains(key));
        let rows = match table.rows_of(unchanged)? {
            Some(rows) => concat_batches(&changed.schema(), [&rows, &ended])?,
            None => ended,
        };
        Ok(Self {
            kept,
            removed,
            rows,
        })
    }
}
