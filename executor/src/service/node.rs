//! What lives as long as the process, over all registrations: slots, blocks, connections, the ledger.

use std::{path::Path, sync::Arc, thread, time::Duration};

use millstream_common::{
    config::{Config, keys},
    failure::Failure,
    ids::TaskId,
    protocol::{Heartbeat, TaskReport},
    telemetry::metrics::Metrics,
    time::Clock,
};
use millstream_proto::peers::Peers;
use parking_lot::Mutex;
use tokio::{sync::Notify, sync::oneshot, task};

use crate::{
    background::Background,
    blocks::{BlockStore, SpillFolder},
    ledger::Ledger,
    memory::MemoryBudget,
    options::Options,
    queries::States,
    runner::{Job, Runner},
};

pub(super) struct Node {
    pub(super) ledger: Mutex<Ledger>,
    /// Says that the ledger has something for the driver.
    pub(super) wake: Notify,
    pub(super) store: Arc<BlockStore>,
    pub(super) folder: Arc<SpillFolder>,
    pub(super) budget: Arc<MemoryBudget>,
    pub(super) states: Arc<States>,
    pub(super) peers: Option<Arc<Peers>>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: Metrics,
    runner: Mutex<Option<Runner>>,
}

impl Node {
    pub(super) fn start(
        options: &Options,
        spill: &Path,
        clock: Arc<dyn Clock>,
        metrics: Metrics,
    ) -> Result<Self, Failure> {
        let config = &options.config;
        let (limit, block_limit) = memory_limits(config);
        let budget = Arc::new(MemoryBudget::new(limit, block_limit));
        let folder = Arc::new(SpillFolder::create(spill)?);
        let store = Arc::new(BlockStore::new(
            Arc::clone(&budget),
            Arc::clone(&folder),
            metrics.clone(),
        ));
        let peers = options.listen.as_ref().map(|_| {
            let timeout = config.get(keys::RPC_CONNECT_TIMEOUT);
            Arc::new(Peers::new(
                options.secret.as_ref(),
                options.tls.clone(),
                timeout,
            ))
        });
        let background = Background::new(options.cores, Arc::clone(&clock), metrics.clone());
        let runner = Runner::start(options.cores.max(1), &clock, &metrics)?;
        Ok(Self {
            states: Arc::new(States::new(config, Arc::clone(&budget), background)),
            ledger: Mutex::new(Ledger::new()),
            wake: Notify::new(),
            store,
            folder,
            budget,
            peers,
            clock,
            metrics,
            runner: Mutex::new(Some(runner)),
        })
    }

    /// Takes what the driver's configuration says of the whole process.
    pub(super) fn adopt(&self, config: &Config) {
        let (limit, block_limit) = memory_limits(config);
        self.budget.set_limits(limit, block_limit);
        self.states.adopt(config);
    }

    pub(super) fn submit(&self, job: Job) {
        if let Some(runner) = &*self.runner.lock() {
            runner.submit(job);
        }
    }

    /// A task ended; runs on its slot's thread.
    pub(super) fn finish(&self, report: TaskReport) {
        let task = report.task;
        let is_wanted = self.ledger.lock().finish(report);
        if is_wanted {
            self.wake.notify_one();
        } else {
            self.store.drop_task(task);
        }
    }

    /// Frees blocks of attempts that nobody wants, off the IO threads.
    pub(super) fn drop_blocks(&self, tasks: Vec<TaskId>) {
        if tasks.is_empty() {
            return;
        }
        let store = Arc::clone(&self.store);
        task::spawn_blocking(move || {
            for task in tasks {
                store.drop_task(task);
            }
        });
    }

    /// Cancels every task and drops every block.
    pub(super) fn forget_everything(&self) {
        let tasks = self.ledger.lock().clear();
        self.drop_blocks(tasks);
    }

    pub(super) fn heartbeat(&self) -> Heartbeat {
        let running = self.runner.lock().as_ref().map_or(0, Runner::busy);
        Heartbeat {
            running: u32::try_from(running).unwrap_or(u32::MAX),
            resident_bytes: resident_bytes(),
            block_bytes: self.budget.block_bytes(),
            spilled_bytes: self.store.spilled_bytes(),
        }
    }

    /// Ends the slot threads and those beside them, waiting for at most `grace`; a thread that user code holds goes with the process.
    pub(super) async fn stop(&self, clock: &Arc<dyn Clock>, grace: Duration) {
        let Some(runner) = self.runner.lock().take() else {
            return;
        };
        let (joined, ended) = oneshot::channel();
        let states = Arc::clone(&self.states);
        let joiner = thread::Builder::new()
            .name("slots-end".to_owned())
            .spawn(move || {
                runner.join();
                states.close();
                let _nobody_waits_any_more = joined.send(());
            });
        if joiner.is_err() {
            return;
        }
        tokio::select! {
            _ = ended => {}
            () = clock.until(clock.now().after(grace)) => {
                tracing::warn!("a task doesn't heed its cancellation; its thread is left behind");
            }
        }
    }
}

/// The whole budget and the share of blocks, bytes.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a share of a budget needs no exact bytes"
)]
fn memory_limits(config: &Config) -> (u64, u64) {
    let limit = config.get(keys::MEMORY_BUDGET).bytes();
    let fraction = config.get(keys::MEMORY_BLOCK_FRACTION);
    (limit, (limit as f64 * fraction) as u64)
}

/// Resident memory of this process; 0 where the system doesn't tell.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next());
    kilobytes
        .and_then(|number| number.parse::<u64>().ok())
        .map_or(0, |kilobytes| kilobytes * 1024)
}
