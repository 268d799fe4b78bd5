//! The executor's folder on local disk: files of spilled blocks and folders of tasks. It goes with the executor; what a killed one
//! left is swept when the next starts.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use millstream_common::{
    failure::{Failure, FailureKind},
    ids::TaskId,
};
use uuid::Uuid;

const PREFIX: &str = "millstream-spill-";
const LOCK: &str = "lock";
/// Folders that are tried when others sweep them as they are made.
const TRIES: u32 = 5;

/// A folder that this executor alone uses, deleted when dropped.
#[derive(Debug)]
pub struct SpillFolder {
    path: PathBuf,
    files: AtomicU64,
    spilled: Arc<AtomicU64>,
    // Held while the folder is in use: a folder whose lock is free belongs to nobody.
    _lock: File,
}

impl SpillFolder {
    /// Makes a folder inside `parent` (made if absent), after removing those that executors which died left there.
    ///
    /// # Errors
    /// `Io`, naming the path and `shuffle.spill_dir`.
    pub fn create(parent: &Path) -> Result<Self, Failure> {
        let (path, lock) = make(parent, || {})?;
        Ok(Self {
            path,
            files: AtomicU64::new(0),
            spilled: Arc::default(),
            _lock: lock,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of blocks on disk.
    pub fn spilled_bytes(&self) -> u64 {
        self.spilled.load(Ordering::Relaxed)
    }

    pub(super) fn create_file(&self) -> Result<SpillFile, Failure> {
        let number = self.files.fetch_add(1, Ordering::Relaxed);
        let path = self.path.join(format!("blocks-{number}"));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(|error| io_failure("make", &path, &error))?;
        Ok(SpillFile {
            path,
            file,
            length: AtomicU64::new(0),
            spilled: Arc::clone(&self.spilled),
        })
    }

    /// The folder of a task's own files, made if absent.
    ///
    /// # Errors
    /// `Io`, naming the path and `shuffle.spill_dir`.
    pub fn task_folder(&self, task: TaskId) -> Result<PathBuf, Failure> {
        let path = self.task_path(task);
        fs::create_dir_all(&path).map_err(|error| io_failure("make", &path, &error))?;
        Ok(path)
    }

    /// Deletes a task's folder, if it has one.
    pub fn remove_task_folder(&self, task: TaskId) {
        let path = self.task_path(task);
        if let Err(error) = fs::remove_dir_all(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "a task's spill folder could not be deleted");
        }
    }

    fn task_path(&self, task: TaskId) -> PathBuf {
        self.path.join(format!(
            "task-{}-{}-{}-{}-{}-{}",
            task.query.0.as_simple(),
            task.epoch,
            task.batch,
            task.stage,
            task.partition,
            task.attempt
        ))
    }
}

impl Drop for SpillFolder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "the spill folder could not be deleted");
        }
    }
}

/// A new folder, and its lock. `before_lock` is called before the lock is taken.
fn make(parent: &Path, before_lock: impl Fn()) -> Result<(PathBuf, File), Failure> {
    for _ in 0..TRIES {
        let path = parent.join(format!("{PREFIX}{}", Uuid::new_v4().as_simple()));
        let locked = || -> io::Result<File> {
            fs::create_dir_all(parent)?;
            sweep(parent);
            fs::create_dir(&path)?;
            let lock = File::create(path.join(LOCK))?;
            before_lock();
            lock.lock()?;
            Ok(lock)
        };
        let lock = match locked() {
            Ok(lock) => lock,
            // Somebody sweeps it already.
            Err(error) if error.kind() == io::ErrorKind::NotFound && parent.is_dir() => continue,
            Err(error) => return Err(io_failure("make", &path, &error)),
        };
        // Until it was locked another executor that starts now could take it for one that was left.
        if path.join(LOCK).exists() {
            return Ok((path, lock));
        }
    }
    Err(Failure::new(
        FailureKind::Io,
        format!(
            "could not make a spill folder in {}: something removes it at once; give shuffle.spill_dir a folder of its own",
            parent.display()
        ),
    ))
}

fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if !name.to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let path = entry.path();
        // A folder without its lock file is one that is just being made, or that belongs to somebody else.
        let Ok(lock) = File::open(path.join(LOCK)) else {
            continue;
        };
        match lock.try_lock() {
            Ok(()) => match fs::remove_dir_all(&path) {
                Ok(()) => {
                    tracing::debug!(path = %path.display(), "swept a spill folder that an executor left");
                }
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "a spill folder could not be swept");
                }
            },
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => {}
        }
    }
}

/// A file of spilled frames; deleted when its last user is gone.
#[derive(Debug)]
pub(super) struct SpillFile {
    path: PathBuf,
    file: File,
    length: AtomicU64,
    spilled: Arc<AtomicU64>,
}

impl SpillFile {
    /// Writes at the end; one writer at a time. Returns where the bytes begin. What a failed write left is overwritten by the next.
    pub(super) fn append(&self, bytes: &[u8]) -> Result<u64, Failure> {
        let offset = self.length.load(Ordering::Acquire);
        self.file
            .write_all_at(bytes, offset)
            .map_err(|error| io_failure("write to", &self.path, &error))?;
        let written = bytes.len() as u64;
        self.length.store(offset + written, Ordering::Release);
        self.spilled.fetch_add(written, Ordering::Relaxed);
        Ok(offset)
    }

    pub(super) fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SpillFile {
    fn drop(&mut self) {
        let length = self.length.load(Ordering::Acquire);
        self.spilled.fetch_sub(length, Ordering::Relaxed);
        if let Err(error) = fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %error, "a spill file could not be deleted");
        }
    }
}

fn io_failure(what: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::caused_by(
        FailureKind::Io,
        format!(
            "could not {what} {}: give shuffle.spill_dir a folder with room, or raise memory.budget",
            path.display()
        ),
        error,
    )
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_folder_that_another_sweeps_as_it_is_made_is_made_again() {
        let parent = tempfile::tempdir().expect("folder");
        let sweeps = Cell::new(0);
        let (path, _lock) = make(parent.path(), || {
            if sweeps.get() < 2 {
                sweeps.set(sweeps.get() + 1);
                sweep(parent.path());
            }
        })
        .expect("the third stays");
        assert_eq!(sweeps.get(), 2);
        assert!(path.join(LOCK).exists());
        sweep(parent.path());
        assert!(path.join(LOCK).exists(), "it is locked");
        assert_eq!(fs::read_dir(parent.path()).expect("listed").count(), 1);
    }
}
