//! A bucket: one request at a time, tried again while the store is away.
//!
//! The client's own retries are off, so that a put whose outcome isn't known is seen as such by who can read it back.

mod checks;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, LazyLock, Weak},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use object_store::{
    Error as ClientError, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload,
    aws::AmazonS3,
    memory::InMemory,
    multipart::{MultipartStore, PartId},
    path::Path,
};
use parking_lot::Mutex;
use tokio::sync::OnceCell;
use xxhash_rust::xxh3::Xxh3;

use super::{
    Error, Settings, Url,
    answers::{Answer, Meaning, meaning},
    away::Away,
    client::client,
};
use crate::time::{Clock, Tick};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How much of an object is read by one request: each has a time limit, whatever the object's length.
const PIECE: u64 = 8 << 20;
/// A single failure is not spoken of, nor is one that is over at once.
const FAILURES_SAID: u32 = 3;

/// What a [`Bucket`] sends requests with.
#[async_trait]
pub trait Backend: ObjectStore + MultipartStore {
    /// Whether there are credentials.
    async fn credentials(&self) -> Result<(), ClientError> {
        Ok(())
    }
}

#[async_trait]
impl Backend for AmazonS3 {
    async fn credentials(&self) -> Result<(), ClientError> {
        AmazonS3::credentials(self).get_credential().await?;
        Ok(())
    }
}

/// For tests.
impl Backend for InMemory {}

/// What became of a put of a name that must be new.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Created {
    /// The object is there and is this one.
    Stored,
    /// There was one; or two puts met, and perhaps neither stored anything.
    Taken,
    /// The put may have gone through or not.
    Unknown(String),
}

/// What became of a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completed {
    /// The object is there.
    Done,
    /// There is no such upload: it was completed before, or aborted.
    Gone,
}

/// A bucket of a store. Cheap to clone. Keys are whole, from the bucket's root.
#[derive(Clone)]
pub struct Bucket {
    shared: Arc<Shared>,
}

struct Shared {
    backend: Arc<dyn Backend>,
    name: String,
    endpoint: String,
    clock: Arc<dyn Clock>,
    retry_timeout: Duration,
    away: Away,
    /// Filled once there were credentials. That a machine's role can't be asked for new ones later passes.
    credentials: OnceCell<()>,
    /// Filled once the store was asked whether it refuses this process, so that many outputs don't each wait for one that is away.
    access: OnceCell<()>,
    /// What distinguishes it from other clients of the process.
    identity: String,
}

impl Drop for Shared {
    fn drop(&mut self) {
        let mut open = OPEN.lock();
        if open
            .get(&self.identity)
            .is_some_and(|known| known.strong_count() == 0)
        {
            open.remove(&self.identity);
        }
    }
}

/// Who uses one bucket in one way shares one client, with its connections, its credentials and its messages.
static OPEN: LazyLock<Mutex<HashMap<String, Weak<Shared>>>> = LazyLock::new(Mutex::default);

impl fmt::Debug for Bucket {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Bucket")
            .field("name", &self.shared.name)
            .field("endpoint", &self.shared.endpoint)
            .finish_non_exhaustive()
    }
}

impl Bucket {
    /// A client for a location's bucket, with credentials from the `AWS_*` variables. Sends nothing yet.
    ///
    /// # Errors
    /// When settings or variables can't be used.
    pub fn connect(url: &Url, settings: &Settings, clock: Arc<dyn Clock>) -> Result<Self, Error> {
        let identity = format!("{} {settings:?}", url.bucket());
        if let Some(shared) = OPEN.lock().get(&identity).and_then(Weak::upgrade) {
            return Ok(Self { shared });
        }
        let (client, endpoint) = client(url, settings)?;
        let shared = Arc::new(Shared {
            backend: Arc::new(client),
            name: url.bucket().to_owned(),
            away: Away::new(
                format!("s3://{} at {endpoint}", url.bucket()),
                Arc::clone(&clock),
            ),
            endpoint,
            clock,
            retry_timeout: settings.retry_timeout,
            credentials: OnceCell::new(),
            access: OnceCell::new(),
            identity: identity.clone(),
        });
        OPEN.lock().insert(identity, Arc::downgrade(&shared));
        Ok(Self { shared })
    }

    /// A bucket in memory, for tests.
    pub fn in_memory(clock: Arc<dyn Clock>) -> Self {
        Self::over(
            Arc::new(InMemory::new()),
            "in-memory",
            Duration::from_secs(10),
            clock,
        )
    }

    /// A bucket over a backend that is there already.
    pub fn over(
        backend: Arc<dyn Backend>,
        name: &str,
        retry_timeout: Duration,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                backend,
                name: name.to_owned(),
                away: Away::new(format!("s3://{name}"), Arc::clone(&clock)),
                endpoint: "its backend".to_owned(),
                clock,
                retry_timeout,
                credentials: OnceCell::new(),
                access: OnceCell::new(),
                identity: String::new(),
            }),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// What an object holds, if it is there.
    ///
    /// # Errors
    /// Without credentials, when the store refuses, or is away for too long.
    pub async fn get(&self, key: &str) -> Result<Option<Bytes>, Error> {
        let path = path(key)?;
        let backend = &self.shared.backend;
        self.waiting("get", key)
            .until_answered(|| async { backend.get(&path).await?.bytes().await })
            .await
    }

    /// The length of an object, if it is there.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn length(&self, key: &str) -> Result<Option<u64>, Error> {
        let path = path(key)?;
        let backend = &self.shared.backend;
        let found = self
            .waiting("look for", key)
            // Not HEAD: its answers have no body, which tells a 404 of the store from any other.
            .until_answered(|| backend.get(&path))
            .await?;
        Ok(found.map(|found| found.meta.size))
    }

    /// Length and xxh3-64 of an object's content, if it is there.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn digest(&self, key: &str) -> Result<Option<(u64, u64)>, Error> {
        let Some(length) = self.length(key).await? else {
            return Ok(None);
        };
        let path = path(key)?;
        let backend = &self.shared.backend;
        let mut hash = Box::<Xxh3>::default();
        let mut read = 0;
        while read < length {
            let range = read..length.min(read + PIECE);
            let piece = self
                .waiting("read", key)
                .until_answered(|| backend.get_range(&path, range.clone()))
                .await?;
            let Some(piece) = piece else {
                return Ok(None);
            };
            hash.update(&piece);
            read = range.end;
        }
        Ok(Some((length, hash.digest())))
    }

    /// Keys and lengths of all objects below a folder, which ends in no slash.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn list(&self, folder: &str) -> Result<Vec<(String, u64)>, Error> {
        let path = path(folder)?;
        let listed = self
            .waiting("list", folder)
            .until_answered(|| self.list_once(&path))
            .await?;
        listed.ok_or_else(|| self.absent("list", folder))
    }

    async fn list_once(&self, folder: &Path) -> Result<Vec<(String, u64)>, ClientError> {
        let mut pages = self.shared.backend.list(Some(folder));
        let mut found = Vec::new();
        while let Some(object) = next(&mut pages).await {
            let object = object?;
            found.push((object.location.into(), object.size));
        }
        Ok(found)
    }

    /// Puts an object whether or not there is one.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn put(&self, key: &str, bytes: Bytes) -> Result<(), Error> {
        let path = path(key)?;
        let backend = &self.shared.backend;
        let stored = self
            .waiting("put", key)
            .until_answered(|| backend.put(&path, PutPayload::from(bytes.clone())))
            .await?;
        stored.map(drop).ok_or_else(|| self.absent("put", key))
    }

    /// Puts an object if there is none, by one request.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn try_create(&self, key: &str, bytes: Bytes) -> Result<Created, Error> {
        self.check_credentials().await?;
        let path = path(key)?;
        let options = PutOptions::from(PutMode::Create);
        let payload = PutPayload::from(bytes);
        match self.shared.backend.put_opts(&path, payload, options).await {
            Ok(_) => {
                self.shared.away.answered();
                Ok(Created::Stored)
            }
            Err(error) => match meaning(&error) {
                Answer::Taken => {
                    self.shared.away.answered();
                    Ok(Created::Taken)
                }
                Answer::Passing(detail) => Ok(Created::Unknown(detail)),
                Answer::Absent => Err(self.refused("put", key, Meaning::NoBucket)),
                Answer::Final(why) => Err(self.refused("put", key, why)),
            },
        }
    }

    /// Removes an object, if it is there.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn delete(&self, key: &str) -> Result<(), Error> {
        let path = path(key)?;
        let backend = &self.shared.backend;
        self.waiting("delete", key)
            .until_answered(|| backend.delete(&path))
            .await?;
        Ok(())
    }

    /// Begins an upload in parts; nothing is seen of it until it is completed.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn begin_upload(&self, key: &str) -> Result<String, Error> {
        let path = path(key)?;
        let backend = &self.shared.backend;
        let upload = self
            .waiting("begin an upload of", key)
            .until_answered(|| backend.create_multipart(&path))
            .await?;
        upload.ok_or_else(|| self.refused("begin an upload of", key, Meaning::NoBucket))
    }

    /// Uploads a part; all but the last have 5 MiB or more. Gives what completing needs.
    ///
    /// # Errors
    /// As [`get`](Self::get); also when the upload is gone.
    pub async fn put_part(
        &self,
        key: &str,
        upload: &str,
        part: usize,
        bytes: Bytes,
    ) -> Result<String, Error> {
        let path = path(key)?;
        let upload = upload.to_owned();
        let backend = &self.shared.backend;
        let stored = self
            .waiting("upload a part of", key)
            .until_answered(|| {
                backend.put_part(&path, &upload, part, PutPayload::from(bytes.clone()))
            })
            .await?;
        stored.map(|part| part.content_id).ok_or_else(|| {
            let why = "the upload is gone: was it aborted?".to_owned();
            self.refused("upload a part of", key, Meaning::Refused(why))
        })
    }

    /// Makes an object of an upload's parts.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn complete(
        &self,
        key: &str,
        upload: &str,
        parts: &[String],
    ) -> Result<Completed, Error> {
        let path = path(key)?;
        let upload = upload.to_owned();
        let parts = parts.iter().map(|part| PartId {
            content_id: part.clone(),
        });
        let parts: Vec<PartId> = parts.collect();
        let backend = &self.shared.backend;
        let completed = self
            .waiting("complete the upload of", key)
            .until_answered(|| backend.complete_multipart(&path, &upload, parts.clone()))
            .await?;
        Ok(match completed {
            Some(_) => Completed::Done,
            None => Completed::Gone,
        })
    }

    /// Drops an upload, if it is still open.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn abort_upload(&self, key: &str, upload: &str) -> Result<(), Error> {
        let path = path(key)?;
        let upload = upload.to_owned();
        let backend = &self.shared.backend;
        self.waiting("abort the upload of", key)
            .until_answered(|| backend.abort_multipart(&path, &upload))
            .await?;
        Ok(())
    }

    /// A wait for one thing to be done.
    pub fn waiting<'a>(&'a self, action: &'static str, key: &'a str) -> Waiting<'a> {
        Waiting {
            bucket: self,
            action,
            key,
            begun: self.shared.clock.now(),
            failures: 0,
            patience: self.shared.retry_timeout,
        }
    }

    /// What needs nothing to be there was told that something isn't.
    fn absent(&self, action: &'static str, key: &str) -> Error {
        let why = "it says that there is no such object".to_owned();
        self.refused(action, key, Meaning::Refused(why))
    }

    fn refused(&self, action: &'static str, key: &str, why: Meaning) -> Error {
        self.shared.away.answered();
        why.into_error(action, key, &self.shared.name, &self.shared.endpoint)
    }
}

/// A wait for one thing to be done, with pauses that grow, and an end.
pub struct Waiting<'a> {
    bucket: &'a Bucket,
    action: &'static str,
    key: &'a str,
    begun: Tick,
    failures: u32,
    patience: Duration,
}

impl Waiting<'_> {
    /// Pauses after a failure that passes.
    ///
    /// # Errors
    /// When the store was waited for long enough.
    pub async fn pause(&mut self, detail: &str) -> Result<(), Error> {
        let shared = &self.bucket.shared;
        self.failures += 1;
        let waited = shared.clock.now().since(self.begun);
        if self.failures >= FAILURES_SAID {
            shared.away.failed(self.begun, detail);
        }
        if waited >= self.patience {
            return Err(Error::Away {
                action: self.action,
                key: self.key.to_owned(),
                location: format!("s3://{} at {}", shared.name, shared.endpoint),
                waited,
                detail: detail.to_owned(),
            });
        }
        let doubled = FIRST_PAUSE.saturating_mul(1 << (self.failures - 1).min(10));
        let pause = doubled.min(LONGEST_PAUSE);
        shared.clock.until(shared.clock.now().after(pause)).await;
        Ok(())
    }

    /// Sends a request until it is answered; nothing when the store says that there is no such thing.
    async fn until_answered<T, F>(
        &mut self,
        mut request: impl FnMut() -> F,
    ) -> Result<Option<T>, Error>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        self.bucket.check_credentials().await?;
        loop {
            let detail = match request().await {
                Ok(value) => {
                    self.bucket.shared.away.answered();
                    return Ok(Some(value));
                }
                Err(error) => match meaning(&error) {
                    Answer::Absent => {
                        self.bucket.shared.away.answered();
                        return Ok(None);
                    }
                    Answer::Final(why) => {
                        return Err(self.bucket.refused(self.action, self.key, why));
                    }
                    Answer::Taken => {
                        "the store said that another request was in its way".to_owned()
                    }
                    Answer::Passing(detail) => detail,
                },
            };
            self.pause(&detail).await?;
        }
    }
}

fn path(key: &str) -> Result<Path, Error> {
    Path::parse(key).map_err(|_| Error::Location {
        location: key.to_owned(),
        reason: "no object can have this key",
    })
}

/// The next item of a stream.
async fn next<T>(stream: &mut futures::stream::BoxStream<'static, T>) -> Option<T> {
    futures::StreamExt::next(stream).await
}
