//! Rows that a task wrote otherwise when it ran again, and what becomes of those who read the earlier ones.
//!
//! A reader that is done may have shown them to the world: that is an error or a warning. One that still runs was given the earlier rows, in part or as a
//! whole, while other readers get the newer: it is stopped and reads anew, so that what counts of a batch is made of one attempt's rows.

use millstream_common::{
    failure::{Failure, FailureKind},
    ids::TaskId,
    protocol::TaskOutput,
    time::Tick,
};

use super::{
    Scheduler,
    batch::{Attempt, Batch, State},
    message::Note,
};

/// What a task that ran again wrote otherwise than before, by what its readers are up to.
#[derive(Default)]
pub(super) struct Compared {
    /// The first difference that a finished task had read.
    pub read: Option<Difference>,
    /// Tasks that run on the earlier rows: stage and partition.
    pub misled: Vec<(usize, u32)>,
}

/// What a task that ran again wrote otherwise than before, though it was read already.
pub(super) struct Difference {
    earlier: TaskId,
    stage_name: String,
    operators: Vec<String>,
    exchange: u32,
    partition: u32,
    rows: (u64, u64),
}

impl Difference {
    pub(super) fn failure(self, task: TaskId) -> Failure {
        let Self {
            earlier,
            stage_name,
            operators,
            exchange,
            partition,
            rows: (before, now),
        } = self;
        let names = operators.join(", ");
        let message = format!(
            "stage `{stage_name}` wrote other rows when it ran again ({before} rows before, {now} now, for partition {partition} of exchange \
             {exchange}; the earlier attempt was {earlier}), after a task had read the earlier ones; make one of its operators deterministic: {names}"
        );
        let failure = Failure::new(FailureKind::Nondeterministic, message).in_task(task);
        match operators.as_slice() {
            [] => failure,
            _ => failure.in_operator(&names),
        }
    }

    pub(super) fn into_note(self, task: TaskId) -> Note {
        Note::Differed {
            task,
            earlier: self.earlier,
            operators: self.operators,
            exchange: self.exchange,
            partition: self.partition,
        }
    }
}

/// Compares what a map task wrote with what its earlier winner wrote, for everyone who reads it.
pub(super) fn compare(batch: &Batch, stage: usize, map: u32, output: &TaskOutput) -> Compared {
    let mut compared = Compared::default();
    let of_stage = &batch.stages[stage];
    let Some(earlier) = of_stage.tasks[map as usize].winner.as_deref() else {
        return compared;
    };
    for consumer in &of_stage.consumers {
        let reader = &batch.stages[consumer.stage];
        let span = reader.branches[consumer.branch];
        for partition in 0..span.count {
            let before = batch.meta(&earlier.output, stage, consumer.exchange, map, partition);
            let now = batch.meta(output, stage, consumer.exchange, map, partition);
            let (Some(before), Some(now)) = (before, now) else {
                continue;
            };
            if before.rows == now.rows && before.checksum == now.checksum {
                continue;
            }
            let number = span.first + partition;
            let state = reader.tasks[number as usize].state;
            match state {
                State::Running => compared.misled.push((consumer.stage, number)),
                State::Done | State::Skipped if compared.read.is_none() => {
                    let plan = batch.run.plan.stages.get(stage);
                    compared.read = plan.map(|plan| Difference {
                        earlier: batch.task_id(stage, map, earlier.attempt),
                        stage_name: plan.name.clone(),
                        operators: plan.operators.clone(),
                        exchange: u32::try_from(consumer.exchange).unwrap_or(u32::MAX),
                        partition,
                        rows: (before.rows, now.rows),
                    });
                }
                _ => {}
            }
        }
    }
    compared
}

impl Scheduler {
    /// A task's attempts run on rows that no longer count: they are stopped, and it runs again with those that do.
    pub(super) fn read_anew(
        &mut self,
        now: Tick,
        number: usize,
        (stage, partition): (usize, u32),
        writer: TaskId,
    ) {
        let Some(batch) = self.queries.batch_mut(number) else {
            return;
        };
        let task = &mut batch.stages[stage].tasks[partition as usize];
        let misled: Vec<Attempt> = task.running.iter_mut().filter_map(Option::take).collect();
        if misled.is_empty() {
            // It reads two exchanges that differ, and was stopped for the first.
            return;
        }
        batch.retries += misled.len() as u64;
        let ids: Vec<TaskId> = misled
            .iter()
            .map(|attempt| batch.task_id(stage, partition, attempt.number))
            .collect();
        for (attempt, id) in misled.into_iter().zip(ids) {
            self.cancel(attempt.executor, attempt.slot, id);
            let Some(executor) = self.pool.get(attempt.executor) else {
                continue;
            };
            let message = format!(
                "{writer} ran again and wrote other rows than those that this task was given to read: it reads them anew; an operator before it isn't deterministic"
            );
            let failure = Failure::new(FailureKind::Cancelled, message).in_task(id);
            let executor = executor.info.id;
            self.note(Note::Retried {
                task: id,
                executor,
                failure: Box::new(failure),
            });
        }
        self.again(now, number, stage, partition, now);
    }
}
