//! A stage's tasks that wait for a slot: first for the executor that each prefers, after a while for any.

use std::collections::VecDeque;

use hashbrown::HashMap;
use millstream_common::time::Tick;

use super::{
    batch::{State, Task},
    executors::ExecutorIndex,
};

/// A place in a queue. It counts only while the task still waits with the same ticket, so leaving a queue costs nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub partition: u32,
    pub ticket: u32,
}

impl Entry {
    pub(super) fn is_live(self, tasks: &[Task]) -> bool {
        tasks.get(self.partition as usize).is_some_and(
            |task| matches!(task.state, State::Queued { ticket, .. } if ticket == self.ticket),
        )
    }
}

/// The waiting tasks of one stage.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pub preferring: HashMap<ExecutorIndex, VecDeque<Entry>>,
    pub anywhere: VecDeque<Entry>,
    waits: VecDeque<(Tick, Entry)>,
    tickets: u32,
    /// Tasks that wait here.
    pub waiting: u32,
}

impl Queue {
    /// A ticket that no other waiting of this stage has had.
    pub(super) fn ticket(&mut self) -> u32 {
        self.tickets = self.tickets.wrapping_add(1);
        self.tickets
    }

    /// Queues an entry for `preferred`, and from `until` on for anyone; without a preference for anyone at once.
    pub(super) fn push(
        &mut self,
        entry: Entry,
        preferred: Option<ExecutorIndex>,
        now: Tick,
        until: Tick,
    ) {
        self.waiting += 1;
        match preferred {
            None => self.anywhere.push_back(entry),
            Some(executor) => {
                self.preferring
                    .entry(executor)
                    .or_default()
                    .push_back(entry);
                if until <= now {
                    self.anywhere.push_back(entry);
                } else {
                    self.waits.push_back((until, entry));
                }
            }
        }
    }

    /// The first task that prefers `executor`.
    pub(super) fn pop_preferring(
        &mut self,
        executor: ExecutorIndex,
        tasks: &[Task],
    ) -> Option<u32> {
        let queue = self.preferring.get_mut(&executor)?;
        pop(queue, tasks)
    }

    /// Whether a task waits for any executor.
    pub(super) fn has_anywhere(&mut self, tasks: &[Task]) -> bool {
        while let Some(entry) = self.anywhere.front() {
            if entry.is_live(tasks) {
                return true;
            }
            self.anywhere.pop_front();
        }
        false
    }

    /// The first task that goes anywhere.
    pub(super) fn pop_anywhere(&mut self, tasks: &[Task]) -> Option<u32> {
        pop(&mut self.anywhere, tasks)
    }

    /// All tasks that prefer `executor`; they still count as waiting.
    pub(super) fn take_preferring(&mut self, executor: ExecutorIndex, tasks: &[Task]) -> Vec<u32> {
        let queue = self.preferring.remove(&executor).unwrap_or_default();
        queue
            .into_iter()
            .filter(|entry| entry.is_live(tasks))
            .map(|entry| entry.partition)
            .collect()
    }

    /// Lets tasks go anywhere that waited long enough.
    pub(super) fn expire(&mut self, now: Tick, tasks: &[Task]) {
        while let Some((until, entry)) = self.waits.front().copied() {
            let live = entry.is_live(tasks);
            if live && until > now {
                return;
            }
            self.waits.pop_front();
            if live {
                self.anywhere.push_back(entry);
            }
        }
    }

    /// When the next task has waited long enough.
    pub(super) fn next_expiry(&mut self, tasks: &[Task]) -> Option<Tick> {
        while let Some((until, entry)) = self.waits.front().copied() {
            if entry.is_live(tasks) {
                return Some(until);
            }
            self.waits.pop_front();
        }
        None
    }
}

fn pop(queue: &mut VecDeque<Entry>, tasks: &[Task]) -> Option<u32> {
    while let Some(entry) = queue.pop_front() {
        if entry.is_live(tasks) {
            return Some(entry.partition);
        }
    }
    None
}
