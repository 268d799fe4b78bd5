//! The executor's memory budget: what blocks, fetches in flight, tasks and state hold, counted in one place.
//!
//! Blocks give way to all else by going to disk, fetches by not running ahead, and tasks by waiting for each other. State gives way to nothing: it is needed
//! by the next batch. Where it alone is over the budget, blocks go to disk, nothing is fetched ahead, and tasks that hold memory run one at a time.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use hashbrown::HashMap;
use millstream_common::{
    failure::{Failure, FailureKind},
    ids::TaskId,
};
use millstream_dataflow::program::CancelToken;
use parking_lot::{Condvar, Mutex};

/// How long a task that waits for memory waits before it looks at its cancel token again.
const WAIT: Duration = Duration::from_millis(20);

/// Counts memory against `memory.budget`. It never allocates or frees; who holds bytes says so here.
#[derive(Debug)]
pub struct MemoryBudget {
    limit: AtomicU64,
    block_limit: AtomicU64,
    blocks: AtomicU64,
    fetches: AtomicU64,
    /// The sum of what `holders` hold, for those who only want to know that.
    tasks: AtomicU64,
    states: AtomicU64,
    holders: Mutex<Holders>,
    given_back: Condvar,
}

/// Tasks that hold memory.
#[derive(Debug, Default)]
struct Holders {
    by_task: HashMap<TaskId, Held>,
    next_order: u64,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    bytes: u64,
    /// Smaller for a task that has held memory for longer.
    order: u64,
}

impl MemoryBudget {
    /// A budget of `limit` bytes, of which blocks may fill `block_limit` before they go to disk.
    pub fn new(limit: u64, block_limit: u64) -> Self {
        Self {
            limit: AtomicU64::new(limit),
            block_limit: AtomicU64::new(block_limit.min(limit)),
            blocks: AtomicU64::new(0),
            fetches: AtomicU64::new(0),
            tasks: AtomicU64::new(0),
            states: AtomicU64::new(0),
            holders: Mutex::default(),
            given_back: Condvar::new(),
        }
    }

    /// Sets other limits; what is held already stays until it is given back or spilled.
    pub fn set_limits(&self, limit: u64, block_limit: u64) {
        self.limit.store(limit, Ordering::Relaxed);
        self.block_limit
            .store(block_limit.min(limit), Ordering::Relaxed);
        self.given_back.notify_all();
    }

    fn limit(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }

    fn block_limit(&self) -> u64 {
        self.block_limit.load(Ordering::Relaxed)
    }

    /// Bytes in use.
    pub fn used(&self) -> u64 {
        self.block_bytes()
            + self.fetches.load(Ordering::Relaxed)
            + self.tasks.load(Ordering::Relaxed)
            + self.state_bytes()
    }

    /// Bytes of state that lives from batch to batch.
    pub fn state_bytes(&self) -> u64 {
        self.states.load(Ordering::Relaxed)
    }

    /// State that held `before` bytes holds `now`. Says whether that took all state together past the budget.
    pub(crate) fn state_changed(&self, before: u64, now: u64) -> bool {
        if now <= before {
            subtract(&self.states, before - now);
            self.given_back.notify_all();
            return false;
        }
        let grown = now - before;
        let all = self.states.fetch_add(grown, Ordering::Relaxed);
        let limit = self.limit();
        all <= limit && all.saturating_add(grown) > limit
    }

    /// Bytes of blocks in memory.
    pub fn block_bytes(&self) -> u64 {
        self.blocks.load(Ordering::Relaxed)
    }

    /// Whether blocks should go to disk.
    pub(crate) fn blocks_are_over(&self) -> bool {
        self.block_bytes() > self.block_limit() || self.used() > self.limit()
    }

    /// Whether a spill that has begun should go on: somewhat below the limits, so that not every append spills.
    pub(crate) fn blocks_are_high(&self) -> bool {
        self.block_bytes() > self.block_limit() / 8 * 7 || self.used() > self.limit()
    }

    /// Whether fetches may run ahead of their readers: they leave a quarter to tables that grow.
    pub(crate) fn allows_read_ahead(&self) -> bool {
        self.used() < self.limit() / 4 * 3
    }

    pub(crate) fn add_blocks(&self, bytes: u64) {
        self.blocks.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn remove_blocks(&self, bytes: u64) {
        subtract(&self.blocks, bytes);
    }

    pub(crate) fn add_fetches(&self, bytes: u64) {
        self.fetches.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn remove_fetches(&self, bytes: u64) {
        subtract(&self.fetches, bytes);
    }

    /// Counts `bytes` more for the tables of a task. Where all tasks and state together would hold more than the budget, the task waits until others give
    /// back, unless it is the one that has held memory for longest: that one goes on, so waiting always ends.
    ///
    /// # Errors
    /// `OutOfMemory` when the task alone would hold more than the budget; `Cancelled` while it waits.
    pub fn take_for_task(
        &self,
        task: TaskId,
        bytes: u64,
        cancel: &CancelToken,
    ) -> Result<(), Failure> {
        let mut holders = self.holders.lock();
        loop {
            let held = holders.by_task.get(&task).map_or(0, |held| held.bytes);
            let wanted = held.saturating_add(bytes);
            let limit = self.limit();
            if wanted > limit {
                return Err(Failure::new(
                    FailureKind::OutOfMemory,
                    format!(
                        "the tables of a task want {wanted} bytes, memory.budget is {limit}: raise memory.budget, use more partitions, or lower memory.spill_threshold"
                    ),
                ));
            }
            let total = self.tasks.load(Ordering::Relaxed) + self.state_bytes();
            if total.saturating_add(bytes) <= limit || holders.is_eldest(task) {
                holders.add(task, bytes);
                self.tasks.fetch_add(bytes, Ordering::Relaxed);
                return Ok(());
            }
            cancel.check()?;
            self.given_back.wait_for(&mut holders, WAIT);
        }
    }

    /// A task's tables let go of `bytes`. Of a task that was forgotten nothing is given back twice.
    pub fn give_back_of_task(&self, task: TaskId, bytes: u64) {
        let mut holders = self.holders.lock();
        let held = holders.remove(task, bytes);
        subtract(&self.tasks, held);
        self.given_back.notify_all();
    }

    /// The task is over: what it still holds is given back. Says how much that was.
    pub(crate) fn forget_task(&self, task: TaskId) -> u64 {
        let mut holders = self.holders.lock();
        let held = holders.remove(task, u64::MAX);
        if held > 0 {
            subtract(&self.tasks, held);
            self.given_back.notify_all();
        }
        held
    }
}

impl Holders {
    fn is_eldest(&self, task: TaskId) -> bool {
        let eldest = self.by_task.iter().min_by_key(|(_, held)| held.order);
        eldest.is_none_or(|(eldest, _)| *eldest == task)
    }

    fn add(&mut self, task: TaskId, bytes: u64) {
        let order = self.next_order;
        let held = self.by_task.entry(task).or_insert(Held { bytes: 0, order });
        held.bytes += bytes;
        self.next_order += 1;
    }

    /// Takes up to `bytes` from what a task holds, and says how many that were.
    fn remove(&mut self, task: TaskId, bytes: u64) -> u64 {
        let Some(held) = self.by_task.get_mut(&task) else {
            return 0;
        };
        let removed = held.bytes.min(bytes);
        held.bytes -= removed;
        if held.bytes == 0 {
            self.by_task.remove(&task);
        }
        removed
    }
}

fn subtract(counter: &AtomicU64, bytes: u64) {
    let before = counter.fetch_sub(bytes, Ordering::Relaxed);
    debug_assert!(before >= bytes, "more memory was given back than taken");
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread};

    use super::*;
    use crate::testing::block;

    fn task(partition: u32) -> TaskId {
        TaskId {
            partition,
            ..block(0, 0).task
        }
    }

    #[test]
    fn what_a_task_takes_counts_until_it_is_given_back() {
        let budget = MemoryBudget::new(100, 50);
        let cancel = CancelToken::new();
        budget.take_for_task(task(0), 60, &cancel).expect("fits");
        budget.take_for_task(task(0), 40, &cancel).expect("fits");
        assert_eq!(budget.used(), 100);
        let refused = budget.take_for_task(task(0), 1, &cancel);
        let refused = refused.expect_err("more than the whole budget");
        assert_eq!(refused.kind, FailureKind::OutOfMemory);
        assert!(
            refused
                .message
                .contains("want 101 bytes, memory.budget is 100"),
            "{refused}"
        );
        budget.give_back_of_task(task(0), 100);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_task_waits_for_others_and_the_eldest_for_none() {
        let budget = MemoryBudget::new(100, 50);
        let cancel = CancelToken::new();
        budget.take_for_task(task(0), 30, &cancel).expect("fits");
        budget.take_for_task(task(1), 60, &cancel).expect("fits");
        thread::scope(|scope| {
            let (took, has_taken) = mpsc::channel();
            let (budget, younger) = (&budget, cancel.clone());
            scope.spawn(move || {
                let taken = budget.take_for_task(task(1), 30, &younger);
                took.send(taken).expect("the test waits");
            });
            budget
                .take_for_task(task(0), 50, &cancel)
                .expect("it waits for nobody");
            assert!(
                has_taken.try_recv().is_err(),
                "110 to 140 bytes of 100 are taken"
            );
            budget.give_back_of_task(task(0), 80);
            has_taken
                .recv()
                .expect("it goes on")
                .expect("there is room now");
        });
        assert_eq!(budget.used(), 90);
        budget.give_back_of_task(task(1), 90);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn state_leaves_less_for_others_and_never_stops_all_of_them() {
        let budget = MemoryBudget::new(100, 50);
        assert!(!budget.state_changed(0, 80));
        assert!(!budget.allows_read_ahead() && !budget.blocks_are_over());
        budget.add_blocks(30);
        assert!(budget.blocks_are_over(), "80 of state and 30 of blocks");
        budget.remove_blocks(30);
        let cancel = CancelToken::new();
        budget.take_for_task(task(0), 10, &cancel).expect("fits");
        let refused = CancelToken::new();
        refused.cancel();
        let waits = budget.take_for_task(task(1), 20, &refused);
        assert_eq!(waits.expect_err("10 are left").kind, FailureKind::Cancelled);
        assert!(budget.state_changed(80, 120), "past the budget");
        assert!(!budget.state_changed(120, 130), "once");
        budget
            .take_for_task(task(0), 60, &cancel)
            .expect("the eldest goes on");
        budget.give_back_of_task(task(0), 70);
        budget.state_changed(130, 0);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_waiting_task_heeds_its_token() {
        let budget = MemoryBudget::new(100, 50);
        budget
            .take_for_task(task(0), 90, &CancelToken::new())
            .expect("fits");
        let cancel = CancelToken::new();
        cancel.cancel();
        let refused = budget.take_for_task(task(1), 20, &cancel);
        assert_eq!(refused.expect_err("cancelled").kind, FailureKind::Cancelled);
        assert_eq!(budget.used(), 90);
    }

    #[test]
    fn limits_can_be_lowered_under_what_is_held() {
        let budget = MemoryBudget::new(100, 50);
        budget.add_blocks(40);
        budget.set_limits(60, 30);
        assert!(budget.blocks_are_over());
        budget.remove_blocks(10);
        assert!(!budget.blocks_are_over() && budget.allows_read_ahead());
    }

    #[test]
    fn blocks_are_over_by_their_share_or_by_the_whole() {
        let budget = MemoryBudget::new(100, 50);
        budget.add_blocks(50);
        assert!(!budget.blocks_are_over());
        budget
            .take_for_task(task(0), 50, &CancelToken::new())
            .expect("fits");
        assert!(!budget.blocks_are_over() && !budget.allows_read_ahead());
        budget.add_fetches(1);
        assert!(budget.blocks_are_over());
    }
}
