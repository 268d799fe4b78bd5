//! The driver half: renames the winners' files to their final names once the batch has committed.

use std::{
    collections::BTreeSet,
    fs,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use millstream_common::{
    failpoint,
    failure::{Failure, FailureKind, Retry},
    ids::QueryId,
    protocol::SinkCommit,
};
use millstream_connectors::{
    sink::{SinkBatch, SinkDriver, SinkStart},
    text_files::sink::{StagedFile, Staging, put_in_place, refused},
};
use serde::Deserialize;

use super::{FileSink, Staged};

/// Publishes staged files.
pub(crate) struct FilePublisher {
    sink: Arc<FileSink>,
}

impl FilePublisher {
    pub(crate) fn new(sink: FileSink) -> Self {
        Self {
            sink: Arc::new(sink),
        }
    }

    async fn on_disk<R: Send + 'static>(
        &self,
        work: impl FnOnce(&FileSink) -> R + Send + 'static,
    ) -> Result<R, Failure> {
        let sink = Arc::clone(&self.sink);
        let done = tokio::task::spawn_blocking(move || work(&sink)).await;
        done.map_err(|error| {
            Failure::caused_by(FailureKind::Internal, "publishing files broke off", &error)
        })
    }
}

#[async_trait]
impl SinkDriver for FilePublisher {
    async fn check(&self, start: &SinkStart) -> Result<Vec<PathBuf>, Failure> {
        let query = start.query;
        self.on_disk(move |sink| check(sink, query)).await?
    }

    async fn publish(&self, batch: SinkBatch, winners: &[SinkCommit]) -> Result<(), Failure> {
        let winners = winners.to_vec();
        self.on_disk(move |sink| publish(sink, batch, &winners))
            .await?
    }

    async fn sweep(&self, batch: SinkBatch) {
        let swept = self
            .on_disk(move |sink| staging(sink, batch.query).sweep(&batch))
            .await;
        let problem = match swept {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(failure) => failure.to_string(),
        };
        tracing::warn!(folder = %self.sink.folder.display(), problem, "staged files that are no longer needed could not be removed");
    }
}

fn staging(sink: &FileSink, query: QueryId) -> Staging {
    Staging::new(sink.folder.join(sink.staging(query)), sink.fsync)
}

fn check(sink: &FileSink, query: QueryId) -> Result<Vec<PathBuf>, Failure> {
    // From the output's own folder up to the one that holds the sink's.
    staging(sink, query).make(5)?;
    Ok(vec![sink.folder.clone()])
}

fn publish(sink: &FileSink, batch: SinkBatch, winners: &[SinkCommit]) -> Result<(), Failure> {
    let mut files: Vec<StagedFile> = Vec::new();
    for winner in winners {
        files.extend(staged_files(sink, batch.query, winner)?);
    }
    let staging = staging(sink, batch.query);
    if files.is_empty() || staging.is_published(batch.batch)? {
        return Ok(());
    }
    let mut changed: BTreeSet<PathBuf> = BTreeSet::new();
    for (done, file) in files.iter().enumerate() {
        failpoint!("sink.files.publish", batch = batch.batch, done = done);
        let target = sink.folder.join(&file.name);
        let Some(folder) = target.parent() else {
            continue;
        };
        if !changed.contains(folder) {
            fs::create_dir_all(folder).map_err(|error| refused("make", folder, &error))?;
            changed.insert(folder.to_owned());
        }
        put_in_place(file, &sink.folder.join(&file.staged), &target)?;
    }
    // Folders that were just made are entries of those above them.
    let with_those_above: BTreeSet<&Path> = changed
        .iter()
        .flat_map(|folder| folder.ancestors())
        .filter(|above| above.starts_with(&sink.folder))
        .collect();
    for folder in with_those_above {
        staging.sync(folder)?;
    }
    failpoint!("sink.files.before_mark", batch = batch.batch);
    // The files must not be less lasting than the mark that says they are all there.
    staging.set_published(batch.batch)
}

/// What a winner staged; names that lead elsewhere are refused.
fn staged_files(
    sink: &FileSink,
    query: QueryId,
    winner: &SinkCommit,
) -> Result<Vec<StagedFile>, Failure> {
    let unusable = || {
        Failure::new(
            FailureKind::Internal,
            format!(
                "the commit names staged files that are none of this output's: {}",
                winner.payload
            ),
        )
        .with_retry(Retry::Never)
    };
    let staged = Staged::deserialize(&winner.payload).map_err(|_| unusable())?;
    let own = sink.staging(query);
    for file in &staged.files {
        let is_below = |path: &str| {
            let parts = Path::new(path).components();
            parts
                .into_iter()
                .all(|part| matches!(part, Component::Normal(_)))
        };
        let is_own = Path::new(&file.staged).starts_with(&own);
        if !is_own || !is_below(&file.staged) || !is_below(&file.name) {
            return Err(unusable());
        }
    }
    Ok(staged.files)
}
