//! Parquet files: a file is one split.

use std::{fs::File, io, sync::Arc};

use arrow::{
    array::{ArrayRef, new_null_array},
    compute::{CastOptions, cast_with_options},
    datatypes::SchemaRef,
    record_batch::RecordBatch,
};
use millstream_common::failure::{Failure, FailureKind, Retry};
use millstream_connectors::text_files::source::{FileSplit, OnChanged};
use millstream_dataflow::program::TaskContext;
use parquet::arrow::{
    ProjectionMask,
    arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder},
};

use super::{BATCH_ROWS, BatchReader, batch, files::FileSource};

pub(super) struct ParquetReader {
    /// None once there is nothing more to read.
    batches: Option<ParquetRecordBatchReader>,
    path: String,
    schema: SchemaRef,
    ignores_corrupt: bool,
    /// Times that the file wasn't as planned and reading went on, not yet counted.
    lost: u64,
}

impl ParquetReader {
    pub(super) fn open(
        split: FileSplit,
        source: &FileSource,
        schema: SchemaRef,
    ) -> Result<Self, Failure> {
        let mut reader = Self {
            batches: None,
            path: split.path,
            schema,
            ignores_corrupt: source.ignore_corrupt_files,
            lost: 0,
        };
        let file = match File::open(&reader.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let gone = changed(
                    &reader.path,
                    "it is gone; put it back, or see that this executor has the same file system as the driver; option ignoreMissingFiles, or files.on_changed = warn, goes on without",
                );
                reader.tolerate(gone, source.on_missing() == OnChanged::Warn)?;
                return Ok(reader);
            }
            Err(error) => return Err(reader.unopened(&error)),
        };
        let metadata = file.metadata();
        let length = metadata.map_err(|error| reader.unopened(&error))?.len();
        if length != split.size {
            let found = format!(
                "it has {length} bytes now, {} when it was planned; let files appear complete by renaming them into the folder, or set files.min_age; files.on_changed = warn reads it as it is",
                split.size
            );
            let other = changed(&reader.path, &found);
            reader.tolerate(other, source.on_changed() == OnChanged::Warn)?;
        }
        match reader.batches_of(file) {
            Ok(batches) => reader.batches = Some(batches),
            Err(error) => reader.tolerate_corrupt(&error)?,
        }
        Ok(reader)
    }

    fn batches_of(&self, file: File) -> parquet::errors::Result<ParquetRecordBatchReader> {
        let builder = ParquetRecordBatchReaderBuilder::try_new(file)?;
        let has = builder.schema();
        let wanted = self.schema.fields().iter();
        let roots: Vec<usize> = wanted
            .filter_map(|field| has.index_of(field.name()).ok())
            .collect();
        let mask = ProjectionMask::roots(builder.parquet_schema(), roots);
        builder
            .with_projection(mask)
            .with_batch_size(BATCH_ROWS)
            .build()
    }

    fn unopened(&self, error: &io::Error) -> Failure {
        let message = format!("{} can't be read", self.path);
        Failure::caused_by(FailureKind::Io, message, error).with_code("files.read")
    }

    fn tolerate(&mut self, problem: Failure, tolerates: bool) -> Result<(), Failure> {
        if !tolerates {
            return Err(problem);
        }
        self.lost += 1;
        tracing::warn!(failure = %problem, "input is lost; going on with what is there");
        Ok(())
    }

    fn tolerate_corrupt(&mut self, error: &dyn std::error::Error) -> Result<(), Failure> {
        let corrupt = Failure::caused_by(
            FailureKind::BadInput,
            format!(
                "{} can't be read as Parquet; option ignoreCorruptFiles goes on without it, or write it anew under its name and set files.on_changed = warn",
                self.path
            ),
            error,
        )
        .with_code("files.corrupt")
        .with_retry(Retry::Never);
        self.tolerate(corrupt, self.ignores_corrupt)
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
                Some(column) => cast_with_options(column, field.data_type(), &options).map_err(
                    |error| {
                        let message = format!(
                            "column {} of {} is {} and can't be read as {}; correct the schema, or take the file away and set ignoreMissingFiles",
                            field.name(),
                            self.path,
                            column.data_type(),
                            field.data_type()
                        );
                        Failure::caused_by(FailureKind::BadInput, message, &error)
                            .with_retry(Retry::Never)
                    },
                )?,
            });
        }
        batch(&self.schema, columns, rows)
    }
}

fn changed(path: &str, found: &str) -> Failure {
    let message = format!("{path} can't be read as planned: {found}");
    Failure::new(FailureKind::DataLoss, message).with_code("files.changed")
}

impl BatchReader for ParquetReader {
    fn next(&mut self, task: &mut TaskContext<'_>) -> Result<Option<RecordBatch>, Failure> {
        task.cancel.check()?;
        let next = self.batches.as_mut().and_then(Iterator::next);
        let given = match next {
            None => None,
            Some(Ok(read)) => {
                task.counts.input_rows += read.num_rows() as u64;
                task.counts.input_bytes += read.get_array_memory_size() as u64;
                Some(self.fitted(&read)?)
            }
            Some(Err(error)) => {
                self.tolerate_corrupt(&error)?;
                self.batches = None;
                None
            }
        };
        task.counts.malformed += std::mem::take(&mut self.lost);
        Ok(given)
    }
}
