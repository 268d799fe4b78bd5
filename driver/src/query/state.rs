//! Which state files there are: what each state partition goes on from, and what retained commits still reach. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use millstream_common::{ids::BatchId, protocol::StateFile};

use super::{entries::Commit, progress::StateProgress};

/// The files of each state partition, by operator and partition, oldest first.
pub type StateFiles = BTreeMap<(String, u32), Vec<StateFile>>;

/// State as the newest commit has it, and the files that retained commits list.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StateVersions {
    current: Arc<StateFiles>,
    /// The newest commit that lists each file.
    listed: BTreeMap<String, BatchId>,
}

impl StateVersions {
    /// What retained commits say.
    pub fn restored<'a>(commits: impl IntoIterator<Item = (BatchId, &'a Commit)>) -> Self {
        let mut versions = Self::default();
        for (batch, commit) in commits {
            versions.committed(batch, &commit.state);
        }
        versions
    }

    /// What the next batch goes on from.
    pub fn current(&self) -> Arc<StateFiles> {
        Arc::clone(&self.current)
    }

    /// The whole state after a batch whose winning tasks left `written`: partitions without a task stay as they were.
    pub fn after(&self, written: &[StateFile]) -> Vec<StateFile> {
        let mut files = by_partition(written);
        for (partition, before) in self.current.iter() {
            if !files.contains_key(partition) {
                files.insert(partition.clone(), before.clone());
            }
        }
        files.into_values().flatten().collect()
    }

    /// A commit with this whole state was won, or read.
    pub fn committed(&mut self, batch: BatchId, state: &[StateFile]) {
        for file in state {
            let newest = self.listed.entry(file.file.clone()).or_insert(batch);
            *newest = batch.max(*newest);
        }
        self.current = Arc::new(by_partition(state));
    }

    /// Commits through this one were purged: what they alone listed is no longer reached.
    pub fn purged(&mut self, through: BatchId) {
        self.listed.retain(|_, newest| *newest > through);
    }

    /// Every file that a retained commit lists.
    pub fn reached(&self) -> BTreeSet<String> {
        self.listed.keys().cloned().collect()
    }

    /// The newest commit that lists any.
    pub fn newest(&self) -> BatchId {
        self.listed.values().copied().max().unwrap_or_default()
    }

    /// Rows and bytes by operator.
    pub fn progress(&self) -> Vec<StateProgress> {
        let mut operators: Vec<StateProgress> = Vec::new();
        for ((operator, _), files) in self.current.iter() {
            let is_known = operators
                .last()
                .is_some_and(|known| known.operator == *operator);
            if !is_known {
                operators.push(StateProgress {
                    operator: operator.clone(),
                    ..StateProgress::default()
                });
            }
            if let Some(known) = operators.last_mut() {
                known.rows += files.last().map_or(0, |file| file.rows);
                known.bytes += files.iter().map(|file| file.length).sum::<u64>();
                known.partitions += 1;
            }
        }
        operators
    }

    /// Whether there is any state.
    pub fn is_empty(&self) -> bool {
        self.listed.is_empty()
    }
}

fn by_partition(files: &[StateFile]) -> StateFiles {
    let mut partitions = StateFiles::new();
    for file in files {
        let key = (file.operator.clone(), file.partition);
        partitions.entry(key).or_default().push(file.clone());
    }
    partitions
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(partition: u32, name: &str) -> StateFile {
        StateFile {
            operator: "aggregate-0".to_owned(),
            partition,
            file: name.to_owned(),
            offset: 0,
            length: 1,
            checksum: 2,
            rows: 3,
        }
    }

    #[test]
    fn partitions_without_a_task_keep_their_files_and_purged_commits_let_go_of_theirs() {
        let mut versions = StateVersions::default();
        let first = versions.after(&[file(0, "a"), file(1, "b")]);
        versions.committed(BatchId(0), &first);
        let second = versions.after(&[file(0, "a"), file(0, "c")]);
        assert_eq!(second, [file(0, "a"), file(0, "c"), file(1, "b")]);
        versions.committed(BatchId(1), &second);
        let third = versions.after(&[file(0, "merged")]);
        versions.committed(BatchId(2), &third);
        let key = ("aggregate-0".to_owned(), 0);
        assert_eq!(versions.current()[&key], [file(0, "merged")]);
        let names = |versions: &StateVersions| versions.reached().into_iter().collect::<Vec<_>>();
        assert_eq!(names(&versions), ["a", "b", "c", "merged"]);
        versions.purged(BatchId(0));
        assert_eq!(names(&versions), ["a", "b", "c", "merged"]);
        versions.purged(BatchId(1));
        assert_eq!(names(&versions), ["b", "merged"]);
    }
}
