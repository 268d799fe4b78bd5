//! The driver half: renames the winners' files to their final names once the batch has committed.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
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
    text_files::sink::{StagedFile, put_in_place, refused, sync_folder},
};
use serde::Deserialize;

use super::{FileSink, PUBLISHED, Staged};

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
        let swept = self.on_disk(move |sink| sweep(sink, batch)).await;
        let problem = match swept {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(failure) => failure.to_string(),
        };
        tracing::warn!(folder = %self.sink.folder.display(), problem, "staged files that are no longer needed could not be removed");
    }
}

fn check(sink: &FileSink, query: QueryId) -> Result<Vec<PathBuf>, Failure> {
    let staging = sink.folder.join(sink.staging(query));
    fs::create_dir_all(&staging).map_err(|error| refused("make", &staging, &error))?;
    let probe = staging.join("writable");
    let written = fs::write(&probe, b"x").and_then(|()| fs::remove_file(&probe));
    written.map_err(|error| refused("write", &probe, &error))?;
    // From the output's own folder up to the one that holds the sink's.
    for folder in staging.ancestors().take(5) {
        sync(sink, folder)?;
    }
    Ok(vec![sink.folder.clone()])
}

fn sync(sink: &FileSink, folder: &Path) -> Result<(), Failure> {
    if !sink.fsync {
        return Ok(());
    }
    sync_folder(folder).map_err(|error| refused("force to the disk", folder, &error))
}

fn publish(sink: &FileSink, batch: SinkBatch, winners: &[SinkCommit]) -> Result<(), Failure> {
    let mut files: Vec<StagedFile> = Vec::new();
    for winner in winners {
        files.extend(staged_files(sink, batch.query, winner)?);
    }
    if files.is_empty() {
        return Ok(());
    }
    // A batch that was published once isn't looked at again: its files are their readers', who may have taken them away.
    let published = sink.folder.join(sink.published(batch.query, batch.batch));
    let is_published = published.try_exists();
    if is_published.map_err(|error| refused("look for", &published, &error))? {
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
        sync(sink, folder)?;
    }
    failpoint!("sink.files.before_mark", batch = batch.batch);
    // The files must not be less lasting than the mark that says they are all there.
    if let Some(staging) = published.parent() {
        fs::create_dir_all(staging).map_err(|error| refused("make", staging, &error))?;
        File::create(&published).map_err(|error| refused("make", &published, &error))?;
        sync(sink, staging)?;
    }
    Ok(())
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

/// Removes what attempts of this batch and earlier ones left.
fn sweep(sink: &FileSink, batch: SinkBatch) -> io::Result<()> {
    let staging = sink.folder.join(sink.staging(batch.query));
    let entries = match fs::read_dir(&staging) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else {
            continue;
        };
        if let Some(number) = name.strip_suffix(PUBLISHED) {
            // That of the newest batch is asked for at the next start.
            let is_older = number
                .parse::<u64>()
                .is_ok_and(|number| number < batch.batch.0);
            if is_older {
                match fs::remove_file(entry.path()) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
            continue;
        }
        let Some((number, epoch)) = name.split_once('-') else {
            continue;
        };
        let (Ok(number), Ok(epoch)) = (number.parse::<u64>(), epoch.parse::<u64>()) else {
            continue;
        };
        if number <= batch.batch.0 && epoch <= batch.epoch.0 {
            match fs::remove_dir_all(entry.path()) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}
