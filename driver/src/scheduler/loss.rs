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
        for occupant in gone.slots.iter().flatten() {
            if gone.cancelled.contains_key(&occupant.task) {
                continue;
            }
            if let Some((stage, _)) = self.take_attempt(occupant.query, &occupant.task, index) {
                let message = format!("executor {id} was lost: {reason}");
                let failure =
                    Failure::new(FailureKind::ExecutorLost, message).in_task(occupant.task);
                self.end_without_report(occupant.query, stage, &occupant.task, id, failure);
            }
        }
        self.mark_blocks_lost(index);
        for number in 0..self.queries.bound() {
            self.settle(number);
        }
        self.forget_place(now, index, true);
        for number in 0..self.queries.bound() {
            if self.queries.batch(number).is_some() {
                self.advance(now, number);
            }
        }
    }

    /// An attempt is known to have ended without a report: its task is idle again, unless another attempt runs. `advance` queues it.
    pub(super) fn end_without_report(
        &mut self,
        number: usize,
        stage: usize,
        task: &TaskId,
        executor: ExecutorId,
        failure: Failure,
    ) {
        let Some(batch) = self.queries.batch_mut(number) else {
            return;
        };
        batch.retries += 1;
        let of_stage = &mut batch.stages[stage];
        let of_task = &mut of_stage.tasks[task.partition as usize];
        if !of_task.is_running() {
            of_task.state = State::Idle;
            of_stage.idle += 1;
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
        batch_id: BatchId,
        output: OutputIndex,
        task: &TaskId,
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
        let of_task = &mut batch.stages[stage].tasks[task.partition as usize];
        if let Some(winner) = &mut of_task.winner
            && winner.attempt == task.attempt
        {
            winner.available = false;
            of_task.avoid = winner.executor;
        }
        batch.announced = false;
        batch.output_rounds += 1;
        if batch.output_rounds >= max_attempts {
            let message = format!(
                "output {output} could not read the rows that {task} kept, {max_attempts} times in a row; look at the executors' block addresses"
            );
            let failure = Failure::new(FailureKind::Io, message).in_task(*task);
            self.fail(number, failure);
            return;
        }
        self.settle(number);
        self.advance(now, number);
    }
}
