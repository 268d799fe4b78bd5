//! The folder in which an output of a query stages: a folder for each batch and epoch, and a mark for each batch that was published.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use millstream_common::{failure::Failure, ids::BatchId};

use super::{
    layout::{Entry, PUBLISHED, sync_folder},
    refused,
};
use crate::sink::SinkBatch;

/// Where an output stages.
#[derive(Clone, Debug)]
pub struct Staging {
    folder: PathBuf,
    fsync: bool,
}

impl Staging {
    /// In this folder. With `fsync` what is made in it is forced to the disk.
    pub fn new(folder: PathBuf, fsync: bool) -> Self {
        Self { folder, fsync }
    }

    /// Makes the folder, and sees that it can be written to. It and those above it, so many in all, are forced to the disk.
    ///
    /// # Errors
    /// What the disk refuses.
    pub fn make(&self, levels: usize) -> Result<(), Failure> {
        let folder = &self.folder;
        fs::create_dir_all(folder).map_err(|error| refused("make", folder, &error))?;
        let probe = folder.join("writable");
        let written = fs::write(&probe, b"x").and_then(|()| fs::remove_file(&probe));
        written.map_err(|error| refused("write", &probe, &error))?;
        for folder in folder.ancestors().take(levels) {
            self.sync(folder)?;
        }
        Ok(())
    }

    /// Forces a folder's entries to the disk, where that is wanted.
    ///
    /// # Errors
    /// What the disk refuses.
    pub fn sync(&self, folder: &Path) -> Result<(), Failure> {
        if !self.fsync {
            return Ok(());
        }
        sync_folder(folder).map_err(|error| refused("force to the disk", folder, &error))
    }

    /// The file whose existence says that a batch was published whole.
    pub(super) fn mark(&self, batch: BatchId) -> PathBuf {
        self.folder.join(format!("{batch}{PUBLISHED}"))
    }

    /// Whether a batch was published. It isn't looked at again then: its files are their readers', who may have taken them away.
    ///
    /// # Errors
    /// What the disk refuses.
    pub fn is_published(&self, batch: BatchId) -> Result<bool, Failure> {
        let mark = self.mark(batch);
        mark.try_exists()
            .map_err(|error| refused("look for", &mark, &error))
    }

    /// Says so; after its files are there to stay.
    ///
    /// # Errors
    /// What the disk refuses.
    pub fn set_published(&self, batch: BatchId) -> Result<(), Failure> {
        let (folder, mark) = (&self.folder, self.mark(batch));
        fs::create_dir_all(folder).map_err(|error| refused("make", folder, &error))?;
        File::create(&mark).map_err(|error| refused("make", &mark, &error))?;
        self.sync(folder)
    }

    /// Removes what attempts of this batch and earlier ones left, and the marks of earlier ones: that of the newest is asked for at the next start.
    ///
    /// # Errors
    /// What the disk refuses.
    pub fn sweep(&self, batch: &SinkBatch) -> io::Result<()> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            match name.to_str().and_then(Entry::parse) {
                Some(Entry::Batch(staged, epoch))
                    if staged <= batch.batch && epoch <= batch.epoch =>
                {
                    fs::remove_dir_all(entry.path()).or_else(gone_is_fine)?;
                }
                Some(Entry::Published(published)) if published < batch.batch => {
                    fs::remove_file(entry.path()).or_else(gone_is_fine)?;
                }
                _ => {}
            }
        }
        Ok(())
    }
}

pub(super) fn gone_is_fine(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound {
        return Ok(());
    }
    Err(error)
}

#[cfg(test)]
mod tests {
    use millstream_common::{
        ids::{Epoch, QueryId},
        time::BatchTime,
    };

    use super::*;

    #[test]
    fn the_newest_mark_stays_and_what_is_of_a_later_batch_or_epoch_too() {
        let folder = tempfile::tempdir().unwrap();
        let staging = Staging::new(folder.path().join("a/b"), false);
        staging.make(3).unwrap();
        for batch in [0, 1, 2] {
            assert!(!staging.is_published(BatchId(batch)).unwrap());
            staging.set_published(BatchId(batch)).unwrap();
        }
        for name in ["1-1", "2-1", "2-2", "2-3", "3-2", "notes"] {
            fs::create_dir(folder.path().join("a/b").join(name)).unwrap();
        }
        let batch = SinkBatch {
            query: QueryId::random(),
            epoch: Epoch(2),
            batch: BatchId(2),
            batch_time: BatchTime(0),
        };
        staging.sweep(&batch).unwrap();
        let entries = fs::read_dir(folder.path().join("a/b")).unwrap();
        let mut left: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["2-3", "2.published", "3-2", "notes"]);
        assert!(staging.is_published(BatchId(2)).unwrap());
        assert!(!staging.is_published(BatchId(1)).unwrap());
    }
}
