//! Folders of files: each file is read once, by the time of its last change.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, BooleanArray, StringBuilder},
    compute::filter_record_batch,
    datatypes::SchemaRef,
    record_batch::{RecordBatch, RecordBatchOptions},
};
use jiff::tz::TimeZone;
use millstream_common::{
    failure::{Failure, FailureKind},
    text::Text,
    time::Clock,
};
use millstream_connectors::{
    malformed::OnMalformed,
    source::{More, SourceDriver, SplitReader, SplitSource},
    text_files::source::{FileSplit, Settings, TextFileDriver, TextFileSplits},
};
use millstream_dataflow::program::TaskContext;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    BatchReader, convert,
    csv::{CsvOptions, Cutter},
};
use crate::error::{Error, task_failure};

/// Rows of a batch that a reader gives.
const BATCH_ROWS: usize = 8_192;

/// What is in the files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Format {
    Csv(CsvOptions),
    /// One column, `value`: the line.
    Text,
}

impl Format {
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Csv(_) => "csv",
            Self::Text => "text",
        }
    }
}

/// What becomes of a record that doesn't fit the schema.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Mode {
    /// Null where there is no value; fields too many are left out.
    #[default]
    Permissive,
    /// The record is left out.
    DropMalformed,
    /// The query ends.
    FailFast,
}

/// A folder of files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct FileSource {
    pub(crate) format: Format,
    pub(crate) folder: String,
    pub(crate) mode: Mode,
    pub(crate) max_files_per_trigger: Option<u32>,
}

impl FileSource {
    fn settings(&self) -> Arc<Settings> {
        let mut settings = Settings::new(&self.folder);
        settings.existing_files = true;
        settings.max_files_per_batch = self.max_files_per_trigger;
        settings.on_malformed = match self.mode {
            Mode::Permissive => OnMalformed::Replace,
            Mode::DropMalformed => OnMalformed::Drop,
            Mode::FailFast => OnMalformed::Fail,
        };
        Arc::new(settings)
    }

    pub(crate) fn fingerprint(&self) -> Value {
        json!({ "directory": self.folder })
    }

    pub(crate) fn driver(&self, clock: Arc<dyn Clock>) -> Result<Box<dyn SourceDriver>, Error> {
        let driver = TextFileDriver::new(self.settings(), clock)
            .map_err(|error| Error::option("path", &self.folder, error.to_string()))?;
        Ok(Box::new(driver))
    }

    pub(crate) fn open(
        &self,
        split: &Value,
        schema: &SchemaRef,
        projection: &[usize],
        zone: &TimeZone,
        task: &TaskContext<'_>,
    ) -> Result<Box<dyn BatchReader>, Failure> {
        let part = FileSplit::deserialize(split).map_err(|error| {
            Failure::caused_by(FailureKind::Internal, "a split can't be read", &error)
        })?;
        let lines = TextFileSplits::new(self.settings()).open(split, task)?;
        let projected = schema
            .project(projection)
            .map_err(|error| task_failure(error.into()))?;
        let lines = Lines {
            lines,
            chunk: Vec::new(),
            is_over: false,
        };
        let projected = Arc::new(projected);
        Ok(match &self.format {
            Format::Csv(options) => {
                let mut wanted = vec![None; schema.fields().len()];
                for (position, column) in projection.iter().enumerate() {
                    wanted[*column] = Some(position);
                }
                Box::new(CsvReader {
                    lines,
                    skips_header: options.header && part.start == 0,
                    cutter: Cutter::new(options.clone()),
                    mode: self.mode,
                    texts: projection.iter().map(|_| StringBuilder::new()).collect(),
                    wanted,
                    schema: projected,
                    zone: zone.clone(),
                    path: part.path,
                })
            }
            Format::Text => Box::new(TextReader {
                lines,
                schema: projected,
            }),
        })
    }
}

struct Lines {
    lines: Box<dyn SplitReader<Vec<Text>>>,
    chunk: Vec<Text>,
    is_over: bool,
}

impl Lines {
    /// Appends lines to the chunk until there are enough or no more.
    fn fill(&mut self, task: &mut TaskContext<'_>) -> Result<(), Failure> {
        let mut more = Vec::new();
        while !self.is_over && self.chunk.len() < BATCH_ROWS {
            self.is_over = self.lines.next(&mut more, task)? == More::No;
            self.chunk.append(&mut more);
        }
        Ok(())
    }
}

struct TextReader {
    lines: Lines,
    schema: SchemaRef,
}

impl BatchReader for TextReader {
    fn next(&mut self, task: &mut TaskContext<'_>) -> Result<Option<RecordBatch>, Failure> {
        self.lines.fill(task)?;
        let lines = std::mem::take(&mut self.lines.chunk);
        if lines.is_empty() {
            return Ok(None);
        }
        let mut columns: Vec<ArrayRef> = Vec::new();
        if !self.schema.fields().is_empty() {
            let mut values = StringBuilder::new();
            lines.iter().for_each(|line| values.append_value(line));
            columns.push(Arc::new(values.finish()));
        }
        batch(&self.schema, columns, lines.len()).map(Some)
    }
}

fn batch(schema: &SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch, Failure> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
        .map_err(|error| task_failure(error.into()))
}

struct CsvReader {
    lines: Lines,
    skips_header: bool,
    cutter: Cutter,
    mode: Mode,
    /// A builder for each projected column.
    texts: Vec<StringBuilder>,
    /// Of each column of the file, its place among the projected ones.
    wanted: Vec<Option<usize>>,
    schema: SchemaRef,
    zone: TimeZone,
    path: String,
}

impl BatchReader for CsvReader {
    fn next(&mut self, task: &mut TaskContext<'_>) -> Result<Option<RecordBatch>, Failure> {
        loop {
            self.lines.fill(task)?;
            let lines = std::mem::take(&mut self.lines.chunk);
            if lines.is_empty() {
                return Ok(None);
            }
            let batch = self.parse(&lines, task)?;
            if batch.num_rows() > 0 {
                return Ok(Some(batch));
            }
        }
    }
}

impl CsvReader {
    fn parse(
        &mut self,
        lines: &[Text],
        task: &mut TaskContext<'_>,
    ) -> Result<RecordBatch, Failure> {
        let columns = self.wanted.len();
        // Per record, whether it is as the schema has it, and the line it was.
        let mut fits: Vec<bool> = Vec::with_capacity(lines.len());
        let mut records: Vec<&Text> = Vec::with_capacity(lines.len());
        for line in lines {
            if self.cutter.is_passed_over(line) {
                continue;
            }
            if std::mem::take(&mut self.skips_header) {
                task.counts.input_rows = task.counts.input_rows.saturating_sub(1);
                continue;
            }
            let (texts, wanted) = (&mut self.texts, &self.wanted);
            let fields = self.cutter.cut(line, |number, text| {
                if let Some(Some(position)) = wanted.get(number) {
                    texts[*position].append_option(text);
                }
            });
            for position in wanted.iter().skip(fields).flatten() {
                texts[*position].append_null();
            }
            fits.push(fields == columns);
            records.push(line);
        }
        let mut arrays = Vec::with_capacity(self.texts.len());
        for (builder, field) in self.texts.iter_mut().zip(self.schema.fields()) {
            let texts = builder.finish();
            let values =
                convert::column(&texts, field.data_type(), &self.zone).map_err(task_failure)?;
            if values.null_count() > texts.null_count() {
                for (row, fits) in fits.iter_mut().enumerate() {
                    *fits &= values.is_null(row) == texts.is_null(row);
                }
            }
            arrays.push(values);
        }
        let rows = records.len();
        let made = batch(&self.schema, arrays, rows)?;
        let malformed = fits.iter().filter(|fits| !**fits).count();
        if malformed == 0 {
            return Ok(made);
        }
        task.counts.malformed += malformed as u64;
        match self.mode {
            Mode::Permissive => Ok(made),
            Mode::DropMalformed => filter_record_batch(&made, &BooleanArray::from(fits))
                .map_err(|error| task_failure(error.into())),
            Mode::FailFast => {
                let first = fits.iter().position(|fits| !fits);
                let line = first
                    .and_then(|row| records.get(row))
                    .map(|line| line.as_str());
                Err(Failure::new(
                    FailureKind::BadInput,
                    format!(
                        "a record of {} doesn't fit the schema: `{}`; correct it, or read with mode PERMISSIVE or DROPMALFORMED",
                        self.path,
                        line.unwrap_or_default()
                    ),
                ))
            }
        }
    }
}
