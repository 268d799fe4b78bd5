//! Tasks into slots: whose turn it is, which task, which executor; and the timers.

use std::{cmp::Reverse, time::Duration};

use millstream_common::{
    ids::StageId,
    protocol::{BlockLocation, StageLaunch, TaskInput, TaskSpec},
    time::Tick,
};
use millstream_dataflow::plan::Branch;

use super::{
    Launching, Scheduler,
    batch::{Attempt, Batch, State},
    executors::{ExecutorIndex, NOWHERE, Occupant, Pool},
    message::{Action, Note},
};

/// For so long an executor may be missing before that is worth a word: where tasks run in the driver's process, it registers while the first batch begins.
const BEFORE_TELLING: Duration = Duration::from_secs(1);

impl Scheduler {
    /// Fills free slots for as long as tasks wait that may have them.
    pub(super) fn dispatch(&mut self, now: Tick) {
        while let Some(executor) = self.pool.next_touched() {
            while self.pool.has_slot(executor) && self.launch_on(now, executor) {}
        }
        while self.pool.listed() > 0 && self.launch_anywhere(now) {}
    }

    /// Launches one task that prefers `executor`; if no other executor has a slot, one that goes anywhere will do. Queries take turns.
    fn launch_on(&mut self, now: Tick, executor: ExecutorIndex) -> bool {
        let is_only_one = self.pool.listed() == 1;
        self.take_turns(|scheduler, number| {
            scheduler.launch_of_query_on(now, number, executor, is_only_one)
        })
    }

    fn launch_of_query_on(
        &mut self,
        now: Tick,
        number: usize,
        executor: ExecutorIndex,
        is_only_one: bool,
    ) -> bool {
        let stages = self
            .queries
            .batch(number)
            .map_or(0, |batch| batch.order.len());
        for position in 0..stages {
            let Some(stage) = self.waiting_stage(number, position) else {
                continue;
            };
            if !self.allows(number, stage, executor) {
                continue;
            }
            let Some(batch) = self.queries.batch_mut(number) else {
                return false;
            };
            let of_stage = &mut batch.stages[stage];
            let mut next = of_stage.queue.pop_preferring(executor, &of_stage.tasks);
            if next.is_none() && is_only_one {
                next = of_stage.queue.pop_anywhere(&of_stage.tasks);
            }
            if let Some(partition) = next {
                return self.launch(now, number, stage, partition, executor);
            }
        }
        false
    }

    /// Launches one task that goes anywhere on the executor with most free slots.
    fn launch_anywhere(&mut self, now: Tick) -> bool {
        self.take_turns(|scheduler, number| scheduler.launch_of_query_anywhere(now, number))
    }

    fn launch_of_query_anywhere(&mut self, now: Tick, number: usize) -> bool {
        let stages = self
            .queries
            .batch(number)
            .map_or(0, |batch| batch.order.len());
        for position in 0..stages {
            let Some(stage) = self.waiting_stage(number, position) else {
                continue;
            };
            let Some(batch) = self.queries.batch_mut(number) else {
                return false;
            };
            let of_stage = &mut batch.stages[stage];
            if !of_stage.queue.has_anywhere(&of_stage.tasks) {
                continue;
            }
            let fits = |candidate: ExecutorIndex| self.allows(number, stage, candidate);
            let Some(executor) = self.pool.most_free(fits) else {
                continue;
            };
            let Some(batch) = self.queries.batch_mut(number) else {
                return false;
            };
            let of_stage = &mut batch.stages[stage];
            if let Some(partition) = of_stage.queue.pop_anywhere(&of_stage.tasks) {
                return self.launch(now, number, stage, partition, executor);
            }
        }
        false
    }

    fn waiting_stage(&self, number: usize, position: usize) -> Option<usize> {
        let batch = self.queries.batch(number)?;
        let stage = *batch.order.get(position)?;
        (batch.stages[stage].queue.waiting > 0).then_some(stage)
    }

    /// Asks the queries with waiting tasks in turn, until one launches.
    fn take_turns(&mut self, mut launch: impl FnMut(&mut Self, usize) -> bool) -> bool {
        for _ in 0..self.rotation.len() {
            let Some(number) = self.rotation.pop_front() else {
                return false;
            };
            let Some(query) = self.queries.get_mut(number) else {
                continue;
            };
            if query.batch.as_ref().is_none_or(|batch| batch.queued == 0) {
                query.in_rotation = false;
                continue;
            }
            let launched = launch(self, number);
            self.rotation.push_back(number);
            if launched {
                return true;
            }
        }
        false
    }

    fn launch(
        &mut self,
        now: Tick,
        number: usize,
        stage: usize,
        partition: u32,
        executor: ExecutorIndex,
    ) -> bool {
        let Some(batch) = self.queries.batch_mut(number) else {
            return false;
        };
        let of_stage = &mut batch.stages[stage];
        let before = of_stage.tasks[partition as usize].state;
        of_stage.queue.waiting -= 1;
        batch.queued -= 1;
        if let State::Queued { preferred, .. } = before
            && preferred != NOWHERE
        {
            if preferred == executor {
                self.placed_preferred += 1;
            } else {
                self.placed_elsewhere += 1;
            }
        }
        self.start_attempt(now, number, stage, partition, executor)
    }

    /// Puts a new attempt into a slot.
    pub(super) fn start_attempt(
        &mut self,
        now: Tick,
        number: usize,
        stage: usize,
        partition: u32,
        executor: ExecutorIndex,
    ) -> bool {
        let Some(batch) = self.queries.batch_mut(number) else {
            return false;
        };
        let attempt = batch.stages[stage].tasks[partition as usize].attempts;
        let occupant = Occupant {
            query: number,
            task: batch.task_id(stage, partition, attempt),
        };
        let Some(slot) = self.pool.occupy(executor, occupant) else {
            return false;
        };
        let of_stage = &mut batch.stages[stage];
        let round = of_stage.round;
        let task = &mut of_stage.tasks[partition as usize];
        task.attempts += 1;
        task.state = State::Running;
        let place = usize::from(task.running[0].is_some());
        task.running[place] = Some(Attempt {
            number: attempt,
            executor,
            slot,
            started: now,
            round,
        });
        of_stage.first_launch.get_or_insert(now);
        let Some(spec) = task_spec(batch, &self.pool, stage, partition, attempt) else {
            return true;
        };
        let key = (executor, number, stage);
        match self.launching_index.get(&key) {
            Some(position) => self.launching[*position].tasks.push(spec),
            None => {
                self.launching_index.insert(key, self.launching.len());
                self.launching.push(Launching {
                    executor,
                    query: number,
                    stage,
                    tasks: vec![spec],
                });
            }
        }
        true
    }

    /// Turns cancels and launches into actions, one message a stage and executor.
    pub(super) fn flush(&mut self) {
        for (index, tasks) in std::mem::take(&mut self.cancelling) {
            if let Some(executor) = self.pool.get(index) {
                let executor = executor.info.id;
                self.actions.push(Action::Cancel { executor, tasks });
            }
        }
        self.launching_index.clear();
        for launching in self.launching.drain(..) {
            let batch = self.queries.batch(launching.query);
            let executor = self.pool.get(launching.executor);
            let (Some(batch), Some(executor)) = (batch, executor) else {
                continue;
            };
            let output = batch
                .run
                .plan
                .stages
                .get(launching.stage)
                .and_then(|stage| stage.output);
            self.actions.push(Action::Launch {
                executor: executor.info.id,
                launch: StageLaunch {
                    query: batch.run.query,
                    epoch: batch.run.epoch,
                    batch: batch.run.batch,
                    batch_time: batch.run.batch_time,
                    stage: StageId(u32::try_from(launching.stage).unwrap_or(u32::MAX)),
                    output,
                    rerun: batch.run.rerun,
                    watermarks: batch.run.watermarks,
                    spill_threshold: batch.run.spill_threshold,
                    tasks: launching.tasks,
                },
            });
        }
        if self.placed_preferred + self.placed_elsewhere > 0 {
            let placed = Note::Placed {
                preferred: std::mem::take(&mut self.placed_preferred),
                elsewhere: std::mem::take(&mut self.placed_elsewhere),
            };
            self.note(placed);
        }
    }

    /// Tasks wait and no executor may have them: says so when it stays so, then now and then.
    pub(super) fn tell_of_missing_executors(&mut self, now: Tick) {
        let interval = self.options.wait_log_interval;
        for query in self.queries.iter_mut() {
            let Some(batch) = &mut query.batch else {
                continue;
            };
            if !is_stuck(&self.pool, batch) {
                batch.tell_at = None;
                continue;
            }
            let due = *batch.tell_at.get_or_insert(now.after(BEFORE_TELLING));
            if now >= due {
                batch.tell_at = Some(now.after(interval));
                self.actions.push(Action::NoExecutor {
                    query: batch.run.query,
                    batch: batch.run.batch,
                });
            }
        }
    }

    /// Lets go what waited for a time that has come.
    pub(super) fn fire_timers(&mut self, now: Tick) {
        while self.pauses.peek().is_some_and(|pause| pause.0.until <= now) {
            let Some(Reverse(pause)) = self.pauses.pop() else {
                break;
            };
            let is_current = self.queries.batch(pause.query).is_some_and(|batch| {
                batch.sequence == pause.batch_sequence
                    && batch.stages[pause.stage].tasks[pause.partition as usize].state
                        == State::Paused {
                            ticket: pause.ticket,
                        }
            });
            if is_current {
                self.again(now, pause.query, pause.stage, pause.partition, now);
            }
        }
        for query in self.queries.iter_mut() {
            let Some(batch) = &mut query.batch else {
                continue;
            };
            for stage in batch
                .stages
                .iter_mut()
                .filter(|stage| stage.queue.waiting > 0)
            {
                stage.queue.expire(now, &stage.tasks);
            }
        }
        self.speculate(now);
    }

    /// Asks to be woken for the next time that something waits for.
    pub(super) fn wish_to_wake(&mut self, now: Tick) {
        let mut next = self.pauses.peek().map(|pause| pause.0.until);
        let mut sooner = |wish: Option<Tick>| {
            if let Some(wish) = wish {
                next = Some(next.map_or(wish, |next| next.min(wish)));
            }
        };
        sooner(self.next_speculation);
        for query in self.queries.iter_mut() {
            let Some(batch) = &mut query.batch else {
                continue;
            };
            sooner(batch.tell_at);
            for stage in batch
                .stages
                .iter_mut()
                .filter(|stage| stage.queue.waiting > 0)
            {
                sooner(stage.queue.next_expiry(&stage.tasks));
            }
        }
        let Some(next) = next else {
            return;
        };
        // A wish whose time is past was or will be answered; it doesn't stand for a later one.
        let stands = self.armed.is_some_and(|armed| armed > now && armed <= next);
        if !stands {
            self.armed = Some(next);
            self.actions.push(Action::WakeAt(next));
        }
    }
}

/// Whether tasks wait that no executor may have.
fn is_stuck(pool: &Pool, batch: &Batch) -> bool {
    pool.staying() == 0
        && batch.queued > 0
        && !pool
            .iter()
            .any(|(index, _)| pool.admits(index, batch.sequence))
}

fn task_spec(
    batch: &Batch,
    pool: &Pool,
    stage: usize,
    partition: u32,
    attempt: u32,
) -> Option<TaskSpec> {
    let (branch, within) = batch.stages[stage].branch_of(partition)?;
    let input = match batch.branch(stage, branch)? {
        Branch::Source(source) => {
            let split = batch.split(*source, within)?;
            TaskInput::Split {
                source: *source,
                split: split.split.clone(),
            }
        }
        Branch::Exchanges(refs) => {
            let mut lists = Vec::with_capacity(refs.len());
            for reference in refs {
                let mut list = Vec::new();
                batch.for_each_block(reference, within, |map, winner, meta| {
                    if let Some(executor) = pool.get(winner.executor) {
                        list.push(BlockLocation {
                            task: batch.task_id(reference.stage.0 as usize, map, winner.attempt),
                            exchange: reference.exchange,
                            partition: within,
                            executor: executor.info.id,
                            address: executor.info.block_address.clone(),
                            meta,
                        });
                    }
                    true
                });
                lists.push(list);
            }
            TaskInput::Blocks(lists)
        }
    };
    let mut state = Vec::new();
    let plan = batch.run.plan.stages.get(stage)?;
    for operator in &plan.stateful {
        let files = batch.run.state.get(&(operator.id.clone(), within));
        state.extend(files.into_iter().flatten().cloned());
    }
    Some(TaskSpec {
        partition,
        attempt,
        branch: u32::try_from(branch).ok()?,
        input,
        state,
    })
}
