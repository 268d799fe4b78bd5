//! Sources of streaming queries: what a reader was set to, as data that travels to executors, and both halves made of it.
//!
//! Layout:
//! - `convert`: texts as values of a column's type
//! - `csv`: lines of CSV cut into fields
//! - `files`: folders of files
//! - `json`: lines of JSON as values
//! - `json_text`: JSON as values that keep their text
//! - `kafka`: topics
//! - `lines`: files of lines: CSV, JSON, text
//! - `memory`: rows that a program gives, for tests
//! - `parquet`: Parquet files
//! - `pattern`: Java's patterns of dates and times
//! - `rate`: rows by the clock, for trials

pub(crate) mod convert;
pub(crate) mod csv;
pub(crate) mod files;
pub(crate) mod json;
mod json_text;
pub(crate) mod kafka;
mod lines;
pub(crate) mod memory;
mod parquet;
pub(crate) mod pattern;
pub(crate) mod rate;

use std::sync::{Arc, OnceLock};

use arrow::{
    array::ArrayRef,
    datatypes::SchemaRef,
    record_batch::{RecordBatch, RecordBatchOptions},
};
use jiff::tz::TimeZone;
use millstream_common::{
    failure::Failure,
    time::{Clock, SystemClock},
};
use millstream_connectors::{
    kafka::KafkaSplits,
    source::{SourceDriver, SplitSource},
};
use millstream_dataflow::program::TaskContext;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, task_failure};

/// Rows of a batch that a reader gives.
const BATCH_ROWS: usize = 8_192;

/// So many bytes of records close a batch early: long ones must fit the memory, and a column its offsets.
const BATCH_BYTES: usize = 8 << 20;

/// A source, as a plan's bytes have it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum SourceSpec {
    Files(files::FileSource),
    Kafka(kafka::KafkaSource),
    Rate(rate::RateSource),
    /// What [`memory::MemoryStream`] gave is in the splits themselves.
    Memory,
}

/// What a query's start says to its sources.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Only what is there at the start.
    pub(crate) only_present: bool,
    /// All of it in one batch.
    pub(crate) at_once: bool,
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
            Self::Kafka(_) => "kafka",
            Self::Rate(_) => "rate",
            Self::Memory => "memory",
        }
    }

    /// What a checkpoint depends on.
    pub(crate) fn fingerprint(&self) -> Value {
        match self {
            Self::Files(files) => files.fingerprint(),
            Self::Kafka(kafka) => kafka.fingerprint(),
            Self::Rate(rate) => rate.fingerprint(),
            Self::Memory => Value::Null,
        }
    }

    /// Spark's description, for progress.
    pub(crate) fn description(&self) -> String {
        match self {
            Self::Files(files) => format!("FileStreamSource[file:{}]", files.folder),
            Self::Kafka(kafka) => kafka.description(),
            Self::Rate(_) => "RateStreamV2".to_owned(),
            Self::Memory => "MemoryStream".to_owned(),
        }
    }

    /// The driver half.
    pub(crate) fn driver(
        &self,
        clock: Arc<dyn Clock>,
        bounds: Bounds,
        rows: Option<&memory::MemoryRows>,
    ) -> Result<Box<dyn SourceDriver>, Error> {
        match self {
            Self::Files(files) => files.driver(clock, bounds),
            Self::Kafka(kafka) => kafka.driver(clock, bounds),
            Self::Rate(rate) => Ok(rate.driver(clock, bounds)),
            Self::Memory => match rows {
                Some(rows) => Ok(rows.driver()),
                None => Err(Error::internal("a memory stream without rows")),
            },
        }
    }
}

/// A source on an executor, with what it holds from batch to batch.
pub(crate) struct ExecutorSource {
    spec: SourceSpec,
    kafka: OnceLock<KafkaSplits>,
}

impl ExecutorSource {
    pub(crate) fn new(spec: SourceSpec) -> Self {
        Self {
            spec,
            kafka: OnceLock::new(),
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
        match &self.spec {
            SourceSpec::Files(files) => files.open(split, schema, projection, zone, task),
            SourceSpec::Kafka(kafka) => {
                let splits = self.kafka.get_or_init(|| {
                    KafkaSplits::new(kafka.settings(), Arc::new(SystemClock::new()))
                });
                let projected = projected(schema, projection)?;
                Ok(Box::new(kafka::RecordReader::new(
                    splits.open(split, task)?,
                    projected,
                )))
            }
            SourceSpec::Rate(_) => rate::open(split, projected(schema, projection)?),
            SourceSpec::Memory => memory::open(split, projection),
        }
    }

    pub(crate) fn close(&self) {
        if let Some(splits) = self.kafka.get() {
            splits.close();
        }
    }
}

/// Whether so many rows, of so many bytes, are a batch.
fn is_full(rows: usize, bytes: usize) -> bool {
    rows >= BATCH_ROWS || bytes >= BATCH_BYTES
}

fn projected(schema: &SchemaRef, projection: &[usize]) -> Result<SchemaRef, Failure> {
    let projected = schema.project(projection);
    projected
        .map(Arc::new)
        .map_err(|error| task_failure(error.into()))
}

fn batch(schema: &SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch, Failure> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
        .map_err(|error| task_failure(error.into()))
}
