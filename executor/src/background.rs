//! Work beside the tasks: merging what state consists of. A few threads, started by the first work there is, behind a queue with a bound.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use crossbeam_channel::{Receiver, Sender, TrySendError};
use millstream_common::{telemetry::metrics::Metrics, time::Clock};
use millstream_dataflow::state::BackgroundWork;
use parking_lot::Mutex;

use crate::runner::panic_text;

/// Work that may wait for a thread.
const QUEUE: usize = 256;
/// At least so many threads, so that a long work doesn't hold up short ones.
const FEWEST: u32 = 2;
/// One thread for so many task slots.
const SLOTS: u32 = 4;

/// The threads. Work that waits when this is closed or dropped isn't run; what runs then goes on to its end, or the process's.
pub(crate) struct Background {
    threads: u32,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    running: Mutex<Option<Running>>,
    is_closed: Arc<AtomicBool>,
}

struct Running {
    queue: Sender<BackgroundWork>,
    threads: Vec<JoinHandle<()>>,
}

impl Background {
    /// Threads beside so many task slots.
    pub(crate) fn new(slots: u32, clock: Arc<dyn Clock>, metrics: Metrics) -> Self {
        Self {
            threads: (slots / SLOTS).max(FEWEST),
            clock,
            metrics,
            running: Mutex::new(None),
            is_closed: Arc::default(),
        }
    }

    #[cfg(test)]
    pub(crate) fn for_tests() -> Self {
        let clock = Arc::new(millstream_common::time::SystemClock::new());
        Self::new(1, clock, Metrics::of_executor())
    }

    /// Queues work; gives it back where the queue is full, the system refuses threads, or this is closed.
    pub(crate) fn submit(&self, work: BackgroundWork) -> Result<(), BackgroundWork> {
        let mut running = self.running.lock();
        if self.is_closed.load(Ordering::Relaxed) {
            return Err(work);
        }
        let queue = &running.get_or_insert_with(|| self.start()).queue;
        queue.try_send(work).map_err(|refused| match refused {
            TrySendError::Full(work) | TrySendError::Disconnected(work) => work,
        })
    }

    /// Takes no more work, drops what waits, and waits for what runs.
    pub(crate) fn close(&self) {
        let running = {
            let mut running = self.running.lock();
            self.is_closed.store(true, Ordering::Relaxed);
            running.take()
        };
        let Some(Running { queue, threads }) = running else {
            return;
        };
        drop(queue);
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a thread beside the tasks ended by a panic");
            }
        }
    }

    /// With no thread at all the queue is one that nobody reads: work is given back.
    fn start(&self) -> Running {
        let (queue, receiver) = crossbeam_channel::bounded(QUEUE);
        let mut threads = Vec::new();
        for number in 0..self.threads {
            let worker = Worker {
                queue: receiver.clone(),
                clock: Arc::clone(&self.clock),
                metrics: self.metrics.clone(),
                is_closed: Arc::clone(&self.is_closed),
            };
            let started = thread::Builder::new()
                .name(format!("background-{number}"))
                .spawn(move || worker.run());
            match started {
                Ok(thread) => threads.push(thread),
                Err(error) => {
                    tracing::warn!(%error, "the system refuses a thread for work beside the tasks");
                }
            }
        }
        Running { queue, threads }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.is_closed.store(true, Ordering::Relaxed);
    }
}

struct Worker {
    queue: Receiver<BackgroundWork>,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    is_closed: Arc<AtomicBool>,
}

impl Worker {
    fn run(self) {
        while let Ok(work) = self.queue.recv() {
            if self.is_closed.load(Ordering::Relaxed) {
                continue;
            }
            let start = self.clock.now();
            // Whoever waits for the work learns from its absence that it failed.
            if let Err(panic) = catch_unwind(AssertUnwindSafe(work)) {
                let panic = panic_text(&*panic);
                tracing::error!(panic, "work beside the tasks panicked");
            }
            let taken = self.clock.now().since(start);
            self.metrics.executor().state_merge_duration.observe(taken);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::testing::DEADLINE;

    #[test]
    fn work_is_done_and_a_panic_ends_no_thread() {
        let background = Background::for_tests();
        let (sender, receiver) = mpsc::channel();
        for number in 0..10 {
            let sender = sender.clone();
            let submitted = background.submit(Box::new(move || {
                sender.send(number).expect("the test waits");
                panic!("number {number}");
            }));
            assert!(submitted.is_ok());
        }
        let mut done: Vec<i32> = (0..10)
            .map(|_| receiver.recv_timeout(DEADLINE).expect("done"))
            .collect();
        done.sort_unstable();
        assert_eq!(done, (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn closing_waits_for_what_runs_and_refuses_more() {
        let background = Background::for_tests();
        let is_closed = Arc::clone(&background.is_closed);
        let is_done = Arc::new(AtomicBool::new(false));
        let done = Arc::clone(&is_done);
        let (started, is_started) = mpsc::channel();
        let submitted = background.submit(Box::new(move || {
            started.send(()).expect("the test waits");
            while !is_closed.load(Ordering::SeqCst) {
                thread::yield_now();
            }
            // Whoever doesn't wait has gone on by then.
            for _ in 0..10_000 {
                thread::yield_now();
            }
            done.store(true, Ordering::SeqCst);
        }));
        assert!(submitted.is_ok());
        is_started.recv_timeout(DEADLINE).expect("started");
        background.close();
        assert!(is_done.load(Ordering::SeqCst));
        assert!(background.submit(Box::new(|| ())).is_err());
        background.close();
    }

    #[test]
    fn work_past_the_bound_is_given_back_and_what_waits_at_the_end_is_dropped() {
        let background = Background::for_tests();
        let (hold, held) = crossbeam_channel::bounded::<()>(0);
        let (started, is_started) = mpsc::channel();
        for _ in 0..background.threads {
            let (held, started) = (held.clone(), started.clone());
            let submitted = background.submit(Box::new(move || {
                started.send(()).expect("the test waits");
                let _closed = held.recv();
            }));
            assert!(submitted.is_ok());
        }
        for _ in 0..background.threads {
            is_started.recv_timeout(DEADLINE).expect("started");
        }
        let (sender, receiver) = mpsc::channel::<()>();
        for _ in 0..QUEUE {
            let sender = sender.clone();
            let submitted = background.submit(Box::new(move || {
                sender.send(()).expect("the test waits");
            }));
            assert!(submitted.is_ok());
        }
        drop(sender);
        assert!(background.submit(Box::new(|| ())).is_err());
        drop(background);
        drop(hold);
        let ended = receiver.recv_timeout(DEADLINE);
        assert_eq!(ended, Err(mpsc::RecvTimeoutError::Disconnected));
    }
}
