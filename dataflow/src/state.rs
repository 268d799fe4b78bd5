//! What an executor keeps of stateful operators between batches, and the files that make it durable.
//!
//! A state partition is the state of one operator for one partition of its keys. What it holds in memory is the operator's own business; this module says
//! where it stays between tasks ([`StateServices::cell`]) and how its files are named, written and read ([`StateFolder`]). A file is written once, under a
//! name that no other attempt can have, and counts only when a commit lists it.

use std::{
    any::Any,
    fs::{self, File},
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use millstream_common::{
    failpoint,
    failure::{Failure, FailureKind, Retry},
    ids::{BatchId, QueryId, TaskId},
    protocol::StateFile,
};
use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_64;

/// The folder of state files below a checkpoint.
pub const STATE: &str = "state/";

/// Whose state: one operator's for one partition.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StateKey {
    /// The query.
    pub query: QueryId,
    /// The operator's stable id.
    pub operator: String,
    /// The partition.
    pub partition: u32,
}

/// Where a state partition stays between tasks. A task holds the lock while it runs; one that fails midway leaves nothing inside.
pub type StateCell = Arc<Mutex<Option<Box<dyn Any + Send>>>>;

/// What an executor provides to stateful operators.
pub trait StateServices: Send + Sync {
    /// The cell of a state partition for a task of `batch`; empty where this executor doesn't hold it.
    fn cell(&self, key: &StateKey, batch: BatchId) -> StateCell;

    /// The query's state files; none where its checkpoint isn't a folder that executors share.
    fn folder(&self, query: QueryId) -> Option<StateFolder>;
}

/// The state files of one query.
#[derive(Clone, Debug)]
pub struct StateFolder {
    checkpoint: PathBuf,
    fsync: bool,
}

/// What a file replaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// Nothing: it says what a batch changed.
    Delta,
    /// A run of files after the oldest.
    Merged,
    /// Every older file.
    Snapshot,
}

impl FileKind {
    fn extension(self) -> &'static str {
        match self {
            Self::Delta => "delta",
            Self::Merged => "merged",
            Self::Snapshot => "snapshot",
        }
    }
}

impl StateFolder {
    /// The state below a checkpoint's folder. Without `fsync` a machine's crash may lose what a commit lists.
    pub fn new(checkpoint: impl Into<PathBuf>, fsync: bool) -> Self {
        Self {
            checkpoint: checkpoint.into(),
            fsync,
        }
    }

    /// Writes a file of an attempt. It is durable when this returns.
    ///
    /// # Errors
    /// `Io` with the path.
    pub fn write(
        &self,
        task: TaskId,
        operator: &str,
        kind: FileKind,
        content: &[u8],
    ) -> Result<StateFile, Failure> {
        let name = file_name(task, operator, kind);
        let path = self.checkpoint.join(&name);
        let written = self.write_durably(&path, content);
        written.map_err(|error| {
            Failure::caused_by(
                FailureKind::Io,
                format!(
                    "could not write state file {}; is the checkpoint's disk full or gone?",
                    path.display()
                ),
                &error,
            )
            .with_code("state.write")
        })?;
        failpoint!(
            "executor.state.written",
            batch = task.batch,
            stage = task.stage,
            partition = task.partition,
            attempt = task.attempt
        );
        Ok(StateFile {
            operator: operator.to_owned(),
            partition: task.partition,
            file: name,
            offset: 0,
            length: content.len() as u64,
            checksum: xxh3_64(content),
            rows: 0,
        })
    }

    fn write_durably(&self, path: &Path, content: &[u8]) -> std::io::Result<()> {
        let folder = path.parent().unwrap_or(&self.checkpoint);
        let mut file = match File::create(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                self.make_folder(folder)?;
                File::create(path)?
            }
            opened => opened?,
        };
        file.write_all(content)?;
        if self.fsync {
            file.sync_data()?;
            File::open(folder)?.sync_all()?;
        }
        Ok(())
    }

    /// Makes `state/<operator>/<partition>` with every folder above it that isn't there, each durable.
    fn make_folder(&self, folder: &Path) -> std::io::Result<()> {
        // A checkpoint that was deleted isn't made anew.
        fs::metadata(&self.checkpoint)?;
        fs::create_dir_all(folder)?;
        if self.fsync {
            let above = folder.ancestors().skip(1);
            for parent in above.take_while(|parent| parent.starts_with(&self.checkpoint)) {
                File::open(parent)?.sync_all()?;
            }
        }
        Ok(())
    }

    /// Reads what a commit lists.
    ///
    /// # Errors
    /// `Io` when it can't be read, and without a retry when it is gone or isn't what was written.
    pub fn read(&self, file: &StateFile) -> Result<Bytes, Failure> {
        let path = self.checkpoint.join(&file.file);
        let mut content = Vec::new();
        let read = File::open(&path).and_then(|mut opened| {
            opened.seek(SeekFrom::Start(file.offset))?;
            opened.take(file.length).read_to_end(&mut content)
        });
        if let Err(error) = read {
            let is_gone = error.kind() == std::io::ErrorKind::NotFound;
            let message = format!(
                "could not read state file {}, which the newest commit lists; restore the checkpoint from a backup if it is lost",
                path.display()
            );
            let failure =
                Failure::caused_by(FailureKind::Io, message, &error).with_code("state.read");
            return Err(match is_gone {
                true => failure.with_retry(Retry::Never),
                false => failure,
            });
        }
        if content.len() as u64 != file.length || xxh3_64(&content) != file.checksum {
            let message = format!(
                "state file {} is not what was written: it was altered or cut; restore the checkpoint from a backup",
                path.display()
            );
            return Err(Failure::new(FailureKind::Io, message)
                .with_code("state.damaged")
                .with_retry(Retry::Never));
        }
        Ok(content.into())
    }
}

/// `state/<operator>/<partition>/<batch>-<epoch>.<attempt>.delta`
fn file_name(task: TaskId, operator: &str, kind: FileKind) -> String {
    format!(
        "{STATE}{operator}/{}/{:020}-{}.{}.{}",
        task.partition,
        task.batch.0,
        task.epoch,
        task.attempt,
        kind.extension()
    )
}

/// The batch and epoch that a state file's name says; none for other names.
pub fn batch_and_epoch(name: &str) -> Option<(u64, u64)> {
    let file = name.strip_prefix(STATE)?.rsplit('/').next()?;
    let (batch, rest) = file.split_once('-')?;
    let (epoch, _) = rest.split_once('.')?;
    Some((batch.parse().ok()?, epoch.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use millstream_common::ids::{Epoch, StageId};

    use super::*;

    fn task() -> TaskId {
        TaskId {
            query: QueryId::random(),
            epoch: Epoch(3),
            batch: BatchId(17),
            stage: StageId(1),
            partition: 5,
            attempt: 2,
        }
    }

    #[test]
    fn a_file_is_named_by_its_attempt_and_read_back() {
        let folder = tempfile::tempdir().expect("folder");
        let state = StateFolder::new(folder.path(), true);
        let file = state
            .write(task(), "aggregate-0", FileKind::Delta, b"changes")
            .expect("written");
        assert_eq!(
            file.file,
            "state/aggregate-0/5/00000000000000000017-3.2.delta"
        );
        assert_eq!(batch_and_epoch(&file.file), Some((17, 3)));
        assert_eq!(batch_and_epoch("state/x/readme"), None);
        assert_eq!(state.read(&file).expect("read"), "changes");
    }

    #[test]
    fn a_cut_altered_or_missing_file_is_told_and_not_tried_again() {
        let folder = tempfile::tempdir().expect("folder");
        let state = StateFolder::new(folder.path(), false);
        let file = state
            .write(task(), "aggregate-0", FileKind::Snapshot, b"all of it")
            .expect("written");
        let path = folder.path().join(&file.file);
        for content in [&b"all of"[..], b"all of IT"] {
            fs::write(&path, content).expect("write");
            let failure = state.read(&file).expect_err("damaged");
            assert_eq!(
                (failure.code.as_str(), failure.retry),
                ("state.damaged", Retry::Never)
            );
        }
        fs::remove_file(&path).expect("remove");
        let failure = state.read(&file).expect_err("gone");
        assert_eq!(
            (failure.code.as_str(), failure.retry),
            ("state.read", Retry::Never)
        );
        assert!(failure.message.contains("delta") || failure.message.contains("snapshot"));
    }
}
