//! The driver half: renames the winners' files to their final names.

use std::{
    collections::HashSet,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use millstream_common::{
    failpoint,
    failure::{Failure, FailureKind, Retry},
    ids::QueryId,
    protocol::SinkCommit,
};
use rustix::{
    fs::{CWD, RenameFlags, renameat_with},
    io::Errno,
};
use serde::Deserialize;
use xxhash_rust::xxh3::Xxh3;

use super::{
    Settings, StagedFile, foreign,
    layout::{Layout, PrefixError, STAGING_DEPTH, SUCCESS, part_name},
    refused,
    staging::{Staging, gone_is_fine},
};
use crate::sink::{SinkBatch, SinkDriver, SinkStart};

/// The code of a file that is neither staged nor published.
const LOST_FILE: &str = "sink.lost_file";

/// Publishes staged text files.
#[derive(Debug)]
pub struct TextFilePublisher {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    layout: Layout,
    fsync: bool,
    success_file: bool,
}

impl TextFilePublisher {
    /// The driver half.
    ///
    /// # Errors
    /// When the prefix is none.
    pub fn new(settings: &Settings) -> Result<Self, PrefixError> {
        let inner = Inner {
            layout: Layout::new(settings)?,
            fsync: settings.fsync,
            success_file: settings.success_file,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Runs disk work where it may block.
    async fn on_disk<R: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> R + Send + 'static,
    ) -> Result<R, Failure> {
        let inner = Arc::clone(&self.inner);
        let done = tokio::task::spawn_blocking(move || work(&inner)).await;
        done.map_err(|error| {
            Failure::caused_by(FailureKind::Internal, "publishing files broke off", &error)
        })
    }
}

#[async_trait]
impl SinkDriver for TextFilePublisher {
    async fn check(&self, start: &SinkStart) -> Result<Vec<PathBuf>, Failure> {
        let query = start.query;
        self.on_disk(move |inner| inner.check(query)).await?
    }

    async fn publish(&self, batch: SinkBatch, winners: &[SinkCommit]) -> Result<(), Failure> {
        let winners = winners.to_vec();
        self.on_disk(move |inner| inner.publish(batch, &winners))
            .await?
    }

    async fn sweep(&self, batch: SinkBatch) {
        let swept = self.on_disk(move |inner| inner.sweep(batch)).await;
        let problem = match swept {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(failure) => failure.to_string(),
        };
        tracing::warn!(folder = %self.inner.layout.parent.display(), problem, "staged files that are no longer needed could not be removed");
    }
}

impl Inner {
    fn staging(&self, query: QueryId) -> Staging {
        let folder = self.layout.parent.join(self.layout.staging(query));
        Staging::new(folder, self.fsync)
    }

    fn check(&self, query: QueryId) -> Result<Vec<PathBuf>, Failure> {
        let parent = &self.layout.parent;
        let parent_is_new = !exists(parent)?;
        // What was made: from the output's own folder up to the one that holds the parent.
        let levels = STAGING_DEPTH + if parent_is_new { 2 } else { 1 };
        self.staging(query).make(levels)?;
        Ok(vec![parent.clone()])
    }

    fn publish(&self, batch: SinkBatch, winners: &[SinkCommit]) -> Result<(), Failure> {
        let parent = &self.layout.parent;
        let staging = self.staging(batch.query);
        if staging.is_published(batch.batch)? {
            return Ok(());
        }
        let mut files = Vec::with_capacity(winners.len());
        for winner in winners {
            files.push(self.staged_file(batch.query, winner)?);
        }
        let folder = self.layout.folder(batch.batch_time);
        self.look_for_others(&folder, &files)?;
        fs::create_dir_all(&folder).map_err(|error| refused("make", &folder, &error))?;
        for (done, (file, staged)) in files.iter().enumerate() {
            failpoint!("sink.files.publish", batch = batch.batch, done = done);
            put_in_place(file, staged, &folder.join(&file.name))
                .map_err(|failure| with_way_out(failure, &staging.mark(batch.batch)))?;
        }
        // The files must not be less lasting than the mark that says they are all there.
        staging.sync(&folder)?;
        failpoint!("sink.files.before_success", batch = batch.batch);
        if self.success_file {
            let success = folder.join(SUCCESS);
            File::create(&success).map_err(|error| refused("make", &success, &error))?;
            staging.sync(&folder)?;
        }
        staging.sync(parent)?;
        failpoint!("sink.files.before_mark", batch = batch.batch);
        staging.set_published(batch.batch)
    }

    /// What a winner staged, and where that is.
    fn staged_file(
        &self,
        query: QueryId,
        winner: &SinkCommit,
    ) -> Result<(StagedFile, PathBuf), Failure> {
        let unusable = || {
            Failure::new(
                FailureKind::Internal,
                format!(
                    "the commit names a staged file that is none of this output's: {}",
                    winner.payload
                ),
            )
            .with_retry(Retry::Never)
        };
        let file = StagedFile::deserialize(&winner.payload).map_err(|_| unusable())?;
        if file.name != part_name(winner.partition) {
            return Err(unusable());
        }
        let staged = self
            .layout
            .staged(query, &file.staged)
            .ok_or_else(unusable)?;
        Ok((file, staged))
    }

    /// The final folder may hold what a driver that died in the middle published of this batch, and nothing else.
    fn look_for_others(
        &self,
        folder: &Path,
        files: &[(StagedFile, PathBuf)],
    ) -> Result<(), Failure> {
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                return Err(foreign(folder, "it is no folder"));
            }
            Err(error) => return Err(refused("look into", folder, &error)),
        };
        let own: HashSet<&str> = files.iter().map(|(file, _)| file.name.as_str()).collect();
        for entry in entries {
            let entry = entry.map_err(|error| refused("look into", folder, &error))?;
            let name = entry.file_name();
            if name == SUCCESS {
                for (_, staged) in files {
                    if exists(staged)? {
                        return Err(foreign(
                            folder,
                            "it is complete before the batch was published",
                        ));
                    }
                }
            } else if !name.to_str().is_some_and(|name| own.contains(name)) {
                return Err(foreign(
                    &entry.path(),
                    "no task of the batch wrote such a file",
                ));
            }
        }
        Ok(())
    }

    fn sweep(&self, batch: SinkBatch) -> io::Result<()> {
        self.staging(batch.query).sweep(&batch)
    }
}

/// Files may be gone for good, taken away by who reads them before the mark was made. Without a way past them no batch would ever follow.
fn with_way_out(mut failure: Failure, published: &Path) -> Failure {
    if failure.code == LOST_FILE {
        failure.message.push_str(&format!(
            "; to go on without it, make the empty file {}",
            published.display()
        ));
    }
    failure
}

fn exists(path: &Path) -> Result<bool, Failure> {
    path.try_exists()
        .map_err(|error| refused("look for", path, &error))
}

/// Renames a staged file to its final name. One that is gone was renamed before.
///
/// # Errors
/// What the disk refuses; something else under the name; a staged file that is gone and was not published.
pub fn put_in_place(file: &StagedFile, staged: &Path, target: &Path) -> Result<(), Failure> {
    match rename_new(staged, target) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => verify_published(file, target),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if !exists(staged)? {
                return verify_published(file, target);
            }
            if !has_content(target, file)? {
                return Err(foreign(
                    target,
                    "it differs from what the batch's task wrote",
                ));
            }
            fs::remove_file(staged)
                .or_else(gone_is_fine)
                .map_err(|error| refused("remove", staged, &error))
        }
        Err(error) => Err(refused("publish", target, &error)),
    }
}

/// Renames without replacing anything.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // File systems without the flag; only one driver publishes.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            if to.try_exists()? {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            fs::rename(from, to)
        }
        other => other.map_err(io::Error::from),
    }
}

fn verify_published(file: &StagedFile, target: &Path) -> Result<(), Failure> {
    let found = match fs::metadata(target) {
        Ok(metadata) if metadata.is_file() && metadata.len() == file.length => return Ok(()),
        Ok(metadata) => format!("has {} bytes", metadata.len()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => "is not there".to_owned(),
        Err(error) => return Err(refused("look for", target, &error)),
    };
    let message = format!(
        "{} should have been published with {} bytes but {found}, and what was staged for it is gone; bring the file back, or its batch is lost",
        target.display(),
        file.length
    );
    Err(Failure::new(FailureKind::DataLoss, message).with_code(LOST_FILE))
}

/// Whether a file has the length and checksum that were staged.
fn has_content(path: &Path, file: &StagedFile) -> Result<bool, Failure> {
    let failed = |error: io::Error| refused("read", path, &error);
    let mut content = File::open(path).map_err(failed)?;
    if content.metadata().map_err(failed)?.len() != file.length {
        return Ok(false);
    }
    let mut hash = Hasher(Box::default());
    io::copy(&mut content, &mut hash).map_err(failed)?;
    Ok(hash.0.digest() == file.checksum)
}

struct Hasher(Box<Xxh3>);

impl io::Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
