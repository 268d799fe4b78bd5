//! Queries come and go; their batches start and end.

use hashbrown::HashMap;
use millstream_common::{
    failure::Failure,
    ids::{BatchId, OutputIndex, QueryId, TaskId},
    protocol::QueryGrant,
    time::Tick,
};

use super::{
    Scheduler,
    batch::Batch,
    executors::ExecutorIndex,
    internal,
    message::{Action, BatchRun},
    placement::Homes,
};

/// A query that may be scheduled.
#[derive(Debug)]
pub(super) struct Query {
    pub grant: QueryGrant,
    pub batch: Option<Batch>,
    pub homes: Homes,
    /// Where each stage's partitions last ran.
    pub previous: Vec<Vec<ExecutorIndex>>,
    /// It has a place in the rotation.
    pub in_rotation: bool,
}

/// All queries, by a number that messages within the scheduler use.
#[derive(Debug, Default)]
pub(super) struct Queries {
    list: Vec<Option<Query>>,
    by_id: HashMap<QueryId, usize>,
}

impl Queries {
    pub(super) fn find(&self, id: QueryId) -> Option<usize> {
        self.by_id.get(&id).copied()
    }

    pub(super) fn get(&self, query: usize) -> Option<&Query> {
        self.list.get(query)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, query: usize) -> Option<&mut Query> {
        self.list.get_mut(query)?.as_mut()
    }

    pub(super) fn batch(&self, query: usize) -> Option<&Batch> {
        self.get(query)?.batch.as_ref()
    }

    pub(super) fn batch_mut(&mut self, query: usize) -> Option<&mut Batch> {
        self.get_mut(query)?.batch.as_mut()
    }

    /// Numbers are below this.
    pub(super) fn bound(&self) -> usize {
        self.list.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &Query)> {
        self.list
            .iter()
            .enumerate()
            .filter_map(|(number, query)| Some((number, query.as_ref()?)))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Query> {
        self.list.iter_mut().flatten()
    }

    #[cfg(debug_assertions)]
    pub(super) fn partitions(&self) -> usize {
        self.iter()
            .filter_map(|(_, query)| query.batch.as_ref())
            .flat_map(|batch| &batch.stages)
            .map(|stage| stage.tasks.len())
            .sum()
    }

    fn insert(&mut self, grant: QueryGrant) {
        let query = Query {
            grant,
            batch: None,
            homes: Homes::default(),
            previous: Vec::new(),
            in_rotation: false,
        };
        let number = match self.list.iter().position(Option::is_none) {
            Some(number) => number,
            None => {
                self.list.push(None);
                self.list.len() - 1
            }
        };
        self.list[number] = Some(query);
        self.by_id.insert(grant.query, number);
    }

    fn remove(&mut self, number: usize) -> Option<Query> {
        let query = self.list.get_mut(number)?.take()?;
        self.by_id.remove(&query.grant.query);
        Some(query)
    }
}

impl Scheduler {
    pub(super) fn query_added(&mut self, grant: QueryGrant) {
        if let Some(number) = self.queries.find(grant.query) {
            let epoch = self.queries.get(number).map(|query| query.grant.epoch);
            if epoch == Some(grant.epoch) {
                return;
            }
            self.drop_query(number);
        }
        self.queries.insert(grant);
        self.reconcile_all();
    }

    pub(super) fn query_removed(&mut self, id: QueryId) {
        if let Some(number) = self.queries.find(id) {
            self.drop_query(number);
            self.reconcile_all();
        }
    }

    fn drop_query(&mut self, number: usize) {
        self.end_batch(number);
        if let Some(query) = self.queries.remove(number) {
            query.homes.release_all(&mut self.pool);
        }
        self.rotation.retain(|waiting| *waiting != number);
        self.release_leaving();
    }

    pub(super) fn run(&mut self, now: Tick, run: BatchRun) {
        let (id, batch_id) = (run.query, run.batch);
        let refuse = |scheduler: &mut Self, message: String| {
            scheduler.actions.push(Action::BatchFailed {
                query: id,
                batch: batch_id,
                failure: internal(message),
            });
        };
        let Some(number) = self.queries.find(id) else {
            return refuse(
                self,
                format!("batch {batch_id} is of query {id}, which was not added"),
            );
        };
        let Some(query) = self.queries.get_mut(number) else {
            return;
        };
        if query.grant.epoch != run.epoch {
            let known = query.grant.epoch;
            return refuse(
                self,
                format!(
                    "batch {batch_id} of query {id} is of epoch {}, the query of epoch {known}",
                    run.epoch
                ),
            );
        }
        if let Some(running) = &query.batch {
            let running = running.run.batch;
            return refuse(
                self,
                format!("batch {batch_id} of query {id} can't start while batch {running} runs"),
            );
        }
        let sequence = self.sequence;
        self.sequence += 1;
        let batch = match Batch::build(run, sequence) {
            Ok(batch) => batch,
            Err(message) => {
                return refuse(
                    self,
                    format!("the plan of query {id} can't be run: {message}"),
                );
            }
        };
        query.previous.resize_with(batch.stages.len(), Vec::new);
        query.homes.begin_batch(batch_id, &mut self.pool);
        query.batch = Some(batch);
        self.advance(now, number);
    }

    /// The batch failed for good.
    pub(super) fn fail(&mut self, number: usize, failure: Failure) {
        let Some(batch) = self.queries.batch(number) else {
            return;
        };
        self.actions.push(Action::BatchFailed {
            query: batch.run.query,
            batch: batch.run.batch,
            failure,
        });
        self.end_batch(number);
        self.release_leaving();
    }

    pub(super) fn abort(&mut self, id: QueryId, batch: BatchId) {
        if let Some(number) = self.queries.find(id)
            && self
                .queries
                .batch(number)
                .is_some_and(|running| running.run.batch == batch)
        {
            self.end_batch(number);
            self.release_leaving();
        }
    }

    /// Drops a batch; its attempts are told to stop.
    pub(super) fn end_batch(&mut self, number: usize) {
        let Some(batch) = self
            .queries
            .get_mut(number)
            .and_then(|query| query.batch.take())
        else {
            return;
        };
        for (stage_number, stage) in batch.stages.iter().enumerate() {
            for (partition, task) in (0u32..).zip(&stage.tasks) {
                for attempt in task.running.iter().flatten() {
                    let id = batch.task_id(stage_number, partition, attempt.number);
                    self.cancel(attempt.executor, attempt.slot, id);
                }
            }
        }
    }

    /// Tells an attempt to stop; its slot stays taken until it did.
    pub(super) fn cancel(&mut self, executor: ExecutorIndex, slot: u32, task: TaskId) {
        if let Some(executor) = self.pool.get_mut(executor) {
            executor.cancelled.insert(task, slot);
        }
        self.say_cancel(executor, task);
    }

    pub(super) fn say_cancel(&mut self, executor: ExecutorIndex, task: TaskId) {
        match self.cancelling.iter_mut().find(|(to, _)| *to == executor) {
            Some((_, tasks)) => tasks.push(task),
            None => self.cancelling.push((executor, vec![task])),
        }
    }

    pub(super) fn batch_released(&mut self, id: QueryId, batch: BatchId) {
        let Some(number) = self.queries.find(id) else {
            return;
        };
        self.abort(id, batch);
        let Some(grant) = self.queries.get(number).map(|query| query.grant) else {
            return;
        };
        for (_, executor) in self.pool.iter() {
            self.actions.push(Action::DropBatches {
                executor: executor.info.id,
                grant,
                through: batch,
            });
        }
    }

    pub(super) fn output_done(
        &mut self,
        now: Tick,
        id: QueryId,
        batch_id: BatchId,
        output: OutputIndex,
    ) {
        let Some(number) = self.queries.find(id) else {
            return;
        };
        let Some(batch) = self.queries.batch_mut(number) else {
            return;
        };
        let is_due =
            batch.run.batch == batch_id && batch.announced && batch.current == output.0 as usize;
        if !is_due {
            return;
        }
        batch.current += 1;
        batch.announced = false;
        batch.output_rounds = 0;
        self.advance(now, number);
    }
}
