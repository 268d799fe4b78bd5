//! What may happen next: a random choice.

use std::time::Duration;

use millstream_common::{
    failure::{Failure, FailureKind, Retry},
    ids::{BatchId, BlockId, TaskId},
    protocol::TaskInput,
};
use rand::Rng;

use super::{
    super::{executor, info},
    MOST_EXECUTORS, Sim, World,
};
use crate::scheduler::message::Event;

impl Sim {
    fn random_task(&mut self) -> Option<(u128, TaskId, TaskInput)> {
        let number = self.pick(|on| on.alive && !on.running.is_empty())?;
        let running = &self.executors[&number].running;
        let position = self.random.random_range(0..running.len());
        let (task, input) = running.iter().nth(position).expect("in range");
        Some((number, *task, input.clone()))
    }

    pub(super) fn succeed_one(&mut self) {
        if let Some((number, task, _)) = self.random_task() {
            let output = self.query(task.query).output(&task);
            self.end_attempt(number, task, Ok(output));
        }
    }

    fn fail_one(&mut self) {
        let Some((number, task, input)) = self.random_task() else {
            return;
        };
        let world = self.world;
        let choice = self.random.random_range(0..10);
        let is_current = {
            let query = self.query(task.query);
            query.running && BatchId(query.batch) == task.batch
        };
        if !is_current {
            return;
        }
        let failure = match (choice, input) {
            (0..=2, TaskInput::Blocks(lists)) => {
                let blocks: Vec<_> = lists.into_iter().flatten().collect();
                if blocks.is_empty() {
                    return;
                }
                let block = &blocks[self.random.random_range(0..blocks.len())];
                let query = self.query(task.query);
                if world == World::Kind && query.fetch_failures >= 1 {
                    return;
                }
                query.fetch_failures += 1;
                let id = BlockId {
                    task: block.task,
                    exchange: block.exchange,
                    partition: block.partition,
                };
                Failure::new(
                    FailureKind::FetchFailed {
                        block: id,
                        executor: block.executor,
                    },
                    "no block",
                )
            }
            (3, _) => Failure::new(FailureKind::Cancelled, "stopped"),
            (4, _) if world == World::Unkind && self.random.random_bool(0.1) => {
                self.query(task.query).never = true;
                Failure::new(FailureKind::UserCode, "broken").with_retry(Retry::Never)
            }
            (5, _) => Failure::new(FailureKind::Superseded, "fenced"),
            _ => {
                let query = self.query(task.query);
                let failures = query
                    .failures
                    .entry((task.stage.0, task.partition))
                    .or_default();
                if world == World::Kind && *failures >= 3 {
                    return;
                }
                *failures += 1;
                let retry = if choice == 6 {
                    Retry::Backoff
                } else {
                    Retry::Now
                };
                Failure::new(FailureKind::UserCode, "broken").with_retry(retry)
            }
        };
        self.end_attempt(number, task, Err(failure));
    }

    pub(super) fn step(&mut self) {
        self.now = self
            .now
            .after(Duration::from_micros(self.random.random_range(0..3_000)));
        match self.random.random_range(0..100) {
            0..=34 => self.succeed_one(),
            35..=44 => self.fail_one(),
            45..=69 => {
                if let Some(number) = self.pick(|on| on.alive && !on.outbox.is_empty()) {
                    self.deliver(number);
                }
            }
            70..=73 => {
                if let Some(number) = self.pick(|on| on.alive) {
                    self.lose(number);
                }
            }
            74..=77 => {
                if self.next_executor < MOST_EXECUTORS {
                    self.add_executor();
                }
            }
            78..=80 => {
                if let Some(number) = self.pick(|on| on.alive && on.connected) {
                    let on = self.executors.get_mut(&number).expect("known");
                    on.connected = false;
                    on.outbox.clear();
                }
            }
            81..=84 => self.reconnect_one(),
            85 => {
                if let Some(number) = self.pick(|on| on.alive && on.connected) {
                    self.executors.get_mut(&number).expect("known").leaving = true;
                    self.handle(Event::Leaving(executor(number)));
                }
            }
            86..=88 => {
                if !self.old.is_empty() {
                    let position = self.random.random_range(0..self.old.len());
                    let (from, report) = self.old[position].clone();
                    let is_known = self.executors.contains_key(&(from.0.as_u128() - 100));
                    // A report that is on its way is no late one.
                    if !is_known || !self.live.contains_key(&report.task) {
                        self.handle(Event::Reported {
                            executor: from,
                            report: Box::new(report),
                        });
                    }
                }
            }
            89..=92 => {
                self.start_next();
            }
            93..=95 => {
                self.finish_output(true);
            }
            _ => {
                self.fire_timer();
            }
        }
    }

    pub(super) fn reconnect_one(&mut self) {
        if let Some(number) = self.pick(|on| on.alive && !on.connected) {
            let on = self.executors.get_mut(&number).expect("known");
            on.connected = true;
            let cores = on.cores;
            self.handle(Event::Connected(info(number, cores)));
        }
    }
}
