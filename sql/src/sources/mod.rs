//! Sources of streaming queries: what a reader was set to, as data that travels to executors, and both halves made of it.
//!
//! Layout:
//! - `convert`: texts as values of a column's type
//! - `csv`: lines of CSV cut into fields
//! - `files`: folders of files

pub(crate) mod convert;
pub(crate) mod csv;
pub(crate) mod files;

use std::sync::Arc;

use arrow::{datatypes::SchemaRef, record_batch::RecordBatch};
use jiff::tz::TimeZone;
use millstream_common::{failure::Failure, time::Clock};
use millstream_connectors::source::SourceDriver;
use millstream_dataflow::program::TaskContext;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::Error;

/// A source, as a plan's bytes have it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum SourceSpec {
    Files(files::FileSource),
}

/// Rows of a split.
pub(crate) trait BatchReader {
    /// The next rows, at most some thousand; none at the end.
    fn next(&mut self, task: &mut TaskContext<'_>) -> Result<Option<RecordBatch>, Failure>;
}

impl SourceSpec {
    /// Such as `csv`.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Files(files) => files.format.kind(),
        }
    }

    /// What a checkpoint depends on.
    pub(crate) fn fingerprint(&self) -> Value {
        match self {
            Self::Files(files) => files.fingerprint(),
        }
    }

    /// The driver half.
    pub(crate) fn driver(&self, clock: Arc<dyn Clock>) -> Result<Box<dyn SourceDriver>, Error> {
        match self {
            Self::Files(files) => files.driver(clock),
        }
    }

    /// Opens a split for a task: the columns of `projection` out of `schema`.
    pub(crate) fn open(
        &self,
        split: &Value,
        schema: &SchemaRef,
        projection: &[usize],
        zone: &TimeZone,
        task: &TaskContext<'_>,
    ) -> Result<Box<dyn BatchReader>, Failure> {
        match self {
            Self::Files(files) => files.open(split, schema, projection, zone, task),
        }
    }
}
