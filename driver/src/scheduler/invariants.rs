//! What always holds of a scheduler between two events. Debug builds check it after each; so do the tests.

use super::{
    Scheduler,
    batch::{Batch, Stage, State},
    executors::NOWHERE,
};

/// Checks everything.
///
/// # Errors
/// The first thing that doesn't hold.
pub fn check(scheduler: &Scheduler) -> Result<(), String> {
    check_executors(scheduler)?;
    for (number, query) in scheduler.queries.iter() {
        let Some(batch) = &query.batch else {
            continue;
        };
        let mut queued = 0;
        for stage in 0..batch.stages.len() {
            check_counts(batch, stage)?;
            check_tasks(scheduler, number, batch, stage)?;
            queued += batch.stages[stage].queue.waiting;
        }
        ensure(queued == batch.queued, || {
            format!(
                "batch {} counts {} queued tasks, has {queued}",
                batch.run.batch, batch.queued
            )
        })?;
        ensure(queued == 0 || query.in_rotation, || {
            format!(
                "tasks of query {} wait, and it has no turn",
                batch.run.query
            )
        })?;
        check_not_stuck(scheduler, number, batch)?;
    }
    Ok(())
}

fn ensure(holds: bool, message: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(message()) }
}

fn check_executors(scheduler: &Scheduler) -> Result<(), String> {
    let mut staying = 0;
    for (index, executor) in scheduler.pool.iter() {
        let id = executor.info.id;
        let taken = executor.slots.iter().flatten().count();
        ensure(taken == executor.busy as usize, || {
            format!(
                "executor {id} counts {} taken slots, has {taken}",
                executor.busy
            )
        })?;
        ensure(executor.busy <= executor.cores, || {
            format!(
                "executor {id} runs {taken} tasks in {} slots",
                executor.cores
            )
        })?;
        staying += usize::from(executor.leaving.is_none());
        for (slot, occupant) in executor.slots.iter().enumerate() {
            let Some(occupant) = occupant else {
                continue;
            };
            let is_cancelled = executor
                .cancelled
                .get(&occupant.task)
                .is_some_and(|of| *of as usize == slot);
            let is_running = scheduler
                .queries
                .batch(occupant.query)
                .is_some_and(|batch| {
                    batch.locate(&occupant.task).is_some_and(|stage| {
                        batch.stages[stage].tasks[occupant.task.partition as usize]
                            .attempt(occupant.task.attempt, index)
                            .is_some_and(|attempt| attempt.slot as usize == slot)
                    })
                });
            ensure(is_cancelled != is_running, || {
                format!(
                    "{} has a slot of executor {id}, and is not exactly one of running and cancelled",
                    occupant.task
                )
            })?;
        }
    }
    ensure(staying == scheduler.pool.staying(), || {
        format!(
            "{} executors count as staying, {staying} are",
            scheduler.pool.staying()
        )
    })
}

fn check_counts(batch: &Batch, number: usize) -> Result<(), String> {
    let stage = &batch.stages[number];
    let count = |of: fn(&State) -> bool| stage.tasks.iter().filter(|task| of(&task.state)).count();
    let finished = count(|state| matches!(state, State::Done | State::Skipped));
    let idle = count(|state| matches!(state, State::Idle));
    let queued = count(|state| matches!(state, State::Queued { .. }));
    let right = stage.unfinished as usize == stage.tasks.len() - finished
        && stage.idle as usize == idle
        && stage.queue.waiting as usize == queued;
    ensure(right, || {
        format!(
            "stage {number} counts {} unfinished, {} idle, {} queued of {}; {finished} are finished, {idle} idle, {queued} queued",
            stage.unfinished,
            stage.idle,
            stage.queue.waiting,
            stage.tasks.len()
        )
    })
}

fn check_tasks(
    scheduler: &Scheduler,
    query: usize,
    batch: &Batch,
    number: usize,
) -> Result<(), String> {
    let stage = &batch.stages[number];
    for (partition, task) in (0u32..).zip(&stage.tasks) {
        let named = || format!("stage {number} partition {partition} ({:?})", task.state);
        ensure((task.state == State::Running) == task.is_running(), || {
            format!("{} has attempts {:?}", named(), task.running)
        })?;
        for attempt in task.running.iter().flatten() {
            let is_there = scheduler
                .pool
                .get(attempt.executor)
                .and_then(|executor| executor.slots.get(attempt.slot as usize))
                .and_then(|slot| slot.as_ref())
                .is_some_and(|occupant| {
                    occupant.query == query
                        && occupant.task == batch.task_id(number, partition, attempt.number)
                });
            ensure(is_there, || {
                format!(
                    "{} runs attempt {} where it has no slot",
                    named(),
                    attempt.number
                )
            })?;
        }
        if let Some(winner) = task.winner.as_deref()
            && winner.executor != NOWHERE
        {
            let is_there = scheduler
                .pool
                .get(winner.executor)
                .is_some_and(|executor| executor.info.id == winner.executor_id);
            ensure(is_there, || {
                format!("{} has a winner on a lost executor", named())
            })?;
        }
        match task.state {
            State::Idle => ensure(stage.needed_by.is_none() || !batch.may_run(number), || {
                format!("{} could run and isn't queued", named())
            })?,
            State::Queued { ticket, preferred } => {
                ensure(batch.may_run(number), || {
                    format!("{} is queued without its inputs", named())
                })?;
                ensure(is_queued(stage, partition, ticket, preferred), || {
                    format!("{} is in no queue", named())
                })?;
                ensure(
                    preferred == NOWHERE || scheduler.pool.get(preferred).is_some(),
                    || format!("{} prefers a lost executor", named()),
                )?;
            }
            State::Paused { ticket } => {
                let has_timer = scheduler.pauses.iter().any(|pause| {
                    pause.0.ticket == ticket
                        && pause.0.query == query
                        && pause.0.stage == number
                        && pause.0.partition == partition
                        && pause.0.batch_sequence == batch.sequence
                });
                ensure(has_timer && scheduler.armed.is_some(), || {
                    format!("{} waits for no timer", named())
                })?;
            }
            State::Done => {
                let winner = task.winner.as_deref();
                ensure(winner.is_some(), || format!("{} has no winner", named()))?;
                let is_read = winner.is_some_and(|winner| winner.available)
                    || !batch.blocks_needed(number)
                    || stage.needed_by.is_none();
                ensure(is_read, || {
                    format!("{} has lost blocks that are needed", named())
                })?;
            }
            State::Running | State::Skipped => {}
        }
    }
    Ok(())
}

fn is_queued(stage: &Stage, partition: u32, ticket: u32, preferred: u32) -> bool {
    let entry = super::queue::Entry { partition, ticket };
    if preferred == NOWHERE {
        return stage.queue.anywhere.contains(&entry);
    }
    stage
        .queue
        .preferring
        .get(&preferred)
        .is_some_and(|queue| queue.contains(&entry))
}

/// No slot stays free that a waiting task may have at once.
fn check_not_stuck(scheduler: &Scheduler, query: usize, batch: &Batch) -> Result<(), String> {
    for (number, stage) in batch.stages.iter().enumerate() {
        let live = |entry: &super::queue::Entry| entry.is_live(&stage.tasks);
        if stage.queue.anywhere.iter().any(live) {
            let slot = scheduler
                .pool
                .most_free(|executor| scheduler.allows(query, number, executor));
            ensure(slot.is_none(), || {
                format!("tasks of stage {number} wait though executor {slot:?} has a slot for them")
            })?;
        }
        for (executor, queue) in &stage.queue.preferring {
            let could_run = queue.iter().any(live)
                && scheduler.pool.has_slot(*executor)
                && scheduler.allows(query, number, *executor);
            ensure(!could_run, || {
                format!(
                    "tasks of stage {number} wait for executor {executor}, which has a slot for them"
                )
            })?;
        }
    }
    Ok(())
}
