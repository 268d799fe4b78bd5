//! Which files were taken, without IO.

use std::collections::{BTreeMap, HashMap};

use millstream_common::ids::BatchId;
use serde::{Deserialize, Serialize};

/// What tells one content of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Version {
    /// Length in bytes.
    pub size: u64,
    /// When it was last changed, nanoseconds since the Unix epoch.
    pub modified: i64,
}

#[derive(Clone, Debug)]
struct Seen {
    version: Version,
    /// The batch that took it; none for a file that was there at the start.
    batch: Option<BatchId>,
    /// Since when it is gone, milliseconds since the Unix epoch.
    gone_since: Option<i64>,
    /// A later change was reported.
    change_reported: bool,
}

/// The files that were taken, by folder and name.
#[derive(Clone, Debug, Default)]
pub(super) struct SeenFiles {
    folders: HashMap<String, HashMap<String, Seen>>,
}

/// What [`SeenFiles`] is in the checkpoint: files by folder.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Snapshot {
    folders: BTreeMap<String, Vec<SnapshotFile>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct SnapshotFile {
    name: String,
    size: u64,
    modified: i64,
    /// Of a batch that had not committed yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    batch: Option<BatchId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    gone_since: Option<i64>,
}

impl SeenFiles {
    /// Takes a file.
    pub(super) fn insert(
        &mut self,
        folder: &str,
        name: &str,
        version: Version,
        batch: Option<BatchId>,
    ) {
        let seen = Seen {
            version,
            batch,
            gone_since: None,
            change_reported: false,
        };
        if let Some(names) = self.folders.get_mut(folder) {
            names.insert(name.to_owned(), seen);
            return;
        }
        let names = HashMap::from([(name.to_owned(), seen)]);
        self.folders.insert(folder.to_owned(), names);
    }

    /// The version that was taken, if it was.
    pub(super) fn get(&self, folder: &str, name: &str) -> Option<Version> {
        let names = self.folders.get(folder)?;
        names.get(name).map(|seen| seen.version)
    }

    /// Every file that was taken, as folder and name.
    pub(super) fn files(&self) -> impl Iterator<Item = (&str, &str)> {
        self.folders.iter().flat_map(|(folder, names)| {
            let folder = folder.as_str();
            names.keys().map(move |name| (folder, name.as_str()))
        })
    }

    /// Files.
    pub(super) fn len(&self) -> usize {
        self.folders.values().map(HashMap::len).sum()
    }

    /// Notes that a file changed after it was taken. Whether that is news.
    pub(super) fn report_change(&mut self, folder: &str, name: &str) -> bool {
        let names = self.folders.get_mut(folder);
        match names.and_then(|names| names.get_mut(name)) {
            Some(seen) => !std::mem::replace(&mut seen.change_reported, true),
            None => false,
        }
    }

    /// Notes at `now_millis` which of all files taken are gone, and forgets those that have been so for `forget_after_millis`.
    pub(super) fn note_gone(
        &mut self,
        gone: &HashMap<String, Vec<String>>,
        now_millis: i64,
        forget_after_millis: i64,
    ) {
        for (folder, names) in &mut self.folders {
            let gone: std::collections::HashSet<&str> = match gone.get(folder) {
                Some(gone) => gone.iter().map(String::as_str).collect(),
                None => std::collections::HashSet::new(),
            };
            names.retain(|name, seen| {
                if !gone.contains(name.as_str()) {
                    seen.gone_since = None;
                    return true;
                }
                let since = *seen.gone_since.get_or_insert(now_millis);
                now_millis.saturating_sub(since) < forget_after_millis
            });
        }
        self.folders.retain(|_, names| !names.is_empty());
    }

    /// Everything taken, for the checkpoint. Files of batches after `committed` carry their batch: it may never be logged.
    pub(super) fn snapshot(&self, committed: Option<BatchId>) -> Snapshot {
        let mut folders = BTreeMap::new();
        for (folder, names) in &self.folders {
            let mut files = Vec::with_capacity(names.len());
            for (name, seen) in names {
                files.push(SnapshotFile {
                    name: name.clone(),
                    size: seen.version.size,
                    modified: seen.version.modified,
                    batch: seen.batch.filter(|batch| Some(*batch) > committed),
                    gone_since: seen.gone_since,
                });
            }
            files.sort_by(|one, other| one.name.cmp(&other.name));
            folders.insert(folder.clone(), files);
        }
        Snapshot { folders }
    }

    /// What a snapshot holds of batches up to `through`.
    pub(super) fn restored(snapshot: Snapshot, through: Option<BatchId>) -> Self {
        let mut seen = Self::default();
        for (folder, files) in snapshot.folders {
            let mut names = HashMap::with_capacity(files.len());
            for file in files {
                if file.batch > through {
                    continue;
                }
                let entry = Seen {
                    version: Version {
                        size: file.size,
                        modified: file.modified,
                    },
                    batch: file.batch,
                    gone_since: file.gone_since,
                    change_reported: false,
                };
                names.insert(file.name, entry);
            }
            seen.folders.insert(folder, names);
        }
        seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERSION: Version = Version {
        size: 5,
        modified: 7,
    };

    #[test]
    fn a_snapshot_gives_back_what_its_label_covers() {
        let mut seen = SeenFiles::default();
        seen.insert("/in", "start", VERSION, None);
        for batch in 0..4 {
            seen.insert("/in", &format!("b{batch}"), VERSION, Some(BatchId(batch)));
        }
        let snapshot = seen.snapshot(Some(BatchId(1)));
        let names = |through| {
            let restored = SeenFiles::restored(snapshot.clone(), through);
            let mut names: Vec<String> =
                restored.files().map(|(_, name)| name.to_owned()).collect();
            names.sort();
            names
        };
        assert_eq!(names(Some(BatchId(1))), ["b0", "b1", "start"]);
        assert_eq!(names(Some(BatchId(2))), ["b0", "b1", "b2", "start"]);
        let text = serde_json::to_string(&snapshot).unwrap();
        assert_eq!(serde_json::from_str::<Snapshot>(&text).unwrap(), snapshot);
    }

    #[test]
    fn a_name_is_forgotten_only_when_gone_for_long() {
        let mut seen = SeenFiles::default();
        seen.insert("/in", "a", VERSION, None);
        let gone = HashMap::from([("/in".to_owned(), vec!["a".to_owned()])]);
        seen.note_gone(&gone, 1_000, 500);
        seen.note_gone(&gone, 1_499, 500);
        assert_eq!(seen.len(), 1);
        seen.note_gone(&HashMap::new(), 1_500, 500);
        seen.note_gone(&gone, 1_600, 500);
        assert_eq!(seen.len(), 1);
        seen.note_gone(&gone, 2_100, 500);
        assert_eq!(seen.len(), 0);
    }

    #[test]
    fn a_change_is_news_once() {
        let mut seen = SeenFiles::default();
        seen.insert("/in", "a", VERSION, None);
        assert!(seen.report_change("/in", "a"));
        assert!(!seen.report_change("/in", "a"));
        assert!(!seen.report_change("/in", "other"));
    }
}
