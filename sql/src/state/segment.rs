//! A segment in memory.

use arrow::record_batch::RecordBatch;
use millstream_common::protocol::StateFile;

use super::{Layout, time};
use crate::{
    error::Error,
    keys::{self, Keys},
};

/// What one batch changed, or what several segments came to.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) rows: RecordBatch,
    pub(super) keys: Keys,
    /// Keys that are gone since the segments before.
    pub(super) removed: Vec<Box<[u8]>>,
    /// Event times of the rows, where keys have one.
    pub(super) times: Vec<Option<i64>>,
    pub(super) file: StateFile,
}

impl Segment {
    pub(super) fn new(
        rows: RecordBatch,
        removed: Vec<Box<[u8]>>,
        layout: &Layout,
        file: StateFile,
    ) -> Result<Self, Error> {
        let keys = keys::encode(&rows.columns()[..layout.group_columns], rows.num_rows())?;
        let times = match layout.time {
            Some(column) => time::micros(rows.column(column).as_ref())?,
            None => Vec::new(),
        };
        Ok(Self {
            rows,
            keys,
            removed,
            times,
            file,
        })
    }

    /// Rows and removals: what it costs to write it again.
    pub(super) fn weight(&self) -> usize {
        self.rows.num_rows() + self.removed.len()
    }

    pub(super) fn time(&self, row: u32) -> Option<i64> {
        self.times.get(row as usize).copied().flatten()
    }

    pub(super) fn memory(&self) -> usize {
        let removed: usize = self.removed.iter().map(|key| key.len()).sum();
        let times = self.times.capacity() * size_of::<Option<i64>>();
        self.rows.get_array_memory_size() + self.keys.memory() + removed + times
    }
}
