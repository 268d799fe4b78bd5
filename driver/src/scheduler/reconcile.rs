//! Executors that come, come back and leave: both sides tell each other everything, and what differs is put right.

use hashbrown::HashSet;
use millstream_common::{
    failure::{Failure, FailureKind},
    ids::{ExecutorId, TaskId},
    protocol::TaskReport,
    time::Tick,
};

use super::{
    Scheduler,
    executors::ExecutorIndex,
    message::{Action, ExecutorInfo},
};

/// Unanswered `Reconcile`s that are remembered of one executor.
const MOST_ASKED: usize = 1_024;

impl Scheduler {
    /// A session is open, for the first time or again.
    pub(super) fn connected(&mut self, now: Tick, info: ExecutorInfo) {
        let index = match self.pool.find(info.id) {
            Some(index) => {
                if let Some(executor) = self.pool.get_mut(index) {
                    // What was asked on the session before is never answered.
                    executor.asked.clear();
                    executor.info.block_address = info.block_address;
                    executor.info.host = info.host;
                }
                index
            }
            None => {
                let index = self.pool.add(info);
                for query in self.queries.iter_mut() {
                    query.homes.share(&mut self.pool);
                }
                index
            }
        };
        self.reconcile(index);
        self.pool.touch(index);
        for number in 0..self.queries.bound() {
            if self.queries.batch(number).is_some() {
                self.advance(now, number);
            }
        }
    }

    /// Tells every executor the full truth again, since the queries changed.
    pub(super) fn reconcile_all(&mut self) {
        let all: Vec<ExecutorIndex> = self.pool.iter().map(|(index, _)| index).collect();
        for index in all {
            self.reconcile(index);
        }
    }

    fn reconcile(&mut self, index: ExecutorIndex) {
        let mut queries: Vec<_> = self.queries.iter().map(|(_, query)| query.grant).collect();
        queries.sort_unstable_by_key(|grant| grant.query);
        let Some(executor) = self.pool.get_mut(index) else {
            return;
        };
        let wanted: Vec<TaskId> = executor
            .slots
            .iter()
            .flatten()
            .map(|occupant| occupant.task)
            .filter(|task| !executor.cancelled.contains_key(task))
            .collect();
        if executor.asked.len() >= MOST_ASKED {
            executor.asked.pop_front();
        }
        executor.asked.push_back(wanted.clone());
        self.actions.push(Action::Reconcile {
            executor: executor.info.id,
            queries,
            wanted,
        });
    }

    /// The answer to a `Reconcile`.
    pub(super) fn truth(
        &mut self,
        now: Tick,
        id: ExecutorId,
        running: &[TaskId],
        finished: Vec<TaskReport>,
    ) {
        let Some(index) = self.pool.find(id) else {
            return;
        };
        for report in finished {
            self.reported(now, id, report);
        }
        let running: HashSet<TaskId> = running.iter().copied().collect();
        self.free_ended_cancelled(index, &running);
        let asked = self
            .pool
            .get_mut(index)
            .and_then(|executor| executor.asked.pop_front())
            .unwrap_or_default();
        for task in asked.iter().filter(|task| !running.contains(*task)) {
            let Some(number) = self.queries.find(task.query) else {
                continue;
            };
            if let Some((stage, _)) = self.take_attempt(number, task, index) {
                let message = format!("executor {id} no longer has {task}, which it was given");
                let failure = Failure::new(FailureKind::ExecutorLost, message).in_task(*task);
                self.end_without_report(now, number, stage, task, id, failure, now);
                self.advance(now, number);
            }
        }
        let mut unwanted: Vec<TaskId> = running
            .into_iter()
            .filter(|task| !self.is_wanted(index, task))
            .collect();
        unwanted.sort_unstable();
        for task in unwanted {
            self.say_cancel(index, task);
        }
    }

    /// Attempts told to stop that no longer run have left their slots.
    fn free_ended_cancelled(&mut self, index: ExecutorIndex, running: &HashSet<TaskId>) {
        let Some(executor) = self.pool.get_mut(index) else {
            return;
        };
        let mut ended: Vec<(u32, TaskId)> = executor
            .cancelled
            .iter()
            .filter(|(task, _)| !running.contains(*task))
            .map(|(task, slot)| (*slot, *task))
            .collect();
        ended.sort_unstable();
        for (_, task) in &ended {
            executor.cancelled.remove(task);
        }
        for (slot, _) in ended {
            self.pool.vacate(index, slot);
        }
    }

    fn is_wanted(&self, index: ExecutorIndex, task: &TaskId) -> bool {
        let batch = self
            .queries
            .find(task.query)
            .and_then(|number| self.queries.batch(number));
        batch.is_some_and(|batch| {
            batch.locate(task).is_some_and(|stage| {
                batch.stages[stage].tasks[task.partition as usize]
                    .attempt(task.attempt, index)
                    .is_some()
            })
        })
    }

    /// The executor takes nothing of later batches.
    pub(super) fn leaving(&mut self, now: Tick, id: ExecutorId) {
        let Some(index) = self.pool.find(id) else {
            return;
        };
        if self.pool.leave(index, self.sequence) {
            self.forget_place(now, index, false);
            self.release_leaving();
        }
    }

    /// Releases each leaving executor once no batch runs that began before it said so.
    pub(super) fn release_leaving(&mut self) {
        if !self.pool.any_leaving() {
            return;
        }
        let oldest = self
            .queries
            .iter()
            .filter_map(|(_, query)| query.batch.as_ref())
            .map(|batch| batch.sequence)
            .min();
        let free: Vec<ExecutorIndex> = self
            .pool
            .iter()
            .filter(|(_, executor)| {
                let needed = executor
                    .leaving
                    .is_none_or(|since| oldest.is_some_and(|oldest| oldest < since));
                !needed && !executor.released
            })
            .map(|(index, _)| index)
            .collect();
        for index in free {
            if let Some(executor) = self.pool.get_mut(index) {
                executor.released = true;
                self.actions.push(Action::Release {
                    executor: executor.info.id,
                });
            }
        }
    }
}
