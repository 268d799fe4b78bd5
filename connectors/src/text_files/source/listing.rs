//! What is in the folders. One pass over each; a file that was taken is looked at only when changes are asked for.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rustix::io::Errno;
use thiserror::Error;

use super::{
    folders::Folders,
    seen::{SeenFiles, Version},
};

/// New files that one listing gives at most; the oldest. The rest comes with a later one, where there is a later one.
pub(super) const MAX_NEW_FILES: usize = if cfg!(test) { 200 } else { 100_000 };

/// A folder that can't be listed.
#[derive(Debug, Error)]
pub enum ListError {
    /// Nothing there.
    #[error("there is no folder {0}; make it, or give the right one")]
    Missing(PathBuf),
    /// A file, for example.
    #[error("{0} is not a folder; give the folder that the files appear in")]
    NotAFolder(PathBuf),
    /// The system refused.
    #[error("the folder {folder} can't be listed; check that it is mounted and may be read")]
    Unreadable {
        /// The folder, or the pattern.
        folder: String,
        /// Why.
        source: io::Error,
    },
}

/// A file that was not taken yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NewFile {
    pub folder: String,
    pub name: String,
    pub version: Version,
}

impl NewFile {
    pub(super) fn path(&self) -> PathBuf {
        Path::new(&self.folder).join(&self.name)
    }
}

/// What to look for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Search {
    /// Files changed later than this are too young; nanoseconds since the Unix epoch.
    pub modified_until: Option<i64>,
    /// Whether files that were taken are looked at too.
    pub known_too: bool,
    /// New files at most; the oldest.
    pub most: usize,
}

/// What a listing found.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Oldest first, then by path.
    pub new_files: Vec<NewFile>,
    /// Files that changed after they were taken.
    pub changed: Vec<(String, String)>,
    /// Files that were taken and are gone, by folder; only when known ones are looked at.
    pub gone: Option<HashMap<String, Vec<String>>>,
    /// Names that can't be written down because they aren't UTF-8.
    pub unnamable: u64,
}

/// Whether a name is that of an unfinished or private file.
pub(super) fn is_hidden(name: &str) -> bool {
    name.starts_with('.') || name.starts_with('_') || name.ends_with("._COPYING_")
}

/// Lists the folders.
pub(super) fn list(
    folders: &Folders,
    pattern: &str,
    seen: &SeenFiles,
    search: Search,
) -> Result<Listing, ListError> {
    let unreadable = |source| ListError::Unreadable {
        folder: pattern.to_owned(),
        source,
    };
    let mut listing = Listing::default();
    let mut present: HashSet<(String, String)> = HashSet::new();
    for folder in folders.expand().map_err(unreadable)? {
        let Some(folder_name) = folder.to_str() else {
            listing.unnamable += 1;
            continue;
        };
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !folders.is_literal() => {
                continue;
            }
            Err(error) => return Err(refusal(&folder, error)),
        };
        for entry in entries {
            let entry = entry.map_err(|error| refusal(&folder, error))?;
            let file_name = entry.file_name();
            let Some(name) = file_name.to_str() else {
                listing.unnamable += 1;
                continue;
            };
            if is_hidden(name) {
                continue;
            }
            let taken = seen.get(folder_name, name);
            if taken.is_some() {
                if !search.known_too {
                    continue;
                }
                present.insert((folder_name.to_owned(), name.to_owned()));
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let found = version_of(&entry.path()).map_err(|error| refusal(&entry.path(), error))?;
            let Some(version) = found else {
                continue;
            };
            match taken {
                Some(taken) if taken != version => {
                    listing
                        .changed
                        .push((folder_name.to_owned(), name.to_owned()));
                }
                Some(_) => {}
                None => {
                    let too_young = search
                        .modified_until
                        .is_some_and(|until| version.modified > until);
                    if version.size > 0 && !too_young {
                        listing.new_files.push(NewFile {
                            folder: folder_name.to_owned(),
                            name: name.to_owned(),
                            version,
                        });
                    }
                }
            }
        }
    }
    if search.known_too {
        listing.gone = Some(gone(seen, &present));
    }
    listing.new_files.sort_by(|one, other| {
        let one_key = (one.version.modified, &one.folder, &one.name);
        one_key.cmp(&(other.version.modified, &other.folder, &other.name))
    });
    listing.new_files.truncate(search.most);
    Ok(listing)
}

fn gone(seen: &SeenFiles, present: &HashSet<(String, String)>) -> HashMap<String, Vec<String>> {
    let mut gone: HashMap<String, Vec<String>> = HashMap::new();
    for (folder, name) in seen.files() {
        let key = (folder.to_owned(), name.to_owned());
        if !present.contains(&key) {
            gone.entry(key.0).or_default().push(key.1);
        }
    }
    gone
}

fn refusal(folder: &Path, source: io::Error) -> ListError {
    match source.kind() {
        io::ErrorKind::NotFound => ListError::Missing(folder.to_owned()),
        io::ErrorKind::NotADirectory => ListError::NotAFolder(folder.to_owned()),
        _ => ListError::Unreadable {
            folder: folder.display().to_string(),
            source,
        },
    }
}

/// The version of a regular file; none if it is gone or something else, such as a link that leads nowhere.
pub(super) fn version_of(path: &Path) -> io::Result<Option<Version>> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => Ok(Some(version(&metadata))),
        Ok(_) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The version that a file's metadata tell.
pub(super) fn version(metadata: &fs::Metadata) -> Version {
    let seconds = metadata.mtime().saturating_mul(1_000_000_000);
    Version {
        size: metadata.len(),
        modified: seconds.saturating_add(metadata.mtime_nsec()),
    }
}
