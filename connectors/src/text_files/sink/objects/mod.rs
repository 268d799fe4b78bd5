//! Text files on an object store. An attempt uploads its file in parts to the final key and leaves the upload open, so that nobody sees it; when the
//! batch has committed, the driver completes the winners' uploads. What losers left open is found by notes below `.staging/`, and aborted.
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

use std::sync::{Arc, OnceLock};

use millstream_common::{
    failure::{Failure, FailureKind},
    s3::{self, Bucket},
    time::SystemClock,
};
use serde::{Deserialize, Serialize};

use self::layout::Layout;
pub(super) use self::{publish::ObjectPublisher, writer::ObjectSink};
use super::{PrefixError, Settings};

/// A file that an attempt uploaded: the payload of its commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct StagedObject {
    /// Its name in the final folder.
    name: String,
    /// The upload that waits for its completion.
    upload: String,
    /// Its parts, in order.
    parts: Vec<String>,
    /// Bytes.
    length: u64,
    /// xxh3-64 of its bytes.
    checksum: u64,
}

/// What is noted of an open upload, so that it can be aborted by one who knows nothing else of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Note {
    key: String,
    upload: String,
}

/// An output's places, and the way to them.
#[derive(Debug)]
struct Output {
    layout: Layout,
    s3: s3::Settings,
    success_file: bool,
    bucket: OnceLock<Bucket>,
}

impl Output {
    fn new(settings: &Settings) -> Result<Self, PrefixError> {
        Ok(Self {
            layout: Layout::new(settings)?,
            s3: settings.s3.clone(),
            success_file: settings.success_file,
            bucket: OnceLock::new(),
        })
    }

    /// The bucket; connected at first use, as most processes that build a graph use one half of it.
    fn bucket(&self) -> Result<&Bucket, Failure> {
        if let Some(bucket) = self.bucket.get() {
            return Ok(bucket);
        }
        let clock = Arc::new(SystemClock::new());
        let bucket = Bucket::connect(&self.layout.url, &self.s3, clock).map_err(failure)?;
        Ok(self.bucket.get_or_init(|| bucket))
    }
}

/// What the store refused. A store that is away was waited for already.
fn failure(error: s3::Error) -> Failure {
    let mut failure = Failure::new(FailureKind::Io, error.to_string())
        .with_code(error.code())
        .with_retry(error.retry());
    failure.fault = error.fault();
    failure
}
