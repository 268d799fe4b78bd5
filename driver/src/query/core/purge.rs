//! Removing old entries, beside the running batch.
//!
//! Order: `seen` of each source that keeps it is put for the batch just committed; then a look at the claims; then `offsets/b` and `commits/b` are
//! deleted, oldest batch first; then older `seen` entries. `offsets/b` goes before `commits/b`, so at every moment each offsets entry but
//! the newest has its commit, and what is left of a crash is a commit before the newest run, which the next start removes. Several batches are purged at once,
//! so that what a source has seen is not written with every batch.

use bytes::Bytes;
use millstream_common::{
    ids::{BatchId, SourceId},
    time::Tick,
};
use serde_json::Value;

use super::{
    super::{
        entries::{self, LogEntry, Name, SourceSeen},
        error::{QueryError, StoreFailure},
        event::{Action, Note},
    },
    QueryCore,
    guard::Guarded,
};

/// The most batches purged at once.
const MOST_AT_ONCE: u64 = 10;

/// What is kept and what is being removed.
#[derive(Debug)]
pub(super) struct Purge {
    retained: u64,
    every: u64,
    /// The oldest batch kept.
    oldest: BatchId,
    /// Batches of the `seen` entries there, by source.
    seen: Vec<Vec<BatchId>>,
    job: Option<Job>,
    strays: bool,
}

#[derive(Debug)]
struct Job {
    batch: BatchId,
    through: BatchId,
    puts_left: usize,
}

impl Purge {
    pub(super) fn new(retained: u64) -> Self {
        let retained = retained.max(2);
        Self {
            retained,
            every: (retained / 10).clamp(1, MOST_AT_ONCE),
            oldest: BatchId(0),
            seen: Vec::new(),
            job: None,
            strays: false,
        }
    }

    pub(super) fn begin(&mut self, oldest: BatchId, seen: Vec<Vec<BatchId>>) {
        self.oldest = oldest;
        self.seen = seen;
        self.job = None;
    }

    pub(super) fn clear(&mut self) {
        self.job = None;
        self.strays = false;
    }

    pub(super) fn remove_strays(&mut self) {
        self.strays = true;
    }

    pub(super) fn is_idle(&self) -> bool {
        self.job.is_none() && !self.strays
    }

    /// Whether old entries are to be removed after this batch.
    pub(super) fn is_due(&self, batch: BatchId) -> bool {
        batch.0.is_multiple_of(self.every) && batch.0 >= self.oldest.0.saturating_add(self.retained)
    }
}

impl QueryCore {
    pub(super) fn purge_after(
        &mut self,
        now: Tick,
        batch: BatchId,
        seen: Vec<Option<Value>>,
    ) -> Result<(), QueryError> {
        if !self.purge.is_idle() || !self.purge.is_due(batch) {
            return Ok(());
        }
        let mut puts_left = 0;
        for (source, seen) in (0u32..).map(SourceId).zip(seen) {
            let Some(seen) = seen else { continue };
            let entry = SourceSeen {
                author: self.author(),
                batch,
                seen,
            };
            self.put(Name::Seen(source, batch), &entry)?;
            puts_left += 1;
        }
        self.purge.job = Some(Job {
            batch,
            through: BatchId(batch.0 - self.purge.retained),
            puts_left,
        });
        if puts_left == 0 {
            self.guarded(now, Guarded::Purge);
        }
        Ok(())
    }

    /// An older driver's entry for the same batch is as good: what was taken up to a committed batch doesn't depend on who says so.
    pub(super) fn seen_is_put(
        &mut self,
        now: Tick,
        name: &str,
        source: SourceId,
        batch: BatchId,
        found: Option<Bytes>,
    ) -> Result<(), QueryError> {
        if let Some(bytes) = found {
            let entry: SourceSeen = entries::decode(name, &bytes)?;
            self.not_superseded(entry.author().epoch)?;
        }
        let list = usize::try_from(source.0)
            .ok()
            .and_then(|index| self.purge.seen.get_mut(index));
        if let Some(list) = list
            && !list.contains(&batch)
        {
            list.push(batch);
        }
        if let Some(job) = &mut self.purge.job
            && job.batch == batch
        {
            job.puts_left -= 1;
            if job.puts_left == 0 {
                self.guarded(now, Guarded::Purge);
            }
        }
        Ok(())
    }

    /// No higher epoch is claimed: old entries may go.
    pub(super) fn delete_old(&mut self) {
        let Some(job) = &self.purge.job else {
            return;
        };
        let mut names = Vec::new();
        for batch in (self.purge.oldest.0..=job.through.0).map(BatchId) {
            names.push(Name::Offsets(batch).to_string());
            names.push(Name::Commit(batch).to_string());
        }
        for (source, list) in (0u32..).map(SourceId).zip(&self.purge.seen) {
            let newest = list.iter().max();
            let older = list.iter().filter(|batch| Some(*batch) != newest);
            names.extend(older.map(|batch| Name::Seen(source, *batch).to_string()));
        }
        self.actions.push(Action::Delete {
            life: self.life,
            names,
        });
    }

    pub(super) fn deleted(&mut self, result: Result<(), StoreFailure>) {
        let job = self.purge.job.take();
        let strays = std::mem::take(&mut self.purge.strays);
        if let Err(failure) = result {
            self.actions
                .push(Action::Noted(Note::NotDeleted { failure }));
            return;
        }
        if strays {
            return;
        }
        if let Some(job) = job {
            self.purge.oldest = job.through.next();
            self.state.purged(job.through);
            for list in &mut self.purge.seen {
                let newest = list.iter().copied().max();
                list.retain(|batch| Some(*batch) == newest);
            }
        }
        self.sweep_state();
    }

    /// Files of lost attempts, of merged files, and of purged batches go.
    pub(super) fn sweep_state(&mut self) {
        if self.state.is_empty() {
            return;
        }
        self.actions.push(Action::SweepState {
            reached: self.state.reached(),
            through: self.state.newest(),
            epoch: self.epoch,
        });
    }
}
