//! Which executor a task prefers: the one that holds its consumer, its block, or its state and sink producer.

use hashbrown::DefaultHashBuilder;
use indexmap::IndexMap;
use millstream_common::{
    ids::{BatchId, SourceId},
    time::Tick,
};
use millstream_dataflow::plan::Branch;

use super::{
    Scheduler,
    executors::{ExecutorIndex, NOWHERE, Pool},
};

/// Locality keys that a query remembers; past that, those unused for a while are forgotten.
const MOST_KEYS: usize = 65_536;
/// After as many batches without a use a key may be forgotten.
const UNUSED_BATCHES: u64 = 100;

/// Where the locality keys of a query's sources are at home.
#[derive(Debug, Default)]
pub(super) struct Homes {
    by_source: Vec<IndexMap<String, Home, DefaultHashBuilder>>,
    batch: BatchId,
}

#[derive(Clone, Copy, Debug)]
struct Home {
    executor: ExecutorIndex,
    used: BatchId,
}

impl Homes {
    pub(super) fn begin_batch(&mut self, batch: BatchId, pool: &mut Pool) {
        self.batch = batch;
        let keys: usize = self.by_source.iter().map(IndexMap::len).sum();
        if keys > MOST_KEYS {
            self.forget_where(pool, |home| {
                home.used.0.saturating_add(UNUSED_BATCHES) < batch.0
            });
        }
    }

    /// The executor where the key's task last ran; a new key goes where fewest are.
    fn home(&mut self, source: SourceId, key: &str, pool: &mut Pool) -> Option<ExecutorIndex> {
        let used = self.batch;
        let keys = self.of(source);
        if let Some(home) = keys.get_mut(key) {
            home.used = used;
            return Some(home.executor);
        }
        let executor = pool.fewest_keys()?;
        keys.insert(key.to_owned(), Home { executor, used });
        pool.count_key(executor, true);
        Some(executor)
    }

    /// The key's task ran here.
    pub(super) fn moved(
        &mut self,
        source: SourceId,
        key: &str,
        executor: ExecutorIndex,
        pool: &mut Pool,
    ) {
        if let Some(home) = self.of(source).get_mut(key)
            && home.executor != executor
        {
            pool.count_key(home.executor, false);
            pool.count_key(executor, true);
            home.executor = executor;
        }
    }

    /// An executor is lost or leaves.
    pub(super) fn forget(&mut self, executor: ExecutorIndex, pool: &mut Pool) {
        self.forget_where(pool, |home| home.executor == executor);
    }

    /// Gives a new executor its fair share of keys.
    pub(super) fn share(&mut self, pool: &mut Pool) {
        let total: usize = self.by_source.iter().map(IndexMap::len).sum();
        let fair = total.div_ceil(pool.staying().max(1));
        for home in self.by_source.iter_mut().flat_map(IndexMap::values_mut) {
            let Some(fewest) = pool.fewest_keys() else {
                return;
            };
            let here = pool.keys(home.executor);
            if here as usize > fair && pool.keys(fewest).saturating_add(1) < here {
                pool.count_key(home.executor, false);
                pool.count_key(fewest, true);
                home.executor = fewest;
            }
        }
    }

    pub(super) fn release_all(mut self, pool: &mut Pool) {
        self.forget_where(pool, |_| true);
    }

    fn of(&mut self, source: SourceId) -> &mut IndexMap<String, Home, DefaultHashBuilder> {
        let position = source.0 as usize;
        if self.by_source.len() <= position {
            self.by_source.resize_with(position + 1, IndexMap::default);
        }
        &mut self.by_source[position]
    }

    fn forget_where(&mut self, pool: &mut Pool, forgotten: impl Fn(&Home) -> bool) {
        for keys in &mut self.by_source {
            keys.retain(|_, home| {
                let forget = forgotten(home);
                if forget {
                    pool.count_key(home.executor, false);
                }
                !forget
            });
        }
    }
}

impl Scheduler {
    /// The executor that a task prefers, if any that may have it.
    pub(super) fn preference(
        &mut self,
        number: usize,
        stage: usize,
        partition: u32,
    ) -> Option<ExecutorIndex> {
        let query = self.queries.get_mut(number)?;
        let batch = query.batch.as_ref()?;
        let avoid = batch.stages[stage].tasks[partition as usize].avoid;
        if avoid != NOWHERE && self.pool.staying() > 1 {
            let fits = |candidate: ExecutorIndex| {
                candidate != avoid && self.allows(number, stage, candidate)
            };
            return self
                .pool
                .most_free(fits)
                .or_else(|| self.pool.after(avoid, fits));
        }
        let (branch, within) = batch.stages[stage].branch_of(partition)?;
        let last = query
            .previous
            .get(stage)
            .and_then(|partitions| partitions.get(partition as usize))
            .copied()
            .filter(|executor| *executor != NOWHERE);
        let preferred = match batch.branch(stage, branch)? {
            Branch::Source(source) => {
                let split = batch.split(*source, within)?;
                let key = split.locality.as_deref()?;
                query.homes.home(*source, key, &mut self.pool)
            }
            Branch::Exchanges(refs) => {
                let kept = refs
                    .iter()
                    .filter(|reference| {
                        batch.keeps(reference.stage.0 as usize, reference.exchange as usize)
                    })
                    .find_map(|reference| {
                        let (winner, _) = batch.block(
                            reference.stage.0 as usize,
                            reference.exchange as usize,
                            within,
                            within,
                        )?;
                        (winner.executor != NOWHERE).then_some(winner.executor)
                    });
                kept.or(last)
            }
        };
        preferred
            .filter(|executor| self.pool.usable(*executor) && self.allows(number, stage, *executor))
    }

    /// Whether a stage's tasks may be bound for an executor, free or not.
    pub(super) fn allows(&self, number: usize, stage: usize, executor: ExecutorIndex) -> bool {
        let Some(batch) = self.queries.batch(number) else {
            return false;
        };
        if !self.pool.admits(executor, batch.sequence) {
            return false;
        }
        let excluded = &batch.stages[stage].excluded;
        if !excluded.contains(&executor) {
            return true;
        }
        // Where every executor is excluded, none is.
        let staying_excluded = excluded
            .iter()
            .filter(|excluded| {
                self.pool
                    .get(**excluded)
                    .is_some_and(|executor| executor.leaving.is_none())
            })
            .count();
        staying_excluded >= self.pool.staying()
    }

    /// Remembers where a task's winner ran.
    pub(super) fn remember_place(
        &mut self,
        number: usize,
        stage: usize,
        partition: u32,
        executor: ExecutorIndex,
    ) {
        let Some(query) = self.queries.get_mut(number) else {
            return;
        };
        let Some(batch) = &query.batch else {
            return;
        };
        if let Some(places) = query.previous.get_mut(stage) {
            let count = batch.stages[stage].tasks.len();
            if places.len() < count {
                places.resize(count, NOWHERE);
            }
            places[partition as usize] = executor;
        }
        let Some((branch, within)) = batch.stages[stage].branch_of(partition) else {
            return;
        };
        if let Some(Branch::Source(source)) = batch.branch(stage, branch) {
            let split = batch.split(*source, within);
            if let Some(key) = split.and_then(|split| split.locality.as_deref()) {
                query.homes.moved(*source, key, executor, &mut self.pool);
            }
        }
    }

    /// Forgets an executor as a place to prefer, and lets the tasks that wait for it choose again.
    pub(super) fn forget_place(&mut self, now: Tick, executor: ExecutorIndex, is_gone: bool) {
        for query in self.queries.iter_mut() {
            query.homes.forget(executor, &mut self.pool);
            for place in query.previous.iter_mut().flatten() {
                if *place == executor {
                    *place = NOWHERE;
                }
            }
            let Some(batch) = &mut query.batch else {
                continue;
            };
            if !is_gone {
                continue;
            }
            for stage in &mut batch.stages {
                stage.excluded.retain(|excluded| *excluded != executor);
                stage.failed_on.retain(|(failed, _)| *failed != executor);
                stage.suspects.retain(|suspect| *suspect != executor);
                for task in &mut stage.tasks {
                    if task.avoid == executor {
                        task.avoid = NOWHERE;
                    }
                }
            }
        }
        for number in 0..self.queries.bound() {
            let stages = self
                .queries
                .batch(number)
                .map_or(0, |batch| batch.stages.len());
            for stage in 0..stages {
                self.divert(now, number, stage, executor);
            }
        }
    }

    /// Lets the tasks of a stage that wait for an executor choose again.
    pub(super) fn divert(
        &mut self,
        now: Tick,
        number: usize,
        stage: usize,
        executor: ExecutorIndex,
    ) {
        let Some(batch) = self.queries.batch_mut(number) else {
            return;
        };
        let of_stage = &mut batch.stages[stage];
        let diverted = of_stage.queue.take_preferring(executor, &of_stage.tasks);
        for partition in diverted {
            self.unqueue(number, stage, partition);
            self.enqueue(now, number, stage, partition);
        }
    }
}
