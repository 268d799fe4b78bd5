//! Fencing: what may only be done while no higher epoch is claimed.

use std::time::Duration;

use millstream_common::{
    ids::{BatchId, Epoch},
    time::Tick,
};
use millstream_connectors::source::PlannedInput;

use super::{
    super::{
        checkpoint::CheckpointError,
        error::{QueryError, StoreFailure},
        event::{Action, Note},
    },
    QueryCore,
};

/// Between two looks at the claims, when nothing else asks for one.
const CHECK_EVERY: Duration = Duration::from_secs(1);
/// So many looks in a row that don't work end the query.
const MAX_FAILED_CHECKS: u32 = 10;
/// Work that may wait for a look before no further batch is started.
const MAX_GUARDED: usize = 16;

/// Work that a look at the claims must come before.
#[derive(Debug)]
pub(super) enum Guarded {
    /// Finish the newest commit after a start.
    Finish,
    /// Publish the running batch.
    Publish,
    /// Tell the sources of a committed batch.
    Tell(BatchId, Vec<PlannedInput>),
    /// Delete old entries.
    Purge,
}

/// The state of looking.
#[derive(Debug, Default)]
pub(super) struct Guard {
    looking: bool,
    /// What the look in flight is for.
    covered: Vec<Guarded>,
    /// What came after the look had begun.
    waiting: Vec<Guarded>,
    next_at: Option<Tick>,
    failed: u32,
}

impl Guard {
    pub(super) fn is_idle(&self) -> bool {
        self.covered.is_empty() && self.waiting.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.covered.len() + self.waiting.len() >= MAX_GUARDED
    }

    pub(super) fn due_at(&self) -> Option<Tick> {
        if self.looking { None } else { self.next_at }
    }
}

impl QueryCore {
    /// Does `work` once a look that begins from now on finds no higher epoch.
    pub(super) fn guarded(&mut self, now: Tick, work: Guarded) {
        self.guard.waiting.push(work);
        if !self.guard.looking && self.guard.failed == 0 {
            self.look(now);
        }
    }

    pub(super) fn check_now_and_then(&mut self, now: Tick) {
        if self.guard.due_at().is_some_and(|at| at <= now) {
            self.look(now);
        }
    }

    /// Looks from now on at the usual pace.
    pub(super) fn watch(&mut self, now: Tick) {
        self.guard.next_at = Some(now.after(CHECK_EVERY));
    }

    fn look(&mut self, now: Tick) {
        self.guard.looking = true;
        self.guard.next_at = Some(now.after(CHECK_EVERY));
        let waiting = std::mem::take(&mut self.guard.waiting);
        self.guard.covered.extend(waiting);
        self.actions.push(Action::ListEpochs { life: self.life });
    }

    pub(super) fn epochs_listed(
        &mut self,
        now: Tick,
        highest: Result<Epoch, StoreFailure>,
    ) -> Result<(), QueryError> {
        self.guard.looking = false;
        let highest = match highest {
            Ok(highest) => highest,
            Err(failure) => {
                self.guard.failed += 1;
                if self.guard.failed >= MAX_FAILED_CHECKS {
                    return Err(failure.into());
                }
                self.actions
                    .push(Action::Noted(Note::NotChecked { failure }));
                self.guard.next_at = Some(now.after(CHECK_EVERY));
                return Ok(());
            }
        };
        self.guard.failed = 0;
        CheckpointError::check_claim(highest)?;
        self.not_superseded(highest)?;
        for work in std::mem::take(&mut self.guard.covered) {
            match work {
                Guarded::Finish => self.finish_newest(now)?,
                Guarded::Publish => self.publish(),
                Guarded::Tell(batch, inputs) => {
                    self.actions.push(Action::TellCommitted { batch, inputs });
                }
                Guarded::Purge => self.delete_old(),
            }
        }
        if !self.guard.looking && !self.guard.waiting.is_empty() {
            self.look(now);
        }
        Ok(())
    }
}
