//! A segment in memory.

use arrow::record_batch::RecordBatch;
use millstream_common::protocol::StateFile;

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
    pub(super) file: StateFile,
}

impl Segment {
    pub(super) fn new(
        rows: RecordBatch,
        removed: Vec<Box<[u8]>>,
        group_columns: usize,
        file: StateFile,
    ) -> Result<Self, Error> {
        let keys = keys::encode(&rows.columns()[..group_columns], rows.num_rows())?;
        Ok(Self {
            rows,
            keys,
            removed,
            file,
        })
    }

    /// Rows and removals: what it costs to write it again.
    pub(super) fn weight(&self) -> usize {
        self.rows.num_rows() + self.removed.len()
    }

    pub(super) fn memory(&self) -> usize {
        let removed: usize = self.removed.iter().map(|key| key.len()).sum();
        self.rows.get_array_memory_size() + self.keys.memory() + removed
    }
}
