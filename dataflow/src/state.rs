//! What an executor keeps of stateful operators between batches, and the files that make it durable.
//!
//! A state partition is the state of one operator for one partition of its keys. What it holds in memory is the operator's own business; this module says
//! where it stays between tasks ([`StateServices::cell`]) and how its files are named, written and read ([`StateFolder`]). A file is written once, under a
//! name that no other attempt can have, and counts only when a commit lists it.
//!
//! What is made beside the tasks, such as a merge of older files, can't know which attempt will hand it to a commit. It is written as a [`SpareFile`], under a
//! name that no commit lists; the attempt that takes it gives it a second name, of its own ([`SpareFile::adopt`]).

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
    ids::{BatchId, Epoch, QueryId, TaskId},
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

/// Work that runs beside tasks. It must not wait for a task.
pub type BackgroundWork = Box<dyn FnOnce() + Send>;

/// What an executor provides to stateful operators.
pub trait StateServices: Send + Sync {
    /// The cell of a state partition for a task of `batch`; empty where this executor doesn't hold it.
    fn cell(&self, key: &StateKey, batch: BatchId) -> StateCell;

    /// The query's state files; none where its checkpoint isn't a folder that executors share.
    fn folder(&self, query: QueryId) -> Option<StateFolder>;

    /// Says how many bytes of memory a state partition holds from now on; they count against the executor's memory budget until its cell is gone.
    fn holds(&self, key: &StateKey, bytes: u64);

    /// Runs work on one of a few threads beside the tasks. Work that is dropped unrun belongs to an executor that closes.
    ///
    /// # Errors
    /// The work, where too much waits already.
    fn in_background(&self, work: BackgroundWork) -> Result<(), BackgroundWork>;
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

/// The extension of files that no commit lists.
const SPARE: &str = "merging";

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
        let name = file_name(task, operator, kind.extension());
        let path = self.checkpoint.join(&name);
        self.write_durably(&path, content)
            .map_err(|error| not_written(&path, &error))?;
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

    /// Writes a file that is to replace older ones, for an attempt to come. `task` is the one that asks for it, and asks for no second one.
    ///
    /// # Errors
    /// `Io` with the path.
    pub fn write_spare(
        &self,
        task: TaskId,
        operator: &str,
        content: &[u8],
    ) -> Result<SpareFile, Failure> {
        let path = self.checkpoint.join(file_name(task, operator, SPARE));
        // Its folder is there, with the files that it is to replace.
        let file = create(&path).map_err(|error| not_written(&path, &error))?;
        // What was written goes with it, whether or not that was all.
        let spare = SpareFile {
            folder: self.clone(),
            path,
            operator: operator.to_owned(),
            partition: task.partition,
            length: content.len() as u64,
            checksum: xxh3_64(content),
        };
        self.fill(file, content)
            .map_err(|error| not_written(&spare.path, &error))?;
        failpoint!(
            "executor.state.merged",
            batch = task.batch,
            stage = task.stage,
            partition = task.partition,
            attempt = task.attempt
        );
        Ok(spare)
    }

    /// Writes a new file and its name.
    fn write_durably(&self, path: &Path, content: &[u8]) -> std::io::Result<()> {
        let folder = path.parent().unwrap_or(&self.checkpoint);
        let file = match create(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                self.make_folder(folder)?;
                create(path)?
            }
            opened => opened?,
        };
        self.fill(file, content)?;
        self.sync_folder(folder)
    }

    /// Writes what a new file holds; its name is durable once its folder is.
    fn fill(&self, mut file: File, content: &[u8]) -> std::io::Result<()> {
        file.write_all(content)?;
        if self.fsync {
            file.sync_data()?;
        }
        Ok(())
    }

    fn sync_folder(&self, folder: &Path) -> std::io::Result<()> {
        if self.fsync {
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

/// A file that is there and that no commit lists. It goes when this is dropped; the names that attempts gave it stay.
#[derive(Debug)]
pub struct SpareFile {
    folder: StateFolder,
    path: PathBuf,
    operator: String,
    partition: u32,
    length: u64,
    checksum: u64,
}

impl SpareFile {
    /// Gives it a name that `task` may hand to a commit, and that no other attempt can have; it is durable when this returns. At most one a task and kind.
    /// `None` when the file is gone: the driver swept it as a leftover.
    ///
    /// # Errors
    /// `Io` with the path.
    pub fn adopt(&self, task: TaskId, kind: FileKind) -> Result<Option<StateFile>, Failure> {
        let name = file_name(task, &self.operator, kind.extension());
        let path = self.folder.checkpoint.join(&name);
        match fs::hard_link(&self.path, &path) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(not_written(&path, &error)),
        }
        let folder = path.parent().unwrap_or(&self.folder.checkpoint);
        self.folder
            .sync_folder(folder)
            .map_err(|error| not_written(&path, &error))?;
        failpoint!(
            "executor.state.adopted",
            batch = task.batch,
            stage = task.stage,
            partition = task.partition,
            attempt = task.attempt
        );
        Ok(Some(StateFile {
            operator: self.operator.clone(),
            partition: self.partition,
            file: name,
            offset: 0,
            length: self.length,
            checksum: self.checksum,
            rows: 0,
        }))
    }
}

impl Drop for SpareFile {
    fn drop(&mut self) {
        // One that stays is swept by the driver.
        let _ = fs::remove_file(&self.path);
    }
}

/// A file that wasn't there. One that is there is never written over: what it holds may have other names, which commits list.
fn create(path: &Path) -> std::io::Result<File> {
    File::options().write(true).create_new(true).open(path)
}

fn not_written(path: &Path, error: &std::io::Error) -> Failure {
    let message = format!(
        "could not write state file {}; is the checkpoint's disk full or gone?",
        path.display()
    );
    Failure::caused_by(FailureKind::Io, message, error).with_code("state.write")
}

/// `state/<operator>/<partition>/<batch>-<epoch>.<attempt>.delta`
fn file_name(task: TaskId, operator: &str, extension: &str) -> String {
    format!(
        "{STATE}{operator}/{}/{:020}-{}.{}.{extension}",
        task.partition, task.batch.0, task.epoch, task.attempt
    )
}

/// The batch and epoch that a state file's name says; none for other names.
fn batch_and_epoch(name: &str) -> Option<(u64, u64)> {
    let file = name.strip_prefix(STATE)?.rsplit('/').next()?;
    let (batch, rest) = file.split_once('-')?;
    let (epoch, _) = rest.split_once('.')?;
    Some((batch.parse().ok()?, epoch.parse().ok()?))
}

/// Batches after which a spare file of this epoch counts as left by an executor that died. One that is taken away too early costs only the work.
const SPARE_BATCHES: u64 = 10_000;

/// Whether a state file that no retained commit lists may be deleted by a driver of `epoch` whose newest commit is `through`. A file of a later batch or epoch
/// may be in the making, and so may a spare one of an older batch.
pub fn is_left(name: &str, through: BatchId, epoch: Epoch) -> bool {
    let Some((batch, by)) = batch_and_epoch(name) else {
        return false;
    };
    let is_spare = name.rsplit('.').next() == Some(SPARE);
    let keeps = match is_spare && by == epoch.0 {
        true => SPARE_BATCHES,
        false => 0,
    };
    by <= epoch.0 && batch.saturating_add(keeps) <= through.0
}

#[cfg(test)]
mod tests {
    use millstream_common::ids::StageId;

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

    #[test]
    fn a_spare_file_gets_a_name_for_each_attempt_that_takes_it_and_goes_without_them() {
        let folder = tempfile::tempdir().expect("folder");
        let state = StateFolder::new(folder.path(), true);
        let before = state.write(task(), "aggregate-0", FileKind::Delta, b"some of it");
        before.expect("written");
        let spare = state
            .write_spare(task(), "aggregate-0", b"all of it")
            .expect("written");
        let own = "state/aggregate-0/5/00000000000000000017-3.2.merging";
        assert!(folder.path().join(own).exists());
        let later = |attempt| TaskId {
            batch: BatchId(19),
            attempt,
            ..task()
        };
        let first = spare.adopt(later(0), FileKind::Snapshot).expect("linked");
        let second = spare.adopt(later(1), FileKind::Merged).expect("linked");
        let (first, second) = (first.expect("there"), second.expect("there"));
        assert_eq!(
            (first.file.as_str(), second.file.as_str()),
            (
                "state/aggregate-0/5/00000000000000000019-3.0.snapshot",
                "state/aggregate-0/5/00000000000000000019-3.1.merged"
            )
        );
        fs::remove_file(folder.path().join(&first.file)).expect("remove");
        drop(spare);
        assert!(!folder.path().join(own).exists());
        assert_eq!(state.read(&second).expect("read"), "all of it");
    }

    #[test]
    fn what_is_there_is_never_written_over() {
        let folder = tempfile::tempdir().expect("folder");
        let state = StateFolder::new(folder.path(), false);
        let first = state.write(task(), "aggregate-0", FileKind::Delta, b"first");
        let first = first.expect("written");
        let spare = state.write_spare(task(), "aggregate-0", b"merged");
        let adopted = spare
            .expect("written")
            .adopt(task(), FileKind::Merged)
            .expect("linked")
            .expect("there");
        for kind in [FileKind::Delta, FileKind::Merged] {
            let again = state.write(task(), "aggregate-0", kind, b"again");
            assert_eq!(again.expect_err("refused").kind, FailureKind::Io);
        }
        assert_eq!(state.read(&first).expect("read"), "first");
        assert_eq!(state.read(&adopted).expect("read"), "merged");
    }

    #[test]
    fn a_spare_file_that_was_swept_is_told() {
        let folder = tempfile::tempdir().expect("folder");
        let state = StateFolder::new(folder.path(), false);
        let before = state.write(task(), "aggregate-0", FileKind::Delta, b"");
        before.expect("written");
        let spare = state.write_spare(task(), "aggregate-0", b"x");
        let spare = spare.expect("written");
        fs::remove_file(&spare.path).expect("remove");
        let adopted = spare.adopt(task(), FileKind::Merged).expect("no failure");
        assert_eq!(adopted, None);
    }

    #[test]
    fn what_may_be_in_the_making_is_not_left() {
        let name = |batch, epoch, extension| {
            let task = TaskId {
                batch: BatchId(batch),
                epoch: Epoch(epoch),
                ..task()
            };
            file_name(task, "aggregate-0", extension)
        };
        let is_left = |name: &str| is_left(name, BatchId(20_000), Epoch(3));
        for extension in ["delta", "merged", "snapshot"] {
            assert!(is_left(&name(20_000, 3, extension)), "{extension}");
            assert!(!is_left(&name(20_001, 3, extension)), "{extension}");
            assert!(!is_left(&name(20_000, 4, extension)), "{extension}");
        }
        assert!(!is_left(&name(19_000, 3, SPARE)));
        assert!(is_left(&name(10_000, 3, SPARE)));
        assert!(is_left(&name(19_000, 2, SPARE)), "its driver is gone");
        assert!(!is_left(&name(1, 4, SPARE)));
        assert!(!is_left("state/x/readme"));
    }
}
