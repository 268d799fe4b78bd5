//! What has arrived for a reader and what it still waits for. Written by the IO runtime, read by the slot's thread.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use hashbrown::HashMap;
use millstream_common::failure::Failure;
use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;

use crate::memory::MemoryBudget;

/// How long the slot's thread waits before it looks at its cancel token again.
const WAIT: Duration = Duration::from_millis(20);

pub(super) struct Inflow {
    state: Mutex<State>,
    arrived: Condvar,
    consumed: Notify,
    budget: Arc<MemoryBudget>,
}

#[derive(Default)]
struct State {
    blocks: HashMap<usize, Arriving>,
    in_flight: u64,
    /// Nothing more will arrive.
    ended: bool,
    /// The reader is gone.
    abandoned: bool,
}

/// A block that was asked for.
#[derive(Default)]
struct Arriving {
    /// Bytes reserved for it and not given back yet.
    reserved: u64,
    frames: VecDeque<Bytes>,
    outcome: Option<Result<(), Failure>>,
}

/// What the reader finds.
pub(super) enum Next {
    /// A frame of the block.
    Frame(Bytes),
    /// The block is complete.
    End,
    /// The block can't be had.
    Failed(Failure),
    /// Nothing yet.
    Wait,
    /// Nothing will come.
    Ended,
}

impl Inflow {
    pub(super) fn new(budget: Arc<MemoryBudget>) -> Self {
        Self {
            state: Mutex::default(),
            arrived: Condvar::new(),
            consumed: Notify::new(),
            budget,
        }
    }

    /// Reserves room for a block that is about to be asked for; none where the reader is gone, which gives nothing back any more.
    pub(super) fn reserve(&self, index: usize, bytes: u64) {
        let mut state = self.state.lock();
        if state.abandoned {
            return;
        }
        state.in_flight += bytes;
        state.blocks.entry(index).or_default().reserved = bytes;
        self.budget.add_fetches(bytes);
    }

    pub(super) fn in_flight(&self) -> u64 {
        self.state.lock().in_flight
    }

    /// Resolves once at most `bytes` are in flight; false if the reader is gone.
    pub(super) async fn drained_to(&self, bytes: u64) -> bool {
        loop {
            let consumed = self.consumed.notified();
            {
                let state = self.state.lock();
                if state.abandoned {
                    return false;
                }
                if state.in_flight <= bytes {
                    return true;
                }
            }
            consumed.await;
        }
    }

    pub(super) fn push(&self, index: usize, frame: Bytes) {
        let mut state = self.state.lock();
        if state.abandoned {
            return;
        }
        if let Some(block) = state.blocks.get_mut(&index) {
            block.frames.push_back(frame);
            self.arrived.notify_one();
        }
    }

    pub(super) fn finish(&self, index: usize, outcome: Result<(), Failure>) {
        let mut state = self.state.lock();
        if let Some(block) = state.blocks.get_mut(&index) {
            block.outcome = Some(outcome);
            self.arrived.notify_one();
        }
    }

    /// Nothing more will arrive.
    pub(super) fn end(&self) {
        self.state.lock().ended = true;
        self.arrived.notify_one();
    }

    /// What there is of a block; waits a little where there is nothing.
    pub(super) fn next(&self, index: usize) -> Next {
        let mut state = self.state.lock();
        match self.take(&mut state, index) {
            Next::Wait => {}
            next => return next,
        }
        self.arrived.wait_for(&mut state, WAIT);
        self.take(&mut state, index)
    }

    fn take(&self, state: &mut State, index: usize) -> Next {
        let ended = state.ended;
        let Some(block) = state.blocks.get_mut(&index) else {
            return if ended { Next::Ended } else { Next::Wait };
        };
        if let Some(frame) = block.frames.pop_front() {
            let given_back = block.reserved.min(frame.len() as u64);
            block.reserved -= given_back;
            self.give_back(state, given_back);
            return Next::Frame(frame);
        }
        match block.outcome.take() {
            None if ended => Next::Ended,
            None => Next::Wait,
            Some(outcome) => {
                let rest = block.reserved;
                state.blocks.remove(&index);
                self.give_back(state, rest);
                match outcome {
                    Ok(()) => Next::End,
                    Err(failure) => Next::Failed(failure),
                }
            }
        }
    }

    fn give_back(&self, state: &mut State, bytes: u64) {
        state.in_flight -= bytes;
        self.budget.remove_fetches(bytes);
        self.consumed.notify_one();
    }

    /// The reader goes: what arrived is dropped.
    pub(super) fn abandon(&self) {
        let mut state = self.state.lock();
        state.abandoned = true;
        state.blocks.clear();
        let rest = state.in_flight;
        self.give_back(&mut state, rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_reserved_for_a_reader_that_is_gone() {
        let budget = Arc::new(MemoryBudget::new(1_000, 500));
        let inflow = Inflow::new(Arc::clone(&budget));
        inflow.reserve(0, 300);
        inflow.push(0, Bytes::from(vec![0; 100]));
        assert!(matches!(inflow.next(0), Next::Frame(_)));
        assert_eq!(budget.used(), 200);
        inflow.abandon();
        assert_eq!(budget.used(), 0);
        // The prefetch learns of it at its next wait only.
        inflow.reserve(1, 300);
        inflow.push(1, Bytes::from(vec![0; 100]));
        inflow.finish(1, Ok(()));
        assert_eq!((budget.used(), inflow.in_flight()), (0, 0));
    }
}
