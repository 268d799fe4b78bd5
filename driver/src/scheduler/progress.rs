//! Which stages may run, what has to run again, which output is ready.

use bytes::Bytes;
use millstream_common::{
    ids::{ExecutorId, OutputIndex, TaskId},
    protocol::BlockLocation,
    time::Tick,
};

use super::{
    Pause, Scheduler,
    batch::{Batch, State},
    executors::Pool,
    message::{Action, Note},
    queue::Entry,
};
use crate::output::PartitionResult;

impl Scheduler {
    /// Starts what may start, passes over what has no input, and announces the current output when its stage is complete.
    pub(super) fn advance(&mut self, now: Tick, number: usize) {
        let stages = self
            .queries
            .batch(number)
            .map_or(0, |batch| batch.stages.len());
        for stage in 0..stages {
            self.start_stage(now, number, stage);
        }
        self.announce(number);
    }

    fn start_stage(&mut self, now: Tick, number: usize, stage: usize) {
        let Some(batch) = self.queries.batch_mut(number) else {
            return;
        };
        let of_stage = &batch.stages[stage];
        let waits = !of_stage.opened || of_stage.idle > 0;
        if of_stage.needed_by.is_none() || !waits || !batch.may_run(stage) {
            return;
        }
        let may_skip = !of_stage.opened
            && batch
                .run
                .plan
                .stages
                .get(stage)
                .is_some_and(|plan| plan.empty_to_empty);
        let mut ready = Vec::new();
        for partition in 0..u32::try_from(of_stage.tasks.len()).unwrap_or(u32::MAX) {
            if batch.stages[stage].tasks[partition as usize].state != State::Idle {
                continue;
            }
            let skipped = may_skip && !batch.has_input(stage, partition);
            if skipped {
                let of_stage = &mut batch.stages[stage];
                of_stage.tasks[partition as usize].state = State::Skipped;
                of_stage.idle -= 1;
                of_stage.unfinished -= 1;
            } else {
                ready.push(partition);
            }
        }
        batch.stages[stage].opened = true;
        for partition in ready {
            self.enqueue(now, number, stage, partition);
        }
    }

    fn announce(&mut self, number: usize) {
        let Some(batch) = self.queries.batch_mut(number) else {
            return;
        };
        let Some(output) = batch.run.plan.outputs.get(batch.current) else {
            self.finish(number);
            return;
        };
        let stage = output.stage.0 as usize;
        if batch.announced || !batch.stages[stage].is_complete() {
            return;
        }
        batch.announced = true;
        let results = results(batch, stage, &self.pool);
        self.actions.push(Action::OutputReady {
            query: batch.run.query,
            batch: batch.run.batch,
            output: OutputIndex(u32::try_from(batch.current).unwrap_or(u32::MAX)),
            results,
        });
    }

    fn finish(&mut self, number: usize) {
        if let Some(batch) = self.queries.batch(number) {
            self.actions.push(Action::BatchDone {
                query: batch.run.query,
                batch: batch.run.batch,
                summary: batch.summary(),
            });
        }
        self.end_batch(number);
        self.release_leaving();
    }

    /// After blocks were lost: tasks whose blocks are still needed run again, and tasks that would read them wait.
    pub(super) fn settle(&mut self, number: usize) {
        let Some(batch) = self.queries.batch_mut(number) else {
            return;
        };
        let mut lost: Vec<(ExecutorId, Vec<TaskId>)> = Vec::new();
        for stage in (0..batch.stages.len()).rev() {
            if batch.stages[stage].needed_by.is_none() || !batch.blocks_needed(stage) {
                continue;
            }
            for position in 0..batch.stages[stage].tasks.len() {
                let task = &batch.stages[stage].tasks[position];
                let Some(winner) = task.winner.as_deref() else {
                    continue;
                };
                if task.state != State::Done || winner.available {
                    continue;
                }
                let partition = u32::try_from(position).unwrap_or(u32::MAX);
                let id = batch.task_id(stage, partition, winner.attempt);
                match lost
                    .iter_mut()
                    .find(|(from, _)| *from == winner.executor_id)
                {
                    Some((_, tasks)) => tasks.push(id),
                    None => lost.push((winner.executor_id, vec![id])),
                }
                let of_stage = &mut batch.stages[stage];
                of_stage.tasks[position].state = State::Idle;
                of_stage.idle += 1;
                of_stage.unfinished += 1;
            }
        }
        let stages = batch.stages.len();
        for (executor, tasks) in lost {
            self.note(Note::MapOutputsLost { tasks, executor });
        }
        for stage in 0..stages {
            self.hold_back(number, stage);
        }
    }

    /// Tasks that wait for a slot though their inputs are no longer complete wait for these instead.
    fn hold_back(&mut self, number: usize, stage: usize) {
        let Some(batch) = self.queries.batch(number) else {
            return;
        };
        let of_stage = &batch.stages[stage];
        if of_stage.queue.waiting == 0 || batch.may_run(stage) {
            return;
        }
        let queued: Vec<u32> = (0u32..)
            .zip(&of_stage.tasks)
            .filter(|(_, task)| matches!(task.state, State::Queued { .. }))
            .map(|(partition, _)| partition)
            .collect();
        for partition in queued {
            self.unqueue(number, stage, partition);
        }
    }

    /// An idle task with complete inputs waits for a slot from now on.
    pub(super) fn enqueue(&mut self, now: Tick, number: usize, stage: usize, partition: u32) {
        let preferred = self.preference(number, stage, partition);
        let until = now.after(self.options.locality_wait);
        let Some(query) = self.queries.get_mut(number) else {
            return;
        };
        let Some(batch) = &mut query.batch else {
            return;
        };
        let of_stage = &mut batch.stages[stage];
        let ticket = of_stage.queue.ticket();
        let entry = Entry { partition, ticket };
        of_stage.queue.push(entry, preferred, now, until);
        of_stage.tasks[partition as usize].state = State::Queued {
            ticket,
            preferred: preferred.unwrap_or(super::executors::NOWHERE),
        };
        of_stage.idle -= 1;
        batch.queued += 1;
        if !query.in_rotation {
            query.in_rotation = true;
            self.rotation.push_back(number);
        }
        if let Some(executor) = preferred {
            self.pool.touch(executor);
        }
    }

    /// A queued task is idle again.
    pub(super) fn unqueue(&mut self, number: usize, stage: usize, partition: u32) {
        let Some(batch) = self.queries.batch_mut(number) else {
            return;
        };
        let of_stage = &mut batch.stages[stage];
        of_stage.tasks[partition as usize].state = State::Idle;
        of_stage.queue.waiting -= 1;
        of_stage.idle += 1;
        batch.queued -= 1;
    }

    /// A task without a running attempt is to run again: once `until` has come, and its inputs are complete.
    pub(super) fn again(
        &mut self,
        now: Tick,
        number: usize,
        stage: usize,
        partition: u32,
        until: Tick,
    ) {
        let Some(batch) = self.queries.batch_mut(number) else {
            return;
        };
        let sequence = batch.sequence;
        let ready = batch.may_run(stage);
        let of_stage = &mut batch.stages[stage];
        if until > now {
            let ticket = of_stage.queue.ticket();
            of_stage.tasks[partition as usize].state = State::Paused { ticket };
            self.pauses.push(std::cmp::Reverse(Pause {
                until,
                query: number,
                batch_sequence: sequence,
                stage,
                partition,
                ticket,
            }));
            return;
        }
        of_stage.tasks[partition as usize].state = State::Idle;
        of_stage.idle += 1;
        if ready {
            self.enqueue(now, number, stage, partition);
        }
    }
}

/// What the tasks of an output's stage left, by partition.
fn results(batch: &Batch, stage: usize, pool: &Pool) -> Vec<PartitionResult> {
    let keeps = !batch.stages[stage].exchange_partitions.is_empty();
    (0u32..)
        .zip(&batch.stages[stage].tasks)
        .filter_map(|(partition, task)| {
            let winner = task.winner.as_deref()?;
            let kept = if keeps {
                kept_block(batch, stage, partition, pool)
            } else {
                None
            };
            let result: Option<Bytes> = winner.output.result.clone();
            Some(PartitionResult {
                partition,
                result,
                kept,
                sink: winner.output.sink.clone(),
            })
        })
        .collect()
}

fn kept_block(batch: &Batch, stage: usize, partition: u32, pool: &Pool) -> Option<BlockLocation> {
    let (winner, meta) = batch.block(stage, 0, partition, partition)?;
    let executor = pool.get(winner.executor)?;
    Some(BlockLocation {
        task: batch.task_id(stage, partition, winner.attempt),
        exchange: 0,
        partition,
        executor: executor.info.id,
        address: executor.info.block_address.clone(),
        meta,
    })
}
