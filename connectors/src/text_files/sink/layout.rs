//! Where everything of a text file sink lies.

use std::{
    fs::File,
    io,
    path::{Component, Path, PathBuf},
};

use millstream_common::{
    ids::{BatchId, Epoch, QueryId},
    s3,
    time::BatchTime,
};
use thiserror::Error;

use super::{Settings, absolute};
use crate::sink::WriteId;

/// Readers pass over names that begin with a dot.
pub(super) const STAGING: &str = ".staging";
/// What a complete folder has.
pub(super) const SUCCESS: &str = "_SUCCESS";
/// Folders from the parent to where an output stages.
pub(super) const STAGING_DEPTH: usize = 3;
pub(super) const PUBLISHED: &str = ".published";

/// A prefix that can't be used.
#[derive(Debug, Error)]
pub enum PrefixError {
    /// It ends in no name.
    #[error(
        "the output prefix {0} ends in no name; give a path such as out/counts, to which each batch's time is appended"
    )]
    NoName(String),
    /// Readers would pass over it.
    #[error(
        "the output prefix {0} begins with a dot or underscore: readers pass over such folders; choose another name"
    )]
    Hidden(String),
    /// The location is a URL.
    #[error(
        "the output prefix {0} is a URL of another file system; give a path that driver and executors share, or s3://bucket/prefix"
    )]
    Scheme(String),
    /// The suffix has a slash.
    #[error("the output suffix {0} holds a slash; give just what follows the dot")]
    Suffix(String),
    /// The object store's location can't be used.
    #[error(transparent)]
    ObjectStore(#[from] s3::Error),
    /// The working folder is unknown.
    #[error("the output prefix {prefix} can't be made an absolute path")]
    Relative {
        /// The prefix.
        prefix: String,
        /// Why.
        source: io::Error,
    },
}

/// The places of one output.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    /// The folder that holds the batches' folders.
    pub parent: PathBuf,
    /// What the folders' names begin with.
    name: String,
    suffix: String,
    output: String,
}

impl Layout {
    pub(super) fn new(settings: &Settings) -> Result<Self, PrefixError> {
        let prefix = &settings.prefix;
        let path = prefix.strip_prefix("file://").unwrap_or(prefix);
        if s3::Url::is_meant_by(path) {
            let location = prefix.clone();
            return Err(s3::Error::NotBuilt { location }.into());
        }
        if path.contains("://") {
            return Err(PrefixError::Scheme(prefix.clone()));
        }
        if settings.suffix.contains('/') {
            return Err(PrefixError::Suffix(settings.suffix.clone()));
        }
        let relative_to = settings.relative_to.as_deref();
        let absolute = absolute(path, relative_to).map_err(|source| PrefixError::Relative {
            prefix: prefix.clone(),
            source,
        })?;
        let name = absolute.file_name().and_then(|name| name.to_str());
        let (Some(parent), Some(name)) = (absolute.parent(), name) else {
            return Err(PrefixError::NoName(prefix.clone()));
        };
        if path.ends_with('/') {
            return Err(PrefixError::NoName(prefix.clone()));
        }
        if name.starts_with(['.', '_']) {
            return Err(PrefixError::Hidden(prefix.clone()));
        }
        Ok(Self {
            parent: parent.to_owned(),
            name: name.to_owned(),
            suffix: settings.suffix.clone(),
            output: escape(&settings.output),
        })
    }

    /// The final folder of a batch.
    pub(super) fn folder(&self, time: BatchTime) -> PathBuf {
        let mut name = format!("{}-{}", self.name, time.0);
        if !self.suffix.is_empty() {
            name.push('.');
            name.push_str(&self.suffix);
        }
        self.parent.join(name)
    }

    /// Where all that a query stages for this output lies, relative to the parent.
    pub(super) fn staging(&self, query: QueryId) -> PathBuf {
        Path::new(STAGING)
            .join(query.to_string())
            .join(&self.output)
    }

    /// Where an attempt stages, relative to the parent.
    pub(super) fn attempt(&self, id: &WriteId) -> PathBuf {
        self.staging(id.query)
            .join(format!("{}-{}", id.batch, id.epoch))
            .join(format!("{}.{}", id.partition, id.attempt))
    }

    /// The absolute path of a staged file of this output, if that is what `relative` names.
    pub(super) fn staged(&self, query: QueryId, relative: &str) -> Option<PathBuf> {
        let path = Path::new(relative);
        let plain = path
            .components()
            .all(|component| matches!(component, Component::Normal(_)));
        let ours = plain && path.starts_with(self.staging(query));
        ours.then(|| self.parent.join(path))
    }
}

/// The name of a partition's file.
pub(super) fn part_name(partition: u32) -> String {
    format!("part-{partition:05}")
}

/// Something that [`Layout::staging`] holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// What attempts of a batch staged under an epoch.
    Batch(BatchId, Epoch),
    /// A batch was published.
    Published(BatchId),
}

impl Entry {
    pub(super) fn parse(name: &str) -> Option<Self> {
        if let Some(batch) = name.strip_suffix(PUBLISHED) {
            return batch
                .parse()
                .ok()
                .map(|batch| Self::Published(BatchId(batch)));
        }
        let (batch, epoch) = name.split_once('-')?;
        Some(Self::Batch(
            BatchId(batch.parse().ok()?),
            Epoch(epoch.parse().ok()?),
        ))
    }
}

/// An id as one name of a path.
pub(super) fn escape(id: &str) -> String {
    let mut name = String::with_capacity(id.len());
    for byte in id.bytes() {
        let leading_dot = byte == b'.' && name.is_empty();
        if (byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')) && !leading_dot {
            name.push(char::from(byte));
        } else {
            name.push_str(&format!("%{byte:02X}"));
        }
    }
    name
}

/// Forces a folder's entries to the disk.
///
/// # Errors
/// What the disk says.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(prefix: &str) -> Result<Layout, PrefixError> {
        Layout::new(&Settings::new("a/b", prefix))
    }

    #[test]
    fn names_are_as_documented() {
        let mut settings = Settings::new("../x y", "/out/counts");
        let layout = Layout::new(&settings).unwrap();
        assert_eq!(layout.parent, Path::new("/out"));
        let folder = layout.folder(BatchTime(1_700_000_000_000));
        assert_eq!(folder, Path::new("/out/counts-1700000000000"));
        assert_eq!(layout.output, "%2E.%2Fx%20y");
        settings.suffix = "txt".to_owned();
        let folder = Layout::new(&settings).unwrap().folder(BatchTime(5));
        assert_eq!(folder, Path::new("/out/counts-5.txt"));
        assert_eq!(part_name(7), "part-00007");
    }

    #[test]
    fn a_relative_prefix_is_below_the_folder_that_it_is_relative_to() {
        let mut settings = Settings::new("a", "out/counts");
        settings.relative_to = Some("/of/the/driver".into());
        for prefix in ["out/counts", "./out/counts", "file://out/counts"] {
            settings.prefix = prefix.to_owned();
            let layout = Layout::new(&settings).unwrap();
            assert_eq!(layout.parent, Path::new("/of/the/driver/out"));
            assert_eq!(settings.place(), "/of/the/driver/out/counts");
        }
        settings.prefix = "/out/counts".to_owned();
        assert_eq!(Layout::new(&settings).unwrap().parent, Path::new("/out"));
    }

    #[test]
    fn prefixes_that_make_no_sense_are_refused() {
        for prefix in ["/out/", "/", "/out/.x", "/out/_x", "hdfs://host/out/x"] {
            let error = layout(prefix).unwrap_err();
            assert!(error.to_string().contains(prefix), "{error}");
        }
    }

    #[test]
    fn only_own_staged_files_are_taken() {
        let query = QueryId::random();
        let layout = layout("/out/x").unwrap();
        let own = format!(".staging/{query}/a%2Fb/1-1/0.0/part-00000");
        assert_eq!(
            layout.staged(query, &own).unwrap(),
            Path::new("/out").join(&own)
        );
        let up = format!(".staging/{query}/a%2Fb/../../x");
        for other in [up.as_str(), "/etc/passwd", ".staging/other/a/1-1/0.0/x"] {
            assert_eq!(layout.staged(query, other), None);
        }
    }

    #[test]
    fn entries_are_told_apart() {
        assert_eq!(
            Entry::parse("12-3"),
            Some(Entry::Batch(BatchId(12), Epoch(3)))
        );
        assert_eq!(
            Entry::parse("12.published"),
            Some(Entry::Published(BatchId(12)))
        );
        assert_eq!(Entry::parse("notes"), None);
        assert_eq!(Entry::parse("x-1"), None);
    }
}
