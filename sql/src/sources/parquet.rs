//! Parquet files: a file is one split.

use std::{fs::File, sync::Arc};

use arrow::{
    array::{ArrayRef, new_null_array},
    compute::{CastOptions, cast_with_options},
    datatypes::SchemaRef,
    record_batch::RecordBatch,
};
use millstream_common::failure::{Failure, FailureKind, Retry};
use millstream_connectors::text_files::source::FileSplit;
use millstream_dataflow::program::TaskContext;
use parquet::arrow::{
    ProjectionMask,
    arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder},
};

use super::{BATCH_ROWS, BatchReader, batch};

pub(super) struct ParquetReader {
    batches: ParquetRecordBatchReader,
    path: String,
    schema: SchemaRef,
}

fn unreadable(path: &str, error: &dyn std::error::Error) -> Failure {
    Failure::caused_by(
        FailureKind::BadInput,
        format!("{path} can't be read as Parquet; take it away, or write it anew"),
        error,
    )
    .with_retry(Retry::Never)
}

impl ParquetReader {
    pub(super) fn open(split: &FileSplit, schema: SchemaRef) -> Result<Self, Failure> {
        let path = &split.path;
        let gone = |error: std::io::Error| {
            Failure::caused_by(
                FailureKind::Io,
                format!(
                    "{path} can't be opened; put it back, or see that this executor has the same file system as the driver"
                ),
                &error,
            )
        };
        let file = File::open(path).map_err(gone)?;
        let length = file.metadata().map_err(gone)?.len();
        if length != split.size {
            return Err(Failure::new(
                FailureKind::Io,
                format!(
                    "{path} has {length} bytes, but had {} when it was planned; let files appear complete by renaming them into the folder",
                    split.size
                ),
            ));
        }
        let builder = ParquetRecordBatchReaderBuilder::try_new(file)
            .map_err(|error| unreadable(path, &error))?;
        let has = builder.schema();
        let wanted = schema.fields().iter();
        let roots: Vec<usize> = wanted
            .filter_map(|field| has.index_of(field.name()).ok())
            .collect();
        let mask = ProjectionMask::roots(builder.parquet_schema(), roots);
        let batches = builder
            .with_projection(mask)
            .with_batch_size(BATCH_ROWS)
            .build()
            .map_err(|error| unreadable(path, &error))?;
        Ok(Self {
            batches,
            path: path.clone(),
            schema,
        })
    }

    /// Columns by name and of the types asked for; null where the file has none.
    fn fitted(&self, read: &RecordBatch) -> Result<RecordBatch, Failure> {
        let rows = read.num_rows();
        let mut columns: Vec<ArrayRef> = Vec::new();
        for field in self.schema.fields() {
            let options = CastOptions {
                safe: false,
                ..CastOptions::default()
            };
            columns.push(match read.column_by_name(field.name()) {
                None => new_null_array(field.data_type(), rows),
                Some(column) if column.data_type() == field.data_type() => Arc::clone(column),
                Some(column) => cast_with_options(column, field.data_type(), &options)
                    .map_err(|error| unreadable(&self.path, &error))?,
            });
        }
        batch(&self.schema, columns, rows)
    }
}

impl BatchReader for ParquetReader {
    fn next(&mut self, task: &mut TaskContext<'_>) -> Result<Option<RecordBatch>, Failure> {
        task.cancel.check()?;
        match self.batches.next() {
            None => Ok(None),
            Some(Err(error)) => Err(unreadable(&self.path, &error)),
            Some(Ok(read)) => {
                task.counts.input_rows += read.num_rows() as u64;
                task.counts.input_bytes += read.get_array_memory_size() as u64;
                self.fitted(&read).map(Some)
            }
        }
    }
}
