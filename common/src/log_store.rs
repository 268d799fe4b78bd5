//! Where the logs of a checkpoint lie: small immutable files that are put once, under names that the first to come gets.
//!
//! Everything that makes a restart exact hangs on one promise, [`LogStore::put_if_absent`]: of all that put one name,
//! exactly one wins, and its bytes are durable before it learns so. [`probe`] proves the promise at start.
//!
//! [`entry`] is the format of what is put; [`open`] turns a location into a store.

pub mod entry;
mod file;
mod location;
mod memory;
mod name;
#[cfg(feature = "s3")]
mod object;

pub use file::{FileLogStore, FileOptions};
pub use location::{Location, parse_location};
pub use memory::MemoryLogStore;
#[cfg(feature = "s3")]
pub use object::ObjectLogStore;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    failure::{Fault, Retry},
    open_files::is_out_of_files,
    s3,
    time::{Clock, SystemClock},
};

/// How a put ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PutOutcome {
    /// The name holds what was put.
    Won,
    /// The name holds this, put by another before.
    Lost(Bytes),
}

/// What can go wrong with a log store.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name of an entry is one that a store can't have.
    #[error("`{name}` can't name a log entry: {reason}")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A location's scheme has no store in this build.
    #[error(
        "the checkpoint location `{location}` has scheme `{scheme}`, which is not supported by this build: \
         use a path, file:///path or s3://bucket/prefix"
    )]
    UnsupportedScheme {
        /// The location.
        location: String,
        /// Its scheme.
        scheme: String,
    },
    /// A location that no store can have.
    #[error("the checkpoint location `{location}` is not usable: {reason}")]
    Location {
        /// The location.
        location: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The file system refused.
    #[error("could not {action} {path}: {advice}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What to do.
        advice: &'static str,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// Others took and removed the name again and again.
    #[error(
        "could not put `{name}` in {location}: others keep taking and removing it; is something else writing there?"
    )]
    Contended {
        /// The name.
        name: String,
        /// The store.
        location: String,
    },
    /// The store doesn't keep the promise.
    #[error("{location} can't hold a checkpoint: {reason}; choose another location")]
    Probe {
        /// The store.
        location: String,
        /// What it did.
        reason: String,
    },
    /// The object store refused, or is away.
    #[error(transparent)]
    ObjectStore(#[from] s3::Error),
    /// The process is ending, and the outcome is not known.
    #[error("the process ended while a log entry was read or written in {location}")]
    Interrupted {
        /// The store.
        location: String,
    },
}

impl Error {
    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        match self {
            Error::Name { .. } => Fault::Internal,
            Error::UnsupportedScheme { .. } | Error::Location { .. } => Fault::User,
            Error::ObjectStore(error) => error.fault(),
            Error::Io { .. }
            | Error::Contended { .. }
            | Error::Probe { .. }
            | Error::Interrupted { .. } => Fault::Environment,
        }
    }

    /// Whether the same call can succeed a little later without anybody's doing. A disk that is full may be so for a moment: of spills that go with
    /// their tasks, or of a log until it is rotated.
    pub fn retry(&self) -> Retry {
        let passing = match self {
            Error::Io { source, .. } => {
                is_out_of_files(source)
                    || matches!(
                        source.kind(),
                        io::ErrorKind::TimedOut
                            | io::ErrorKind::Interrupted
                            | io::ErrorKind::ResourceBusy
                            | io::ErrorKind::StorageFull
                            | io::ErrorKind::QuotaExceeded
                    )
            }
            Error::Contended { .. } => true,
            _ => false,
        };
        if passing {
            Retry::Backoff
        } else {
            Retry::Never
        }
    }
}

/// A flat store of small immutable entries. Names are relative paths such as `offsets/17`; a part of a name may not
/// be empty, begin with a dot or hold a backslash or control characters, and no entry is a folder of another.
#[async_trait]
pub trait LogStore: Send + Sync + fmt::Debug {
    /// Puts `bytes` under `name` if nothing has that name. Durable when it returns, whoever won.
    ///
    /// `bytes` must be its writer's own: they carry an epoch and a nonce, never the same twice. A store that finds
    /// exactly these bytes under the name says [`PutOutcome::Won`], as that is an earlier try of the same put whose answer was lost.
    async fn put_if_absent(&self, name: &str, bytes: Bytes) -> Result<PutOutcome, Error>;

    /// What `name` holds, if it exists.
    async fn get(&self, name: &str) -> Result<Option<Bytes>, Error>;

    /// The names that begin with `prefix`, sorted as bytes. An empty prefix lists all.
    async fn list(&self, prefix: &str) -> Result<Vec<String>, Error>;

    /// Removes `name`, if it exists.
    async fn delete(&self, name: &str) -> Result<(), Error>;

    /// What messages call the store by.
    fn location(&self) -> String;
}

/// How a store is opened.
#[derive(Clone)]
pub struct OpenOptions {
    /// For folders.
    pub file: FileOptions,
    /// For object stores.
    pub s3: s3::Settings,
    /// Times the waits for an object store.
    pub clock: Arc<dyn Clock>,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            file: FileOptions::default(),
            s3: s3::Settings::default(),
            clock: Arc::new(SystemClock::new()),
        }
    }
}

/// Opens the store at a location: a path, `file:///path`, or `s3://bucket/prefix` with the feature `s3`. Creates the folder if it is not
/// there; the bucket must be.
pub async fn open(location: &str, options: OpenOptions) -> Result<Arc<dyn LogStore>, Error> {
    match parse_location(location)? {
        Location::File(root) => Ok(Arc::new(FileLogStore::open(root, options.file).await?)),
        Location::S3(url) => open_bucket(&url, &options).await,
    }
}

#[cfg(feature = "s3")]
async fn open_bucket(url: &s3::Url, options: &OpenOptions) -> Result<Arc<dyn LogStore>, Error> {
    let bucket = s3::Bucket::connect(url, &options.s3, Arc::clone(&options.clock))?;
    bucket.check(url.prefix()).await?;
    Ok(Arc::new(ObjectLogStore::new(bucket, url.prefix())))
}

#[cfg(not(feature = "s3"))]
async fn open_bucket(url: &s3::Url, _options: &OpenOptions) -> Result<Arc<dyn LogStore>, Error> {
    let location = url.to_string();
    Err(s3::Error::NotBuilt { location }.into())
}

/// Proves that a store keeps the promise: of two puts of one name the second must lose and be shown the first, and
/// what was put must be read, listed and deleted. Leaves no entry behind in a store that passes.
pub async fn probe(store: &dyn LogStore) -> Result<(), Error> {
    let prefix = "probe/";
    let name = format!("{prefix}{}", uuid::Uuid::new_v4());
    let first = Bytes::from(format!("first {}", uuid::Uuid::new_v4()));
    let second = Bytes::from(format!("second {}", uuid::Uuid::new_v4()));
    let refused = |reason: &str| Error::Probe {
        location: store.location(),
        reason: reason.to_owned(),
    };

    if store.put_if_absent(&name, first.clone()).await? != PutOutcome::Won {
        return Err(refused("a put of a new name was told that it lost"));
    }
    match store.put_if_absent(&name, second).await? {
        PutOutcome::Lost(existing) if existing == first => {}
        PutOutcome::Lost(_) => {
            return Err(refused(
                "a put that lost was shown something that nobody put",
            ));
        }
        PutOutcome::Won => return Err(refused("it let two puts of one name succeed")),
    }
    if store.get(&name).await?.as_ref() != Some(&first) {
        return Err(refused("it doesn't return what was put"));
    }
    if !store.list(prefix).await?.contains(&name) {
        return Err(refused("it doesn't list what was put"));
    }
    store.delete(&name).await?;
    if store.get(&name).await?.is_some() {
        return Err(refused("it returns what was deleted"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
