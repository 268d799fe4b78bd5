//! The executor half: an attempt uploads one file in parts, and leaves it to the driver to complete the upload.

use std::sync::Arc;

use bytes::Bytes;
use millstream_common::{
    failpoint,
    failure::{Failure, FailureKind, Retry},
    protocol::SinkCommit,
    s3::{self, Bucket},
};
use millstream_dataflow::program::TaskContext;
use tokio::runtime::Handle;
use xxhash_rust::xxh3::Xxh3;

use super::{
    super::{PrefixError, Settings, TextRows, foreign_at, layout::part_name},
    Note, Output, StagedObject, failure,
};
use crate::sink::{Sink, SinkWriter, WriteId};

/// Bytes of a part; stores want at least 5 MiB of all but the last.
const PART: usize = 8 << 20;
/// Stores take no more of one object.
const MAX_PARTS: usize = 10_000;

/// Writes rows to open uploads.
#[derive(Debug)]
pub(in super::super) struct ObjectSink {
    output: Arc<Output>,
    part_bytes: usize,
}

impl ObjectSink {
    pub(in super::super) fn new(settings: &Settings) -> Result<Self, PrefixError> {
        Ok(Self {
            output: Arc::new(Output::new(settings)?),
            part_bytes: PART,
        })
    }

    #[cfg(test)]
    pub(super) fn over(settings: &Settings, bucket: &Bucket, part_bytes: usize) -> Self {
        let output = Output::new(settings).expect("settings of a test");
        let _ = output.bucket.set(bucket.clone());
        Self {
            output: Arc::new(output),
            part_bytes,
        }
    }
}

impl Sink<TextRows> for ObjectSink {
    fn writer(
        &self,
        id: WriteId,
        task: &TaskContext<'_>,
    ) -> Result<Box<dyn SinkWriter<TextRows>>, Failure> {
        let layout = &self.output.layout;
        let target = Target {
            bucket: self.output.bucket()?.clone(),
            folder: layout.folder(task.batch_time),
            place: layout.place(&layout.folder(task.batch_time)),
            key: layout.part(task.batch_time, id.partition),
            note: layout.note(&id),
        };
        Ok(Box::new(Writer {
            target: Arc::new(target),
            partition: id.partition,
            part_bytes: self.part_bytes,
            buffer: Vec::new(),
            upload: None,
            parts: Vec::new(),
            hash: Box::default(),
            length: 0,
            rows: 0,
        }))
    }

    /// Credentials and clock are those of each process: the driver's say nothing of this one's.
    fn check(&self) -> Result<(), Failure> {
        let bucket = self.output.bucket()?;
        let Ok(runtime) = Handle::try_current() else {
            return Ok(());
        };
        runtime
            .block_on(bucket.check_access(&self.output.layout.all_staging()))
            .map_err(failure)
    }
}

/// Where an attempt writes.
struct Target {
    bucket: Bucket,
    folder: String,
    /// The folder for messages.
    place: String,
    key: String,
    note: String,
}

impl Target {
    /// Begins an upload, with its first part and the note of it.
    async fn begin(&self, part: Bytes) -> Result<(String, String), Failure> {
        let listing = self.bucket.list(&self.folder);
        let beginning = self.bucket.begin_upload(&self.key);
        let (listed, upload) = tokio::try_join!(listing, beginning).map_err(failed)?;
        let note = Note {
            key: self.key.clone(),
            upload: upload.clone(),
        };
        let note = serde_json::to_vec(&note).map_err(|error| unwritable(&error))?;
        // A batch is published after it committed, and then no attempt of it is of use any more.
        if !listed.is_empty() {
            self.bucket
                .abort_upload(&self.key, &upload)
                .await
                .map_err(failed)?;
            return Err(foreign_at(
                &self.place,
                "it is not empty before the batch is written",
            ));
        }
        let noting = self.bucket.put(&self.note, Bytes::from(note));
        let storing = self.bucket.put_part(&self.key, &upload, 0, part);
        let ((), part) = tokio::try_join!(noting, storing).map_err(failed)?;
        Ok((upload, part))
    }

    async fn go_on(&self, upload: &str, number: usize, part: Bytes) -> Result<String, s3::Error> {
        self.bucket.put_part(&self.key, upload, number, part).await
    }
}

struct Writer {
    target: Arc<Target>,
    partition: u32,
    part_bytes: usize,
    /// What is not uploaded yet.
    buffer: Vec<u8>,
    upload: Option<String>,
    parts: Vec<String>,
    hash: Box<Xxh3>,
    length: u64,
    rows: u64,
}

impl SinkWriter<TextRows> for Writer {
    fn write(&mut self, chunk: TextRows, task: &mut TaskContext<'_>) -> Result<(), Failure> {
        task.cancel.check()?;
        let bytes = chunk.text.as_bytes();
        self.hash.update(bytes);
        self.length += bytes.len() as u64;
        self.rows += chunk.rows;
        self.buffer.extend_from_slice(bytes);
        while self.buffer.len() >= self.part_bytes {
            let rest = self.buffer.split_off(self.part_bytes);
            let part = std::mem::replace(&mut self.buffer, rest);
            self.store(part, task)?;
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>, task: &mut TaskContext<'_>) -> Result<SinkCommit, Failure> {
        failpoint!("sink.files.before_finish", partition = self.partition);
        // An object has at least one part, which may be empty.
        if self.upload.is_none() || !self.buffer.is_empty() {
            let rest = std::mem::take(&mut self.buffer);
            self.store(rest, task)?;
        }
        let checksum = self.hash.digest();
        let staged = StagedObject {
            name: part_name(self.partition),
            upload: self.upload.unwrap_or_default(),
            parts: self.parts,
            length: self.length,
            checksum,
        };
        let payload = serde_json::to_value(staged).map_err(|error| unwritable(&error))?;
        failpoint!("sink.files.after_finish", partition = self.partition);
        Ok(SinkCommit {
            partition: self.partition,
            rows: self.rows,
            checksum,
            payload,
        })
    }
}

impl Writer {
    /// Uploads a part and waits for it.
    fn store(&mut self, part: Vec<u8>, task: &TaskContext<'_>) -> Result<(), Failure> {
        let part = Bytes::from(part);
        let number = self.parts.len();
        if number >= MAX_PARTS {
            let message = format!(
                "{} would have more than {MAX_PARTS} parts of {} MiB, which object stores don't take: use more partitions",
                self.target.key,
                PART >> 20
            );
            return Err(Failure::new(FailureKind::Io, message)
                .with_code("sink.object_too_large")
                .with_retry(Retry::Never));
        }
        let target = Arc::clone(&self.target);
        let stored = match self.upload.clone() {
            Some(upload) => task
                .wait_for_io(async move { target.go_on(&upload, number, part).await })?
                .map_err(failed)?,
            None => {
                let begun = task.wait_for_io(async move { target.begin(part).await })?;
                let (upload, stored) = begun?;
                self.upload = Some(upload);
                stored
            }
        };
        self.parts.push(stored);
        Ok(())
    }
}

/// What the store refused in a task. Another executor may have what this process lacks.
fn failed(error: s3::Error) -> Failure {
    let of_this_process = matches!(
        error,
        s3::Error::Credentials { .. } | s3::Error::Clock { .. }
    );
    let failure = failure(error);
    if of_this_process {
        return failure.with_retry(Retry::Backoff);
    }
    failure
}

fn unwritable(error: &serde_json::Error) -> Failure {
    Failure::caused_by(
        FailureKind::Internal,
        "a staged object can't be written down",
        error,
    )
}
