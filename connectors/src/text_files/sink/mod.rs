//! Rows as lines of text files: for each batch a folder `PREFIX-<batch time in ms>[.SUFFIX]` with `part-00000`, `part-00001`, ..., and `_SUCCESS` once
//! it is complete.
//!
//! On a file system executors write only below `.staging/` beside the final folder; each attempt has a place of its own. When the batch has committed, the driver renames the
//! winners' files to their final names. A reader that doesn't look into hidden folders therefore sees each row once, and never an unfinished file; a folder with
//! `_SUCCESS` has all of its batch.
//!
//! On an object store an attempt leaves an upload open, which the driver completes; see `objects`.
//!
//! Layout:
//! - `layout`: where everything lies
//! - `objects`: the same on object stores (feature `s3`)
//! - `publish`: the driver half
//! - `staging`: where an output stages, and the marks of published batches
//! - `writer`: the executor half

mod layout;
#[cfg(feature = "s3")]
mod objects;
mod publish;
mod staging;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use millstream_common::{
    config::{Config, keys},
    failure::{Failure, FailureKind, Fault, Retry},
    s3,
};
use serde::{Deserialize, Serialize};

use super::absolute;
use crate::sink::{Sink, SinkDriver};

pub use self::{
    layout::{PrefixError, sync_folder},
    publish::{TextFilePublisher, put_in_place},
    staging::Staging,
    writer::TextFileSink,
};

/// Where a text file sink writes, and how.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The output's stable id.
    pub output: String,
    /// Path and beginning of the folders' names: `out/counts` gives `out/counts-1700000000000`. Or `s3://bucket/counts`.
    pub prefix: String,
    /// The folder that a relative prefix is below; without one, this process's working folder.
    pub relative_to: Option<PathBuf>,
    /// What follows the batch time, after a dot; nothing when empty.
    pub suffix: String,
    /// Whether files and folders are forced to the disk before the batch commits, or counts as published.
    pub fsync: bool,
    /// Whether a complete folder gets an empty file `_SUCCESS`.
    pub success_file: bool,
    /// How object stores are reached.
    pub s3: s3::Settings,
}

/// The executor half, on the file system or object store that the prefix names.
///
/// # Errors
/// When the prefix is none.
pub fn executor_half(settings: &Settings) -> Result<Box<dyn Sink<TextRows>>, PrefixError> {
    #[cfg(feature = "s3")]
    if s3::Url::is_meant_by(&settings.prefix) {
        return Ok(Box::new(objects::ObjectSink::new(settings)?));
    }
    Ok(Box::new(TextFileSink::new(settings)?))
}

/// The driver half to it.
///
/// # Errors
/// When the prefix is none.
pub fn driver_half(settings: &Settings) -> Result<Arc<dyn SinkDriver>, PrefixError> {
    #[cfg(feature = "s3")]
    if s3::Url::is_meant_by(&settings.prefix) {
        return Ok(Arc::new(objects::ObjectPublisher::new(settings)?));
    }
    Ok(Arc::new(TextFilePublisher::new(settings)?))
}

impl Settings {
    /// Settings with every default.
    pub fn new(output: impl Into<String>, prefix: impl Into<String>) -> Self {
        Self {
            output: output.into(),
            prefix: prefix.into(),
            relative_to: None,
            suffix: String::new(),
            fsync: true,
            success_file: true,
            s3: s3::Settings::default(),
        }
    }

    /// Settings as the configuration says.
    pub fn of_config(
        output: impl Into<String>,
        prefix: impl Into<String>,
        config: &Config,
    ) -> Self {
        Self {
            fsync: config.get(keys::FILE_SINK_FSYNC),
            success_file: config.get(keys::FILE_SINK_SUCCESS_FILE),
            s3: s3::Settings::of_config(config),
            ..Self::new(output, prefix)
        }
    }

    /// Where batches go, however the prefix is written. Two outputs of one place would take each other's batches for published.
    pub fn place(&self) -> String {
        let prefix = match s3::Url::parse(&self.prefix) {
            Ok(url) => url.to_string(),
            Err(_) => absolute(&self.prefix, self.relative_to.as_deref())
                .map_or_else(|_| self.prefix.clone(), |path| path.display().to_string()),
        };
        if self.suffix.is_empty() {
            prefix
        } else {
            format!("{prefix}-*.{}", self.suffix)
        }
    }

    /// What a checkpoint depends on.
    pub fn fingerprint(&self) -> serde_json::Value {
        serde_json::json!({ "prefix": self.prefix, "suffix": self.suffix })
    }
}

/// Rows as they go into a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextRows {
    /// Each row followed by `\n`.
    pub text: String,
    /// How many.
    pub rows: u64,
}

impl TextRows {
    /// Ends the row that was appended to `text`.
    pub fn end_row(&mut self) {
        self.text.push('\n');
        self.rows += 1;
    }
}

/// A file that an attempt staged: the payload of its commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagedFile {
    /// Its name in the final folder.
    pub name: String,
    /// Where it is, below the parent of the final folder.
    pub staged: String,
    /// Bytes.
    pub length: u64,
    /// xxh3-64 of its bytes.
    pub checksum: u64,
}

/// What the disk refused.
pub fn refused(action: &str, path: &Path, error: &io::Error) -> Failure {
    let path = path.display();
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Failure::caused_by(
            FailureKind::Io,
            format!("can't {action} {path}: the disk is full; make room on it, the batch goes on from where it was"),
            error,
        )
        .with_code("sink.disk_full"),
        _ => Failure::caused_by(FailureKind::Io, format!("can't {action} {path}"), error)
            .with_code("sink.io"),
    }
}

/// Something else is where output should go.
fn foreign(path: &Path, why: &str) -> Failure {
    foreign_at(&path.display(), why)
}

fn foreign_at(place: &dyn std::fmt::Display, why: &str) -> Failure {
    let message = format!(
        "output {place} exists already and is not of this query's batch: {why}; move or remove it, or choose another prefix, then start again"
    );
    let mut failure = Failure::new(FailureKind::Io, message)
        .with_code("sink.output_exists")
        .with_retry(Retry::Never);
    failure.fault = Fault::User;
    failure
}
