//! The state of an aggregate for one partition: its own changelog.
//!
//! Each batch's new group states are one segment: a record batch in memory and a file in the checkpoint, alike. A segment never changes and has an index of its
//! own keys; a key's newest row is in the newest segment that knows it. Segments of like size are merged into larger ones now and then, so there are
//! few of them, and a row is written again only about log(n) times. Threads of the executor do that beside the tasks; a task only puts the result in the
//! place of what was merged, so a batch costs what it touches.
//!
//! In memory there is what a commit lists, and beside it the changes of at most one batch that may not be committed. A task names the files that it goes on
//! from: they tell whether those changes count, or don't, or which files must be read.
//!
//! Layout:
//! - `file`: a segment as a file
//! - `merging`: which segments are merged when, beside the tasks
//! - `over`: what a watermark lets go
//! - `segment`: a segment in memory
//! - `table`: segments and the version that they make
//! - `time`: event times of keys
//! - `timers`: keys by when they are over

mod file;
mod merging;
mod over;
mod segment;
mod table;
#[cfg(test)]
mod tests;
mod time;
mod timers;

use arrow::{
    datatypes::{Field, SchemaRef},
    record_batch::RecordBatch,
};

pub(crate) use merging::StateIo;
pub(crate) use over::{Over, in_time};
pub(crate) use table::GroupTable;

/// How the rows of groups are laid out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) schema: SchemaRef,
    /// The first so many columns are the key.
    pub(crate) group_columns: usize,
    /// The column of the key that is an event time or a window of them, by which a watermark lets groups go.
    pub(crate) time: Option<usize>,
}

impl Layout {
    /// Rows of columns of the same types; what else is said of a column, such as its name or whether it holds event times, may change from run to run. Other
    /// rows are given back.
    fn laid_out(&self, rows: RecordBatch) -> Result<RecordBatch, RecordBatch> {
        let is_alike =
            |(ours, theirs): (&Field, &Field)| ours.data_type().equals_datatype(theirs.data_type());
        let known = rows.schema();
        let ours = self.schema.fields().iter().map(AsRef::as_ref);
        let theirs = known.fields().iter().map(AsRef::as_ref);
        if ours.len() != theirs.len() || !ours.zip(theirs).all(is_alike) {
            return Err(rows);
        }
        let columns = rows.columns().to_vec();
        RecordBatch::try_new(SchemaRef::clone(&self.schema), columns).map_err(|_| rows)
    }
}
