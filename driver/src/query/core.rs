//! The state machine of a query's life, without IO: events in, actions out.
//!
//! ```text
//! start     read (nothing is changed if the checkpoint is refused), claim an epoch, read again, found or restore, check outputs,
//!           finish the newest commit, run the uncommitted batch again
//! a batch   plan ─ queue ─ put offsets/b ─ run ─ put commits/b ─ [check, publish] ─ next
//!                                                      └ check, tell the sources ─ put seen, check, purge      (beside the next batch)
//! ```
//!
//! "Check" lists the claims: a higher epoch ends the query before it publishes, deletes, or tells a source anything. A put that finds a higher epoch's
//! entry ends it too; one that finds a lower epoch's drops what is in flight and reads the logs again.

mod batch;
mod event_time;
mod guard;
mod input;
mod purge;
mod start;

#[cfg(test)]
mod model;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use bytes::Bytes;
use millstream_common::{
    ids::{BatchId, Epoch, QueryId},
    time::Tick,
};
use serde_json::Value;

use self::{
    batch::{Batch, Step},
    event_time::EventTimes,
    guard::Guard,
    input::Input,
    purge::Purge,
    start::Phase,
};
use super::{
    entries::{self, Author, LogEntry},
    error::{QueryError, Stopped},
    event::{Action, CoreOptions, Event, Life, Note, PutResult, QueryNews},
    progress::QueryStatus,
    state::StateVersions,
};

/// The state machine. See the [module](self) for what it does.
pub struct QueryCore {
    options: CoreOptions,
    /// Grows whenever what is in flight is dropped.
    life: Life,
    epoch: Epoch,
    query: QueryId,
    nonces: u64,
    anchor: Anchor,
    phase: Phase,
    reads_left: u32,
    ready_said: bool,
    stopping: bool,
    /// Puts in flight: name to bytes.
    puts: BTreeMap<String, Bytes>,
    input: Input,
    current: Option<Batch>,
    guard: Guard,
    purge: Purge,
    state: StateVersions,
    event_times: EventTimes,
    /// By source, what its progress showed last.
    shown: Vec<Value>,
    waits_for_executor: bool,
    wake_at: Option<Tick>,
    status: QueryStatus,
    actions: Vec<Action>,
}

/// A moment on both clocks, by which ticks are turned into wall time.
#[derive(Clone, Copy, Debug, Default)]
struct Anchor {
    tick: Tick,
    wall_millis: i64,
}

impl Anchor {
    fn wall_millis(&self, now: Tick) -> i64 {
        let passed = i64::try_from(now.since(self.tick).as_millis()).unwrap_or(i64::MAX);
        self.wall_millis.saturating_add(passed)
    }

    fn tick(&self, wall_millis: i64) -> Tick {
        let ahead = wall_millis.saturating_sub(self.wall_millis);
        let ahead = u64::try_from(ahead).unwrap_or(0);
        self.tick.after(std::time::Duration::from_millis(ahead))
    }
}

impl QueryCore {
    /// A machine that waits for [`Event::Start`].
    pub fn new(options: CoreOptions) -> Self {
        let input = Input::new(&options);
        let query = options.fresh_query;
        Self {
            purge: Purge::new(options.retained_batches),
            options,
            life: Life::default(),
            epoch: Epoch(0),
            query,
            nonces: 0,
            anchor: Anchor::default(),
            phase: Phase::New,
            reads_left: start::READS,
            ready_said: false,
            stopping: false,
            puts: BTreeMap::new(),
            input,
            current: None,
            guard: Guard::default(),
            state: StateVersions::default(),
            event_times: EventTimes::default(),
            shown: Vec::new(),
            waits_for_executor: false,
            wake_at: None,
            status: QueryStatus::default(),
            actions: Vec::new(),
        }
    }

    /// Takes an event and says what is to be done, in this order. After [`Action::End`] every event is ignored.
    pub fn handle(&mut self, now: Tick, event: Event) -> Vec<Action> {
        if matches!(self.phase, Phase::Ended) {
            return Vec::new();
        }
        if let Err(error) = self.dispatch(now, event) {
            self.end(Err(error));
        }
        if matches!(self.phase, Phase::Active)
            && let Err(error) = self.advance(now)
        {
            self.end(Err(error));
        }
        if !matches!(self.phase, Phase::Ended) {
            self.say_status();
            self.wish_to_wake(now);
        }
        std::mem::take(&mut self.actions)
    }

    /// The query's id: the checkpoint's, once that is read.
    pub fn query(&self) -> QueryId {
        self.query
    }

    /// The epoch claimed; 0 before.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    fn dispatch(&mut self, now: Tick, event: Event) -> Result<(), QueryError> {
        match event {
            Event::Start { wall_millis } => {
                self.anchor = Anchor {
                    tick: now,
                    wall_millis,
                };
                self.begin();
                Ok(())
            }
            Event::Timer { wall_millis } => {
                self.anchor = Anchor {
                    tick: now,
                    wall_millis,
                };
                self.wake_at = None;
                self.ask_sources_again(now);
                self.check_now_and_then(now);
                Ok(())
            }
            Event::Checkpoint { life, raw } if life == self.life => self.checkpoint_read(raw),
            Event::Put { life, name, result } if life == self.life => match result {
                Ok(result) => self.put_done(now, &name, result),
                Err(failure) => Err(failure.into()),
            },
            Event::Epochs { life, highest } if life == self.life => {
                self.epochs_listed(now, highest)
            }
            Event::Deleted { life, result } if life == self.life => {
                self.deleted(result);
                Ok(())
            }
            Event::SourceStarted {
                life,
                source,
                result,
            } if life == self.life => self.source_started(source, result),
            Event::SourceRestored {
                life,
                source,
                result,
            } if life == self.life => self.source_restored(source, result),
            Event::OutputsChecked { life, result } if life == self.life => {
                self.outputs_checked(now, result)
            }
            Event::Planned {
                life,
                batch,
                source,
                result,
            } if life == self.life => self.planned(now, batch, source, result),
            Event::News(news) => self.news(now, news),
            Event::Completed {
                life,
                batch,
                output,
                result,
            } if life == self.life => self.completed(batch, output, result),
            Event::Published {
                life,
                batch,
                result,
            } if life == self.life => self.published(now, batch, result),
            Event::Stop { graceful } => {
                self.stop(graceful);
                Ok(())
            }
            // Answers to questions of a state that was given up.
            Event::Checkpoint { .. }
            | Event::Put { .. }
            | Event::Epochs { .. }
            | Event::Deleted { .. }
            | Event::SourceStarted { .. }
            | Event::SourceRestored { .. }
            | Event::OutputsChecked { .. }
            | Event::Planned { .. }
            | Event::Completed { .. }
            | Event::Published { .. } => Ok(()),
        }
    }

    fn news(&mut self, now: Tick, news: QueryNews) -> Result<(), QueryError> {
        match news {
            QueryNews::OutputReady {
                batch,
                output,
                results,
            } => {
                self.output_ready(batch, output, results);
                Ok(())
            }
            QueryNews::BatchDone { batch, summary } => self.batch_done(now, batch, summary),
            QueryNews::BatchFailed { batch, failure } => self.batch_failed(batch, failure),
            QueryNews::NoExecutor { batch } => {
                self.no_executor(batch);
                Ok(())
            }
        }
    }

    /// What can go on without another event does.
    fn advance(&mut self, now: Tick) -> Result<(), QueryError> {
        self.start_next(now)?;
        self.plan_if_due(now);
        if self.is_complete() {
            self.stopping = true;
            self.input.stop();
        }
        let nothing_left = self.current.is_none()
            && self.input.is_idle()
            && self.guard.is_idle()
            && self.purge.is_idle();
        if self.stopping && nothing_left {
            self.end(Ok(Stopped::default()));
        }
        Ok(())
    }

    fn stop(&mut self, graceful: bool) {
        if graceful && matches!(self.phase, Phase::Active) {
            self.stopping = true;
            self.input.stop();
            return;
        }
        self.end(Ok(self.left_undone()));
    }

    /// What a stop at once leaves to the next start.
    fn left_undone(&self) -> Stopped {
        let mut left = Stopped {
            dropped: self.input.queued(),
            ..Stopped::default()
        };
        if let Some(batch) = &self.current {
            match batch.step {
                Step::Logging => left.dropped += 1,
                Step::Running | Step::Committing => left.unfinished = Some(batch.id()),
                Step::Publishing => left.unpublished = Some(batch.id()),
            }
        } else if let Some(recovered) = self.phase.recovered() {
            left.unfinished = recovered.uncommitted.as_ref().map(|entry| entry.batch);
        }
        left
    }

    fn end(&mut self, result: Result<Stopped, QueryError>) {
        if let Some(batch) = self.current.take()
            && batch.step == Step::Running
        {
            self.actions.push(Action::Abort { batch: batch.id() });
        }
        self.phase = Phase::Ended;
        self.actions.push(Action::End(result));
    }

    fn author(&mut self) -> Author {
        self.nonces += 1;
        Author {
            epoch: self.epoch,
            nonce: format!("{}-{}", self.options.session, self.nonces),
        }
    }

    fn put<T: LogEntry>(&mut self, name: entries::Name, entry: &T) -> Result<(), QueryError> {
        let name = name.to_string();
        let bytes = entries::encode(&name, entry)?;
        self.puts.insert(name.clone(), bytes.clone());
        self.actions.push(Action::Put {
            life: self.life,
            name,
            bytes,
        });
        Ok(())
    }

    fn put_done(&mut self, now: Tick, name: &str, result: PutResult) -> Result<(), QueryError> {
        let Some(ours) = self.puts.remove(name) else {
            return Ok(());
        };
        let found = match result {
            PutResult::Won => None,
            // Entries carry a nonce, so equal bytes are our own.
            PutResult::Lost(found) if found == ours => None,
            PutResult::Lost(found) => Some(found),
        };
        match entries::Name::parse(name) {
            Some(entries::Name::Epoch(epoch)) => self.claimed(epoch, found.is_none()),
            Some(entries::Name::Metadata) => {
                match self.found_other::<entries::Metadata>(name, found)? {
                    Found::Ours => self.founded(),
                    Found::Older => Ok(()),
                }
            }
            Some(entries::Name::Start(source)) => {
                match self.found_other::<entries::SourceStart>(name, found)? {
                    Found::Ours => {
                        self.source_is_ready(source);
                        Ok(())
                    }
                    Found::Older => Ok(()),
                }
            }
            Some(entries::Name::Offsets(batch)) => {
                match self.found_other::<entries::Offsets>(name, found)? {
                    Found::Ours => {
                        self.logged(now, batch);
                        Ok(())
                    }
                    Found::Older => Ok(()),
                }
            }
            Some(entries::Name::Commit(batch)) => {
                match self.found_other::<entries::Commit>(name, found)? {
                    Found::Ours => self.committed(now, batch),
                    Found::Older => Ok(()),
                }
            }
            Some(entries::Name::Seen(source, batch)) => {
                self.seen_is_put(now, name, source, batch, found)
            }
            None => Ok(()),
        }
    }

    /// What a put that found another's entry leads to: a higher epoch ends the query, a lower one makes it read the logs again.
    fn found_other<T: LogEntry>(
        &mut self,
        name: &str,
        found: Option<Bytes>,
    ) -> Result<Found, QueryError> {
        let Some(bytes) = found else {
            return Ok(Found::Ours);
        };
        let entry: T = entries::decode(name, &bytes)?;
        let theirs = entry.author().epoch;
        self.not_superseded(theirs)?;
        if theirs == self.epoch {
            return Err(QueryError::Store {
                what: format!("put {name}"),
                reason: format!(
                    "another entry of this driver's own epoch {theirs} is there, so the storage let two drivers win one claim"
                ),
            });
        }
        self.actions.push(Action::Noted(Note::FoundOlder {
            name: name.to_owned(),
            epoch: theirs,
        }));
        self.read_again();
        Ok(Found::Older)
    }

    fn not_superseded(&self, theirs: Epoch) -> Result<(), QueryError> {
        if theirs > self.epoch {
            return Err(QueryError::Superseded {
                ours: self.epoch,
                by: theirs,
            });
        }
        Ok(())
    }

    fn say_status(&mut self) {
        let running = self
            .current
            .as_ref()
            .map(|batch| (batch.id(), batch.offsets.batch_time));
        let status = QueryStatus {
            running,
            queued: self.input.queued(),
            waits_for_executor: self.waits_for_executor,
            waits_for_source: self
                .input
                .failing_source()
                .and_then(|source| self.options.sources.get(source).cloned()),
            empty_looks: self.input.empty_looks(),
        };
        if status != self.status {
            self.status = status.clone();
            self.actions.push(Action::Status(status));
        }
    }

    fn wish_to_wake(&mut self, now: Tick) {
        let checks = self.guard.due_at();
        let asks = self.input.ask_again_at();
        let plans = if matches!(self.phase, Phase::Active) {
            self.plan_due_at()
        } else {
            None
        };
        let wish = [checks, asks, plans].into_iter().flatten().min();
        if let Some(at) = wish
            && self.wake_at != Some(at)
        {
            self.wake_at = Some(at);
            self.actions.push(Action::WakeAt(at.max(now)));
        }
    }

    fn batch_is(&self, batch: BatchId, step: Step) -> bool {
        self.current
            .as_ref()
            .is_some_and(|current| current.id() == batch && current.step == step)
    }
}

enum Found {
    Ours,
    Older,
}
