//! A backend in memory that does what stores and networks do at their worst.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use futures::{StreamExt, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartId,
    MultipartUpload, ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, Result,
    memory::InMemory,
    multipart::{MultipartStore, PartId},
    path::Path,
};
use parking_lot::Mutex;

use super::Backend;

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is done; the answer is lost.
    LoseAnswer,
    /// It never arrives.
    LoseRequest,
    /// 503.
    Busy,
    /// 409, and nothing is stored.
    ConflictWithNothing,
    /// 404 of what stands before the store.
    NoSuchPage,
    /// 404 of the store.
    NoSuchKey,
    /// 403: the clock is off.
    Skewed,
}

#[derive(Debug)]
pub(crate) struct Fake {
    inner: InMemory,
    puts: AtomicUsize,
    next_puts: Mutex<VecDeque<Fault>>,
    always: Mutex<Option<Fault>>,
    overwrites: AtomicBool,
    lacks_credentials: AtomicBool,
    longest_answer: AtomicU64,
}

impl Fake {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            inner: InMemory::new(),
            puts: AtomicUsize::new(0),
            next_puts: Mutex::default(),
            always: Mutex::default(),
            overwrites: AtomicBool::new(false),
            lacks_credentials: AtomicBool::new(false),
            longest_answer: AtomicU64::new(u64::MAX),
        })
    }

    /// What becomes of the next puts, one each.
    pub(crate) fn next_puts(&self, faults: &[Fault]) {
        self.next_puts.lock().extend(faults);
    }

    /// What becomes of every request.
    pub(crate) fn always(&self, fault: Option<Fault>) {
        *self.always.lock() = fault;
    }

    /// Stores whatever is put, as stores do that don't know the header.
    pub(crate) fn ignore_if_none_match(&self) {
        self.overwrites.store(true, Ordering::Release);
    }

    /// Whether nobody gives credentials.
    pub(crate) fn lack_credentials(&self, lacks: bool) {
        self.lacks_credentials.store(lacks, Ordering::Release);
    }

    /// Breaks off answers that hold more than so many bytes.
    pub(crate) fn answers_end_after(&self, bytes: u64) {
        self.longest_answer.store(bytes, Ordering::Release);
    }

    /// Puts that arrived or should have.
    pub(crate) fn puts(&self) -> usize {
        self.puts.load(Ordering::Acquire)
    }

    fn check(&self) -> Result<()> {
        match *self.always.lock() {
            Some(fault) => Err(error_of(fault)),
            None => Ok(()),
        }
    }
}

fn error_of(fault: Fault) -> Error {
    let text = match fault {
        Fault::LoseAnswer | Fault::LoseRequest => "HTTP error: connection closed",
        Fault::Busy => "Server returned non-2xx status code: 503 Service Unavailable: ",
        Fault::NoSuchPage => return not_found("404 page not found"),
        Fault::NoSuchKey => return not_found("<Error><Code>NoSuchKey</Code></Error>"),
        Fault::Skewed => "<Error><Code>RequestTimeTooSkewed</Code></Error>",
        Fault::ConflictWithNothing => {
            return Error::AlreadyExists {
                path: "k".to_owned(),
                source: "409".to_owned().into(),
            };
        }
    };
    Error::Generic {
        store: "fake",
        source: text.into(),
    }
}

fn not_found(body: &str) -> Error {
    Error::NotFound {
        path: "k".to_owned(),
        source: format!("Server returned non-2xx status code: 404 Not Found: {body}").into(),
    }
}

impl fmt::Display for Fake {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("fake")
    }
}

#[async_trait]
impl Backend for Fake {
    async fn credentials(&self) -> Result<()> {
        if self.lacks_credentials.load(Ordering::Acquire) {
            return Err(error_of(Fault::LoseRequest));
        }
        Ok(())
    }
}

#[async_trait]
impl ObjectStore for Fake {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        mut options: PutOptions,
    ) -> Result<PutResult> {
        self.puts.fetch_add(1, Ordering::AcqRel);
        self.check()?;
        if self.overwrites.load(Ordering::Acquire) {
            options.mode = PutMode::Overwrite;
        }
        let fault = self.next_puts.lock().pop_front();
        if matches!(fault, None | Some(Fault::LoseAnswer)) {
            let result = self.inner.put_opts(location, payload, options).await;
            if fault.is_none() {
                return result;
            }
        }
        Err(error_of(fault.unwrap_or(Fault::Busy)))
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.check()?;
        let mut found = self.inner.get_opts(location, options).await?;
        if found.range.end - found.range.start > self.longest_answer.load(Ordering::Acquire) {
            let broken = futures::stream::once(async { Err(error_of(Fault::LoseAnswer)) });
            found.payload = GetResultPayload::Stream(broken.boxed());
        }
        Ok(found)
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        if let Err(error) = self.check() {
            return futures::stream::once(async { Err(error) }).boxed();
        }
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.check()?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[async_trait]
impl MultipartStore for Fake {
    async fn create_multipart(&self, path: &Path) -> Result<MultipartId> {
        self.inner.create_multipart(path).await
    }

    async fn put_part(
        &self,
        path: &Path,
        id: &MultipartId,
        part: usize,
        data: PutPayload,
    ) -> Result<PartId> {
        self.inner.put_part(path, id, part, data).await
    }

    async fn complete_multipart(
        &self,
        path: &Path,
        id: &MultipartId,
        parts: Vec<PartId>,
    ) -> Result<PutResult> {
        self.inner.complete_multipart(path, id, parts).await
    }

    async fn abort_multipart(&self, path: &Path, id: &MultipartId) -> Result<()> {
        self.inner.abort_multipart(path, id).await
    }
}
