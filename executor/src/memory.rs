//! The executor's memory budget: what blocks, fetches in flight and tasks hold, counted in one place.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use millstream_common::failure::{Failure, FailureKind};

/// Counts memory against `memory.budget`. It never allocates or frees; who holds bytes says so here.
#[derive(Debug)]
pub struct MemoryBudget {
    limit: AtomicU64,
    block_limit: AtomicU64,
    blocks: AtomicU64,
    fetches: AtomicU64,
    tasks: AtomicU64,
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
        }
    }

    /// Sets other limits; what is held already stays until it is given back or spilled.
    pub fn set_limits(&self, limit: u64, block_limit: u64) {
        self.limit.store(limit, Ordering::Relaxed);
        self.block_limit
            .store(block_limit.min(limit), Ordering::Relaxed);
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

    /// Whether fetches may run ahead of their readers.
    pub(crate) fn allows_read_ahead(&self) -> bool {
        self.used() < self.limit()
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

    /// Takes `bytes` for a task's own tables until the reservation is dropped.
    ///
    /// # Errors
    /// `OutOfMemory` when the budget doesn't hold them.
    pub fn reserve_for_task(self: &Arc<Self>, bytes: u64) -> Result<Reservation, Failure> {
        let used = self.used();
        if used.saturating_add(bytes) > self.limit() {
            return Err(Failure::new(
                FailureKind::OutOfMemory,
                format!(
                    "a task wants {bytes} bytes, {used} of the executor's {} are in use: raise memory.budget or lower memory.spill_threshold",
                    self.limit()
                ),
            ));
        }
        self.tasks.fetch_add(bytes, Ordering::Relaxed);
        Ok(Reservation {
            budget: Arc::clone(self),
            bytes,
        })
    }
}

fn subtract(counter: &AtomicU64, bytes: u64) {
    let before = counter.fetch_sub(bytes, Ordering::Relaxed);
    debug_assert!(before >= bytes, "more memory was given back than taken");
}

/// Memory that a task holds; given back when dropped.
#[derive(Debug)]
pub struct Reservation {
    budget: Arc<MemoryBudget>,
    bytes: u64,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        subtract(&self.budget.tasks, self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reservation_counts_until_dropped() {
        let budget = Arc::new(MemoryBudget::new(100, 50));
        let held = budget.reserve_for_task(60).expect("fits");
        assert_eq!(budget.used(), 60);
        let refused = budget.reserve_for_task(41).expect_err("doesn't fit");
        assert_eq!(refused.kind, FailureKind::OutOfMemory);
        drop(held);
        assert_eq!(budget.used(), 0);
        assert!(budget.reserve_for_task(100).is_ok());
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
        let budget = Arc::new(MemoryBudget::new(100, 50));
        budget.add_blocks(50);
        assert!(!budget.blocks_are_over());
        let _held = budget.reserve_for_task(50).expect("fits");
        assert!(!budget.blocks_are_over() && !budget.allows_read_ahead());
        budget.add_fetches(1);
        assert!(budget.blocks_are_over());
    }
}
