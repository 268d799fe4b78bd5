//! Which task runs where: a state machine without IO. `handle(now, event) -> actions`.
//!
//! Layout:
//! - [`message`]: events in, actions out
//! - [`options`]: limits and waits
//! - `batch`: a running batch: stages, partitions, attempts
//! - `queue`: a stage's tasks that wait for a slot
//! - `executors`: executors and their slots
//! - `queries`: queries come and go, batches start and end
//! - `progress`: which stages may run, what has to run again, which output is ready
//! - `placement`: which executor a task prefers
//! - `dispatch`: tasks into slots, and timers
//! - `reports`: attempts that ended
//! - `difference`: rows that were written otherwise the second time
//! - `loss`: executors and map outputs that are lost
//! - `reconcile`: executors that come, come back and leave
//! - `speculation`: slow tasks run twice
//! - [`invariants`]: what always holds

mod batch;
mod difference;
mod dispatch;
mod executors;
pub mod invariants;
mod loss;
pub mod message;
pub mod options;
mod placement;
mod progress;
mod queries;
mod queue;
mod reconcile;
mod reports;
mod speculation;
#[cfg(test)]
mod tests;

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
};

use hashbrown::HashMap;
use millstream_common::{
    failure::{Failure, FailureKind},
    ids::TaskId,
    protocol::TaskSpec,
    time::Tick,
};
use rand::{SeedableRng, rngs::SmallRng};

use executors::{ExecutorIndex, Pool};
use message::{Action, Event, Note};
use options::SchedulerOptions;
use queries::Queries;

/// Decides which task runs where, over all queries of a driver. It does no IO: [`handle`](Self::handle) takes what happened and gives what is to
/// be done. The same seed and the same events give the same actions.
#[derive(Debug)]
pub struct Scheduler {
    options: SchedulerOptions,
    random: SmallRng,
    pool: Pool,
    queries: Queries,
    /// Queries with waiting tasks, in the order of their turns.
    rotation: VecDeque<usize>,
    pauses: BinaryHeap<Reverse<Pause>>,
    next_speculation: Option<Tick>,
    /// The wish last said.
    armed: Option<Tick>,
    /// Batches so far.
    sequence: u64,
    launching: Vec<Launching>,
    launching_index: HashMap<(ExecutorIndex, usize, usize), usize>,
    cancelling: Vec<(ExecutorIndex, Vec<TaskId>)>,
    placed_preferred: u32,
    placed_elsewhere: u32,
    actions: Vec<Action>,
}

/// A task that waits for a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Pause {
    until: Tick,
    query: usize,
    batch_sequence: u64,
    stage: usize,
    partition: u32,
    ticket: u32,
}

/// A launch message in the making.
#[derive(Debug)]
struct Launching {
    executor: ExecutorIndex,
    query: usize,
    stage: usize,
    tasks: Vec<TaskSpec>,
}

/// Checking every invariant costs as much as the batch is large; debug builds do so up to this many partitions.
#[cfg(debug_assertions)]
const MOST_CHECKED: usize = 2_048;

impl Scheduler {
    /// A scheduler without executors and queries. `seed` decides the jitter of pauses.
    pub fn new(options: SchedulerOptions, seed: u64) -> Self {
        Self {
            options,
            random: SmallRng::seed_from_u64(seed),
            pool: Pool::new(),
            queries: Queries::default(),
            rotation: VecDeque::new(),
            pauses: BinaryHeap::new(),
            next_speculation: None,
            armed: None,
            sequence: 0,
            launching: Vec::new(),
            launching_index: HashMap::new(),
            cancelling: Vec::new(),
            placed_preferred: 0,
            placed_elsewhere: 0,
            actions: Vec::new(),
        }
    }

    /// Takes what happened and gives what is to be done, in order. `now` never goes back.
    pub fn handle(&mut self, now: Tick, event: Event) -> Vec<Action> {
        match event {
            Event::Program(_) => {}
            Event::QueryAdded(grant) => self.query_added(grant),
            Event::QueryRemoved(query) => self.query_removed(query),
            Event::Connected(info) => self.connected(now, info),
            Event::Truth {
                executor,
                running,
                finished,
            } => self.truth(now, executor, &running, finished),
            Event::Reported { executor, report } => self.reported(now, executor, *report),
            Event::Lost { executor, reason } => self.lost(now, executor, &reason),
            Event::Leaving(executor) => self.leaving(now, executor),
            Event::Run(run) => self.run(now, run),
            Event::OutputDone {
                query,
                batch,
                output,
            } => self.output_done(now, query, batch, output),
            Event::OutputFetchFailed {
                query,
                batch,
                output,
                task,
                executor,
                failure,
            } => self.output_fetch_failed(now, query, (batch, output), &task, executor, failure),
            Event::BatchReleased { query, batch } => self.batch_released(query, batch),
            Event::Abort { query, batch } => self.abort(query, batch),
            Event::Timer => self.armed = None,
        }
        self.fire_timers(now);
        self.dispatch(now);
        self.tell_of_missing_executors(now);
        self.flush();
        self.wish_to_wake(now);
        self.check();
        std::mem::take(&mut self.actions)
    }

    fn note(&mut self, note: Note) {
        self.actions.push(Action::Noted(note));
    }

    #[cfg(debug_assertions)]
    fn check(&self) {
        if self.queries.partitions() <= MOST_CHECKED {
            let found = invariants::check(self);
            debug_assert!(found.is_ok(), "{found:?}");
        }
    }

    #[cfg(not(debug_assertions))]
    fn check(&self) {}
}

fn internal(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Internal, message)
        .with_retry(millstream_common::failure::Retry::Never)
}
