//! Proofs that driver and executors share a file system: the driver writes a file with a nonce, each executor must read the same.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use millstream_common::{
    ids::{Epoch, QueryId},
    protocol::SharedFile,
};
use uuid::Uuid;

const PREFIX: &str = ".millstream-nonce-";

/// Files with nonces; removed when dropped.
#[derive(Debug, Default)]
pub struct SharedFiles {
    files: Vec<SharedFile>,
}

impl SharedFiles {
    /// Writes `<folder>/.millstream-nonce-<query>-<epoch>`, creating the folder where it is missing, and removes those that lower epochs of the query left.
    /// Blocks; `purpose` is for messages (`checkpoint`, `output`).
    ///
    /// # Errors
    /// What the file system says.
    pub fn add(
        &mut self,
        folder: &Path,
        query: QueryId,
        epoch: Epoch,
        purpose: &str,
    ) -> io::Result<()> {
        fs::create_dir_all(folder)?;
        let folder = fs::canonicalize(folder)?;
        let path = folder.join(format!("{PREFIX}{query}-{epoch}"));
        if self.files.iter().any(|file| Path::new(&file.path) == path) {
            return Ok(());
        }
        remove_older(&folder, query, epoch)?;
        let nonce = Uuid::new_v4().to_string();
        fs::write(&path, &nonce)?;
        self.files.push(SharedFile {
            path: path.to_string_lossy().into_owned(),
            nonce,
            purpose: purpose.to_owned(),
        });
        Ok(())
    }

    /// What executors are to read.
    pub fn files(&self) -> &[SharedFile] {
        &self.files
    }
}

fn remove_older(folder: &Path, query: QueryId, epoch: Epoch) -> io::Result<()> {
    let prefix = format!("{PREFIX}{query}-");
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let older = name
            .to_str()
            .and_then(|name| name.strip_prefix(&prefix)?.parse().ok())
            .is_some_and(|found: u64| found < epoch.0);
        if older {
            // Another driver may be removing it too.
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}

impl Drop for SharedFiles {
    fn drop(&mut self) {
        for file in &self.files {
            let path = PathBuf::from(&file.path);
            if let Err(error) = fs::remove_file(&path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(path = %path.display(), %error, "could not remove a nonce file");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_file_lives_as_long_as_its_owner_and_replaces_older_ones() {
        let folder = tempfile::tempdir().expect("folder");
        let query = QueryId::random();
        let stale = folder.path().join(format!("{PREFIX}{query}-1"));
        let foreign = folder
            .path()
            .join(format!("{PREFIX}{}-1", QueryId::random()));
        fs::write(&stale, "x").expect("stale");
        fs::write(&foreign, "x").expect("foreign");

        let mut files = SharedFiles::default();
        files
            .add(folder.path(), query, Epoch(2), "output")
            .expect("add");
        files
            .add(folder.path(), query, Epoch(2), "output")
            .expect("add again");
        let [file] = files.files() else {
            panic!("one file: {files:?}");
        };
        let file = file.clone();
        assert_eq!(fs::read_to_string(&file.path).expect("read"), file.nonce);
        assert!(!stale.exists() && foreign.exists());

        drop(files);
        assert!(!Path::new(&file.path).exists());
    }
}
