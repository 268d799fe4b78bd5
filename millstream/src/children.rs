//! The executor processes of `local-cluster`: direct and only children of the driver, started again when they die.

use std::{io, process::Stdio, sync::Arc, time::Duration};

use millstream_common::time::Clock;
use millstream_driver::cluster::ClusterHandle;
use parking_lot::Mutex;
use rustix::process::{Pid, Signal};
use tokio::{
    io::AsyncWriteExt,
    process::{Child, Command},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::cli::Orders;

/// A child that lived this long is started again at once; one that didn't, after a growing pause.
const STEADY: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// How long a child may take to exit once the driver's queries are over: it has nothing left to finish.
const EXIT_WITHIN: Duration = Duration::from_secs(2);

/// Process ids of the children that live.
pub(crate) type ProcessIds = Arc<Mutex<Vec<u32>>>;

/// The children.
pub(crate) struct Children {
    watchers: JoinSet<()>,
    ids: ProcessIds,
    stop: CancellationToken,
}

/// What watches a child needs.
#[derive(Clone)]
struct Watch {
    orders: Arc<[u8]>,
    cluster: ClusterHandle,
    clock: Arc<dyn Clock>,
    host: String,
    ids: ProcessIds,
    stop: CancellationToken,
}

impl Children {
    /// Starts `count` executors that get `orders`.
    ///
    /// # Errors
    /// When a process can't be started.
    pub fn start(
        count: u32,
        orders: &Orders,
        cluster: ClusterHandle,
        clock: Arc<dyn Clock>,
        host: String,
    ) -> io::Result<Self> {
        let mut line = serde_json::to_vec(orders)?;
        line.push(b'\n');
        let ids = ProcessIds::default();
        let stop = CancellationToken::new();
        let watch = Watch {
            orders: line.into(),
            cluster,
            clock,
            host,
            ids: Arc::clone(&ids),
            stop: stop.clone(),
        };
        let mut watchers = JoinSet::new();
        for _ in 0..count {
            let first = watch.spawn()?;
            watchers.spawn(watch.clone().keep_alive(first));
        }
        Ok(Self {
            watchers,
            ids,
            stop,
        })
    }

    /// Process ids of the children that live.
    pub fn ids(&self) -> ProcessIds {
        Arc::clone(&self.ids)
    }

    /// Waits until all have exited; those that don't within two seconds are killed. The driver must have told them to shut down.
    pub async fn stop(mut self) {
        self.stop.cancel();
        while self.watchers.join_next().await.is_some() {}
    }
}

impl Watch {
    fn spawn(&self) -> io::Result<Child> {
        let child = Command::new("/proc/self/exe")
            .arg0(crate::cli::program_name())
            .args(["executor", "--child"])
            .stdin(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        if let Some(id) = child.id() {
            self.ids.lock().push(id);
        }
        Ok(child)
    }

    async fn keep_alive(self, first: Child) {
        let mut next = Some(first);
        let mut pause = FIRST_PAUSE;
        loop {
            let started = self.clock.now();
            let Some(child) = next.take() else {
                match self.spawn() {
                    Ok(child) => next = Some(child),
                    Err(error) => {
                        tracing::error!(%error, "could not start an executor process; trying again");
                        if self.pause(pause).await {
                            return;
                        }
                        pause = (pause * 2).min(LONGEST_PAUSE);
                    }
                }
                continue;
            };
            if self.watch(child).await {
                return;
            }
            if self.clock.now().since(started) >= STEADY {
                pause = FIRST_PAUSE;
                continue;
            }
            if self.pause(pause).await {
                return;
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Waits for the child's end; `true` when the driver is stopping.
    async fn watch(&self, mut child: Child) -> bool {
        let id = child.id();
        // Kept open as long as the driver lives: its end tells the child to exit.
        let mut stdin = child.stdin.take();
        if let Some(stdin) = &mut stdin
            && let Err(error) = stdin.write_all(&self.orders).await
        {
            tracing::warn!(%error, "an executor process did not take its orders");
        }
        let ended = tokio::select! {
            ended = child.wait() => Some(ended),
            () = self.stop.cancelled() => None,
        };
        if ended.is_none() {
            self.end(&mut child, stdin).await;
        }
        if let Some(id) = id {
            self.ids.lock().retain(|known| *known != id);
        }
        let (Some(ended), Some(id)) = (ended, id) else {
            return true;
        };
        let how = match ended {
            Ok(status) => status.to_string(),
            Err(error) => format!("how is not known: {error}"),
        };
        let reason = format!("its process {id} ended: {how}");
        // When the driver stops, the cluster service ends first: it tells the executors to.
        let told = self.cluster.process_gone(&self.host, id, &reason).await;
        let stopping = told.is_err();
        if stopping {
            tracing::debug!(
                process = id,
                how,
                "an executor process ended with its driver"
            );
        } else {
            tracing::warn!(
                process = id,
                status = how,
                "an executor process ended; another one is started"
            );
        }
        stopping
    }

    async fn end(&self, child: &mut Child, stdin: Option<tokio::process::ChildStdin>) {
        drop(stdin);
        let deadline = self.clock.until(self.clock.now().after(EXIT_WITHIN));
        tokio::select! {
            _ = child.wait() => return,
            () = deadline => {}
        }
        tracing::warn!(
            process = child.id(),
            "an executor process did not exit in time; it is killed"
        );
        if let Some(group) = child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw)
            && let Err(error) = rustix::process::kill_process_group(group, Signal::KILL)
        {
            tracing::debug!(%error, "could not kill an executor's process group");
        }
        let _ = child.wait().await;
    }

    /// `true` when the driver is stopping.
    async fn pause(&self, pause: Duration) -> bool {
        let over = self.clock.until(self.clock.now().after(pause));
        tokio::select! {
            () = over => false,
            () = self.stop.cancelled() => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use millstream_common::{telemetry::metrics::Metrics, time::SystemClock};
    use millstream_driver::{
        cluster::{Cluster, ClusterOptions, registry::RegistryOptions},
        scheduler::options::SchedulerOptions,
    };

    use super::*;

    #[tokio::test]
    async fn an_executor_that_ends_with_its_driver_is_not_replaced() {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let options = ClusterOptions {
            registry: RegistryOptions {
                timeout: EXIT_WITHIN,
                reconnect_timeout: EXIT_WITHIN,
            },
            scheduler: SchedulerOptions::default(),
            max_message: 1 << 20,
            version: String::new(),
        };
        let cluster = Cluster::new(options, Arc::clone(&clock), Metrics::of_driver(), 0);
        let watch = Watch {
            orders: Arc::from(*b"\n"),
            cluster: cluster.handle(),
            clock,
            host: "here".to_owned(),
            ids: ProcessIds::default(),
            stop: CancellationToken::new(),
        };
        let child = || {
            let mut command = Command::new("true");
            command.stdin(Stdio::piped()).spawn().expect("a process")
        };
        assert!(!watch.watch(child()).await, "the driver goes on");
        let stopping = CancellationToken::new();
        stopping.cancel();
        cluster.run(stopping).await;
        assert!(watch.watch(child()).await, "the driver is stopping");
    }
}
