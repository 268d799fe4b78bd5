//! Lines of the text files that appear in a folder. A line ends with `\n`, `\r\n` or `\r`.
//!
//! A file must appear complete: written elsewhere on the same file system, then renamed into the folder. It is read once, whatever happens to
//! it later; [`Settings::min_age`] is for writers that can't rename. Names that begin with `.` or `_`, or end in `._COPYING_`, are passed over, and
//! so are nested folders and, until they have content, empty files. Several folders can be given by a pattern such as `/logs/2026-*/web`.
//!
//! Layout:
//! - `driver`: the driver half: what is new, as splits
//! - `folders`: patterns of folders
//! - `lines`: cuts what is read into blocks of whole lines
//! - `listing`: what is in the folders
//! - `reader`: the executor half: the lines of a split
//! - `seen`: which files were taken

mod driver;
mod folders;
mod lines;
mod listing;
mod reader;
mod seen;
#[cfg(test)]
mod tests;

use std::{path::PathBuf, time::Duration};

use millstream_common::config::{Config, OnDataLoss, keys};
use serde::{Deserialize, Serialize};

pub use self::{
    driver::TextFileDriver, folders::PatternError, listing::ListError, reader::TextFileSplits,
};
use crate::malformed::OnMalformed;

/// What to do when a file of a planned batch is gone, or is not the one that was planned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnChanged {
    /// The query stops with an error that names the file.
    #[default]
    Fail,
    /// A warning; reading goes on with what is there, up to the planned length.
    Warn,
}

/// How messages say what to do about malformed lines: by what [`Settings::on_malformed`] is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MalformedAdvice {
    /// So that the query goes on, with or without the line.
    pub goes_on: &'static str,
    /// So that the line is left out.
    pub leaves_out: &'static str,
}

impl Default for MalformedAdvice {
    /// By the configuration.
    fn default() -> Self {
        Self {
            goes_on: "set input.on_malformed to `replace` or `drop`",
            leaves_out: "set input.on_malformed to `drop`",
        }
    }
}

/// Everything that a text file source needs to know, on both sides.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The folder, or a pattern of folders: `*`, `?`, `[a-c]`, `[^a]`, `{one,two}`, and `\` before a character that stands for itself. A wildcard
    /// doesn't match a leading dot.
    pub directory: String,
    /// The folder that a relative `directory` is below; without one, this process's working folder.
    pub relative_to: Option<PathBuf>,
    /// Whether files that are there when the query starts for the first time are read too.
    pub existing_files: bool,
    /// Only files that are there when the folders are first listed are taken.
    pub only_present: bool,
    /// One batch takes all of them, however many there are, unless [`max_files_per_batch`](Self::max_files_per_batch) is set.
    pub at_once: bool,
    /// A file is taken only when it was last changed so long ago.
    pub min_age: Duration,
    /// Bytes of a file that one task reads.
    pub split_size: u64,
    /// Files that a batch takes at most, oldest first; without a value all there are, up to 100,000.
    pub max_files_per_batch: Option<u32>,
    /// Files that changed between plan and reading. Each part that isn't read as planned is counted as one malformed record.
    pub on_changed: OnChanged,
    /// Files that are gone when they are read; counted in the same way.
    pub on_missing: OnChanged,
    /// Lines that are not UTF-8 or too long. `Replace` can't mend a line that is too long: it fails.
    pub on_malformed: OnMalformed,
    /// What messages advise about them.
    pub malformed_advice: MalformedAdvice,
    /// Longest line in bytes, without its end.
    pub max_record_bytes: usize,
    /// How long a plan waits for the folders to be listed.
    pub listing_timeout: Duration,
    /// How often files that were read are looked at for later changes, which are reported and not read.
    pub change_check_interval: Duration,
    /// When a file that was read has been gone for so long its name is forgotten: a file that then appears under it is new.
    pub forget_after: Duration,
}

impl Settings {
    /// Settings with every default: new files only, 128 MiB splits, 8 MiB lines.
    pub fn new(directory: impl Into<String>) -> Self {
        Self {
            directory: directory.into(),
            relative_to: None,
            existing_files: false,
            only_present: false,
            at_once: false,
            min_age: Duration::ZERO,
            split_size: 128 << 20,
            max_files_per_batch: None,
            on_changed: OnChanged::default(),
            on_missing: OnChanged::default(),
            on_malformed: OnMalformed::default(),
            malformed_advice: MalformedAdvice::default(),
            max_record_bytes: 8 << 20,
            listing_timeout: Duration::from_secs(10),
            change_check_interval: Duration::from_secs(10),
            forget_after: Duration::from_secs(7 * 24 * 3600),
        }
    }

    /// Settings as the configuration says.
    pub fn of_config(directory: impl Into<String>, config: &Config) -> Self {
        let on_changed = match config.get(keys::FILES_ON_CHANGED) {
            OnDataLoss::Fail => OnChanged::Fail,
            OnDataLoss::Warn => OnChanged::Warn,
        };
        Self {
            min_age: config.get(keys::FILES_MIN_AGE),
            split_size: config.get(keys::FILES_SPLIT_SIZE).bytes(),
            max_files_per_batch: config.get(keys::FILES_MAX_FILES_PER_BATCH),
            on_changed,
            on_missing: on_changed,
            on_malformed: config.get(keys::INPUT_ON_MALFORMED).into(),
            max_record_bytes: config.get(keys::INPUT_MAX_RECORD_BYTES).as_len(),
            ..Self::new(directory)
        }
    }

    /// What a checkpoint depends on.
    pub fn fingerprint(&self) -> serde_json::Value {
        serde_json::json!({ "directory": self.directory })
    }
}

/// A part of a file; what a split is in the offset log. It owns the lines that begin in its range.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSplit {
    /// Absolute path.
    pub path: String,
    /// First byte.
    pub start: u64,
    /// Past the last byte.
    pub end: u64,
    /// The whole file's length when it was planned.
    pub size: u64,
    /// When the file was last changed, nanoseconds since the Unix epoch.
    pub modified: i64,
}
