//! Where a query stands: one pure function of what is in its checkpoint.
//!
//! # What may be found
//!
//! Entries are written in the order `offsets/b`, `commits/b`, `offsets/b+1`, and an offsets entry only after its predecessor's commit was won, so the
//! newest offsets entry is `n` and the newest commit is `n` or `n-1`. Old entries are deleted oldest first, `offsets/b` before `commits/b`, at
//! least two committed batches being kept; a crash in between leaves a commit without its offsets entry at the old end. A driver that was
//! superseded may, after a successor has purged past it, still put an entry under a name that is free again; so old entries may lie apart. What counts
//! is the newest run without gaps, of both kinds. What lies before it is reported and removed.
//!
//! Anything else can't come from Millstream: such a checkpoint is refused, and nothing in it is changed.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use bytes::Bytes;
use millstream_common::{
    ids::{BatchId, Epoch, SourceId},
    log_store::entry::EntryError,
};
use millstream_connectors::source::SourceHistory;
use millstream_dataflow::plan::CheckpointFingerprint;
use serde_json::Value;
use thiserror::Error;

use super::{
    entries::{self, Commit, Metadata, Name, Offsets, SourceSeen, SourceStart},
    state::StateVersions,
};

/// What was read from a checkpoint: bytes by name. Of claims the names are enough.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawCheckpoint {
    /// Every entry but claims.
    pub entries: BTreeMap<String, Bytes>,
    /// The highest epoch listed; 0 where there is none.
    pub highest_epoch: Epoch,
}

/// Why a checkpoint can't be gone on with. Nothing in it was changed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CheckpointError {
    /// An entry is truncated, was altered, or is no entry.
    #[error("can't go on from the checkpoint: {message}")]
    Unreadable {
        /// The file's name below the checkpoint.
        file: String,
        /// What is wrong with it and the way out.
        message: String,
    },
    /// An entry was written by a later release.
    #[error("can't go on from the checkpoint: {message}")]
    Newer {
        /// The file's name below the checkpoint.
        file: String,
        /// Both versions and the way out.
        message: String,
    },
    /// The checkpoint belongs to an application that differs in what can't change.
    #[error(
        "the checkpoint was made by another application or by another version of this one: {}; undo the change, or start with a new checkpoint folder", differences.join("; ")
    )]
    OtherApplication {
        /// What differs, a line each.
        differences: Vec<String>,
    },
    /// A source is declared where another one was, and entries name sources by their place.
    #[error(
        "source `{now}` stands where source `{was}` stood when the checkpoint was made, and would go on from what that one took: restore the order of the declarations, or start with a new checkpoint folder"
    )]
    SourceMoved {
        /// The place, from 0.
        position: usize,
        /// Stable id of the source that the entries tell of.
        was: String,
        /// Stable id of the source that is there now.
        now: String,
    },
    /// Entries that must be there are not.
    #[error(
        "the checkpoint is incomplete: {missing} is missing, though {because}; restore it from a backup, or start with a new checkpoint folder"
    )]
    Incomplete {
        /// What is missing, by name.
        missing: String,
        /// Why it should be there.
        because: String,
    },
    /// An entry can't be written.
    #[error("checkpoint file {file} can't be written: {reason}")]
    Unwritable {
        /// The file's name below the checkpoint.
        file: String,
        /// Why.
        reason: String,
    },
}

impl CheckpointError {
    /// What the entry's decoder says, with the file named.
    pub fn from_entry(file: &str, error: &EntryError) -> Self {
        let (file, mut message) = (file.to_owned(), error.to_string());
        if let EntryError::NewerVersion { .. } = error {
            return Self::Newer { file, message };
        }
        if !message.contains("backup") {
            message.push_str("; restore it from a backup, or start with a new checkpoint");
        }
        Self::Unreadable { file, message }
    }

    /// Refuses a claim that no driver can have made. It would stand above every driver's, as if each had a successor.
    ///
    /// # Errors
    /// Names the file.
    pub fn check_claim(highest: Epoch) -> Result<(), Self> {
        if highest <= entries::HIGHEST_EPOCH {
            return Ok(());
        }
        let file = Name::Epoch(highest).to_string();
        let message = format!(
            "`{file}` is a claim that no driver made, so the checkpoint was altered; delete that file, if no other was changed, or restore the checkpoint from a backup"
        );
        Err(Self::Unreadable { file, message })
    }

    fn unreadable(file: &str, what: &str) -> Self {
        Self::Unreadable {
            file: file.to_owned(),
            message: format!(
                "`{file}` {what}; restore it from a backup, or start with a new checkpoint"
            ),
        }
    }
}

/// A committed batch.
#[derive(Clone, Debug, PartialEq)]
pub struct CommittedBatch {
    /// What it read.
    pub offsets: Offsets,
    /// What it came to.
    pub commit: Commit,
}

/// Where a query stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Recovered {
    /// What the query is; nothing before the first start.
    pub metadata: Option<Metadata>,
    /// The highest epoch that was claimed or stands in an entry.
    pub highest_epoch: Epoch,
    /// The oldest batch whose entries are both kept.
    pub oldest: BatchId,
    /// The newest committed batch: its files may not be published yet.
    pub newest_commit: Option<CommittedBatch>,
    /// The batch that was logged but not committed: it runs again, with exactly this.
    pub uncommitted: Option<Offsets>,
    /// The first batch that isn't logged.
    pub next: BatchId,
    /// What each source had before; nothing for sources whose start isn't logged.
    pub histories: Vec<Option<SourceHistory>>,
    /// State files, as the run's commits list them.
    pub state: StateVersions,
    /// Entries before the newest run.
    pub strays: Vec<String>,
    /// Per source the batches of its `seen` entries, oldest first.
    pub seen: Vec<Vec<BatchId>>,
}

/// Derives where a query stands whose sources have these stable ids, in order. `metadata` is what [`metadata`] found in `raw`. Pure: the same entries
/// give the same state, however often it is asked.
///
/// # Errors
/// When the entries can't have come about by what drivers do, or tell of sources in another order.
pub fn recover(
    raw: &RawCheckpoint,
    metadata: Option<Metadata>,
    sources: &[String],
) -> Result<Recovered, CheckpointError> {
    CheckpointError::check_claim(raw.highest_epoch)?;
    let parsed = Parsed::read(raw)?;
    if metadata.is_none()
        && let Some(name) = raw.entries.keys().next()
    {
        return Err(CheckpointError::Incomplete {
            missing: Name::Metadata.to_string(),
            because: format!("{name} is there"),
        });
    }
    let run = Run::of(&parsed)?;
    let histories = histories(&parsed, &run, sources)?;
    let mut seen = vec![Vec::new(); sources.len()];
    for (source, batch) in parsed.seen.keys() {
        if let Some(list) = index(*source).and_then(|index| seen.get_mut(index)) {
            list.push(*batch);
        }
    }
    let newest_commit = run.committed.and_then(|batch| {
        Some(CommittedBatch {
            offsets: parsed.offsets.get(&batch)?.clone(),
            commit: parsed.commits.get(&batch)?.clone(),
        })
    });
    let uncommitted = run
        .uncommitted
        .and_then(|batch| parsed.offsets.get(&batch).cloned());
    Ok(Recovered {
        highest_epoch: parsed.highest_epoch(raw, metadata.as_ref()),
        metadata,
        oldest: run.offsets_from,
        newest_commit,
        uncommitted,
        next: run.next,
        histories,
        state: StateVersions::restored(
            parsed
                .commits
                .range(run.oldest..)
                .map(|(batch, commit)| (*batch, commit)),
        ),
        strays: run.strays(&parsed),
        seen,
    })
}

/// What the query is, by its checkpoint; nothing before the first start.
///
/// # Errors
/// When the entry can't be read.
pub fn metadata(raw: &RawCheckpoint) -> Result<Option<Metadata>, CheckpointError> {
    let name = Name::Metadata.to_string();
    let bytes = raw.entries.get(&name);
    bytes.map(|bytes| entries::decode(&name, bytes)).transpose()
}

/// What an application compares a checkpoint's metadata with.
#[derive(Clone, Debug, PartialEq)]
pub struct Expectation<'a> {
    /// The application's fingerprint now.
    pub fingerprint: &'a CheckpointFingerprint,
    /// This release's rule from keys to partitions.
    pub routing_version: u32,
}

/// Whether the application can go on with a checkpoint.
///
/// # Errors
/// [`CheckpointError::OtherApplication`] with every difference, [`CheckpointError::Newer`].
pub fn agree(metadata: &Metadata, now: &Expectation<'_>) -> Result<(), CheckpointError> {
    if metadata.version > entries::CHECKPOINT_VERSION {
        return Err(CheckpointError::Newer {
            file: Name::Metadata.to_string(),
            message: format!(
                "`metadata` says that the checkpoint has layout {}, made by release {}, and this release reads up to {}: go on with the newer release",
                metadata.version,
                metadata.release,
                entries::CHECKPOINT_VERSION
            ),
        });
    }
    let mut differences = metadata.fingerprint.differences(now.fingerprint);
    let partitions = (
        metadata.fingerprint.parallelism,
        now.fingerprint.parallelism,
    );
    if partitions.0 != partitions.1 {
        differences.push(format!(
            "partition count: was {}, is {}",
            partitions.0, partitions.1
        ));
    }
    if metadata.routing_version != now.routing_version {
        differences.push(format!(
            "version of the rule from keys to partitions: was {}, is {}",
            metadata.routing_version, now.routing_version
        ));
    }
    if differences.is_empty() {
        Ok(())
    } else {
        Err(CheckpointError::OtherApplication { differences })
    }
}

fn index(source: SourceId) -> Option<usize> {
    usize::try_from(source.0).ok()
}

#[derive(Default)]
struct Parsed {
    offsets: BTreeMap<BatchId, Offsets>,
    commits: BTreeMap<BatchId, Commit>,
    starts: BTreeMap<SourceId, SourceStart>,
    seen: BTreeMap<(SourceId, BatchId), SourceSeen>,
}

impl Parsed {
    fn read(raw: &RawCheckpoint) -> Result<Self, CheckpointError> {
        let mut parsed = Self::default();
        for (text, bytes) in &raw.entries {
            match Name::parse(text) {
                Some(Name::Offsets(batch)) => {
                    let entry: Offsets = entries::decode(text, bytes)?;
                    same_batch(text, batch, entry.batch)?;
                    parsed.offsets.insert(batch, entry);
                }
                Some(Name::Commit(batch)) => {
                    let entry: Commit = entries::decode(text, bytes)?;
                    same_batch(text, batch, entry.batch)?;
                    parsed.commits.insert(batch, entry);
                }
                Some(Name::Start(source)) => {
                    parsed.starts.insert(source, entries::decode(text, bytes)?);
                }
                Some(Name::Seen(source, batch)) => {
                    let entry: SourceSeen = entries::decode(text, bytes)?;
                    same_batch(text, batch, entry.batch)?;
                    parsed.seen.insert((source, batch), entry);
                }
                // Metadata is read before anything else.
                Some(Name::Metadata | Name::Epoch(_)) | None => {}
            }
        }
        Ok(parsed)
    }

    fn highest_epoch(&self, raw: &RawCheckpoint, metadata: Option<&Metadata>) -> Epoch {
        let in_offsets = self.offsets.values().map(|entry| entry.author.epoch);
        let in_commits = self.commits.values().map(|entry| entry.author.epoch);
        let in_metadata = metadata.map(|entry| entry.author.epoch);
        in_offsets
            .chain(in_commits)
            .chain(in_metadata)
            .fold(raw.highest_epoch, Epoch::max)
    }
}

fn same_batch(file: &str, named: BatchId, found: BatchId) -> Result<(), CheckpointError> {
    if named == found {
        return Ok(());
    }
    Err(CheckpointError::unreadable(
        file,
        &format!("holds batch {found}"),
    ))
}

/// The newest run without gaps.
struct Run {
    /// First batch of the run of offsets entries.
    offsets_from: BatchId,
    /// First batch with both entries.
    oldest: BatchId,
    committed: Option<BatchId>,
    uncommitted: Option<BatchId>,
    next: BatchId,
}

impl Run {
    fn of(parsed: &Parsed) -> Result<Self, CheckpointError> {
        let newest_offsets = parsed.offsets.keys().next_back().copied();
        let newest_commit = parsed.commits.keys().next_back().copied();
        let Some(newest) = newest_offsets else {
            return match newest_commit {
                None => Ok(Self {
                    offsets_from: BatchId(0),
                    oldest: BatchId(0),
                    committed: None,
                    uncommitted: None,
                    next: BatchId(0),
                }),
                Some(commit) => Err(missing(Name::Offsets(commit), Name::Commit(commit))),
            };
        };
        let uncommitted = match newest_commit {
            Some(commit) if commit > newest => {
                return Err(missing(Name::Offsets(commit), Name::Commit(commit)));
            }
            Some(commit) if commit == newest => None,
            Some(commit) if commit.next() == newest => Some(newest),
            None if newest == BatchId(0) => Some(newest),
            _ => {
                let before = BatchId(newest.0.saturating_sub(1));
                return Err(missing(Name::Commit(before), Name::Offsets(newest)));
            }
        };
        let offsets_from = run_start(newest, |batch| parsed.offsets.contains_key(&batch));
        let oldest = match newest_commit {
            None => offsets_from,
            Some(commit) => {
                let commits_from = run_start(commit, |batch| parsed.commits.contains_key(&batch));
                if commit < offsets_from {
                    return Err(missing(Name::Offsets(commit), Name::Commit(commit)));
                }
                offsets_from.max(commits_from)
            }
        };
        Ok(Self {
            offsets_from,
            oldest,
            committed: newest_commit,
            uncommitted,
            next: newest.next(),
        })
    }

    fn strays(&self, parsed: &Parsed) -> Vec<String> {
        // An entry of the run whose commit is gone still says what its sources took.
        let offsets = parsed.offsets.range(..self.offsets_from);
        let commits = parsed.commits.range(..self.oldest);
        let offsets = offsets.map(|(batch, _)| Name::Offsets(*batch).to_string());
        let commits = commits.map(|(batch, _)| Name::Commit(*batch).to_string());
        offsets.chain(commits).collect()
    }
}

fn run_start(newest: BatchId, is_there: impl Fn(BatchId) -> bool) -> BatchId {
    let mut start = newest;
    while start.0 > 0 && is_there(BatchId(start.0 - 1)) {
        start = BatchId(start.0 - 1);
    }
    start
}

fn missing(missing: Name, there: Name) -> CheckpointError {
    CheckpointError::Incomplete {
        missing: missing.to_string(),
        because: format!("{there} is there"),
    }
}

fn histories(
    parsed: &Parsed,
    run: &Run,
    sources: &[String],
) -> Result<Vec<Option<SourceHistory>>, CheckpointError> {
    let mut histories = Vec::with_capacity(sources.len());
    for (source, (position, id)) in (0u32..).map(SourceId).zip(sources.iter().enumerate()) {
        let Some(start) = parsed.starts.get(&source) else {
            if let Some(batch) = parsed.offsets.keys().next_back() {
                return Err(missing(Name::Start(source), Name::Offsets(*batch)));
            }
            histories.push(None);
            continue;
        };
        if start.id != *id {
            return Err(CheckpointError::SourceMoved {
                position,
                was: start.id.clone(),
                now: id.clone(),
            });
        }
        let of_source = (source, BatchId(0))..=(source, BatchId(u64::MAX));
        let seen = parsed.seen.range(of_source).next_back();
        let seen = seen.map(|((_, batch), entry)| (*batch, entry.seen.clone()));
        if let Some((batch, _)) = &seen {
            check_seen(parsed, run, source, *batch)?;
        }
        histories.push(Some(SourceHistory {
            start: start.start.clone(),
            logged: logged(parsed, run, position, seen.as_ref())?,
            seen,
        }));
    }
    Ok(histories)
}

/// The entries after `seen` must all be there, else what the source took in between would be taken again.
fn check_seen(
    parsed: &Parsed,
    run: &Run,
    source: SourceId,
    seen: BatchId,
) -> Result<(), CheckpointError> {
    let there = Name::Seen(source, seen);
    if seen >= run.next {
        return Err(missing(Name::Offsets(seen), there));
    }
    if run.offsets_from > seen.next() {
        return Err(missing(Name::Offsets(seen.next()), there));
    }
    debug_assert!(parsed.offsets.contains_key(&run.offsets_from));
    Ok(())
}

fn logged(
    parsed: &Parsed,
    run: &Run,
    position: usize,
    seen: Option<&(BatchId, Value)>,
) -> Result<Vec<(BatchId, millstream_connectors::source::PlannedInput)>, CheckpointError> {
    let after_seen = seen.map_or(run.offsets_from, |(batch, _)| batch.next());
    // The newest is always given, for the source's position.
    let newest = BatchId(run.next.0.saturating_sub(1));
    let from = after_seen.max(run.offsets_from).min(newest);
    let mut inputs = Vec::new();
    for (batch, entry) in parsed.offsets.range(from..) {
        let Some(input) = entry.sources.get(position) else {
            let file = Name::Offsets(*batch).to_string();
            let what = format!("has no input of source {position}");
            return Err(CheckpointError::unreadable(&file, &what));
        };
        inputs.push((*batch, input.clone()));
    }
    Ok(inputs)
}
