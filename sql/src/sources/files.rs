//! Folders of files: each file is read once, by the time of its last change.

use std::{sync::Arc, time::Duration};

use arrow::datatypes::SchemaRef;
use jiff::tz::TimeZone;
use millstream_common::{
    config::Config,
    failure::{Failure, FailureKind},
    time::Clock,
};
use millstream_connectors::{
    malformed::OnMalformed,
    source::{SourceDriver, SplitSource},
    text_files::source::{
        FileSplit, MalformedAdvice, OnChanged, Settings, TextFileDriver, TextFileSplits,
    },
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

/// What the configuration says of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Configured {
    min_age: Duration,
    split_size: u64,
    max_files_per_batch: Option<u32>,
    max_record_bytes: usize,
    takes_changed: bool,
}

impl Configured {
    pub(crate) fn of(config: &Config) -> Self {
        let settings = Settings::of_config("", config);
        Self {
            min_age: settings.min_age,
            split_size: settings.split_size,
            max_files_per_batch: settings.max_files_per_batch,
            max_record_bytes: settings.max_record_bytes,
            takes_changed: settings.on_changed == OnChanged::Warn,
        }
    }
}

/// A folder of files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct FileSource {
    pub(crate) format: Format,
    pub(crate) folder: String,
    pub(crate) mode: Mode,
    pub(crate) max_files_per_trigger: Option<u32>,
    /// Whether files that are gone when they are read are left out; the configuration's rule unless said.
    pub(crate) ignore_missing_files: Option<bool>,
    /// Whether files that can't be read as what they are, or not as planned, are left out or read as far as they go.
    pub(crate) ignore_corrupt_files: bool,
    pub(crate) configured: Configured,
    /// How dates and times are written.
    #[serde(default)]
    pub(crate) patterns: Patterns,
}

fn tolerating(tolerates: bool) -> OnChanged {
    match tolerates {
        true => OnChanged::Warn,
        false => OnChanged::Fail,
    }
}

impl FileSource {
    /// What becomes of files that are gone when they are read.
    pub(super) fn on_missing(&self) -> OnChanged {
        let ignores = self.ignore_missing_files;
        tolerating(ignores.unwrap_or(self.configured.takes_changed))
    }

    /// What becomes of files that have another length when they are read.
    pub(super) fn on_changed(&self) -> OnChanged {
        tolerating(self.ignore_corrupt_files || self.configured.takes_changed)
    }

    fn settings(&self, bounds: Bounds) -> Arc<Settings> {
        let mut settings = Settings::new(&self.folder);
        let configured = &self.configured;
        settings.existing_files = true;
        settings.only_present = bounds.only_present;
        settings.at_once = bounds.at_once;
        settings.min_age = configured.min_age;
        settings.split_size = configured.split_size;
        settings.max_record_bytes = configured.max_record_bytes;
        settings.on_changed = self.on_changed();
        settings.on_missing = self.on_missing();
        if !bounds.at_once {
            let most = self.max_files_per_trigger;
            settings.max_files_per_batch = most.or(configured.max_files_per_batch);
        }
        settings.malformed_advice = MalformedAdvice {
            goes_on: "read with mode PERMISSIVE or DROPMALFORMED",
            leaves_out: "read with mode DROPMALFORMED",
        };
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
            return Ok(Box::new(ParquetReader::open(part, self, to)?));
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
