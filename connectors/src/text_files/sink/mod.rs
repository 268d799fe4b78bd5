//! Rows as lines of text files: for each batch a folder `PREFIX-<batch time in ms>[.SUFFIX]` with `part-00000`, `part-00001`, ..., and `_SUCCESS` once
//! it is complete.
//!
//! Executors write only below `.staging/` beside the final folder; each attempt has a place of its own. When the batch has committed, the driver renames the
//! winners' files to their final names. A reader that doesn't look into hidden folders therefore sees each row once, and never an unfinished file; a folder with
//! `_SUCCESS` has all of its batch.
//!
//! Layout:
//! - `layout`: where everything lies
//! - `publish`: the driver half
//! - `writer`: the executor half

mod layout;
mod publish;
#[cfg(test)]
mod tests;
mod writer;

use std::{io, path::Path};

use millstream_common::{
    config::{Config, keys},
    failure::{Failure, FailureKind, Fault, Retry},
};
use serde::{Deserialize, Serialize};

pub use self::{layout::PrefixError, publish::TextFilePublisher, writer::TextFileSink};

/// Where a text file sink writes, and how.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The output's stable id.
    pub output: String,
    /// Path and beginning of the folders' names: `out/counts` gives `out/counts-1700000000000`.
    pub prefix: String,
    /// What follows the batch time, after a dot; nothing when empty.
    pub suffix: String,
    /// Whether files and folders are forced to the disk before the batch commits, or counts as published.
    pub fsync: bool,
    /// Whether a complete folder gets an empty file `_SUCCESS`.
    pub success_file: bool,
}

impl Settings {
    /// Settings with every default.
    pub fn new(output: impl Into<String>, prefix: impl Into<String>) -> Self {
        Self {
            output: output.into(),
            prefix: prefix.into(),
            suffix: String::new(),
            fsync: true,
            success_file: true,
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
            ..Self::new(output, prefix)
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
struct StagedFile {
    /// Its name in the final folder.
    name: String,
    /// Where it is, below the parent of the final folder.
    staged: String,
    /// Bytes.
    length: u64,
    /// xxh3-64 of its bytes.
    checksum: u64,
}

/// What the disk refused.
fn refused(action: &str, path: &Path, error: &io::Error) -> Failure {
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
    let message = format!(
        "output {} exists already and is not of this query's batch: {why}; move or remove it, or choose another prefix, then start again",
        path.display()
    );
    let mut failure = Failure::new(FailureKind::Io, message)
        .with_code("sink.output_exists")
        .with_retry(Retry::Never);
    failure.fault = Fault::User;
    failure
}
