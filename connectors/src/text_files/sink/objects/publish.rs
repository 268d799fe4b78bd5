//! The driver half: completes the winners' uploads.

use std::{collections::HashMap, path::PathBuf};

use async_trait::async_trait;
use bytes::Bytes;
use millstream_common::{
    failpoint,
    failure::{Failure, FailureKind, Retry},
    ids::BatchId,
    protocol::SinkCommit,
    s3::{self, Bucket, Completed},
};
use serde::Deserialize;
use tokio::task::JoinSet;

use super::{
    super::{
        PrefixError, Settings, foreign_at,
        layout::{Entry, SUCCESS, part_name},
    },
    Note, Output, StagedObject, failure,
};
use crate::sink::{SinkBatch, SinkDriver, SinkStart};

/// Looks for an object whose upload is gone: the request of a driver that was killed may still be completing it.
const GONE_TRIES: u32 = 6;
/// Requests of one batch at a time.
const AT_ONCE: usize = 16;

/// Publishes uploaded text files.
#[derive(Debug)]
pub(in super::super) struct ObjectPublisher {
    output: Output,
}

impl ObjectPublisher {
    pub(in super::super) fn new(settings: &Settings) -> Result<Self, PrefixError> {
        Ok(Self {
            output: Output::new(settings)?,
        })
    }

    #[cfg(test)]
    pub(super) fn over(settings: &Settings, bucket: &Bucket) -> Self {
        let output = Output::new(settings).expect("settings of a test");
        let _ = output.bucket.set(bucket.clone());
        Self { output }
    }
}

#[async_trait]
impl SinkDriver for ObjectPublisher {
    async fn check(&self, start: &SinkStart) -> Result<Vec<PathBuf>, Failure> {
        let bucket = self.output.bucket()?;
        let staging = self.output.layout.staging(start.query);
        let probe = format!("{staging}/writable");
        let checked = async {
            bucket.check(&staging).await?;
            bucket.put(&probe, Bytes::from_static(b"x")).await?;
            bucket.delete(&probe).await?;
            let upload = bucket.begin_upload(&probe).await?;
            bucket.abort_upload(&probe, &upload).await
        };
        checked.await.map_err(failure)?;
        Ok(Vec::new())
    }

    async fn publish(&self, batch: SinkBatch, winners: &[SinkCommit]) -> Result<(), Failure> {
        let bucket = self.output.bucket()?;
        let layout = &self.output.layout;
        let published = layout.published(batch.query, batch.batch);
        if bucket.length(&published).await.map_err(failure)?.is_some() {
            return Ok(());
        }
        let mut files = Vec::with_capacity(winners.len());
        for winner in winners {
            files.push((
                layout.part(batch.batch_time, winner.partition),
                staged(winner)?,
            ));
        }
        let there = self.look_for_others(bucket, batch, &files).await?;
        self.complete(bucket, batch, files, &there).await?;
        point("sink.files.before_success", batch.batch, None).await;
        if self.output.success_file {
            let success = layout.success(batch.batch_time);
            bucket.put(&success, Bytes::new()).await.map_err(failure)?;
        }
        point("sink.files.before_mark", batch.batch, None).await;
        bucket.put(&published, Bytes::new()).await.map_err(failure)
    }

    async fn sweep(&self, batch: SinkBatch) {
        let swept = match self.output.bucket() {
            Ok(bucket) => self.sweep_bucket(bucket, batch).await.map_err(failure),
            Err(failure) => Err(failure),
        };
        if let Err(problem) = swept {
            let place = self
                .output
                .layout
                .place(&self.output.layout.staging(batch.query));
            tracing::warn!(place, %problem, "uploads that are no longer needed could not be aborted");
        }
    }
}

/// What a winner uploaded.
fn staged(winner: &SinkCommit) -> Result<StagedObject, Failure> {
    let staged = StagedObject::deserialize(&winner.payload).ok();
    let own = staged.filter(|staged| staged.name == part_name(winner.partition));
    own.ok_or_else(|| {
        let message = format!(
            "the commit names an upload that is none of this output's: {}",
            winner.payload
        );
        Failure::new(FailureKind::Internal, message).with_retry(Retry::Never)
    })
}

impl ObjectPublisher {
    /// The final folder may hold what a driver that died in the middle published of this batch, and nothing else. Gives the lengths of what is there.
    async fn look_for_others(
        &self,
        bucket: &Bucket,
        batch: SinkBatch,
        files: &[(String, StagedObject)],
    ) -> Result<HashMap<String, u64>, Failure> {
        let layout = &self.output.layout;
        let folder = layout.folder(batch.batch_time);
        let listed = bucket.list(&folder).await.map_err(failure)?;
        let there: HashMap<String, u64> = listed.into_iter().collect();
        let success = format!("{folder}/{SUCCESS}");
        for key in there.keys().filter(|key| **key != success) {
            if !files.iter().any(|(own, _)| own == key) {
                return Err(foreign_at(
                    &layout.place(key),
                    "no task of the batch wrote such a file",
                ));
            }
        }
        let all_there = files.iter().all(|(key, _)| there.contains_key(key));
        if there.contains_key(&success) && !all_there {
            return Err(foreign_at(
                &layout.place(&folder),
                "it is complete before the batch was published",
            ));
        }
        Ok(there)
    }

    async fn complete(
        &self,
        bucket: &Bucket,
        batch: SinkBatch,
        files: Vec<(String, StagedObject)>,
        there: &HashMap<String, u64>,
    ) -> Result<(), Failure> {
        let mut running: JoinSet<Result<(), Failure>> = JoinSet::new();
        for (index, (key, file)) in files.into_iter().enumerate() {
            if running.len() >= AT_ONCE {
                joined(running.join_next().await)?;
            }
            let bucket = bucket.clone();
            let place = self.output.layout.place(&key);
            let is_there = there.contains_key(&key);
            running.spawn(async move {
                point("sink.files.publish", batch.batch, Some(index)).await;
                if is_there {
                    verify_content(&bucket, &key, &place, &file).await
                } else {
                    put_in_place(&bucket, &key, &place, &file).await
                }
            });
        }
        while !running.is_empty() {
            joined(running.join_next().await)?;
        }
        Ok(())
    }

    async fn sweep_bucket(&self, bucket: &Bucket, batch: SinkBatch) -> Result<(), s3::Error> {
        let staging = self.output.layout.staging(batch.query);
        let mut running: JoinSet<Result<(), s3::Error>> = JoinSet::new();
        for (key, _) in bucket.list(&staging).await? {
            let entry = key
                .strip_prefix(&staging)
                .and_then(|rest| rest.strip_prefix('/'))
                .and_then(|rest| Entry::parse(rest.split('/').next().unwrap_or(rest)));
            let noted = match entry {
                Some(Entry::Batch(staged, epoch))
                    if staged <= batch.batch && epoch <= batch.epoch =>
                {
                    true
                }
                Some(Entry::Published(published)) if published < batch.batch => false,
                _ => continue,
            };
            if running.len() >= AT_ONCE
                && let Some(Ok(swept)) = running.join_next().await
            {
                swept?;
            }
            let bucket = bucket.clone();
            let parts = self.output.layout.all_parts();
            running.spawn(async move {
                if noted {
                    abort(&bucket, &key, &parts).await?;
                }
                bucket.delete(&key).await
            });
        }
        while let Some(swept) = running.join_next().await {
            if let Ok(swept) = swept {
                swept?;
            }
        }
        Ok(())
    }
}

/// Aborts the upload that a note tells of. One that was completed is none any more.
async fn abort(bucket: &Bucket, note: &str, parts: &str) -> Result<(), s3::Error> {
    let Some(bytes) = bucket.get(note).await? else {
        return Ok(());
    };
    match serde_json::from_slice::<Note>(&bytes) {
        Ok(note) if note.key.starts_with(parts) => {
            bucket.abort_upload(&note.key, &note.upload).await
        }
        _ => Ok(()),
    }
}

fn joined(
    result: Option<Result<Result<(), Failure>, tokio::task::JoinError>>,
) -> Result<(), Failure> {
    match result {
        Some(Ok(result)) => result,
        Some(Err(error)) => Err(Failure::caused_by(
            FailureKind::Internal,
            "publishing objects broke off",
            &error,
        )),
        None => Ok(()),
    }
}

/// Completes an upload. One that is gone was completed before.
async fn put_in_place(
    bucket: &Bucket,
    key: &str,
    place: &str,
    file: &StagedObject,
) -> Result<(), Failure> {
    let mut waiting = bucket.waiting("complete the upload of", key);
    let mut tries = 0;
    let found = loop {
        let completed = bucket.complete(key, &file.upload, &file.parts).await;
        if completed.map_err(failure)? == Completed::Done {
            return Ok(());
        }
        match bucket.length(key).await.map_err(failure)? {
            Some(length) if length == file.length => return Ok(()),
            Some(length) => break format!("has {length} bytes"),
            None => {}
        }
        tries += 1;
        if tries >= GONE_TRIES {
            break "is not there".to_owned();
        }
        let detail = "the upload is gone, and its object is not to be seen yet";
        waiting.pause(detail).await.map_err(failure)?;
    };
    let message = format!(
        "{place} should have been published with {} bytes but {found}, and the upload for it is gone; bring the object back, or its batch is lost. \
         Does a lifecycle rule abort uploads too early?",
        file.length
    );
    Err(Failure::new(FailureKind::DataLoss, message).with_code("sink.lost_file"))
}

/// An object that is there already must be the one that the task wrote.
async fn verify_content(
    bucket: &Bucket,
    key: &str,
    place: &str,
    file: &StagedObject,
) -> Result<(), Failure> {
    let found = bucket.digest(key).await.map_err(failure)?;
    if found == Some((file.length, file.checksum)) {
        return Ok(());
    }
    Err(foreign_at(
        &place,
        "it differs from what the batch's task wrote",
    ))
}

/// The point may hold its thread; the runtime has to go on.
async fn point(name: &'static str, batch: BatchId, done: Option<usize>) {
    if !failpoint::ENABLED {
        return;
    }
    let held = tokio::task::spawn_blocking(move || match done {
        Some(done) => failpoint::hit(name, &[("batch", &batch), ("done", &done)]),
        None => failpoint::hit(name, &[("batch", &batch)]),
    });
    let _ = held.await;
}
