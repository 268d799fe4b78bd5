//! Files of lines: CSV, JSON, text.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, BooleanArray, StringBuilder},
    compute::filter_record_batch,
    datatypes::SchemaRef,
    record_batch::RecordBatch,
};
use jiff::tz::TimeZone;
use millstream_common::{
    failure::{Failure, FailureKind, Retry},
    text::Text,
};
use millstream_connectors::{
    source::{More, SplitReader},
    text_files::source::FileSplit,
};
use millstream_dataflow::program::TaskContext;

use super::{
    BatchReader, batch, convert,
    csv::{CsvOptions, Cutter},
    files::{FileSource, Mode},
    is_full, json,
    pattern::Patterns,
};
use crate::error::task_failure;

type SplitLines = Box<dyn SplitReader<Vec<Text>>>;

struct Lines {
    lines: SplitLines,
    chunk: Vec<Text>,
    is_over: bool,
}

impl Lines {
    fn new(lines: SplitLines) -> Self {
        Self {
            lines,
            chunk: Vec::new(),
            is_over: false,
        }
    }

    /// Lines until there are enough or no more; none at the end.
    fn take(&mut self, task: &mut TaskContext<'_>) -> Result<Vec<Text>, Failure> {
        let mut more = Vec::new();
        let mut bytes = 0;
        while !self.is_over && !is_full(self.chunk.len(), bytes) {
            self.is_over = self.lines.next(&mut more, task)? == More::No;
            bytes += more.iter().map(|line| line.as_str().len()).sum::<usize>();
            self.chunk.append(&mut more);
        }
        Ok(std::mem::take(&mut self.chunk))
    }
}

pub(super) struct TextReader {
    lines: Lines,
    schema: SchemaRef,
}

impl TextReader {
    pub(super) fn new(lines: SplitLines, schema: SchemaRef) -> Self {
        Self {
            lines: Lines::new(lines),
            schema,
        }
    }
}

impl BatchReader for TextReader {
    fn next(&mut self, task: &mut TaskContext<'_>) -> Result<Option<RecordBatch>, Failure> {
        let lines = self.lines.take(task)?;
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

/// Records that may not fit their schema.
struct Judge {
    mode: Mode,
    path: String,
}

impl Judge {
    /// What becomes of a file whose header differs from the schema.
    fn judge_header(
        &self,
        header: &str,
        names: &[String],
        enforces_schema: bool,
    ) -> Result<(), Failure> {
        let path = &self.path;
        let schema = names.join(",");
        if enforces_schema {
            tracing::warn!(
                path,
                header,
                schema,
                "the header of a file differs from the schema; its columns are taken by their places"
            );
            return Ok(());
        }
        let message = format!(
            "CSV header does not conform to the schema: {path} has `{header}`, the schema `{schema}`; correct one of them, or read with enforceSchema true, by which columns go by their places"
        );
        Err(Failure::new(FailureKind::BadInput, message)
            .with_code("files.header")
            .with_retry(Retry::Never))
    }

    /// What becomes of these rows, of which some are of records that don't fit. `of_rows` tells each row's record where it isn't the one of the row's number.
    fn judge(
        &self,
        made: RecordBatch,
        fits: Vec<bool>,
        of_rows: Option<&[usize]>,
        records: &[&Text],
        task: &mut TaskContext<'_>,
    ) -> Result<RecordBatch, Failure> {
        let malformed = fits.iter().filter(|fits| !**fits).count();
        if malformed == 0 {
            return Ok(made);
        }
        task.counts.malformed += malformed as u64;
        match self.mode {
            Mode::Permissive => Ok(made),
            Mode::DropMalformed => {
                let kept = match of_rows {
                    Some(of_rows) => of_rows.iter().map(|record| fits[*record]).collect(),
                    None => fits,
                };
                filter_record_batch(&made, &BooleanArray::from(kept))
                    .map_err(|error| task_failure(error.into()))
            }
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

/// Whether a header names these columns; names know no case.
fn is_header_of(cutter: &mut Cutter, line: &str, names: &[String]) -> bool {
    let mut is_same = true;
    let found = cutter.cut(line, |number, text| {
        let name = names.get(number).map(|name| name.to_lowercase());
        is_same &= name == text.map(str::to_lowercase);
    });
    is_same && found == names.len()
}

pub(super) struct CsvReader {
    lines: Lines,
    /// The schema's names, until the header was compared with them.
    header: Option<Vec<String>>,
    enforces_schema: bool,
    cutter: Cutter,
    judge: Judge,
    /// A builder for each projected column.
    texts: Vec<StringBuilder>,
    /// Of each column of the file, its place among the projected ones.
    wanted: Vec<Option<usize>>,
    schema: SchemaRef,
    zone: TimeZone,
    patterns: Patterns,
}

impl CsvReader {
    #[expect(
        clippy::too_many_arguments,
        reason = "a reader's parts, each of another kind"
    )]
    pub(super) fn new(
        lines: SplitLines,
        options: &CsvOptions,
        source: &FileSource,
        part: &FileSplit,
        schema: &SchemaRef,
        projection: &[usize],
        to: SchemaRef,
        zone: &TimeZone,
    ) -> Self {
        let mut wanted = vec![None; schema.fields().len()];
        for (position, column) in projection.iter().enumerate() {
            wanted[*column] = Some(position);
        }
        Self {
            lines: Lines::new(lines),
            header: (options.header && part.start == 0).then(|| {
                let names = schema.fields().iter();
                names.map(|field| field.name().clone()).collect()
            }),
            enforces_schema: options.enforce_schema,
            cutter: Cutter::new(options.clone()),
            judge: Judge {
                mode: source.mode,
                path: part.path.clone(),
            },
            texts: projection.iter().map(|_| StringBuilder::new()).collect(),
            wanted,
            schema: to,
            zone: zone.clone(),
            patterns: source.patterns.clone(),
        }
    }

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
            if let Some(names) = self.header.take() {
                task.counts.input_rows = task.counts.input_rows.saturating_sub(1);
                if !is_header_of(&mut self.cutter, line, &names) {
                    self.judge
                        .judge_header(line, &names, self.enforces_schema)?;
                    task.counts.malformed += 1;
                }
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
            let values = convert::column(&texts, field.data_type(), &self.zone, &self.patterns)
                .map_err(task_failure)?;
            if values.null_count() > texts.null_count() {
                for (row, fits) in fits.iter_mut().enumerate() {
                    *fits &= values.is_null(row) == texts.is_null(row);
                }
            }
            arrays.push(values);
        }
        let made = batch(&self.schema, arrays, records.len())?;
        self.judge.judge(made, fits, None, &records, task)
    }
}

impl BatchReader for CsvReader {
    fn next(&mut self, task: &mut TaskContext<'_>) -> Result<Option<RecordBatch>, Failure> {
        loop {
            let lines = self.lines.take(task)?;
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

pub(super) struct JsonReader {
    lines: Lines,
    judge: Judge,
    schema: SchemaRef,
    zone: TimeZone,
    patterns: Patterns,
}

impl JsonReader {
    pub(super) fn new(
        lines: SplitLines,
        source: &FileSource,
        path: String,
        schema: SchemaRef,
        zone: &TimeZone,
    ) -> Self {
        Self {
            lines: Lines::new(lines),
            judge: Judge {
                mode: source.mode,
                path,
            },
            schema,
            zone: zone.clone(),
            patterns: source.patterns.clone(),
        }
    }
}

impl BatchReader for JsonReader {
    fn next(&mut self, task: &mut TaskContext<'_>) -> Result<Option<RecordBatch>, Failure> {
        loop {
            let lines = self.lines.take(task)?;
            if lines.is_empty() {
                return Ok(None);
            }
            let records: Vec<&Text> = lines
                .iter()
                .filter(|line| !line.trim().is_empty())
                .collect();
            let texts = records.iter().map(|line| line.as_str());
            let fields = self.schema.fields();
            let parsed = json::parse_records(texts, fields, &self.zone, &self.patterns)
                .map_err(task_failure)?;
            // Lines were counted as rows.
            let rows = parsed.of_rows.len();
            let counted = task.counts.input_rows + rows as u64;
            task.counts.input_rows = counted.saturating_sub(records.len() as u64);
            let made = batch(&self.schema, parsed.columns, rows)?;
            let of_rows = Some(parsed.of_rows.as_slice());
            let judge = &self.judge;
            let kept = judge.judge(made, parsed.fits, of_rows, &records, task)?;
            if kept.num_rows() > 0 {
                return Ok(Some(kept));
            }
        }
    }
}
