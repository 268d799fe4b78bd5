//! Files in a folder, exactly once: an attempt stages its files below `.staging/` of the folder, and the driver renames those of the winners when the batch has committed.
//!
//! With partition columns files lie in folders such as `day=2026-11-22/`; those columns are not in the files. A file's name tells query, batch and partition, so no other
//! batch has it, and a batch that runs again has the same.
//!
//! Layout:
//! - `publish`: the driver half
//! - `rows`: rows as CSV, JSON and text
//! - `writer`: the executor half

mod publish;
mod rows;
mod writer;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use arrow::{
    array::new_null_array,
    datatypes::{DataType, FieldRef, Schema, SchemaRef},
    record_batch::RecordBatch,
};
use millstream_common::ids::{BatchId, Epoch, QueryId};
use millstream_connectors::{sink::WriteId, text_files::sink::StagedFile};
use parquet::arrow::ArrowWriter;
use serde::{Deserialize, Serialize};

pub(crate) use publish::FilePublisher;
pub(crate) use writer::FilesWriter;

use crate::{
    error::Error,
    options::Options,
    reader::path_of,
    show::{check_columns, unfit},
};

const STAGING: &str = ".staging";

/// How rows are written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum FileFormat {
    Csv(CsvStyle),
    Json,
    Parquet,
    Text,
}

/// How CSV is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CsvStyle {
    pub(crate) header: bool,
    pub(crate) separator: char,
    pub(crate) quote: char,
    pub(crate) escape: char,
    pub(crate) null_value: String,
    /// Written for a text without letters.
    pub(crate) empty_value: String,
    /// White space at the beginning of a text isn't written.
    pub(crate) trim_start: bool,
    pub(crate) trim_end: bool,
}

impl FileFormat {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Csv(_) => "csv",
            Self::Json => "json",
            Self::Parquet => "parquet",
            Self::Text => "text",
        }
    }

    fn extension(&self) -> &'static str {
        match self {
            Self::Csv(_) => "csv",
            Self::Json => "json",
            Self::Parquet => "snappy.parquet",
            Self::Text => "txt",
        }
    }
}

/// Where and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileSink {
    pub(crate) format: FileFormat,
    pub(crate) folder: PathBuf,
    pub(crate) partition_by: Vec<String>,
    /// The output's stable id.
    pub(crate) output: String,
    pub(crate) fsync: bool,
}

impl FileSink {
    pub(crate) fn of(
        format: &str,
        options: &mut Options,
        partition_by: Vec<String>,
        output: String,
        fsync: bool,
    ) -> Result<Self, Error> {
        let path = options
            .take("path")
            .ok_or_else(|| Error::option("path", "", "say in which folder files are written"))?;
        let mut known = vec!["path", "checkpointLocation"];
        let format = match format {
            "csv" => {
                // As Spark: no letter is the one that no text has.
                let letter = |given: Option<Option<char>>, default| {
                    given.map_or(default, Option::unwrap_or_default)
                };
                known.extend([
                    "header",
                    "sep",
                    "quote",
                    "escape",
                    "nullValue",
                    "emptyValue",
                    "ignoreLeadingWhiteSpace",
                    "ignoreTrailingWhiteSpace",
                ]);
                let trim_start = options.take_bool("ignoreLeadingWhiteSpace")?;
                let trim_end = options.take_bool("ignoreTrailingWhiteSpace")?;
                FileFormat::Csv(CsvStyle {
                    header: options.take_bool("header")?.unwrap_or(false),
                    separator: letter(options.take_char("sep")?, ','),
                    quote: letter(options.take_char("quote")?, '"'),
                    escape: letter(options.take_char("escape")?, '\\'),
                    null_value: options.take("nullValue").unwrap_or_default(),
                    empty_value: options.take("emptyValue").unwrap_or("\"\"".to_owned()),
                    trim_start: trim_start.unwrap_or(true),
                    trim_end: trim_end.unwrap_or(true),
                })
            }
            "json" => FileFormat::Json,
            "parquet" => FileFormat::Parquet,
            _ => FileFormat::Text,
        };
        options.all_taken(format.name(), &known)?;
        Ok(Self {
            format,
            folder: PathBuf::from(path_of(&path)?),
            partition_by,
            output,
            fsync,
        })
    }

    /// Checks the result's columns: those to partition by are there, and the rest can be written.
    pub(crate) fn check(&self, schema: &Schema) -> Result<(), Error> {
        for name in &self.partition_by {
            if schema.index_of(name).is_err() {
                let names: Vec<&str> = schema
                    .fields()
                    .iter()
                    .map(|field| field.name().as_str())
                    .collect();
                return Err(Error::option(
                    "partition_by",
                    name,
                    format!("there is no such column; there are {}", names.join(", ")),
                ));
            }
        }
        let written: Vec<_> = schema
            .fields()
            .iter()
            .filter(|field| !self.partition_by.contains(field.name()))
            .collect();
        if written.is_empty() {
            return Err(Error::refused(
                "cannot use all columns for partition columns",
                "leave one to be written",
            ));
        }
        let is_one_text = written.len() == 1 && written[0].data_type() == &DataType::Utf8;
        if self.format == FileFormat::Text && !is_one_text {
            return Err(Error::refused(
                "text files hold one column of type STRING",
                "select one, or write another format",
            ));
        }
        let folders = schema.fields().iter();
        let folders = folders.filter(|field| self.partition_by.contains(field.name()));
        check_columns(folders, "part of a folder's name")?;
        match self.format {
            FileFormat::Csv(_) => check_columns(written.iter().copied(), "written as CSV")?,
            FileFormat::Json => check_columns(written.iter().copied(), "written as JSON")?,
            FileFormat::Parquet => {
                for field in &written {
                    try_parquet(field).map_err(|_| unfit(field, "written as Parquet"))?;
                }
            }
            FileFormat::Text => {}
        }
        if let FileFormat::Csv(_) = self.format {
            for field in written {
                if field.data_type().is_nested() {
                    return Err(Error::refused(
                        format!(
                            "column {} of type {} can't be written as CSV",
                            field.name(),
                            field.data_type()
                        ),
                        "select its parts, or write JSON or Parquet",
                    ));
                }
            }
        }
        Ok(())
    }

    /// What a query stages for this output, below the folder.
    fn staging(&self, query: QueryId) -> PathBuf {
        Path::new(STAGING)
            .join(query.to_string())
            .join(self.output.replace('/', "%2F"))
    }

    fn batch(&self, query: QueryId, batch: BatchId, epoch: Epoch) -> PathBuf {
        self.staging(query).join(format!("{}-{}", batch.0, epoch.0))
    }

    fn attempt(&self, id: &WriteId) -> PathBuf {
        let attempt = format!("{}.{}", id.partition, id.attempt);
        self.batch(id.query, id.batch, id.epoch).join(attempt)
    }

    /// The name of an attempt's `number`th file.
    fn file_name(&self, id: &WriteId, number: usize) -> String {
        format!(
            "part-{:05}-{}-{:08}-c{number:03}.{}",
            id.partition,
            id.query,
            id.batch.0,
            self.format.extension()
        )
    }
}

/// Writes a null of this column to nowhere: which types there are columns for is the writer's alone to say.
fn try_parquet(field: &FieldRef) -> parquet::errors::Result<()> {
    let nullable = field.as_ref().clone().with_nullable(true);
    let schema = Arc::new(Schema::new(vec![nullable]));
    let nothing = new_null_array(field.data_type(), 1);
    let mut writer = ArrowWriter::try_new(io::sink(), Arc::clone(&schema), None)?;
    writer.write(&RecordBatch::try_new(schema, vec![nothing])?)?;
    writer.close()?;
    Ok(())
}

/// What an attempt staged: the payload of its commit. Names are below the folder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Staged {
    files: Vec<StagedFile>,
}

/// The columns that go into files, and those that name folders, by their places.
fn split_columns(schema: &SchemaRef, partition_by: &[String]) -> (Vec<usize>, Vec<usize>) {
    let mut folders = Vec::new();
    for name in partition_by {
        folders.extend(schema.index_of(name));
    }
    let all = 0..schema.fields().len();
    let files = all.filter(|column| !folders.contains(column)).collect();
    (files, folders)
}
