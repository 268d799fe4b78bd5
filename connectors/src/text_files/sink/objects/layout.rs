//! Where everything of a text file sink on an object store lies, as keys of the bucket.

use millstream_common::{
    ids::{BatchId, QueryId},
    s3::Url,
    time::BatchTime,
};

use super::super::{
    PrefixError, Settings,
    layout::{PUBLISHED, STAGING, SUCCESS, escape, part_name},
};
use crate::sink::WriteId;

/// The places of one output.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub(super) url: Url,
    /// What holds the batches' folders: empty, or with a slash at its end.
    parent: String,
    /// What the folders' names begin with.
    name: String,
    suffix: String,
    output: String,
}

impl Layout {
    pub(super) fn new(settings: &Settings) -> Result<Self, PrefixError> {
        let prefix = &settings.prefix;
        if settings.suffix.contains('/') {
            return Err(PrefixError::Suffix(settings.suffix.clone()));
        }
        let url = Url::parse(prefix)?;
        let (parent, name) = match url.prefix().rsplit_once('/') {
            Some((parent, name)) => (format!("{parent}/"), name.to_owned()),
            None => (String::new(), url.prefix().to_owned()),
        };
        if name.is_empty() || prefix.ends_with('/') {
            return Err(PrefixError::NoName(prefix.clone()));
        }
        if name.starts_with(['.', '_']) {
            return Err(PrefixError::Hidden(prefix.clone()));
        }
        Ok(Self {
            url,
            parent,
            name,
            suffix: settings.suffix.clone(),
            output: escape(&settings.output),
        })
    }

    /// The final folder of a batch.
    pub(super) fn folder(&self, time: BatchTime) -> String {
        let dot = if self.suffix.is_empty() { "" } else { "." };
        format!(
            "{}{}-{}{dot}{}",
            self.parent, self.name, time.0, self.suffix
        )
    }

    /// The final key of a partition's file.
    pub(super) fn part(&self, time: BatchTime, partition: u32) -> String {
        format!("{}/{}", self.folder(time), part_name(partition))
    }

    pub(super) fn success(&self, time: BatchTime) -> String {
        format!("{}/{SUCCESS}", self.folder(time))
    }

    /// What begins the final keys of all batches.
    pub(super) fn all_parts(&self) -> String {
        format!("{}{}-", self.parent, self.name)
    }

    /// Where all queries stage.
    pub(super) fn all_staging(&self) -> String {
        format!("{}{STAGING}", self.parent)
    }

    /// Where notes of all that a query stages for this output lie.
    pub(super) fn staging(&self, query: QueryId) -> String {
        format!("{}/{query}/{}", self.all_staging(), self.output)
    }

    /// The note of an attempt's open upload.
    pub(super) fn note(&self, id: &WriteId) -> String {
        let staging = self.staging(id.query);
        format!(
            "{staging}/{}-{}/{}.{}",
            id.batch, id.epoch, id.partition, id.attempt
        )
    }

    /// The object whose existence says that a batch was published whole.
    pub(super) fn published(&self, query: QueryId, batch: BatchId) -> String {
        format!("{}/{batch}{PUBLISHED}", self.staging(query))
    }

    /// A key for messages.
    pub(super) fn place(&self, key: &str) -> String {
        format!("s3://{}/{key}", self.url.bucket())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(prefix: &str) -> Result<Layout, PrefixError> {
        Layout::new(&Settings::new("a/b", prefix))
    }

    #[test]
    fn keys_are_as_documented() {
        let time = BatchTime(1_700_000_000_000);
        let mut settings = Settings::new("a/b", "s3://bucket/out/counts");
        let plain = Layout::new(&settings).unwrap();
        assert_eq!(plain.part(time, 7), "out/counts-1700000000000/part-00007");
        assert_eq!(plain.success(time), "out/counts-1700000000000/_SUCCESS");
        settings.suffix = "txt".to_owned();
        assert_eq!(
            Layout::new(&settings).unwrap().folder(time),
            "out/counts-1700000000000.txt"
        );
        let query = QueryId::random();
        assert_eq!(
            plain.published(query, BatchId(3)),
            format!("out/.staging/{query}/a%2Fb/3.published")
        );
        assert_eq!(
            layout("s3://bucket/counts").unwrap().folder(BatchTime(5)),
            "counts-5"
        );
    }

    #[test]
    fn prefixes_that_make_no_sense_are_refused() {
        for prefix in [
            "s3://bucket",
            "s3://bucket/",
            "s3://bucket/a/",
            "s3://bucket/.x",
            "s3://bucket/_x",
            "s3://b/x",
        ] {
            let error = layout(prefix).unwrap_err();
            assert!(error.to_string().contains(prefix), "{error}");
        }
    }
}
