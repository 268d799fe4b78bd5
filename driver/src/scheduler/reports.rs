//! Attempts that ended: winners, failures, and what follows from either.

use std::time::Duration;

use millstream_common::{
    failure::{Failure, FailureKind, Retry},
    ids::{BlockId, ExecutorId, TaskId},
    protocol::{TaskOutput, TaskReport},
    time::Tick,
};
use rand::Rng;

use super::{
    Scheduler,
    batch::{Attempt, Batch, State, Winner},
    difference::compare,
    executors::{ExecutorIndex, NOWHERE},
    message::Note,
    options::Nondeterminism,
};

/// An attempt that ended, with everything that its handling needs.
#[derive(Clone, Copy)]
struct Ended {
    number: usize,
    stage: usize,
    partition: u32,
    attempt: Attempt,
    id: TaskId,
    executor: ExecutorId,
}

impl Scheduler {
    /// An attempt's report. Reports of attempts that aren't waited for change nothing but the slot.
    pub(super) fn reported(&mut self, now: Tick, executor: ExecutorId, report: TaskReport) {
        let Some(index) = self.pool.find(executor) else {
            return;
        };
        let id = report.task;
        if let Some(slot) = self
            .pool
            .get_mut(index)
            .and_then(|executor| executor.cancelled.remove(&id))
        {
            self.pool.vacate(index, slot);
            return;
        }
        let Some(number) = self.queries.find(id.query) else {
            return;
        };
        let Some((stage, attempt)) = self.take_attempt(number, &id, index) else {
            return;
        };
        let ended = Ended {
            number,
            stage,
            partition: id.partition,
            attempt,
            id,
            executor,
        };
        match report.outcome {
            Ok(output) => self.succeeded(now, ended, output, report.run_micros),
            Err(failure) => self.failed(now, ended, failure.in_task(id)),
        }
    }

    /// Ends an attempt if it is one that is waited for: it leaves its slot and its task.
    pub(super) fn take_attempt(
        &mut self,
        number: usize,
        id: &TaskId,
        executor: ExecutorIndex,
    ) -> Option<(usize, Attempt)> {
        let batch = self.queries.batch_mut(number)?;
        let stage = batch.locate(id)?;
        let task = &mut batch.stages[stage].tasks[id.partition as usize];
        let attempt = task.attempt(id.attempt, executor)?;
        task.forget_attempt(id.attempt);
        self.pool.vacate(executor, attempt.slot);
        Some((stage, attempt))
    }

    fn succeeded(&mut self, now: Tick, ended: Ended, output: TaskOutput, run_micros: u64) {
        let Ended {
            number,
            stage,
            partition,
            attempt,
            ..
        } = ended;
        let Some(batch) = self.queries.batch(number) else {
            return;
        };
        if let Err(message) = check_shape(batch, stage, &output) {
            let failure = Failure::new(FailureKind::Internal, message).in_task(ended.id);
            self.failed(now, ended, failure);
            return;
        }
        let compared = compare(batch, stage, partition, &output);
        if let Some(difference) = compared.read {
            match self.options.nondeterminism {
                Nondeterminism::Fail => {
                    self.fail(number, difference.failure(ended.id));
                    return;
                }
                Nondeterminism::Warn => self.note(difference.into_note(ended.id)),
            }
        }
        let keep_run_times = self.options.speculation.is_some();
        let Some(batch) = self.queries.batch_mut(number) else {
            return;
        };
        let of_stage = &mut batch.stages[stage];
        let task = &mut of_stage.tasks[partition as usize];
        task.winner = Some(Box::new(Winner {
            attempt: attempt.number,
            executor: attempt.executor,
            executor_id: ended.executor,
            available: true,
            output,
        }));
        task.state = State::Done;
        task.uncounted = 0;
        task.losses = 0;
        let loser = task.running.iter_mut().find_map(Option::take);
        of_stage.unfinished -= 1;
        of_stage.last_success = now;
        if keep_run_times {
            of_stage.run_times.push(run_micros);
        }
        let is_complete = of_stage.is_complete();
        if is_complete {
            of_stage.failed_rounds = 0;
            of_stage.suspects.clear();
        }
        if let Some(loser) = loser {
            let id = TaskId {
                attempt: loser.number,
                ..ended.id
            };
            self.cancel(loser.executor, loser.slot, id);
        }
        for reader in compared.misled {
            self.read_anew(now, number, reader, ended.id);
        }
        self.remember_place(number, stage, partition, attempt.executor);
        if is_complete {
            self.advance(now, number);
        }
    }

    fn failed(&mut self, now: Tick, ended: Ended, failure: Failure) {
        match failure.kind {
            FailureKind::FetchFailed { block, .. } => {
                self.fetch_failed(now, ended, failure, &block);
            }
            FailureKind::Cancelled | FailureKind::ExecutorLost => {
                self.ended_uncounted(now, ended, failure);
            }
            FailureKind::Superseded => self.superseded(now, ended, failure),
            _ if failure.retry == Retry::Never => self.fail(ended.number, failure),
            _ => self.failed_counted(now, ended, failure),
        }
    }

    fn failed_counted(&mut self, now: Tick, ended: Ended, failure: Failure) {
        let max_failures = self.options.max_failures;
        let exclude_after = self.options.exclude_after;
        let Some(batch) = self.queries.batch_mut(ended.number) else {
            return;
        };
        let index = ended.attempt.executor;
        let of_stage = &mut batch.stages[ended.stage];
        let task = &mut of_stage.tasks[ended.partition as usize];
        task.failures += 1;
        task.avoid = index;
        let failures = task.failures;
        if failures >= max_failures {
            self.fail(ended.number, failure);
            return;
        }
        let on_executor = match of_stage.failed_on.iter_mut().find(|(on, _)| *on == index) {
            Some((_, count)) => {
                *count += 1;
                *count
            }
            None => {
                of_stage.failed_on.push((index, 1));
                1
            }
        };
        let excluded = on_executor >= exclude_after && !of_stage.excluded.contains(&index);
        if excluded {
            of_stage.excluded.push(index);
        }
        let until = match failure.retry {
            Retry::Backoff => now.after(self.backoff(failures)),
            Retry::Never | Retry::Now => now,
        };
        self.retry(now, ended, failure, until);
        if excluded {
            self.note(Note::Excluded {
                executor: ended.executor,
                task: ended.id,
            });
            self.divert(now, ended.number, ended.stage, index);
        }
    }

    /// It ended through no fault of its own. The first time it runs again at once; later pauses keep a confused executor from turning in circles.
    fn ended_uncounted(&mut self, now: Tick, ended: Ended, failure: Failure) {
        if failure.kind == FailureKind::ExecutorLost
            && let Some(doom) = self.count_loss(
                ended.number,
                ended.stage,
                &ended.id,
                ended.executor,
                &failure,
            )
        {
            self.fail(ended.number, doom);
            return;
        }
        let Some(batch) = self.queries.batch_mut(ended.number) else {
            return;
        };
        let task = &mut batch.stages[ended.stage].tasks[ended.partition as usize];
        task.uncounted += 1;
        let times = task.uncounted;
        let until = self.after_endings(now, times);
        self.retry(now, ended, failure, until);
    }

    fn superseded(&mut self, now: Tick, ended: Ended, failure: Failure) {
        let limit = self.options.superseded_limit;
        let Some(batch) = self.queries.batch_mut(ended.number) else {
            return;
        };
        let task = &mut batch.stages[ended.stage].tasks[ended.partition as usize];
        if task.is_running() {
            return;
        }
        task.superseded += 1;
        if task.superseded > limit {
            self.fail(ended.number, failure);
            return;
        }
        let until = now.after(self.options.superseded_wait);
        self.retry(now, ended, failure, until);
    }

    fn fetch_failed(&mut self, now: Tick, ended: Ended, failure: Failure, block: &BlockId) {
        let max_attempts = self.options.stage_max_attempts;
        let Some(batch) = self.queries.batch_mut(ended.number) else {
            return;
        };
        let producer = batch
            .locate(&block.task)
            .filter(|producer| batch.stages[ended.stage].inputs.contains(producer));
        let Some(producer) = producer else {
            let message = format!(
                "{} reported a block that it was not to read: {failure}",
                ended.id
            );
            let failure = Failure::new(FailureKind::Internal, message).in_task(ended.id);
            self.failed_counted(now, ended, failure);
            return;
        };
        let map = &mut batch.stages[producer].tasks[block.task.partition as usize];
        let is_winner = map.state == State::Done
            && map
                .winner
                .as_ref()
                .is_some_and(|winner| winner.available && winner.attempt == block.task.attempt);
        if !is_winner {
            // It was known already; the task reads from the new winner next time.
            self.ended_uncounted(now, ended, failure);
            return;
        }
        let mut holder = NOWHERE;
        if let Some(winner) = &mut map.winner {
            winner.available = false;
            holder = winner.executor;
            map.avoid = holder;
        }
        let reader = &mut batch.stages[ended.stage];
        let is_new_round = ended.attempt.round == reader.round;
        if is_new_round {
            reader.round += 1;
            reader.failed_rounds += 1;
        }
        if reader.failed_rounds >= max_attempts {
            self.fail(ended.number, failure);
            return;
        }
        if is_new_round && reader.suspects.contains(&holder) {
            // Twice the same executor: it is likely gone without anyone knowing yet. One block a round would use the rounds up.
            batch.lose_blocks_of(holder);
        } else if is_new_round {
            reader.suspects.push(holder);
        }
        self.settle(ended.number);
        self.retry(now, ended, failure, now);
        self.advance(now, ended.number);
    }

    /// Runs the task again, unless another attempt of it still runs.
    fn retry(&mut self, now: Tick, ended: Ended, failure: Failure, until: Tick) {
        let Some(batch) = self.queries.batch_mut(ended.number) else {
            return;
        };
        batch.retries += 1;
        let task = &batch.stages[ended.stage].tasks[ended.partition as usize];
        let is_running = task.is_running();
        self.note(Note::Retried {
            task: ended.id,
            executor: ended.executor,
            failure: Box::new(failure),
        });
        if !is_running {
            self.again(now, ended.number, ended.stage, ended.partition, until);
        }
    }

    /// When a task runs again that ended so many times through no fault of its own: at once the first time, after a pause from then on.
    pub(super) fn after_endings(&mut self, now: Tick, times: u32) -> Tick {
        match times {
            0 | 1 => now,
            more => now.after(self.backoff(more - 1)),
        }
    }

    /// The pause after a number of failures: doubling, with a quarter of jitter either way.
    fn backoff(&mut self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(20);
        let pause = self
            .options
            .backoff_first
            .saturating_mul(1 << doublings)
            .min(self.options.backoff_most);
        let jitter: f64 = self.random.random_range(0.75..1.25);
        pause.mul_f64(jitter).min(self.options.backoff_most)
    }
}

/// Whether a task's output has an entry for every partition of every exchange.
fn check_shape(batch: &Batch, stage: usize, output: &TaskOutput) -> Result<(), String> {
    let wanted = &batch.stages[stage].exchange_partitions;
    if output.exchanges.len() != wanted.len() {
        return Err(format!(
            "a task of stage {stage} reported {} exchanges instead of {}",
            output.exchanges.len(),
            wanted.len()
        ));
    }
    for (exchange, (list, partitions)) in output.exchanges.iter().zip(wanted).enumerate() {
        let is_whole = list.len() == *partitions as usize;
        let is_own = list.len() == 1 && batch.keeps(stage, exchange);
        if !is_whole && !is_own {
            return Err(format!(
                "a task of stage {stage} reported {} partitions of exchange {exchange} instead of {partitions}",
                list.len()
            ));
        }
    }
    Ok(())
}
