//! Executors that are lost, and map outputs that went with them or can't be read.

use millstream_common::{
    failure::{Failure, FailureKind},
    ids::{BatchId, ExecutorId, OutputIndex, QueryId, TaskId},
    time::Tick,
};

use super::{
    Scheduler,
    batch::State,
    executors::{ExecutorIndex, NOWHERE},
    message::Note,
};

/// A task may be lost with its executor so many times as often as it may fail: executors also die of what isn't its doing.
const LOSSES_PER_FAILURE: u32 = 4;

impl Scheduler {
    /// The one path of a lost executor: its attempts end, its blocks are gone, nothing prefers it any more.
    pub(super) fn lost(&mut self, now: Tick, id: ExecutorId, reason: &str) {
        let Some(index) = self.pool.find(id) else {
            return;
        };
        self.forget_place_of_lost(now, index, id, reason);
        self.release_leaving();
    }

    fn forget_place_of_lost(
        &mut self,
        now: Tick,
        index: ExecutorIndex,
        id: ExecutorId,
        reason: &str,
    ) {
        let Some(gone) = self.pool.remove(index) else {
            return;
        };
        self.cancelling.retain(|(executor, _)| *executor != index);
        let mut doomed = Vec::new();
        for occupant in gone.slots.iter().flatten() {
            if gone.cancelled.contains_key(&occupant.task) {
                continue;
            }
            if let Some((stage, _)) = self.take_attempt(occupant.query, &occupant.task, index) {
                let message = format!("executor {id} was lost: {reason}");
                let failure =
                    Failure::new(FailureKind::ExecutorLost, message).in_task(occupant.task);
                let doom = self.died(now, occupant.query, stage, &occupant.task, id, failure);
                doomed.extend(doom.map(|doom| (occupant.query, doom)));
            }
        }
        self.mark_blocks_lost(index);
        for number in 0..self.queries.bound() {
            self.settle(number);
        }
        self.forget_place(now, index, true);
        for (number, doom) in doomed {
            self.fail(number, doom);
        }
        for number in 0..self.queries.bound() {
            if self.queries.batch(number).is_some() {
                self.advance(now, number);
            }
        }
    }

    /// A running attempt's executor is gone. Gives the failure of its batch when that happened to the task too often.
    fn died(
        &mut self,
        now: Tick,
        number: usize,
        stage: usize,
        task: &TaskId,
        executor: ExecutorId,
        failure: Failure,
    ) -> Option<Failure> {
        let doom = self.count_loss(number, stage, task, executor, &failure);
        if doom.is_some() {
            self.be_idle(number, stage, task);
            return doom;
        }
        let losses = self.losses_of(number, stage, task);
        let until = self.after_endings(now, losses);
        self.end_without_report(now, number, stage, task, executor, failure, until);
        None
    }

    fn losses_of(&self, number: usize, stage: usize, task: &TaskId) -> u32 {
        self.queries.batch(number).map_or(0, |batch| {
            batch.stages[stage].tasks[task.partition as usize].losses
        })
    }

    /// Counts an attempt that was lost with its executor. At the limit it gives the failure that ends the batch: whatever the task does to
    /// its executors, it would do to all that are still to come.
    pub(super) fn count_loss(
        &mut self,
        number: usize,
        stage: usize,
        task: &TaskId,
        executor: ExecutorId,
        failure: &Failure,
    ) -> Option<Failure> {
        let limit = self.options.max_failures.saturating_mul(LOSSES_PER_FAILURE);
        let batch = self.queries.batch_mut(number)?;
        let of_task = &mut batch.stages[stage].tasks[task.partition as usize];
        of_task.losses = of_task.losses.saturating_add(1);
        let losses = of_task.losses;
        if losses < limit {
            return None;
        }
        let plan = batch.run.plan.stages.get(stage)?;
        let operators = match plan.operators.as_slice() {
            [] => String::new(),
            names => format!(" ({})", names.join(", ")),
        };
        let message = format!(
            "executors died {losses} times while running task {} of stage `{}`{operators}, the last one being {executor}: it, or a task beside it, likely \
             ends the process; look at the executor's log for an abort, a stack overflow or the kernel's out-of-memory killer",
            task.partition, plan.name
        );
        let mut doom = Failure::new(FailureKind::ExecutorLost, message)
            .with_code("task.executors_died")
            .in_task(*task);
        doom.causes.push(failure.message.clone());
        Some(doom)
    }

    fn be_idle(&mut self, number: usize, stage: usize, task: &TaskId) {
        let Some(batch) = self.queries.batch_mut(number) else {
            return;
        };
        let of_stage = &mut batch.stages[stage];
        let of_task = &mut of_stage.tasks[task.partition as usize];
        if !of_task.is_running() {
            of_task.state = State::Idle;
            of_stage.idle += 1;
        }
    }

    /// An attempt is known to have ended without a report: unless another attempt runs, its task is idle again, which `advance` queues, or waits for
    /// `until` if that is still to come.
    #[expect(
        clippy::too_many_arguments,
        reason = "the attempt, and what became of it"
    )]
    pub(super) fn end_without_report(
        &mut self,
        now: Tick,
        number: usize,
        stage: usize,
        task: &TaskId,
        executor: ExecutorId,
        failure: Failure,
        until: Tick,
    ) {
        let Some(batch) = self.queries.batch_mut(number) else {
            return;
        };
        batch.retries += 1;
        let is_running = batch.stages[stage].tasks[task.partition as usize].is_running();
        if until <= now {
            self.be_idle(number, stage, task);
        } else if !is_running {
            self.again(now, number, stage, task.partition, until);
        }
        self.note(Note::Retried {
            task: *task,
            executor,
            failure: Box::new(failure),
        });
    }

    fn mark_blocks_lost(&mut self, index: ExecutorIndex) {
        for query in self.queries.iter_mut() {
            let Some(batch) = &mut query.batch else {
                continue;
            };
            let tasks = batch.stages.iter_mut().flat_map(|stage| &mut stage.tasks);
            for winner in tasks.filter_map(|task| task.winner.as_deref_mut()) {
                if winner.executor == index {
                    winner.executor = NOWHERE;
                    winner.available = winner.available && !winner.has_blocks();
                }
            }
        }
    }

    /// The driver half of the current output could not read a kept block.
    pub(super) fn output_fetch_failed(
        &mut self,
        now: Tick,
        id: QueryId,
        (batch_id, output): (BatchId, OutputIndex),
        task: &TaskId,
        executor: ExecutorId,
        reason: Box<Failure>,
    ) {
        let max_attempts = self.options.stage_max_attempts;
        let Some(number) = self.queries.find(id) else {
            return;
        };
        let Some(batch) = self.queries.batch_mut(number) else {
            return;
        };
        let current = batch.current;
        let is_due = batch.run.batch == batch_id && batch.announced && current == output.0 as usize;
        let Some(stage) = batch.locate(task) else {
            return;
        };
        if !is_due || batch.stages[stage].output != Some(current) {
            return;
        }
        let mut holder = NOWHERE;
        let of_task = &mut batch.stages[stage].tasks[task.partition as usize];
        if let Some(winner) = &mut of_task.winner
            && winner.attempt == task.attempt
        {
            winner.available = false;
            holder = winner.executor;
            of_task.avoid = holder;
        }
        batch.announced = false;
        batch.output_rounds += 1;
        let rounds = batch.output_rounds;
        if rounds > 1 && holder != NOWHERE {
            // It is likely gone without anyone knowing yet. One block a round would use the rounds up.
            batch.lose_blocks_of(holder);
        }
        if rounds >= max_attempts {
            let message = format!(
                "output {output} could not read the rows that {task} kept, {max_attempts} times in a row; look at the executors' block addresses"
            );
            let mut failure = Failure::new(FailureKind::Io, message)
                .with_code(&reason.code)
                .in_task(*task);
            failure.causes.push(reason.message);
            failure.causes.extend(reason.causes);
            self.fail(number, failure);
            return;
        }
        if rounds == 1 {
            self.note(Note::OutputMissed {
                task: *task,
                executor,
                failure: reason,
            });
        }
        self.settle(number);
        self.advance(now, number);
    }
}
