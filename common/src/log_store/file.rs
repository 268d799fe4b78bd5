//! Logs in a folder of one file system that all who use the checkpoint share.
//!
//! A put writes a temporary file, syncs it, links it to its final name (which fails if the name exists) and syncs
//! the folder: two syncs, and no moment at which a reader sees half an entry. Whoever loses, or reads a folder for the
//! first time, syncs that folder too, so that nobody acts on an entry that a power cut could still take back.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use uuid::Uuid;

use super::{Error, LogStore, PutOutcome, name};
use crate::{
    open_files::{OUT_OF_FILES, is_out_of_files},
    working_folder::absolute,
};

/// Folder of temporary files, within the root. No entry's name can begin with a dot.
const TEMPORARY: &str = ".tmp";

/// A temporary file is a leftover when it is older than this; a younger one may be another driver's.
const LEFTOVER_AGE: Duration = Duration::from_secs(600);

/// How often a put starts over when the name it lost to, or its temporary file, is gone.
const PUT_TRIES: u32 = 5;

/// How deep a listing goes, so that a link that leads in circles ends.
const MAX_DEPTH: u32 = 32;

/// How a [`FileLogStore`] writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileOptions {
    /// Whether a put waits until the disk has it. Without that a crash of the machine (not of the process) may lose
    /// entries that were acted upon.
    pub fsync: bool,
}

impl Default for FileOptions {
    fn default() -> FileOptions {
        FileOptions { fsync: true }
    }
}

/// A store in a folder.
#[derive(Clone, Debug)]
pub struct FileLogStore {
    folder: Arc<Folder>,
}

#[derive(Debug)]
struct Folder {
    root: PathBuf,
    fsync: bool,
    /// Folders whose entries from before are known to be on the disk.
    synced: Mutex<HashSet<PathBuf>>,
    /// Folders that are themselves known to be on the disk.
    rooted: Mutex<HashSet<PathBuf>>,
    /// Entries of ours whose names may not be on the disk: the sync after their link failed, and a system says so only once.
    doubtful: Mutex<HashSet<PathBuf>>,
}

impl FileLogStore {
    /// Opens the store in `root`, creates the folder if it is not there, and removes leftovers of writers that died.
    pub async fn open(
        root: impl Into<PathBuf>,
        options: FileOptions,
    ) -> Result<FileLogStore, Error> {
        let given = root.into();
        let root = absolute(&given).map_err(|error| failure("find", &given, error))?;
        let folder = Folder {
            root,
            fsync: options.fsync,
            synced: Mutex::default(),
            rooted: Mutex::default(),
            doubtful: Mutex::default(),
        };
        let store = FileLogStore {
            folder: Arc::new(folder),
        };
        store.run(Folder::prepare).await?;
        Ok(store)
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.folder.root
    }

    /// Files and disks block: off the runtime's own threads with them.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Folder) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let folder = self.folder.clone();
        match tokio::task::spawn_blocking(move || work(&folder)).await {
            Ok(result) => result,
            Err(_) => Err(Error::Interrupted {
                location: self.location(),
            }),
        }
    }
}

#[async_trait]
impl LogStore for FileLogStore {
    async fn put_if_absent(&self, name: &str, bytes: Bytes) -> Result<PutOutcome, Error> {
        name::check(name)?;
        let name = name.to_owned();
        self.run(move |folder| folder.put(&name, bytes)).await
    }

    async fn get(&self, name: &str) -> Result<Option<Bytes>, Error> {
        name::check(name)?;
        let name = name.to_owned();
        self.run(move |folder| {
            let path = folder.root.join(name);
            if let Some(parent) = path.parent() {
                folder.sync_once(parent)?;
            }
            read_if_there(&path)
        })
        .await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>, Error> {
        name::folder_of(prefix)?;
        let prefix = prefix.to_owned();
        self.run(move |folder| folder.list(&prefix)).await
    }

    async fn delete(&self, name: &str) -> Result<(), Error> {
        name::check(name)?;
        let name = name.to_owned();
        self.run(move |folder| remove_if_there(&folder.root.join(name)))
            .await
    }

    fn location(&self) -> String {
        format!("file://{}", self.folder.root.display())
    }
}

impl Folder {
    fn prepare(&self) -> Result<(), Error> {
        self.create_folders(&self.root)?;
        self.create_folders(&self.root.join(TEMPORARY))?;
        self.sweep()
    }

    /// Removes old temporary files. Their age is told by the file system's own clock, which may not be this machine's.
    fn sweep(&self) -> Result<(), Error> {
        let temporary = self.root.join(TEMPORARY);
        let marker = temporary.join(Uuid::new_v4().to_string());
        let failed = |error| failure("make a temporary file", &marker, error);
        let now = File::create_new(&marker)
            .and_then(|file| file.metadata()?.modified())
            .map_err(failed)?;
        remove_if_there(&marker)?;
        for entry in fs::read_dir(&temporary).map_err(|error| failure("list", &temporary, error))? {
            let Ok(entry) = entry else { continue };
            let modified = entry.metadata().and_then(|metadata| metadata.modified());
            let age = modified
                .ok()
                .and_then(|modified| now.duration_since(modified).ok());
            if age.is_some_and(|age| age > LEFTOVER_AGE) {
                remove_if_there(&entry.path())?;
            }
        }
        Ok(())
    }

    fn put(&self, name: &str, bytes: Bytes) -> Result<PutOutcome, Error> {
        let path = self.root.join(name);
        let parent = path.parent().unwrap_or(&self.root);
        for _ in 0..PUT_TRIES {
            // Most puts of a taken name need no file.
            if let Some(existing) = read_if_there(&path)? {
                return self.lost_or_ours(&path, parent, existing, &bytes);
            }
            let temporary = self.write_temporary(&bytes)?;
            self.create_folders(parent)?;
            let linked = fs::hard_link(&temporary, &path);
            match linked {
                Ok(()) => {
                    // The entry is there whether or not its other name goes.
                    let _ = fs::remove_file(&temporary);
                    if let Err(error) = self.sync_folder(parent) {
                        self.doubtful.lock().insert(path);
                        return Err(error);
                    }
                    return Ok(PutOutcome::Won);
                }
                // Either the name is taken, then the next round reads it; or somebody swept our temporary file.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound
                    ) =>
                {
                    remove_if_there(&temporary)?;
                }
                Err(error) => {
                    let _ = fs::remove_file(&temporary);
                    return Err(failure("link a new entry to", &path, error));
                }
            }
        }
        Err(Error::Contended {
            name: name.to_owned(),
            location: format!("file://{}", self.root.display()),
        })
    }

    fn lost_or_ours(
        &self,
        path: &Path,
        parent: &Path,
        existing: Bytes,
        ours: &Bytes,
    ) -> Result<PutOutcome, Error> {
        let is_doubtful = existing == ours && self.doubtful.lock().contains(path);
        if is_doubtful {
            // After a failed sync the next one has nothing left to write, and succeeds. The same bytes under the same name give it
            // something to write.
            let temporary = self.write_temporary(ours)?;
            fs::rename(&temporary, path)
                .map_err(|error| failure("renew the entry", path, error))?;
        }
        self.sync_folder(parent)?;
        if is_doubtful {
            self.doubtful.lock().remove(path);
        }
        if existing == ours {
            Ok(PutOutcome::Won)
        } else {
            Ok(PutOutcome::Lost(existing))
        }
    }

    fn write_temporary(&self, bytes: &[u8]) -> Result<PathBuf, Error> {
        let path = self.root.join(TEMPORARY).join(Uuid::new_v4().to_string());
        let written = self.write_new(&path, bytes);
        if let Err(error) = written {
            let _ = fs::remove_file(&path);
            return Err(failure("write", &path, error));
        }
        Ok(path)
    }

    fn write_new(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
        file.write_all(bytes)?;
        if self.fsync { file.sync_data() } else { Ok(()) }
    }

    /// Creates a folder with all above it, and sees to it that the folder's own name is on the disk: another
    /// process may have made it just now.
    fn create_folders(&self, path: &Path) -> Result<(), Error> {
        if self.rooted.lock().contains(path) && path.is_dir() {
            return Ok(());
        }
        let mut created = fs::create_dir(path);
        if let (Err(error), Some(parent)) = (&created, path.parent())
            && error.kind() == io::ErrorKind::NotFound
        {
            self.create_folders(parent)?;
            // Once: where nothing can be made, such as below /proc, the parent is there and it still says so.
            created = fs::create_dir(path);
        }
        match created {
            Ok(()) => {}
            Err(_) if path.is_dir() => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::Io {
                    action: "create the folder",
                    path: path.to_owned(),
                    advice: "its parent takes no folders: choose another location",
                    source: error,
                });
            }
            Err(error) => return Err(failure("create the folder", path, error)),
        }
        if let Some(parent) = path.parent() {
            match self.sync_folder(parent) {
                // What holds the root may not be ours to open.
                Err(Error::Io { source, .. })
                    if source.kind() == io::ErrorKind::PermissionDenied
                        && self.root.starts_with(path) => {}
                synced => synced?,
            }
        }
        self.rooted.lock().insert(path.to_owned());
        Ok(())
    }

    fn sync_folder(&self, path: &Path) -> Result<(), Error> {
        if !self.fsync {
            return Ok(());
        }
        File::open(path)
            .and_then(|folder| folder.sync_all())
            .map_err(|error| failure("sync the folder", path, error))
    }

    fn sync_once(&self, path: &Path) -> Result<(), Error> {
        if !self.fsync || self.synced.lock().contains(path) || !path.is_dir() {
            return Ok(());
        }
        self.sync_folder(path)?;
        self.synced.lock().insert(path.to_owned());
        Ok(())
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>, Error> {
        let mut names = Vec::new();
        self.list_folder(name::folder_of(prefix)?, prefix, 0, &mut names)?;
        names.sort_unstable();
        Ok(names)
    }

    /// `folder` is relative, empty or with a slash at its end.
    fn list_folder(
        &self,
        folder: &str,
        prefix: &str,
        depth: u32,
        names: &mut Vec<String>,
    ) -> Result<(), Error> {
        let path = self.root.join(folder);
        self.sync_once(&path)?;
        let failed = |error| failure("list", &path, error);
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                return Ok(());
            }
            Err(error) => return Err(failed(error)),
        };
        for entry in entries {
            let entry = entry.map_err(failed)?;
            // What no store could have named is not an entry.
            let Ok(own) = entry.file_name().into_string() else {
                continue;
            };
            let full = format!("{folder}{own}");
            let within = format!("{full}/");
            if name::check(&own).is_err() || !(within.starts_with(prefix)) {
                continue;
            }
            if !entry.file_type().map_err(failed)?.is_dir() {
                if full.starts_with(prefix) {
                    names.push(full);
                }
            } else if depth < MAX_DEPTH {
                self.list_folder(&within, prefix, depth + 1, names)?;
            }
        }
        Ok(())
    }
}

fn read_if_there(path: &Path) -> Result<Option<Bytes>, Error> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(Bytes::from(bytes))),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(None)
        }
        Err(_) if path.is_dir() => Ok(None),
        Err(error) => Err(failure("read", path, error)),
    }
}

fn remove_if_there(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(())
        }
        Err(_) if path.is_dir() => Ok(()),
        Err(error) => Err(failure("delete", path, error)),
    }
}

fn failure(action: &'static str, path: &Path, source: io::Error) -> Error {
    let advice = match source.kind() {
        _ if is_out_of_files(&source) => OUT_OF_FILES,
        io::ErrorKind::StorageFull => {
            "the disk is full: make room there, or choose another location"
        }
        io::ErrorKind::QuotaExceeded => {
            "the disk quota is used up: make room there, or choose another location"
        }
        io::ErrorKind::PermissionDenied => {
            "this user may not: change the folder's owner or permissions, or choose another location"
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            "the file system is read-only: choose another location"
        }
        io::ErrorKind::NotFound => "a folder is missing: was the checkpoint removed while in use?",
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            "a file stands where a folder is needed: choose another location"
        }
        io::ErrorKind::Unsupported => {
            "the file system lacks what a checkpoint needs (hard links): choose another location"
        }
        _ => "see that the disk and its mount are well, then try again",
    };
    Error::Io {
        action,
        path: path.to_owned(),
        advice,
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[tokio::test]
    async fn an_entry_whose_sync_failed_is_written_again_before_it_counts() {
        let folder = tempfile::tempdir().expect("folder");
        let store = FileLogStore::open(folder.path(), FileOptions::default())
            .await
            .expect("store");
        let path = folder.path().join("offsets/1");
        let entry = || Bytes::from_static(b"entry");
        let inode = || fs::metadata(&path).expect("there").ino();
        let put = async || {
            store
                .put_if_absent("offsets/1", entry())
                .await
                .expect("put")
        };
        assert_eq!(put().await, PutOutcome::Won);
        let first = inode();
        assert_eq!(put().await, PutOutcome::Won);
        assert_eq!(inode(), first, "nothing was wrong");

        store.folder.doubtful.lock().insert(path.clone());
        assert_eq!(put().await, PutOutcome::Won);
        let second = inode();
        assert_ne!(second, first);
        assert_eq!(fs::read(&path).expect("read"), entry());
        assert!(store.folder.doubtful.lock().is_empty());
        assert_eq!(put().await, PutOutcome::Won);
        assert_eq!(inode(), second);
    }

    #[tokio::test]
    async fn a_place_that_takes_no_folders_is_refused() {
        for place in ["/proc/millstream", "/proc/millstream/a/b"] {
            let error = FileLogStore::open(place, FileOptions::default())
                .await
                .expect_err("no folder can be made there");
            let message = error.to_string();
            assert!(
                message.starts_with("could not create the folder /proc/millstream: ")
                    && message.contains("choose another location"),
                "{message}"
            );
        }
    }
}
