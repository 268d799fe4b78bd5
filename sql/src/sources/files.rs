//! Folders of files: each file is read once, by the time of its last change.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use jiff::tz::TimeZone;
use millstream_common::{
    failure::{Failure, FailureKind},
    time::Clock,
};
use millstream_connectors::{
    malformed::OnMalformed,
    source::{SourceDriver, SplitSource},
    text_files::source::{FileSplit, Settings, TextFileDriver, TextFileSplits},
};
use millstream_dataflow::program::TaskContext;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    BatchReader, Bounds,
    csv::CsvOptions,
    lines::{CsvReader, JsonReader, TextReader},
    parquet::ParquetReader,
    pattern::Patterns,
    projected,
};
use crate::error::Error;

/// What is in the files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Format {
    Csv(CsvOptions),
    Json,
    Parquet,
    /// One column, `value`: the line.
    Text,
}

impl Format {
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Csv(_) => "csv",
            Self::Json => "json",
            Self::Parquet => "parquet",
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
    /// How dates and times are written.
    #[serde(default)]
    pub(crate) patterns: Patterns,
}

impl FileSource {
    fn settings(&self, bounds: Bounds) -> Arc<Settings> {
        let mut settings = Settings::new(&self.folder);
        settings.existing_files = true;
        settings.only_present = bounds.only_present;
        if !bounds.at_once {
            settings.max_files_per_batch = self.max_files_per_trigger;
        }
        settings.on_malformed = match self.mode {
            Mode::Permissive => OnMalformed::Replace,
            Mode::DropMalformed => OnMalformed::Drop,
            Mode::FailFast => OnMalformed::Fail,
        };
        if self.format == Format::Parquet {
            // A file is one split: its end says what is in it.
            settings.split_size = u64::MAX;
        }
        Arc::new(settings)
    }

    pub(crate) fn fingerprint(&self) -> Value {
        json!({ "directory": self.folder })
    }

    pub(crate) fn driver(
        &self,
        clock: Arc<dyn Clock>,
        bounds: Bounds,
    ) -> Result<Box<dyn SourceDriver>, Error> {
        let driver = TextFileDriver::new(self.settings(bounds), clock)
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
        let to = projected(schema, projection)?;
        if self.format == Format::Parquet {
            return Ok(Box::new(ParquetReader::open(&part, to)?));
        }
        let lines = TextFileSplits::new(self.settings(Bounds::default())).open(split, task)?;
        Ok(match &self.format {
            Format::Csv(options) => Box::new(CsvReader::new(
                lines, options, self, &part, schema, projection, to, zone,
            )),
            Format::Json => Box::new(JsonReader::new(lines, self, part.path, to, zone)),
            Format::Text | Format::Parquet => Box::new(TextReader::new(lines, to)),
        })
    }
}
